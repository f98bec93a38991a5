"""A bench: a database, the rows to ask for, and what is done with each contender."""

import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from service.commands.demo import Size
from tests.bench.ceiling import Request, read_request
from tests.bench.data import BenchDatabase
from tests.bench.load import Order
from tests.bench.measure import BenchError, Sample, run_load
from tests.bench.operations import (
    OPERATIONS,
    WRITES_EACH,
    Answer,
    Operation,
    check_written,
    counts,
    pick,
    truth,
)
from tests.bench.services import CEILINGS, Contender, Running, running, write_requests
from tests.support.wire import Traffic, Wire

CHECKED = 5
"""How many answers to each operation of each contender are held against the database's rows."""


class Plan(msgspec.Struct, frozen=True):
    """How much is measured. Times are in seconds."""

    size: Size
    rounds: int
    seconds: float
    warmup: float
    connections: int
    many: int
    """A second number of connections, for the tails, in ``many_rounds``."""
    many_rounds: int = 0
    counted: int = 0
    """How many requests of a kind are counted on the wire; the most frequent count is the operation's."""
    pgbench_rounds: int = 0
    pgbench_seconds: float = 0
    profile_seconds: float = 0
    """How long each operation is looked at by the profiler."""
    schema_rounds: int = 0
    """How many batches of each operation measure the schema's parts."""


class Bench:
    """One run of the benchmark; ``folder`` is for files that are needed meanwhile."""

    def __init__(self, plan: Plan, database: BenchDatabase, folder: Path) -> None:
        self.plan = plan
        self.database = database
        self.folder = folder
        self.picks = pick(database)
        self.samples: list[Sample] = []
        self.sent: dict[Operation, Request] = {}
        """What todochat sent to the database for one request of each operation."""
        self.order = list(OPERATIONS)

    def prepare(self, contender: Contender) -> None:
        """Write its requests to files for the load."""
        for operation in self.order:
            write_requests(self.requests(contender, operation), contender, operation, self.picks[operation])

    def requests(self, contender: Contender, operation: Operation) -> Path:
        return self.folder / f"{contender.name}-{operation}"

    def check(self, one: Running) -> dict[Operation, bytes]:
        """Hold its answers against the database's rows; one body of each operation."""
        contender, bodies = one.contender, dict[Operation, bytes]()
        for operation in self.order:
            for asked in self.picks[operation][:CHECKED]:
                request = contender.request(operation, asked)
                status, body = one.ask(request)
                what = f"{contender.label}, {OPERATIONS[operation]}"
                if status != contender.status(operation):
                    raise BenchError(f"{what}: answered {status}: {body[:500].decode(errors='replace')}")
                bodies[operation] = body
                if contender.is_ceiling:
                    continue
                answer = contender.read(operation, body)
                expected = truth(self.database, operation, asked, answer)
                wrong = check_written(operation, answer) or _difference(answer, expected)
                if wrong:
                    raise BenchError(f"{what}: the answer is not what the database says: {wrong}")
            if contender.checks_tokens:
                self._check_stranger(one, operation)
        return bodies

    def _check_stranger(self, one: Running, operation: Operation) -> None:
        """Without a token that is good, no operation is done: the check that every contender must make."""
        asked = self.picks[operation][0]
        good = one.contender.token(asked.user_id)
        head, _, signature = good.rpartition(".")
        bad = f"{head}.{signature[::-1]}"
        status, _ = one.ask(one.contender.request(operation, asked).replace(good.encode(), bad.encode()))
        if status != 401:
            raise BenchError(f"{one.contender.label}, {OPERATIONS[operation]}: a forged token was answered {status}")

    def count_wire(self, contender: Contender) -> dict[Operation, Traffic]:
        """Statements, round trips and transactions of a request, each on its own, once everything is prepared."""
        found = dict[Operation, Traffic]()
        with tempfile.TemporaryDirectory(prefix="todochat-") as name:
            Path(name).chmod(0o711)
            with (
                Wire(Path(name), self.database.server.socket_dir) as wire,
                running(contender, self.database, Path(name)) as one,
            ):
                for operation in self.order:
                    seen = Counter[tuple[int, int, int]]()
                    asked = self.picks[operation][0]
                    for number in range(self.plan.counted):
                        wire.forget()
                        asked = self.picks[operation][number % len(self.picks[operation])]
                        one.ask(contender.request(operation, asked))
                        time.sleep(0.003)  # what comes behind the answer belongs to it
                        counted = wire.traffic
                        if number >= self.plan.counted // 2:
                            seen[counted.statements, counted.round_trips, counted.transactions] += 1
                    found[operation] = Traffic(*seen.most_common(1)[0][0])
                    if contender.name == Contender.name:
                        self.sent[operation] = read_request(self.database, asked, wire.sent)
        return found

    def load(
        self,
        one: Running,
        operation: Operation,
        connections: int,
        round_number: int,
        *,
        seconds: float | None = None,
        rate: float = 0,
    ) -> Sample:
        """One timed run."""
        order = Order(
            requests=str(self.requests(one.contender, operation)),
            ports=[one.port],
            connections=connections,
            seconds=self.plan.seconds if seconds is None else seconds,
            warmup=self.plan.warmup,
            status=one.contender.status(operation),
            rate=rate,
        )
        sample = run_load(
            order,
            contender=one.contender.name,
            operation=operation,
            round_number=round_number,
            service=one.pids,
            postmaster=self.database.server.pid,
            is_ceiling=one.contender.is_ceiling,
        )
        self.samples.append(sample)
        return sample

    def rounds(
        self, contenders: Sequence[Running], connections: int, rounds: int, seconds: float | None = None
    ) -> Iterator[Sample]:
        """Everybody in turns, beginning with another one in each round."""
        for number in range(rounds):
            shift = number % len(contenders)
            turns = [*contenders[shift:], *contenders[:shift]]
            for operation in self.order:
                for one in turns:
                    yield self.load(one, operation, connections, number, seconds=seconds)

    def check_counts(self, before: tuple[int, int]) -> None:
        """Every write that was answered is there, and none besides."""
        todos = said = 0
        for sample in self.samples:
            if sample.contender not in CEILINGS:
                new_todos, new_said = WRITES_EACH.get(sample.operation, (0, 0))
                todos += sample.sent * new_todos
                said += sample.sent * new_said
        after = counts(self.database)
        added = after[0] - before[0], after[1] - before[1]
        if added != (todos, said):
            raise BenchError(
                f"{todos} todos and {said} messages were answered as written, but {added[0]} and {added[1]} are there"
            )


def _difference(answer: Answer, expected: Answer) -> str:
    if len(answer.rows) != len(expected.rows):
        return f"{len(answer.rows)} rows instead of {len(expected.rows)}"
    for given, wanted in zip(answer.rows, expected.rows, strict=True):
        for name, value in wanted.items():
            if name not in given or given[name] != value:
                return f"{name} is {given.get(name)!r}, not {value!r}"
    if answer.context != expected.context:
        return f"the context is {answer.context!r}, not {expected.context!r}"
    return ""
