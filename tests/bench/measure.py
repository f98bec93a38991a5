"""One timed run: the load beside a contender, and what it cost the contender's processes and the database's."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from tests.bench.load import Order, Outcome
from tests.bench.operations import Operation
from tests.support.processes import stat_of

REPOSITORY = Path(__file__).parents[2]
CORES = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
LOAD_CORE = CORES[-1] if len(CORES) > 2 else None
"""The load's own core, where there are enough: two are needed by service and database."""
TICKS = os.sysconf("SC_CLK_TCK")
_SCHEDULED = 2
"""Linux's number for the clock of what the scheduler has given a process."""
BUSY = 0.95
"""A load that takes more of a core than this has measured itself."""


class BenchError(Exception):
    """The benchmark can't go on; the message says which contender, and why."""


class Sample(msgspec.Struct, frozen=True):
    """One contender, one operation, one round. CPU is in microseconds for each request answered."""

    contender: str
    operation: Operation
    connections: int
    round: int
    per_second: float
    p50: float
    p99: float
    longest: float
    service_cpu: float
    database_cpu: float
    load_cpu: float
    answers: int
    sent: int
    refused: int = 0
    refused_p50: float = 0
    seconds: float = 0


def descendants(pid: int) -> set[int]:
    """The process and all that it started, and they."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int(stat_of(int(entry.name))[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, todo = set[int](), [pid]
    while todo:
        pid = todo.pop()
        found.add(pid)
        todo += children.get(pid, [])
    return found


def database_seconds(postmaster: int) -> float:
    """The CPU time of PostgreSQL's processes, each of one thread, to the microsecond; of ended ones to 10 ms."""
    total = 0
    for pid in descendants(postmaster):
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    fields = stat_of(postmaster)
    return total / 1e9 + (int(fields[13]) + int(fields[14])) / TICKS


def process_seconds(pids: set[int]) -> float:
    """The CPU time that these processes have used, threads that ended meanwhile included: clock_getcpuclockid(3)."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += time.clock_gettime((~pid << 3) | _SCHEDULED)
    return total


def memory_mib(pids: set[int]) -> float:
    """What is resident of them."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += next((int(line.split()[1]) for line in lines if line.startswith("Rss:")), 0)
    return total / 1024


def keep_off_the_load() -> None:
    """Keep this process, and what it starts, off the core that is the load's, if one is. Raises BenchError."""
    if sys.platform != "linux":
        raise BenchError("Linux is needed: it counts CPU and memory in /proc")
    os.sched_setaffinity(0, set(CORES) - {LOAD_CORE})


def run_load(
    order: Order,
    *,
    contender: str,
    operation: Operation,
    round_number: int,
    service: set[int],
    postmaster: int,
    is_ceiling: bool = False,
) -> Sample:
    """Run it to the end. Raises BenchError when the contender erred, or the load was the limit: not of ceilings."""
    order.cpu = LOAD_CORE
    command = [sys.executable, "-m", "tests.bench.load", msgspec.json.encode(order).decode()]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        last = process.stdout.readline()
        after = before = process_seconds(service), database_seconds(postmaster)
        for last in process.stdout:
            if last == "ended\n":
                after = process_seconds(service), database_seconds(postmaster)
    if not last.startswith("{"):
        raise BenchError(f"{contender}, {operation}: the load failed")
    outcome = msgspec.json.decode(last, type=Outcome)
    if outcome.error:
        raise BenchError(f"{contender}, {operation}, {order.connections} connections: {outcome.error}")
    if outcome.load_cpu > BUSY and not order.rate and not is_ceiling:
        raise BenchError(f"{contender}, {operation}: the load took {outcome.load_cpu:.0%} of a core: it was the limit")
    return Sample(
        contender=contender,
        operation=operation,
        connections=order.connections,
        round=round_number,
        per_second=outcome.answers / outcome.seconds,
        p50=outcome.p50,
        p99=outcome.p99,
        longest=outcome.longest,
        service_cpu=(after[0] - before[0]) / outcome.answers * 1e6,
        database_cpu=(after[1] - before[1]) / outcome.answers * 1e6,
        load_cpu=outcome.load_cpu,
        answers=outcome.answers,
        sent=outcome.sent,
        refused=outcome.refused,
        refused_p50=outcome.refused_p50,
        seconds=outcome.seconds,
    )
