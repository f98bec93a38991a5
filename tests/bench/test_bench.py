"""The benchmark: that it runs and measures what it says. How fast anything is, is no test's business."""

import asyncio
import contextlib
import json
import re
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import psycopg
import pytest

from service.db.database import Database
from service.db.migration_files import DEFAULT_DIRECTORY
from service.db.results import Result
from service.db.statements import Context, Prepared, Step
from service.embedded import EmbeddedPostgres
from service.settings import Secret, Settings
from tests.bench import __main__ as command_line
from tests.bench import bench as bench_module
from tests.bench import report, schema
from tests.bench.bench import Bench
from tests.bench.ceiling import Pgbench, Request, Statement
from tests.bench.chart import COLOURS, chart
from tests.bench.contenders.without_database import RememberedDatabase
from tests.bench.data import BenchDatabase, bench_database
from tests.bench.figures import Results
from tests.bench.install import CONTENDERS
from tests.bench.load import LoadError, Order, Outcome, is_whole
from tests.bench.measure import BenchError
from tests.bench.operations import OPERATIONS, Answer, Operation, Pick
from tests.bench.profiles import shares
from tests.bench.services import CEILINGS, CONTENDER_TYPES, Contender, PostgRest, running
from tests.bench.targets import targets
from tests.conftest import REPOSITORY, reachable_folder
from tests.support.wire import Traffic

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmark counts CPU and memory in /proc")
GET = cast("Operation", "get")
APPEND = "create_message"


def bench(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    options = ["--folder", str(folder), "--output", str(folder / "out")]
    command = [sys.executable, "-m", "tests.bench", *arguments, *options]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=240)


@pytest.fixture(scope="module")
def home(start_postgres: Callable[..., EmbeddedPostgres]) -> Iterator[Path]:
    """A folder in which the benchmark has run once."""
    with reachable_folder() as folder:
        start_postgres(folder / "postgres")  # a cluster for it, not running
        done = bench("--quick", folder=folder)
        assert done.returncode == 0, done.stderr
        (folder / "printed").write_text(done.stdout)
        yield folder


@pytest.fixture(scope="module")
def results(home: Path) -> Results:
    return msgspec.json.decode((home / "out" / "figures.json").read_bytes(), type=Results)


def test_it_measures_every_operation_of_every_contender(results: Results) -> None:
    wanted = {(contender, operation) for contender in ("todochat", *CEILINGS) for operation in OPERATIONS}
    assert {(sample.contender, sample.operation) for sample in results.samples} == wanted
    for sample in [*results.samples, *results.many_samples, *results.part_samples]:
        assert sample.answers > 0
        assert sample.per_second == pytest.approx(sample.answers / sample.seconds)
        assert 0 < sample.p50 <= sample.p99 <= sample.longest
    assert {sample.connections for sample in results.many_samples} == {results.many}
    assert {sample.operation for sample in results.part_samples} == set(OPERATIONS)
    # The system counts in hundredths of a second, which a short run on a busy machine may not take.
    assert sum(sample.database_cpu for sample in results.samples if sample.contender == "todochat") > 0
    assert results.memory["todochat"] > 20
    assert results.served["todochat"] >= sum(s.answers for s in results.samples if s.contender == "todochat")


def test_a_request_of_todochat_is_one_round_trip_and_one_transaction(results: Results) -> None:
    counted = results.wire["todochat"]
    assert counted.keys() == OPERATIONS.keys()
    assert {(each.round_trips, each.transactions) for each in counted.values()} == {(1, 1)}
    # BEGIN, the context, the check of the account, the query, COMMIT; a turn: the request's id, a check, two inserts, a
    # query.
    assert (counted["get"].statements, counted["turn"].statements) == (5, 7)


def test_the_report_says_what_was_found(home: Path, results: Results) -> None:
    text = (home / "out" / "report.md").read_text()
    for label in [*OPERATIONS.values(), *results.contenders.values()]:
        assert label in text
    assert (home / "printed").read_text().strip() == report.markdown(results).strip()
    assert report.markdown(results) in text
    chart = (home / "out" / "chart.svg").read_text()
    assert chart.startswith("<svg ")
    assert chart.count("<rect ") == 1 + 1 + len(OPERATIONS)  # the page, the legend, the bars
    assert chart.count("no database: raw uvicorn ") == len(OPERATIONS)
    assert "/tmp" not in text + chart
    assert {target.text.partition(":")[0] for target in targets(results)} >= {"memory", "start to first answer"}


