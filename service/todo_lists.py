"""Lists of todos: the caller's own in ten orders, those assigned to them, and those of a conversation."""

import heapq
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Self
from uuid import UUID

import msgspec
from litestar import get
from litestar.params import FromPath
from msgspec import Meta

from service.db.caller import Caller
from service.db.queries import Looked, Many, Maybe, Some, Statement
from service.http.fields import (
    Contained,
    Priority,
    Search,
    Status,
    Time,
    check_contained,
    check_search,
    check_time,
    words_of,
)
from service.http.missing import found
from service.http.paging import (
    LOOKED_AT,
    Page,
    PageQuery,
    decode_cursor,
    one_behind_the_other,
    page_of,
)
from service.http.recency import FIRST_ID, FIRST_TIME, LAST_ID, LAST_TIME, newest_first
from service.http.request import Request
from service.todos import Todo

Order = Annotated[
    Literal[
        "created_at", "-created_at", "updated_at", "-updated_at", "due_date", "-due_date",
        "priority", "-priority", "number", "-number",
    ],
    Meta(title="TodoOrder"),
]  # fmt: skip
_LAST_NUMBER = (1 << 63) - 1
_RANKS = {"low": 1, "medium": 2, "high": 3, "urgent": 4}


class TodoFilters(PageQuery, frozen=True, forbid_unknown_fields=True):
    """Which todos, in which order. A repeated ``status`` or ``priority`` means any of them."""

    status: list[Status] | None = None
    completed: bool | None = None
    priority: list[Priority] | None = None
    due_before: Annotated[Time, Meta(description="That moment not included.")] | None = None
    due_after: Annotated[Time, Meta(description="That moment included.")] | None = None
    overdue: Annotated[bool, Meta(description="Due in the past, and pending or in_progress.")] | None = None
    q: Search | None = None
    metadata: Contained | None = None
    scope: Annotated[Literal["owned", "assigned", "all"], Meta(title="TodoScope")] = "owned"
    order: Order = "-created_at"

    def __post_init__(self) -> None:
        check_time("due_before", self.due_before)
        check_time("due_after", self.due_after)
        check_search(self.q)
        check_contained(self.metadata)

    @property
    def question(self) -> Self:
        """Whatever the order of its statuses and priorities, and however often they are repeated."""
        status = self.status and sorted(set(self.status))
        priority = self.priority and sorted(set(self.priority))
        return msgspec.structs.replace(self, cursor=None, limit=1, status=status, priority=priority)


_find_last_position = Maybe("find_last_position", int)
_list_of_conversation = Many("list_conversation_todos", Todo)
_list_by_status = Many("list_todos_by_status", Todo)
_list_owned, _list_assigned = (
    {
        sign + order: Some(f"list_{todos}_by_{order}{suffix}", Todo)
        for order in ("created_at", "updated_at", "due_date", "no_due_date", "priority", "number")
        for sign, suffix in (("", ""), ("-", "_desc"))
    }
    for todos in ("todos", "assigned_todos")
)
_LISTS = {"owned": (_list_owned,), "assigned": (_list_assigned,), "all": (_list_owned, _list_assigned)}


@get("/v1/conversations/{conversation_id:str}/todos", query=PageQuery, scope="read")
async def list_conversation_todos(request: Request, conversation_id: FromPath[UUID]) -> Page[Todo]:
    """The todos that a conversation is linked with, oldest first."""
    query = request.filters(PageQuery)
    question = ("conversation", str(conversation_id))
    (after_id,) = (FIRST_ID,) if query.cursor is None else decode_cursor(query.cursor, question, tuple[UUID])
    last_position, rows = await request.user.run(
        _find_last_position(id=conversation_id),
        _list_of_conversation(conversation_id=conversation_id, after_id=after_id, row_limit=query.limit + 1),
    )
    found(last_position)
    return page_of(rows, query.limit, question, lambda todo: (todo.id,))


