"""Items: what an agent's framework hands over and needs back, kept and answered byte for byte.

The service looks into one only for the text that people search and read, and for which output belongs to which call.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, cast

import msgspec
from msgspec import Meta

from service.http import kept_json
from service.http.fields import ANY_JSON, MessageType
from service.http.strict_json import MalformedJSON, check_grammar

ITEM_BYTES = kept_json.KEPT

Item = Annotated[
    str,
    Meta(
        extra_json_schema={
            ANY_JSON: True,
            "description": "Any JSON value of at most 1 MiB, kept byte for byte: a tool call, its output, an image …",
            "examples": [{"type": "function_call", "call_id": "call_1", "name": "add_task", "arguments": "{}"}],
        }
    ),
]
"""In a body: the text of any JSON value. A struct that has one names it in ``kept_as_sent``."""
ItemText = Annotated[
    msgspec.Raw,
    Meta(extra_json_schema={"description": "As it was sent; null for a message without one."}),
]
"""An item as it is answered."""


class Reading(msgspec.Struct, frozen=True):
    """What can be told from an item: its text, what kind of message it is, which calls it makes, and answers."""

    text: str
    message_type: MessageType
    calls: frozenset[str]
    answers: frozenset[str]


def check_item(item: str) -> None:
    """Raises ValueError for an item that is too large."""
    if len(item) > ITEM_BYTES or len(item.encode("utf-8", "surrogatepass")) > ITEM_BYTES:
        raise ValueError(f"item: must have at most {ITEM_BYTES} bytes as text")


def read_item(item: str | msgspec.Raw) -> Reading:
    """Of OpenAI's shapes (Responses and Chat Completions), and of others as far as they name things alike."""
    value = decode_item(item)
    calls, answers = _calls(value)
    kind: MessageType = "command" if calls - answers else "response" if answers else "text"
    text = "\n".join(part for part in _texts(value) if part)
    return Reading(_storable(text), kind, calls, answers)


def read_calls(item: msgspec.Raw) -> tuple[frozenset[str], frozenset[str]]:
    """The ids of the calls that an item makes, and of those that it answers."""
    # Most items name none, and are large where they are texts and images: those need not be read.
    return _calls(decode_item(item)) if _MAY_NAME_CALLS.search(item) else (frozenset(), frozenset())


def decode_item(item: str | msgspec.Raw) -> Any:
    """The value; numbers that are too long for msgspec's or Python's integers, and all beside them, are not right."""
    try:
        return msgspec.json.decode(item)
    except msgspec.DecodeError:  # such a number, or half of a surrogate pair, which the standard library reads
        import json

        return json.loads(item if isinstance(item, str) else bytes(item), parse_int=lambda _: 0.0)


def _storable(text: str) -> str:
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode() if text else ""


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """The item itself, and the parts right inside it."""
    for outer in cast("list[Any]", value) if isinstance(value, list) else [value]:
        if not isinstance(outer, dict):
            continue
        found = cast("dict[str, Any]", outer)
        yield found
        for name in ("parts", "content", "tool_calls", "data"):
            inner = found.get(name)
            for part in cast("list[Any]", inner) if isinstance(inner, list) else [inner]:
                if isinstance(part, dict):
                    yield cast("dict[str, Any]", part)
                    yield from _list_of(part, "tool_calls")


def _list_of(value: Any, name: str) -> list[dict[str, Any]]:
    found = value.get(name)
    return [part for part in found if isinstance(part, dict)] if isinstance(found, list) else []  # pyright: ignore[reportUnknownVariableType]


_ANSWERS = ("_output", "tool-return", "retry-prompt", "_response", "tool_result", "tool-result", "tool-error")
"""How the types of outputs end."""
_ANSWERING = ("tool", "function_result", "function.result")
_CALL_NAMES = ("call_id", "tool_call_id", "tool_use_id", "toolCallId", "approval_request_id")
_MAY_NAME_CALLS = re.compile(rb'_id"|Id"|"id"|\\u')
"""The ends of the names in `_calls` as they stand in JSON, or a character that is written as its number."""
_NAMED_BY_ID = ("function", "custom", "tool_call", "local_shell_call_output", "mcp_approval_request")


def _calls(value: Any) -> tuple[frozenset[str], frozenset[str]]:
    calls: set[str] = set()
    answers: set[str] = set()
    for part in _objects(value):
        kind = str(part.get("type") or part.get("part_kind") or part.get("role") or "")
        # Of Vercel's messages, those for pages hold a call and its output in one part, whose type names the tool.
        is_both = "toolCallId" in part and "state" in part
        answering = not is_both and (kind in _ANSWERING or kind.endswith(_ANSWERS))
        named = next((part[name] for name in _CALL_NAMES if part.get(name)), None)
        if named is None and (kind in _NAMED_BY_ID or kind.endswith("tool_use") or ("name" in part and "args" in part)):
            named = part.get("id")
        if not isinstance(named, str):
            continue
        if answering or is_both:
            answers.add(named)
        if not answering:
            calls.add(named)
    return frozenset(calls), frozenset(answers)


def _texts(value: Any) -> Iterator[str]:
    """The readable texts of an item, in order."""
    if isinstance(value, str):
        yield value
        return
    for part in cast("list[Any]", value) if isinstance(value, list) else [value]:
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            found = cast("dict[str, Any]", part)
            if isinstance(name := found.get("name"), str) and isinstance(arguments := found.get("arguments"), str):
                yield f"{name}({arguments})"
            for key in ("text", "refusal", "summary", "content", "output", "parts", "data"):
                inner = found.get(key)
                if isinstance(inner, str):
                    yield inner
                elif isinstance(inner, list) or (key == "data" and isinstance(inner, dict)):
                    yield from _texts(inner)


UNNAMED = frozenset({""})
"""The call of a command without an item; a response without one answers some such call."""


def whole(rows: Iterable[tuple[frozenset[str], frozenset[str]]]) -> list[int]:
    """Which rows a context is made of: those that answer calls only if they have these calls before them.

    A row is the ids of the calls that it makes, and of those that it answers. Where calls and outputs at the beginning
    are parted, the context begins behind the last output that is alone, since what was called at the same time belongs
    together. Further on such an output is left out by itself, and who answers no call by name isn't asked for one.
    """
    kept: list[int] = []
    called: set[str] = set()
    is_beginning = True
    for index, (calls, answers) in enumerate(rows):
        if not calls and not answers:
            is_beginning = False
        if answers - calls <= called or (answers == UNNAMED and not is_beginning):
            called |= calls
            kept += [index]
        elif is_beginning:
            called.clear()
            kept.clear()
    return kept


def size_of(items: Iterable[msgspec.Raw | None]) -> int:
    """How many bytes they have in all."""
    return sum(len(item) for item in items if item is not None)


def check_json(item: str) -> None:
    """Raises ValueError for what is no JSON, or nested deeper than what a body may hold."""
    try:
        check_grammar(item.encode())
        kept_json.check_depth(item)
    except MalformedJSON as error:
        raise ValueError(f"item: {error}") from None
    except (ValueError, RecursionError, msgspec.DecodeError):
        raise ValueError("item: must be the text of a JSON value") from None