def test_peers_have_bars_and_times_in_the_table_and_ceilings_figures_and_shares(results: Results) -> None:
    ours = [sample for sample in results.samples if sample.contender == "todochat"]
    peers = {kind.name: kind.label for kind in CONTENDER_TYPES if kind.name not in CEILINGS}
    assert peers.keys() == COLOURS.keys()
    everybody = msgspec.structs.replace(
        results,
        contenders=peers | {name: label for name, label in results.contenders.items() if name in CEILINGS},
        samples=[msgspec.structs.replace(sample, contender=name) for sample in ours for name in peers]
        + [sample for sample in results.samples if sample.contender in CEILINGS],
        memory=results.memory | dict.fromkeys(peers, 50.0),
    )
    rows = report.markdown(everybody).split("\n\n")[1].splitlines()
    assert [cell.strip() for cell in rows[0].strip("| ").split("|")][1:] == [kind.label for kind in CONTENDER_TYPES]
    assert len(rows) == 2 + len(OPERATIONS) + 1
    for row in rows[2:-1]:
        assert re.fullmatch(r"\| [^|]+ \| \*\*[\d,]+\*\* \|( 1\.0× \|){5}( \d+% \|){3}", row)
    assert chart(everybody).count("<rect ") == 1 + len(peers) * (1 + len(OPERATIONS))


def test_a_target_that_is_not_reached_is_said_not_to_be(results: Results) -> None:
    heavy = msgspec.structs.replace(results, memory=results.memory | {"todochat": 91.0})
    (memory,) = [target for target in targets(heavy) if target.text.startswith("memory")]
    assert not memory.reached
    assert "| memory: ≤ 90 MiB | 91 MiB" in report.full_report(heavy)
    assert "**not reached**" in report.full_report(heavy)
    twice = {name: Traffic(5, 2, 1) for name in OPERATIONS}
    chatty = msgspec.structs.replace(results, wire={"todochat": dict(twice)})
    (trips,) = [target for target in targets(chatty) if target.text.startswith("round trips")]
    assert (trips.found, trips.reached) == ("2 and 1", False)


def test_the_table_goes_between_the_markers_of_a_readme(tmp_path: Path, results: Results) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nan old table\n{report.END}\nafter\n")
    report.write_readme(results, readme, tmp_path / "results")
    text = readme.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "an old table" not in text
    assert report.markdown(results) in text
    assert "(results/chart.svg)" in text
    readme.write_text("no place for it")
    with pytest.raises(BenchError, match="has no place for the table"):
        report.write_readme(results, readme, tmp_path / "results")


class Broken(Contender):
    """One that ends as soon as it is started."""

    name = label = "broken"

    def command(self) -> list[str]:
        return [sys.executable, "-c", "raise SystemExit('no such service')"]

    def environment(self, database: BenchDatabase, socket_folder: Path, port: int) -> dict[str, str]:
        del database, socket_folder, port
        return {}


def test_a_contender_that_does_not_start_says_why(tmp_path: Path) -> None:
    database = BenchDatabase.__new__(BenchDatabase)
    with (
        pytest.raises(BenchError, match="broken did not start: no such service"),
        running(Broken(tmp_path), database, tmp_path),
    ):
        pass


