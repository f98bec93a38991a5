"""Users as they see themselves, and as others find them to assign a todo."""

from time import monotonic
from typing import Annotated, TypeVar
from uuid import UUID

import msgspec
from litestar import delete, get, patch
from litestar.params import JSONBody
from msgspec import UNSET, Meta, UnsetType

from service.db.caller import Caller
from service.db.queries import Many, Maybe, Nothing, One, Statement
from service.http.fields import Time, changes
from service.http.paging import Page, PageQuery
from service.http.request import Request
from service.problems import Problem

R = TypeVar("R")

ERASE_SECONDS = 60.0
"""How long an erasure, or a deactivation, may take: it goes through every row of the user's in one transaction. And how
long unassigning ahead of it may take."""
UNASSIGNED = 2000
"""Other people's todos that one transaction unassigns ahead of that: in a second, where 4 are allowed."""

# (?!\n): Python's $ would let a line break through.
# HTML's "valid e-mail address" (html.spec.whatwg.org, state of type=email): what a browser's form takes, ASCII only.
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
Email = Annotated[
    str,
    Meta(
        min_length=3,
        max_length=255,
        pattern=rf"^[a-zA-Z0-9.!#$%&'*+/=?^_`{{|}}~-]+@{_LABEL}(?:\.{_LABEL})*$(?!\n)",
        examples=["ada@example.org"],
        description="A valid e-mail address by HTML's definition; upper and lower case are the same.",
    ),
]
Username = Annotated[
    str,
    Meta(
        min_length=3,
        max_length=50,
        pattern=r"^[A-Za-z0-9_-]+$(?!\n)",
        examples=["ada"],
        description="3 to 50 of A-Z a-z 0-9 _ -; upper and lower case are the same.",
    ),
]
FullName = Annotated[str, Meta(max_length=200, examples=["Ada Lovelace"])]


class User(msgspec.Struct, frozen=True, gc=False):
    """A user, as they see themselves. Who signs in at an outside issuer may have no e-mail address."""

    id: UUID
    email: str | None
    username: str | None
    full_name: str | None
    is_active: bool
    version: int
    created_at: Time
    updated_at: Time


class UserPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a user may change of themselves; null clears a name. ``is_active: false`` deactivates the account."""

    username: Username | UnsetType | None = UNSET
    full_name: FullName | UnsetType | None = UNSET
    is_active: bool | UnsetType = UNSET


class Deletion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to delete the account."""

    erase: Annotated[
        bool,
        Meta(
            description="Erase everything the user owns as well. Without it, a user who still owns records is not "
            "deleted."
        ),
    ] = False


class PublicUser(msgspec.Struct, frozen=True, gc=False):
    """As much of a user as others may know."""

    id: UUID
    username: str
    full_name: str | None


class UserSearch(PageQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whom to find; a list of at most one has a single page."""

    username: Username


GET = One("get_me", User)
_update = Maybe("update_me", User)
_erase = One("erase_me", bool)
_unassign = One("unassign_todos", int)
_wait_longer = Nothing("wait_longer")
_search = Many("list_users", PublicUser)


@get("/v1/users/me", scope="read")
async def get_me(request: Request) -> User:
    """The signed-in user."""
    return await request.user.run(GET())


@patch("/v1/users/me", if_match=True, problems=("username_taken", "active_todos_assigned"), scope="write")
async def update_me(request: Request, data: JSONBody[UserPatch]) -> User:
    """Change the signed-in user's name or username, or deactivate the account.

    Deactivating is refused while pending or in_progress todos of their own are assigned to them. Other people's are
    unassigned. Their tokens stop working at once.
    """
    if data.is_active is not UNSET and request.user.key is not None:
        raise Problem("forbidden", "A key can't deactivate the account.")
    update = _update(**changes(data), version=request.if_match)
    if data.is_active is False:
        if data == UserPatch(is_active=False):  # a name that is taken refuses all of it
            await _unassign_many(request, only_open=True)
        changed = await _patiently(request.user, update)
    else:
        changed = await request.user.run(update)
    if changed is None:
        raise _why_none(request.if_match)
    return changed


@delete("/v1/users/me", query=Deletion, if_match=True, problems=("user_has_records",), scope="account")
async def delete_me(request: Request) -> None:
    """Delete the signed-in user, who must own nothing any more; or with ``erase=true`` erase them and all they own.

    Either way other people's todos are unassigned, and the audit trail goes, too: one entry without content is left.
    Very many of them are unassigned in steps ahead, with `erase=true`.
    """
    query = request.filters(Deletion)
    if query.erase:
        await _unassign_many(request, only_open=False)
    if not await _patiently(request.user, _erase(version=request.if_match, records=query.erase)):
        raise _why_none(request.if_match)


async def _unassign_many(request: Request, *, only_open: bool) -> None:
    """Take the user off other people's todos where these are too many for the one transaction that ends the account.

    Whoever asks again goes on where this ended. Raises ``timeout``.
    """
    until = monotonic() + ERASE_SECONDS
    taken = UNASSIGNED
    while taken:
        if monotonic() > until:
            raise Problem("timeout", "Others have assigned very many todos to the user. Ask again for the rest.")
        unassign = _unassign(version=request.if_match, most=UNASSIGNED, only_open=only_open)
        taken = await _patiently(request.user, unassign)


async def _patiently(caller: Caller, statement: Statement[R]) -> R:
    """What the statement returns, which helps to end the account, however long its locks and its rows take."""
    _, result = await caller.run(_wait_longer(), statement, seconds=ERASE_SECONDS)
    return result


def _why_none(if_match: int | None) -> Problem:
    """Why a change found no row: it has moved on, or the user was erased behind the check that let them in."""
    return Problem("invalid_token", "The user is gone.") if if_match is None else Problem("version_mismatch")


@get("/v1/users", query=UserSearch, scope="read")
async def list_users(request: Request) -> Page[PublicUser]:
    """The active user with this username, to assign a todo to; an empty list if there is none."""
    query = request.filters(UserSearch)
    if query.cursor is not None:
        raise Problem("invalid_cursor", "A list of at most one has no next page.")
    return Page(await request.user.run(_search(username=query.username)), None)
