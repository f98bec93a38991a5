"""How todochat's cost grows: with time, data, connections, load, processes, and what one user owns or sends.

python -m tests.bench.scale [--quick] [--part NAME]...

Each part's result is kept in results/scale.json, from which results/scale.md and its chart are written anew. The
exit status is 1 when a part found a cost that grows faster than linear, or could not go on.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from tests.bench.data import SETTINGS, bench_database
from tests.bench.measure import REPOSITORY, BenchError, keep_off_the_load
from tests.bench.scale import steady
from tests.bench.scale.base import FULL, QUICK, Scale, ScalePlan
from tests.bench.scale.data import with_data
from tests.bench.scale.large import with_deletes, with_imports
from tests.bench.scale.report import write
from tests.bench.scale.results import Findings, keep, part, read
from tests.bench.scale.skew import with_skew
from tests.bench.scale.steady import SteadyPlan
from tests.bench.scale.traffic import with_connections, with_overload, with_processes

_ON_ONE_DATABASE: dict[str, Callable[[Scale], Findings]] = {
    "connections": with_connections,
    "overload": with_overload,
    "processes": with_processes,
    "skew": with_skew,
    "imports": with_imports,
    "deletes": with_deletes,
}
PARTS = ("data", *_ON_ONE_DATABASE, "steady")
"""In the order in which they run and are reported; steady runs only if it is asked for."""


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def _run(options: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """Run the parts and keep what they found; why the run fails, if it does. Raises BenchError."""
    failures: list[str] = []

    def kept(name: str, found: Findings, settings: dict[str, str], plan: ScalePlan | SteadyPlan, began: float) -> None:
        keep(options.output, name, part(found, time.monotonic() - began, settings, plan.size, plan))
        failures.extend(f"{name}: {failure}" for failure in found.failures)
        _say(f"{name}: {time.monotonic() - began:.0f} s")

    on_one = [name for name in names if name != "steady"]
    if on_one:
        plan, settings = (QUICK, {"autovacuum": "off"}) if options.quick else (FULL, SETTINGS)
        factors = tuple(factor for factor in plan.factors if factor <= (options.factor or factor))
        plan = msgspec.structs.replace(plan, factors=factors)
        with (
            bench_database(options.folder, plan.size, settings) as database,
            tempfile.TemporaryDirectory(prefix="todochat-bench-") as folder,
        ):
            scale = Scale(plan, database, Path(folder), _say)
            parts = {"data": lambda scale: with_data(scale, options.folder, settings), **_ON_ONE_DATABASE}
            for name in on_one:
                began = time.monotonic()
                kept(name, parts[name](scale), database.settings(), plan, began)
    if "steady" in names:
        began = time.monotonic()
        asked = steady.QUICK if options.quick else SteadyPlan(hours=options.hours, rate=options.rate)
        kept("steady", *steady.steady(asked, options.folder, _say), asked, began)
    return failures


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts and write the report; the process's exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few rows and short runs")
    parser.add_argument(
        "--part", action="append", choices=PARTS, help="only this part; may be repeated (default: all but steady)"
    )
    parser.add_argument(
        "--factor", type=int, metavar="N", help="of the data at most (default 30, where the disk allows)"
    )
    parser.add_argument("--hours", type=float, default=1.0, help="of steady load (default 1)")
    parser.add_argument("--rate", type=float, default=300.0, help="of steady load (default 300 requests/s)")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / ".bench", metavar="DIR", help="default .bench")
    results = REPOSITORY / "tests" / "bench" / "results"
    parser.add_argument("--output", type=Path, default=results, metavar="DIR", help="default tests/bench/results")
    options = parser.parse_args(arguments)
    options.folder = options.folder.absolute()
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    names = [name for name in PARTS if name in (options.part or PARTS[:-1])]
    try:
        keep_off_the_load()
        options.folder.mkdir(parents=True, exist_ok=True)
        failures = _run(options, names)
    except BenchError as error:
        failures = [str(error)]
    print(write(read(options.output), PARTS, options.output))
    for failure in failures:
        _say(f"bench: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
