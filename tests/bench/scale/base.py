"""What the parts share: how much is measured, and the load on todochat on one size of the data."""

import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from service.commands.demo import Size
from tests.bench.bench import Bench, Plan
from tests.bench.data import BenchDatabase
from tests.bench.load import CHUNK, Order, is_whole
from tests.bench.measure import BenchError, Sample, run_load
from tests.bench.operations import OPERATIONS, Operation, http_request
from tests.bench.services import STATUS, Contender, Running

MANY = 64
"""Connections at which is measured what a process bears."""
QUEUED = 200
"""Connections that a process lets wait for its 10 to the database: of a closed loop of more, some are refused."""


class ScalePlan(msgspec.Struct, frozen=True):
    """How much is measured. Times are in seconds."""

    size: Size = Size(10_000, 500_000, 1_000_000)
    factors: tuple[int, ...] = (1, 10, 30)
    rounds: int = 3
    seconds: float = 2.0
    warmup: float = 0.3
    connections: tuple[int, ...] = (1, 8, 64, 256, 1000, 2000)
    overload_connections: int = 1500
    overload_rounds: int = 4
    recovery: float = 3.0
    """So long after several times what it bears, everything must be as before."""
    counted: int = 200
    """Requests whose pages are counted, each of another user."""
    owned: tuple[int, int, int] = (200_000, 1_000, 20_000)
    """What the large user has: messages in one conversation, other conversations of ten, todos."""
    imports: tuple[int, ...] = (1_000, 3_000, 10_000, 30_000, 100_000)
    deletes: tuple[int, ...] = (100, 1_000, 10_000, 100_000)
    repeats: int = 3
    """Of each size; the median counts."""
    operations: tuple[Operation, ...] = tuple(OPERATIONS)


FULL = ScalePlan()
QUICK = ScalePlan(
    size=Size(40, 2_500, 6_000),
    factors=(1, 2),
    rounds=1,
    seconds=0.05,
    warmup=0.02,
    connections=(1, 16),
    overload_connections=50,
    overload_rounds=1,
    recovery=0.1,
    counted=10,
    owned=(300, 5, 30),
    imports=(30, 100, 300),
    deletes=(10, 100),
    repeats=1,
    operations=("append",),
)


class Scale:
    """todochat on one size of the data; ``folder`` is for files that are needed meanwhile."""

    def __init__(self, plan: ScalePlan, database: BenchDatabase, folder: Path, say: Callable[[str], None]) -> None:
        self.plan = plan
        self.database = database
        self.folder = folder
        self.say = say
        whole = Plan(plan.size, plan.rounds, plan.seconds, plan.warmup, 8, MANY)
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
        requests: Path | None = None,
        status: int | None = None,
    ) -> Sample:
        """One run. With a rate, or more connections than QUEUED, refusals are part of the result; else they end it.

        ``status``: of the answers that count, where it isn't the operation's.
        """
        order = Order(
            requests=str(requests or self.bench.requests(self.contender, operation)),
            ports=[one.port for one in services],
            connections=connections,
            seconds=self.plan.seconds if seconds is None else seconds,
            warmup=self.plan.warmup,
            status=status or STATUS[operation],
            rate=rate,
            refusals=not status and (rate > 0 or connections > QUEUED),
        )
        name = f"{len(services)} process{'es' * (len(services) > 1)}"
        sample = run_load(
            order,
            contender=name,
            operation=operation,
            round_number=0,
            service=set[int]().union(*(one.pids for one in services)),
            postmaster=self.database.server.pid,
        )
        asked = f" of {rate:,.0f}/s" if rate else ""
        self.say(f"{name}, {OPERATIONS[operation]}, {connections} connections: {sample.per_second:,.0f}/s{asked}")
        return sample

    def best(self, services: Sequence[Running], operation: Operation, connections: int) -> Sample:
        """The median of the rounds, by requests per second."""
        samples = [self.load(services, operation, connections) for _ in range(self.plan.rounds)]
        return sorted(samples, key=lambda sample: sample.per_second)[len(samples) // 2]


def send(service: Running, what: str, request: bytes, status: int, seconds: float = 15.0) -> bytes:
    """The body of the one answer that is wanted, within ``seconds``. Raises BenchError for another."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=seconds) as connection:
        connection.sendall(request)
        answer = b""
        while not is_whole(answer):
            piece = connection.recv(CHUNK)
            if not piece:
                raise BenchError(f"{what}: the service closed the connection")
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 %d " % status):
        raise BenchError(f"{what}: not {status}, but {answer[:800].decode(errors='replace')}")
    return body


def pool(service: Running) -> dict[str, float]:
    """What the service's metrics say of its pool: in_use, waiting, size."""
    lines = send(service, "metrics", http_request("GET", "/metrics", ""), 200).decode().splitlines()
    found = [line.removeprefix("todochat_pool_").split() for line in lines if line.startswith("todochat_pool_")]
    return {name: float(value) for name, value in found}
