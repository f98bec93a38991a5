"""OpenAI's conversations: the same rows for an unchanged ``openai`` SDK and what is built on it, by its types.

A conversation's id here is ``conv_`` and the hexadecimal digits of its UUID. An item is a message. Its id is the one
that it came with, or a prefix for its type (``msg_``, ``fc_`` …) and the digits of the message's UUID. What a client
sends is kept byte for byte; what is answered is that, with what the SDK's types need besides: an id, and for a message
its type, its status and a list of contents.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, cast
from uuid import UUID

import msgspec
from litestar import delete, get, post
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, Meta, UnsetType

from service import conversations, messages
from service.conversations import Conversation
from service.db.caller import Caller
from service.db.queries import Maybe
from service.http import kept_json
from service.http.fields import Metadata, check_metadata, given, new_id
from service.http.idempotency import idempotent
from service.http.kept_json import Paths
from service.http.missing import found
from service.http.paging import ANSWER_BYTES
from service.http.request import Request
from service.messages import TURN_BYTES, FullMessage, MessageCreate, Turn
from service.problems import Problem, invalid

ITEMS = 20
"""The most items that a request may bring."""
OWN_ID_LENGTH = 255
_ROLES = {"user": "user", "system": "system", "developer": "system"}
_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
    "web_search_call": "ws",
    "file_search_call": "fs",
    "computer_call": "cu",
    "computer_call_output": "cuo",
    "image_generation_call": "ig",
    "code_interpreter_call": "ci",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "local_shell_call": "lsh",
    "mcp_call": "mcp",
    "mcp_list_tools": "mcpl",
    "mcp_approval_request": "mcpr",
}

_WITH_STATUS = ("message", "function_call", "function_call_output", "computer_call_output")
"""Types that may come without a status, and have one in answers."""


class OpenAIConversation(msgspec.Struct, frozen=True):
    """OpenAI's ``Conversation``; ``created_at`` in seconds since 1970."""

    id: str
    created_at: int
    metadata: msgspec.Raw
    object: Literal["conversation"] = "conversation"


class Deleted(msgspec.Struct, frozen=True):
    """OpenAI's ``ConversationDeletedResource``."""

    id: str
    deleted: bool = True
    object: Literal["conversation.deleted"] = "conversation.deleted"


class ItemList(msgspec.Struct, frozen=True):
    """OpenAI's ``ConversationItemList``."""

    data: list[msgspec.Raw]
    first_id: str
    last_id: str
    has_more: bool
    object: Literal["list"] = "list"


class NewConversation(msgspec.Struct, frozen=True):
    """A conversation to be opened, with up to 20 items."""

    kept_as_sent: ClassVar[Paths] = frozenset({("items",)})

    items: str | None = None
    metadata: Metadata | UnsetType = UNSET

    def __post_init__(self) -> None:
        check_metadata(_own_metadata(self.metadata))


class ConversationUpdate(msgspec.Struct, frozen=True):
    """The metadata that a conversation is to have."""

    metadata: Metadata | UnsetType = UNSET

    def __post_init__(self) -> None:
        check_metadata(_own_metadata(self.metadata))


class NewItems(msgspec.Struct, frozen=True):
    """1 to 20 items to be added, in order, all or none."""

    kept_as_sent: ClassVar[Paths] = frozenset({("items",)})

    items: str


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


@post(
    "/openai/v1/conversations",
    status_code=200,
    request_max_body_size=TURN_BYTES,
    scope="write",
    errors="openai",
    include_in_schema=False,
)
@idempotent
async def create_openai_conversation(request: Request, data: JSONBody[NewConversation]) -> OpenAIConversation:
    """Open a conversation, with the items that it begins with."""
    items = [] if data.items is None or data.items == "null" else _read_items(data.items)
    conversation_id = new_id()
    metadata = given(_own_metadata(data.metadata))
    create = conversations.CREATE(id=conversation_id, external_id=None, title=None, metadata=metadata)
    if not items:
        return _conversation(await request.user.run(create))
    async with request.user.transaction():
        made = await request.user.run(create)
        await messages.append(request.user, conversation_id, [], Turn(items))
    return _conversation(made)


@get("/openai/v1/conversations/{conversation_id:str}", scope="read", errors="openai", include_in_schema=False)
async def get_openai_conversation(request: Request, conversation_id: FromPath[str]) -> OpenAIConversation:
    """One conversation."""
    return _conversation(await _get(request.user, conversation_id))


@post(
    "/openai/v1/conversations/{conversation_id:str}",
    status_code=200,
    scope="write",
    errors="openai",
    include_in_schema=False,
)
@idempotent
async def update_openai_conversation(
    request: Request, conversation_id: FromPath[str], data: JSONBody[ConversationUpdate]
) -> OpenAIConversation:
    """Give a conversation other metadata."""
    asked = _Asked(request)
    patch = conversations.ConversationPatch(metadata=_own_metadata(data.metadata))
    return _conversation(await conversations.update_conversation.fn(asked, _uuid(conversation_id), patch))


