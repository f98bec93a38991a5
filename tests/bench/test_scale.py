"""The benchmark of growth: that its parts run and say what they found. How fast anything is, is no test's business."""

import math
import random
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from service.commands.demo import Size
from service.embedded import EmbeddedPostgres
from tests.bench import data
from tests.bench.data import BenchDatabase, missing_bytes
from tests.bench.load import Load, Order
from tests.bench.measure import BenchError
from tests.bench.operations import OPERATIONS
from tests.bench.scale import __main__ as command_line
from tests.bench.scale.accounts import file
from tests.bench.scale.chart import chart
from tests.bench.scale.growth import failures, growth
from tests.bench.scale.pages import Touched
from tests.bench.scale.report import write
from tests.bench.scale.results import Findings, Part, keep, part, read, series
from tests.bench.scale.steady import State, SteadyPlan, findings
from tests.conftest import REPOSITORY, reachable_folder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmark counts CPU and memory in /proc")
SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)


@pytest.fixture(scope="module")
def home(start_postgres: Callable[..., EmbeddedPostgres]) -> Iterator[Path]:
    """A folder in which every part has run once, steady load too."""
    with reachable_folder() as folder:
        start_postgres(folder / "postgres")  # a cluster for it, not running
        command = [sys.executable, "-m", "tests.bench.scale", "--quick"]
        command += ["--folder", str(folder), "--output", str(folder / "out")]
        asked = [f"--part={name}" for name in command_line.PARTS]
        done = subprocess.run(
            [*command, *asked], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=600
        )
        # It may say that memory is above its limit, or that time grew too fast, on a machine that does much else.
        complaints = re.findall(r"bench: (.*)", done.stderr)
        assert done.returncode == (1 if complaints else 0), done.stderr
        assert all(re.match("steady: memory|imports: |deletes: ", said) for said in complaints), done.stderr
        (folder / "printed").write_text(done.stdout)
        yield folder


@pytest.fixture(scope="module")
def parts(home: Path) -> dict[str, Part]:
    return read(home / "out")


def column(found: Part, name: str, table: int = 0) -> list[str]:
    shown = found.findings.tables[table]
    return [row[shown.head.index(name)] for row in shown.rows]


def test_every_part_keeps_what_it_found_with_when_and_where(home: Path, parts: dict[str, Part]) -> None:
    assert parts.keys() == set(command_line.PARTS)
    text = (home / "out" / "scale.md").read_text()
    assert (home / "printed").read_text().strip() == text.strip()
    for found in parts.values():
        assert f"\n## {found.findings.title}\n" in text
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC$", found.date)
        assert found.seconds > 0
        assert found.settings["server_version"]
    assert parts["steady"].settings["autovacuum"] == "on"
    assert parts["imports"].settings["autovacuum"] == "off"
    assert (home / "out" / "scale.json").stat().st_size < 100_000
    assert "/tmp" not in text


def test_pages_and_descents_of_a_request_are_counted(parts: dict[str, Part]) -> None:
    found = parts["data"]
    assert column(found, "data") == ["1×", "2×"]
    # The message's triggers and checks, and an insert into each index of its table.
    assert all(15 < float(pages.split()[0]) < 80 for pages in column(found, "pages"))
    assert all(5 < float(descents) < 20 for descents in column(found, "descents"))
    assert {one.panel for one in found.findings.series} == {"pages a request", "PostgreSQL's CPU a request"}


def test_connections_tell_who_was_refused_and_what_is_answered_at_a_part_of_the_load(parts: dict[str, Part]) -> None:
    found = parts["connections"]
    assert column(found, "connections") == ["1", "16"]
    assert column(found, "answered")[0] == ""
    assert column(found, "answered")[1].endswith("%")
    assert {target.text for target in found.findings.targets} >= {"refused at 70 % load, all connections: none"}


def test_overload_tells_of_each_multiple_and_of_the_time_after_it(parts: dict[str, Part]) -> None:
    found = parts["overload"]
    assert column(found, "operation") == [f"append a message, {times}×" for times in (1, 2, 4)]
    assert column(found, "bears, before")[1:] == column(found, "bears, 0.1 s later")[:-1]
    assert "size 10" in found.findings.text
    assert len(found.findings.targets) == 5


def test_a_user_who_owns_much_is_measured_beside_the_others(parts: dict[str, Part]) -> None:
    found = parts["skew"]
    assert column(found, "operation") == [OPERATIONS["append"]]
    assert not found.findings.failures
    assert "300 messages in a conversation, 5 other conversations and 30 todos" in found.findings.text


