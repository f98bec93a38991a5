"""Hours of steady load on one process with autovacuum on: what grows of its memory, and of tables and indexes.

The load is a mix of the six operations with changes and deletes of todos, so that there is something to vacuum. As many
todos are deleted as are made: where their table grows, it is by what was not used again. It comes at a fixed rate, 300
requests/s by default: an hour is then a million requests, on any machine, and leaves a small one time for vacuuming.
"""

import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from service.commands.demo import Size
from tests.bench.bench import Bench, Plan
from tests.bench.data import BenchDatabase, bench_database
from tests.bench.load import Order
from tests.bench.measure import BenchError, memory_mib, run_load
from tests.bench.operations import DESCRIPTION, Operation, Pick, http_request, token
from tests.bench.scale.results import Findings, Table
from tests.bench.services import Contender, Running, running
from tests.bench.targets import Target

SETTINGS = {"shared_buffers": "1GB"}
"""The rest is as PostgreSQL comes, autovacuum included."""
CONNECTIONS = 32
MIX: dict[Operation, int] = {"get": 25, "list": 15, "last": 10, "create": 8, "append": 12, "turn": 10}
UPDATES, DELETES = 12, 8
"""Percent of the requests, as those of MIX."""
MOST_MEMORY_MIB = 90
MOST_GROWTH_MIB = 10
"""After the first quarter."""
MOST_DEAD = 3
"""How many times the threshold at which autovacuum begins; it looks each minute only (autovacuum_naptime)."""

_STATE = """
SELECT sum(pg_table_size(c.oid)) / 2^20, sum(pg_indexes_size(c.oid)) / 2^20, sum(s.n_dead_tup), sum(s.autovacuum_count),
    sum(s.n_tup_hot_upd) / greatest(sum(s.n_tup_upd), 1), (pg_current_wal_insert_lsn() - %s::pg_lsn) / 2^20,
    max(s.n_dead_tup / (%s + coalesce(base.value, current_setting('autovacuum_vacuum_threshold')::float8)
        + coalesce(share.value, current_setting('autovacuum_vacuum_scale_factor')::float8) * greatest(c.reltuples, 0)))
FROM pg_stat_user_tables AS s
JOIN pg_class AS c ON c.oid = s.relid
LEFT JOIN LATERAL (
    SELECT o.option_value::float8 AS value FROM pg_options_to_table(c.reloptions) AS o
    WHERE o.option_name = 'autovacuum_vacuum_threshold'
) AS base ON true
LEFT JOIN LATERAL (
    SELECT o.option_value::float8 AS value FROM pg_options_to_table(c.reloptions) AS o
    WHERE o.option_name = 'autovacuum_vacuum_scale_factor'
) AS share ON true
"""
_UPDATED = "SELECT user_id::text, id::text FROM todos WHERE status = 'pending' ORDER BY md5(id::text) LIMIT 2000"
_DELETED = (
    "SELECT user_id::text, id::text FROM todos WHERE id <> ALL (%s::uuid[]) AND assigned_to IS NULL"
    " ORDER BY random() LIMIT %s"
)


class SteadyPlan(msgspec.Struct, frozen=True):
    """How much is measured. The rows are few enough that most of them are changed within the hour."""

    size: Size = Size(2_000, 100_000, 200_000)
    hours: float = 1.0
    rate: float = 300.0
    """Requests per second."""
    samples: int = 60


QUICK = SteadyPlan(Size(40, 2_500, 6_000), 0.0005, 200, 8)


class State(msgspec.Struct, frozen=True):
    """How things stand at the end of one part of the time."""

    seconds: float
    requests: int
    memory: float
    """MiB that are resident."""
    p99: float
    """Milliseconds, of this part of the time."""
    tables: float
    """MiB, TOAST included; so are those of indexes and of the WAL since the start."""
    indexes: float
    wal: float
    dead: int
    most_dead: float
    """Of the table that has most for its size: the share of what autovacuum lets be."""
    vacuums: int
    hot: float


