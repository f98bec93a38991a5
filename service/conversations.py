"""Conversations: threads of messages between a user and an assistant."""

from typing import Annotated, Any, Literal, Self, cast
from uuid import UUID

import msgspec
from litestar import delete, get, patch, post, put
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, Meta, UnsetType

from service.db.queries import WRITE_ENTRIES, Looked, Many, Maybe, One, Some
from service.http.fields import (
    Contained,
    ExternalId,
    Metadata,
    Search,
    Time,
    Title,
    TodoRef,
    changes,
    check_contained,
    check_metadata,
    check_search,
    check_title,
    reference,
    values,
    words_of,
)
from service.http.idempotency import idempotent
from service.http.missing import changed, found
from service.http.paging import ANSWER_BYTES, LOOKED_AT, Page, PageQuery, decode_cursor, page_of
from service.http.recency import FIRST_ID, FIRST_TIME, LAST_ID, LAST_TIME, newest_first
from service.http.request import LAST_VERSION, Request
from service.http.response import answer
from service.problems import Problem


class Conversation(msgspec.Struct, frozen=True, gc=False):
    """A conversation. ``updated_at`` and ``version`` move with every message that is added."""

    id: UUID
    user_id: UUID
    external_id: str | None
    title: str | None
    metadata: Metadata
    message_count: int
    version: int
    created_at: Time
    updated_at: Time


class ListedConversation(Conversation, frozen=True, gc=False):
    """A conversation in a list, with its last messages, oldest first, where the request asks for some."""

    messages: (
        Annotated[
            msgspec.Raw, Meta(extra_json_schema={"type": "array", "items": {"$ref": "#/components/schemas/Message"}})
        ]
        | UnsetType
    ) = UNSET


class NamedConversation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a conversation is to begin with, unless it is there already."""

    title: Title | None = None
    metadata: Metadata | UnsetType = UNSET

    def __post_init__(self) -> None:
        check_title(self.title)
        check_metadata(self.metadata)


class ConversationCreate(NamedConversation, frozen=True, forbid_unknown_fields=True):
    """A conversation to be opened; a title can wait until there is something to name."""

    external_id: ExternalId | None = None


class ConversationPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What of a conversation is to be changed; null clears the title."""

    title: Title | UnsetType | None = UNSET
    metadata: Metadata | UnsetType = UNSET

    def __post_init__(self) -> None:
        check_title(self.title)
        check_metadata(self.metadata)


class ConversationFilters(PageQuery, frozen=True, forbid_unknown_fields=True):
    """Which conversations, in which order; ``messages`` counts for each conversation."""

    external_id: Annotated[ExternalId, Meta(description="The one that a client calls so.")] | None = None
    q: Search | None = None
    metadata: Contained | None = None
    order: Annotated[
        Literal["updated_at", "-updated_at", "created_at", "-created_at"], Meta(title="ConversationOrder")
    ] = "-updated_at"
    messages: Annotated[int, Meta(ge=0, le=50, description="Adds each conversation's last messages, so many.")] = 0

    def __post_init__(self) -> None:
        check_search(self.q)
        check_contained(self.metadata)

    @property
    def question(self) -> Self:
        """Without ``messages``, which neither filters nor orders."""
        return msgspec.structs.replace(self, cursor=None, limit=1, messages=0)


DELETE_SECONDS = 60.0
"""How long a deletion may take: 100,000 messages, each with its entry in the trail, take about ten."""

GET = Maybe("get_conversation", Conversation)
CREATE = One("create_conversation", Conversation)
_update = Maybe("update_conversation", Conversation)
_delete = Maybe("delete_conversation", UUID)
_ensure = Maybe("ensure_conversation", Conversation)
_get_named = Maybe("get_conversation_by_external_id", Conversation)
_ORDERS = {
    "updated_at": "updated_at",
    "-updated_at": "updated_at_desc",
    "created_at": "created_at",
    "-created_at": "created_at_desc",
    "external_id": "external_id",
}
"""Order → as the names of queries have it."""
_list = {order: Some(f"list_conversations_by_{name}", Conversation) for order, name in _ORDERS.items()}
_list_with_messages = {
    order: Some(f"list_conversations_with_messages_by_{name}", ListedConversation) for order, name in _ORDERS.items()
}

_find_todo = Maybe("find_todo", UUID)
_list_of_todo = Many("list_todo_conversations", Conversation)

_LAST_VERSION = 3 * LAST_VERSION
"""Its own and twice its last position, see the column's comment."""


