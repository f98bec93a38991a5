"""Keys: bearer tokens for agents and scripts, which outlive a sign-in and may be allowed to read only.

A key does not end with a new password or by logging out everywhere: it ends when it is deleted or expires, or its
user is deactivated.
"""

from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from litestar import delete, get, post
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, Meta, UnsetType

from service.db.queries import Many, Maybe, One
from service.http.fields import Time, check_time
from service.http.idempotency import idempotent
from service.http.missing import found
from service.http.paging import Page, PageQuery, decode_cursor, page_of
from service.http.recency import LAST_ID
from service.http.request import Request
from service.identity.keys import make_key

Scope = Annotated[
    Literal["read", "write"],
    Meta(title="KeyScope", description="`read` gets 403 on whatever writes.", examples=["write"]),
]
KeyName = Annotated[str, Meta(min_length=1, max_length=100, examples=["Assistant on my laptop"])]


class Key(msgspec.Struct, frozen=True, gc=False):
    """A key, without its text. ``last_used_at`` is the hour of its last use."""

    id: UUID
    name: str
    scope: Scope
    expires_at: Time | None
    last_used_at: Time | None
    created_at: Time


class NewKey(Key, frozen=True, gc=False):
    """A key that was just made. ``key``, the bearer token, is shown here and never again.

    It is absent where the answer is given again for an Idempotency-Key: then delete this one and make another.
    """

    key: str | UnsetType = UNSET

    def to_keep(self) -> "NewKey":
        """What may be stored of it, to be answered again."""
        return msgspec.structs.replace(self, key=UNSET)


class KeyCreate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key to be made; without ``expires_at`` it works until it is deleted."""

    name: KeyName
    scope: Scope
    expires_at: Time | None = None

    def __post_init__(self) -> None:
        check_time("expires_at", self.expires_at)
        if self.expires_at is not None and self.expires_at <= datetime.now(UTC):
            raise ValueError("expires_at: must lie ahead")


_lock_account = Maybe("lock_account", UUID)
_create = One("create_key", Key)
_get = Maybe("get_key", Key)
_list = Many("list_keys", Key)
_delete = Maybe("delete_key", UUID)


@get("/v1/keys", query=PageQuery, scope="read")
async def list_keys(request: Request) -> Page[Key]:
    """The caller's keys, newest first."""
    query = request.filters(PageQuery)
    (before_id,) = (LAST_ID,) if query.cursor is None else decode_cursor(query.cursor, "keys", tuple[UUID])
    rows = await request.user.run(_list(before_id=before_id, limit=query.limit + 1))
    return page_of(rows, query.limit, "keys", lambda key: (key.id,))


@post("/v1/keys", location="/v1/keys/{id}", scope="account", problems=("too_many_keys",))
@idempotent
async def create_key(request: Request, data: JSONBody[KeyCreate]) -> NewKey:
    """Make a key; a user has 20 at most. A key can't make keys."""
    user_id = request.user.user_id
    assert user_id is not None  # noqa: S101 - the route isn't public
    made = make_key(user_id)
    _, key = await request.user.run(
        _lock_account(), _create(name=data.name, scope=data.scope, digest=made.digest, expires_at=data.expires_at)
    )
    return NewKey(*msgspec.structs.astuple(key), key=made.text.decode())


@get("/v1/keys/{key_id:str}", scope="read")
async def get_key(request: Request, key_id: FromPath[UUID]) -> Key:
    """One key."""
    return found(await request.user.run(_get(id=key_id)))


@delete("/v1/keys/{key_id:str}", scope="account")
async def delete_key(request: Request, key_id: FromPath[UUID]) -> None:
    """Delete a key: requests that it sends from now on are refused."""
    found(await request.user.run(_delete(id=key_id)))