@delete(
    "/openai/v1/conversations/{conversation_id:str}",
    status_code=200,
    scope="write",
    errors="openai",
    include_in_schema=False,
)
async def delete_openai_conversation(request: Request, conversation_id: FromPath[str]) -> Deleted:
    """Delete a conversation with its items."""
    await conversations.delete_conversation.fn(_Asked(request), _uuid(conversation_id))
    return Deleted(conversation_id)


@post(
    "/openai/v1/conversations/{conversation_id:str}/items",
    status_code=200,
    request_max_body_size=TURN_BYTES,
    query=Included,
    scope="write",
    errors="openai",
    include_in_schema=False,
)
@idempotent
async def create_openai_items(request: Request, conversation_id: FromPath[str], data: JSONBody[NewItems]) -> ItemList:
    """Add items."""
    items = _read_items(data.items)
    if not items:
        raise invalid("items", f"must have 1 to {ITEMS} items")
    added = await messages.append(request.user, _uuid(conversation_id), [], Turn(items))
    shown = [
        _item(message.id, message.role, message.content, cast("str", item.item))
        for message, item in zip(added.messages, items, strict=True)
    ]
    return _list(shown, limit=len(shown))


@get(
    "/openai/v1/conversations/{conversation_id:str}/items",
    query=ItemFilters,
    scope="read",
    errors="openai",
    include_in_schema=False,
)
async def list_openai_items(request: Request, conversation_id: FromPath[str]) -> ItemList:
    """A conversation's items, newest first unless ``order=asc``."""
    query = request.filters(ItemFilters)
    place = _uuid(conversation_id)
    after, before = 0, 2_147_483_647
    if query.after is not None:
        position = (await _find(request.user, place, query.after)).position
        after, before = (position, before) if query.order == "asc" else (after, position)
    filters = {"sender_type": None, "message_type": None, "after": after, "before": before}
    asked = messages.LIST_ITEMS[query.order == "desc"](conversation_id=place, row_limit=query.limit + 1, **filters)
    rows: list[FullMessage] = await messages.read(request.user, place, asked)
    return _list([_item_of(row) for row in rows], query.limit)


@get(
    "/openai/v1/conversations/{conversation_id:str}/items/{item_id:str}",
    query=Included,
    scope="read",
    errors="openai",
    include_in_schema=False,
)
async def get_openai_item(request: Request, conversation_id: FromPath[str], item_id: FromPath[str]) -> msgspec.Raw:
    """One item."""
    return _item_of(await _find(request.user, _uuid(conversation_id), item_id))[1]


@delete(
    "/openai/v1/conversations/{conversation_id:str}/items/{item_id:str}",
    status_code=200,
    scope="write",
    errors="openai",
    include_in_schema=False,
)
async def delete_openai_item(
    request: Request, conversation_id: FromPath[str], item_id: FromPath[str]
) -> OpenAIConversation:
    """Delete one item; the answer is its conversation."""
    place = _uuid(conversation_id)
    async with request.user.transaction():
        message = await _find(request.user, place, item_id)
        await messages.delete_message.fn(_Asked(request), place, message.id)
        return _conversation(found(await request.user.run(conversations.GET(id=place))))


class _Asked:
    """What the functions of handlers need to know of a request, where OpenAI's shapes are what is asked in."""

    if_match = None

    def __init__(self, request: Request) -> None:
        self.user = request.user


# What comes in


def _own_metadata(metadata: msgspec.Raw | UnsetType) -> msgspec.Raw | UnsetType:
    """What is kept of it: null stands for none."""
    return msgspec.Raw(b"{}") if metadata is not UNSET and bytes(metadata) == b"null" else metadata


def _uuid(conversation_id: str) -> UUID:
    try:
        prefix, _, digits = conversation_id.rpartition("_")
        if prefix == "conv" and len(digits) == 32:
            return UUID(hex=digits)
    except ValueError:
        pass
    raise Problem("not_found")


def _read_items(text: str) -> list[MessageCreate]:
    """The items of a body as messages. Raises ``validation_failed``."""
    try:
        texts = kept_json.split(text)
    except ValueError as error:
        raise invalid("items", str(error)) from None
    if len(texts) > ITEMS:
        raise invalid("items", f"must have at most {ITEMS} items")
    return [_message(item, index) for index, item in enumerate(texts)]


