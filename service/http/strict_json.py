r"""The one reader of JSON that others wrote: by RFC 8259, and only what every reader understands in the same way.

Refused are a key that is given twice, nesting that is too deep, NUL and half surrogate pairs in strings, and numbers
that are not finite; msgspec and ``json`` accept some of these.

A short text without ``\u`` is checked by ``json`` and its hooks in 4 µs. Any other text is checked token by token, in
Python: 0.3 to 0.6 µs for each string, number, bracket and comma, so that the time grows in line with the text. Other
threads get their turn meanwhile, whereas ``json`` holds the whole process until it has read a text (58 ms for 1 MiB of
``[]``).
"""

import json
import re
from math import isinf
from typing import Any, NoReturn

import msgspec

DEPTH = 100
"""Levels of nesting; deeper JSON is malformed."""
ITEMS = 1000
"""The most items that a list right inside the outermost object may have: more than any field takes."""
VALUES = 200_000
"""The most values that a text may have in all: 500 todos with 400 each, and a tenth of a second in the pass."""
COMMAS = 1_000_000
"""A text with more is refused unread: the texts that fields can keep have fewer, and each may part two values."""
BRACKETS = 400_000
"""The most lists and objects that a text may have where some of it is kept as it is sent: half a second in the pass."""
SHORT = 64 * 1024
"""Bytes of a text that is checked within some 20 ms, whatever is in it; a longer one is to be checked in a thread."""

_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"(\s*+:)?|[{}\[\],]|[-\d][\d.eE+-]*')
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(rb"\\(?:u[dD][89a-fA-F][0-9a-fA-F]{2}|(.))", re.DOTALL)
_LONG_NUMBER = 300
"""A number of fewer digits, and without an exponent, is finite as a double."""


class MalformedJSON(ValueError):
    """The text is no JSON in UTF-8, or nested too deep; the message says which."""


