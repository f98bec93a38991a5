"""Messages: what was said, in order, in a conversation of its user."""

from typing import Annotated, Any, ClassVar, Literal, Self, cast
from uuid import UUID

import msgspec
from litestar import delete, get, patch, post
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, Meta, UnsetType

from service.contexts import Context, ContextSize, Role, ask_context, context_of
from service.db.caller import Caller
from service.db.queries import WRITE_ENTRIES, Count, Many, Maybe, One, Statement, Versioned
from service.http.fields import (
    CONTENT_LENGTH,
    Content,
    ContentOfItem,
    MessageType,
    Metadata,
    SenderType,
    Time,
    changes,
    check_metadata,
    given,
)
from service.http.idempotency import idempotent
from service.http.kept_json import Paths
from service.http.missing import changed, found, why_unchanged
from service.http.paging import ANSWER_BYTES, LOOKED_AT, Page, PageQuery, decode_cursor, encode_cursor, page_of
from service.http.request import Request
from service.items import Item, ItemText, check_item, read_item
from service.problems import invalid

MESSAGE_BYTES = 2 * 1024 * 1024

LAST_POSITION = 2_147_483_647
Position = Annotated[int, Meta(ge=0, le=LAST_POSITION)]


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message. ``position`` counts from 1 in its conversation and is the order."""

    id: UUID
    conversation_id: UUID
    user_id: UUID
    position: int
    sender_type: SenderType
    role: Role
    sender_id: UUID | None
    content: str
    message_type: MessageType
    metadata: Metadata
    content_truncated: bool
    created_at: Time
    updated_at: Time


class FullMessage(Message, frozen=True, gc=False):
    """A message with its item."""

    item: ItemText | None


class MessageCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message to be added. ``sender_id`` need not be sent: it is the caller for ``user``, and null for the others.

    Beside an ``item``, ``content`` is its readable text and may be left out, empty or too long: it is cut. What
    ``message_type`` is, too, is then found in the item, as far as it says so.
    """

    kept_as_sent: ClassVar[Paths] = frozenset({("item",)})

    sender_type: SenderType
    content: ContentOfItem | UnsetType = UNSET
    message_type: (
        Annotated[MessageType, Meta(description="`text` when it is left out, and no item tells otherwise.")] | UnsetType
    ) = UNSET
    metadata: Metadata | UnsetType = UNSET
    sender_id: UUID | None = None
    item: Item | UnsetType = UNSET

    def __post_init__(self) -> None:
        check_metadata(self.metadata)
        kind: MessageType = "text"
        if self.item is not UNSET:
            check_item(self.item)
            if self.content is UNSET or self.message_type is UNSET:
                item = read_item(self.item)
                kind = item.message_type
                if self.content is UNSET:
                    msgspec.structs.force_setattr(self, "content", item.text)
        elif self.content is UNSET:
            raise ValueError("content: is required")
        elif not 1 <= len(self.content) <= CONTENT_LENGTH:
            raise ValueError(f"content: must have 1 to {CONTENT_LENGTH} characters")
        if self.message_type is UNSET:
            msgspec.structs.force_setattr(self, "message_type", kind)
        if self.sender_id is not None and self.sender_type != "user":
            raise ValueError("sender_id: must be null for ai and system")


class MessagePatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What of a message is to be changed; its place, time and sender stay."""

    content: Content | UnsetType = UNSET
    message_type: MessageType | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET

    def __post_init__(self) -> None:
        check_metadata(self.metadata)


class Rewound(msgspec.Struct, frozen=True):
    """How many messages a rewind deleted."""

    deleted: int


class MessageFilters(PageQuery, frozen=True, forbid_unknown_fields=True):
    """Which messages, in which order; neither ``after_position`` nor ``before_position`` is itself included."""

    sender_type: SenderType | None = None
    message_type: MessageType | None = None
    after_position: Position | None = None
    before_position: Position | None = None
    items: Annotated[bool, Meta(description="Adds each message's item; pages end early where items are large.")] = False
    order: Annotated[Literal["position", "-position"], Meta(title="MessageOrder")] = "position"

    @property
    def question(self) -> Self:
        """Without ``items``, which neither filters nor orders."""
        return msgspec.structs.replace(self, cursor=None, limit=1, items=False)


class Rewind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a rewind begins: required, so that nobody empties a conversation by leaving it out."""

    from_position: Annotated[int, Meta(ge=1, le=2_147_483_647)]


REWIND_SECONDS = 60.0
"""How long a rewind may take: as long as the deletion of a conversation."""

_lock = Maybe("lock_conversation", UUID)
_find_last_position = Maybe("find_last_position", int)
_create = One("create_message", Versioned[FullMessage])
GET = Maybe("get_message", Versioned[FullMessage])
_update = Maybe("update_message", Versioned[FullMessage])
_delete = Maybe("delete_message", UUID)
_rewind = Count("delete_messages_from")
_list = Many("list_messages", Message)
_list_desc = Many("list_messages_desc", Message)
LIST_ITEMS = (
    Many("list_messages_with_items", FullMessage),
    Many("list_messages_with_items_desc", FullMessage),
)


