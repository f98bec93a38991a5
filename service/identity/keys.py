"""The text of an API key: ``tck_``, then in base64url (RFC 4648, section 5) its user's id and 256 random bits.

Because it says whose it is, the database finds it within that user's rows, in the round trip of the request itself.
"""

import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

from service.identity.tokens import TokenRefused

PREFIX = b"tck_"
_RANDOM_BYTES = 32
_LENGTH = len(PREFIX) + 64
"""48 bytes are 64 characters, without padding: each key has one spelling."""


class KeyText(NamedTuple):
    """A key as it is sent, whose it says that it is, and the SHA-256 that the database knows it by."""

    text: bytes
    user_id: UUID
    digest: bytes


def make_key(user_id: UUID) -> KeyText:
    """A new key."""
    return read_key(PREFIX + urlsafe_b64encode(user_id.bytes + secrets.token_bytes(_RANDOM_BYTES)))


def read_key(text: bytes) -> KeyText:
    """A key that was sent; nothing of it is proven yet. Raises TokenRefused for what can't be one."""
    encoded = text.removeprefix(PREFIX)
    if len(text) != _LENGTH or not encoded.replace(b"-", b"").replace(b"_", b"").isalnum():
        raise TokenRefused("malformed")
    return KeyText(text, UUID(bytes=urlsafe_b64decode(encoded)[:16]), sha256(text).digest())
