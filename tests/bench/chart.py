"""The chart of a run: requests per second, as an SVG."""

from statistics import median
from xml.sax.saxutils import escape

from tests.bench.figures import Results, rates, ratios
from tests.bench.operations import OPERATIONS
from tests.bench.services import CEILINGS

COLOURS = {
    "todochat": "#2563eb",
    "fastapi": "#dc2626",
    "fastapi-psycopg": "#f472b6",
    "litestar-alchemy": "#7c3aed",
    "fastify": "#16a34a",
    "postgrest": "#d97706",
}
"""Of the bars: ceilings have none."""

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
