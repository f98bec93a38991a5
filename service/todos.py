"""Todos: what a user means to do."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.db.queries import Caller, Count, Many, Maybe, One, Statement
from service.http.fields import (
    Description,
    Metadata,
    MetadataText,
    Number,
    Priority,
    Status,
    Time,
    Title,
    check_metadata,
    check_time,
    check_title,
    new_id,
)
from service.http.paging import Cursor, Limit, Page, PageQuery, decode_cursor, page_of
from service.problems import FieldError, Problem

Order = Literal[
    "created_at", "-created_at", "updated_at", "-updated_at", "due_date", "-due_date",
    "priority", "-priority", "number", "-number",
]  # fmt: skip
TodoRef = UUID | Number
"""A todo's id, or the number of one of the caller's own."""

BATCH_OPERATIONS = 500
BATCH_BYTES = 12 * 1024 * 1024

_RANKS = {"low": 1, "medium": 2, "high": 3, "urgent": 4}


class Todo(msgspec.Struct, frozen=True, gc=False):
    """A todo. ``number`` counts the owner's todos from 1 and is never given twice."""

    id: UUID
    number: int
    user_id: UUID
    title: str
    description: str | None
    status: Status
    completed: bool
    priority: Priority
    due_date: Time | None
    assigned_to: UUID | None
    completed_at: Time | None
    metadata: MetadataText
    version: int
    created_at: Time
    updated_at: Time


class TodoCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A todo to be made. ``completed_at`` goes with ``status: completed`` only, and can't be in the future."""

    title: Title
    description: Description | None = None
    status: Status = "pending"
    priority: Priority = "medium"
    due_date: Time | None = None
    assigned_to: UUID | None = None
    completed_at: Time | None = None
    metadata: Metadata | UnsetType = UNSET
    conversation_id: Annotated[UUID, Meta(description="Adds a link of type creation.")] | None = None

    def __post_init__(self) -> None:
        check_title(self.title)
        check_metadata(self.metadata)
        _check_times(self.status, self.due_date, self.completed_at)


class TodoPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What of a todo is to be changed: an absent field stays, null clears it. The assignee may send ``status`` only."""

    title: Title | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    status: Status | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET
    due_date: Time | UnsetType | None = UNSET
    assigned_to: UUID | UnsetType | None = UNSET
    completed_at: Time | UnsetType | None = UNSET
    metadata: Metadata | UnsetType = UNSET
    conversation_id: Annotated[UUID, Meta(description="Adds a link of type update.")] | UnsetType = UNSET

    def __post_init__(self) -> None:
        check_title(self.title)
        check_metadata(self.metadata)
        _check_times(self.status, self.due_date, self.completed_at)


class TodoChange(TodoPatch, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A patch in a batch: which todo, and what of it is to be changed."""

    id: TodoRef


class TodoBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """1 to 500 operations that all succeed or leave nothing behind; run in the order create, update, delete."""

    create: list[TodoCreate] = []
    update: list[TodoChange] = []
    delete: list[TodoRef] = []

    def __post_init__(self) -> None:
        if not 1 <= len(self.create) + len(self.update) + len(self.delete) <= BATCH_OPERATIONS:
            raise ValueError(f"body: must hold 1 to {BATCH_OPERATIONS} operations")


class TodoBatchResult(msgspec.Struct, frozen=True):
    """What the operations of a batch made of the todos, each list in the order sent; ``delete`` holds the ids."""

    create: list[Todo]
    update: list[Todo]
    delete: list[UUID]


