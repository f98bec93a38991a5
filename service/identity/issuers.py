"""Outside issuers: which one judges a token, and what it says of it."""

from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from service.identity.tokens import Token, TokenRefused, check_claims, is_signed
from service.settings import IssuerSettings

if TYPE_CHECKING:
    from service.identity.key_set import KeySet

_TYPES = ("jwt", "at+jwt", "application/at+jwt")
"""RFC 7519, section 5.1; RFC 9068, section 4."""
_ALIASES = {"Ed25519": "EdDSA"}
"""RFC 9864 gives EdDSA with its usual curve a name of its own."""
SUBJECT_LENGTH = 255
NAME_LENGTH = 200
EMAIL_LENGTH = 255


class Subject(NamedTuple):
    """Who a token is about, by its issuer. The address is nobody's proof of anything."""

    issuer: str
    subject: str
    email: str | None
    full_name: str | None
    issued_at: int
    expires_at: int
    creates_user: bool
    """Whether somebody unknown becomes a user."""


class Issuer:
    """One outside issuer. The token never chooses how it is judged: algorithms and keys are the issuer's."""

    def __init__(self, settings: IssuerSettings) -> None:
        self.settings = settings
        self._secrets = [found.value for found in (settings.secret, settings.secret_previous) if found]
        self._algorithms = ("HS256",) if self._secrets else settings.algorithms
        self.key_set: KeySet | None = None
        if settings.jwks_url is not None:
            from service.identity import key_set  # with its HTTP client, which most services do without

            self.key_set = key_set.KeySet(settings.jwks_url, settings.algorithms)
        absent = settings.absent_claims
        self.claimed_name = None if "iss" in absent else settings.name
        self._audience = None if "aud" in absent else settings.audience

    async def judge(self, token: Token) -> Subject:
        """Who the token is about. Raises TokenRefused, or Problem ``timeout`` while no key could be had."""
        await self._check_signature(token)
        claims = token.claims
        check_claims(claims, self.claimed_name, self._audience, self.settings.token_seconds)
        subject = claims.get("sub")
        if not _is_text(subject, SUBJECT_LENGTH):
            raise TokenRefused("sub_missing", "The token names no subject.")
        email, name = claims.get("email"), claims.get("name")
        return Subject(
            self.settings.name,
            subject,
            email if _is_text(email, EMAIL_LENGTH) else None,
            name if _is_text(name, NAME_LENGTH) and not name.isspace() else None,
            claims["iat"],
            claims["exp"],
            self.settings.creates_users,
        )

    async def _check_signature(self, token: Token) -> None:
        kind, key_id, algorithm = (token.header.get(name) for name in ("typ", "kid", "alg"))
        if "typ" in token.header and (not isinstance(kind, str) or kind.lower() not in _TYPES):
            raise TokenRefused("wrong_type")
        if not isinstance(algorithm, str) or (family := _ALIASES.get(algorithm, algorithm)) not in self._algorithms:
            raise TokenRefused("wrong_algorithm")
        if not isinstance(key_id, str) and "kid" in token.header:
            raise TokenRefused("unknown_key")
        keys: list[Any] = self._secrets
        if self.key_set is not None:
            keys = [key for key in [await self.key_set.find(key_id, family)] if key is not None]
            if not keys:
                raise TokenRefused("unknown_key")
        if not any(is_signed(token, key, algorithm) for key in keys):
            raise TokenRefused("bad_signature")


def _is_text(value: Any, length: int) -> TypeGuard[str]:
    """Whether it is a text of 1 to ``length`` characters that the database can keep."""
    return (
        isinstance(value, str)
        and 1 <= len(value) <= length
        and "\0" not in value
        and not any("\ud800" <= character <= "\udfff" for character in value)
    )
