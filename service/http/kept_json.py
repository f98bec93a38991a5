"""Values in a JSON text that are kept as they are sent: found, taken out, and put apart, without being read."""

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from service.http.strict_json import (
    COMMAS,
    DEPTH,
    SHORT,
    STRUCTURE,
    TOKEN,
    MalformedJSON,
    Pass,
    Place,
    RefusedJSON,
    check,
    check_grammar,
    next_token,
    path,
    too_deep,
    too_many,
)

KEPT = 1024 * 1024
"""The most bytes of a value that is kept as it is sent."""
BRACKETS = 400_000
"""The most lists and objects that a text may have where some of it is kept as it is sent: half a second in the pass."""

_SPACE = re.compile(r"\s*+")

Path = tuple[str, ...]
"""Where such a value stands: keys from the outermost object on, ``*`` for any place in a list."""
Paths = frozenset[Path]


def lift(text: bytes, paths: Paths) -> bytes:
    r"""The text with each value at one of the paths replaced by a string that holds the value's own text.

    So it comes through byte for byte, numbers, order of keys and ``\u0000`` included: of it nothing is checked but the
    grammar, how deep it is nested, and its length. Raises what `strict_json.check` does for all the rest.
    """
    if len(text) <= SHORT:
        try:
            check(text)
        except (MalformedJSON, RefusedJSON):
            pass  # perhaps for what is kept
        else:
            return _lift_plain(text, paths)
    text = _lift_any(text, paths)
    check(text)
    return text


def _lift_plain(text: bytes | msgspec.Raw, paths: Paths) -> bytes:
    """The same, where nothing in the text is refused, not even in what is kept: for a fifth of the cost."""
    rests = {head: frozenset(path[1:] for path in paths if path[0] == head) for head in {path[0] for path in paths}}
    try:
        if "*" in rests:
            items = msgspec.json.decode(text, type=list[msgspec.Raw])
            return msgspec.json.encode([msgspec.Raw(_lift_plain(item, rests["*"])) for item in items])
        fields = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:  # of another type
        return bytes(text)
    for name in rests.keys() & fields.keys():
        value, rest = fields[name], rests[name]
        fields[name] = msgspec.Raw(
            msgspec.json.encode(bytes(value).decode()) if () in rest else _lift_plain(value, rest)
        )
    return msgspec.json.encode(fields)


def _lift_any(text: bytes, paths: Paths) -> bytes:
    found = _whole(text)
    parts: list[str] = []
    taken = 0
    for start, end, places in _kept(found, paths):
        if end - start > KEPT:
            raise RefusedJSON(path(places), f"must have at most {KEPT} bytes as text")
        parts += (found[taken:start], json.dumps(found[start:end], ensure_ascii=False))
        taken = end
    return "".join((*parts, found[taken:])).encode("utf-8", "surrogatepass") if parts else text


def put_aside(text: bytes, at: Path) -> tuple[bytes, str | None]:
    """The text with an empty string for the value at the path, and that value's own text, however long it is.

    For what is read piece by piece, each of which has a limit of its own. A short text of which nothing is refused, not
    even in the value, stays as it is, and None is put aside. Raises what `lift` does.
    """
    if len(text) <= SHORT:
        try:
            check(text)
        except (MalformedJSON, RefusedJSON):
            pass  # perhaps for what is kept
        else:
            return text, None
    found = _whole(text)
    aside: str | None = None
    parts: list[str] = []
    taken = 0
    for start, end, _ in _kept(found, frozenset({at})):
        aside = found[start:end]
        parts += (found[taken:start], '""')
        taken = end
    text = "".join((*parts, found[taken:])).encode()
    check(text)
    return text, aside


def put_back(data: Any, at: Path, aside: str) -> None:
    """Give the struct of a text what was put aside."""
    *outer, name = at
    for step in outer:
        data = getattr(data, step)
    msgspec.structs.force_setattr(data, name, msgspec.Raw(aside.encode()))


def _whole(text: bytes) -> str:
    """The text, whose grammar is right."""
    try:
        found = text.decode("utf-8")
        if text.count(b",") > COMMAS or text.count(b"[") + text.count(b"{") > BRACKETS:
            raise too_many()
        check_grammar(text)
    except (ValueError, RecursionError, msgspec.DecodeError) as error:
        if isinstance(error, MalformedJSON | RefusedJSON):
            raise
        raise MalformedJSON("must be JSON in UTF-8") from None
    return found


def _kept(text: str, paths: Paths) -> Iterator[tuple[int, int, list[Place]]]:
    """Where each value at one of the paths begins and ends, and its place."""
    keys = {path[-1] for path in paths}
    through = Pass()
    for first, _ in through.tokens(text):
        here = through.here
        if first == '"' and through.is_key and here.key in keys and (*_keys(through.outside), here.key) in paths:
            start = _end_of_space(text, text.index(":", through.position) + 1)
            through.position = _end_of_value(text, start)
            yield start, through.position, [*through.outside, here]


def _keys(places: list[Place]) -> list[str]:
    return ["*" if place.keys is None else place.key for place in places[1:]]


def _end_of_space(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return found.end() if found else start


def _end_of_value(text: str, start: int) -> int:
    """Where the value ends that begins there, in a text whose grammar is right."""
    if text[start] in "tfn":
        return start + (5 if text[start] == "f" else 4)
    depth = 0
    position = start
    while token := next_token(STRUCTURE if depth else TOKEN, text, position):
        first, position = text[token[0]], token[1]
        if first in "{[":
            depth += 1
            if depth > DEPTH:
                raise too_deep()
        elif first in "}]":
            depth -= 1
        if depth == 0:
            return position
    return position


def check_depth(text: str) -> None:
    """Raises MalformedJSON for a value, in a text whose grammar is right, that is nested too deep."""
    if text.count("[") + text.count("{") > DEPTH:
        _end_of_value(text, _end_of_space(text, 0))


def _next_start(text: str, position: int) -> int | None:
    """Where the next value of a list begins, or the next name of an object; None at the end."""
    start = _end_of_space(text, position)
    if text[start] == ",":
        start = _end_of_space(text, start + 1)
    return None if text[start] in "]}" else start


def split(text: str) -> list[str]:
    """The texts of the values in a list, whose grammar is right; raises ValueError for what is no list."""
    position = _end_of_space(text, 0)
    if text[position : position + 1] != "[":
        raise ValueError("must be a list")
    found: list[str] = []
    position += 1
    while (start := _next_start(text, position)) is not None:
        position = _end_of_value(text, start)
        found.append(text[start:position])
    return found


_values = json.JSONDecoder(parse_int=len, parse_float=len)  # of numbers of any length; only where they end is asked


def members(text: str) -> dict[str, msgspec.Raw]:
    """The texts of the values in an object, whose grammar is right; names may hold half of a surrogate pair."""
    position = _end_of_space(text, 0) + 1
    found: dict[str, msgspec.Raw] = {}
    while (start := _next_start(text, position)) is not None:
        name, position = _values.raw_decode(text, start)
        start = _end_of_space(text, text.index(":", position) + 1)
        _, position = _values.raw_decode(text, start)
        found[name] = msgspec.Raw(text[start:position].encode())
    return found
