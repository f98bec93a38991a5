"""Who sends a bearer token: a local account's, or the user that an outside issuer's subject is, or becomes now.

A token is judged by exactly one issuer, or by the service itself: by the one that its ``iss`` names, never by the key
or the algorithm that it asks for. Good tokens are remembered, because proving a signature can take some hundred µs.
"""

import logging
import time
from collections.abc import Sequence
from hashlib import sha256
from typing import Any
from uuid import UUID

import msgspec

from service.db.caller import ApiKey, Caller
from service.db.database import Database
from service.db.queries import Maybe
from service.http.fields import new_id
from service.http.networks import network
from service.identity.issuers import Issuer, Subject
from service.identity.keys import PREFIX, read_key
from service.identity.tokens import LOCAL_ISSUER, Token, TokenRefused, Tokens, bearer_token, parse_token

log = logging.getLogger(__name__)

REMEMBERED = 4096
"""Good tokens are remembered: as many as were used last, or up to twice that."""
REMEMBERED_BYTES = 2048
"""A longer header is remembered by its digest."""
OUTSIDE_SECONDS = 60.0
"""How long a token of an outside issuer is remembered before its key is looked at again."""
REFUSALS_A_MINUTE = 10
"""Log lines for each issuer and reason; the next minute's first one says how many were left out."""


class Bearer(msgspec.Struct, frozen=True, gc=False):
    """Whose a token is, until when it may be remembered (seconds since 1970), and what revokes it.

    That is the user's ``token_version`` for a local account's (``version``), the time of issue for others, which have
    version 0. Remembering can't outlive the user: who comes back after a deletion needs a token that is newer.
    """

    user_id: UUID
    version: int
    issued_at: int
    subject: str | None
    until: float


_resolve = Maybe("resolve_identity", UUID)


class Authenticator:
    """Finds the caller of a request. That an account is active and its token not revoked, the database checks."""

    def __init__(self, database: Database, tokens: Tokens | None, issuers: Sequence[Issuer]) -> None:
        self._database = database
        self._tokens = tokens
        self._issuers: dict[Any, Issuer] = {issuer.claimed_name: issuer for issuer in issuers}
        self._recent: dict[bytes | None, Bearer] = {}
        self._older: dict[bytes | None, Bearer] = {}
        self._refusals = _Refusals()
        self._noted_keys: dict[bytes, int] = {}

    async def caller(self, authorization: bytes | None, request_id: str, scope: str, address: str = "") -> Caller:
        """Who sends this ``Authorization`` header, and from where; ``scope`` is what a key must allow. Raises 401."""
        if authorization is not None and PREFIX in authorization[:16]:
            return self._caller_of_key(bearer_token(authorization), request_id, scope, address)
        bearer = self._recent.get(authorization)
        if bearer is None or bearer.until <= time.time():
            bearer = await self._find(authorization, request_id, address)
        return Caller(self._database, request_id, bearer.user_id, bearer.version, bearer.issued_at, bearer.subject)

    def _caller_of_key(self, text: bytes, request_id: str, scope: str, address: str) -> Caller:
        """The database checks the key, in each transaction: nothing of one is remembered but that its use is noted."""
        try:
            key = read_key(text)
        except TokenRefused as refused:
            self._refusals.log(None, refused.reason, request_id)
            raise
        api_key = ApiKey(key.digest, scope, self._noted_keys, network(address))
        return Caller(self._database, request_id, key.user_id, key=api_key)

    async def _find(self, authorization: bytes | None, request_id: str, address: str) -> Bearer:
        name = authorization
        if name is not None and len(name) > REMEMBERED_BYTES:
            name = sha256(name).digest()
        bearer = self._recent.get(name) or self._older.get(name)
        if bearer is None or bearer.until <= time.time():
            bearer = await self._judge(bearer_token(authorization), request_id, address)
        if len(self._recent) >= REMEMBERED and name not in self._recent:
            self._older, self._recent = self._recent, {}
        self._recent[name] = bearer
        return bearer

    async def _judge(self, text: bytes, request_id: str, address: str) -> Bearer:
        """By exactly one issuer: the one that the token names."""
        name: str | None = None
        try:
            token = parse_token(text)
            issuer = self._issuer_of(token)
            if isinstance(issuer, Tokens):
                name = LOCAL_ISSUER
                claims = issuer.read_access(token)
                return Bearer(claims.user_id, claims.version, claims.issued_at, None, claims.expires_at)
            name = issuer.settings.name
            subject = await issuer.judge(token)
            user_id = await self._resolve(subject, request_id, address)
        except TokenRefused as refused:
            self._refusals.log(name, refused.reason, request_id)
            raise
        until = min(subject.expires_at, time.time() + OUTSIDE_SECONDS)
        return Bearer(user_id, 0, subject.issued_at, subject.subject, until)

    def _issuer_of(self, token: Token) -> Issuer | Tokens:
        name = token.claims.get("iss")
        if name == LOCAL_ISSUER and self._tokens is not None:
            return self._tokens
        issuer = self._issuers.get(name) if isinstance(name, str | None) else None
        if issuer is None:
            raise TokenRefused("unknown_issuer", "The token's issuer is not known here.")
        return issuer

    async def _resolve(self, subject: Subject, request_id: str, address: str) -> UUID:
        # In the name of the user who is perhaps created: row security lets nobody else write the row, and the audit
        # says that they did. Until then the connection that it takes is of the network's share.
        maker = Caller(self._database, request_id, new_id(), network=network(address))
        found = await maker.run(
            _resolve(
                issuer=subject.issuer,
                subject=subject.subject,
                issued_at=subject.issued_at,
                email=subject.email,
                full_name=subject.full_name,
                creates=subject.creates_user,
            )
        )
        if found is None:
            raise TokenRefused("unknown_subject", "The token's subject is not known here.")
        return found


class _Refusals:
    """Says in the log why tokens are refused, in so many lines a minute at most, however many bad tokens come.

    Issuers are named as they are configured, never as a token claims, so that there is an end of them.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str | None, str], tuple[int, int]] = {}  # the minute, and how many in it

    def log(self, issuer: str | None, reason: str, request_id: str) -> None:
        minute = int(time.time()) // 60
        since, count = self._seen.get((issuer, reason), (minute, 0))
        unlogged = 0
        if since != minute:
            unlogged, count = max(0, count - REFUSALS_A_MINUTE), 0
        self._seen[issuer, reason] = minute, count + 1
        if count < REFUSALS_A_MINUTE:
            extra = {"reason": reason, "issuer": issuer, "request_id": request_id, "unlogged_before": unlogged}
            log.info("token_refused", extra=extra)
