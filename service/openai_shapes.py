"""OpenAI's shapes: what its clients send as messages of ours, and what they are answered, by the SDK's types.

A conversation's id is ``conv_`` and the hexadecimal digits of its UUID. An item is a message. Its id is the one that it
came with, if it came by these routes (the message's metadata says so, for it to be found), or else a prefix for its
type (``msg_``, ``fc_`` …) and the digits of the message's UUID. What a client sends is kept byte for byte; what is
answered is that, with what the SDK's types need besides: an id, and for a message its type, its status and a list of
contents. The pages of a list lead on by ids of ours.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET

from service.conversations import Conversation
from service.db.queries import Versioned
from service.http import kept_json
from service.http.paging import ANSWER_BYTES
from service.items import decode_item
from service.messages import FullMessage, Message, MessageCreate
from service.problems import Problem, invalid, may_add

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

_WITH_STATUS = (
    *("message", "function_call", "function_call_output", "computer_call_output", "shell_call", "shell_call_output"),
    *("tool_search_call", "tool_search_output"),
)
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


# What comes in


def conversation_uuid(conversation_id: str) -> UUID:
    """The id of ours. Raises ``not_found`` for what can be none of OpenAI's."""
    if conversation_id.startswith("conv_") and (found := uuid_in(conversation_id)):
        return found
    raise Problem("not_found")


def uuid_in(shown: str) -> UUID | None:
    """The id of ours behind ``conv_`` or another such word, written as it is answered; None where there is none."""
    found = re.fullmatch("[a-z]+_([0-9a-f]{32})", shown)
    return UUID(hex=found[1]) if found else None


def read_items(text: msgspec.Raw) -> list[MessageCreate]:
    """The items of a body as messages. Raises ``validation_failed``."""
    try:
        texts = kept_json.split(bytes(text).decode())
    except ValueError as error:
        raise invalid("items", str(error)) from None
    if len(texts) > ITEMS:
        raise invalid("items", f"must have at most {ITEMS} items")
    return [_message(item, index) for index, item in enumerate(texts)]


def _message(text: str, index: int) -> MessageCreate:
    if not text.startswith("{"):
        raise invalid(f"items[{index}]", "must be an object")
    head = _head(text)
    metadata = msgspec.Raw(msgspec.json.encode({"item_id": head.id})) if _can_be_found(head.id) else UNSET
    try:
        sender: Any = _ROLES.get(head.role, "ai") if isinstance(head.role, str) else "ai"
        return MessageCreate(sender_type=sender, item=text, metadata=metadata)
    except ValueError as error:
        raise invalid(f"items[{index}]", str(error)) from None


class _Known(msgspec.Struct, frozen=True):
    """What a message's metadata says of its item."""

    item_id: Any = UNSET


class _Head(msgspec.Struct, frozen=True):
    """What of an item says how it is answered."""

    type: Any = UNSET
    id: Any = UNSET
    role: Any = UNSET
    status: Any = UNSET
    content: Any = UNSET


def _head(text: str) -> _Head:
    try:
        return msgspec.json.decode(text, type=_Head)
    except msgspec.DecodeError:
        value = decode_item(text)
        return _Head(*(value.get(name, UNSET) for name in _Head.__struct_fields__))


def _can_be_found(own: Any) -> bool:
    """Whether an item keeps this id that it came with; not one of ours, by which another item would be found."""
    if not _is_text(own) or len(own) > OWN_ID_LENGTH or own in (".", "..") or not {"/", "\0"}.isdisjoint(own):
        return False
    ours = uuid_in(own)
    return ours is None or ours.version != 7


def _is_text(value: Any) -> bool:
    """Whether it is a text, of one character at least, that UTF-8 can carry."""
    return isinstance(value, str) and bool(value) and value.encode("utf-8", "replace").decode() == value


# What goes out


def conversation_of(row: Conversation) -> Versioned[OpenAIConversation]:
    """A conversation, as the SDK's types want it."""
    return Versioned(
        OpenAIConversation(f"conv_{row.id.hex}", int(row.created_at.timestamp()), row.metadata), row.version
    )