@get("/v1/todos", query=TodoFilters, scope="read")
async def list_todos(request: Request) -> Page[Todo]:
    """The caller's todos, those assigned to them, or both.

    Each page looks at 5000 todos of each kind at most, so it may be short, or empty, while `next_cursor` leads on. By
    `-updated_at`, those that change while the list is walked come at its end, some of them again; one whose change was
    not yet committed when the first page was read may be missed.
    """
    query = request.filters(TodoFilters)
    question = query.question
    order = query.order
    limit = query.limit

    async def ask(*places: _Place) -> list[Looked[Todo]]:
        return await _ask(request.user, query, places)

    if order == "-updated_at":
        return await newest_first(ask, query.cursor, limit, question)
    value, kind, first, last = _KEYS[order.removeprefix("-")]
    key = _keyset(value)
    begin: tuple[Any, UUID, UUID] = (last, LAST_ID, LAST_ID) if order.startswith("-") else (first, FIRST_ID, FIRST_ID)
    if order == "due_date" and query.due_after is not None:
        begin = (query.due_after, FIRST_ID, FIRST_ID)
    if order == "-due_date" and query.due_before is not None:
        begin = (query.due_before, FIRST_ID, FIRST_ID)
    place = begin if query.cursor is None else decode_cursor(query.cursor, question, tuple[kind, UUID, UUID])
    statuses = query.status
    if order == "-created_at" and statuses and len(statuses) == 1 and query == _only(statuses, query):
        key_of_row = {"after": place[0], "after_id": place[1], "row_limit": limit + 1}
        rows = await request.user.run(_list_by_status(status=statuses[0], **key_of_row))
        return page_of(rows, limit, question, key)
    undated = order.replace("due", "no_due")
    if undated == order:
        (looked,) = await ask((order, *place))
    elif query.due_after is not None or query.due_before is not None:  # which no todo without a due date is
        (looked,) = await ask((order, *place))
        if looked.last is not None and _is_beyond(query, looked.last):
            looked = Looked(looked.rows, None)
    elif place[0] is None:  # behind a todo without a due date no dated one comes any more
        (looked,) = await ask((undated, *place))
    else:
        looked = one_behind_the_other(*await ask((order, *place), (undated, None, *begin[1:])))
    return page_of(looked.rows, limit, question, key, looked.last)


def _only(statuses: list[Status], query: TodoFilters) -> TodoFilters:
    return TodoFilters(status=statuses, limit=query.limit, cursor=query.cursor)


def _is_beyond(query: TodoFilters, todo: Todo) -> bool:
    """Whether the todo, and all behind it in a list by due date, are due too late or too early."""
    if todo.due_date is None:
        return False
    if query.order == "due_date":
        return query.due_before is not None and todo.due_date >= query.due_before
    return query.due_after is not None and todo.due_date < query.due_after


_Place = tuple[str, Any, UUID, UUID]
"""An order and a key in it."""


async def _ask(caller: Caller, query: TodoFilters, places: Sequence[_Place]) -> list[Looked[Todo]]:
    """What is found behind each of the places, in the lists that are in the query's scope."""
    filters = {
        "status": query.status,
        "completed": query.completed,
        "priority": query.priority,
        "due_before": query.due_before,
        "due_after": query.due_after,
        "overdue": query.overdue,
        "words": words_of(query.q),
        "contains": query.metadata and query.metadata.encode(),
        "looked_at": LOOKED_AT,
        "row_limit": query.limit + 1,
    }
    lists = _LISTS[query.scope]
    statements: list[Statement[Looked[Todo]]] = []
    for order, after, after_id, after_user in places:
        key = {"after_id": after_id, "after_user": after_user}
        if "no_due" not in order:
            key["after"] = after
        statements += [queries[order](**key, **filters) for queries in lists]
    looked: list[Looked[Todo]] = await caller.run_all(statements)
    if len(lists) == 1:
        return looked
    return [_merged(looked[2 * index : 2 * index + 2], order) for index, (order, *_) in enumerate(places)]


def _merged(lists: Sequence[Looked[Todo]], order: str) -> Looked[Todo]:
    """What was found in lists of one order, in that order and each once, as far as none of them ended its search."""
    key = _keyset(_KEYS[order.removeprefix("-").removeprefix("no_")][0])
    is_descending = order.startswith("-")
    rows = list(heapq.merge(*(looked.rows for looked in lists), key=key, reverse=is_descending))
    ends = sorted((looked.last for looked in lists if looked.last is not None), key=key, reverse=is_descending)
    if ends:
        rows = [row for row in rows if (key(row) >= key(ends[0]) if is_descending else key(row) <= key(ends[0]))]
    return Looked(list({(row.user_id, row.id): row for row in rows}.values()), ends[0] if ends else None)


_DueDate = Time | None
_KEYS: dict[str, tuple[Callable[[Todo], Any], Any, Any, Any]] = {
    "created_at": (lambda todo: todo.created_at, Time, FIRST_TIME, LAST_TIME),
    "updated_at": (lambda todo: todo.updated_at, Time, FIRST_TIME, LAST_TIME),
    "due_date": (lambda todo: todo.due_date, _DueDate, FIRST_TIME, LAST_TIME),
    "priority": (lambda todo: _RANKS[todo.priority], Annotated[int, Meta(ge=0, le=5)], 0, 5),
    "number": (lambda todo: todo.number, Annotated[int, Meta(ge=0, le=_LAST_NUMBER)], 0, _LAST_NUMBER),
}
"""Order → what a todo is ordered by, of which type that is, and what lies before and behind all there can be."""


def _keyset(value: Callable[[Todo], Any]) -> Callable[[Todo], tuple[Any, UUID, UUID]]:
    """With the owner at last: an import keeps ids, so todos of several owners may have one id."""
    return lambda todo: (value(todo), todo.id, todo.user_id)
