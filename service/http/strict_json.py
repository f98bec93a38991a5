r"""The one reader of JSON that others wrote: by RFC 8259, and only what every reader understands in the same way.

Refused are a key that is given twice, nesting that is too deep, NUL and half surrogate pairs in strings, and numbers
that are not finite; msgspec and ``json`` accept some of these.

A short text without ``\u`` is checked by ``json`` and its hooks in 4 µs. Any other text is checked token by token, in
Python: 0.3 to 0.6 µs for each string, number, bracket and comma, so that the time grows in line with the text. Other
threads get their turn meanwhile, at each token and in a long one every WINDOW characters, whereas ``json`` holds the
whole process until it has read a text (58 ms for 1 MiB of ``[]``), and a regular expression until it has read a string
(440 ms for 12 MiB of ``\\n``).
"""

import json
import re
from collections.abc import Iterator
from math import isinf
from typing import Any

import msgspec

DEPTH = 100
"""Levels of nesting; deeper JSON is malformed."""
ITEMS = 1000
"""The most items that a list right inside the outermost object may have: more than any field takes."""
VALUES = 200_000
"""The most values that a text may have in all: 500 todos with 400 each, and a tenth of a second in the pass."""
COMMAS = 1_000_000
"""A text with more is refused unread: the texts that fields can keep have fewer, and each may part two values."""
SHORT = 16 * 1024
"""Bytes of a text that may be checked in one go; a longer one is to be checked in a thread."""
TINY = 1024
"""Bytes of a text that is checked within 2 ms, whatever is in it."""

WINDOW = 64 * 1024
"""Characters that a regular expression may look at in one go."""
KEY = 128 * 1024
"""The most characters that a key may be written with: what it could stand in is shorter."""
NUMBER = 20_000
"""The same for a number."""
STRING = 2 * 1024 * 1024 + 2
"""And for a string: 1 MiB of JSON that is kept as it is sent becomes one of up to this. msgspec takes 5 ms a MiB."""

