"""How fast a cost grows with size, and whether that is faster than linear.

A cost is taken for ``fixed + factor * size ** exponent``, and a measured one for that, give or take some percent. The
exponent is the one that fits best. It is too large only if none up to LINEAR fits nearly as well: with a fixed cost and
noise, many exponents fit the same figures, and figures that a linear cost explains are no sign of another.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tests.bench.scale.results import Series

LINEAR = 1.15
"""Up to here it is called linear; size times its logarithm has 1.1 between 1,000 and 100,000."""
NOISE = 0.07
"""How far off, relatively, a figure usually is."""
DEVIATIONS = 3.0
"""So many times as far off would all of them be by chance once in some hundred series."""
_EXPONENTS = [step / 20 for step in range(1, 81)]

Points = Sequence[tuple[float, float]]


class Growth(NamedTuple):
    """How a cost grows: as slopes, log-log, over all and between one size and the next; and without its fixed cost."""

    over_all: float
    neighbours: list[float]
    exponent: float
    """Of what comes to the fixed cost; where noise leaves it open, the best up to LINEAR."""
    is_faster_than_linear: bool


def growth(points: Points) -> Growth:
    """Of at least two points, sizes and costs greater than 0, in the order of the sizes."""
    fits = [_fit(points, exponent) for exponent in _EXPONENTS]
    best = min(fits, key=lambda fit: fit.error)
    linear = min((fit for fit in fits if fit.exponent <= LINEAR), key=lambda fit: fit.error)
    slopes = [_slope(one, other) for one, other in itertools.pairwise(points)]
    is_faster = linear.error - best.error > (DEVIATIONS * NOISE) ** 2
    return Growth(_slope(points[0], points[-1]), slopes, (best if is_faster else linear).exponent, is_faster)


class _Fit(NamedTuple):
    exponent: float
    error: float
    """The sum of the squares of the relative errors."""


def _slope(one: tuple[float, float], other: tuple[float, float]) -> float:
    return math.log(other[1] / one[1]) / math.log(other[0] / one[0])


def _fit(points: Points, exponent: float) -> _Fit:
    """The fixed cost and the factor, neither below 0, with the least sum of squares of relative errors."""
    largest = points[-1][0]
    rows = [(1 / cost, (size / largest) ** exponent / cost) for size, cost in points]
    aa, ab, bb = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    a, b = sum(row[0] for row in rows), sum(row[1] for row in rows)
    determinant = aa * bb - ab * ab
    found = [(0.0, b / bb), (a / aa, 0.0)]
    if determinant > 0:
        found.append(((a * bb - b * ab) / determinant, (aa * b - ab * a) / determinant))
    fits = [
        _Fit(exponent, sum((fixed * row[0] + factor * row[1] - 1) ** 2 for row in rows))
        for fixed, factor in found
        if fixed >= 0 and factor >= 0
    ]
    return min(fits, key=lambda fit: fit.error)


def failures(series: Iterable[Series]) -> list[str]:
    """What is to be said of those that are bounded and grow faster than linear."""
    grown = [(one, growth(one.points)) for one in series if one.is_bounded and len(one.points) > 1]
    return [
        f"{one.panel}, {one.name}: grows by {one.of} to the power of {found.exponent:.2f}, faster than linear"
        for one, found in grown
        if found.is_faster_than_linear
    ]
