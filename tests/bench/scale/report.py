"""The report of growth: results/scale.md and its chart from what scale.json keeps, the parts in their order."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.bench.figures import table
from tests.bench.scale.chart import chart
from tests.bench.scale.growth import growth
from tests.bench.scale.results import Part, Series


def write(parts: Mapping[str, Part], order: Sequence[str], folder: Path) -> str:
    """Write report and chart into the folder; the report's text."""
    found = [parts[name] for name in order if name in parts]
    series = [one for part in found for one in part.findings.series]
    text = _markdown(found, has_chart=bool(series))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scale.md").write_text(text, encoding="utf-8")
    if series:
        (folder / "scale.svg").write_text(chart(series), encoding="utf-8")
    return text


def _markdown(parts: Sequence[Part], *, has_chart: bool) -> str:
    lines = ["# How todochat's cost grows\n", "Written by `python -m tests.bench.scale`, each part when it last ran.\n"]
    if has_chart:
        lines.append("![cost against size, both logarithmic; the dashes grow linearly](scale.svg)\n")
    for part in parts:
        lines += _section(part)
    return "\n".join(lines)


def _section(part: Part) -> Iterator[str]:
    found, size = part.findings, part.size
    yield f"## {found.title}\n"
    yield f"{found.text}\n"
    for one in found.tables:
        if one.text:
            yield f"{one.text}\n"
        yield table(one.head, one.rows)
    if found.series:
        yield (
            "How it grows, as slopes of the logarithms (1 is linear, 0 is not at all); for what may grow no faster "
            "than linear, also the power of the size once the fixed cost is out.\n"
        )
        yield table(
            ["what", "between neighbours", "over all", "fixed cost out"], [_slopes(one) for one in found.series]
        )
    if found.targets:
        rows = [[one.text, one.found, "reached" if one.reached else "**not reached**"] for one in found.targets]
        yield table(["target", "found", ""], rows)
    for failure in found.failures:
        yield f"**Failed:** {failure}.\n"
    settings = ", ".join(f"{name} {value}" for name, value in part.settings.items())
    rows_in_it = f"{size.users:,} users, {size.todos:,} todos, {size.messages:,} messages"
    yield f"{part.date}, {part.seconds:,.0f} s, {part.machine}; {rows_in_it}; {settings}.\n"


def _slopes(series: Series) -> list[str]:
    name = f"{series.panel}: {series.name}"
    if len(series.points) < 2:
        return [name, "", "", ""]
    found = growth(series.points)
    slopes = ", ".join(f"{slope:.2f}" for slope in found.neighbours)
    return [name, slopes, f"{found.over_all:.2f}", f"{found.exponent:.2f}" if series.is_bounded else ""]