def _message(text: str, index: int) -> MessageCreate:
    if not text.startswith("{"):
        raise invalid(f"items[{index}]", "must be an object")
    head = _head(text)
    own = head.id if isinstance(head.id, str) and 0 < len(head.id) <= OWN_ID_LENGTH else None
    metadata = UNSET if own is None else msgspec.Raw(msgspec.json.encode({"item_id": own}))
    try:
        sender: Any = _ROLES.get(head.role, "ai") if isinstance(head.role, str) else "ai"
        return MessageCreate(sender_type=sender, item=text, metadata=metadata)
    except ValueError as error:
        raise invalid(f"items[{index}]", str(error)) from None


class _Head(msgspec.Struct, frozen=True):
    """What of an item says how it is answered."""

    type: Any = None
    id: Any = None
    role: Any = None
    status: Any = None
    content: Any = None


def _head(text: str) -> _Head:
    try:
        return msgspec.json.decode(text, type=_Head)
    except msgspec.DecodeError:  # half of a surrogate pair, which the standard library reads
        import json

        value = json.loads(text)
        return _Head(*(value.get(name) for name in _Head.__struct_fields__))


async def _get(caller: Caller, conversation_id: str) -> Conversation:
    return found(await caller.run(conversations.GET(id=_uuid(conversation_id))))


async def _find(caller: Caller, conversation_id: UUID, item_id: str) -> FullMessage:
    """The message of an item: by the id that it came with, or by its own."""
    named = _find_item(conversation_id=conversation_id, item_id=item_id)
    _, _, digits = item_id.rpartition("_")
    try:
        message_id = UUID(hex=digits) if len(digits) == 32 else new_id()
    except ValueError:
        message_id = new_id()
    by_name, by_id = await caller.run(named, messages.GET(conversation_id=conversation_id, id=message_id))
    return found(by_name or (None if by_id is None else by_id.value))


# What goes out


def _conversation(row: Conversation) -> OpenAIConversation:
    return OpenAIConversation(f"conv_{row.id.hex}", int(row.created_at.timestamp()), row.metadata)


def _item_of(row: FullMessage) -> tuple[str, msgspec.Raw]:
    return _item(row.id, row.role, row.content, None if row.item is None else bytes(row.item).decode())


def _item(message_id: UUID, role: str, content: str, text: str | None) -> tuple[str, msgspec.Raw]:
    """An item's id and itself, as the SDK's types want it."""
    if text is None or not text.startswith("{"):
        own = f"msg_{message_id.hex}"
        return own, _plain_message(own, role, content)
    head = _head(text)
    kind = head.type if isinstance(head.type, str) else "message" if isinstance(head.role, str) else ""
    own = head.id if isinstance(head.id, str) and head.id else f"{_PREFIXES.get(kind, 'item')}_{message_id.hex}"
    if kind == "message" and isinstance(head.content, str):
        return own, _plain_message(own, str(head.role or role), head.content)
    missing = {
        **({} if isinstance(head.id, str) and head.id else {"id": own}),
        **({} if isinstance(head.type, str) or not kind else {"type": kind}),
        **({"status": "completed"} if kind in _WITH_STATUS and head.status is None else {}),
    }
    if not missing:
        return own, msgspec.Raw(text.encode())
    rest = text[1:].lstrip()
    more = "" if rest.startswith("}") else ","
    return own, msgspec.Raw(msgspec.json.encode(missing)[:-1] + more.encode() + rest.encode())


def _plain_message(own: str, role: str, content: str) -> msgspec.Raw:
    part: dict[str, Any] = {"type": "input_text", "text": content}
    if role == "assistant":
        part = {"type": "output_text", "text": content, "annotations": []}
    whole = {"id": own, "type": "message", "role": role, "status": "completed", "content": [part]}
    return msgspec.Raw(msgspec.json.encode(whole))


def _list(items: Sequence[tuple[str, msgspec.Raw]], limit: int) -> ItemList:
    """As many of the items as were asked for, and an answer takes."""
    data: list[msgspec.Raw] = []
    size = 0
    for _, item in items[:limit]:
        size += len(bytes(item))
        if data and size > ANSWER_BYTES:
            break
        data.append(item)
    ids = [own for own, _ in items]
    return ItemList(data, ids[0] if ids else "", ids[len(data) - 1] if ids else "", len(data) < len(items))


# Errors


class OpenAIError(msgspec.Struct, frozen=True):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIErrorBody(msgspec.Struct, frozen=True):
    """The body of an answer that is an error, in OpenAI's shape."""

    error: OpenAIError


def error_body(problem: Problem) -> OpenAIErrorBody:
    """A problem in OpenAI's shape; ``code`` stays ours."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(problem.status, "server_error" if problem.status >= 500 else "invalid_request_error")
    param = problem.errors[0].field if problem.errors else None
    return OpenAIErrorBody(OpenAIError(problem.detail, kind, param, problem.code))
