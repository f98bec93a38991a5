"""Query strings and parameters of paths, read strictly by their types; and what is wrong with a value, in words."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, Literal, get_args, get_origin
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec

from service.http.strict_json import shown
from service.problems import Problem, invalid

# The query string


def unknown_parameter(name: str) -> Problem:
    """A 422 about a query parameter that the handler does not take."""
    return invalid(name[:100], "is not a known parameter")


QUERY_PAIRS = 200


def read_pairs(query: bytes) -> dict[str, list[str]]:
    """The query string's values by name, QUERY_PAIRS at most.

    Raises ``malformed_request`` for more, or what isn't UTF-8.
    """
    pairs: Iterable[tuple[str, str]]
    try:
        text = query.decode("ascii")
        if "%" in text or "+" in text or text.count("&") >= QUERY_PAIRS:
            pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=QUERY_PAIRS)
        else:  # the same where nothing is encoded, at a fifth of the cost
            pairs = [(pair.partition("=")[0], pair.partition("=")[2]) for pair in text.split("&") if pair]
    except ValueError:
        raise Problem("malformed_request", "The query string can't be read.") from None
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return values


@cache
def _query_fields(kind: type[msgspec.Struct]) -> dict[str, tuple[bool, Callable[[str], Any] | None]]:
    """For each parameter of the struct: whether it is a list, and how its text is read before msgspec checks it."""
    fields: dict[str, tuple[bool, Callable[[str], Any] | None]] = {}
    for field in msgspec.structs.fields(kind):
        kinds = _flatten(field.type)
        read = _read_boolean if bool in kinds else _read_integer if int in kinds else None
        fields[field.encode_name] = any(get_origin(item) is list for item in kinds), read
    return fields


def _flatten(kind: Any) -> list[Any]:
    """The types a union or an Annotated is made of."""
    if hasattr(kind, "__metadata__"):
        return _flatten(kind.__origin__)
    if get_origin(kind) is not list and (parts := get_args(kind)) and not isinstance(parts[0], str):
        return [item for part in parts for item in _flatten(part)]
    return [kind]


def _read_boolean(text: str) -> Any:
    return {"true": True, "false": False}.get(text, text)


_INTEGER = re.compile("0|-?[1-9][0-9]{0,39}", re.ASCII)
"""However large: msgspec says which bound it is beyond."""


def _read_integer(text: str) -> Any:
    return int(text) if _INTEGER.fullmatch(text) else text


def read_query(kind: type[msgspec.Struct], values: Mapping[str, list[str]]) -> Any:
    """The struct of the query parameters. Raises ``validation_failed`` for an unknown, repeated or wrong one."""
    fields = _query_fields(kind)
    plain: dict[str, Any] = {}
    for name, texts in values.items():
        if name not in fields:
            raise unknown_parameter(name)
        is_list, read = fields[name]
        if is_list:
            plain[name] = texts
        elif len(texts) > 1:
            raise invalid(name, "is given more than once")
        else:
            plain[name] = read(texts[0]) if read else texts[0]
        if any("\0" in text for text in texts):
            raise invalid(name, "holds a NUL character")
    try:
        return msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        field, message = field_and_message(error, kind, may_be_null=False)
        field = field.partition("[")[0]
        if "by RFC 3339" in message and " " in str(plain.get(field)):
            message += "; + is written as %2B in a URL"
        raise invalid(field, message) from None


_NUMBER = re.compile("[1-9][0-9]{0,17}", re.ASCII)


def _read_text(name: str, kind: Any, text: str) -> str:
    if "\0" in text:
        raise invalid(name, "holds a NUL character")
    try:
        return msgspec.convert(text, kind)
    except msgspec.ValidationError as error:
        raise invalid(name, field_and_message(error, kind)[1]) from None


def path_reader(name: str, kind: Any) -> Callable[[str], Any]:
    """What reads a parameter of the path: a UUID, a whole number where the route takes one, or a text.

    What names nothing is ``not_found``, whatever its form; of a text that has bounds, ``validation_failed`` says them.
    """
    kinds = _flatten(kind)
    if str in kinds:
        has_bounds = any(isinstance(note, msgspec.Meta) for note in getattr(kind, "__metadata__", ()))
        return partial(_read_text, name, kind) if has_bounds else str
    takes_number, takes_uuid = int in kinds, UUID in kinds

    def read(text: str) -> Any:
        try:
            if takes_uuid and len(text) == 36:  # without hyphens msgspec takes it, too
                return msgspec.convert(text, UUID)  # four times as quick as UUID(text)
        except msgspec.ValidationError:
            raise Problem("not_found") from None
        if takes_number and _NUMBER.fullmatch(text):
            return int(text)
        raise Problem("not_found")

    return read


# What msgspec says

_KINDS = {
    "array": ("a list",),
    "bool": ("true", "false"),
    "datetime": ("a time by RFC 3339, such as 2026-01-31T18:00:00Z",),
    "int": ("a whole number",),
    "object": ("an object",),
    "str": ("a string",),
    "uuid": ("a UUID",),
}
_PARTS = {"array": "item", "object": "member", "str": "character"}
_BOUNDS = {">=": "at least", "<=": "at most"}
_HINTS = {
    "Expected `datetime` with a timezone component": "is a time without an offset: add one, such as Z or +02:00",
    "Invalid RFC3339 encoded datetime": f"must be {_KINDS['datetime'][0]}",
    "Invalid UUID": "must be a UUID",
}
_EXPECTED = re.compile("Expected `(.+?)`(?:, got `.+?`| of length ([<>]=) ([0-9]+)| ([<>]=) (-?[0-9]+))?", re.ASCII)
_PATTERN_HINTS = (
    ("^(me|", "must be a UUID in small letters, or me"),
    ("{8}(-", "must be a UUID or a whole number"),
    ("@", "must be a valid e-mail address"),
    ("[^", "must hold a character that can be seen"),
    ("[A-Za-z0-9_-]", "may hold A-Z a-z 0-9 _ - and nothing else"),
)
"""By what the regular expression holds, the first that fits."""
_MESSAGE_LENGTH = 200


# What msgspec says of a missing or unknown field, and what our own checks say: "title: must have …".
_FIELD_NAMED = re.compile(r"(?:Object (contains unknown|missing required) field `(.*)`|(\w+): (.*))", re.DOTALL)


def field_and_message(error: msgspec.ValidationError, kind: Any, *, may_be_null: bool = True) -> tuple[str, str]:
    """What msgspec refused as a ``kind``; the field as a path such as ``update[3].title``, ``body`` for the whole.

    ``may_be_null``: where null could have been sent, the message says whether it may be.
    """
    message, _, where = str(error).partition(" - at `$")
    field = where.rstrip("`").lstrip(".").replace("[...]", "")
    if named := _FIELD_NAMED.fullmatch(message):
        kind, name, own, text = named.groups()
        message = text or ("is not a known field" if kind == "contains unknown" else "is required")
        name = shown(own if name is None else name)
        return (field or "body" if own == "body" else f"{field}.{name}" if field else name), message
    if "matching regex" in message:
        message = next((hint for part, hint in _PATTERN_HINTS if part in message), "has a form that is not allowed")
    if message.startswith("Invalid enum value") and (choices := ", ".join(_choices(kind, field.split(".")))):
        message = f"must be one of: {choices}"
    if expected := _EXPECTED.fullmatch(message):
        kinds, *bounds = expected.groups()
        message = _expected(kinds if may_be_null else kinds.removesuffix(" | null"), *bounds)
    return field or "body", _HINTS.get(message, message)[:_MESSAGE_LENGTH]


def _expected(kinds: str, length: str | None, size: str, value: str | None, bound: str) -> str:
    """What was expected, in words: of the types ``kinds``, of a ``length``, or a ``value``."""
    if length is not None:
        return f"must have {_BOUNDS[length]} {size} {_PARTS[kinds]}{'s' * (size != '1')}"
    if value is not None:
        return f"must be {_BOUNDS[value]} {bound}"
    choices = [words for kind in kinds.split(" | ") for words in _KINDS.get(kind, (kind,))]
    return "must be " + " or ".join([", ".join(choices[:-1]), choices[-1]] if len(choices) > 1 else choices)


def _choices(kind: Any, path: Sequence[str]) -> Iterator[str]:
    """The values of the Literal at the path of fields from ``kind`` on, whatever the places in lists are."""
    for item in _flatten(kind):
        if get_origin(item) is list:
            yield from _choices(get_args(item)[0], path)
        elif get_origin(item) is Literal and not path:
            yield from map(str, get_args(item))
        elif path and isinstance(item, type) and issubclass(item, msgspec.Struct):
            for field in msgspec.structs.fields(item):
                if field.encode_name == path[0].partition("[")[0]:
                    yield from _choices(field.type, path[1:])
