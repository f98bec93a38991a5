"""How the text of a setting is read: the message of a ValueError follows the variable's name."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network
from typing import Any, NoReturn

from service.database_url import parse_database_url

SECRET_MIN_BYTES = 32
"""RFC 7518, section 3.2: an HS256 key has at least as many bits as the hash."""


class Secret:
    """A text that must not be printed: only ``.value`` shows it."""

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.value == self.value

    def __hash__(self) -> int:
        return hash(self.value)


def _fail(message: str) -> NoReturn:
    raise ValueError(message)


def name(text: str) -> str:
    """Any text in which something can be seen."""
    if not text.strip():
        _fail("is blank")
    return text


def database_url(text: str) -> Secret:
    """A URL that libpq can read."""
    parse_database_url(text)
    return Secret(text)


def secret(text: str) -> Secret:
    """A secret that is long enough, not counting the blanks around it."""
    if len(text.strip().encode()) < SECRET_MIN_BYTES:
        _fail(f"is shorter than {SECRET_MIN_BYTES} bytes: make one with `openssl rand -hex 32`")
    return Secret(text)


def _number(what: str, kind: Callable[[str], float], low: int, high: int) -> Callable[[str], Any]:
    def read(text: str) -> float:
        try:
            value = kind(text) if text.isascii() and "_" not in text else low - 1
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            _fail(f"must be a {what} from {low} to {high}, not {text!r}")
        return value

    return read


whole = partial(_number, "whole number", int)


def _one_of(form: str, values: Mapping[str, Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        word = text.strip().lower()
        if word not in values:
            _fail(f"must be {form}, not {text!r}")
        return values[word]

    return read


def some_of(*names: str) -> Callable[[str], tuple[str, ...]]:
    """What reads some of these names, each once."""

    def read(text: str) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
        if not set(found) <= set(names):
            _fail(f"must be some of {', '.join(names)}, with commas between them, not {text!r}")
        return found

    return read


def proxies(text: str) -> str:
    """As uvicorn takes them; an IPv4 address also in the form that it has where HOST is ``::``.

    uvicorn would take anything else, too, and trust nobody.
    """
    items = [item.strip() for item in text.split(",")]
    if items == ["*"]:
        return "*"
    mapped: list[str] = []
    for item in items:
        try:
            found = ip_network(item) if "/" in item else ip_address(item)
        except ValueError:
            _fail(f"must be *, or IP addresses and networks such as 10.0.0.0/8, with commas between them, not {item!r}")
        if isinstance(found, IPv4Address):
            mapped.append(f"::ffff:{found}")
        elif isinstance(found, IPv4Network):
            mapped.append(f"::ffff:{found.network_address}/{96 + found.prefixlen}")
    return ",".join([*items, *mapped])


def _origin(text: str) -> str | None:
    """In lower case and without the scheme's own port, as the header ``Origin`` has it; None for what is none."""
    origin = text.strip().lower()
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", origin):
        return None
    return re.sub(r"^(http://.*):80$|^(https://.*):443$", r"\1\2", origin)


def origins(text: str) -> tuple[str, ...]:
    """Some, each once."""
    found = [_origin(name) for name in text.split(",")]
    if None in found:
        _fail("must be origins such as https://app.example.com, with nothing behind and with commas between them")
    return tuple(dict.fromkeys(filter(None, found)))


def web_origin(text: str) -> str:
    """One of them, of HTTP."""
    found = _origin(text)
    if found is None or not found.startswith(("https://", "http://")):
        _fail("must be one origin such as https://todos.example.com, with nothing behind it")
    return found


seconds = _number("number of seconds", float, 0, 300)
_YES = ("true", "on", "yes", "1")
switch = _one_of("true or false", {word: word in _YES for word in (*_YES, "false", "off", "no", "0")})
level = _one_of("debug, info, warning or error", {name: name for name in ("debug", "info", "warning", "error")})
