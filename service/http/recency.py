"""Pages of what was changed last, which moves while a list is walked."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from service.db.caller import Caller
from service.db.queries import Statement
from service.http.fields import Time
from service.http.paging import Page, decode_cursor, page_of

LAST_TIME = datetime.max.replace(tzinfo=UTC)
LAST_ID = UUID(int=(1 << 128) - 1)


async def newest_first(
    caller: Caller,
    cursor: str | None,
    limit: int,
    question: Any,
    down: Callable[..., Statement[list[Any]]],
    up: Callable[..., Statement[list[Any]]],
    complete: Callable[[list[Any]], int] = len,
) -> Page[Any]:
    """A page by ``updated_at``, the newest first, of rows that have it and an ``id``.

    A row that is changed while the list is walked jumps to its top, past which the walk has come. So behind the oldest
    rows come those that were changed since the first page was read, some of them again: no row that stays is missed.
    ``down`` and ``up`` make the query of each direction, from ``after``, ``after_id`` and ``row_limit``; ``complete``
    says how many of the first rows can be answered.
    """
    row_limit = limit + 1
    if cursor is None:
        rows = await caller.run(down(after=LAST_TIME, after_id=LAST_ID, row_limit=row_limit))
        since = rows[0].updated_at if rows else LAST_TIME
    else:
        is_up, after, after_id, since = decode_cursor(cursor, question, tuple[bool, Time, UUID, Time])
        if is_up:
            rows = await caller.run(up(after=after, after_id=after_id, row_limit=row_limit))
        else:
            older, changed = await caller.run(
                down(after=after, after_id=after_id, row_limit=row_limit),
                up(after=since, after_id=LAST_ID, row_limit=row_limit),
            )
            rows = [*older, *changed][:row_limit]

    def place(row: Any) -> tuple[bool, datetime, UUID, datetime]:
        return row.updated_at > since, row.updated_at, row.id, since

    return page_of(rows, min(limit, complete(rows)), question, place)
