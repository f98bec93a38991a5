"""todochat beside what might have been built instead: the same machine, rows and requests.

    python -m tests.bench [--quick] [--without fastify,postgrest] [--readme]

Every contender is started and its answers are held against the database's rows before anything is timed. Then they
take turns, operation by operation, in several rounds. The first wrong answer, refused request or lost row ends the
benchmark with an error and without a report.
"""

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from statistics import median

import msgspec

from service.commands.demo import Size
from tests.bench import report, schema
from tests.bench.bench import Bench, Plan
from tests.bench.ceiling import DatabaseSample, Pgbench
from tests.bench.data import SETTINGS, bench_database
from tests.bench.figures import Machine, Results
from tests.bench.install import py_spy
from tests.bench.measure import REPOSITORY, BenchError, Sample, keep_off_the_load, memory_mib
from tests.bench.operations import (
    OPERATIONS,
    Operation,
    counts,
)
from tests.bench.profiles import flame_name, profile
from tests.bench.services import CONTENDER_TYPES, RawUvicorn, Running, running
from tests.support.wire import Traffic

PART_LOAD = 0.7
WARM_SECONDS = 0.5
"""Of each operation of each contender before the first round, which so finds every page touched and every plan made."""

FULL = Plan(Size(10_000, 500_000, 1_000_000), 3, 2.0, 0.3, 8, 64, 2, 40, 2, 2.0, 5.0, 40)
QUICK = Plan(Size(40, 2_500, 6_000), 1, 0.05, 0.02, 4, 16, 1, 8)


def run(plan: Plan, names: Collection[str], home: Path, settings: dict[str, str]) -> Results:
    """The whole benchmark; flame graphs are in ``home``. Raises BenchError."""
    began = time.monotonic()
    home.mkdir(parents=True, exist_ok=True)
    for log in home.glob("*.log"):
        log.unlink()
    contenders = [kind(home) for kind in CONTENDER_TYPES if kind.name in names]
    for contender in contenders:
        contender.install()
    _say("the data (filling it takes a minute the first time)")
    with (
        bench_database(home, plan.size, settings) as database,
        tempfile.TemporaryDirectory(prefix="todochat-bench-") as folder,
        contextlib.ExitStack() as stack,
    ):
        bench = Bench(plan, database, Path(folder))
        wire = dict[str, dict[str, Traffic]]()
        started: list[Running] = []
        bodies = dict[Operation, bytes]()
        for contender in contenders:
            _say(f"checking {contender.label}")
            if isinstance(contender, RawUvicorn):
                contender.answers = bodies
            bench.prepare(contender)
            one = stack.enter_context(running(contender, database))
            started.append(one)
            answered = bench.check(one)
            if not contender.is_ceiling:
                wire[contender.name] = dict(bench.count_wire(contender))
            if contender.name == "todochat":
                bodies = answered
        pgbench = Pgbench(database, Path(folder), plan.connections, plan.pgbench_seconds, bench.sent)
        for operation in bench.order:
            pgbench.check(operation)
        before = counts(database)
        began_timing = time.monotonic()
        _say("warming up")
        for _ in bench.rounds(started, plan.connections, 1, min(plan.seconds, WARM_SECONDS)):
            pass
        samples = list(_progress(bench, started, plan.connections, plan.rounds))
        tested = [one for one in started if not one.contender.is_ceiling]
        many = list(_progress(bench, tested, plan.many, plan.many_rounds))
        part = _part_load(bench, started[0], many)
        layers = _layers(bench, started[0], home)
        bench.check_counts(before)
        memory = {one.contender.name: memory_mib(one.pids) for one in started}
        served = Counter[str]()
        for sample in bench.samples:
            served[sample.contender] += sample.sent
        starts = {one.contender.name: one.start_seconds for one in started}
        writes, parts = _writes(plan)
        return Results(
            machine=Machine.here(database.settings(), plan.size),
            contenders={contender.name: contender.label for contender in contenders},
            connections=plan.connections,
            many=plan.many,
            rounds=plan.rounds,
            seconds=plan.seconds,
            samples=samples,
            many_samples=many,
            part_samples=part,
            wire=wire,
            memory=memory,
            served=dict(served),
            starts=starts,
            database=_database_samples(bench, pgbench),
            layers=layers,
            writes=writes,
            parts=parts,
            timed_seconds=time.monotonic() - began_timing,
            all_seconds=time.monotonic() - began,
        )