def test_an_error_ends_the_benchmark_without_a_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise BenchError("fastify, get a todo: the answer was not 200")

    monkeypatch.setattr(command_line, "run", fail)
    monkeypatch.setattr(command_line, "keep_off_the_load", lambda: None)
    assert command_line.main(["--quick", "--folder", str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == "bench: fastify, get a todo: the answer was not 200\n"
    assert not (tmp_path / "out").exists()


def test_what_the_contenders_install_is_locked_and_names_no_host() -> None:
    node, python = CONTENDERS / "node", CONTENDERS / "python"
    package, lock = (json.loads((node / name).read_text()) for name in ("package.json", "package-lock.json"))
    for kind in ("dependencies", "optionalDependencies"):
        assert package[kind] == lock["packages"][""][kind]
        for name, version in package[kind].items():
            assert lock["packages"][f"node_modules/{name}"]["version"] == version
    assert all("integrity" in found for name, found in lock["packages"].items() if name)
    pinned = (python / "requirements.lock").read_text()
    lines = (python / "requirements.in").read_text().splitlines()
    for wanted in [line.partition("[")[0] for line in lines if not line.startswith("#")]:
        assert re.search(rf"^{wanted}==\S+", pinned, re.MULTILINE), wanted
    assert len(re.findall("^\\S+==", pinned, re.MULTILINE)) > 10
    assert "://" not in pinned + json.dumps(lock)


# The answers that are checked


class FakeRunning:
    """A contender whose answers are made up."""

    def __init__(self, contender: Contender, answer: Callable[[bytes], tuple[int, bytes]]) -> None:
        self.contender = contender
        self.ask = answer


def fake_bench(monkeypatch: pytest.MonkeyPatch, expected: Answer) -> Bench:
    monkeypatch.setattr(bench_module, "truth", lambda *_: expected)
    found = Bench.__new__(Bench)
    found.order = list[Operation]([GET])
    found.picks = dict[Operation, list[Pick]]({GET: [Pick("00000000-0000-7000-8000-000000000001", "x")]})
    found.database = BenchDatabase.__new__(BenchDatabase)
    return found


@pytest.mark.parametrize(
    ("status", "body", "refusal", "complaint"),
    [
        (200, {"id": "1", "title": "Buy milk"}, 401, None),
        (200, {"id": "1", "title": "Buy silk"}, 401, "title is 'Buy silk', not 'Buy milk'"),
        (200, {"id": "1"}, 401, "title is None"),
        (500, {"detail": "broken"}, 401, "answered 500"),
        (200, {"id": "1", "title": "Buy milk"}, 200, "a forged token was answered 200"),
    ],
)
def test_an_answer_is_held_against_the_database(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    status: int,
    body: dict[str, str],
    refusal: int,
    complaint: str | None,
) -> None:
    answers = iter([(status, json.dumps(body).encode()), (refusal, b"{}")])
    one = FakeRunning(Contender(tmp_path), lambda _: next(answers))
    found = fake_bench(monkeypatch, Answer([{"id": "1", "title": "Buy milk"}]))
    if complaint is None:
        assert found.check(one).keys() == {"get"}
    else:
        with pytest.raises(BenchError, match=complaint):
            found.check(one)


def test_a_write_that_was_answered_but_is_not_there_is_found(monkeypatch: pytest.MonkeyPatch, results: Results) -> None:
    found = Bench.__new__(Bench)
    found.samples = [sample for sample in results.samples if sample.operation in ("create", "turn")]
    found.database = BenchDatabase.__new__(BenchDatabase)
    ours = {sample.operation: sample.sent for sample in found.samples if sample.contender == "todochat"}
    right = (100 + ours["create"], 200 + 2 * ours["turn"])
    monkeypatch.setattr(bench_module, "counts", lambda _: right)
    found.check_counts((100, 200))
    monkeypatch.setattr(bench_module, "counts", lambda _: (right[0] - 1, right[1]))
    with pytest.raises(BenchError, match="answered as written"):
        found.check_counts((100, 200))


def test_without_its_database_each_question_is_the_databases_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[bytes]] = []
    observed: list[str] = []
    seen: list[list[Result]] = []

    async def transact(_: Database, context: Context, steps: list[Step], *given: Any) -> list[Result]:
        del context, given
        asked.append([prepared.name for prepared, _ in steps])
        return [Result([(len(asked),)], 1)]

    monkeypatch.setattr(Database, "transact", transact)
    database = RememberedDatabase(
        Settings(database_url=Secret("postgresql://localhost")),
        lambda steps, *_: observed.extend(prepared.name.decode() for prepared, _ in steps),
    )
    get, turn = (
        (Prepared(name, b"SELECT $1", (), reads_only=True), [b"1"]) for name in (b"get_todo", b"create_message")
    )
    ahead = (Prepared(b"authenticate", b"SELECT", (), reads_only=True), [])

    async def ask(*steps: Step) -> Any:
        return (await database.transact(Context(None, "", (ahead,)), steps, seen.append))[0].rows[0][0]

    async def ask_all() -> list[int]:
        return [await ask(*steps) for steps in ([get], [get], [turn], [get, turn], [turn], [get, turn])]

    assert asyncio.run(ask_all()) == [1, 1, 2, 3, 2, 3]
    assert asked == [[b"get_todo"], [b"create_message"], [b"get_todo", b"create_message"]]
    # The three that were not asked: their statements are counted, and may be refused by whoever asked.
    assert observed == [
        "authenticate",
        "get_todo",
        *["authenticate", "create_message"],
        *["authenticate", "get_todo", "create_message"],
    ]
    assert len(seen) == 3


def test_postgrest_is_asked_for_the_same_rows(tmp_path: Path) -> None:
    asked = Pick("00000000-0000-7000-8000-000000000001", "00000000-0000-7000-8000-000000000002")
    for operation in OPERATIONS:
        theirs = PostgRest(tmp_path).request(operation, asked)
        assert (asked.id.encode() in theirs) == (operation not in ("list", "create"))
    row = {"id": "1", "created_at": "2026-01-01T00:00:00.123456+00:00"}
    same = {"items": [{**row, "created_at": "2026-01-01T00:00:00.123Z"}]}
    assert PostgRest(tmp_path).read("list", json.dumps([row]).encode()) == Contender(tmp_path).read(
        "list", json.dumps(same).encode()
    )


def test_pgbench_sends_what_the_service_sends(home: Path) -> None:
    with bench_database(home, command_line.QUICK.size, {"autovacuum": "off"}) as database, reachable_folder() as folder:
        found = Bench(msgspec.structs.replace(command_line.QUICK, counted=2), database, folder)
        found.count_wire(Contender(home))
        pgbench = Pgbench(database, folder, 2, 1.0, found.sent, rate=100)
        for operation in OPERATIONS:
            pgbench.check(operation)
        texts = [statement.text for statement in found.sent["append"].statements]
        assert [re.findall(r"/\* (\w+) \*/", text) for text in texts[3:]] == [["authenticate"], [APPEND], []]
        assert texts[-1] == "COMMIT"
        full, secured, bare = pgbench.operation("append", found.picks["append"], 1)
        assert min(full.per_second, secured.per_second, bare.per_second) > 0
        assert full.wal > 500
        pgbench.requests["append"] = Request(found.sent["append"].asked, (Statement("SELECT 1; SELECT 2", (), ()),))
        with pytest.raises(BenchError, match=r"append \(full\): it sent"):
            pgbench.check("append")


def test_the_profile_says_whose_code_ran() -> None:
    """What py-spy writes: a stack from outside in, and how often it was seen."""
    outer = "run (asyncio/runners.py:1);on_idle (loop.c:2);get_todo (service/todos.py:3)"
    stacks = [
        f"{outer};send (libpq.so.5);send (libc.so.6) 3",
        f"{outer};encode (msgspec/_core.so);malloc (libc.so.6) 1",
        f"{outer} 4",
        "run (asyncio/runners.py:1) 1",
        "main (click/core.py:1) 1",
    ]
    found = {layer: share for layer, share in shares("\n".join(stacks)).items() if share}
    assert found == {"system calls": 0.3, "msgspec": 0.1, "todochat": 0.4, "uvloop, asyncio": 0.1, "other": 0.1}


# The load


def whole(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-", False),
        (whole(b"12345"), True),
        (whole(b"12345")[:-1], False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 204 No Content\r\nDate: today\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n", False),
    ],
)
def test_the_end_of_an_answer_is_seen(data: bytes, expected: bool) -> None:
    assert is_whole(data) is expected


def test_an_answer_of_no_known_length_is_refused() -> None:
    with pytest.raises(LoadError):
        is_whole(b"HTTP/1.1 200 OK\r\n\r\nwhatever")


class Answering:
    """A server of one thread a connection, whose answer to the nth request ``answer`` says."""

    def __init__(self, answer: Callable[[int], bytes]) -> None:
        self.answer = answer
        self.requests = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(ConnectionError):  # the load ends as it likes
            while connection.recv(65536):
                with self.lock:
                    self.requests += 1
                    answer = self.answer(self.requests)
                if not answer:
                    return
                middle = len(answer) // 2
                connection.sendall(answer[:middle])
                connection.sendall(answer[middle:])


def ordered(tmp_path: Path, answer: Callable[[int], bytes], **changes: object) -> tuple[Outcome, Answering]:
    (tmp_path / "requests").write_bytes(msgspec.msgpack.encode([b"GET / HTTP/1.1\r\n\r\n"]))
    server = Answering(answer)
    order = Order(str(tmp_path / "requests"), [server.port], connections=3, seconds=0.2, warmup=0.1, status=200)
    order = msgspec.structs.replace(order, **changes)
    command = [sys.executable, "-m", "tests.bench.load", msgspec.json.encode(order).decode()]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60)
    server.listener.close()
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Outcome), server


