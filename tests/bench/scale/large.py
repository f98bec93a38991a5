"""One large request: imports, deletes of conversations, their undo, and the end of accounts; and who is beside them."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Self

import msgspec

from tests.bench.measure import BenchError, database_seconds, process_seconds
from tests.bench.operations import http_request, token
from tests.bench.scale import growth
from tests.bench.scale.accounts import file, import_request, new_account
from tests.bench.scale.base import Scale, send
from tests.bench.scale.results import Findings, Table, series
from tests.bench.services import Running, running
from tests.bench.targets import Target

SECONDS = 130.0
"""How long a request may take: what the service gives an import, and some."""
GAP = 0.01
"""Seconds between two of the other user's requests."""
CONVERSATION = 50
"""Messages of an imported conversation."""
LONGEST_MS = 50.0
MOST_MEMORY_MIB = 250.0


class Cost(msgspec.Struct, frozen=True):
    """What one request cost. Times are seconds, the other user's milliseconds."""

    seconds: float
    service_cpu: float
    database_cpu: float
    wal: float
    """MiB."""
    p99: float
    longest: float


class _Neighbour:
    """Another user, who gets a todo every 10 ms; ``times`` are the seconds that each answer took."""

    def __init__(self, scale: Scale, service: Running) -> None:
        asked = scale.bench.picks["get"][0]
        self._path = f"/v1/todos/{asked.id}"
        self._headers = {"Authorization": f"Bearer {token(asked.user_id)}"}
        self._connection = HTTPConnection("127.0.0.1", service.port, timeout=15)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.times: list[float] = []
        self._error = ""

    def _run(self) -> None:
        while not self.times or not self._ended.wait(GAP):
            began = time.perf_counter()
            self._connection.request("GET", self._path, headers=self._headers)
            answer = self._connection.getresponse()
            answer.read()
            self.times.append(time.perf_counter() - began)
            if answer.status != 200:
                self._error = f"another user's get was answered {answer.status} meanwhile"
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self._connection.close()
        if self._error:
            raise BenchError(self._error)