def item_of(row: FullMessage) -> tuple[str, msgspec.Raw]:
    """A message as an item, behind an id that is its alone."""
    return item_shape(row, row.metadata, None if row.item is None else bytes(row.item).decode())


def item_shape(message: Message, metadata: msgspec.Raw, text: str | None) -> tuple[str, msgspec.Raw]:
    """An item as the SDK's types want it, behind an id that is its alone: that which it came with may not be."""
    if text is None or not text.startswith("{"):
        ours = f"msg_{message.id.hex}"
        return ours, _plain_message({}, ours, message.role, message.content)
    head = _head(text)
    kind = head.type if isinstance(head.type, str) else "message" if isinstance(head.role, str) else ""
    ours = f"{_PREFIXES.get(kind, 'item')}_{message.id.hex}"
    is_known = _can_be_found(head.id) and msgspec.json.decode(metadata, type=_Known).item_id == head.id
    shown = head.id if is_known else ours
    missing = {
        **({} if is_known else {"id": shown}),
        **({} if isinstance(head.type, str) or not kind else {"type": kind}),
        **({"status": "completed"} if kind in _WITH_STATUS and head.status in (None, UNSET) else {}),
    }
    if kind == "message" and isinstance(head.content, str):
        role = head.role if _is_text(head.role) else message.role
        return ours, _plain_message({**_members(text), **missing}, shown, role, head.content)
    return ours, msgspec.Raw(_completed(text, missing, are_there=any(getattr(head, n) is not UNSET for n in missing)))


def _completed(text: str, missing: dict[str, str], *, are_there: bool) -> bytes:
    """The object with what is missing of it; ``are_there``: something else stands in the place of some of that."""
    if are_there:
        return _object({**_members(text), **missing})
    if not missing:
        return text.encode()
    rest = text[1:].lstrip().encode()
    return msgspec.json.encode(missing)[:-1] + (b"" if rest.startswith(b"}") else b",") + rest


def _members(text: str) -> dict[str, Any]:
    """The members of the object as they stand."""
    try:
        return msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:  # half of a surrogate pair
        return kept_json.members(text)


def _object(members: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(members)
    except UnicodeEncodeError:  # half of a surrogate pair in a name, which stays the escape that it came as
        import json

        parts = [json.dumps(name).encode() + b":" + msgspec.json.encode(value) for name, value in members.items()]
        return b"{%b}" % b",".join(parts)


def _plain_message(sent: Mapping[str, Any], shown: str, role: str, content: str) -> msgspec.Raw:
    """What was sent with a text as its content, as a message with a list of contents."""
    try:
        text = msgspec.Raw(msgspec.json.encode(content))
    except UnicodeEncodeError:  # half of a surrogate pair, which stays the escape that it came as
        import json

        text = msgspec.Raw(json.dumps(content).encode())
    part: dict[str, Any] = {"type": "input_text", "text": text}
    if role == "assistant":
        part = {"type": "output_text", "text": text, "annotations": []}
    fixed = {"id": shown, "type": "message", "role": role}
    return msgspec.Raw(_object({**fixed, "status": "completed", **sent, **fixed, "content": [part]}))


def item_list(items: Sequence[tuple[str, msgspec.Raw]], limit: int, *, goes_on: bool = False) -> ItemList:
    """As many of the items as were asked for, and an answer takes; ``goes_on``: there may be more behind them.

    ``first_id`` and ``last_id`` lead on wherever two items came with one id, or with one that was written elsewhere.
    """
    data: list[msgspec.Raw] = []
    size = 0
    for _, item in items[:limit]:
        text = bytes(item)
        size += len(text) + may_add(text)
        if data and size > ANSWER_BYTES:
            break
        data.append(item)
    ids = [ours for ours, _ in items]
    has_more = goes_on or len(data) < len(items)
    return ItemList(data, ids[0] if ids else "", ids[len(data) - 1] if ids else "", has_more)


# Errors


def error_body(problem: Problem) -> dict[str, Any]:
    """A problem in OpenAI's shape; ``code`` stays ours."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(problem.status, "server_error" if problem.status >= 500 else "invalid_request_error")
    param = problem.errors[0].field if problem.errors else None
    return {"error": {"message": problem.detail, "type": kind, "param": param, "code": problem.code}}
