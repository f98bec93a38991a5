"""What it means when a query finds no row: 404, the same for what is missing and what is somebody else's; or 412."""

from typing import Any, TypeVar

from service.db.caller import Caller
from service.db.database import TRANSACTION_SECONDS
from service.db.queries import Statement
from service.problems import Problem

T = TypeVar("T")


def found(row: T | None) -> T:
    """The row. Raises ``not_found`` when there is none."""
    if row is None:
        raise Problem("not_found")
    return row


async def changed(
    caller: Caller,
    change: Statement[T | None],
    get: Statement[Any],
    noun: str,
    *behind: Statement[Any],
    seconds: float = TRANSACTION_SECONDS,
) -> T:
    """Run a change of one row, or its deletion, with what has to run behind it, and return what it returns.

    Raises ``not_found``, or ``version_mismatch`` when the row that ``get`` finds is not at the version asked for.
    """
    row = (await caller.run_all([change, *behind], seconds=seconds))[0]
    if row is None:
        raise await why_unchanged(caller, change, get, noun)
    return row


async def why_unchanged(caller: Caller, change: Statement[Any], get: Statement[Any], noun: str) -> Problem:
    """Why a change found no row: there is none to be seen, or it has moved on from the version asked for."""
    row = await caller.run(get)
    # Where no version was asked for, there was no row at that moment: an undo has brought it back since.
    if row is None or change.values["version"] is None:
        return Problem("not_found")
    return Problem("version_mismatch", f"The {noun} is at version {row.version}.")
