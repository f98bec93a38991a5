"""Lists of todos: the caller's own in ten orders, those assigned to them, and those of a conversation."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from litestar import get
from litestar.params import FromPath
from msgspec import Meta

from service.db.caller import Caller
from service.db.queries import Many, Maybe
from service.http.fields import (
    Contained,
    Priority,
    Search,
    Status,
    Time,
    check_contained,
    check_search,
    check_time,
    contained,
    words_of,
)
from service.http.missing import found
from service.http.paging import Cursor, Limit, Page, PageQuery, decode_cursor, page_of
from service.http.recency import newest_first
from service.http.request import Request
from service.problems import Problem
from service.todos import Todo

Order = Annotated[
    Literal[
        "created_at", "-created_at", "updated_at", "-updated_at", "due_date", "-due_date",
        "priority", "-priority", "number", "-number",
    ],
    Meta(title="TodoOrder"),
]  # fmt: skip
_RANKS = {"low": 1, "medium": 2, "high": 3, "urgent": 4}


class TodoFilters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which todos, in which order. A repeated ``status`` or ``priority`` means any of them."""

    status: list[Status] | None = None
    completed: bool | None = None
    priority: list[Priority] | None = None
    due_before: Time | None = None
    due_after: Time | None = None
    overdue: Annotated[bool, Meta(description="Due in the past, and pending or in_progress.")] | None = None
    q: Search | None = None
    metadata: Contained | None = None
    scope: Annotated[Literal["owned", "assigned", "all"], Meta(title="TodoScope")] = "owned"
    order: Order = "-created_at"
    limit: Limit = 50
    cursor: Cursor | None = None

    def __post_init__(self) -> None:
        check_time("due_before", self.due_before)
        check_time("due_after", self.due_after)
        check_search(self.q)
        check_contained(self.metadata)


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


@get("/v1/conversations/{conversation_id:str}/todos", query=PageQuery, scope="read")
async def list_conversation_todos(request: Request, conversation_id: FromPath[UUID]) -> Page[Todo]:
    """The todos that a conversation is linked with, oldest first."""
    query = request.filters(PageQuery)
    question = ("conversation", str(conversation_id))
    (after_id,) = (_NO_UUID,) if query.cursor is None else decode_cursor(query.cursor, question, tuple[UUID])
    owned, rows = await request.user.run(
        _find_conversation(id=conversation_id),
        _list_of_conversation(conversation_id=conversation_id, after_id=after_id, row_limit=query.limit + 1),
    )
    found(owned)
    return page_of(rows, query.limit, question, lambda todo: (todo.id,))


@get("/v1/todos", query=TodoFilters, scope="read")
async def list_todos(request: Request) -> Page[Todo]:
    """The caller's todos, those assigned to them, or both."""
    query = request.filters(TodoFilters)
    question = msgspec.structs.replace(query, cursor=None, limit=1)
    if query.scope != "owned":
        return await _list_visible(request.user, query, question)
    order = query.order
    row_limit = query.limit + 1
    if order == "-updated_at":
        down, up = (partial(_list_owned[name], **_filters(query)) for name in (order, "updated_at"))
        return await newest_first(request.user, query.cursor, query.limit, question, down, up)
    after = _read_cursor(query, question)
    if order == "-created_at" and query.status and len(query.status) == 1 and query == _only_status(query):
        rows = await request.user.run(_list_by_status(status=query.status[0], row_limit=row_limit, **after))
    else:
        rows = await request.user.run(_list_owned[order](row_limit=row_limit, **_filters(query), **after))
    return page_of(rows, query.limit, question, _KEYS[order.removeprefix("-")])


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
        "words": words_of(query.q),
        "contains": contained(query.metadata),
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