class TodoFilters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which todos, in which order. A repeated ``status`` or ``priority`` means any of them."""

    status: list[Status] | None = None
    completed: bool | None = None
    priority: list[Priority] | None = None
    due_before: Time | None = None
    due_after: Time | None = None
    overdue: Annotated[bool, Meta(description="Due in the past, and pending or in_progress.")] | None = None
    scope: Literal["owned", "assigned", "all"] = "owned"
    order: Order = "-created_at"
    limit: Limit = 50
    cursor: Cursor | None = None

    def __post_init__(self) -> None:
        check_time("due_before", self.due_before)
        check_time("due_after", self.due_after)


_get = Maybe("get_todo", Todo)
_get_by_number = Maybe("get_todo_by_number", Todo)
_create = One("create_todo", Todo)
_update = Maybe("update_todo", Todo)
_delete = Maybe("delete_todo", UUID)
_link = Count("link_todo")
_find_conversation = Maybe("find_conversation", UUID)
_list_of_conversation = Many("list_conversation_todos", Todo)
_list_by_status = Many("list_todos_by_status", Todo)
_list_owned: dict[str, Many[Todo]] = {
    "created_at": Many("list_todos_by_created_at", Todo),
    "-created_at": Many("list_todos_by_created_at_desc", Todo),
    "updated_at": Many("list_todos_by_updated_at", Todo),
    "-updated_at": Many("list_todos_by_updated_at_desc", Todo),
    "due_date": Many("list_todos_by_due_date", Todo),
    "-due_date": Many("list_todos_by_due_date_desc", Todo),
    "priority": Many("list_todos_by_priority", Todo),
    "-priority": Many("list_todos_by_priority_desc", Todo),
    "number": Many("list_todos_by_number", Todo),
    "-number": Many("list_todos_by_number_desc", Todo),
}
_list_assigned = Many("list_assigned_todos", Todo)
_list_all = Many("list_all_todos", Todo)


async def get_todo(caller: Caller, todo_id: TodoRef) -> Todo:
    """One todo: the caller's own, or one assigned to them."""
    todo = await caller.run(_get_by_number(number=todo_id) if isinstance(todo_id, int) else _get(id=todo_id))
    if todo is None:
        raise Problem("not_found")
    return todo


async def create_todo(caller: Caller, data: TodoCreate) -> Todo:
    """Make a todo; with ``conversation_id`` also a link that says it was made there."""
    return (await caller.run_all(_creation(data)))[0]


async def update_todo(caller: Caller, todo_id: TodoRef, data: TodoPatch, if_match: int | None) -> Todo:
    """Change a todo, and with ``conversation_id`` link it.

    What changes nothing moves neither version nor updated_at.
    """
    statements = _change(todo_id, data, if_match)
    try:
        todo = (await caller.run_all(statements, _accept(caller) if len(statements) > 1 else None))[0]
    except _NoRow:
        todo = None
    if todo is None:
        raise await _why_none(caller, todo_id, if_match)
    return todo


async def delete_todo(caller: Caller, todo_id: TodoRef, if_match: int | None) -> None:
    """Delete a todo, and with it its links."""
    if await caller.run(_removal(todo_id, if_match)) is None:
        raise await _why_none(caller, todo_id, if_match)


async def batch_todos(caller: Caller, data: TodoBatch) -> TodoBatchResult:
    """Create, update and delete todos, all or nothing. A failure names the list and the index of its operation."""
    operations = [("create", index, _creation(todo)) for index, todo in enumerate(data.create)]
    operations += [("update", index, _change(change.id, change, None)) for index, change in enumerate(data.update)]
    operations += [("delete", index, [_removal(todo_id, None)]) for index, todo_id in enumerate(data.delete)]
    statements = [statement for _, _, parts in operations for statement in parts]
    places = [(list_name, index) for list_name, index, parts in operations for _ in parts]
    try:
        results = await caller.run_all(statements, _accept(caller) if data.update or data.delete else None)
    except _NoRow as missing:
        list_name, index = places[missing.index]
        todo_id = data.update[index].id if list_name == "update" else data.delete[index]
        problem = await _why_none(caller, todo_id, None)
    except Problem as failure:
        if failure.statement is None or not 0 <= failure.statement < len(places):
            raise
        list_name, index = places[failure.statement]
        problem = failure
    else:
        answer = TodoBatchResult([], [], [])
        for place, before, result in zip(places, [None, *places], results, strict=False):
            if place != before:  # else it is the operation's link
                getattr(answer, place[0]).append(result)
        return answer
    problem.members.update(list_name=list_name, index=index)
    problem.errors = [FieldError(f"{list_name}[{index}].{error.field}", error.message) for error in problem.errors]
    raise problem


