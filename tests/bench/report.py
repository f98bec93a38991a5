"""What came out, as a Markdown table, an SVG chart and the targets; and the same in README.md between two markers."""

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec

from tests.bench.chart import chart
from tests.bench.costs import cost_text
from tests.bench.figures import Results, database_middle, rates, ratio_form, ratios, spread, table
from tests.bench.measure import REPOSITORY, BenchError, Sample
from tests.bench.operations import OPERATIONS, Operation
from tests.bench.profiles import LAYERS, flame_name
from tests.bench.schema import STATEMENTS
from tests.bench.services import CEILINGS
from tests.bench.targets import Target, targets
from tests.support.wire import Traffic

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def write(results: Results, folder: Path) -> list[Path]:
    """Write the report, its chart and the raw figures into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "report.md": full_report(results),
        "chart.svg": chart(results),
        "figures.json": msgspec.json.format(msgspec.json.encode(results)).decode() + "\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files]


def split_readme(readme: Path) -> tuple[str, str]:
    """What stands before and behind the place of the table. Raises BenchError when there is none."""
    before, begin, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchError(f"{readme.name} has no place for the table: {BEGIN} and {END} on lines of their own")
    return before, after


def write_readme(results: Results, readme: Path, folder: Path) -> None:
    """Put table, chart and costs between the markers of a README. Raises BenchError when they aren't there."""
    before, after = split_readme(readme)
    place = os.path.relpath(folder, readme.parent)
    image = f"![requests per second, by operation and contender]({place}/chart.svg)"
    readme.write_text(
        f"{before}{BEGIN}\n{markdown(results)}\n{image}\n{cost_text(results)}{END}{after}", encoding="utf-8"
    )


# The table


def markdown(results: Results) -> str:
    """The table for a README: requests per second, how many times as many as a peer, and what share of a ceiling."""
    machine = results.machine
    head = ["requests per second", *results.contenders.values()]
    pgbench = {sample.operation for sample in results.database if sample.variant == "full"}
    if pgbench:
        head.append("pgbench")
    rows: list[list[str]] = []
    for operation, label in OPERATIONS.items():
        row = [label, f"**{median(rates(results, 'todochat', operation)):,.0f}**"]
        row += [ratio_form(name).format(median(ratios(results, name, operation))) for name in _others(results)]
        if pgbench:
            most = database_middle(results, operation, "full", "per_second")
            row.append(f"{median(rates(results, 'todochat', operation)) / most:.0%}")
        rows.append(row)
    memory = [f"{results.memory[name]:.0f}" for name in results.contenders]
    rows.append(["memory of the process, MiB", *memory, *([""] if pgbench else [])])
    where = f"{machine.cores} cores ({machine.cpu}), PostgreSQL {machine.postgres['server_version']} on a Unix socket"
    data = f"{machine.users:,} users, {machine.todos:,} todos, {machine.messages:,} messages"
    return (
        f"{where}, {data}, {results.connections} connections, {results.rounds} rounds of {results.seconds:g} s, "
        f"{machine.date}. `×`: how many times as many todochat does; `%`: what share of a ceiling's, which has no "
        f"database, or is one (pgbench). Medians of the rounds.\n\n{table(head, rows)}"
    )


def _others(results: Results) -> list[str]:
    return [name for name in results.contenders if name != "todochat"]


def full_report(results: Results) -> str:
    """All that a reader may want to know."""
    parts = [
        "# What `make bench` measured\n",
        (
            f"Written by `python -m tests.bench`; the raw figures are in [figures.json](figures.json). Timing took "
            f"{results.timed_seconds:.0f} s, everything {results.all_seconds:.0f} s.\n"
        ),
        markdown(results),
        "![requests per second](chart.svg)\n",
        "The same ratios with the range of the rounds:\n",
        _ratio_table(results),
        f"## Latency and CPU at {results.connections} connections\n",
        (
            "Milliseconds; CPU is microseconds for each request (or milliseconds for 1,000), of the service / of "
            "PostgreSQL's processes.\n"
        ),
        _latency_table(results, results.samples),
    ]
    if results.many_samples:
        parts += [
            f"## Tails at {results.many} connections\n",
            _latency_table(results, results.many_samples),
        ]
    if results.part_samples:
        parts += [
            "## todochat at 70 % of what it bears\n",
            f"Requests come evenly over {results.many} connections; a time counts from when the request was due.\n",
            table(
                ["operation", "requests/s", "p50", "p99", "longest"],
                [
                    [
                        OPERATIONS[_operation(sample.operation)],
                        f"{sample.per_second:,.0f}",
                        f"{sample.p50:.1f}",
                        f"{sample.p99:.1f}",
                        f"{sample.longest:.1f}",
                    ]
                    for sample in results.part_samples
                ],
            ),
        ]
    parts += ["## Between service and database\n", "Statements / round trips / transactions a request.\n"]
    parts += [
        table(
            ["operation", *(results.contenders[name] for name in results.wire)],
            [
                [label, *(_traffic(results.wire[name][operation]) for name in results.wire)]
                for operation, label in OPERATIONS.items()
            ],
        )
    ]
    parts += ["## Memory and start\n", _memory_table(results)]
    if results.layers:
        parts += ["## Where the service's time goes\n", _layers_text(results)]
    if results.database:
        parts += ["## The database by itself\n", _database_text(results)]
    if results.writes:
        parts += ["## Where PostgreSQL's time goes in a write\n", _parts_text(results)]
    if results.writes:
        parts += ["## What it costs\n", cost_text(results)]
    parts += ["## Targets\n", _targets_table(targets(results))]
    settings = ", ".join(f"{name} {value}" for name, value in results.machine.postgres.items())
    busy = max(sample.load_cpu for sample in results.samples if sample.contender not in CEILINGS)
    parts += [
        "## What to know of it\n",
        (
            f"PostgreSQL's settings: {settings}. Python {results.machine.python}, Linux {results.machine.kernel}. The "
            f"load took at most {busy:.0%} of a core, but for ceilings, which may be higher than told where it took "
            "all of one; where there are more than two, it has one to itself. Every contender has a pool of 10 "
            "connections and one process.\n"
        ),
    ]
    return "\n".join(parts)


