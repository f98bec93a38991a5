"""How todochat's cost grows: with time, data, connections, load, processes, and what one user owns or sends.

python -m tests.bench.scale [--quick] [--part NAME]...

Each part's result is kept in results/scale.json, from which results/scale.md is written anew.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from service.commands.demo import Size
from tests.bench.measure import REPOSITORY, BenchError, keep_off_the_load
from tests.bench.scale import steady
from tests.bench.scale.report import markdown
from tests.bench.scale.results import Findings, keep, part, read

PARTS = ("steady",)


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def _steady(options: argparse.Namespace) -> tuple[Findings, dict[str, str], Size, dict[str, Any]]:
    plan = steady.QUICK if options.quick else steady.SteadyPlan(hours=options.hours, rate=options.rate)
    found, settings = steady.steady(plan, options.folder, _say)
    return found, settings, plan.size, {"hours": plan.hours, "requests/s": plan.rate}


_RUN: dict[str, Callable[[argparse.Namespace], tuple[Findings, dict[str, str], Size, dict[str, Any]]]] = {
    "steady": _steady
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts and write the report; the process's exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few rows and short runs")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part; may be repeated")
    parser.add_argument("--hours", type=float, default=1.0, help="of steady load (default 1)")
    parser.add_argument("--rate", type=float, default=300.0, help="of steady load (default 300 requests/s)")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / ".bench", metavar="DIR", help="default .bench")
    results = REPOSITORY / "tests" / "bench" / "results"
    parser.add_argument("--output", type=Path, default=results, metavar="DIR", help="default tests/bench/results")
    options = parser.parse_args(arguments)
    options.folder = options.folder.absolute()
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    failures: list[str] = []
    try:
        keep_off_the_load()
        options.folder.mkdir(parents=True, exist_ok=True)
        for name in options.part or PARTS:
            began = time.monotonic()
            found, settings, size, plan = _RUN[name](options)
            keep(options.output, name, part(found, time.monotonic() - began, settings, size, plan))
            failures += [f"{name}: {failure}" for failure in found.failures]
    except BenchError as error:
        failures.append(str(error))
    text = markdown(read(options.output), list(PARTS))
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "scale.md").write_text(text, encoding="utf-8")
    print(text)
    for failure in failures:
        _say(f"bench: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
