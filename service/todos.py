"""Todos: what a user means to do."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import delete, get, patch, post
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, Meta, UnsetType

from service.db.caller import Caller
from service.db.queries import HOLD_ASSIGNEES, Count, Many, Maybe, One, Statement
from service.http.fields import (
    Description,
    Metadata,
    Priority,
    SentTodoRef,
    Status,
    Time,
    Title,
    TodoRef,
    changes,
    check_metadata,
    check_time,
    check_title,
    new_id,
    reference,
    todo_ref,
    values,
)
from service.http.idempotency import idempotent
from service.http.missing import found
from service.http.paging import ESCAPED
from service.http.request import Request
from service.problems import Problem, may_add

BATCH_OPERATIONS = 500
BATCH_BYTES = 12 * 1024 * 1024
BATCH_ANSWER_BYTES = 16 * 1024 * 1024
"""A batch that changes more than this, when it is escaped, is refused: half of what one address may leave unread."""


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
    metadata: Metadata
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
        check_time("due_date", self.due_date)
        _check_completion(self.status, self.completed_at)
        if self.status == "completed" and self.due_date is not None and self.due_date < datetime.now(UTC):
            raise ValueError("due_date: can't be in the past on a completed todo")


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
        check_time("due_date", self.due_date)  # it may be the one that the todo has
        _check_completion(self.status, self.completed_at)


class TodoChange(TodoPatch, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A patch in a batch: which todo, and what of it is to be changed."""

    id: SentTodoRef


class TodoBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """1 to 500 operations that all succeed or leave nothing behind; run in the order create, update, delete."""

    create: list[TodoCreate] = []
    update: list[TodoChange] = []
    delete: list[SentTodoRef] = []

    def __post_init__(self) -> None:
        if not 1 <= len(self.create) + len(self.update) + len(self.delete) <= BATCH_OPERATIONS:
            raise ValueError(f"body: must hold 1 to {BATCH_OPERATIONS} operations")


class TodoBatchResult(msgspec.Struct, frozen=True):
    """What the operations of a batch made of the todos, each list in the order sent; ``delete`` holds the ids."""

    create: list[Todo]
    update: list[Todo]
    delete: list[UUID]


_get = Maybe("get_todo", Todo)
_get_by_number = Maybe("get_todo_by_number", Todo)
_create = One("create_todo", Todo)
_update = Maybe("update_todo", Todo)
_delete = Maybe("delete_todo", UUID)
_lock = Many("lock_todos", UUID)
_link = Count("link_todo")


@get("/v1/todos/{todo_id:str}", scope="read")
async def get_todo(request: Request, todo_id: FromPath[TodoRef]) -> Todo:
    """One todo: the caller's own, or one assigned to them."""
    return found(await request.user.run(_reading(todo_id)))


@post("/v1/todos", location="/v1/todos/{id}", problems=("not_found",), scope="write")
@idempotent
async def create_todo(request: Request, data: JSONBody[TodoCreate]) -> Todo:
    """Make a todo; with ``conversation_id`` also a link that says it was made there."""
    return (await request.user.run_all(_creation(data)))[0]


@patch("/v1/todos/{todo_id:str}", if_match=True, problems=("forbidden", "invalid_transition"), scope="write")
async def update_todo(request: Request, todo_id: FromPath[TodoRef], data: JSONBody[TodoPatch]) -> Todo:
    """Change a todo, and with ``conversation_id`` link it.

    What changes nothing moves neither version nor updated_at.
    """
    statements = _change(todo_id, data, request.if_match)
    accept = _accept(request.user, 0, len(statements)) if len(statements) > 1 else None  # costs a second round trip
    try:
        todo = (await request.user.run_all(statements, accept))[0]
    except _NoRow:
        todo = None
    if todo is None:
        raise await _why_none(request.user, todo_id, request.if_match)
    return todo


@delete("/v1/todos/{todo_id:str}", if_match=True, problems=("forbidden",), scope="write")
async def delete_todo(request: Request, todo_id: FromPath[TodoRef]) -> None:
    """Delete a todo, and with it its links."""
    if await request.user.run(_removal(todo_id, request.if_match)) is None:
        raise await _why_none(request.user, todo_id, request.if_match)


