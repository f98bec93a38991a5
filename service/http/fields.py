"""Kinds of fields that several features share, and the rules that a type alone can't say.

The tables hold the same rules as named constraints, since DBAs and migrations write too.
"""

import json
import os
import re
import time
from datetime import UTC, datetime
from functools import cache
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, cast, get_args
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.http import strict_json

T = TypeVar("T")

METADATA_BYTES = 16 * 1024
METADATA_DEPTH = 32
TITLE_LENGTH = 200
DESCRIPTION_LENGTH = 1000
CONTENT_LENGTH = 10_000
_FIRST = datetime(1970, 1, 1, tzinfo=UTC)

# White space, control characters, and characters without a glyph: a title needs one character that is none of them.
_INVISIBLE = (
    r"\s\u0000-\u001f\u007f-\u00a0\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    r"\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb"
)
# The document's pattern leaves out those beyond U+FFFF: not every engine of regular expressions can say them.
_VISIBLE = re.compile(f"[^{_INVISIBLE}\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]")

_TODO_REF = r"^([0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[1-9][0-9]{0,17})$(?!\n)"
Number = Annotated[int, Meta(ge=1, le=2**63 - 1)]
"""A todo's number."""
TodoRef = UUID | Number
"""A todo's id, or the number of one of the caller's own."""
SentTodoRef = Annotated[str, Meta(pattern=_TODO_REF, examples=["018f4fd2-7a3c-7000-8000-5a1d2c3b4e5f"])] | Number
"""The same in a body, where a number may also be sent as the text that it is in a path."""
Title = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=1000,
        pattern=f"[^{_INVISIBLE}]",
        description=f"1 to {TITLE_LENGTH} characters apart from white space around them, one of them visible; kept as "
        "sent.",
        examples=["Buy milk"],
    ),
]
Description = Annotated[str, Meta(max_length=DESCRIPTION_LENGTH, examples=["Two bottles, and bread."])]
Content = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=CONTENT_LENGTH,
        description=f"1 to {CONTENT_LENGTH:,} characters, kept as sent.",
        examples=["Remind me to buy milk"],
    ),
]
ContentOfItem = Annotated[
    str,
    Meta(
        description=f"1 to {CONTENT_LENGTH:,} characters, kept as sent; beside an item it may be left out or empty, "
        "and is cut.",
        examples=["Remind me to buy milk"],
    ),
]
Search = Annotated[
    str,
    Meta(min_length=1, max_length=200, description="Words that all stand in it somewhere, whatever their case."),
]
Contained = Annotated[
    str,
    Meta(description='A JSON object that the metadata contains, such as `{"source":"chat"}`: PostgreSQL\'s `@>`.'),
]
ExternalId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=255,
        description="A client's own name for it, unique for the user.",
        examples=["chat-42"],
    ),
]
Status = Annotated[Literal["pending", "in_progress", "completed", "archived"], Meta(title="TodoStatus")]
Priority = Annotated[Literal["low", "medium", "high", "urgent"], Meta(title="TodoPriority")]
SenderType = Annotated[Literal["user", "ai", "system"], Meta(title="SenderType")]
MessageType = Annotated[Literal["text", "command", "response", "error"], Meta(title="MessageType")]
RelationshipType = Annotated[Literal["discussion", "update", "creation"], Meta(title="RelationshipType")]
Time = Annotated[
    datetime,
    Meta(
        tz=True,
        description="RFC 3339 with an offset, from 1970 to 9999 in UTC; kept to the microsecond, answered in UTC.",
        examples=["2030-01-31T18:00:00+01:00"],
    ),
]
_METADATA_SCHEMA = {
    "type": "object",
    "additionalProperties": True,
    "examples": [{"source": "chat"}],
    "description": "A JSON object of at most 16 KiB as text and 32 levels, finite numbers only.",
}
Metadata = Annotated[msgspec.Raw, Meta(extra_json_schema=_METADATA_SCHEMA)]
"""A JSON object as it was sent, or as the database keeps it."""


ANY_JSON = "x-any-json"
"""In a type's schema: its text stands for any JSON value, whatever msgspec says of the type."""


def free_any_json(part: Any) -> Any:
    """The schema, with nothing but their words left of those that are marked with ANY_JSON.

    What takes any JSON comes last in a union, so that generated clients try the others before it.
    """
    if isinstance(part, list | tuple):
        found = [free_any_json(item) for item in cast("list[Any]", part)]
        return sorted(found, key=lambda item: isinstance(item, dict) and item.keys() == {"description"})
    if not isinstance(part, dict):
        return part
    schema = cast("dict[str, Any]", part)
    if ANY_JSON in schema:
        return {name: schema[name] for name in ("description", "examples") if name in schema}
    return {name: free_any_json(value) for name, value in schema.items()}


