"""The audit trail: every change to a user's data, as a list to search and as a feed to follow.

Triggers write it, in the transaction of the change. What a column became is not kept in its entry but put together
when it is read: the next entry of the same row has it as its old value, or else the row has it still.

An undo goes around the rules of transitions and past due dates, since going back to what was is no transition, but not
around the rule that an assignee is active.
"""

import logging
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from litestar import get, post
from litestar.params import FromPath
from msgspec import Meta

from service.db.queries import BEGIN_RESTORING, Count, Many, Maybe, One, Statement
from service.http.fields import Time, check_time
from service.http.idempotency import idempotent
from service.http.missing import found
from service.http.paging import Cursor, Limit, Page, PageQuery, decode_cursor, encode_cursor
from service.http.request import Request
from service.problems import Problem, invalid

log = logging.getLogger(__name__)

Action = Annotated[Literal["insert", "update", "delete"], Meta(title="AuditAction")]
Table = Annotated[
    Literal["users", "identities", "todos", "conversations", "messages", "todo_conversation_links"],
    Meta(title="AuditTable"),
]
Changes = Annotated[
    msgspec.Raw,
    Meta(
        extra_json_schema={
            "type": "object",
            "additionalProperties": {"type": "array", "items": {}, "minItems": 2, "maxItems": 2},
            "description": "Column → [before, after]. An update has the changed columns, `updated_at` and `version` "
            "among them; an insert and a delete every column, with null on the missing side. Password hashes never.",
        }
    ),
]

LOOKED_AT = 5000
"""How many entries a page of the list looks at, whatever the filters: no index serves `table` and `action`."""
REVERT_SECONDS = 30.0
REVERT_MESSAGES = 50_000
"""How many a conversation may have to be brought back: that takes a third of the time, on one core."""
_LAST = UUID(int=(1 << 128) - 1)
_FIRST = UUID(int=0)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A change to one row. ``user_id`` is whose data it is, ``actor_id`` who changed it (null: work by hand)."""

    id: UUID
    user_id: UUID
    actor_id: UUID | None
    action: Action
    table: str
    row_id: UUID
    changes: Changes
    request_id: str | None
    at: Time


class AuditFilters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which entries; several filters mean all of them together. ``since`` is included, ``until`` is not."""

    table: Table | None = None
    row_id: UUID | None = None
    action: Action | None = None
    since: Time | None = None
    until: Time | None = None
    limit: Limit = 50
    cursor: Cursor | None = None

    def __post_init__(self) -> None:
        check_time("since", self.since)
        check_time("until", self.until)


class ChangeCursor(msgspec.Struct, frozen=True):
    """Where the feed goes on, and whether entries wait for a transaction id that this cluster hasn't reached."""

    after: UUID
    is_stranded: bool


class Change(msgspec.Struct, frozen=True):
    """What an entry is of; the columns of an update; the messages of a deleted conversation; whether it is the last."""

    action: Action
    table: str
    row_id: UUID
    columns: list[str]
    message_count: int
    is_last: bool


_list = Many("list_audit", Entry)
_find_bound = Maybe("find_audit_bound", UUID)
_list_of_row = Many("list_audit_of_row", Entry)
_find_bound_of_row = Maybe("find_audit_bound_of_row", UUID)
_list_changes = Many("list_changes", Entry)
_find_cursor = Maybe("find_change_cursor", ChangeCursor)
_get_change = Maybe("get_change", Change)
_get_last = One("get_last_change", Entry)

_UNDO_UPDATE = {
    "users": (Maybe("undo_user_update", UUID), {"username", "full_name"}),
    "todos": (
        Maybe("undo_todo_update", UUID),
        {"title", "description", "status", "priority", "due_date", "assigned_to", "completed_at", "metadata"},
    ),
    "conversations": (Maybe("undo_conversation_update", UUID), {"title", "metadata"}),
    "messages": (Maybe("undo_message_update", UUID), {"content", "message_type", "metadata"}),
    "todo_conversation_links": (Maybe("undo_link_update", UUID), {"relationship_type"}),
}
"""Table → what undoes an update of it, and the columns that can be undone: others follow from changes elsewhere."""
_UNDO_DELETE = {
    "todos": (Maybe("undo_todo_delete", UUID), (Count("restore_todo_links"),)),
    "conversations": (
        Maybe("undo_conversation_delete", UUID),
        (Count("restore_messages"), Count("restore_conversation_links")),
    ),
    "messages": (Maybe("undo_message_delete", UUID), ()),
    "todo_conversation_links": (Maybe("undo_link_delete", UUID), ()),
}
"""Table → what brings back a row of it, and then what was deleted with it."""


