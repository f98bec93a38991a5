"""Access and refresh tokens: signed JWTs, judged by RFC 8725 and RFC 9068; no session is kept on the server."""

import time
from typing import Annotated, Any, Literal, cast
from uuid import UUID

import jwt
import msgspec

from service.errors import Problem

TOKEN_BYTES = 4096
"""A longer token is refused unread."""
CLOCK_SKEW_SECONDS = 60
"""How far the clock of another process that signs may run ahead of ours."""
_jwt = cast("Any", jwt)  # its types of keys aren't known without the package cryptography
_NAME = "todochat"
_ALGORITHM = "HS256"
_ACCESS = "at+jwt"
_REFRESH = "rt+jwt"

Second = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799)]


class Claims(msgspec.Struct, frozen=True):
    """What a token says, other claims aside; ``version`` is the user's ``token_version`` when it was issued."""

    user_id: UUID = msgspec.field(name="sub")
    version: Annotated[int, msgspec.Meta(ge=1, le=2_147_483_647)] = msgspec.field(name="ver")
    issued_at: Second = msgspec.field(name="iat")
    expires_at: Second = msgspec.field(name="exp")


class TokenPair(msgspec.Struct, frozen=True):
    """An access token, good for ``expires_in`` seconds, and the refresh token that gets the next pair."""

    access_token: str
    refresh_token: str
    token_type: Literal["Bearer"]
    expires_in: int


class Tokens:
    """Issues and reads tokens. While a secret is rotated, those signed with the previous one are read too."""

    def __init__(self, secret: str, previous: str | None, access_seconds: int, refresh_seconds: int) -> None:
        self._secrets = [secret] if previous is None else [secret, previous]
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
        claims = {
            "iss": _NAME,
            "aud": _NAME,
            "sub": str(user_id),
            "ver": version,
            "iat": now,
            "exp": now + seconds,
        }
        return _jwt.encode(claims, self._secrets[0], algorithm=_ALGORITHM, headers={"typ": kind})

    def read_access(self, authorization: bytes | None) -> Claims:
        """The claims of an ``Authorization: Bearer`` header. Raises Problem 401."""
        if authorization is None:
            raise Problem("unauthenticated", "Send Authorization: Bearer and an access token.")
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            raise Problem("unauthenticated", "Send Authorization: Bearer and an access token.")
        return self._read(token.strip(), _ACCESS, self._access_seconds)

    def is_access(self, token: str) -> bool:
        """Whether it is a valid access token; whether its user is still active, only the database knows."""
        try:
            self._read(token.encode("utf-8", "replace"), _ACCESS, self._access_seconds)
        except Problem:
            return False
        return True

    def read_refresh(self, token: str) -> Claims:
        """The claims of a refresh token. Raises Problem 401."""
        return self._read(token.encode("utf-8", "replace"), _REFRESH, self._refresh_seconds)

    def _read(self, token: bytes, kind: str, seconds: int) -> Claims:
        if len(token) > TOKEN_BYTES:
            raise Problem("invalid_token")
        for secret in self._secrets:
            try:
                found = _jwt.decode_complete(
                    token,
                    secret,
                    algorithms=[_ALGORITHM],
                    audience=_NAME,
                    issuer=_NAME,
                    options={"require": ["iss", "aud", "sub", "iat", "exp"], "verify_iat": False},
                )
                if found["header"].get("typ") != kind:
                    raise Problem("invalid_token", "The token is of another kind.")
                claims = msgspec.convert(found["payload"], Claims)
            except jwt.InvalidSignatureError:
                continue
            except jwt.ExpiredSignatureError:
                raise Problem("token_expired") from None
            except (
                jwt.InvalidTokenError,
                msgspec.ValidationError,
                ValueError,
                OverflowError,
                RecursionError,
                TypeError,
            ):
                break
            if claims.expires_at - claims.issued_at > seconds or claims.issued_at > time.time() + CLOCK_SKEW_SECONDS:
                break
            return claims
        raise Problem("invalid_token")
