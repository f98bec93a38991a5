"""Tasks: the todos as specification A's clients know them. A task's id is its todo's number."""

from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal, cast
from uuid import UUID

import msgspec
from litestar import delete, get, patch, post, put
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, Meta, UnsetType

from service.db.caller import Caller
from service.db.queries import Many, Maybe, One, Versioned
from service.http.fields import Description, Number, Time, Title, changes, check_title
from service.http.idempotency import idempotent
from service.http.missing import changed, found
from service.http.request import JSON, Request
from service.http.response import Pieces
from service.problems import Problem

Ignored = Annotated[msgspec.Raw, Meta(extra_json_schema={"description": "Ignored: it may be sent back as it was got."})]


class Task(msgspec.Struct, frozen=True, gc=False):
    """A todo of the user, with ``completed`` in place of a status."""

    id: int
    user_id: UUID
    title: str
    description: str | None
    completed: bool
    created_at: Time
    updated_at: Time


class EchoedTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fields of a task that clients of specification A send back as they got them: they are ignored."""

    id: Ignored | UnsetType = UNSET
    user_id: Ignored | UnsetType = UNSET
    created_at: Ignored | UnsetType = UNSET
    updated_at: Ignored | UnsetType = UNSET


class TaskCreate(EchoedTask, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A task to be made: a todo of medium priority, pending unless it is completed."""

    title: Title
    description: Description | None = None
    completed: bool = False

    def __post_init__(self) -> None:
        check_title(self.title)


class TaskUpdate(EchoedTask, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What of a task is to be changed: what is left out stays, a description that is null is cleared."""

    title: Title | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET
    completed: bool | None = None

    def __post_init__(self) -> None:
        check_title(self.title)


class TaskCompletion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``completed`` is to be, instead of the opposite of what it is."""

    completed: bool


class TaskFilters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``pending`` are all that are not completed; archived ones are left out."""

    status: Annotated[Literal["all", "pending", "completed"], Meta(title="TaskStatus")] = "all"
    sort: Annotated[Literal["created", "title", "due_date"], Meta(title="TaskSort")] = "created"


_get = Maybe("get_task", Versioned[Task])
_create = One("create_task", Versioned[Task])
_update = Maybe("update_task", Versioned[Task])
_complete = Maybe("complete_task", Versioned[Task])
_delete = Maybe("delete_todo", UUID)
_list = Many("list_tasks", Task)
_list_ids = {order: One(f"list_task_ids_by_{order}", str) for order in ("created", "title", "due_date")}

PAGE = 200
"""Tasks that are in memory at a time."""
_ID_LENGTH = 37
"""Characters of an id and the comma behind it."""


@get("/api/{user_id:str}/tasks", query=TaskFilters, problems=("forbidden",), scope="read")
async def list_tasks(request: Request, user_id: FromPath[str]) -> list[Task]:
    """All of the user's tasks, as one array."""
    query = request.filters(TaskFilters)
    _check_user(request.user, user_id)
    completed = None if query.status == "all" else query.status == "completed"
    ids = await request.user.run(_list_ids[query.sort](completed=completed))
    if len(ids) <= PAGE * _ID_LENGTH:
        return await request.user.run(_list(ids=_uuids(ids), completed=completed))
    return cast("Any", Pieces(_array(request.user, ids, completed), JSON))


@post("/api/{user_id:str}/tasks", location="/api/{user_id}/tasks/{id}", problems=("forbidden",), scope="write")
@idempotent
async def create_task(request: Request, user_id: FromPath[str], data: JSONBody[TaskCreate]) -> Versioned[Task]:
    """Make a task."""
    _check_user(request.user, user_id)
    return await request.user.run(
        _create(title=data.title, description=data.description, status="completed" if data.completed else "pending")
    )


@get("/api/{user_id:str}/tasks/{task_id:str}", problems=("forbidden",), scope="read")
async def get_task(request: Request, user_id: FromPath[str], task_id: FromPath[Number]) -> Versioned[Task]:
    """One task."""
    _check_user(request.user, user_id)
    return found(await request.user.run(_get(number=task_id)))


@put(
    "/api/{user_id:str}/tasks/{task_id:str}", if_match=True, problems=("forbidden", "invalid_transition"), scope="write"
)
async def update_task(
    request: Request, user_id: FromPath[str], task_id: FromPath[Number], data: JSONBody[TaskUpdate]
) -> Versioned[Task]:
    """Change a task's title or description, and complete or reopen it."""
    _check_user(request.user, user_id)
    sent = changes(data, *EchoedTask.__struct_fields__)
    change = _update(number=task_id, **sent, version=request.if_match)
    return await changed(request.user, change, _get(number=task_id), "task")


@delete("/api/{user_id:str}/tasks/{task_id:str}", if_match=True, problems=("forbidden",), scope="write")
async def delete_task(request: Request, user_id: FromPath[str], task_id: FromPath[Number]) -> None:
    """Delete a task, and with it its links."""
    _check_user(request.user, user_id)
    deletion = _delete(id=None, number=task_id, version=request.if_match)
    await changed(request.user, deletion, _get(number=task_id), "task")


@patch(
    "/api/{user_id:str}/tasks/{task_id:str}/complete",
    if_match=True,
    problems=("forbidden", "invalid_transition"),
    scope="write",
)
async def complete_task(
    request: Request, user_id: FromPath[str], task_id: FromPath[Number], data: JSONBody[TaskCompletion | None] = None
) -> Versioned[Task]:
    """Toggle ``completed``, or set it to what the body says."""
    _check_user(request.user, user_id)
    completed = None if data is None else data.completed
    change = _complete(number=task_id, completed=completed, version=request.if_match)
    return await changed(request.user, change, _get(number=task_id), "task")


async def _array(caller: Caller, ids: str, completed: bool | None) -> AsyncGenerator[bytes]:
    """The tasks as a list in JSON, a page of them at a time: as many may be owned as memory would not hold."""
    before = b"["
    for place in range(0, len(ids), PAGE * _ID_LENGTH):
        page = await caller.run(_list(ids=_uuids(ids[place : place + PAGE * _ID_LENGTH]), completed=completed))
        if page:
            yield before + msgspec.json.encode(page)[1:-1]
            before = b","
    yield b"]" if before == b"," else b"[]"


def _uuids(ids: str) -> list[UUID]:
    return [msgspec.convert(text, UUID) for text in ids.split(",") if text]


def _check_user(caller: Caller, user_id: str) -> None:
    if user_id.lower() != str(caller.user_id) and user_id != caller.subject:
        raise Problem("forbidden", "The path names another user than the token.")
