"""How todochat's cost grows: with data, connections, load beyond what it bears, processes and requests served.

python -m tests.bench.scale [--quick] [--factor 10]
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import psycopg
from psycopg import sql

from service.commands.demo import Size
from tests.bench.bench import Bench, Plan
from tests.bench.ceiling import Request
from tests.bench.data import SETTINGS, BenchDatabase, bench_database
from tests.bench.figures import Machine, table
from tests.bench.load import Order
from tests.bench.measure import CORES, REPOSITORY, BenchError, Sample, keep_off_the_load, memory_mib, run_load
from tests.bench.operations import OPERATIONS, READS, Operation, Pick
from tests.bench.services import STATUS, Contender, Running, running

OVERLOADS = (2, 4)
"""How many times what it bears comes in."""
OVERLOAD_ROUNDS = 4
BUFFERS_OVER = 200
"""How many requests' pages are counted, each of another user."""


class ScalePlan(msgspec.Struct, frozen=True):
    """How much is measured. Times are in seconds."""

    size: Size
    factor: int
    rounds: int
    seconds: float
    warmup: float
    connections: tuple[int, ...]
    requests: int
    """How many reads are served, to see whether memory grows."""
    overload_connections: int
    recovery: float
    """So long after several times what it bears, everything must be as before."""
    operations: tuple[Operation, ...] = tuple(OPERATIONS)


FULL = ScalePlan(Size(10_000, 500_000, 1_000_000), 10, 3, 2.0, 0.3, (1, 8, 64, 256), 1_000_000, 1500, 3.0)
QUICK = ScalePlan(Size(40, 2_500, 6_000), 2, 1, 0.1, 0.02, (1, 16), 500, 50, 0.1, ("append",))


