"""The audit trail: every change to a user's data, as a list to search and as a feed to follow.

Triggers write it, when the transaction of the change commits. An entry holds the old row. What a column became is put
together when it is read: the next entry of the same row has it in its old row, or else the row has it still.

A user's entries are numbered 1, 2, 3 … in the order of their commits, without holes. So a feed that goes on from a
number misses nothing, and what is not kept any more, or was lost with an older state of the database, shows; it needs
nothing after a restore or a failover. A user's transactions stand in a line while they commit: the price is that one
user gets about 170 writes a second where a commit takes 5 ms.

An undo goes around the rules of transitions and past due dates, since going back to what was is no transition, but not
around the rule that an assignee is active.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from litestar import get, post
from litestar.params import FromPath
from msgspec import Meta

from service.db.caller import Caller
from service.db.queries import BEGIN_RESTORING, HOLD_ASSIGNEES, WRITE_ENTRIES, Count, Many, Maybe, One, Statement
from service.http.fields import Number, Time, check_time
from service.http.idempotency import idempotent
from service.http.missing import found
from service.http.paging import (
    LOOKED_AT,
    Page,
    PageQuery,
    decode_cursor,
    encode_cursor,
    fitting,
    page_of,
)
from service.http.request import Request
from service.problems import Problem, invalid

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
            "among them; an insert and a delete every column, with null on the missing side. Password hashes never. "
            "The `version` of a conversation counts here what changed in itself, without its messages.",
        }
    ),
]

REVERT_SECONDS = 30.0
REVERT_MESSAGES = 100_000
"""How many a conversation may have to be brought back: that takes a third of the time, on one core."""

_TIMES = frozenset({"created_at", "updated_at", "due_date", "completed_at"})
"""Columns that a row as JSON has in PostgreSQL's form of a time."""
_DERIVED = {"conversations": frozenset({"last_position", "message_count", "updated_at"})}
"""What only follows from other rows, by table, and is no change of its own."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A change to one row.

    ``id`` counts the changes of the user's data, ``user_id`` is whose data it is, ``actor_id`` who changed it (null:
    work by hand).
    """

    id: int
    user_id: UUID
    actor_id: UUID | None
    action: Action
    table: str
    row_id: UUID
    changes: Changes
    request_id: str | None
    at: Time


class EntryRow(msgspec.Struct, frozen=True, gc=False):
    """An entry as the database has it, with its row before and after the change; None where there was none."""

    id: int
    user_id: UUID
    actor_id: UUID | None
    action: Action
    table: str
    row_id: UUID
    before: msgspec.Raw | None
    after: msgspec.Raw | None
    request_id: str | None
    at: datetime


class ListedEntryRow(EntryRow, frozen=True, gc=False):
    """The same in a page; where it doesn't fit into an answer, its rows are left out."""

    fits: bool


class Change(EntryRow, frozen=True, gc=False):
    """The same of an entry that is to be undone, and whether it is its row's last."""

    is_last: bool


class Trail(msgspec.Struct, frozen=True):
    """The numbers of the oldest and the newest entry that are kept."""

    oldest: int
    newest: int


class AuditFilters(PageQuery, frozen=True, forbid_unknown_fields=True):
    """Which entries; several filters mean all of them together. ``since`` is included, ``until`` is not."""

    table: Table | None = None
    row_id: UUID | None = None
    action: Action | None = None
    since: Time | None = None
    until: Time | None = None

    def __post_init__(self) -> None:
        check_time("since", self.since)
        check_time("until", self.until)


_get_trail = Maybe("get_trail", Trail)
_find_place = Maybe("find_audit_place", int)
_list = Many("list_audit", ListedEntryRow)
_list_of_row = Many("list_audit_of_row", ListedEntryRow)
_find_bound = Maybe("find_audit_bound", int)
_list_changes = Many("list_changes", ListedEntryRow)
_get_change = Maybe("get_change", Change)
_get_last = One("get_last_change", EntryRow)
_find_last = Maybe("find_last_change", int)

