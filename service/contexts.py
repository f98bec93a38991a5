"""Contexts: a conversation's last messages, ready for a language model, in whole pairs of calls and outputs."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast
from uuid import UUID

import msgspec
from msgspec import Meta

from service.db.caller import Caller
from service.db.queries import Many, Statement
from service.http.fields import MessageType
from service.http.paging import ANSWER_BYTES
from service.http.request import read_aside
from service.http.strict_json import SHORT
from service.items import UNNAMED, ItemText, read_calls, size_of, whole
from service.problems import may_add

Role = Annotated[Literal["user", "assistant", "system"], Meta(title="Role")]


class ContextMessage(msgspec.Struct, frozen=True, gc=False):
    """A message as a language model takes it."""

    role: Role
    content: str


class ContextRow(msgspec.Struct, frozen=True, gc=False):
    """What a context is made of."""

    role: Role
    content: str
    message_type: MessageType
    position: int


class ContextItemRow(ContextRow, frozen=True, gc=False):
    """The same with the item."""

    item: ItemText | None


ContextItem = Annotated[
    msgspec.Raw,
    Meta(extra_json_schema={"description": "With `format=items`: the item of a message that has one, as it was sent."}),
]
Context = list[ContextMessage | ContextItem]

ContextFormat = Annotated[
    Literal["messages", "items"],
    Meta(
        title="ContextFormat",
        description="`items`: each message's item in the place of role and content, where it has one.",
    ),
]
MaxCharacters = Annotated[int, Meta(ge=1, le=10_000_000, description="The newest that fit into so many characters.")]


class ContextSize(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much of a conversation a model is to be reminded of; after a turn, the turn's own messages included."""

    messages: Annotated[int, Meta(ge=0, le=200, description="How many of the last messages.")] = 20
    max_characters: MaxCharacters | None = None
    format: ContextFormat = "messages"


_context = Many("list_context", ContextRow)
_context_items = Many("list_context_items", ContextItemRow)


def ask_context(conversation_id: UUID, size: ContextSize) -> Statement[Any]:
    """What gets the rows of a context."""
    query = _context if size.format == "messages" else _context_items
    return query(conversation_id=conversation_id, messages=size.messages)


async def context_of(caller: Caller, rows: Sequence[ContextRow], size: ContextSize) -> Context:
    """The newest of the rows that fit, oldest first, without outputs whose call isn't among them."""
    if size.format == "items" and size_of(row.item for row in cast("Sequence[ContextItemRow]", rows)) > SHORT:
        return await read_aside(caller.user_id, _context_of, rows, size)
    return _context_of(rows, size)


def _context_of(rows: Sequence[ContextRow], size: ContextSize) -> Context:
    if size.max_characters is not None:
        rows = _fitting(rows, size.max_characters)
    if size.format == "items":
        rows = _sendable(cast("Sequence[ContextItemRow]", rows))
    # An output that begins its conversation was parted from no call; as an item it needs one all the same.
    is_cut = bool(rows) and rows[0].position > 1
    if size.format == "items" or (is_cut and {row.message_type for row in rows} - {"text"}):
        rows = [rows[index] for index in whole(map(_calls, rows))]
    if size.format == "messages":
        return [ContextMessage(row.role, row.content) for row in rows]
    found: Context = []
    for row in rows:
        item = row.item if isinstance(row, ContextItemRow) else None
        found.append(ContextMessage(row.role, row.content) if item is None else item)
    return found


def _fitting(rows: Sequence[ContextRow], characters: int) -> Sequence[ContextRow]:
    for index in range(len(rows) - 1, -1, -1):
        row = rows[index]
        item = row.item if isinstance(row, ContextItemRow) else None
        characters -= len(row.content) if item is None else len(bytes(item).decode())
        if characters < 0:
            return rows[index + 1 :]
    return rows


def _sendable(rows: Sequence[ContextItemRow]) -> Sequence[ContextItemRow]:
    """The newest that fit into an answer when they are escaped, one at least: the query counts them as they are."""
    size = 0
    for index in range(len(rows) - 1, -1, -1):
        item = rows[index].item
        text = msgspec.json.encode(rows[index].content) if item is None else bytes(item)
        size += len(text) + may_add(text)
        if size > ANSWER_BYTES and index < len(rows) - 1:
            return rows[index + 1 :]
    return rows


_NONE = frozenset[str]()


def _calls(row: ContextRow) -> tuple[frozenset[str], frozenset[str]]:
    """The ids of the calls that a row makes, and of those that it answers."""
    if isinstance(row, ContextItemRow) and row.item is not None:
        return read_calls(row.item)
    return (UNNAMED if row.message_type == "command" else _NONE, UNNAMED if row.message_type == "response" else _NONE)
