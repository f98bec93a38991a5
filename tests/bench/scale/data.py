"""The six operations on the data, and on many times as much of it."""

import tempfile
from pathlib import Path
from typing import NamedTuple

from service.commands.demo import Size
from tests.bench.data import large_database, missing_bytes
from tests.bench.measure import Sample
from tests.bench.operations import OPERATIONS, Operation
from tests.bench.scale.base import Scale
from tests.bench.scale.pages import Touched, touched
from tests.bench.scale.results import Findings, Table, series
from tests.bench.services import STATUS, running
from tests.bench.targets import Target


class _Level(NamedTuple):
    factor: int
    touched: dict[str, Touched]
    samples: dict[Operation, Sample]


def with_data(scale: Scale, home: Path, settings: dict[str, str]) -> Findings:
    """The cost of a request at each of the plan's factors for which there is room."""
    plan, size = scale.plan, scale.plan.size
    levels: list[_Level] = []
    left_out: list[str] = []
    for factor in plan.factors:
        missing = 0 if factor == 1 else missing_bytes(scale.database, size, factor)
        if missing:
            left_out.append(f"{factor} times the data were left out: {missing / 2**30:.0f} GiB of disk are missing.")
            scale.say(left_out[-1])
        elif factor == 1:
            levels.append(_measure(scale, factor))
        else:
            large = Size(size.users * factor, size.todos * factor, size.messages * factor)
            scale.say(f"{large.todos:,} todos and {large.messages:,} messages")
            with (
                large_database(home, large, settings) as database,
                tempfile.TemporaryDirectory(prefix="todochat-bench-") as folder,
            ):
                levels.append(_measure(Scale(plan, database, Path(folder), scale.say), factor))
    return _findings(levels, left_out, size)


def _measure(scale: Scale, factor: int) -> _Level:
    picks, contender = scale.bench.picks, scale.contender
    kinds = {
        str(operation): (
            STATUS[operation],
            [contender.request(operation, asked) for asked in picks[operation][: scale.plan.counted]],
        )
        for operation in scale.plan.operations
    }
    pages = touched(scale.database, scale.folder, kinds)
    samples: dict[Operation, Sample] = {}
    with running(contender, scale.database) as service:
        for operation in scale.plan.operations:
            scale.load([service], operation, 8, seconds=scale.plan.seconds / 2)  # what it reads is in memory now
            samples[operation] = scale.best([service], operation, 8)
    return _Level(factor, pages, samples)


def _findings(levels: list[_Level], left_out: list[str], size: Size) -> Findings:
    base = levels[0]
    rows: list[list[str]] = []
    failures: list[str] = []
    most = (0.0, "", 1)
    for operation in base.samples:
        label = OPERATIONS[operation]
        before = base.touched[operation]
        for level in levels:
            now, sample = level.touched[operation], level.samples[operation]
            growth = now.pages / before.pages - 1
            most = max(most, (abs(growth), label, level.factor))
            more = f" ({growth:+.0%})" if level is not base else ""
            numbers = [f"{sample.per_second:,.0f}", f"{sample.p50:.2f}", f"{sample.p99:.1f}"]
            numbers += [f"{sample.service_cpu:.0f}", f"{sample.database_cpu:.0f}"]
            rows.append([label, f"{level.factor}×", f"{now.pages:.1f}{more}", f"{now.descents:.1f}", *numbers])
            if not before.allows(now):
                failures.append(
                    f"{label}: {now.pages:.1f} pages at {level.factor} times the data, {before.pages:.1f} before: more "
                    f"than 10 % and a level of each of {now.descents:.0f} trees"
                )
    head = ["operation", "data", "pages", "descents", "requests/s", "p50, ms", "p99, ms", "CPU, µs", "PostgreSQL's, µs"]
    growing = [
        series(
            panel,
            OPERATIONS[operation],
            unit,
            "times the data",
            [(level.factor, value(level, operation)) for level in levels],
        )
        for panel, unit, value in (("pages a request", "pages", _pages), ("PostgreSQL's CPU a request", "µs", _cpu))
        for operation in base.samples
    ]
    factors = " and ".join(f"{level.factor}" for level in levels[1:]) or "no other"
    found = f"{most[0]:.0%} ({most[1]}, {most[2]}×)"
    return Findings(
        "Times the data",
        f"{size.todos:,} todos and {size.messages:,} messages, and {factors} times as many; 8 connections. Pages are "
        "those of tables and indexes that a request touches, counted by PostgreSQL over one session of the service; "
        f"descents are how often it goes down an index. {' '.join(left_out)}".rstrip(),
        [Table("", head, rows)],
        growing,
        [Target("the same pages a request ± 10 %", found, most[0] <= 0.1)] if len(levels) > 1 else [],
        failures,
    )


def _pages(level: _Level, operation: Operation) -> float:
    return level.touched[operation].pages


def _cpu(level: _Level, operation: Operation) -> float:
    return level.samples[operation].database_cpu