def _operation(name: str) -> Operation:
    return next(operation for operation in OPERATIONS if operation == name)


def _traffic(counted: Traffic) -> str:
    return f"{counted.statements} / {counted.round_trips} / {counted.transactions}"


def _ratio_table(results: Results) -> str:
    others = _others(results)
    return table(
        ["operation", *(results.contenders[name] for name in others)],
        [
            [label, *(spread(ratios(results, name, operation), ratio_form(name)) for name in others)]
            for operation, label in OPERATIONS.items()
        ],
    )


def _latency_table(results: Results, samples: Sequence[Sample]) -> str:
    rows: list[list[str]] = []
    for operation, label in OPERATIONS.items():
        for name, shown in results.contenders.items():
            found = [s for s in samples if (s.contender, s.operation) == (name, operation)]
            if found:
                rows.append(
                    [
                        label,
                        shown,
                        spread([s.per_second for s in found], "{:,.0f}"),
                        f"{median(s.p50 for s in found):.1f}",
                        f"{median(s.p99 for s in found):.1f}",
                        f"{median(s.service_cpu for s in found):.0f} / {median(s.database_cpu for s in found):.0f}",
                    ]
                )
    return table(["operation", "contender", "requests/s", "p50", "p99", "CPU"], rows)


def _memory_table(results: Results) -> str:
    rows = [
        [label, f"{results.starts[name]:.1f}", f"{results.memory[name]:.0f}", f"{results.served.get(name, 0):,}"]
        for name, label in results.contenders.items()
    ]
    return table(["contender", "start to first answer, s", "memory, MiB", "after so many requests"], rows)


# The database by itself


def _database_text(results: Results) -> str:
    rows: list[list[str]] = []
    for operation, label in OPERATIONS.items():
        cells = [
            f"{database_middle(results, operation, variant, 'per_second'):,.0f} · "
            f"{database_middle(results, operation, variant, 'cpu'):.0f}"
            for variant in ("full", "secured", "bare")
        ]
        more = database_middle(results, operation, "secured", "cpu") / database_middle(
            results, operation, "bare", "cpu"
        )
        rows.append([label, *cells, f"{more - 1:+.0%}"])
    security = table(
        ["operation", "as the service", "without the account's check", "without row security too", "its CPU"], rows
    )
    rows = []
    for operation, label in {
        "create": "create a todo",
        "append": "append a message",
        "update": "update a todo",
    }.items():
        cpu, wal = (_audit_ratio(results, operation, field) for field in ("cpu", "wal"))
        on, off = (database_middle(results, operation, variant, "wal") for variant in ("audited", "unaudited"))
        rows.append([label, f"{cpu - 1:+.0%}", f"{on:.0f} / {off:.0f}", f"{wal:.2f}×"])
    audit = table(["write", "CPU", "bytes of WAL with / without", "WAL"], rows)
    return (
        "pgbench with the service's statements, prepared, one pipelined transaction each: transactions per second · "
        f"microseconds of CPU a transaction. It has both cores to itself.\n\n{security}\nThe audit's triggers, on "
        f"against off:\n\n{audit}"
    )


def _layers_text(results: Results) -> str:
    rows = [
        [f"[{label}]({flame_name(operation)})", *(f"{results.layers[operation][layer]:.0%}" for layer in LAYERS)]
        for operation, label in OPERATIONS.items()
    ]
    return (
        "Shares of todochat's samples by whose code ran, innermost, by py-spy; what it waits isn't in it. A system "
        "call to the client or to PostgreSQL also does the kernel's work of delivering, and of waking who gets it. "
        f"Each operation leads to its flame graph.\n\n{table(['operation', *LAYERS], rows)}"
    )


def _parts_text(results: Results) -> str:
    today = results.writes
    rows = [["**today**", *(f"**{today[name].cpu:.0f}**" for name in STATEMENTS)]]
    rows += [[part, *(f"{saved[name]:+.0f}" for name in STATEMENTS)] for part, saved in results.parts.items()]
    rows += [
        ["WAL without images of pages, bytes", *(f"{today[name].wal:,.0f}" for name in STATEMENTS)],
        ["growth of tables and indexes, bytes", *(f"{today[name].disk:,.0f}" for name in STATEMENTS)],
    ]
    return (
        "Microseconds of the backend's CPU for a transaction, and how many fewer it takes without one part: medians "
        "over batches of the same rounds. Parts overlap; what a copy shows of which nothing was taken away is noise. "
        f"`nothing` is a transaction with the context, the check and COMMIT alone.\n\n{table(['', *STATEMENTS], rows)}"
    )


def _audit_ratio(results: Results, operation: str, field: str) -> float:
    return database_middle(results, operation, "audited", field) / database_middle(
        results, operation, "unaudited", field
    )


# The targets


def _targets_table(found: Sequence[Target]) -> str:
    rows = [[target.text, target.found, "reached" if target.reached else "**not reached**"] for target in found]
    return table(["target", "found", ""], rows)


def main() -> None:
    """Write the report, the chart and the README's table anew from the figures of the last run."""
    folder = REPOSITORY / "tests" / "bench" / "results"
    results = msgspec.json.decode((folder / "figures.json").read_bytes(), type=Results)
    write(results, folder)
    write_readme(results, REPOSITORY / "README.md", folder)


if __name__ == "__main__":
    main()