@get("/v1/conversations/{conversation_id:str}/messages", query=MessageFilters, scope="read")
async def list_messages(request: Request, conversation_id: FromPath[UUID]) -> Page[Message]:
    """A conversation's messages, by position.

    With `sender_type` or `message_type`, each page looks at 5000 positions at most, so it may be short, or empty, while
    `next_cursor` leads on.
    """
    query = request.filters(MessageFilters)
    question = (str(conversation_id), query.question)
    after = query.after_position or 0
    before = LAST_POSITION if query.before_position is None else query.before_position
    descending = query.order == "-position"
    if query.cursor is not None:
        (reached,) = decode_cursor(query.cursor, question, tuple[Position])
        after, before = (after, min(before, reached)) if descending else (max(after, reached), before)
    bound = None
    if query.sender_type is not None or query.message_type is not None:
        last = found(await request.user.run(_find_last_position(id=conversation_id)))
        before = min(before, last + 1)
        if before - after - 1 > LOOKED_AT:
            bound = before - LOOKED_AT if descending else after + LOOKED_AT
            after, before = (bound - 1, before) if descending else (after, bound + 1)
    lists = LIST_ITEMS if query.items else (_list, _list_desc)
    listed = lists[descending](
        conversation_id=conversation_id,
        sender_type=query.sender_type,
        message_type=query.message_type,
        after=after,
        before=before,
        row_limit=query.limit + 1,
    )
    rows: list[Message] = await read(request.user, conversation_id, listed)
    limit = query.limit
    if query.items and sum(len(row.item or b"") for row in cast("list[FullMessage]", rows)) >= ANSWER_BYTES:
        limit = max(1, min(limit, len(rows) - 1))  # the query ended early, behind the row that made it too much
    page = page_of(rows, limit, question, lambda message: (message.position,))
    if page.next_cursor is None and bound is not None:
        page.next_cursor = encode_cursor(question, (bound,))
    return page


@get("/v1/conversations/{conversation_id:str}/context", query=ContextSize, scope="read")
async def get_context(request: Request, conversation_id: FromPath[UUID]) -> Context:
    """A conversation's last messages as a language model takes them, oldest first.

    A tool's output is not parted from its call: what would begin with such an output begins behind it.
    """
    query = request.filters(ContextSize)
    rows = await read(request.user, conversation_id, ask_context(conversation_id, query))
    return await context_of(request.user, rows, query)


@post(
    "/v1/conversations/{conversation_id:str}/messages",
    location="/v1/conversations/{conversation_id}/messages/{id}",
    request_max_body_size=MESSAGE_BYTES,
    scope="write",
)
@idempotent
async def create_message(
    request: Request, conversation_id: FromPath[UUID], data: JSONBody[MessageCreate]
) -> Versioned[FullMessage]:
    """Append a message."""
    return await request.user.run(_create(**insert_values(request.user, conversation_id, data)))


@get("/v1/conversations/{conversation_id:str}/messages/{message_id:str}", scope="read")
async def get_message(
    request: Request, conversation_id: FromPath[UUID], message_id: FromPath[UUID]
) -> Versioned[FullMessage]:
    """One message."""
    return found(await request.user.run(GET(conversation_id=conversation_id, id=message_id)))


@patch("/v1/conversations/{conversation_id:str}/messages/{message_id:str}", if_match=True, scope="write")
async def update_message(
    request: Request, conversation_id: FromPath[UUID], message_id: FromPath[UUID], data: JSONBody[MessagePatch]
) -> Versioned[FullMessage]:
    """Change a message's content, type or metadata; its position and times of others stay.

    Its item, if any, stays as it was sent, and is what a model gets: to be rid of its words, delete the message.
    """
    place = {"conversation_id": conversation_id, "id": message_id}
    change = _update(**place, **changes(data), version=request.if_match)
    return await changed(request.user, change, GET(**place), "message")


@delete("/v1/conversations/{conversation_id:str}/messages/{message_id:str}", if_match=True, scope="write")
async def delete_message(request: Request, conversation_id: FromPath[UUID], message_id: FromPath[UUID]) -> None:
    """Delete one message; the positions of the others stay."""
    place = {"conversation_id": conversation_id, "id": message_id}
    deletion = _delete(**place, version=request.if_match)
    _, deleted = await request.user.run(_lock(id=conversation_id), deletion)
    if deleted is None:
        raise await why_unchanged(request.user, deletion, GET(**place), "message")


@delete("/v1/conversations/{conversation_id:str}/messages", status_code=200, query=Rewind, scope="write")
async def rewind_messages(request: Request, conversation_id: FromPath[UUID]) -> Rewound:
    """Delete the message at a position and all after it. What is appended later gets positions never used before."""
    query = request.filters(Rewind)
    rewind = _rewind(conversation_id=conversation_id, from_position=query.from_position)
    statements: list[Statement[Any]] = [_lock(id=conversation_id), rewind, WRITE_ENTRIES()]
    conversation, deleted, _ = await request.user.run_all(statements, seconds=REWIND_SECONDS)
    found(conversation)
    return Rewound(deleted)


async def read(caller: Caller, conversation_id: UUID, statement: Statement[Any]) -> Any:
    """Run a statement about a conversation's messages; ``not_found`` when there is no such conversation."""
    last_position, result = await caller.run(_find_last_position(id=conversation_id), statement)
    found(last_position)
    return result


def insert_values(caller: Caller, conversation_id: UUID, data: MessageCreate) -> dict[str, Any]:
    """What the queries that append it take. Raises ``validation_failed`` for another sender than the caller."""
    if data.sender_id is not None and data.sender_id != caller.user_id:
        raise invalid("sender_id", "must be the caller")
    content = cast("str", data.content)
    return {
        "conversation_id": conversation_id,
        "sender_type": data.sender_type,
        "content": content[:CONTENT_LENGTH],
        "content_truncated": len(content) > CONTENT_LENGTH,
        "message_type": data.message_type,
        "metadata": given(data.metadata),
        "item": given(data.item),
    }
