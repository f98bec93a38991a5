"""What came out, as a Markdown table, an SVG chart and the targets; and the same in README.md between two markers."""

import os
import platform
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from xml.sax.saxutils import escape

import msgspec

from service.commands.demo import Size
from tests.bench.ceiling import DatabaseSample
from tests.bench.measure import CORES, REPOSITORY, BenchError, Sample
from tests.bench.operations import OPERATIONS, READS, SAID, Operation
from tests.bench.profiles import LAYERS, flame_name
from tests.bench.schema import STATEMENTS, TODAY, Cost
from tests.bench.services import CEILINGS
from tests.bench.wire import Traffic

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
COLOURS = {
    "todochat": "#2563eb",
    "fastapi": "#dc2626",
    "fastapi-psycopg": "#f472b6",
    "litestar-alchemy": "#7c3aed",
    "fastify": "#16a34a",
    "postgrest": "#d97706",
}
"""Of the bars: ceilings have none."""


DATABASE_CPU: dict[Operation, int] = {"create": 300, "append": 300, "turn": 450}
"""What a write may cost PostgreSQL, in microseconds."""


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
    parts: dict[str, dict[str, Cost]]
    """What a transaction costs PostgreSQL: today, and without a part of the schema."""
    timed_seconds: float
    all_seconds: float


class Target(msgspec.Struct, frozen=True):
    """A line of design's targets: what was wanted, what came out, whether that is enough."""

    text: str
    found: str
    reached: bool


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
    """Put the table and the chart between the markers of a README. Raises BenchError when they aren't there."""
    before, after = split_readme(readme)
    place = os.path.relpath(folder, readme.parent)
    image = f"![requests per second, by operation and contender]({place}/chart.svg)"
    readme.write_text(f"{before}{BEGIN}\n{markdown(results)}\n{image}\n{END}{after}", encoding="utf-8")


# The table


def rates(results: Results, contender: str, operation: str) -> list[float]:
    """Requests per second, round by round."""
    return _values(results.samples, contender, operation, lambda sample: sample.per_second)


def ratios(results: Results, contender: str, operation: str) -> list[float]:
    """How many times as many todochat did, round by round: both ran within the same seconds."""
    pairs = zip(rates(results, "todochat", operation), rates(results, contender, operation), strict=True)
    return [ours / theirs for ours, theirs in pairs]


def _values(samples: Iterable[Sample], contender: str, operation: str, value: Callable[[Sample], float]) -> list[float]:
    return [value(sample) for sample in samples if (sample.contender, sample.operation) == (contender, operation)]


def _middle(samples: Iterable[Sample], contender: str, operation: str, value: Callable[[Sample], float]) -> float:
    return median(_values(samples, contender, operation, value))