@post(
    "/v1/todos/batch",
    status_code=200,
    request_max_body_size=BATCH_BYTES,
    problems=("not_found", "forbidden", "invalid_transition"),
    scope="write",
)
@idempotent
async def batch_todos(request: Request, data: JSONBody[TodoBatch]) -> TodoBatchResult:
    """Create, update and delete todos, all or nothing. A failure names the list and the index of its operation.

    What would make an answer of more than 16 MiB is refused with 413: send fewer operations at a time.
    """
    operations = [("create", index, _creation(todo)) for index, todo in enumerate(data.create)]
    operations += [("update", index, _change(change.id, change, None)) for index, change in enumerate(data.update)]
    operations += [("delete", index, [_removal(todo_id, None)]) for index, todo_id in enumerate(data.delete)]
    statements = [statement for _, _, parts in operations for statement in parts]
    places = [(list_name, index) for list_name, index, parts in operations for _ in parts]
    ahead: list[Statement[Any]] = []
    if named := [todo_ref(todo_id) for todo_id in (*(change.id for change in data.update), *data.delete)]:
        ids = [todo_id for todo_id in named if isinstance(todo_id, UUID)]
        numbers = [number for number in named if isinstance(number, int)]
        ahead.append(_lock(ids=ids, numbers=numbers))
    may_be_large = len(await request.body()) * ESCAPED > BATCH_ANSWER_BYTES
    accept = _accept(request.user, len(ahead), len(statements)) if named or may_be_large else None
    try:
        results = (await request.user.run_all([*ahead, *statements, HOLD_ASSIGNEES()], accept))[len(ahead) :]
    except _NoRow as missing:
        list_name, index = places[missing.index]
        todo_id = data.update[index].id if list_name == "update" else data.delete[index]
        problem = await _why_none(request.user, todo_id, None)
    except Problem as failure:
        if failure.statement is None or not 0 <= failure.statement - len(ahead) < len(places):
            raise
        list_name, index = places[failure.statement - len(ahead)]
        problem = failure
    else:
        answer = TodoBatchResult([], [], [])
        for place, before, result in zip(places, [None, *places], results, strict=False):
            if place != before:  # else it is the operation's link
                getattr(answer, place[0]).append(result)
        return answer
    raise problem.place(list_name, index)


# Statements


def _reading(sent: TodoRef | str) -> Statement[Todo | None]:
    todo_id = todo_ref(sent)
    return _get_by_number(number=todo_id) if isinstance(todo_id, int) else _get(id=todo_id)


def _creation(data: TodoCreate) -> list[Statement[Any]]:
    todo_id = None if data.conversation_id is None else new_id()
    create = _create(id=todo_id, **values(data, "conversation_id"))
    if todo_id is None:
        return [create]
    return [create, _link(id=todo_id, number=None, conversation_id=data.conversation_id, relationship_type="creation")]


def _change(todo_id: TodoRef | str, data: TodoPatch, version: int | None) -> list[Statement[Any]]:
    update = _update(**reference(todo_id), **changes(data, "id", "conversation_id"), version=version)
    if data.conversation_id is UNSET:
        return [update]
    link = _link(**reference(todo_id), conversation_id=data.conversation_id, relationship_type="update")
    return [update, link]


def _removal(todo_id: TodoRef | str, version: int | None) -> Statement[UUID | None]:
    return _delete(**reference(todo_id), version=version)


class _NoRow(Exception):
    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


def _accept(caller: Caller, ahead: int, count: int) -> Callable[[list[Any]], None]:
    """What looks at so many results, behind those of what ran ahead.

    Each change must have found its todo, whoever links one must own it, and all of them must fit into an answer.
    """

    def check(all_results: list[Any]) -> None:
        size = 0
        results = all_results[ahead : ahead + count]
        for index, result in enumerate(results):
            if result is None:
                raise _NoRow(index)
            # A number is the count of links made for the todo before it.
            if isinstance(result, int) and results[index - 1].user_id != caller.user_id:
                raise _NoRow(index - 1)
            if isinstance(result, Todo):
                metadata = bytes(result.metadata)
                size += len(metadata) + may_add(metadata)
                size += ESCAPED * (len(result.title) + len(result.description or ""))
        if size > BATCH_ANSWER_BYTES:
            reason = f"The answer would have more than {BATCH_ANSWER_BYTES} bytes: send fewer operations at a time."
            raise Problem("payload_too_large", reason)

    return check


async def _why_none(caller: Caller, todo_id: TodoRef | str, version: int | None) -> Problem:
    """Why a change found no row: there is none to be seen, it has moved on, or it is somebody else's."""
    todo = await caller.run(_reading(todo_id))
    if todo is not None and todo.user_id != caller.user_id and version in (None, todo.version):
        return Problem("forbidden", "An assignee may change the status and nothing else.")
    if todo is None or version is None:
        # There is no such todo; or an earlier operation of the batch, which is undone by now, had deleted it.
        return Problem("not_found")
    return Problem("version_mismatch", f"The todo is at version {todo.version}.")


# Rules


def _check_completion(status: Status | UnsetType, completed_at: datetime | UnsetType | None) -> None:
    """What can be told without the row; the table's triggers hold the whole of it."""
    check_time("completed_at", completed_at)
    if isinstance(completed_at, datetime):
        if status != "completed":
            raise ValueError("completed_at: goes with status completed only")
        if completed_at > datetime.now(UTC):
            raise ValueError("completed_at: can't be in the future")
