"""Conversations: threads of messages between a user and an assistant."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import msgspec
from litestar import delete, get, patch, post
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, Meta, UnsetType

from service.db.queries import WRITE_ENTRIES, Many, Maybe, One
from service.http.fields import Metadata, MetadataText, Time, Title, TodoRef, check_metadata, check_title, given
from service.http.idempotency import idempotent
from service.http.missing import found, why_unchanged
from service.http.paging import Cursor, Limit, Page, PageQuery, decode_cursor, page_of
from service.http.request import Request


class Conversation(msgspec.Struct, frozen=True, gc=False):
    """A conversation. ``updated_at`` and ``version`` move with every message that is added."""

    id: UUID
    user_id: UUID
    title: str | None
    metadata: MetadataText
    message_count: int
    version: int
    created_at: Time
    updated_at: Time


class ListedConversation(msgspec.Struct, frozen=True, gc=False):
    """A conversation in a list, with its last messages, oldest first, where the request asks for some."""

    id: UUID
    user_id: UUID
    title: str | None
    metadata: MetadataText
    message_count: int
    version: int
    created_at: Time
    updated_at: Time
    messages: (
        Annotated[
            msgspec.Raw, Meta(extra_json_schema={"type": "array", "items": {"$ref": "#/components/schemas/Message"}})
        ]
        | UnsetType
    ) = UNSET


class ConversationCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A conversation to be opened; a title can wait until there is something to name."""

    title: Title | None = None
    metadata: Metadata | UnsetType = UNSET

    def __post_init__(self) -> None:
        check_title(self.title)
        check_metadata(self.metadata)


class ConversationPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What of a conversation is to be changed; null clears the title."""

    title: Title | UnsetType | None = UNSET
    metadata: Metadata | UnsetType = UNSET

    def __post_init__(self) -> None:
        check_title(self.title)
        check_metadata(self.metadata)


class ConversationFilters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much of the list is wanted; ``messages`` counts for each conversation."""

    messages: Annotated[int, Meta(ge=0, le=50, description="Adds each conversation's last messages, so many.")] = 0
    limit: Limit = 50
    cursor: Cursor | None = None


DELETE_SECONDS = 60.0
"""How long a deletion may take: 100,000 messages, each with its entry in the trail, take three or four."""

_get = Maybe("get_conversation", Conversation)
_create = One("create_conversation", Conversation)
_update = Maybe("update_conversation", Conversation)
_delete = Maybe("delete_conversation", UUID)
_list = Many("list_conversations", Conversation)
_list_with_messages = Many("list_conversations_with_messages", ListedConversation)

_find_todo = Maybe("find_todo", UUID)
_list_of_todo = Many("list_todo_conversations", Conversation)

_Instant = Annotated[datetime, Meta(tz=True)]
_LAST = (datetime.max.replace(tzinfo=UTC), UUID(int=(1 << 128) - 1))


@get("/v1/conversations", query=ConversationFilters)
async def list_conversations(request: Request) -> Page[ListedConversation]:
    """The caller's conversations, most recently active first."""
    query = request.filters(ConversationFilters)
    question = msgspec.structs.replace(query, cursor=None, limit=1)
    after, after_id = _LAST
    if query.cursor is not None:
        after, after_id = decode_cursor(query.cursor, question, tuple[_Instant, UUID])
    key = {"after": after, "after_id": after_id, "row_limit": query.limit + 1}
    if query.messages:
        rows = await request.user.run(_list_with_messages(messages=query.messages, **key))
    else:
        rows = [ListedConversation(*msgspec.structs.astuple(row)) for row in await request.user.run(_list(**key))]
    return page_of(rows, query.limit, question, lambda row: (row.updated_at, row.id))


@get("/v1/todos/{todo_id:str}/conversations", query=PageQuery)
async def list_todo_conversations(request: Request, todo_id: FromPath[TodoRef]) -> Page[Conversation]:
    """The conversations that one of the caller's own todos is linked with, oldest first."""
    query = request.filters(PageQuery)
    reference = {"id": None, "number": todo_id} if isinstance(todo_id, int) else {"id": todo_id, "number": None}
    question = ("todo", str(todo_id))
    (after_id,) = (UUID(int=0),) if query.cursor is None else decode_cursor(query.cursor, question, tuple[UUID])
    owned, rows = await request.user.run(
        _find_todo(**reference), _list_of_todo(**reference, after_id=after_id, row_limit=query.limit + 1)
    )
    found(owned)
    return page_of(rows, query.limit, question, lambda conversation: (conversation.id,))


@post("/v1/conversations", location="/v1/conversations/{id}")
@idempotent
async def create_conversation(request: Request, data: JSONBody[ConversationCreate]) -> Conversation:
    """Open a conversation."""
    return await request.user.run(_create(id=None, title=data.title, metadata=given(data.metadata)))


@get("/v1/conversations/{conversation_id:str}")
async def get_conversation(request: Request, conversation_id: FromPath[UUID]) -> Conversation:
    """One of the caller's conversations."""
    return found(await request.user.run(_get(id=conversation_id)))


@patch("/v1/conversations/{conversation_id:str}", if_match=True)
async def update_conversation(
    request: Request, conversation_id: FromPath[UUID], data: JSONBody[ConversationPatch]
) -> Conversation:
    """Change a conversation's title or metadata."""
    conversation = await request.user.run(
        _update(
            id=conversation_id,
            set_title=data.title is not UNSET,
            title=given(data.title),
            metadata=given(data.metadata),
            version=request.if_match,
        )
    )
    if conversation is None:
        raise await why_unchanged(request.user, _get(id=conversation_id), "conversation")
    return conversation


@delete("/v1/conversations/{conversation_id:str}", if_match=True)
async def delete_conversation(request: Request, conversation_id: FromPath[UUID]) -> None:
    """Delete a conversation, and with it its messages and links."""
    delete = _delete(id=conversation_id, version=request.if_match)
    deleted, _ = await request.user.run(delete, WRITE_ENTRIES(), seconds=DELETE_SECONDS)
    if deleted is None:
        raise await why_unchanged(request.user, _get(id=conversation_id), "conversation")
