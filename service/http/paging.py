"""Lists, a page at a time, by keyset: the last page costs what the first does."""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, Self, TypeVar

import msgspec

from service.db.queries import Looked
from service.problems import Problem, may_add

T = TypeVar("T")

ANSWER_BYTES = 4 * 1024 * 1024
"""What a page may have, about: it ends early where its rows are large. Queries whose rows may be large hold it, too."""
LOOKED_AT = 5000
"""How many rows of a list a page looks at, whatever its filters: a list of few that match ends early, and leads on."""
SMALL_BYTES = 4096
"""Items below this are counted as they are, however much escaping would add to them."""
ESCAPED = 6
"""No byte of JSON becomes more bytes than these when it is escaped, such as ``<`` or ``'``."""
LAST = 2**63 - 1
"""The greatest integer that the database has; MessagePack has greater ones."""

Limit = Annotated[int, msgspec.Meta(ge=1, le=200, description="The most items a page may have.")]
Cursor = Annotated[
    str,
    msgspec.Meta(
        description="`next_cursor` of the page before. It holds for the same filters and order only.",
    ),
]


class PageQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A list that has pages; what filters it or gives it an order is added by those who are made of this."""

    limit: Limit = 50
    cursor: Cursor | None = None

    @property
    def question(self) -> Self:
        """What all pages of a list have in common: its cursors are good for no other."""
        return msgspec.structs.replace(self, cursor=None, limit=1)


class Page(msgspec.Struct, Generic[T]):
    """A page of a list; ``next_cursor`` is null on the last one."""

    items: list[T]
    next_cursor: str | None


_encode = msgspec.json.Encoder().encode
_encoder = msgspec.msgpack.Encoder(order="sorted")  # so that a cursor outlives the order of a struct's fields


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
        if fingerprint == _fingerprint(question) and not any(isinstance(part, int) and part > LAST for part in key):
            return msgspec.convert(key, kind, builtin_types=())
    except (ValueError, TypeError, RecursionError, msgspec.MsgspecError):
        pass
    raise Problem("invalid_cursor", "Use next_cursor as it was answered, with the same filters and order.")


def fitting(rows: Sequence[Any]) -> tuple[Any, int]:
    """As many of the first rows as an answer takes, one at least, and how many; as JSON already, to be made only once.

    Row by row they take twice the time, so that this is done only for what could be too large when it is escaped.
    """
    whole = _encode(rows)
    if len(whole) * ESCAPED <= ANSWER_BYTES:
        return msgspec.Raw(whole), len(rows)
    items: list[Any] = []
    size = 0
    for row in rows:
        item = _encode(row)
        size += len(item) if len(item) < SMALL_BYTES else len(item) + may_add(item)
        if size > ANSWER_BYTES and items:
            break
        items.append(msgspec.Raw(item))
    return items, len(items)


def one_behind_the_other(first: Looked[T], second: Looked[T]) -> Looked[T]:
    """What was found in two lists of which the second goes on where the first ends."""
    return first if first.last is not None else Looked([*first.rows, *second.rows], second.last)


def page_of(
    rows: Sequence[T], limit: int, question: Any, key: Callable[[T], tuple[Any, ...]], last: T | None = None
) -> Page[T]:
    """The page of a query that was asked for ``limit + 1`` rows; ``key`` gives a row's keyset.

    ``last`` is the row where the query ended its search, if it might have looked on: the cursor then leads on from it.
    """
    items, count = fitting(rows[:limit])
    if count < len(rows):
        last = rows[count - 1]
    return Page(items, None if last is None else encode_cursor(question, key(last)))