def test_every_answer_is_counted_once(tmp_path: Path) -> None:
    outcome, server = ordered(tmp_path, lambda _: whole(b"x" * 2000))
    assert outcome.error == ""
    assert outcome.sent == server.requests
    assert 0 < outcome.answers < outcome.sent
    assert outcome.seconds >= 0.2


def test_one_wrong_answer_ends_the_load(tmp_path: Path) -> None:
    outcome, _ = ordered(tmp_path, lambda number: whole(b"oh", b"500 Broken") if number == 5 else whole(b"ok"))
    assert outcome.error.startswith("the answer was not 200 but HTTP/1.1 500 Broken")
    outcome, _ = ordered(tmp_path, lambda number: b"" if number == 5 else whole(b"ok"))
    assert outcome.error == "the service closed a connection"


def test_with_a_rate_a_stall_is_charged_to_all_that_had_to_wait(tmp_path: Path) -> None:
    ended = threading.Event()

    def stall(number: int) -> bytes:
        if number == 60:
            ended.wait(0.3)  # everybody waits, for the lock
        return whole(b"ok")

    outcome, _ = ordered(tmp_path, stall, rate=200, connections=2, seconds=1.0)
    assert outcome.error == ""
    # Of the 200 requests of that second about 60 were due in the stall, and they waited 150 ms on the average.
    assert outcome.longest >= 300
    assert outcome.p99 > 200
    assert outcome.answers <= 200 * outcome.seconds + 10


