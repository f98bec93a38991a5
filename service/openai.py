"""OpenAI's conversations: the same rows for an unchanged ``openai`` SDK and what is built on it, in its shapes."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, cast
from uuid import UUID

import msgspec
from litestar import delete, get, post
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, Meta, UnsetType

from service import conversations, messages, turns
from service.db.caller import Caller
from service.db.queries import Maybe, Versioned
from service.http.fields import Metadata, check_metadata, given, new_id
from service.http.idempotency import idempotent
from service.http.kept_json import Path
from service.http.missing import found
from service.http.paging import ANSWER_BYTES
from service.http.request import Found, Request, read_aside
from service.http.strict_json import SHORT, is_quick
from service.items import size_of
from service.messages import FullMessage
from service.openai_shapes import (
    ITEMS,
    Deleted,
    ItemList,
    OpenAIConversation,
    conversation_of,
    conversation_uuid,
    item_list,
    item_of,
    item_shape,
    read_items,
    uuid_in,
)
from service.problems import Problem, invalid
from service.turns import TURN_BYTES, Turn

_NULL = msgspec.Raw(b"null")
_OPENAIS: dict[str, Any] = {"errors": "openai", "include_in_schema": False}
"""What the decorators of all these handlers have."""


class ConversationMetadata(msgspec.Struct, frozen=True):
    """What a conversation is to remember of itself."""

    metadata: Metadata | UnsetType = UNSET

    def __post_init__(self) -> None:
        check_metadata(_own_metadata(self.metadata))


class NewConversation(ConversationMetadata, frozen=True):
    """A conversation to be opened, with up to 20 items."""

    kept_whole: ClassVar[Path] = ("items",)

    items: msgspec.Raw = _NULL


class NewItems(msgspec.Struct, frozen=True):
    """1 to 20 items to be added, in order, all or none."""

    kept_whole: ClassVar[Path] = ("items",)

    items: msgspec.Raw


class Included(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be included in items: all that was sent is, in any case."""

    include: list[str] | None = None
    include_: list[str] | None = msgspec.field(name="include[]", default=None)


class ItemFilters(Included, frozen=True, forbid_unknown_fields=True):
    """Which items: behind one, newest first unless ``asc`` is asked for."""

    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"


_find_item = Maybe("find_item", FullMessage)


@post("/openai/v1/conversations", status_code=200, request_max_body_size=TURN_BYTES, scope="write", **_OPENAIS)
@idempotent
async def create_openai_conversation(
    request: Request, data: JSONBody[NewConversation]
) -> Versioned[OpenAIConversation]:
    """Open a conversation, with the items that it begins with."""
    items = [] if data.items == _NULL else await _aside(request, data.items, read_items, data.items)
    conversation_id = new_id()
    metadata = given(_own_metadata(data.metadata))
    create = conversations.CREATE(id=conversation_id, external_id=None, title=None, metadata=metadata)
    if not items:
        return conversation_of(await request.user.run(create))
    async with request.user.transaction():
        made = await request.user.run(create)
        await turns.append(request.user, conversation_id, [], Turn(items))
    return conversation_of(made)


@get("/openai/v1/conversations/{conversation_id:str}", scope="read", **_OPENAIS)
async def get_openai_conversation(request: Request, conversation_id: FromPath[str]) -> Versioned[OpenAIConversation]:
    """One conversation."""
    return conversation_of(await conversations.get_conversation.fn(request, conversation_uuid(conversation_id)))


@post("/openai/v1/conversations/{conversation_id:str}", status_code=200, scope="write", **_OPENAIS)
@idempotent
async def update_openai_conversation(
    request: Request, conversation_id: FromPath[str], data: JSONBody[ConversationMetadata]
) -> Versioned[OpenAIConversation]:
    """Give a conversation other metadata."""
    place = conversation_uuid(conversation_id)
    patch = conversations.ConversationPatch(metadata=_own_metadata(data.metadata))
    return conversation_of(await conversations.update_conversation.fn(request, place, patch))


@delete("/openai/v1/conversations/{conversation_id:str}", status_code=200, scope="write", **_OPENAIS)
async def delete_openai_conversation(request: Request, conversation_id: FromPath[str]) -> Deleted:
    """Delete a conversation with its items."""
    await conversations.delete_conversation.fn(request, conversation_uuid(conversation_id))
    return Deleted(conversation_id)