class RefusedJSON(ValueError):
    """The text is JSON that is refused: ``field`` is a path such as ``update[3].title``, empty for the value itself."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


def decode_any_text(text: bytes) -> Any:
    """The value of a short text. NUL and half surrogate pairs are accepted: whoever calls looks at the strings.

    Raises what `check` does.
    """
    try:
        _check_short(text.decode())
        return json.loads(text)
    except RecursionError:
        raise _too_deep() from None


Paths = frozenset[tuple[str, ...]]
"""Where values stand that are kept as they are: keys from the outermost object on, ``*`` for any place in a list."""


def check(text: bytes, paths: Paths = frozenset()) -> bytes:
    r"""Raises MalformedJSON or RefusedJSON for what must not be read; anything else msgspec or ``json`` may decode.

    Returns the text, in which each value at one of the paths is replaced by a string that holds the value's own text.
    So it comes through byte for byte, numbers, order of keys and ``\u0000`` included: of it nothing is checked but the
    grammar and how deep it is nested.
    """
    found = ""
    brackets = text.count(b"[") + text.count(b"{")
    try:
        found = text.decode("utf-8")
        if not paths and len(text) <= SHORT and b"\\u" not in text and brackets <= DEPTH:
            _check_short(found)
            return text
        if text.count(b",") > COMMAS or (paths and brackets > BRACKETS):
            raise _too_many()
        _check_grammar(text)
        return _look_through(found, paths).encode()
    except RefusedJSON as error:
        if not error.field and len(text) <= SHORT:
            _look_through(found, paths)  # says where
        raise
    except RecursionError:
        raise _too_deep() from None
    except (ValueError, msgspec.DecodeError) as error:
        raise error if isinstance(error, MalformedJSON) else MalformedJSON("must be JSON in UTF-8") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names: set[str] = set()
        for name, _ in pairs:
            if name in names:
                raise _twice(name)
            names.add(name)
    return found


def _number(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise RefusedJSON("", "holds a number that is not finite")
    return value


def _constant(text: str) -> NoReturn:
    raise MalformedJSON(f"{text} is no JSON")


_check_short = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_number, parse_int=_number, parse_constant=_constant
).decode


def _check_grammar(text: bytes) -> None:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)  # reads it all, and makes nothing of it
    except msgspec.DecodeError:
        # Half a pair is no JSON to msgspec; the pass that follows says where it is.
        msgspec.json.decode(_SURROGATE_ESCAPE.sub(lambda m: m[0] if m[1] else b"\\u0020", text), type=msgspec.Raw)


class _Place:
    """An object or a list that the pass is inside of, and how far it has come there."""

    __slots__ = ("index", "key", "keys")

    def __init__(self, is_object: bool) -> None:
        self.keys: set[str] | None = set() if is_object else None
        self.key = ""
        self.index = 0

    def take_key(self, key: str) -> None:
        """Come to this key of the object. Raises RefusedJSON where it was there before."""
        keys: set[str] = self.keys  # type: ignore[assignment]
        if key in keys:
            raise _twice(key)
        keys.add(key)
        self.key = key


def _look_through(text: str, paths: Paths) -> str:
    """The pass over a text whose grammar is right; the text that `check` returns."""
    has_escapes = "\\u" in text
    kept_keys = {path[-1] for path in paths}
    parts: list[str] = []
    taken = 0
    values = 0
    outside: list[_Place] = []
    here = _Place(is_object=False)
    while True:  # once, and once more behind each value that is kept
        for match in _TOKEN.finditer(text, taken):
            token = match[0]
            first = token[0]
            if first == '"':
                is_key = match[1] is not None
                string = token[: token.rindex('"') + 1] if is_key else token
                value: str = json.loads(string) if "\\" in string else string[1:-1]
                if has_escapes and "\\u" in string:
                    _check_string(value, outside if is_key else [*outside, here])
                if is_key:
                    here.take_key(value)
                    if value in kept_keys and (*_keys(outside), value) in paths:
                        start = _SPACE.match(text, match.end()).end()  # type: ignore[union-attr]
                        end = _end_of_value(text, start)
                        parts += (text[taken:start], json.dumps(text[start:end], ensure_ascii=False))
                        taken = end
                        break
            elif first == ",":
                here.index += 1
                values += 1
                if values == VALUES:
                    raise _too_many()
                if here.index == ITEMS and here.keys is None and len(outside) == 2:
                    raise RefusedJSON(_path(outside), f"has more than {ITEMS} items")
            elif first in "{[":
                if len(outside) == DEPTH:
                    raise _too_deep()
                outside.append(here)
                here = _Place(first == "{")
            elif first in "}]":
                here = outside.pop()
            elif (len(token) > _LONG_NUMBER or "e" in token or "E" in token) and isinf(float(token)):
                raise RefusedJSON(_path([*outside, here]), "holds a number that is not finite")
        else:
            return "".join((*parts, text[taken:]))


def _check_string(value: str, places: list[_Place]) -> None:
    if "\0" in value:
        raise RefusedJSON(_path(places), "holds a NUL character")
    if _HALF_PAIR.search(value):
        raise RefusedJSON(_path(places), "holds half of a surrogate pair")


def _too_many() -> RefusedJSON:
    return RefusedJSON("", f"has more than {VALUES:,} values")


def _too_deep() -> MalformedJSON:
    return MalformedJSON(f"is nested more than {DEPTH} levels deep")


def _twice(key: str) -> RefusedJSON:
    return RefusedJSON(shown(key), "is given more than once")


def _path(places: list[_Place]) -> str:
    """Of fields and indexes; the first place is around the value itself."""
    path = "".join(f"[{place.index}]" if place.keys is None else f".{shown(place.key)}" for place in places[1:])
    return path.removeprefix(".")


def shown(name: str) -> str:
    """A key as an answer may show it: not too long, and without what UTF-8 can't carry."""
    return name[:100].encode("utf-8", "replace").decode()


# Values that are kept as they are

_STRUCTURE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]]')
_SCALAR = re.compile(r"[^\s,\]}]+")
_SPACE = re.compile(r"\s*+")


def _keys(places: list[_Place]) -> list[str]:
    return ["*" if place.keys is None else place.key for place in places[1:]]


def _end_of_value(text: str, start: int) -> int:
    """Where the value ends that begins there, in a text whose grammar is right."""
    if text[start] not in "{[":
        found = (_STRUCTURE if text[start] == '"' else _SCALAR).match(text, start)
        return found.end() if found else start
    depth = 0
    for match in _STRUCTURE.finditer(text, start):
        if match[0] in "{[":
            depth += 1
            if depth > DEPTH:
                raise _too_deep()
        elif match[0] in "}]":
            depth -= 1
            if depth == 0:
                return match.end()
    return len(text)


def split(text: str) -> list[str]:
    """The texts of the values in a list, whose grammar is right; raises ValueError for what is no list."""
    position = _SPACE.match(text).end()  # type: ignore[union-attr]
    if text[position : position + 1] != "[":
        raise ValueError("must be a list")
    found: list[str] = []
    position += 1
    while True:
        start = _SPACE.match(text, position).end()  # type: ignore[union-attr]
        if text[start] == "]":
            return found
        if text[start] == ",":
            position = start + 1
            continue
        position = _end_of_value(text, start)
        found.append(text[start:position])