def test_imports_and_deletes_of_each_size_cost_time_and_log(parts: dict[str, Part]) -> None:
    assert column(parts["imports"], "rows") == ["30", "100", "300"]
    assert column(parts["deletes"], "messages") == ["10", "100"] * 3
    for name in ("imports", "deletes"):
        assert all(float(wal) >= 0 for wal in column(parts[name], "WAL, MiB"))
        assert all(float(longest) > 0 for longest in column(parts[name], "their longest, ms"))
        assert {one.is_bounded for one in parts[name].findings.series} == {True}


def test_steady_load_tells_of_memory_and_sizes(parts: dict[str, Part]) -> None:
    assert int(column(parts["steady"], "requests")[-1]) > 100
    assert column(parts["steady"], "what", 1) == ["memory", "tables", "indexes", "WAL"]


def test_the_chart_has_a_panel_for_each_kind_of_cost(home: Path, parts: dict[str, Part]) -> None:
    drawn = [one for found in parts.values() for one in found.findings.series if one.points]
    text = (home / "out" / "scale.svg").read_text()
    assert text.startswith("<svg ")
    panels = len({one.panel for one in drawn})
    assert text.count("<g ") == text.count('class="linear"') == panels
    assert text.count("<polyline ") == panels + len(drawn)
    assert text.count("<circle ") == sum(len(one.points) for one in drawn)


# What was kept before


def test_a_part_takes_the_place_of_its_last_run_and_leaves_the_others(tmp_path: Path) -> None:
    def found(title: str) -> Part:
        size = Size(1, 2, 3)
        return part(Findings(title, "text", failures=["it broke"]), 1, {"server_version": "18"}, size, SteadyPlan())

    keep(tmp_path, "processes", found("first"))
    keep(tmp_path, "data", found("second"))
    keep(tmp_path, "processes", found("third"))
    text = write(read(tmp_path), command_line.PARTS, tmp_path)
    assert re.findall("^## (.*)", text, re.MULTILINE) == ["second", "third"]
    assert text.count("**Failed:** it broke.") == 2
    assert not (tmp_path / "scale.svg").exists()


def test_a_cost_that_grows_too_fast_fails_the_run_after_its_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object) -> list[str]:
        return ["imports: seconds grow by rows to the power of 2.00"]

    monkeypatch.setattr(command_line, "_run", run)
    monkeypatch.setattr(command_line, "keep_off_the_load", lambda: None)
    arguments = ["--quick", "--folder", str(tmp_path), "--output", str(tmp_path / "out")]
    assert command_line.main(arguments) == 1
    assert "bench: imports: seconds grow by rows" in capsys.readouterr().err
    assert (tmp_path / "out" / "scale.md").exists()

    def broken(*_: object) -> list[str]:
        raise BenchError("another server runs")

    monkeypatch.setattr(command_line, "_run", broken)
    assert command_line.main(arguments) == 1
    assert "bench: another server runs" in capsys.readouterr().err


# How fast a cost grows


def measured(cost: Callable[[float], float], noise: float, seed: int) -> list[tuple[float, float]]:
    """What would be measured of a cost, ``cost`` of the share of the largest size, with so much noise."""
    at = random.Random(seed)
    return [(size, cost(size / SIZES[-1]) * math.exp(at.gauss(0, noise))) for size in SIZES]


def found_too_fast(cost: Callable[[float], float], noise: float) -> int:
    """Of forty series."""
    return sum(growth(measured(cost, noise, seed)).is_faster_than_linear for seed in range(40))


@pytest.mark.parametrize("fixed", [0.0, 0.01, 0.1, 1.0])
def test_noise_makes_no_linear_cost_too_fast(fixed: float) -> None:
    assert found_too_fast(lambda share: fixed + share, 0.05) == 0
    assert found_too_fast(lambda share: fixed + share, 0.1) <= 2


def test_what_is_flat_or_grows_by_a_logarithm_more_than_linear_is_not_too_fast() -> None:
    assert found_too_fast(lambda _: 1.0, 0.1) == 0
    assert found_too_fast(lambda share: share**0.5, 0.1) == 0
    assert found_too_fast(lambda share: share * math.log(share * SIZES[-1]), 0.05) == 0


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.1])
@pytest.mark.parametrize("fixed", [0.0, 0.01, 0.05])
def test_no_quadratic_cost_passes(fixed: float, noise: float) -> None:
    assert found_too_fast(lambda share: fixed + share**2, noise) == 40
    assert found_too_fast(lambda share: fixed + 0.2 * share + 0.8 * share**2, noise) >= 39
    assert found_too_fast(lambda share: share**1.3, noise) == 40