async def list_conversation_todos(caller: Caller, conversation_id: UUID, query: PageQuery) -> Page[Todo]:
    """The todos that a conversation is linked with, oldest first."""
    question = ("conversation", str(conversation_id))
    (after_id,) = (_NO_UUID,) if query.cursor is None else decode_cursor(query.cursor, question, tuple[UUID])
    found, rows = await caller.run(
        _find_conversation(id=conversation_id),
        _list_of_conversation(conversation_id=conversation_id, after_id=after_id, row_limit=query.limit + 1),
    )
    if found is None:
        raise Problem("not_found")
    return page_of(rows, query.limit, question, lambda todo: (todo.id,))


async def list_todos(caller: Caller, query: TodoFilters) -> Page[Todo]:
    """The caller's todos, those assigned to them, or both."""
    question = msgspec.structs.replace(query, cursor=None, limit=1)
    if query.scope != "owned":
        return await _list_visible(caller, query, question)
    order = query.order
    row_limit = query.limit + 1
    after = _read_cursor(query, question)
    if order == "-created_at" and query.status and len(query.status) == 1 and query == _only_status(query):
        rows = await caller.run(_list_by_status(status=query.status[0], row_limit=row_limit, **after))
    else:
        rows = await caller.run(_list_owned[order](row_limit=row_limit, **_filters(query), **after))
    return page_of(rows, query.limit, question, _KEYS[order.removeprefix("-")])


# Statements


def _creation(data: TodoCreate) -> list[Statement[Any]]:
    todo_id = None if data.conversation_id is None else new_id()
    create = _create(
        id=todo_id,
        title=data.title,
        description=data.description,
        status=data.status,
        priority=data.priority,
        due_date=data.due_date,
        assigned_to=data.assigned_to,
        completed_at=data.completed_at,
        metadata=_given(data.metadata),
    )
    if todo_id is None:
        return [create]
    return [create, _link(id=todo_id, number=None, conversation_id=data.conversation_id, relationship_type="creation")]


def _change(todo_id: TodoRef, data: TodoPatch, version: int | None) -> list[Statement[Any]]:
    update = _update(
        **_reference(todo_id),
        title=_given(data.title),
        set_description=data.description is not UNSET,
        description=_given(data.description),
        status=_given(data.status),
        priority=_given(data.priority),
        set_due_date=data.due_date is not UNSET,
        due_date=_given(data.due_date),
        set_assigned_to=data.assigned_to is not UNSET,
        assigned_to=_given(data.assigned_to),
        set_completed_at=data.completed_at is not UNSET,
        completed_at=_given(data.completed_at),
        metadata=_given(data.metadata),
        version=version,
    )
    if data.conversation_id is UNSET:
        return [update]
    reference = _reference(todo_id)
    return [update, _link(**reference, conversation_id=data.conversation_id, relationship_type="update")]


def _removal(todo_id: TodoRef, version: int | None) -> Statement[UUID | None]:
    return _delete(**_reference(todo_id), version=version)


def _reference(todo_id: TodoRef) -> dict[str, Any]:
    return {"id": None, "number": todo_id} if isinstance(todo_id, int) else {"id": todo_id, "number": None}


def _given(value: Any) -> Any:
    return None if value is UNSET else value


class _NoRow(Exception):
    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


def _accept(caller: Caller) -> Callable[[list[Any]], None]:
    """A check that every change found its todo, and that whoever links one owns it."""

    def check(results: list[Any]) -> None:
        for index, result in enumerate(results):
            if result is None:
                raise _NoRow(index)
            # Behind a todo the number of links that were made, if one was asked for.
            if isinstance(result, int) and results[index - 1].user_id != caller.user_id:
                raise _NoRow(index - 1)

    return check


async def _why_none(caller: Caller, todo_id: TodoRef, version: int | None) -> Problem:
    """Why a change found no row: there is none to be seen, it has moved on, or it is somebody else's."""
    try:
        todo = await get_todo(caller, todo_id)
    except Problem as problem:
        return problem
    if version is not None and todo.version != version:
        return Problem("version_mismatch", f"The todo is at version {todo.version}.")
    if todo.user_id == caller.user_id:
        # Only in a batch that was taken back: an operation before had deleted it.
        return Problem("not_found")
    return Problem("forbidden", "An assignee may change the status and nothing else.")


# Rules


