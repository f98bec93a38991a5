"""Tokens: how a JWT is read, and the access and refresh tokens of local accounts; no session is kept on the server.

Judged by RFC 8725 and RFC 9068. PyJWT proves the signature; the form and the claims, where it is lenient, are checked
here, for every token alike. ``ver`` in a local account's token is the user's ``token_version``: raising it in the
database revokes every token at once.

A refresh token can be used until it expires, more than once: to tell a second use from the first, sessions would have
to be kept. Logging out everywhere or a new password ends a stolen one at once.
"""

import re
import time
from binascii import a2b_base64, b2a_base64
from typing import Annotated, Any, Literal, NamedTuple, cast
from uuid import UUID

import jwt
import msgspec

from service.http import strict_json
from service.problems import Problem
from service.settings import LOCAL_ISSUER, LONGEST_ACCESS_SECONDS, LONGEST_REFRESH_SECONDS

TOKEN_BYTES = 8192
"""A longer token is refused unread."""
CLOCK_SKEW_SECONDS = 60
"""How far the clock of another process that signs may run ahead of ours."""
_ALGORITHM = "HS256"
_ACCESS = "at+jwt"
_REFRESH = "rt+jwt"
_LAST_SECOND = 253_402_300_799
"""The end of the year 9999."""


class TokenRefused(Problem):
    """A 401 for a token. ``reason`` is stable and for the operator; ``detail`` is for whoever sent the token.

    A detail tells what is wrong only where the signature is good, or where what it tells is public.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__("token_expired" if reason == "expired" else "invalid_token", detail)
        self.reason = reason


class Claims(msgspec.Struct, frozen=True):
    """What a token of a local account says; ``version`` is the user's ``token_version`` when it was issued."""

    user_id: UUID = msgspec.field(name="sub")
    version: Annotated[int, msgspec.Meta(ge=1, le=2_147_483_647)] = msgspec.field(name="ver")
    issued_at: int = msgspec.field(name="iat")
    expires_at: int = msgspec.field(name="exp")


class TokenPair(msgspec.Struct, frozen=True):
    """An access token, good for ``expires_in`` seconds, and the refresh token that gets the next pair."""

    access_token: str
    refresh_token: str
    token_type: Literal["Bearer"]
    expires_in: int


class Token(NamedTuple):
    """A token in its parts; nothing of it is proven yet."""

    text: bytes
    header: dict[str, Any]
    claims: dict[str, Any]


def bearer_token(authorization: bytes | None) -> bytes:
    """The token of an ``Authorization: Bearer`` header. Raises Problem ``unauthenticated``."""
    scheme, _, token = (authorization or b"").partition(b" ")
    if scheme.lower() != b"bearer":
        raise Problem("unauthenticated", "Send Authorization: Bearer and an access token.")
    return token.strip()


_COMPACT = re.compile(rb"([\w-]+)\.([\w-]+)\.([\w-]+)", re.ASCII)


def parse_token(token: bytes) -> Token:
    """The parts of a JWT in compact form (RFC 7515, section 3.1). Raises TokenRefused.

    Strict where parsers differ: no padding, no other characters, one spelling of every byte, no claim twice, finite
    numbers. Extensions that must be understood (``crit``) are none that we know.
    """
    parts = _COMPACT.fullmatch(token) if len(token) <= TOKEN_BYTES else None
    if parts is None:
        raise TokenRefused("malformed")
    try:
        header, claims, _ = map(_decode_part, parts.groups())
        header, claims = strict_json.decode_any_text(header), strict_json.decode_any_text(claims)
    except ValueError:
        raise TokenRefused("malformed") from None
    if not isinstance(header, dict) or not isinstance(claims, dict) or "crit" in header or "b64" in header:
        raise TokenRefused("malformed")
    return Token(token, cast("dict[str, Any]", header), cast("dict[str, Any]", claims))


def _decode_part(part: bytes) -> bytes:
    decoded = a2b_base64(part.replace(b"-", b"+").replace(b"_", b"/") + b"=" * (-len(part) % 4))
    if b2a_base64(decoded, newline=False).rstrip(b"=").replace(b"+", b"-").replace(b"/", b"_") != part:
        raise ValueError("not the one spelling of these bytes")
    return decoded


_jws = jwt.PyJWS()
_jws.register_algorithm("Ed25519", jwt.get_algorithm_by_name("EdDSA"))  # its name since RFC 9864


def is_signed(token: Token, key: Any, algorithm: str) -> bool:
    """Whether the token is signed with the key, by the algorithm that was chosen for it and that its header names."""
    try:
        _jws.decode_complete(token.text, key, algorithms=[algorithm])
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
        return False
    return True