@get("/v1/conversations", query=ConversationFilters, scope="read")
async def list_conversations(request: Request) -> Page[ListedConversation]:
    """The caller's conversations, most recently active first unless another order is asked for.

    Each page looks at 5000 conversations at most, so it may be short, or empty, while `next_cursor` leads on. By
    `-updated_at`, those that become active while the list is walked come at its end, some of them again; one whose
    message was not yet committed when the first page was read may be missed.
    """
    query = request.filters(ConversationFilters)
    question = query.question
    filters: dict[str, Any] = {
        "words": words_of(query.q),
        "contains": query.metadata and query.metadata.encode(),
        "looked_at": LOOKED_AT,
        "row_limit": query.limit + 1,
    }
    queries: dict[str, Some[Any]] = _list
    if query.messages:
        queries = _list_with_messages
        filters |= {"messages": query.messages, "message_bytes": ANSWER_BYTES}

    async def ask(*places: tuple[Any, ...]) -> list[Looked[Any]]:
        return await request.user.run_all(
            [queries[order](after=after, after_id=after_id, **filters) for order, after, after_id, *_ in places]
        )

    if query.external_id is not None:
        if query.cursor is not None:
            raise Problem("invalid_cursor", "A list of at most one has no next page.")
        (looked,) = await ask(("external_id", query.external_id, FIRST_ID))
        return Page(looked.rows, None)
    if query.order == "-updated_at":
        return await newest_first(ask, query.cursor, query.limit, question, _complete)
    column = query.order.removeprefix("-")
    after, after_id = (LAST_TIME, LAST_ID) if query.order.startswith("-") else (FIRST_TIME, FIRST_ID)
    if query.cursor is not None:
        after, after_id = decode_cursor(query.cursor, question, tuple[Time, UUID])
    (looked,) = await ask((query.order, after, after_id))
    limit = min(query.limit, _complete(looked.rows))
    return page_of(looked.rows, limit, question, lambda row: (getattr(row, column), row.id), looked.last)


def _complete(rows: list[Any]) -> int:
    """How many of the first rows have the messages asked for: the query gives no more than an answer takes."""
    without = (index for index, row in enumerate(rows) if getattr(row, "messages", UNSET) is None)
    return next(without, len(rows))


@get("/v1/todos/{todo_id:str}/conversations", query=PageQuery, scope="read")
async def list_todo_conversations(request: Request, todo_id: FromPath[TodoRef]) -> Page[Conversation]:
    """The conversations that one of the caller's own todos is linked with, oldest first."""
    query = request.filters(PageQuery)
    question = ("todo", str(todo_id))
    (after_id,) = (FIRST_ID,) if query.cursor is None else decode_cursor(query.cursor, question, tuple[UUID])
    todo = reference(todo_id)
    owned, rows = await request.user.run(
        _find_todo(**todo), _list_of_todo(**todo, after_id=after_id, row_limit=query.limit + 1)
    )
    found(owned)
    return page_of(rows, query.limit, question, lambda conversation: (conversation.id,))


@post("/v1/conversations", location="/v1/conversations/{id}", problems=("external_id_taken",), scope="write")
@idempotent
async def create_conversation(request: Request, data: JSONBody[ConversationCreate]) -> Conversation:
    """Open a conversation."""
    return await request.user.run(CREATE(id=None, **values(data)))


@put(
    "/v1/conversations/by-external-id/{external_id:path}",
    location="/v1/conversations/{id}",
    creates=True,
    status_code=200,
    scope="write",
)
async def ensure_conversation(
    request: Request, external_id: FromPath[ExternalId], data: JSONBody[NamedConversation]
) -> Conversation:
    """The conversation that a client calls so: 201 where it is made now, 200 where it was there, left as it is.

    Ask with as many clients at once as you like: there is one. A slash in the name is
    `%2F`; a name of nothing but slashes can't be asked for so.
    """
    make = _ensure(external_id=external_id, **values(data))
    made, there = await request.user.run(make, _get_named(external_id=external_id))
    if made is None and there is None:
        raise Problem("timeout", "It was deleted at that very moment. Try again.")
    return cast("Conversation", answer(request, made or there, 200 if made is None else 201))


@get("/v1/conversations/{conversation_id:str}", scope="read")
async def get_conversation(request: Request, conversation_id: FromPath[UUID]) -> Conversation:
    """One of the caller's conversations."""
    return found(await request.user.run(GET(id=conversation_id)))


@patch("/v1/conversations/{conversation_id:str}", if_match=True, scope="write")
async def update_conversation(
    request: Request, conversation_id: FromPath[UUID], data: JSONBody[ConversationPatch]
) -> Conversation:
    """Change a conversation's title or metadata."""
    change = _update(id=conversation_id, **changes(data), version=request.if_match_up_to(_LAST_VERSION))
    return await changed(request.user, change, GET(id=conversation_id), "conversation")


@delete("/v1/conversations/{conversation_id:str}", if_match=True, scope="write")
async def delete_conversation(request: Request, conversation_id: FromPath[UUID]) -> None:
    """Delete a conversation, and with it its messages and links."""
    deletion = _delete(id=conversation_id, version=request.if_match_up_to(_LAST_VERSION))
    await changed(
        request.user, deletion, GET(id=conversation_id), "conversation", WRITE_ENTRIES(), seconds=DELETE_SECONDS
    )
