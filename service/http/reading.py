"""What a client sent, read strictly: anything unknown, repeated, or of another type is refused, never guessed.

Every function raises Problem.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NoReturn, cast, get_args, get_origin
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec

from service.problems import Problem, invalid

BODY_DEPTH = 100
"""Levels of nesting; deeper JSON is refused as malformed before it is looked at."""

# The headers


def read_headers(pairs: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers by name; one that is repeated becomes a list (RFC 9110, section 5.3)."""
    headers = dict(pairs)
    if len(headers) != len(pairs):
        for name in headers:
            headers[name] = b", ".join(value for other, value in pairs if other == name)
    return headers


JSON = "application/json"


def check_accept(accept: bytes, media_type: str = JSON) -> None:
    """RFC 9110, section 12.5.1: of the ranges that match ``media_type``, the most specific one decides."""
    ranges = ("*/*", "application/*", media_type)
    best = 0
    accepted = False
    for item in accept.decode("latin-1").lower().split(","):
        media_range, *parameters = [part.strip() for part in item.split(";")]
        if media_range in ranges and (specific := ranges.index(media_range) + 1) >= best:
            refused = any(re.fullmatch(r"q\s*=\s*0(\.0*)?", parameter) for parameter in parameters)
            accepted = not refused or (accepted and specific == best)
            best = specific
    if not accepted:
        raise Problem("not_acceptable", f"Answers are {media_type}.")


def read_version(if_match: bytes | None) -> int | None:
    """The version that ``If-Match`` names, None for any. Raises ``version_mismatch`` for what no version can be."""
    if if_match is None or if_match.strip() == b"*":
        return None
    text = if_match.strip()
    if found := re.fullmatch(rb'"([1-9][0-9]{0,8})"', text):
        return int(found[1])
    raise Problem("version_mismatch", 'If-Match takes one ETag as it was answered, such as "3".')


# The query string


def unknown_parameter(name: str) -> Problem:
    """A 422 about a query parameter that the route does not take."""
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


@lru_cache(maxsize=256)
def _query_fields(kind: type[msgspec.Struct]) -> dict[str, tuple[str, Callable[[str], Any] | None]]:
    """For each parameter of the struct: ``one`` or ``many``, and how its text is read before msgspec checks it."""
    fields: dict[str, tuple[str, Callable[[str], Any] | None]] = {}
    for field in msgspec.structs.fields(kind):
        kinds = _flatten(field.type)
        many = any(get_origin(item) is list for item in kinds)
        read = _read_boolean if bool in kinds else _read_integer if int in kinds else None
        fields[field.encode_name] = ("many" if many else "one", read)
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


def _read_integer(text: str) -> Any:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else text


def read_query(kind: type[msgspec.Struct], values: Mapping[str, list[str]]) -> Any:
    """The struct of the query parameters. Raises ``validation_failed`` for an unknown, repeated or wrong one."""
    fields = _query_fields(kind)
    plain: dict[str, Any] = {}
    for name, texts in values.items():
        if name not in fields:
            raise unknown_parameter(name)
        many, read = fields[name]
        if many == "many":
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
        field, message = _field_and_message(error, kind)
        raise invalid(field.partition("[")[0], message) from None


_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


_NUMBER = re.compile("[1-9][0-9]{0,17}", re.ASCII)


def path_reader(kind: Any) -> Callable[[str], Any]:
    """What reads a parameter of the path: a UUID, or a whole number where the route takes one.

    What names nothing is ``not_found``, whatever its form.
    """
    if kind is str:
        return str
    kinds = _flatten(kind)
    takes_number, takes_uuid = int in kinds, UUID in kinds

    def read(text: str) -> Any:
        if takes_uuid and _UUID.fullmatch(text):
            return msgspec.convert(text, UUID)  # four times as quick as UUID(text)
        if takes_number and _NUMBER.fullmatch(text):
            return int(text)
        raise Problem("not_found")

    return read


# The body


def check_content(headers: Mapping[bytes, bytes], limit: int, media_types: Sequence[str] = (JSON,)) -> None:
    """What the headers say of the body. Raises ``unsupported_media_type`` or ``payload_too_large``."""
    media_type, _, parameters = headers.get(b"content-type", b"").decode("latin-1").lower().partition(";")
    charset = parameters.replace(" ", "").replace('"', "")
    if media_type.strip() not in media_types or charset not in ("", "charset=utf-8"):
        raise Problem("unsupported_media_type", f"Send Content-Type: {media_types[0]}, in UTF-8.")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Problem("unsupported_media_type", "Send the body without Content-Encoding.")
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > limit:
        raise Problem("payload_too_large", f"The body may have {limit} bytes.")