def _progress(bench: Bench, started: Sequence[Running], connections: int, rounds: int) -> Iterator[Sample]:
    for sample in bench.rounds(started, connections, rounds):
        _say(
            f"{sample.contender:16} {OPERATIONS[sample.operation]:26} {connections:3} connections"
            f" {sample.per_second:8,.0f}/s  p99 {sample.p99:7.1f} ms  CPU {sample.service_cpu:5.0f} +"
            f" {sample.database_cpu:4.0f} us  load {sample.load_cpu:.0%}"
        )
        yield sample


def _part_load(bench: Bench, todochat: Running, many: Sequence[Sample]) -> list[Sample]:
    """How todochat does at a part of the load that it bears at most, when requests come evenly."""
    found: list[Sample] = []
    for operation in bench.order:
        key = (todochat.contender.name, operation)
        rates = [sample.per_second for sample in many if (sample.contender, sample.operation) == key]
        if rates:
            found.append(bench.load(todochat, operation, bench.plan.many, 0, rate=median(rates) * PART_LOAD))
    return found


def _layers(bench: Bench, todochat: Running, home: Path) -> dict[Operation, dict[str, float]]:
    if not bench.plan.profile_seconds:
        return {}
    _say("profiling todochat")
    return profile(bench, todochat, py_spy(home), bench.plan.profile_seconds, home)


def _database_samples(bench: Bench, pgbench: Pgbench) -> list[DatabaseSample]:
    rounds = bench.plan.pgbench_rounds
    if not rounds:
        return []
    _say("pgbench: the database's ceiling, row security, audit")
    found = [one for operation in bench.order for one in pgbench.operation(operation, bench.picks[operation], rounds)]
    return [*found, *pgbench.audit(bench.picks, rounds)]


def _writes(plan: Plan) -> tuple[dict[str, schema.Cost], dict[str, dict[str, float]]]:
    if not plan.schema_rounds:
        return {}, {}
    _say("PostgreSQL's cost without each part of the schema")
    with schema.measured(None, list(schema.PARTS), plan.schema_rounds) as (today, *others):
        return today.middle(), {candidate.name: candidate.saved(today) for candidate in others}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and write its report; the process's exit status."""
    options = _parser().parse_args(arguments)
    plan: Plan = QUICK if options.quick else FULL
    changes = {name: getattr(options, name) for name in ("rounds", "seconds") if getattr(options, name) is not None}
    if options.users:
        changes["size"] = Size(
            options.users, options.todos or 50 * options.users, options.messages or 100 * options.users
        )
    plan = msgspec.structs.replace(plan, **changes)
    names = options.contenders or [kind.name for kind in CONTENDER_TYPES if not (options.quick and kind.needs_install)]
    names = {"todochat", *names} - set(options.without or [])
    # A small run has no time for a big server to start.
    settings = {"autovacuum": "off"} if options.quick else SETTINGS
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    try:
        keep_off_the_load()
        if options.readme:
            report.split_readme(REPOSITORY / "README.md")
        results = run(plan, names, options.folder.absolute(), settings)
    except BenchError as error:
        _say(f"bench: {error}")
        return 1
    written = report.write(results, options.output)
    for operation in results.layers:
        written.append(Path(shutil.copy(options.folder / flame_name(operation), options.output)))
    print(report.markdown(results))
    _say(f"wrote {', '.join(str(path) for path in written)} in {results.all_seconds:.0f} s")
    if options.readme:
        report.write_readme(results, REPOSITORY / "README.md", options.output)
        _say("wrote the table in README.md")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = ",".join(kind.name for kind in CONTENDER_TYPES)

    def names(text: str) -> list[str]:
        found = [name for name in text.split(",") if name]
        if unknown := set(found) - set(every.split(",")):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; there are {every}")
        return found

    parser.add_argument("--quick", action="store_true", help="few rows, short runs, and only what needs no install")
    parser.add_argument("--contenders", type=names, metavar="NAMES", help=f"these beside todochat (default {every})")
    parser.add_argument("--without", type=names, metavar="NAMES", help="all but these")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"default {FULL.rounds}")
    parser.add_argument("--seconds", type=float, metavar="S", help=f"of each timed run, default {FULL.seconds}")
    for name, default in (("users", FULL.size.users), ("todos", FULL.size.todos), ("messages", FULL.size.messages)):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"default {default:,}")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / ".bench", metavar="DIR", help="default .bench")
    parser.add_argument(
        "--output",
        type=Path,
        default=REPOSITORY / "tests" / "bench" / "results",
        metavar="DIR",
        help="where the report goes, default tests/bench/results",
    )
    parser.add_argument("--readme", action="store_true", help="write the table between its markers in README.md, too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
