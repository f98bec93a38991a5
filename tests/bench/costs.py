"""What a million turns of a chatbot cost a day, computed from what was measured.

A turn here is what a chatbot back end does for one: it appends two messages and gets the last 20 back, lists 20 todos,
and makes one todo. Most turns make none, so this is more than a usual one.
"""

from collections.abc import Callable

from tests.bench.figures import Results, middle
from tests.bench.measure import Sample
from tests.bench.operations import Operation
from tests.bench.schema import TODAY

TURNS = 1_000_000
PEAK = 4
"""How many times the mean of a day comes in its busiest hour."""
_DAY = 86_400
_EACH: tuple[Operation, ...] = ("turn", "list", "create")


def cost_text(results: Results) -> str:
    """A few lines for the README; empty where the schema's cost wasn't measured."""
    if not results.parts:
        return ""
    service = _microseconds(results, lambda sample: sample.service_cpu)
    database = _microseconds(results, lambda sample: sample.database_cpu)
    today = results.parts[TODAY]
    wal, disk = (getattr(today["turn"], name) + getattr(today["create"], name) for name in ("wal", "disk"))
    cores = results.machine.cores
    most = cores * 1e6 / (service + database) * _DAY / PEAK / 1e6
    return (
        f"\nA million turns a day (each appends two messages and gets the last 20, lists 20 todos and makes one) cost\n"
        f"- **CPU**: {service / 1e6 * TURNS / 3600:.1f} hours of a core in the service and"
        f" {database / 1e6 * TURNS / 3600:.1f} in PostgreSQL, so {(service + database) * TURNS / 1e6 / _DAY:.0%} of one"
        f" core on the average, and {PEAK} times that in a busy hour.\n"
        f"- **WAL**: {wal * TURNS / 1e9:.1f} GB, and the images of pages after each checkpoint besides.\n"
        f"- **Disk**: {disk * TURNS / 1e9:.1f} GB with indexes and audit trail, {disk * TURNS * 365 / 1e12:.1f} TB a"
        f" year.\n"
        f"\nThe disk is the first limit; {cores} cores are full at about {most:.0f} million turns a day.\n"
    )


def _microseconds(results: Results, value: Callable[[Sample], float]) -> float:
    """Of all requests of one turn."""
    return sum(middle(results.samples, "todochat", operation, value) for operation in _EACH)