class Scale:
    """todochat on one size of the data."""

    def __init__(self, plan: ScalePlan, database: BenchDatabase, folder: Path) -> None:
        self.plan = plan
        self.database = database
        whole = Plan(plan.size, plan.rounds, plan.seconds, plan.warmup, 8, 64, 0, 0, 0, 0, 0, 8)
        self.bench = Bench(whole, database, folder)
        self.contender = Contender(folder)
        self.bench.prepare(self.contender)

    def load(
        self,
        services: Sequence[Running],
        operation: Operation,
        connections: int,
        *,
        seconds: float | None = None,
        rate: float = 0,
    ) -> Sample:
        """One run. With a rate, refusals are part of the result; without, they end it."""
        order = Order(
            requests=str(self.bench.requests(self.contender, operation)),
            ports=[one.port for one in services],
            connections=connections,
            seconds=self.plan.seconds if seconds is None else seconds,
            warmup=self.plan.warmup,
            status=STATUS[operation],
            rate=rate,
            refusals=rate > 0,
        )
        pids = set[int]().union(*(one.pids for one in services))
        name = f"{len(services)} process{'es' * (len(services) > 1)}"
        sample = run_load(
            order,
            contender=name,
            operation=operation,
            round_number=0,
            service=pids,
            postmaster=self.database.server.pid,
        )
        _say(f"{name}, {OPERATIONS[operation]}, {connections} connections: {sample.per_second:,.0f}/s")
        return sample

    def best(self, services: Sequence[Running], operation: Operation, connections: int) -> Sample:
        """The median of the rounds, by requests per second."""
        samples = [self.load(services, operation, connections) for _ in range(self.plan.rounds)]
        return sorted(samples, key=lambda sample: sample.per_second)[len(samples) // 2]

    def buffers(self) -> dict[Operation, float]:
        """Pages of tables and indexes that a request touches, triggers included: what the server counts."""
        self.bench.count_wire(self.contender)
        return {name: _buffers(self.database, self.bench.sent[name], self.bench.picks[name]) for name in OPERATIONS}


def _buffers(database: BenchDatabase, request: Request, picks: list[Pick]) -> float:
    with (
        psycopg.connect(database.service_url, autocommit=True) as connection,
        psycopg.connect(database.server.url(), autocommit=True) as monitor,
    ):

        def run(asked: Pick) -> None:
            other = dict(zip(request.asked, asked, strict=True))
            for statement in request.statements:
                text = statement.fill(lambda value: sql.Literal(other.get(value, value)).as_string(None))
                connection.execute(text.replace(request.asked.user_id, asked.user_id).encode())

        def pages() -> int:
            connection.execute("SELECT pg_stat_force_next_flush()")
            connection.execute("SELECT 1")  # the flush comes at the end of a statement
            row = monitor.execute(
                "SELECT blks_hit + blks_read FROM pg_stat_database WHERE datname = %s", (database.name,)
            ).fetchone()
            return int(row[0]) if row else 0

        some = picks[:BUFFERS_OVER]
        for asked in some:  # the session's catalog cache, and each page's hints
            run(asked)
        before = pages()
        for asked in some:
            run(asked)
        return (pages() - before) / len(some)


def with_data(plan: ScalePlan, home: Path, settings: dict[str, str]) -> str:
    """The same operations on the data and on ``factor`` times as much."""
    size = plan.size
    large = Size(size.users * plan.factor, size.todos * plan.factor, size.messages * plan.factor)
    found: list[tuple[dict[Operation, float], dict[Operation, Sample]]] = []
    for one_size in (size, large):
        _say(f"{one_size.todos:,} todos and {one_size.messages:,} messages")
        with (
            _scale(plan, home, settings, one_size, keep=one_size == size) as scale,
            running(scale.contender, scale.database) as service,
        ):
            buffers = scale.buffers()
            for operation in OPERATIONS:
                scale.load([service], operation, 8, seconds=0.5)
            found.append((buffers, {operation: scale.best([service], operation, 8) for operation in OPERATIONS}))
    (small_pages, small), (large_pages, big) = found
    rows = [
        [
            label,
            f"{small_pages[operation]:.1f}",
            f"{large_pages[operation]:.1f} ({large_pages[operation] / small_pages[operation] - 1:+.0%})",
            _pair(small[operation], big[operation], lambda sample: sample.p50, "{:.2f}"),
            _pair(small[operation], big[operation], lambda sample: sample.p99, "{:.1f}"),
            _pair(small[operation], big[operation], lambda sample: sample.per_second, "{:,.0f}"),
            _pair(small[operation], big[operation], lambda sample: sample.database_cpu, "{:.0f}"),
        ]
        for operation, label in OPERATIONS.items()
    ]
    head = ["operation", "pages", f"at {plan.factor}×", "p50, ms", "p99, ms", "requests/s", "database CPU, us"]
    return (
        f"## {plan.factor} times the data\n\n{size.todos:,} todos and {size.messages:,} messages → {large.todos:,} and "
        f"{large.messages:,}; 8 connections. Pages are those of tables and indexes that a request touches.\n\n"
        f"{table(head, rows)}"
    )


def _pair(small: Sample, big: Sample, value: Callable[[Sample], float], form: str) -> str:
    return f"{form.format(value(small))} → {form.format(value(big))}"


def with_connections(scale: Scale, service: Running) -> tuple[str, dict[Operation, Sample]]:
    """More connections, on one process; and what it bears at 64, or the most there are below."""
    rows: list[list[str]] = []
    bears: dict[Operation, Sample] = {}
    for connections in scale.plan.connections:
        for operation in scale.plan.operations:
            sample = scale.best([service], operation, connections)
            if connections <= 64:
                bears[operation] = sample
            numbers = (f"{sample.per_second:,.0f}", f"{sample.p50:.1f}", f"{sample.p99:.1f}", f"{sample.longest:.0f}")
            rows.append([str(connections), OPERATIONS[operation], *numbers, f"{memory_mib(service.pids):.0f}"])
    head = ["connections", "operation", "requests/s", "p50, ms", "p99, ms", "longest, ms", "memory, MiB"]
    return f"## Connections\n\nOne process with a pool of 10.\n\n{table(head, rows)}", bears


def with_overload(scale: Scale, service: Running, bears: dict[Operation, Sample]) -> str:
    """Several times as much as it bears, at even intervals, one round after another."""
    rows: list[list[str]] = []
    for operation in [one for one in ("get", "append") if one in bears]:
        for times in OVERLOADS:
            rate = bears[operation].per_second * times
            for _ in range(OVERLOAD_ROUNDS if scale.plan.rounds > 1 else 1):
                connections, seconds = scale.plan.overload_connections, scale.plan.seconds * 2
                sample = scale.load([service], operation, connections, seconds=seconds, rate=rate)
                rows.append(
                    [
                        f"{OPERATIONS[operation]}, {times}×",
                        f"{rate:,.0f}",
                        f"{sample.per_second:,.0f} ({sample.per_second / bears[operation].per_second:.0%})",
                        f"{sample.refused / sample.seconds:,.0f}",
                        f"{sample.refused_p50:.0f}",
                        f"{memory_mib(service.pids):.0f}",
                    ]
                )
        time.sleep(scale.plan.recovery)
        after = scale.load([service], operation, 64, seconds=scale.plan.seconds)
        share = after.per_second / bears[operation].per_second
        memory = f"{memory_mib(service.pids):.0f}"
        label = f"{OPERATIONS[operation]}, {scale.plan.recovery:.0f} s later"
        rows.append([label, "", f"{after.per_second:,.0f} ({share:.0%})", "0", "", memory])
    head = ["operation", "come in", "answered (of what it bears)", "refused (503)", "refused within, ms", "memory, MiB"]
    return (
        f"## Several times what it bears\n\nRequests per second, over {scale.plan.overload_connections:,} "
        f"connections; what finds no free connection waits outside, unanswered. Refusals: at the median.\n\n"
        f"{table(head, rows)}"
    )


def with_processes(scale: Scale, service: Running) -> str:
    """One process and two, at 64 connections."""
    rows: list[list[str]] = []
    with running(scale.contender, scale.database) as second:
        for operation in scale.plan.operations:
            one = scale.best([service], operation, 64)
            two = scale.best([service, second], operation, 64)
            ratio = two.per_second / one.per_second
            rows.append([OPERATIONS[operation], f"{one.per_second:,.0f}", f"{two.per_second:,.0f}", f"{ratio:.2f}×"])
    head = ["operation", "one process", "two", ""]
    return (
        f"## Processes\n\nRequests per second at 64 connections on {len(CORES)} cores, which PostgreSQL and the load "
        f"share with them.\n\n{table(head, rows)}"
    )


def with_requests(scale: Scale) -> str:
    """Memory over many requests, of a fresh process: of every kind in turns, since each leaves its own behind."""
    rows: list[list[str]] = []
    with running(scale.contender, scale.database) as service:
        served, step = 0, scale.plan.requests / 10
        began = time.monotonic()
        while served < scale.plan.requests:
            until = served + step
            while served < until:
                for operation in READS:
                    served += scale.load([service], operation, 64, seconds=scale.plan.seconds).sent
            rows.append([f"{served:,}", f"{memory_mib(service.pids):.1f}", f"{time.monotonic() - began:.0f}"])
    return f"## Requests served\n\n{table(['requests', 'memory, MiB', 'seconds'], rows)}"


@contextlib.contextmanager
def _scale(plan: ScalePlan, home: Path, settings: dict[str, str], size: Size, *, keep: bool = True) -> Iterator[Scale]:
    with (
        bench_database(home, size, settings, keep=keep) as database,
        tempfile.TemporaryDirectory(prefix="todochat-bench-") as folder,
    ):
        yield Scale(plan, database, Path(folder))


def run(plan: ScalePlan, home: Path, settings: dict[str, str]) -> str:
    """Everything, as Markdown. Raises BenchError."""
    home.mkdir(parents=True, exist_ok=True)
    parts = ["# How todochat's cost grows\n", "Written by `python -m tests.bench.scale`.\n"]
    with _scale(plan, home, settings, plan.size) as scale:
        machine = Machine.here(scale.database.settings(), plan.size)
        parts.append(
            f"{machine.cores} cores ({machine.cpu}), PostgreSQL {machine.postgres['server_version']}, {machine.date}.\n"
        )
        with running(scale.contender, scale.database) as service:
            connections, bears = with_connections(scale, service)
            parts += [connections, with_processes(scale, service), with_overload(scale, service, bears)]
        parts.append(with_requests(scale))
    if plan.factor > 1:
        parts.insert(3, with_data(plan, home, settings))
    return "\n".join(parts)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the report; the process's exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few rows and short runs")
    parser.add_argument("--factor", type=int, metavar="N", help="how many times the data; 1 leaves that part out")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / ".bench", metavar="DIR", help="default .bench")
    results = REPOSITORY / "tests" / "bench" / "results"
    parser.add_argument("--output", type=Path, default=results, metavar="DIR", help="default tests/bench/results")
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else FULL
    if options.factor is not None:
        plan = msgspec.structs.replace(plan, factor=options.factor)
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    try:
        keep_off_the_load()
        text = run(plan, options.folder.absolute(), {"autovacuum": "off"} if options.quick else SETTINGS)
    except BenchError as error:
        _say(f"bench: {error}")
        return 1
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "scale.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