class Steady:
    """The load on one service."""

    def __init__(self, plan: SteadyPlan, database: BenchDatabase, folder: Path) -> None:
        self.database = database
        self.rate = plan.rate
        self.seconds = plan.hours * 3600 / plan.samples
        self.bench = Bench(Plan(plan.size, 1, self.seconds, 0, CONNECTIONS, 0), database, folder)
        self.path = folder / "mix"
        self.contender = Contender(folder)
        self.updated = [Pick(*row) for row in database.execute(_UPDATED)]
        self.numbers = itertools.count()
        self.updates = itertools.count()
        ((self.wal_start,),) = database.execute("SELECT pg_current_wal_insert_lsn()::text")

    def write_requests(self) -> None:
        """Prepare those of one part of the time, in turns; no two delete the same todo."""
        count = math.ceil(self.rate * self.seconds) + 100
        kept = [asked.id for asked in [*self.bench.picks["get"], *self.updated]]
        wanted = count * DELETES // 100 + 2
        deleted = [Pick(*row) for row in self.database.execute(_DELETED, (kept, wanted))]
        if len(deleted) < wanted:
            raise BenchError(f"steady: {wanted} todos are to be deleted, and only {len(deleted)} are left")
        sources: list[tuple[int, Iterator[bytes]]] = [
            *((share, self._usual(operation)) for operation, share in MIX.items()),
            (UPDATES, self._updates()),
            (DELETES, (_request("DELETE", asked) for asked in deleted)),
        ]
        # Evenly mixed: a source's nth request stands where n of its share have passed.
        places = sorted((place / share, at) for at, (share, _) in enumerate(sources) for place in range(share))
        requests = [next(sources[places[number % 100][1]][1]) for number in range(count)]
        self.path.write_bytes(msgspec.msgpack.encode(requests))

    def _usual(self, operation: Operation) -> Iterator[bytes]:
        picks = self.bench.picks[operation]
        for number in self.numbers:
            yield self.contender.request(operation, picks[number % len(picks)])

    def _updates(self) -> Iterator[bytes]:
        """Two of three stay in their place (HOT), if there is room; one changes an indexed column."""
        for number in self.updates:
            lap, at = divmod(number, len(self.updated))
            changed = {"description": f"{DESCRIPTION} {number}"}
            if number % 3 == 0:
                changed = {"status": ("in_progress", "pending")[lap % 2]}
            yield _request("PATCH", self.updated[at], changed)

    def run(self, service: Running) -> tuple[int, float]:
        """A part of the time: how many requests were served, and their p99 in ms."""
        self.write_requests()
        order = Order(str(self.path), [service.port], CONNECTIONS, self.seconds, 0, 0, self.rate)
        sample = run_load(
            order,
            contender="steady load",
            operation="get",
            round_number=0,
            service=service.pids,
            postmaster=self.database.server.pid,
        )
        return sample.sent, sample.p99

    def state(self, service: Running, seconds: float, requests: int, p99: float) -> State:
        """What the service's memory, tables and statistics say now."""
        memory = memory_mib(service.pids)
        values = self.wal_start, 2 * 60 * self.rate
        ((tables, indexes, dead, vacuums, hot, wal, most_dead),) = self.database.execute(_STATE, values)
        sizes = [round(float(value), 1) for value in (tables, indexes, wal)]
        shares = round(float(most_dead), 2), int(vacuums), round(float(hot), 3)
        return State(round(seconds), requests, round(memory, 1), round(p99, 1), *sizes, int(dead), *shares)


def _request(method: str, asked: Pick, body: object = None) -> bytes:
    return http_request(method, f"/v1/todos/{asked.id}", token(asked.user_id), body)