def _spread(values: Sequence[float], form: str = "{:.1f}") -> str:
    low, middle, high = (form.format(value) for value in (min(values), median(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


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
        row += [_ratio_form(name).format(median(ratios(results, name, operation))) for name in _others(results)]
        if pgbench:
            row.append(f"{_database_middle(results, operation, 'full', 'per_second'):,.0f}")
        rows.append(row)
    memory = [f"{results.memory[name]:.0f}" for name in results.contenders]
    rows.append(["memory of the process, MiB", *memory, *([""] if pgbench else [])])
    where = f"{machine.cores} cores ({machine.cpu}), PostgreSQL {machine.postgres['server_version']} on a Unix socket"
    data = f"{machine.users:,} users, {machine.todos:,} todos, {machine.messages:,} messages"
    return (
        f"{where}, {data}, {results.connections} connections, {results.rounds} rounds of {results.seconds:g} s, "
        f"{machine.date}. `×`: how many times as many todochat does; `%`: what share, beside what does without a "
        f"database. Medians of the rounds.\n\n{table(head, rows)}"
    )


def _others(results: Results) -> list[str]:
    return [name for name in results.contenders if name != "todochat"]


def _ratio_form(name: str) -> str:
    return "{:.0%}" if name in CEILINGS else "{:.1f}×"


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
    if results.parts:
        parts += ["## Where PostgreSQL's time goes in a write\n", _parts_text(results.parts)]
    parts += ["## Targets\n", _targets_table(targets(results))]
    settings = ", ".join(f"{name} {value}" for name, value in results.machine.postgres.items())
    busy = max(sample.load_cpu for sample in results.samples)
    parts += [
        "## What to know of it\n",
        (
            f"PostgreSQL's settings: {settings}. Python {results.machine.python}, Linux {results.machine.kernel}. The "
            f"load took at most {busy:.0%} of a core; where there are more than two, it has one to itself. Every "
            "contender has a pool of 10 connections and one process.\n"
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
            [label, *(_spread(ratios(results, name, operation), _ratio_form(name)) for name in others)]
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
                        _spread([s.per_second for s in found], "{:,.0f}"),
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


def _database_middle(results: Results, operation: str, variant: str, field: str) -> float:
    found = [s for s in results.database if (s.operation, s.variant) == (operation, variant)]
    return median(getattr(sample, field) for sample in found)


def _database_text(results: Results) -> str:
    rows: list[list[str]] = []
    for operation, label in OPERATIONS.items():
        cells = [
            f"{_database_middle(results, operation, variant, 'per_second'):,.0f} · "
            f"{_database_middle(results, operation, variant, 'cpu'):.0f}"
            for variant in ("full", "secured", "bare")
        ]
        more = _database_middle(results, operation, "secured", "cpu") / _database_middle(
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
        on, off = (_database_middle(results, operation, variant, "wal") for variant in ("audited", "unaudited"))
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


def _parts_text(parts: dict[str, dict[str, Cost]]) -> str:
    today = parts[TODAY]
    rows = [[f"**{TODAY}**", *(f"**{today[name].cpu:.0f}**" for name in STATEMENTS)]]
    rows += [
        [part, *(f"{today[name].cpu - costs[name].cpu:+.0f}" for name in STATEMENTS)]
        for part, costs in parts.items()
        if part != TODAY
    ]
    rows += [
        ["WAL without images of pages, bytes", *(f"{today[name].wal:,.0f}" for name in STATEMENTS)],
        ["growth of tables and indexes, bytes", *(f"{today[name].disk:,.0f}" for name in STATEMENTS)],
    ]
    return (
        "Microseconds of the backend's CPU for a transaction, and how much of it goes when one part is taken away: the "
        "parts overlap, and what a copy without anything taken away shows is noise.\n\n"
        f"{table(['', *STATEMENTS], rows)}"
    )


def _audit_ratio(results: Results, operation: str, field: str) -> float:
    return _database_middle(results, operation, "audited", field) / _database_middle(
        results, operation, "unaudited", field
    )


# The targets


def targets(results: Results) -> list[Target]:
    """Each target that this run has figures for."""
    found: list[Target] = []
    writes: list[Operation] = [operation for operation in OPERATIONS if operation not in READS]
    bounds: list[tuple[str, Sequence[Operation], float]] = [
        ("fastapi", READS, 8),
        ("fastapi", writes, 4),
        ("postgrest", READS, 2.5),
        ("postgrest", writes, 1.5),
        ("fastify", list(OPERATIONS), 1.2),
    ]
    for name, operations, bound in bounds:
        if name in results.contenders:
            kind = {len(OPERATIONS): "every operation"}.get(
                len(operations), "reads" if operations == READS else "writes"
            )
            lowest = min((median(ratios(results, name, operation)), operation) for operation in operations)
            text = f"against {results.contenders[name]}, {kind}: ≥ {bound:g}×"
            found.append(Target(text, f"{lowest[0]:.2f}× ({OPERATIONS[lowest[1]]})", lowest[0] >= bound))
    if "litestar" in results.contenders:
        share = median(ratios(results, "litestar", "get"))
        found.append(Target("against a bare Litestar handler, a get: ≥ 55 %", f"{share:.0%}", share >= 0.55))
    counted = results.wire.get("todochat", {})
    if counted:
        most = max((each.round_trips, each.transactions) for each in counted.values())
        found.append(
            Target("round trips and transactions a request: 1 and 1", f"{most[0]} and {most[1]}", most == (1, 1))
        )
    if results.database:
        found += _database_targets(results)
    if results.many_samples:
        for kind, operations, bound in (("reads", READS, 40), ("writes", writes, 80)):
            most = max(
                (_middle(results.many_samples, "todochat", operation, lambda s: s.p99), operation)
                for operation in operations
            )
            text = f"p99 at {results.many} connections, {kind}: ≤ {bound} ms"
            found.append(Target(text, f"{most[0]:.1f} ms ({OPERATIONS[most[1]]})", most[0] <= bound))
    if results.part_samples:
        most = max(sample.p99 for sample in results.part_samples)
        found.append(Target("p99 at 70 % load, every operation: < 100 ms", f"{most:.1f} ms", most < 100))
    memory, served = results.memory["todochat"], results.served["todochat"]
    found.append(Target("memory: ≤ 90 MiB", f"{memory:.0f} MiB after {served:,} requests", memory <= 90))
    start = results.starts["todochat"]
    found.append(Target("start to first answer: ≤ 1.5 s", f"{start:.1f} s", start <= 1.5))
    return found


def _database_targets(results: Results) -> list[Target]:
    more = {
        operation: _database_middle(results, operation, "secured", "cpu")
        / _database_middle(results, operation, "bare", "cpu")
        for operation in OPERATIONS
    }
    share = {
        operation: median(rates(results, "todochat", operation))
        / _database_middle(results, operation, "full", "per_second")
        for operation in OPERATIONS
        if operation not in READS
    }
    most, least = max(more, key=lambda name: more[name]), min(share, key=lambda name: share[name])
    found = [
        Target(
            "row security and context: ≤ 25 % more database CPU",
            f"{more[most] - 1:+.0%} ({OPERATIONS[most]})",
            more[most] <= 1.25,
        ),
        Target(
            "against the database's own ceiling, writes: ≥ 60 %",
            f"{share[least]:.0%} ({OPERATIONS[least]})",
            share[least] >= 0.6,
        ),
    ]
    for operation, bound in DATABASE_CPU.items():
        cpu = _middle(results.samples, "todochat", operation, lambda sample: sample.database_cpu)
        text = f"PostgreSQL's CPU, {OPERATIONS[operation]}: ≤ {bound} µs"
        found.append(Target(text, f"{cpu:.0f} µs", cpu <= bound))
    if results.parts:
        disk = results.parts[TODAY]["message"].disk
        text = f"disk for a message of {len(SAID)} bytes, indexes and trail included: ≤ 900 bytes"
        found.append(Target(text, f"{disk:.0f} bytes", disk <= 900))
    return found


def _targets_table(found: Sequence[Target]) -> str:
    rows = [[target.text, target.found, "reached" if target.reached else "**not reached**"] for target in found]
    return table(["target", "found", ""], rows)


# The chart

_LEFT, _BAR, _GAP, _WIDTH = 190, 14, 18, 860


def chart(results: Results) -> str:
    """Requests per second as bars, the range of the rounds as a line; readable on light and dark pages.

    Ceilings are figures below the bars: a bar of a raw uvicorn's would leave the others a few pixels.
    """
    names = [name for name in results.contenders if name not in CEILINGS]
    ceilings = [name for name in results.contenders if name in CEILINGS]
    most = max(sample.per_second for sample in results.samples if sample.contender in names)
    scale = (_WIDTH - _LEFT - 150) / most
    pieces: list[str] = []
    top = 50
    for operation, label in OPERATIONS.items():
        middle_of_group = top + len(names) * _BAR / 2 + 4
        pieces.append(f'<text x="{_LEFT - 10}" y="{middle_of_group:.0f}" text-anchor="end">{escape(label)}</text>')
        for name in names:
            values = rates(results, name, operation)
            low, middle, high = (value * scale for value in (min(values), median(values), max(values)))
            centre = top + _BAR / 2
            pieces.append(
                f'<rect x="{_LEFT}" y="{top}" width="{middle:.1f}" height="{_BAR - 2}" fill="{COLOURS[name]}"/>'
                f'<path d="M{_LEFT + low:.1f} {centre - 1:.1f}H{_LEFT + high:.1f}" stroke="#111827" stroke-width="2"/>'
            )
            shown = f"{median(values):,.0f}"
            if name != "todochat":
                shown += f"  (todochat {median(ratios(results, name, operation)):.1f}×)"
            text_x = _LEFT + max(middle, high) + 6
            pieces.append(f'<text x="{text_x:.1f}" y="{top + _BAR - 4}" class="small">{shown}</text>')
            top += _BAR
        if ceilings:
            shown = ", ".join(
                f"{results.contenders[name]} {median(rates(results, name, operation)):,.0f}" for name in ceilings
            )
            pieces.append(f'<text x="{_LEFT}" y="{top + _BAR - 4}" class="small">no database: {escape(shown)}</text>')
            top += _BAR
        top += _GAP
    legend: list[str] = []
    x = 10
    for name in names:
        label = results.contenders[name]
        legend.append(f'<rect x="{x}" y="12" width="10" height="10" fill="{COLOURS[name]}"/>')
        legend.append(f'<text x="{x + 14}" y="21" class="small">{escape(label)}</text>')
        x += 30 + 6 * len(label)
    body = "\n".join(legend + pieces)
    style = (
        "text { font: 12px system-ui, sans-serif; fill: #111827; } .small { font-size: 10px; } .page { fill: #ffffff; }"
    )
    title = f"Requests per second, {results.connections} connections"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top + 10}" role="img">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n"
        f'<rect class="page" width="{_WIDTH}" height="{top + 10}"/>\n'
        f'<text x="{_LEFT}" y="40" class="small">{title}; the line is the range of the rounds</text>\n{body}\n</svg>\n'
    )


def main() -> None:
    """Write the report, the chart and the README's table anew from the figures of the last run."""
    folder = REPOSITORY / "tests" / "bench" / "results"
    results = msgspec.json.decode((folder / "figures.json").read_bytes(), type=Results)
    write(results, folder)
    write_readme(results, REPOSITORY / "README.md", folder)


if __name__ == "__main__":
    main()
