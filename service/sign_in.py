"""Sign-in with local accounts: register, token, refresh, and ending sessions.

Attempts are counted for each network, for each network's guesses at an account, and for the account itself, whose
failures slow guesses down and lock nobody out: ``sign_in_limits()`` in the database says how many there may be. A
network (an IPv4 address, an IPv6 /64 or /56) has 10 attempts at an account at once, then 2 a minute, and 50, then 20 a
minute, in all. After 20 failures beyond 2 a minute, from anywhere, each network has 3 attempts at that account, then 4
an hour, for up to an hour: N networks can try 3 N passwords there, then 4 N an hour. The right password from a network
that doesn't guess gets in.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import post, put
from litestar.params import JSONBody
from msgspec import Meta

from service import users
from service.db.caller import Caller
from service.db.queries import Maybe, Nothing, One
from service.http.fields import new_id
from service.http.idempotency import idempotent
from service.http.networks import networks
from service.http.request import Request
from service.identity.passwords import Passwords
from service.identity.tokens import TokenPair, Tokens
from service.problems import Problem
from service.users import Email, FullName, User, Username

Password = Annotated[
    str, Meta(min_length=8, max_length=200, examples=["correct horse battery"], description="8 to 200 characters.")
]
"""A password to be set."""
Given = Annotated[str, Meta(min_length=1, max_length=200, examples=["correct horse battery"])]
"""A password to be checked."""


class Registration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An account to be opened."""

    email: Email
    password: Password
    username: Username | None = None
    full_name: FullName | None = None


class SignIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who wants to sign in."""

    email: Annotated[str, Meta(min_length=1, max_length=255, examples=["ada@example.org"])]
    password: Given


class Refresh(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The refresh token of a pair."""

    refresh_token: Annotated[str, Meta(examples=["eyJhbGciOiJIUzI1NiIsInR5cCI6InJ0K2p3dCJ9.e30.c2ln"])]


class PasswordChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The password as it is and as it shall be."""

    current_password: Given
    new_password: Password


class Credentials(msgspec.Struct, frozen=True):
    """What signing in is checked against; without a hash, nobody signs in with a password."""

    id: UUID
    password_hash: str | None
    is_active: bool
    token_version: int


class OwnCredentials(msgspec.Struct, frozen=True):
    """What a change of one's own password is checked against. Without an address there is no password either."""

    email: str | None
    password_hash: str | None


_create = One("create_user", User)
_find = Maybe("find_credentials", Credentials)
_own = One("get_own_credentials", OwnCredentials)
_take_attempt = One("take_sign_in_attempt", float)
_forgive_attempt = Nothing("forgive_sign_in_attempt")
_set_password = Nothing("set_password")
_revoke = Nothing("revoke_tokens")


@post("/v1/auth/register", public=True, location="/v1/users/me", problems=("email_taken", "username_taken"))
async def register(request: Request, data: JSONBody[Registration]) -> User:
    """Open an account."""
    passwords: Passwords = request.app.state.passwords
    with passwords.registrations.places.hold(request.owner):
        password_hash = await passwords.registrations.hash(request.owner, data.password)
    # The account's own transaction: row security lets a user in the making write their own row and no other.
    owner = Caller(request.user.database, request.id, new_id())
    return await owner.run(
        _create(email=data.email, username=data.username, full_name=data.full_name, password_hash=password_hash)
    )


@post("/v1/auth/token", public=True, status_code=200, problems=("bad_credentials", "account_inactive", "rate_limited"))
async def create_token(request: Request, data: JSONBody[SignIn]) -> TokenPair:
    """Sign in. An unknown e-mail address and a wrong password get the same answer, after the same time."""
    counted = _counted(f"account:{data.email.lower()}", [f"network:{name}" for name in networks(request.address)])
    passwords: Passwords = request.app.state.passwords
    tokens: Tokens = request.app.state.tokens
    with passwords.sign_ins.places.hold(request.owner):
        wait, found = await request.user.run(_take_attempt(**counted), _find(email=data.email))
        if wait > 0:
            raise _rate_limited(wait)
        is_right = await passwords.sign_ins.verify(request.owner, found and found.password_hash, data.password)
        if found is None or not is_right:
            raise Problem("bad_credentials")
    if not found.is_active:
        raise Problem("account_inactive")
    await _forgive(request.user, counted)
    return tokens.issue(found.id, found.token_version)


@post("/v1/auth/refresh", public=True, status_code=200, problems=("invalid_token", "token_expired", "account_inactive"))
async def refresh_token(request: Request, data: JSONBody[Refresh]) -> TokenPair:
    """Get a new pair of tokens for a refresh token."""
    tokens: Tokens = request.app.state.tokens
    claims = tokens.read_refresh(data.refresh_token)
    owner = Caller(request.user.database, request.id, claims.user_id, claims.version)
    user = await owner.run(users.GET())
    return tokens.issue(user.id, claims.version)


@post("/v1/auth/logout-everywhere", status_code=204, scope="account")
@idempotent
async def logout_everywhere(request: Request) -> None:
    """Make every token that was issued before now stop working."""
    await request.user.run(_revoke())


@put("/v1/users/me/password", status_code=204, problems=("bad_credentials", "rate_limited"), scope="account")
async def change_password(request: Request, data: JSONBody[PasswordChange]) -> None:
    """Set another password; every token that was issued before now stops working."""
    passwords: Passwords = request.app.state.passwords
    own = await request.user.run(_own())
    if own.email is None or own.password_hash is None:
        raise Problem("bad_credentials", "The account has no password: it signs in at an outside issuer.")
    # Apart from all sign-ins: who has a token isn't slowed by those who guess without one.
    account = f"change:{request.user.user_id}"
    counted = _counted(account, [f"{account}:{name}" for name in networks(request.address)])
    anonymous = Caller(request.user.database, request.id)
    with passwords.changes.places.hold(request.owner):
        wait = await anonymous.run(_take_attempt(**counted))
        if wait > 0:
            raise _rate_limited(wait)
        if not await passwords.changes.verify(request.owner, own.password_hash, data.current_password):
            raise Problem("bad_credentials", "The current password is wrong.")
        await _forgive(anonymous, counted)
        password_hash = await passwords.changes.hash(request.owner, data.new_password)
    await request.user.run(_set_password(password_hash=password_hash))


async def _forgive(caller: Caller, counted: dict[str, Any]) -> None:
    """Take off an attempt with the right password. Where the database is busy it stays counted: it refuses nobody."""
    try:
        await caller.run(_forgive_attempt(**counted))
    except Problem as problem:
        if problem.status != 503:
            raise


def _rate_limited(seconds: float) -> Problem:
    wait = math.ceil(seconds)
    return Problem("rate_limited", f"Try again in {wait} s.", headers={"Retry-After": str(wait)})


def _counted(account: str, networks: Sequence[str]) -> dict[str, Any]:
    """What an attempt counts on, as the database knows it: digests, never names."""
    account_key, *network_keys = (
        hashlib.sha256(name.encode("utf-8", "replace")).digest() for name in (account, *networks)
    )
    return {"account": account_key, "networks": network_keys}
