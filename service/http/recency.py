"""Pages of what was changed last, which moves while a list is walked."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from service.db.queries import Looked
from service.http.fields import Time
from service.http.paging import Page, decode_cursor, one_behind_the_other, page_of

LAST_TIME = datetime.max.replace(tzinfo=UTC)
LAST_ID = UUID(int=(1 << 128) - 1)
FIRST_TIME = datetime.min.replace(tzinfo=UTC)
FIRST_ID = UUID(int=0)
"""Where a list by a time, or by ids, begins and ends: nothing lies before the first or behind the last."""


async def newest_first(
    ask: Callable[..., Awaitable[list[Looked[Any]]]],
    cursor: str | None,
    limit: int,
    question: Any,
    complete: Callable[[list[Any]], int] = len,
) -> Page[Any]:
    """A page by ``updated_at``, the newest first, of rows that have it, an ``id`` and a ``user_id``.

    A row that is changed while somebody reads the list moves to its top, which they have read already. So the list goes
    on behind its oldest row with the rows that were changed since the first page was read; some of them it has shown
    before. In this way no row is missed that exists all the time, with one exception: ``updated_at`` is the time of the
    change, and other transactions see the change only when it is committed. Where that happens after the first page was
    read, the row may have its place among the rows that were read already.
    ``ask`` gets ``limit + 1`` rows behind each of some places, an order and a key; ``complete`` says how many of the
    first rows can be answered.
    """
    down: Looked[Any]
    up: Looked[Any] = Looked([], None)
    if cursor is None:
        now = datetime.now(UTC)
        (down,) = await ask(("-updated_at", LAST_TIME, LAST_ID, LAST_ID))
        newest = down.rows[0] if down.rows else down.last
        # An import may have brought rows from a clock that is ahead of this one.
        since = now if newest is None else min(newest.updated_at, now)
    else:
        is_up, *key, since = decode_cursor(cursor, question, tuple[bool, Time, UUID, UUID, Time])
        if is_up:
            down = Looked([], None)
            (up,) = await ask(("updated_at", *key))
        else:
            down, up = await ask(("-updated_at", *key), ("updated_at", since, LAST_ID, LAST_ID))
    found = one_behind_the_other(down, up)

    def place(row: Any) -> tuple[bool, datetime, UUID, UUID, datetime]:
        is_up = any(row is other for other in (*up.rows, up.last))
        return is_up, row.updated_at, row.id, row.user_id, since

    rows = found.rows[: limit + 1]
    return page_of(rows, min(limit, complete(rows)), question, place, found.last)