@post(
    "/openai/v1/conversations/{conversation_id:str}/items",
    status_code=200,
    request_max_body_size=TURN_BYTES,
    query=Included,
    scope="write",
    **_OPENAIS,
)
@idempotent
async def create_openai_items(request: Request, conversation_id: FromPath[str], data: JSONBody[NewItems]) -> ItemList:
    """Add items."""
    items = await _aside(request, data.items, read_items, data.items)
    if not items:
        raise invalid("items", f"must have 1 to {ITEMS} items")
    added = await turns.append(request.user, conversation_uuid(conversation_id), [], Turn(items))
    return await _aside(request, data.items, _list_of, added.messages, items)


@get("/openai/v1/conversations/{conversation_id:str}/items", query=ItemFilters, scope="read", **_OPENAIS)
async def list_openai_items(request: Request, conversation_id: FromPath[str]) -> ItemList:
    """A conversation's items, newest first unless ``order=asc``."""
    query = request.filters(ItemFilters)
    place = conversation_uuid(conversation_id)
    after, before = 0, messages.LAST_POSITION
    if query.after is not None:
        position = (await _find(request.user, place, query.after)).position
        after, before = (position, before) if query.order == "asc" else (after, position)
    filters = {"sender_type": None, "message_type": None, "after": after, "before": before}
    asked = messages.LIST_ITEMS[query.order == "desc"](conversation_id=place, row_limit=query.limit + 1, **filters)
    rows: list[FullMessage] = await messages.read(request.user, place, asked)
    is_cut = size_of(row.item for row in rows) >= ANSWER_BYTES  # by which the query ends
    return item_list(await _items_of(request, rows), query.limit, goes_on=is_cut)


@get("/openai/v1/conversations/{conversation_id:str}/items/{item_id:str}", query=Included, scope="read", **_OPENAIS)
async def get_openai_item(request: Request, conversation_id: FromPath[str], item_id: FromPath[str]) -> msgspec.Raw:
    """One item."""
    message = await _find(request.user, conversation_uuid(conversation_id), item_id)
    return (await _items_of(request, [message]))[0][1]


@delete(
    "/openai/v1/conversations/{conversation_id:str}/items/{item_id:str}",
    status_code=200,
    scope="write",
    **_OPENAIS,
)
async def delete_openai_item(
    request: Request, conversation_id: FromPath[str], item_id: FromPath[str]
) -> OpenAIConversation:
    """Delete one item; the answer is its conversation."""
    place = conversation_uuid(conversation_id)
    async with request.user.transaction():
        message = await _find(request.user, place, item_id)
        await messages.delete_message.fn(request, place, message.id)
        return conversation_of(found(await request.user.run(conversations.GET(id=place)))).value


async def _aside(request: Request, text: msgspec.Raw, read: Callable[..., Found], *arguments: Any) -> Found:
    """What ``read`` makes of items that came in this text, beside the event loop where that may take long."""
    if len(text) <= SHORT and is_quick(bytes(text)):
        return read(*arguments)
    return await read_aside(request.owner, read, *arguments)


async def _items_of(request: Request, rows: list[FullMessage]) -> list[tuple[str, msgspec.Raw]]:
    """The messages as items, read beside the event loop where they are long."""
    if size_of(row.item for row in rows) <= SHORT:
        return list(map(item_of, rows))
    return await read_aside(request.owner, lambda: list(map(item_of, rows)))


def _list_of(added: list[messages.Message], items: list[messages.MessageCreate]) -> ItemList:
    """The items as they were added."""
    shown = [
        item_shape(message, message.metadata, cast("str", item.item))
        for message, item in zip(added, items, strict=True)
    ]
    return item_list(shown, limit=len(shown))


def _own_metadata(metadata: msgspec.Raw | UnsetType) -> msgspec.Raw | UnsetType:
    """What is kept of it: null stands for none."""
    return msgspec.Raw(b"{}") if metadata is not UNSET and bytes(metadata) == b"null" else metadata


async def _find(caller: Caller, conversation_id: UUID, item_id: str) -> FullMessage:
    """The message of an item: by an id of ours, or else by the one that it came with, for which all are looked at."""
    if "\0" in item_id:  # no text of PostgreSQL's has one
        raise Problem("not_found")
    message_id = uuid_in(item_id)
    if message_id and (by_id := await caller.run(messages.GET(conversation_id=conversation_id, id=message_id))):
        return by_id.value
    return found(await caller.run(_find_item(conversation_id=conversation_id, item_id=item_id)))
