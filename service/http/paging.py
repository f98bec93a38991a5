"""Lists, a page at a time, by keyset: the last page costs what the first does."""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from service.problems import Problem

T = TypeVar("T")

Limit = Annotated[int, msgspec.Meta(ge=1, le=200, description="The most items a page may have.")]
Cursor = Annotated[
    str,
    msgspec.Meta(
        description="`next_cursor` of the page before. It holds for the same filters and order only.",
    ),
]


class PageQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A list that has pages and no filters."""

    limit: Limit = 50
    cursor: Cursor | None = None


class Page(msgspec.Struct, Generic[T]):
    """A page of a list; ``next_cursor`` is null on the last one."""

    items: list[T]
    next_cursor: str | None


_encoder = msgspec.msgpack.Encoder()


def _fingerprint(question: Any) -> bytes:
    return hashlib.blake2b(_encoder.encode(question), digest_size=8).digest()


def encode_cursor(question: Any, key: tuple[Any, ...]) -> str:
    """The cursor behind the row with this key, in the list that ``question`` (its filters and order) asks for."""
    packed = _encoder.encode((_fingerprint(question), *key))
    return urlsafe_b64encode(packed).rstrip(b"=").decode()


def decode_cursor(cursor: str, question: Any, kind: type[T]) -> T:
    """The key, as the tuple type ``kind``. Raises ``invalid_cursor`` for another list's cursor, or none of ours."""
    try:
        packed = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        fingerprint, *key = msgspec.msgpack.decode(packed, type=list[Any])
        if fingerprint == _fingerprint(question):
            return msgspec.convert(key, kind, builtin_types=())
    except (ValueError, TypeError, msgspec.MsgspecError):
        pass
    raise Problem("invalid_cursor", "Use next_cursor as it was answered, with the same filters and order.")


def page_of(rows: list[T], limit: int, question: Any, key: Callable[[T], tuple[Any, ...]]) -> Page[T]:
    """The page of a query that was asked for ``limit + 1`` rows; ``key`` gives a row's keyset."""
    if len(rows) <= limit:
        return Page(rows, None)
    return Page(rows[:limit], encode_cursor(question, key(rows[limit - 1])))