def _measure(scale: Scale, service: Running, what: str, request: bytes, status: int) -> Cost:
    database = scale.database

    def counters() -> tuple[float, float, int]:
        ((wal,),) = database.execute("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
        return process_seconds(service.pids), database_seconds(database.server.pid), int(wal)

    with _Neighbour(scale, service) as neighbour:
        before, began = counters(), time.perf_counter()
        send(service, what, request, status, SECONDS)
        seconds, after = time.perf_counter() - began, counters()
    times = sorted(neighbour.times)
    own, theirs, wal = (after[index] - before[index] for index in range(3))
    cost = Cost(seconds, own, theirs, wal / 2**20, times[len(times) * 99 // 100] * 1000, times[-1] * 1000)
    scale.say(f"{what}: {seconds:.2f} s, the other user's longest get {cost.longest:.0f} ms")
    return cost


def _middle(costs: list[Cost]) -> Cost:
    """The median of each of them; of the longest get, the longest."""
    fields = Cost.__struct_fields__
    middle = Cost(*(median(getattr(cost, field) for cost in costs) for field in fields))
    return msgspec.structs.replace(middle, longest=max(cost.longest for cost in costs))


def with_imports(scale: Scale) -> Findings:
    """Imports of files of growing length, a third todos and the rest messages, into new accounts."""
    found: dict[int, Cost] = {}
    with running(scale.contender, scale.database) as service:
        for number, rows in enumerate([scale.plan.imports[0], *scale.plan.imports]):
            todos = rows // 3
            lengths = _lengths(rows - todos)
            costs: list[Cost] = []
            for _ in range(scale.plan.repeats):
                content, _ = file(todos, lengths)
                request = import_request(new_account(scale.database), content)
                costs.append(_measure(scale, service, f"import of {rows:,} rows", request, 200))
            if number:  # the first is to warm up
                found[rows] = _middle(costs)
        memory = _peak_mib(service.pids)
    return _findings(
        "Imports",
        f"`POST /v1/import` of files of so many todos and messages (one to two; conversations of {CONVERSATION}), "
        "each into a new account, while another user gets a todo every 10 ms. CPU is seconds, of the service / of "
        "PostgreSQL.",
        "rows",
        {"import": found},
        memory,
    )


def _lengths(messages: int) -> list[int]:
    whole, rest = divmod(messages, CONVERSATION)
    return [CONVERSATION] * whole + [rest] * (rest > 0)


def with_deletes(scale: Scale) -> Findings:
    """A long conversation is deleted, brought back, and goes with its account."""
    steps: dict[str, dict[int, Cost]] = {"delete": {}, "undo": {}, "erase the account": {}}
    with running(scale.contender, scale.database) as service:
        for number, messages in enumerate([scale.plan.deletes[0], *scale.plan.deletes]):
            costs: dict[str, list[Cost]] = {step: [] for step in steps}
            for _ in range(scale.plan.repeats):
                user_id = new_account(scale.database)
                content, (conversation,) = file(0, [messages])
                send(service, "import", import_request(user_id, content), 200, SECONDS)
                for step, request, status in _steps(service, user_id, str(conversation)):
                    what = f"{step}, {messages:,} messages"
                    costs[step].append(_measure(scale, service, what, request(), status))
            if number:  # the first is to warm up
                for step, measured in costs.items():
                    steps[step][messages] = _middle(measured)
        memory = _peak_mib(service.pids)
    return _findings(
        "Deletes of long conversations",
        "`DELETE /v1/conversations/{id}` of so many messages, the undo of it (`POST /v1/changes/{id}/revert`), and "
        "`DELETE /v1/users/me?erase=true`, while another user gets a todo every 10 ms. CPU is seconds, of the "
        "service / of PostgreSQL.",
        "messages",
        steps,
        memory,
    )


def _steps(service: Running, user_id: str, conversation: str) -> Iterator[tuple[str, Callable[[], bytes], int]]:
    bearer = token(user_id)

    def undo() -> bytes:
        found = http_request("GET", f"/v1/audit?row_id={conversation}&limit=1", bearer)
        (entry,) = json.loads(send(service, "audit", found, 200))["items"]
        return http_request("POST", f"/v1/changes/{entry['id']}/revert", bearer)

    yield "delete", lambda: http_request("DELETE", f"/v1/conversations/{conversation}", bearer), 204
    yield "undo", undo, 200
    yield "erase the account", lambda: http_request("DELETE", "/v1/users/me?erase=true", bearer), 204


def _peak_mib(pids: set[int]) -> float:
    """The most that was ever resident of the processes."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def _findings(title: str, text: str, of: str, found: dict[str, dict[int, Cost]], memory: float) -> Findings:
    rows = [
        [
            f"{size:,}",
            step,
            f"{cost.seconds:.3f}",
            f"{cost.seconds / size * 1e6:.0f}",
            f"{cost.service_cpu:.2f} / {cost.database_cpu:.2f}",
            f"{cost.wal:.2f}",
            f"{cost.p99:.1f}",
            f"{cost.longest:.1f}",
        ]
        for step, costs in found.items()
        for size, cost in costs.items()
    ]
    head = [of, "", "seconds", f"µs each of the {of}", "CPU", "WAL, MiB", "other user's p99, ms", "their longest, ms"]
    panels: list[tuple[str, str, Callable[[Cost], float]]] = [
        ("seconds", "s", lambda cost: cost.seconds),
        ("PostgreSQL's CPU", "s", lambda cost: cost.database_cpu),
        ("WAL", "MiB", lambda cost: cost.wal),
    ]
    growing = [
        series(
            f"{title}: {name}", step, unit, of, [(size, value(cost)) for size, cost in costs.items()], is_bounded=True
        )
        for name, unit, value in panels
        for step, costs in found.items()
    ]
    longest = max((cost.longest, size, step) for step, costs in found.items() for size, cost in costs.items())
    targets = [
        Target(
            f"another user's longest get meanwhile: ≤ {LONGEST_MS:.0f} ms (the event loop's longest standstill)",
            f"{longest[0]:.0f} ms ({longest[2]}, {longest[1]:,} {of})",
            longest[0] <= LONGEST_MS,
        ),
        Target(
            f"memory, whatever one client asks for: ≤ {MOST_MEMORY_MIB:.0f} MiB",
            f"{memory:.0f} MiB at most",
            memory <= MOST_MEMORY_MIB,
        ),
    ]
    return Findings(title, text, [Table("", head, rows)], growing, targets, growth.failures(growing))
