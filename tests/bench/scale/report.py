"""The report of growth: results/scale.md from what scale.json keeps, the parts in their order."""

from collections.abc import Iterator, Mapping

from tests.bench.report import table
from tests.bench.scale.results import Part


def markdown(parts: Mapping[str, Part], order: list[str]) -> str:
    """The whole report."""
    lines = ["# How todochat's cost grows\n", "Written by `python -m tests.bench.scale`, each part when it last ran.\n"]
    for name in order:
        if name in parts:
            lines += _section(parts[name])
    return "\n".join(lines)


def _section(part: Part) -> Iterator[str]:
    found, size = part.findings, part.size
    yield f"## {found.title}\n"
    yield f"{found.text}\n"
    for one in found.tables:
        if one.text:
            yield f"{one.text}\n"
        yield table(one.head, one.rows)
    if found.targets:
        rows = [[one.text, one.found, "reached" if one.reached else "**not reached**"] for one in found.targets]
        yield table(["target", "found", ""], rows)
    for failure in found.failures:
        yield f"**Failed:** {failure}.\n"
    settings = ", ".join(f"{name} {value}" for name, value in part.settings.items())
    rows_in_it = f"{size.users:,} users, {size.todos:,} todos, {size.messages:,} messages"
    yield f"{part.date}, {part.seconds:,.0f} s, {part.machine}; {rows_in_it}; {settings}.\n"
