"""What a run of the benchmark found, and the figures that reports make of it."""

import platform
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import msgspec

from service.commands.demo import Size
from tests.bench.ceiling import DatabaseSample
from tests.bench.measure import CORES, Sample
from tests.bench.operations import Operation
from tests.bench.schema import Cost
from tests.bench.services import CEILINGS
from tests.support.wire import Traffic


class Machine(msgspec.Struct, frozen=True):
    """Where it was measured."""

    cpu: str
    cores: int
    kernel: str
    python: str
    postgres: dict[str, str]
    users: int
    todos: int
    messages: int
    date: str

    @classmethod
    def here(cls, postgres: dict[str, str], size: Size) -> "Machine":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
        return cls(
            cpu,
            len(CORES),
            platform.release(),
            platform.python_version(),
            postgres,
            size.users,
            size.todos,
            size.messages,
            f"{datetime.now(UTC):%Y-%m-%d}",
        )


class Results(msgspec.Struct, frozen=True):
    """Everything that was measured."""

    machine: Machine
    contenders: dict[str, str]
    connections: int
    many: int
    rounds: int
    seconds: float
    samples: list[Sample]
    many_samples: list[Sample]
    part_samples: list[Sample]
    wire: dict[str, dict[str, Traffic]]
    memory: dict[str, float]
    served: dict[str, int]
    starts: dict[str, float]
    database: list[DatabaseSample]
    layers: dict[Operation, dict[str, float]]
    """Each layer's share of the service's time."""
    writes: dict[str, Cost]
    """What a transaction costs PostgreSQL."""
    parts: dict[str, dict[str, float]]
    """How much of that, in microseconds of CPU, goes with a part of the schema."""
    timed_seconds: float
    all_seconds: float


def rates(results: Results, contender: str, operation: str) -> list[float]:
    """Requests per second, round by round."""
    return _values(results.samples, contender, operation, lambda sample: sample.per_second)


def ratios(results: Results, contender: str, operation: str) -> list[float]:
    """How many times as many todochat did, round by round: both ran within the same seconds."""
    pairs = zip(rates(results, "todochat", operation), rates(results, contender, operation), strict=True)
    return [ours / theirs for ours, theirs in pairs]


def _values(samples: Iterable[Sample], contender: str, operation: str, value: Callable[[Sample], float]) -> list[float]:
    return [value(sample) for sample in samples if (sample.contender, sample.operation) == (contender, operation)]


def middle(samples: Iterable[Sample], contender: str, operation: str, value: Callable[[Sample], float]) -> float:
    return median(_values(samples, contender, operation, value))


def spread(values: Sequence[float], form: str = "{:.1f}") -> str:
    low, middle, high = (form.format(value) for value in (min(values), median(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def database_middle(results: Results, operation: str, variant: str, field: str) -> float:
    found = [s for s in results.database if (s.operation, s.variant) == (operation, variant)]
    return median(getattr(sample, field) for sample in found)


def ratio_form(name: str) -> str:
    return "{:.0%}" if name in CEILINGS else "{:.1f}×"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
