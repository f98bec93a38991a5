"""What a million turns of a chatbot cost a day, computed from what was measured.

A turn here is what a chatbot back end does for one: it appends two messages and gets the last 20 back, lists 20 todos,
and makes one todo. Most turns make none, so this is more than a usual one.
"""

import textwrap
from collections.abc import Callable

from tests.bench.figures import Results, middle
from tests.bench.measure import Sample
from tests.bench.operations import Operation

TURNS = 1_000_000
WIDTH = 150
"""Characters of a line, as in the README."""
PEAK = 4
"""How many times the mean of a day comes in its busiest hour."""
_DAY = 86_400
_EACH: tuple[Operation, ...] = ("turn", "list", "create")


def cost_text(results: Results) -> str:
    """A few lines for the README; empty where the schema's cost wasn't measured."""
    if not results.writes:
        return ""
    service = _microseconds(results, lambda sample: sample.service_cpu)
    database = _microseconds(results, lambda sample: sample.database_cpu)
    turn, create = results.writes["turn"], results.writes["create"]
    wal, disk = turn.wal + create.wal, turn.disk + create.disk
    cores = results.machine.cores
    most = cores * 1e6 / (service + database) * _DAY / PEAK / 1e6
    share = (service + database) * TURNS / 1e6 / _DAY
    text = (
        "A million turns a day, each of two messages with the last 20 for the model, a list of 20 todos and a new todo,"
        f" cost {service * TURNS / 1e6 / 3600:.1f} hours of a core in the service and "
        f"{database * TURNS / 1e6 / 3600:.1f} in PostgreSQL: {share:.0%} of one core, and {PEAK} times that in a busy "
        f"hour. They write {wal * TURNS / 1e9:.1f} GB of WAL, images of pages after each checkpoint besides, and "
        f"{disk * TURNS / 1e9:.1f} GB of tables, indexes and trail, {disk * TURNS * 365 / 1e12:.1f} TB a year: **the "
        f"disk is the first limit**. {cores} cores are full at about {most:.0f} million."
    )
    return f"\n{textwrap.fill(text, WIDTH)}\n"


def _microseconds(results: Results, value: Callable[[Sample], float]) -> float:
    """Of all requests of one turn."""
    return sum(middle(results.samples, "todochat", operation, value) for operation in _EACH)
