"""What a part of the benchmark of growth found, and the file in which the parts' results are kept."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from service.commands.demo import Size
from tests.bench.figures import Machine
from tests.bench.targets import Target

FILE = "scale.json"


class Table(msgspec.Struct, frozen=True):
    """Figures as they are printed, with a sentence above them."""

    text: str
    head: list[str]
    rows: list[list[str]]


class Series(msgspec.Struct, frozen=True):
    """What something costs at growing sizes. ``panel`` is the heading of the chart in which it is drawn."""

    panel: str
    name: str
    unit: str
    of: str
    """What the sizes count: rows, messages."""
    points: list[tuple[float, float]]
    """Sizes, and what each costs."""
    is_bounded: bool = False
    """Whether the run fails if it grows faster than linear."""


def series(
    panel: str, name: str, unit: str, of: str, costs: Iterable[tuple[float, float]], *, is_bounded: bool = False
) -> Series:
    """Without what is too small to be measured: a logarithm needs more than 0."""
    points = [(float(size), round(cost, 4)) for size, cost in costs if cost > 0.00005]
    return Series(panel, name, unit, of, points, is_bounded)


class Findings(msgspec.Struct, frozen=True):
    """What a part found. ``failures`` end the run with status 1; a target that is missed doesn't."""

    title: str
    text: str
    tables: list[Table] = []
    series: list[Series] = []
    targets: list[Target] = []
    failures: list[str] = []


class Part(msgspec.Struct, frozen=True):
    """A part's findings, with when, where and how they came about."""

    findings: Findings
    date: str
    seconds: float
    machine: str
    size: Size
    settings: dict[str, str]
    """PostgreSQL's."""
    plan: dict[str, str] = {}
    """How much was measured."""


def part(findings: Findings, seconds: float, postgres: dict[str, str], size: Size, plan: msgspec.Struct) -> Part:
    """The findings of a part that has just ended."""
    here = Machine.here(postgres, size)
    machine = f"{here.cores} cores ({here.cpu}), Python {here.python}, Linux {here.kernel}"
    told = {name: str(value) for name, value in msgspec.structs.asdict(plan).items() if name != "size"}
    return Part(findings, f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", round(seconds, 1), machine, size, postgres, told)


def read(folder: Path) -> dict[str, Part]:
    """What is kept in the folder, by the parts' names."""
    path = folder / FILE
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Part]) if path.exists() else {}


def keep(folder: Path, name: str, found: Part) -> None:
    """Put a part's result in the place of its last one."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {**read(folder), name: found}
    (folder / FILE).write_bytes(msgspec.json.format(msgspec.json.encode(kept, order="deterministic")) + b"\n")