STRUCTURE = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+("?)|[{}\[\]]', re.DOTALL)
TOKEN = re.compile(STRUCTURE.pattern + r"|,|[-\d][\d.eE+-]*", re.DOTALL)
_STRING_GOES_ON = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+("?)', re.DOTALL)
_NUMBER_GOES_ON = re.compile(r"[\d.eE+-]*")
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u0000|u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_ESCAPES = re.compile(rb"(?:[^\\]++|\\(?:u[0-9a-fA-F]{4}|[^u]))*+", re.DOTALL)
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
        check_grammar(text)
        _check_short(text.decode())
        return json.loads(text)
    except RecursionError:
        raise too_deep() from None
    except msgspec.DecodeError:
        raise MalformedJSON("must be JSON in UTF-8") from None


def is_quick(text: bytes) -> bool:
    """Whether it is checked within some 5 ms: the pass takes 2 to 5 µs for each bracket and comma."""
    return len(text) <= TINY or (_is_short(text) and (b"\\u" not in text or text.count(b",") <= ITEMS))


def _is_short(text: bytes) -> bool:
    return len(text) <= SHORT and text.count(b"[") + text.count(b"{") <= DEPTH


def check(text: bytes) -> None:
    """Raises MalformedJSON or RefusedJSON for what must not be read; anything else msgspec or ``json`` may decode."""
    found = ""
    try:
        found = text.decode("utf-8")
        if _is_short(text) and b"\\u" not in text:
            msgspec.json.decode(text, type=msgspec.Raw)  # as check_grammar, without escapes
            _check_short(found)
        else:
            if text.count(b",") > COMMAS:
                raise too_many()
            check_grammar(text)
            _look_through(found)
    except RefusedJSON as error:
        if (not error.field or error.message == _TWICE) and len(text) <= SHORT:
            _look_through(found)  # says where
        raise
    except RecursionError:
        raise too_deep() from None
    except (ValueError, msgspec.DecodeError) as error:
        raise error if isinstance(error, MalformedJSON) else MalformedJSON("must be JSON in UTF-8") from None


_TWICE = "is given more than once"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names: set[str] = set()
        for name, _ in pairs:
            if name in names:
                raise RefusedJSON(shown(name), _TWICE)
            names.add(name)
    return found


def _number(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise RefusedJSON("", "holds a number that is not finite")
    return value


_check_short = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_number, parse_int=_number).decode


def check_grammar(text: bytes) -> None:
    """Raises msgspec.DecodeError or ValueError for what is no JSON; half a surrogate pair is."""
    try:
        msgspec.json.decode(text, type=msgspec.Raw)  # reads it all, and makes nothing of it
    except msgspec.DecodeError:
        # Half a pair is no JSON to msgspec; the pass that follows says where it is.
        pieces: list[bytes] = []
        position = 0
        while (piece := _ESCAPES.match(text, position, position + WINDOW)) and piece[0]:
            pieces.append(_SURROGATE_ESCAPE.sub(lambda m: m[0] if m[1] else b"\\u0020", piece[0]))
            position = piece.end()
        msgspec.json.decode(b"".join((*pieces, text[position:])), type=msgspec.Raw)


class Place:
    """An object or a list that a pass is inside of, and how far it has come there."""

    __slots__ = ("index", "key", "keys")

    def __init__(self, is_object: bool) -> None:
        self.keys: set[str] | None = set() if is_object else None
        self.key = ""
        self.index = 0


class Pass:
    """A pass over a text whose grammar is right; it may be sent on by a new ``position``."""

    __slots__ = ("here", "is_key", "outside", "position")

    def __init__(self) -> None:
        self.outside: list[Place] = []
        self.here = Place(is_object=False)
        self.is_key = False
        self.position = 0

    def tokens(self, text: str) -> Iterator[tuple[str, int]]:
        """The first character and the place of each string, number and comma, which `position` is then behind."""
        while token := next_token(TOKEN, text, self.position):
            start, self.position = token
            first = text[start]
            if first in "{[":
                if len(self.outside) == DEPTH:
                    raise too_deep()
                self.outside.append(self.here)
                self.is_key = first == "{"
                self.here = Place(self.is_key)
                continue
            if first in "}]":
                self.here = self.outside.pop()
                self.is_key = False
                continue
            if first == ",":
                self.here.index += 1
                self.is_key = self.here.keys is not None
            elif self.is_key:
                self.here.key = _key(text[start : self.position])
            yield first, start
            if first == '"':
                self.is_key = False


def next_token(pattern: re.Pattern[str], text: str, position: int) -> tuple[int, int] | None:
    """Where the next match of the pattern begins and ends; a string is one, however long, and so is a number."""
    while position < len(text):
        limit = position + WINDOW
        match = pattern.search(text, position, limit)
        if match is None:
            position = limit
            continue
        start, end = match.span()
        if match[1] == "":
            is_whole = False
            while not is_whole:
                more = _STRING_GOES_ON.match(text, end, end + WINDOW)
                end, is_whole = (more.end(), bool(more[1])) if more else (len(text), True)
        elif end == limit and text[start] not in "{}[],":
            while (more := _NUMBER_GOES_ON.match(text, end, end + WINDOW)) and more.end() > end:
                end = more.end()
        return start, end
    return None


def _look_through(text: str) -> None:
    """The pass over a text whose grammar is right."""
    has_escapes = "\\u" in text
    values = 0
    found = Pass()
    for first, start in found.tokens(text):
        here = found.here
        if first == '"':
            if found.position - start > STRING:
                raise RefusedJSON(path([*found.outside, here]), "is too long a string")
            if has_escapes:
                places = found.outside if found.is_key else [*found.outside, here]
                _check_escapes(text[start : found.position], places)
            if found.is_key and here.keys is not None:
                if here.key in here.keys:
                    raise RefusedJSON(path([*found.outside, here]), _TWICE)
                here.keys.add(here.key)
        elif first == ",":
            values += 1
            if values == VALUES:
                raise too_many()
            if here.index == ITEMS and here.keys is None and len(found.outside) == 2:
                raise RefusedJSON(path(found.outside), f"has more than {ITEMS} items")
        else:
            number = text[start : found.position]
            if len(number) > NUMBER:
                raise RefusedJSON(path([*found.outside, here]), "holds a number that is too long")
            if (len(number) > _LONG_NUMBER or "e" in number or "E" in number) and isinf(float(number)):
                raise RefusedJSON(path([*found.outside, here]), "holds a number that is not finite")


def _key(string: str) -> str:
    """The name that is written so."""
    if len(string) > KEY:
        raise RefusedJSON(shown(string[1:]), "is too long a name")
    return json.loads(string) if "\\" in string else string[1:-1]


def _check_escapes(string: str, places: list[Place]) -> None:
    if "\\u" in string:
        for escape in _ESCAPE.finditer(string):
            if escape[1]:
                what = "a NUL character" if escape[1] == "u0000" else "half of a surrogate pair"
                raise RefusedJSON(path(places), f"holds {what}")


def too_many() -> RefusedJSON:
    """What is raised for a text that has more values than it may."""
    return RefusedJSON("", f"has more than {VALUES:,} values")


def too_deep() -> MalformedJSON:
    """What is raised for a text that is nested too deep."""
    return MalformedJSON(f"is nested more than {DEPTH} levels deep")


def path(places: list[Place]) -> str:
    """Of fields and indexes; the first place is around the value itself."""
    parts = [f"[{place.index}]" if place.keys is None else f".{shown(place.key)}" for place in places[1:]]
    return "".join(parts).removeprefix(".")


def shown(name: str) -> str:
    """A key as an answer may show it: not too long, and without what UTF-8 can't carry."""
    return name[:100].encode("utf-8", "replace").decode()