_UNDO_UPDATE = {
    "users": (Maybe("undo_user_update", UUID), {"username", "full_name"}),
    "todos": (
        Maybe("undo_todo_update", UUID),
        {"title", "description", "status", "priority", "due_date", "assigned_to", "completed_at", "metadata"},
    ),
    "conversations": (Maybe("undo_conversation_update", UUID), {"title", "metadata"}),
    "messages": (
        Maybe("undo_message_update", UUID),
        {"content", "message_type", "metadata", "content_truncated"},
    ),
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

    Each page looks at 5,000 entries at most, so a page of a filtered list may be short, or empty, while `next_cursor`
    leads on.
    """
    query = request.filters(AuditFilters)
    question = query.question
    bounds = [_find_place(at=moment) for moment in (query.since, query.until) if moment is not None]
    trail, *places = await request.user.run_all([_get_trail(), *bounds])
    if trail is None:
        return Page([], None)
    first = places[0] if query.since is not None else trail.oldest
    before = places[-1] if query.until is not None else trail.newest + 1
    if query.cursor is not None:
        before = min(before, *decode_cursor(query.cursor, question, tuple[int]))
    filters = {"table": query.table, "action": query.action, "row_limit": query.limit + 1}
    is_filtered = query.table is not None or query.action is not None
    bound = None
    if query.row_id is not None:
        key = {"row_id": query.row_id, "first": first, "before": before, "looked_at": LOOKED_AT}
        rows = await request.user.run(_list_of_row(**filters, **key))
        if is_filtered and len(rows) <= query.limit:
            bound = await request.user.run(_find_bound(**key))
    else:
        bound = max(first, before - LOOKED_AT) if is_filtered else first
        rows = await request.user.run(_list(**filters, first=bound, before=before))
        bound = bound if bound > first else None
    limit = min(query.limit, _count_fitting(rows))
    page = page_of([_entry(row) for row in rows], limit, question, lambda entry: (entry.id,))
    if page.next_cursor is None and bound is not None:
        page.next_cursor = encode_cursor(question, (bound,))
    return page


@get("/v1/changes", query=PageQuery, scope="read")
async def list_changes(request: Request) -> Page[Entry]:
    """The caller's changes, oldest first, in the order of their commits: for copies and followers.

    Whoever follows `next_cursor`, which is never null, gets every change once: ask again later where a page is empty.
    A cursor whose next changes were removed for their age, or were lost when the database went back to an older state,
    is `invalid_cursor`: begin anew, from the objects themselves.
    """
    query = request.filters(PageQuery)
    after, at = 0, None
    if query.cursor is not None:
        after, at = decode_cursor(query.cursor, "changes", tuple[int, datetime | None])
    # The cursor's own entry is read again: it must be the one that it was, or have been removed and the next one not.
    rows = await request.user.run(_list_changes(first=after, row_limit=query.limit + 1))
    is_there = bool(rows) and (rows[0].id, rows[0].at) == (after, at)
    if query.cursor is not None and not is_there and (rows[0].id != after + 1 if rows else after):
        raise Problem("invalid_cursor", "What follows this cursor is not kept any more. Begin without one.")
    entries = [_entry(row) for row in rows[: _count_fitting(rows)][is_there:][: query.limit]]
    items, count = fitting(entries)
    place = (entries[count - 1].id, entries[count - 1].at) if entries else (after, at)
    return Page(items, encode_cursor("changes", place))


def _count_fitting(rows: Sequence[ListedEntryRow]) -> int:
    return sum(row.fits for row in rows)


def _entry(row: EntryRow) -> Entry:
    changes = msgspec.Raw(msgspec.json.encode(_changes(row.action, row.table, row.before, row.after)))
    return Entry(row.id, row.user_id, row.actor_id, row.action, row.table, row.row_id, changes, row.request_id, row.at)


def _changes(
    action: str, table: str, before: msgspec.Raw | None, after: msgspec.Raw | None
) -> Mapping[str, tuple[Any, Any]]:
    """Column → before and after; nothing where retention has taken away what there was before."""
    old, new = _columns(before), _columns(after)
    names = new if action == "insert" else old
    hidden = _DERIVED.get(table, frozenset[str]())
    return {
        name: change
        for name in names
        if name not in hidden and ((change := (old.get(name), new.get(name)))[0] != change[1] or action != "update")
    }


def _columns(row: msgspec.Raw | None) -> dict[str, Any]:
    """The columns of a row as JSON; times in UTC, as they are answered everywhere."""
    if row is None:
        return {}
    columns: dict[str, Any] = msgspec.json.decode(row, type=dict[str, msgspec.Raw])
    for name in _TIMES & columns.keys():
        time = msgspec.json.decode(columns[name], type=datetime | None)
        columns[name] = None if time is None else time.astimezone(UTC)
    return columns


@post(
    "/v1/changes/{change_id:str}/revert",
    status_code=200,
    seconds=REVERT_SECONDS,
    problems=("version_mismatch", "username_taken", "link_exists", "external_id_taken"),
    scope="write",
)
@idempotent
async def revert_change(request: Request, change_id: FromPath[Number]) -> Entry:
    """Undo an update or a delete, where nothing has happened to the row since; the answer is the entry of the undo.

    A deleted todo or conversation comes back as it was, with its id, number, messages and links. What a rule forbids to
    reach, such as completed from archived, an undo may go back to; an assignee must be active.
    """
    return await revert(request.user, change_id)


async def revert(caller: Caller, change_id: int | None, table: str = "") -> Entry:
    """What ``revert_change`` does, in one transaction. Without an id: the caller's own last change of the table's rows.

    That is looked for among the newest ``LOOKED_AT`` entries.
    """
    return await caller.repeat(lambda: _revert(caller, change_id, table))


async def _revert(caller: Caller, change_id: int | None, table: str) -> Entry:
    async with caller.transaction():
        change_id = change_id or await caller.run(_find_last(table=table, looked_at=LOOKED_AT))
        if change_id is None:
            raise Problem("not_found", f"None of the newest {LOOKED_AT} changes is the user's own.")
        change = found(await caller.run(_get_change(id=change_id)))
        undo = _undo(change, change_id)
        if not change.is_last:
            raise Problem("version_mismatch", "Something else has happened to the row since.")
        last = _get_last(row_id=change.row_id, table=change.table)
        # A message that is put back changes its conversation, which goes on from what it is now.
        begin = [] if change.table == "messages" else [BEGIN_RESTORING()]
        try:
            results = await caller.run_all([*begin, *undo, HOLD_ASSIGNEES(), WRITE_ENTRIES(), last])
        except Problem as problem:
            if problem.statement is not None and problem.statement >= 0 and problem.code == "not_found":
                raise Problem(
                    "version_mismatch", "What the row belongs to is gone: bring that back first."
                ) from problem
            raise
        undone, *restored, _, _, entry = results[len(begin) :]
        if undone is None:
            raise Problem("version_mismatch", "Something else has happened to the row since.")
        if (messages := _message_count(change)) and restored[0] != messages:
            raise Problem("version_mismatch", "Not all of its messages are kept in the audit trail any more.")
        return _entry(entry)


def _message_count(change: Change) -> int:
    """How many messages a deleted conversation had."""
    if change.before is None or (change.action, change.table) != ("delete", "conversations"):
        return 0
    return int(_columns(change.before)["message_count"])


def _undo(change: Change, change_id: int) -> list[Statement[Any]]:
    """What undoes the change; raises Problem for what can't be undone."""
    if change.action == "insert":
        raise invalid("id", "is of something that was made: delete that instead")
    if change.action == "delete" and change.table not in _UNDO_DELETE:
        raise invalid("id", "is of an account's row, which can't be brought back")
    if change.before is None:
        raise Problem("version_mismatch", "What the row was before is not kept in the audit trail any more.")
    if change.action == "delete":
        if _message_count(change) > REVERT_MESSAGES:
            raise invalid("id", f"is of more than {REVERT_MESSAGES} messages: import an export of them")
        query, others = _UNDO_DELETE[change.table]
        return [query(id=change_id), *(other(id=change_id) for other in others)]
    query, columns = _UNDO_UPDATE.get(change.table, (None, set[str]()))
    changed = _changes(change.action, change.table, change.before, change.after).keys()
    if query is None or changed - columns - {"updated_at", "version"}:
        raise invalid("id", "is of a change that follows from another: undo that, or make the opposite change")
    return [query(id=change_id)]