def test_a_refusal_is_counted_by_itself_where_it_is_expected(tmp_path: Path) -> None:
    def answer(number: int) -> bytes:
        busy = whole(b"busy", b"503 Service Unavailable").replace(b"\r\n", b"\r\nRetry-After: 1\r\n", 1)
        return busy if number % 2 else whole(b"ok")

    outcome, _ = ordered(tmp_path, answer, refusals=True)
    assert outcome.error == ""
    assert outcome.refused > 0
    assert outcome.answers > 0
    outcome, _ = ordered(tmp_path, answer)
    assert "503" in outcome.error


def test_the_schema_is_measured_against_another_and_without_each_of_its_parts(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "USERS", 5)
    monkeypatch.setattr(schema, "BATCH", 5)
    name = f"bench_{secrets.token_hex(4)}"
    names = {"today": name}
    try:
        schema.make_database(postgres, name, DEFAULT_DIRECTORY)
        names |= schema.take_parts_away(postgres, name, list(schema.PARTS))
        candidates = [schema.Candidate(postgres, told, database) for told, database in names.items()]
        schema.compare(candidates, 2)
        lines = list(schema.report(candidates))
        for candidate in candidates:
            candidate.close()
    finally:
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            for database in names.values():
                connection.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)".encode())
    cpu = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in lines if ": cpu" in line}
    assert cpu.keys() == {f"{told}: cpu, µs" for told in names}
    assert all(re.fullmatch(r" -?\d+( \(-?\d+\.\d\d\))? ", cell) for row in cpu.values() for cell in row)
    wal = [int(line.split("|")[4].split()[0]) for line in lines if ": wal" in line]
    assert wal[1] < wal[0]  # an update without the audit