def check_claims(claims: dict[str, Any], issuer: str | None, audience: str | None, seconds: int) -> None:
    """Raises TokenRefused unless a token with a good signature holds now, for us, and lives for ``seconds`` at most.

    ``iss`` must be the issuer, ``aud`` the audience or a list with it; where that is None, the claim must be absent.
    ``exp`` and ``iat`` are needed, ``nbf`` is heeded; all are whole seconds.
    """
    if claims.get("iss") != issuer or ("iss" in claims) != (issuer is not None):
        raise TokenRefused("wrong_issuer", "The token's iss is not what it must be.")
    audiences = claims.get("aud")
    if not isinstance(audiences, list):
        audiences = [audiences] if "aud" in claims else []
    if (audience is None) != ("aud" not in claims) or not (audience is None or _is_among(audience, audiences)):
        raise TokenRefused("wrong_audience", "The token is for another audience: its aud is not ours.")
    times: dict[str, Any] = {"iat": claims.get("iat"), "exp": claims.get("exp"), "nbf": claims.get("nbf", 0)}
    for name, value in times.items():
        if type(value) is not int:
            reason = f"{name}_missing" if name not in claims else f"{name}_malformed"
            raise TokenRefused(reason, f"The token needs {name} in whole seconds.")
    issued_at, expires_at, now = times["iat"], times["exp"], time.time()
    if expires_at <= now:
        raise TokenRefused("expired")
    if issued_at > now + CLOCK_SKEW_SECONDS or times["nbf"] > now + CLOCK_SKEW_SECONDS:
        raise TokenRefused("not_yet_valid", "The token's iat or nbf lies ahead.")
    if issued_at < 0 or expires_at > _LAST_SECOND or not 0 < expires_at - issued_at <= seconds:
        raise TokenRefused("lives_too_long", f"From iat to exp a token may live for {seconds} s here.")


def _is_among(audience: str, audiences: Any) -> bool:
    return audience in audiences and all(isinstance(name, str) for name in audiences)


class Tokens:
    """Issues and reads tokens. While a secret is rotated, those signed with the next or previous one are read too.

    A token is good until it expires, though other processes, or this one before its restart, issue longer ones.
    """

    def __init__(self, secret: str, also_read: str | None, access_seconds: int, refresh_seconds: int) -> None:
        self._secrets = [secret] if also_read is None else [secret, also_read]
        self._access_seconds = access_seconds
        self._refresh_seconds = refresh_seconds

    def issue(self, user_id: UUID, version: int) -> TokenPair:
        return TokenPair(
            self._sign(user_id, version, _ACCESS, self._access_seconds),
            self._sign(user_id, version, _REFRESH, self._refresh_seconds),
            "Bearer",
            self._access_seconds,
        )

    def _sign(self, user_id: UUID, version: int, kind: str, seconds: int) -> str:
        now = int(time.time())
        whose = {"iss": LOCAL_ISSUER, "aud": LOCAL_ISSUER, "sub": str(user_id), "ver": version}
        claims = {**whose, "iat": now, "exp": now + seconds}
        return jwt.encode(claims, self._secrets[0], algorithm=_ALGORITHM, headers={"typ": kind})

    def read_access(self, token: Token) -> Claims:
        """The claims of an access token. Raises TokenRefused."""
        return self._read(token, _ACCESS, LONGEST_ACCESS_SECONDS)

    def read_refresh(self, token: str) -> Claims:
        """The claims of a refresh token. Raises TokenRefused."""
        return self._read(parse_token(token.encode("utf-8", "replace")), _REFRESH, LONGEST_REFRESH_SECONDS)

    def is_access(self, token: str) -> bool:
        """Whether it is a valid access token; whether its user is still active, only the database knows."""
        try:
            self.read_access(parse_token(token.encode("utf-8", "replace")))
        except TokenRefused:
            return False
        return True

    def _read(self, token: Token, kind: str, seconds: int) -> Claims:
        if not any(is_signed(token, secret, _ALGORITHM) for secret in self._secrets):
            raise TokenRefused("bad_signature")
        if token.header.get("typ") != kind:
            raise TokenRefused("wrong_type", "The token is of another kind.")
        check_claims(token.claims, LOCAL_ISSUER, LOCAL_ISSUER, seconds)
        try:
            return msgspec.convert(token.claims, Claims)
        except (msgspec.ValidationError, UnicodeEncodeError):
            raise TokenRefused("sub_or_ver_malformed") from None