def steady(plan: SteadyPlan, home: Path, say: Callable[[str], None]) -> tuple[Findings, dict[str, str]]:
    """So many hours of load; the findings, and PostgreSQL's settings. Raises BenchError."""
    with (
        bench_database(home, plan.size, SETTINGS, keep=False) as database,
        tempfile.TemporaryDirectory(prefix="todochat-bench-") as folder,
    ):
        settings = database.settings()
        if settings["autovacuum"] != "on":
            raise BenchError(f"steady: another server runs in {home}, with autovacuum off: end it, or take a --folder")
        load = Steady(plan, database, Path(folder))
        with running(load.contender, database) as service:
            began, served = time.monotonic(), 0
            states = [load.state(service, 0, 0, 0)]
            for number in range(plan.samples):
                sent, p99 = load.run(service)
                served += sent
                states.append(load.state(service, time.monotonic() - began, served, p99))
                say(f"steady {number + 1} of {plan.samples}: {states[-1]}")
    return findings(states, plan), settings


def findings(states: list[State], plan: SteadyPlan) -> Findings:
    """Ten of the states, what grew for each million requests, and what must not be."""
    last = states[-1]
    quarter = states[(len(states) - 1) // 4]
    after = [state.memory for state in states if state.seconds > quarter.seconds]
    grown = max([*after, quarter.memory]) - quarter.memory
    most, most_dead = max(state.memory for state in states), max(state.most_dead for state in states)
    head = ["minutes", "requests", "memory, MiB", "p99, ms", "tables, MiB", "indexes, MiB", "dead rows", "of allowed"]
    head += ["vacuums", "HOT", "WAL, MiB"]
    shown = [states[round(place * (len(states) - 1) / 10)] for place in range(11)]
    millions = (last.requests - quarter.requests) / 1e6
    growth = [
        [name, f"{(getattr(last, field) - getattr(quarter, field)) / millions:+,.1f}"]
        for name, field in (("memory", "memory"), ("tables", "tables"), ("indexes", "indexes"), ("WAL", "wal"))
    ]
    targets = [
        Target("memory a process: ≤ 90 MiB after a million requests", f"{most:.1f} MiB", most <= MOST_MEMORY_MIB)
    ]
    failures: list[str] = []
    if most > MOST_MEMORY_MIB:
        failures.append(f"memory grew to {most:.1f} MiB, beyond {MOST_MEMORY_MIB}")
    if grown > MOST_GROWTH_MIB:
        failures.append(f"memory grew by {grown:.1f} MiB after the first quarter, more than {MOST_GROWTH_MIB}")
    if most_dead > MOST_DEAD:
        failures.append(f"dead rows piled up to {most_dead:.1f} times what autovacuum lets be, more than {MOST_DEAD}")
    mix = ", ".join(f"{share} % {name}" for name, share in MIX.items())
    return Findings(
        f"{plan.hours:g} h of steady load",
        f"{plan.rate:g} requests/s, evenly: {mix}, {UPDATES} % update a todo, {DELETES} % delete one. Dead rows are "
        "those of all tables; beside them, of the table that has most for its size, the share of what autovacuum lets "
        "be (its threshold, and two minutes of changes). p99 is that of a "
        f"{plan.samples}th of the time.",
        [
            Table("", head, [_row(state) for state in shown]),
            Table("After the first quarter, MiB for each million requests:", ["what", "MiB"], growth),
        ],
        targets=targets,
        failures=failures,
    )


def _row(state: State) -> list[str]:
    sizes = [f"{state.tables:,.0f}", f"{state.indexes:,.0f}", f"{state.dead:,}", f"{state.most_dead:.2f}"]
    counts = [f"{state.vacuums}", f"{state.hot:.1%}", f"{state.wal:,.0f}"]
    return [
        f"{state.seconds / 60:.0f}",
        f"{state.requests:,}",
        f"{state.memory:.1f}",
        f"{state.p99:.1f}",
        *sizes,
        *counts,
    ]