def new_id() -> UUID:
    """A UUID version 7 (RFC 9562, section 5.7), as the tables' own default makes them."""
    bits = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    return UUID(int=bits & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62)


def todo_ref(sent: TodoRef | str) -> TodoRef:
    """A SentTodoRef as the TodoRef that it is."""
    if isinstance(sent, str):
        return int(sent) if sent.isdigit() else UUID(sent)
    return sent


def reference(sent: TodoRef | str) -> dict[str, UUID | int | None]:
    """What names a todo as the parameters of a query that finds it by id or number: the other one is null."""
    todo_id = todo_ref(sent)
    return {"id": None, "number": todo_id} if isinstance(todo_id, int) else {"id": todo_id, "number": None}


def values(data: msgspec.Struct, *without: str) -> dict[str, Any]:
    """The fields of a body as parameters of its query, but those named in ``without``; null where one was left out."""
    sent = msgspec.structs.asdict(data)
    return {name: None if value is UNSET else value for name, value in sent.items() if name not in without}


def changes(patch: msgspec.Struct, *without: str) -> dict[str, Any]:
    """The same for an UPDATE: null leaves a column as it is, unless ``set_<field>`` says that null was sent."""
    sent = {f"set_{name}": getattr(patch, name) is not UNSET for name in _clearable(type(patch)) if name not in without}
    return values(patch, *without) | sent


@cache
def _clearable(kind: type[msgspec.Struct]) -> list[str]:
    """The fields of a patch that may be left out as well as null."""
    return [item.name for item in msgspec.structs.fields(kind) if {UnsetType, NoneType} <= set(get_args(item.type))]


def given(value: T | UnsetType) -> T | None:
    """The value of a field, or None where it was left out."""
    return None if value is UNSET else value


def check_title(title: str | UnsetType | None) -> None:
    """Raises ValueError when the title is longer than TITLE_LENGTH after trimming, or nothing can be seen of it."""
    if not isinstance(title, str):
        return
    if len(title.strip()) > TITLE_LENGTH:
        raise ValueError(f"title: must have at most {TITLE_LENGTH} characters")
    if not _VISIBLE.search(title):
        raise ValueError("title: must hold a character that can be seen")


def check_search(q: str | None) -> None:
    """Raises ValueError where there is no word in it."""
    if q is not None and not q.split():
        raise ValueError("q: must hold a word")


def words_of(q: str | None) -> list[str] | None:
    """The words to be looked for, each once. Greek's sigma has another small letter at the end of a word."""
    return None if q is None else list(dict.fromkeys(re.sub("[Σς]", "σ", q).split()))


def check_contained(metadata: str | None) -> None:
    """Raises ValueError for what no metadata can contain."""
    if metadata is None:
        return
    try:
        strict_json.check(metadata.encode())
    except strict_json.RefusedJSON as error:
        raise ValueError(f"metadata: {f'{error.field} {error.message}'.lstrip()}") from None
    except ValueError as error:
        raise ValueError(f"metadata: must be a JSON object: it {error}") from None
    check_metadata(msgspec.Raw(metadata.strip().encode()))


def check_time(field: str, value: datetime | UnsetType | None) -> None:
    """Raises ValueError unless the time lies in the years 1970 to 9999 once in UTC."""
    if not isinstance(value, datetime):
        return
    try:
        if value.astimezone(UTC) >= _FIRST:
            return
    except OverflowError:
        pass
    raise ValueError(f"{field}: must lie in the years 1970 to 9999, in UTC")


def check_metadata(metadata: msgspec.Raw | UnsetType) -> None:
    """Raises ValueError unless it is a JSON object of at most 16 KiB and 32 levels."""
    if metadata is UNSET:
        return
    text = bytes(metadata)
    if not text.startswith(b"{"):
        raise ValueError("metadata: must be an object")
    if len(text) > METADATA_BYTES and _size(msgspec.json.format(text, indent=-1)) > METADATA_BYTES:
        raise ValueError(f"metadata: must have at most {METADATA_BYTES} bytes as text")
    if text.count(b"{") + text.count(b"[") > METADATA_DEPTH and _depth(json.loads(text)) > METADATA_DEPTH:
        raise ValueError(f"metadata: must be nested at most {METADATA_DEPTH} levels deep")


def _size(text: bytes) -> int:
    """How many bytes it has where each character that needs no escape stands as itself."""
    if len(text) > 6 * METADATA_BYTES:
        return len(text)  # no escape is more than six times as long as what it stands for
    numbers: list[str] = []  # each of which becomes a null
    value = json.loads(text, parse_int=numbers.append, parse_float=numbers.append)
    size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    return size + sum(len(number) - len("null") for number in numbers)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, cast("dict[str, Any]", value).values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, cast("list[Any]", value)), default=0)
    return 0
