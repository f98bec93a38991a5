"""Tasks: the todos as specification A's clients know them. A task's id is its todo's number."""

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from service.db.queries import Caller, Many, Maybe, One, Tagged
from service.http.fields import Number, Time, Title, check_title
from service.problems import Problem

Description = Annotated[str, Meta(max_length=1000)]


class Task(msgspec.Struct, frozen=True, gc=False):
    """A todo of the user, with ``completed`` in place of a status."""

    id: int
    user_id: UUID
    title: str
    description: str | None
    completed: bool
    created_at: Time
    updated_at: Time


class TaskCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A task to be made: a pending todo of medium priority."""

    title: Title
    description: Description | None = None

    def __post_init__(self) -> None:
        check_title(self.title)


class TaskReplace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole task: a description that is absent is cleared; ``completed`` may be left as it is."""

    title: Title
    description: Description | None = None
    completed: bool | None = None

    def __post_init__(self) -> None:
        check_title(self.title)


class TaskCompletion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``completed`` is to be, instead of the opposite of what it is."""

    completed: bool


class TaskFilters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``pending`` are all that are not completed; archived ones are left out."""

    status: Literal["all", "pending", "completed"] = "all"
    sort: Literal["created", "title", "due_date"] = "created"


_get = Maybe("get_task", Tagged[Task])
_create = One("create_task", Tagged[Task])
_replace = Maybe("replace_task", Tagged[Task])
_complete = Maybe("complete_task", Tagged[Task])
_delete = Maybe("delete_task", int)
_lists = {
    "created": Many("list_tasks_by_created", Task),
    "title": Many("list_tasks_by_title", Task),
    "due_date": Many("list_tasks_by_due_date", Task),
}


async def list_tasks(caller: Caller, user_id: str, query: TaskFilters) -> list[Task]:
    """All of the user's tasks, as one array."""
    _check_user(caller, user_id)
    completed = None if query.status == "all" else query.status == "completed"
    return await caller.run(_lists[query.sort](completed=completed))


async def create_task(caller: Caller, user_id: str, data: TaskCreate) -> Tagged[Task]:
    """Make a task."""
    _check_user(caller, user_id)
    return await caller.run(_create(title=data.title, description=data.description))


async def get_task(caller: Caller, user_id: str, task_id: Number) -> Tagged[Task]:
    """One task."""
    _check_user(caller, user_id)
    task = await caller.run(_get(number=task_id))
    if task is None:
        raise Problem("not_found")
    return task


async def replace_task(
    caller: Caller, user_id: str, task_id: Number, data: TaskReplace, if_match: int | None
) -> Tagged[Task]:
    """Replace a task's title and description, and complete or reopen it."""
    _check_user(caller, user_id)
    task = await caller.run(
        _replace(
            number=task_id,
            title=data.title,
            description=data.description,
            completed=data.completed,
            version=if_match,
        )
    )
    return task or await _why_none(caller, user_id, task_id)


async def delete_task(caller: Caller, user_id: str, task_id: Number, if_match: int | None) -> None:
    """Delete a task, and with it its links."""
    _check_user(caller, user_id)
    if await caller.run(_delete(number=task_id, version=if_match)) is None:
        await _why_none(caller, user_id, task_id)


async def complete_task(
    caller: Caller, user_id: str, task_id: Number, data: TaskCompletion | None, if_match: int | None
) -> Tagged[Task]:
    """Toggle ``completed``, or set it to what the body says."""
    _check_user(caller, user_id)
    task = await caller.run(
        _complete(number=task_id, completed=None if data is None else data.completed, version=if_match)
    )
    return task or await _why_none(caller, user_id, task_id)


def _check_user(caller: Caller, user_id: str) -> None:
    if user_id.lower() != str(caller.user_id) and user_id != caller.subject:
        raise Problem("forbidden", "The path names another user than the token.")


async def _why_none(caller: Caller, user_id: str, task_id: Number) -> Tagged[Task]:
    """Raises why a change found no row: there is none, or it has moved on."""
    task = await get_task(caller, user_id, task_id)
    raise Problem("version_mismatch", f"The task is at version {task.version}.")