@get("/v1/audit", query=AuditFilters, scope="read")
async def list_audit(request: Request) -> Page[Entry]:
    """The caller's audit trail, newest first.

    Each page looks at so many entries at most, so a page of a filtered list may be short, or empty, while
    `next_cursor` leads on.
    """
    query = request.filters(AuditFilters)
    question = msgspec.structs.replace(query, cursor=None, limit=1)
    (before_id,) = (_LAST,) if query.cursor is None else decode_cursor(query.cursor, question, tuple[UUID])
    if query.row_id is not None:
        key = {"row_id": query.row_id, "before_id": before_id, "looked_at": LOOKED_AT}
        find, listed = _find_bound_of_row, _list_of_row
    else:
        bounds = {"since_id": _id_at(query.since, -_SECOND, _FIRST), "until_id": _id_at(query.until, _SECOND, _LAST)}
        key = {**bounds, "before_id": before_id, "looked_at": LOOKED_AT}
        find, listed = _find_bound, _list
    filters = {"table": query.table, "action": query.action, "since": query.since, "until": query.until}
    rows = await request.user.run(listed(**filters, **key, row_limit=query.limit + 1))
    if len(rows) > query.limit:
        return Page(rows[: query.limit], encode_cursor(question, (rows[query.limit - 1].id,)))
    is_filtered = any(value is not None for value in filters.values())
    bound = await request.user.run(find(**key)) if is_filtered else None
    return Page(rows, None if bound is None else encode_cursor(question, (bound,)))


def _id_at(moment: datetime | None, margin: timedelta, default: UUID) -> UUID:
    """The id of an entry of that time, give or take a margin: ids begin with the milliseconds since 1970."""
    if moment is None:
        return default
    milliseconds = min(max((moment - _EPOCH + margin) // timedelta(milliseconds=1), 0), (1 << 48) - 1)
    return UUID(int=milliseconds << 80)


@get("/v1/changes", query=PageQuery, scope="read")
async def list_changes(request: Request) -> Page[Entry]:
    """The caller's changes, oldest first, in the order in which they became visible: for copies and followers.

    Whoever follows `next_cursor`, which is never null, gets every change once: ask again later where a page is empty.
    A cursor whose next changes were removed for their age is `invalid_cursor`: begin anew, from the objects themselves.
    """
    query = request.filters(PageQuery)
    after = None
    if query.cursor is not None:
        (after,) = decode_cursor(query.cursor, "changes", tuple[UUID])
    # In this order: what was pruned behind the first statement, the second doesn't find any more.
    rows, place = await request.user.run(
        _list_changes(after=_FIRST if after is None else after, row_limit=query.limit), _find_cursor(after=after)
    )
    if place is None:
        raise Problem("invalid_cursor", "What follows this cursor is not kept any more. Begin without one.")
    if place.is_stranded:
        log.error("audit_log_stranded", extra={"request_id": request.id, "hint": "run `todochat rebase`"})
        raise Problem("database_unavailable", "The change feed waits for the database's operator.")
    return Page(rows, encode_cursor("changes", (rows[-1].id if rows else place.after,)))


@post(
    "/v1/changes/{change_id:str}/revert",
    status_code=200,
    seconds=REVERT_SECONDS,
    problems=("version_mismatch", "username_taken", "link_exists"),
    scope="write",
)
@idempotent
async def revert_change(request: Request, change_id: FromPath[UUID]) -> Entry:
    """Undo an update or a delete, where nothing has happened to the row since; the answer is the entry of the undo.

    A deleted todo or conversation comes back as it was, with its id, number, messages and links. What a rule forbids to
    reach, such as completed from archived, an undo may go back to; an assignee must be active.
    """
    change = found(await request.user.run(_get_change(id=change_id)))
    undo = _undo(change, change_id)
    if not change.is_last:
        raise Problem("version_mismatch", "Something else has happened to the row since.")
    try:
        results = await request.user.run_all([BEGIN_RESTORING(), *undo], _check_undo, seconds=REVERT_SECONDS)
    except Problem as problem:
        if problem.statement is not None and problem.statement > 0 and problem.code == "not_found":
            raise Problem("version_mismatch", "What the row belongs to is gone: bring that back first.") from problem
        raise
    return results[2]


def _check_undo(results: list[Any]) -> None:
    """Raises ``version_mismatch`` for an undo that found its row changed, or not all of a conversation's messages."""
    _, undone, entry, *restored = results
    if undone is None:
        raise Problem("version_mismatch", "Something else has happened to the row since.")
    if entry.table == "conversations" and restored:
        _, count = msgspec.json.decode(entry.changes, type=dict[str, tuple[Any, Any]])["message_count"]
        if restored[0] != count:
            raise Problem("version_mismatch", "Not all of its messages are kept in the audit trail any more.")


def _undo(change: Change, change_id: UUID) -> list[Statement[Any]]:
    """What undoes the change, and reads the entry of that; raises 422 for what can't be undone."""
    last = _get_last(row_id=change.row_id, table=change.table)
    if change.action == "insert":
        raise invalid("id", "is of something that was made: delete that instead")
    if change.action == "delete":
        if change.table not in _UNDO_DELETE:
            raise invalid("id", "is of an account's row, which can't be brought back")
        if change.message_count > REVERT_MESSAGES:
            raise invalid("id", f"is of more than {REVERT_MESSAGES} messages: import an export of them")
        query, others = _UNDO_DELETE[change.table]
        return [query(id=change_id), last, *(other(id=change_id) for other in others)]
    query, columns = _UNDO_UPDATE.get(change.table, (None, set[str]()))
    if query is None or set(change.columns) - columns - {"updated_at", "version"}:
        raise invalid("id", "is of a change that follows from another: undo that, or make the opposite change")
    return [query(id=change_id), last]