async def read_body(headers: Mapping[bytes, bytes], receive: Any, limit: int) -> bytes:
    """The body, at most ``limit`` bytes of it.

    Raises ``unsupported_media_type``, ``payload_too_large``, and ``malformed_request`` when the client leaves early.
    """
    check_content(headers, limit)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem("malformed_request", "The body ended early.")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise Problem("payload_too_large", f"The body may have {limit} bytes.")
        chunks.append(chunk)
        if not message.get("more_body"):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


@lru_cache(maxsize=256)
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def decode_body(body: bytes, kind: Any) -> Any:
    """The struct of a body, by RFC 8259 and no more.

    Raises ``malformed_request`` for what isn't JSON in UTF-8, or nested too deep; ``validation_failed`` for a duplicate
    key, NUL, half a surrogate pair, a number that isn't finite, and whatever the struct refuses.
    """
    try:
        _check_tree(_parse(body.decode("utf-8")), "", 0)
        return _decoder(kind).decode(body)
    except msgspec.ValidationError as error:
        raise _invalid_body(*_field_and_message(error, kind)) from None
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise Problem("malformed_request", "The body must be JSON in UTF-8.") from None


def _invalid_body(field: str, message: str) -> Problem:
    """A 422; where the fault is in one object of a list, such as ``update[3].title``, ``list`` and ``index`` say so."""
    problem = invalid(field or "body", message)
    if found := re.match(r"(\w+)\[(\d+)\]", field):
        problem.members.update(list_name=found[1], index=int(found[2]))
    return problem


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise invalid(_shown(twice), "is given more than once")
    return found


def _shown(name: str) -> str:
    """As much of a client's name for something as can be put into an answer."""
    return name[:100].encode("utf-8", "replace").decode()


def _not_json(constant: str) -> NoReturn:
    raise ValueError(constant)


_parse = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_not_json).decode


def _check_tree(value: Any, path: str, depth: int) -> None:
    """Refuse what PostgreSQL can't store, or would store and no client could read back."""
    if isinstance(value, str):
        if "\0" in value:
            raise _invalid_body(path, "holds a NUL character")
        if not value.isascii() and _SURROGATE.search(value):
            raise _invalid_body(path, "holds half of a surrogate pair")
    elif isinstance(value, float | int) and not abs(value) < 1.8e308:
        raise _invalid_body(path, "holds a number that is not finite")
    elif depth > BODY_DEPTH:
        raise Problem("malformed_request", f"The body is nested more than {BODY_DEPTH} levels deep.")
    elif isinstance(value, dict):
        for name, item in cast("dict[str, Any]", value).items():
            _check_tree(name, path, depth + 1)
            _check_tree(item, f"{path}.{name[:100]}" if path else name[:100], depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[Any]", value)):
            _check_tree(item, f"{path}[{index}]", depth + 1)


_SURROGATE = re.compile("[\ud800-\udfff]")

_HINTS = {
    "Expected `datetime` with a timezone component": "is a time without an offset: add one, such as Z or +02:00",
    "Invalid RFC3339 encoded datetime": "must be a time by RFC 3339, such as 2026-01-31T18:00:00Z",
    "Invalid UUID": "must be a UUID",
}
_PATTERN_HINTS = (
    ("@", "must be a valid e-mail address"),
    ("[^", "must hold a character that can be seen"),
    ("", "may hold A-Z a-z 0-9 _ - and nothing else"),
)
"""By what the regular expression holds, the first that fits."""
_MESSAGE_LENGTH = 200


# What msgspec says of a missing or unknown field, and what our own checks say: "title: must have …".
_FIELD_NAMED = re.compile(r"(?:Object (contains unknown|missing required) field `(.*)`|(\w+): (.*))", re.DOTALL)


def _field_and_message(error: msgspec.ValidationError, kind: Any) -> tuple[str, str]:
    """What msgspec refused as a ``kind``; the field as a path such as ``update[3].title``, ``body`` for the whole."""
    message, _, where = str(error).partition(" - at `$")
    field = where.rstrip("`").lstrip(".").replace("[...]", "")
    if named := _FIELD_NAMED.fullmatch(message):
        kind, name, own, text = named.groups()
        message = text or ("is not a known field" if kind == "contains unknown" else "is required")
        name = _shown(own if name is None else name)
        return (field or "body" if own == "body" else f"{field}.{name}" if field else name), message
    if "matching regex" in message:
        message = next(hint for part, hint in _PATTERN_HINTS if part in message)
    if message.startswith("Invalid enum value") and (choices := ", ".join(_choices(kind, field.split(".")))):
        message = f"must be one of: {choices}"
    message = _HINTS.get(message, message)
    if message.startswith(("Expected", "Invalid")):
        message = message[:1].lower() + message[1:]
    return field or "body", message[:_MESSAGE_LENGTH]


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