def _check_times(
    status: Status | UnsetType, due_date: datetime | UnsetType | None, completed_at: datetime | UnsetType | None
) -> None:
    """What can be told without the row; the table's triggers hold the whole of it."""
    check_time("due_date", due_date)
    check_time("completed_at", completed_at)
    now = datetime.now(UTC)
    if isinstance(completed_at, datetime):
        if status != "completed":
            raise ValueError("completed_at: goes with status completed only")
        if completed_at > now:
            raise ValueError("completed_at: can't be in the future")
    if status == "completed" and isinstance(due_date, datetime) and due_date < now:
        raise ValueError("due_date: can't be in the past on a completed todo")


# Lists

_NO_UUID = UUID(int=0)
_LAST_UUID = UUID(int=(1 << 128) - 1)
_FIRST_TIME = datetime.min.replace(tzinfo=UTC)
_LAST_TIME = datetime.max.replace(tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_BIGINT = (1 << 63) - 1
_BigInt = Annotated[int, Meta(ge=-_LAST_BIGINT, le=_LAST_BIGINT)]

_KEYS: dict[str, Callable[[Todo], tuple[Any, ...]]] = {
    "created_at": lambda todo: (todo.created_at, todo.id),
    "updated_at": lambda todo: (todo.updated_at, todo.id),
    "due_date": lambda todo: (todo.due_date, todo.id),
    "priority": lambda todo: (_RANKS[todo.priority], todo.id),
    "number": lambda todo: (todo.number,),
}


def _filters(query: TodoFilters) -> dict[str, Any]:
    return {
        "status": query.status,
        "completed": query.completed,
        "priority": query.priority,
        "due_before": query.due_before,
        "due_after": query.due_after,
        "overdue": query.overdue,
    }


def _only_status(query: TodoFilters) -> TodoFilters:
    return TodoFilters(status=query.status, limit=query.limit, cursor=query.cursor)


def _read_cursor(query: TodoFilters, question: TodoFilters) -> dict[str, Any]:
    """The key of the row before the page, as the order's query takes it."""
    order = query.order.removeprefix("-")
    descending = query.order.startswith("-")
    end = _LAST_UUID if descending else _NO_UUID
    if order == "number":
        if query.cursor is None:
            return {"after": _LAST_BIGINT if descending else 0}
        return {"after": decode_cursor(query.cursor, question, tuple[_BigInt])[0]}
    if order == "priority":
        if query.cursor is None:
            return {"after": 5 if descending else 0, "after_id": end}
        rank, after_id = decode_cursor(query.cursor, question, tuple[Annotated[int, Meta(ge=0, le=5)], UUID])
        return {"after": rank, "after_id": after_id}
    after: datetime | None = _LAST_TIME if descending else _FIRST_TIME
    after_id = end
    if query.cursor is not None:
        after, after_id = decode_cursor(query.cursor, question, tuple[Time | None, UUID])
    if order != "due_date":
        if after is None:
            raise Problem("invalid_cursor")
        return {"after": after, "after_id": after_id}
    if after is None:
        # Behind an undated row no dated one comes any more.
        beyond = (_FIRST_TIME, _NO_UUID) if descending else (_LAST_TIME, _LAST_UUID)
        return {"after": beyond[0], "after_id": beyond[1], "after_undated_id": after_id}
    return {"after": after, "after_id": after_id, "after_undated_id": end}


async def _list_visible(caller: Caller, query: TodoFilters, question: TodoFilters) -> Page[Todo]:
    """The lists that reach beyond what the caller owns: sorted by a computed key, see the query."""
    sort = query.order.removeprefix("-")
    direction = -1 if query.order.startswith("-") else 1
    after, after_id = -_LAST_BIGINT, _NO_UUID
    if query.cursor is not None:
        after, after_id = decode_cursor(query.cursor, question, tuple[_BigInt, UUID])
    run = _list_assigned if query.scope == "assigned" else _list_all
    rows = await caller.run(
        run(
            **_filters(query),
            sort=sort,
            direction=direction,
            after=after,
            after_id=after_id,
            row_limit=query.limit + 1,
        )
    )

    def key(todo: Todo) -> tuple[int, UUID]:
        value = _KEYS[sort](todo)[0]
        if value is None:
            return _LAST_BIGINT, todo.id
        if isinstance(value, datetime):
            value = (value - _EPOCH) // (datetime.resolution)
        return value * direction, todo.id

    return page_of(rows, query.limit, question, key)
