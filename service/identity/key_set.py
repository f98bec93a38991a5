"""The public keys of an outside issuer (RFC 7517): fetched when needed, kept, and never in the way of a known key."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm

from service.database_url import is_loopback
from service.problems import Problem

log = logging.getLogger(__name__)

LIFETIME_SECONDS = 600.0
"""Older keys are still used while new ones are fetched, and for as long as that fails."""
COOLDOWN_SECONDS = 30.0
"""Nothing is fetched for so long after an attempt that failed, or that was made for a key id and did not bring it."""
FIRST_COOLDOWN_SECONDS = 5.0
"""The same before any set was had."""
FETCH_SECONDS = 5.0
SET_BYTES = 64 * 1024
RSA_BITS = range(2048, 8193)
"""At least what RFC 7518, section 3.3, asks for, and not so many that a check takes seconds."""
_UNUSABLE = (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError, UnsupportedAlgorithm)
"""What reading a broken key raises."""

_ALGORITHMS_OF: dict[tuple[Any, Any], tuple[str, ...]] = {
    ("OKP", "Ed25519"): ("EdDSA",),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
}
"""Type and curve → what a key may be used with. A secret, which no set should show, is for nothing."""


class _Document(msgspec.Struct):
    keys: list[Any]


class FetchError(Exception):
    """The key set can't be had; the message says why."""


class KeySet:
    """The keys at a URL for these algorithms (``Ed25519``, RFC 9864, is another name of ``EdDSA`` with that curve)."""

    def __init__(self, url: str, algorithms: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.url = url
        self._algorithms = algorithms
        self._clock = clock
        self._keys: dict[str | None, dict[str, Any]] = {}
        self._loaded_at: float | None = None
        self._not_before = float("-inf")
        self._wanted_ids: set[str] = set()
        self._loading: asyncio.Task[None] | None = None
        local = is_loopback(urlsplit(url).hostname or "")
        # Made here, since reading the system's certificates takes a moment.
        self._client = httpx.AsyncClient(
            timeout=FETCH_SECONDS,
            follow_redirects=False,
            trust_env=not local,  # a proxy is for the world outside
            verify=not url.startswith("http:"),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        )

    async def close(self) -> None:
        """Stop what is being fetched."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        await self._client.aclose()

    async def find(self, key_id: str | None, algorithm: str) -> Any | None:
        """The public key of that id for that algorithm; None when the set has none, as far as is known.

        A token without a key id is judged by the only key that fits, if there is just one. A known key is there at
        once; for an unknown id the set is fetched anew, by one request for all who wait, and not during the cooldown.
        Raises Problem ``timeout`` while no set could be had at all: then nothing can be said of any token.
        """
        is_old = self._loaded_at is None or self._clock() - self._loaded_at >= LIFETIME_SECONDS
        is_known = key_id in self._keys if key_id is not None else bool(self._keys)
        if is_known:
            if is_old:
                self._load_in_background()
        elif loading := self._load_in_background():
            if key_id is not None:
                self._wanted_ids.add(key_id)
            await asyncio.shield(loading)  # it goes on for the others when this caller leaves
        if self._loaded_at is None:
            again = max(1, math.ceil(self._not_before - self._clock()))
            detail = "The keys of the token's issuer can't be had at the moment."
            raise Problem("timeout", detail, headers={"Retry-After": str(again)})
        if key_id is not None:
            return self._keys.get(key_id, {}).get(algorithm)
        fitting = [keys[algorithm] for keys in self._keys.values() if algorithm in keys]
        return fitting[0] if len(fitting) == 1 else None

    def _load_in_background(self) -> "asyncio.Task[None] | None":
        """The attempt under way, or a new one; None during the cooldown."""
        if self._loading is None and self._clock() >= self._not_before:
            self._loading = asyncio.create_task(self._load())
        return self._loading

    async def _load(self) -> None:
        try:
            self._keys = await self._fetch()
            self._loaded_at = self._clock()
            if not self._wanted_ids <= self._keys.keys():
                self._not_before = self._loaded_at + COOLDOWN_SECONDS
        except Exception as error:  # noqa: BLE001 - whatever an answer brings about, it was an attempt that failed
            first = self._loaded_at is None
            self._not_before = self._clock() + (FIRST_COOLDOWN_SECONDS if first else COOLDOWN_SECONDS)
            reason = str(error) if isinstance(error, FetchError) else repr(error)
            fields = {"url": self.url, "reason": reason, "keys_known": len(self._keys)}
            log.warning("key_set_unavailable", extra=fields)
        finally:
            self._wanted_ids.clear()
            self._loading = None

    async def _fetch(self) -> dict[str | None, dict[str, Any]]:
        body = b""
        try:
            async with asyncio.timeout(FETCH_SECONDS), self._client.stream("GET", self.url) as answer:
                if answer.status_code != 200:
                    raise FetchError(f"status {answer.status_code}")
                if answer.headers.get("content-encoding", "identity") != "identity":
                    raise FetchError("compressed, which was not asked for")
                async for chunk in answer.aiter_raw():
                    body += chunk
                    if len(body) > SET_BYTES:
                        raise FetchError(f"more than {SET_BYTES} bytes")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError) as error:
            raise FetchError(str(error) or type(error).__name__) from error
        try:
            found = read_keys(msgspec.json.decode(body, type=_Document).keys, self._algorithms)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise FetchError(f"no key set: {error}") from error
        if not found:
            raise FetchError(f"no key for {', '.join(self._algorithms)} in it")
        return found


def read_keys(entries: Sequence[Any], algorithms: Sequence[str]) -> dict[str | None, dict[str, Any]]:
    """By key id, what a key can be used with. What isn't a public key for signatures of these algorithms is left out.

    Of two entries with one id and one algorithm the first counts.
    """
    found: dict[str | None, dict[str, Any]] = {}
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        jwk = cast("dict[str, Any]", entry)
        key_id = jwk.get("kid")
        if key_id is not None and not isinstance(key_id, str):
            continue
        for algorithm in _algorithms(jwk):
            if algorithm in algorithms and algorithm not in found.get(key_id, {}):
                try:
                    found.setdefault(key_id, {})[algorithm] = _public_key(jwk, algorithm)
                except _UNUSABLE:
                    break
    return {key_id: keys for key_id, keys in found.items() if keys}


def _algorithms(jwk: dict[str, Any]) -> Sequence[str]:
    """What the key may be used with, by its type, its curve and what it says of itself."""
    kind, curve, operations = jwk.get("kty"), jwk.get("crv"), jwk.get("key_ops", ["verify"])
    if not isinstance(kind, str) or not isinstance(curve, str | None):
        return ()
    if "d" in jwk or jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return ()
    fitting = _ALGORITHMS_OF.get((kind, curve), ())
    if (only := jwk.get("alg")) is None:
        return fitting
    return [algorithm for algorithm in fitting if algorithm == ("EdDSA" if only == "Ed25519" else only)]


def _public_key(jwk: dict[str, Any], algorithm: str) -> Any:
    key: Any = jwt.PyJWK(jwk, algorithm=algorithm).key
    if jwk["kty"] == "RSA" and key.key_size not in RSA_BITS:
        raise ValueError("too short or too long")
    return key