def test_growth_is_told_as_slopes_and_without_the_fixed_cost() -> None:
    found = growth([(size, 2 + size / 1000) for size in SIZES])
    assert found.exponent == pytest.approx(1.0)
    assert found.neighbours[0] == pytest.approx(math.log(5 / 3) / math.log(3))
    assert found.over_all == pytest.approx(math.log(102 / 3) / math.log(100))
    assert growth([(size, size**2.0) for size in SIZES]).exponent == pytest.approx(2.0)


def test_only_what_is_bounded_fails_and_is_named() -> None:
    costs = [(size, size**2 / 1e6) for size in SIZES]
    bounded = series("imports", "seconds", "s", "rows", costs, is_bounded=True)
    assert failures([bounded, series("other", "seconds", "s", "rows", costs)]) == [
        "imports, seconds: grows by rows to the power of 2.00, faster than linear"
    ]
    nothing = series("imports", "CPU", "s", "rows", [(1, 0.0), (2, 0.0)], is_bounded=True)
    assert nothing.points == []
    assert failures([nothing]) == []
    assert "<g" not in chart([nothing])


@pytest.mark.parametrize(
    ("pages", "descents", "expected"),
    [(20.0, 5.0, True), (22.0, 5.0, True), (26.9, 5.0, True), (27.1, 5.0, False), (27.1, 6.0, True)],
)
def test_more_data_may_cost_a_tenth_more_pages_and_a_level_of_each_tree(
    pages: float, descents: float, expected: bool
) -> None:
    assert Touched(20.0, 5.0).allows(Touched(pages, descents)) is expected


# What is measured, and on what


def test_a_factor_is_left_out_for_which_the_disk_lacks_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    database = BenchDatabase.__new__(BenchDatabase)
    database.server = EmbeddedPostgres(tmp_path)
    answer = [(2**30, False)]
    monkeypatch.setattr(database, "execute", lambda *_: answer)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=30 * 2**30))
    assert missing_bytes(database, Size(1, 1, 1), 10) == 0
    assert missing_bytes(database, Size(1, 1, 1), 30) == data.FILL_BYTES + 3 * 2**30
    answer[0] = (2**30, True)  # filled already
    assert missing_bytes(database, Size(1, 1, 1), 30) == 0


def test_more_connections_than_one_address_may_have_come_from_two(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tests.bench.load.ADDRESS_CONNECTIONS", 3)
    (tmp_path / "requests").write_bytes(msgspec.msgpack.encode([b"GET / HTTP/1.1\r\n\r\n"]))
    with socket.create_server(("127.0.0.1", 0)) as server:
        order = Order(str(tmp_path / "requests"), [server.getsockname()[1]], 5, 0.1, 0, 200)
        load = Load(order)
        sources = [connection.socket.getsockname()[0] for connection in load.connections]
        for connection in load.connections:
            connection.socket.close()
    assert sources == ["127.0.0.1"] * 3 + ["127.0.0.2"] * 2


def test_a_file_to_import_ends_with_what_it_holds() -> None:
    content, ids = file(2, [3, 0])
    lines = [msgspec.json.decode(line) for line in content.splitlines()]
    assert lines[-1] == {"type": "end", "todos": 2, "conversations": 2, "messages": 3, "links": 0}
    assert [line["type"] for line in lines[3:8]] == ["conversation", *["message"] * 3, "conversation"]
    assert [line["id"] for line in lines if line["type"] == "conversation"] == list(map(str, ids))


# What steady load may not do


def state(number: int, **changes: float) -> State:
    usual = State(number * 60, number * 18_000, 80, 5, 100, 100, number, 10, 0.5, 1, 0.9)
    return msgspec.structs.replace(usual, **changes)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, ""),
        ({10: {"memory": 60.0}, 20: {"memory": 79.0}}, ""),
        ({15: {"memory": 85.0}, 50: {"memory": 91.0}}, "memory grew to 91.0 MiB, beyond 90"),
        ({15: {"memory": 70.0}, 40: {"memory": 80.5}}, "memory grew by 10.5 MiB after the first quarter"),
        ({30: {"most_dead": 3.5}}, "dead rows piled up to 3.5 times"),
    ],
)
def test_steady_load_must_leave_memory_and_dead_rows_where_they_are(
    changes: dict[int, dict[str, float]], complaint: str
) -> None:
    found = findings([state(number, **changes.get(number, {})) for number in range(61)], SteadyPlan())
    assert [said for said in found.failures if complaint not in said] == []
    assert bool(found.failures) == bool(complaint)
    assert len(found.tables[0].rows) == 11
