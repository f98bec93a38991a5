"""The chart of growth: a panel for each kind of cost, cost against size, both logarithmic; the dashes grow linearly."""

import math
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from tests.bench.scale.results import Series

WIDTH, HEIGHT = 260, 170
"""Of a panel's plot, without its texts."""
LEFT, TOP, RIGHT, BOTTOM, COLUMNS = 56, 34, 24, 70, 3
COLOURS = ("#2563eb", "#16a34a", "#d97706", "#dc2626", "#7c3aed", "#0891b2")
_STYLE = (
    "text { font: 11px system-ui, sans-serif; fill: #111827; } .small { font-size: 9px; } .page { fill: #ffffff; }"
    " .grid { stroke: #e5e7eb; } .frame { fill: none; stroke: #9ca3af; }"
    " .linear { stroke: #6b7280; stroke-dasharray: 4 3; } polyline { fill: none; stroke-width: 1.8; }"
)


def chart(series: Sequence[Series]) -> str:
    """An SVG with a page of its own, so that it can be read on light and dark ones."""
    panels: dict[str, list[Series]] = {}
    for one in [one for one in series if one.points]:
        panels.setdefault(one.panel, []).append(one)
    across, down = LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM
    height = -(-len(panels) // COLUMNS) * down + 8
    body: list[str] = []
    for number, (title, shown) in enumerate(panels.items()):
        x, y = number % COLUMNS * across + LEFT, number // COLUMNS * down + TOP
        body.append(f'<g transform="translate({x} {y})">')
        body += _panel(number, title, shown)
        body.append("</g>")
    title = "Cost against size, both logarithmic; the dashes grow linearly"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {COLUMNS * across} {height}" role="img">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n"
        f'<rect class="page" width="{COLUMNS * across}" height="{height}"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


class _Axis:
    """From values to places between 0 and ``length``, over whole decades."""

    def __init__(self, values: Sequence[float], length: int) -> None:
        self.first = math.floor(math.log10(min(values)))
        self.last = max(self.first + 1, math.ceil(math.log10(max(values))))
        self.length = length

    def place(self, value: float) -> float:
        return (math.log10(value) - self.first) / (self.last - self.first) * self.length

    def ticks(self) -> Iterator[tuple[float, str]]:
        for power in range(self.first, self.last + 1):
            yield self.place(10.0**power), f"{10.0**power:,.0f}" if power >= 0 else f"{10.0**power:g}"


def _panel(number: int, title: str, shown: Sequence[Series]) -> Iterator[str]:
    points = [point for one in shown for point in one.points]
    sizes, costs = _Axis([size for size, _ in points], WIDTH), _Axis([cost for _, cost in points], HEIGHT)
    yield f'<text x="0" y="-12">{escape(title)}, {escape(shown[0].unit)}</text>'
    yield f'<clipPath id="plot{number}"><rect width="{WIDTH}" height="{HEIGHT}"/></clipPath>'
    for x, label in sizes.ticks():
        yield f'<path class="grid" d="M{x:.1f} 0V{HEIGHT}"/>'
        yield f'<text class="small" x="{x:.1f}" y="{HEIGHT + 12}" text-anchor="middle">{label}</text>'
    for y, label in costs.ticks():
        yield f'<path class="grid" d="M0 {HEIGHT - y:.1f}H{WIDTH}"/>'
        yield f'<text class="small" x="-5" y="{HEIGHT - y + 3:.1f}" text-anchor="end">{label}</text>'
    yield f'<rect class="frame" width="{WIDTH}" height="{HEIGHT}"/>'
    (size, cost), largest = min(points), max(points)[0]
    linear = (size, cost), (largest, cost * largest / size)
    yield f'<polyline class="linear" clip-path="url(#plot{number})" points="{_places(linear, sizes, costs)}"/>'
    for place, (one, colour) in enumerate(zip(shown, COLOURS, strict=False)):
        yield f'<polyline stroke="{colour}" points="{_places(one.points, sizes, costs)}"/>'
        for at_x, at_y in one.points:
            yield f'<circle cx="{sizes.place(at_x):.1f}" cy="{HEIGHT - costs.place(at_y):.1f}" r="2" fill="{colour}"/>'
        x, y = place % 2 * 138, HEIGHT + 34 + place // 2 * 12
        yield f'<rect x="{x - 8}" y="{y - 8}" width="8" height="8" fill="{colour}"/>'
        yield f'<text class="small" x="{x + 3}" y="{y}">{escape(one.name)}</text>'
    yield f'<text class="small" x="{WIDTH}" y="{HEIGHT + 22}" text-anchor="end">{escape(shown[0].of)}</text>'


def _places(points: Sequence[tuple[float, float]], sizes: _Axis, costs: _Axis) -> str:
    return " ".join(f"{sizes.place(size):.1f},{HEIGHT - costs.place(cost):.1f}" for size, cost in points)
