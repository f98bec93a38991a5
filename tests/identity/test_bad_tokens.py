"""Tokens that must not be taken, by a service with local accounts and three outside issuers: every one a 401.

The service knows a key set (``MAIN``, which also shows keys that must not be used), another key set (``OTHER``), and a
shared secret whose tokens carry neither iss nor aud (``SHARED``).
"""

import asyncio
import base64
import dataclasses
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import event, given, settings
from hypothesis import strategies as st

from service.identity.issuers import Issuer
from service.identity.tokens import Tokens, parse_token
from service.problems import Problem
from service.settings import IssuerSettings, Secret
from tests.conftest import PASSWORD, PLAIN_HTTP, Server
from tests.support.jwks_server import JwksServer, Key, base64url, claims, encoded, jwks_server, sign
from tests.support.problems import problem

MAIN = "https://accounts.example.com"
OTHER = "https://other.example.com"
AUDIENCE = "https://todos.example.com"
LOCAL = "todochat"
NOBODY = "nobody"
"""The subject of every bad token: no user may come of it."""


@dataclasses.dataclass
class World:
    """A service, the keys it trusts and those it must not, and somebody who is known to it."""

    service: Server
    eddsa: Key
    es256: Key
    rs256: Key
    other: Key
    encryption: Key
    weak: Key
    unlisted: Key
    attacker: Key
    trap: JwksServer
    """Nobody may ever ask it for keys."""
    local_secret: str
    shared_secret: str
    published_secret: bytes
    local_user: UUID
    local_refresh_token: str

    def claims(self, **changes: object) -> dict[str, Any]:
        return claims(MAIN, NOBODY, **{"aud": AUDIENCE, **changes})

    def token(self, **changes: object) -> str:
        """A sound token of MAIN but for these changes of its claims."""
        return self.eddsa.sign(self.claims(**changes))

    def raw(self, payload: str | bytes, **header: object) -> str:
        """A token of MAIN with this payload, which need not be JSON."""
        return self.eddsa.sign(payload if isinstance(payload, bytes) else payload.encode(), **header)

    def edited(self, old: str, new: str) -> str:
        """A token of MAIN whose payload was edited as text before it was signed."""
        text = json.dumps(self.claims())
        assert old in text
        return self.raw(text.replace(old, new))

    def shared(self, *, key: str | bytes = b"", algorithm: str = "HS256", **changes: object) -> str:
        """A token by the shared secret, without iss and aud."""
        content = claims("", NOBODY, **{"iss": ..., "aud": ..., **changes})
        key = key or self.shared_secret
        key = key.encode() if isinstance(key, str) else key
        return sign(algorithm, key, content, {"alg": algorithm, "typ": "JWT"})

    def local(self, *, key: str = "", header: dict[str, object] | None = None, **changes: object) -> str:
        """A token as the service itself signs them."""
        content = claims(LOCAL, str(self.local_user), **{"ver": 1, **changes})
        members = {"alg": "HS256", "typ": "at+jwt", **(header or {})}
        return sign("HS256", (key or self.local_secret).encode(), content, members)

    def by_hmac(self, key: bytes, **header: object) -> str:
        """The confusion of algorithms: what is public is taken for a secret. PyJWT would refuse to sign so."""
        head = {"alg": "HS256", "kid": self.rs256.kid, **header}
        message = f"{encoded(head)}.{encoded(self.claims())}"
        return f"{message}.{base64url(hmac.digest(key, message.encode(), hashlib.sha256))}"


@pytest.fixture(scope="module")
def world(start_module_server: Callable[..., Server]) -> Iterator[World]:
    eddsa, es256, rs256, other = Key("EdDSA"), Key("ES256"), Key("RS256"), Key("EdDSA")
    encryption, weak, unlisted = Key("EdDSA"), Key("RS256", bits=1024), Key("ES384")
    encryption.jwk["use"] = "enc"
    other.kid = other.jwk["kid"] = eddsa.kid  # key ids are an issuer's own: two may have the same
    published = Key("EdDSA", kid="published")
    published_secret = secrets.token_bytes(32)
    published.jwk = {"kty": "oct", "kid": "published", "alg": "HS256", "k": base64url(published_secret)}
    with (
        jwks_server(eddsa, es256, rs256, encryption, weak, unlisted, published) as main,
        jwks_server(other) as second,
        jwks_server() as trap,
    ):
        attacker = Key("EdDSA")
        trap.keys.append(attacker)
        local_secret, shared_secret = secrets.token_hex(32), secrets.token_urlsafe(32)
        service = start_module_server(
            JWT_SECRET=local_secret,
            ISSUER=MAIN,
            ISSUER_JWKS_URL=main.url,
            ISSUER_AUDIENCE=AUDIENCE,
            ISSUER_2=OTHER,
            ISSUER_2_JWKS_URL=second.url,
            ISSUER_3="https://shared.example.com",
            ISSUER_3_SECRET=shared_secret,
            ISSUER_3_ABSENT_CLAIMS="iss,aud",
        )
        account = {"email": f"{secrets.token_hex(6)}@example.com", "password": PASSWORD}
        with httpx.Client(base_url=service.url, timeout=10, verify=PLAIN_HTTP) as client:
            registered = client.post("/v1/auth/register", json=account)
            assert registered.status_code == 201, registered.text
            user = UUID(registered.json()["id"])
        refresh = Tokens(local_secret, None, 900, 3600).issue(user, 1).refresh_token
        yield World(
            service, eddsa, es256, rs256, other, encryption, weak, unlisted, attacker, trap,
            local_secret, shared_secret, published_secret, user, refresh,
        )  # fmt: skip
        assert trap.fetches == 0
        assert main.fetches <= 3
        assert second.fetches <= 3


@pytest.fixture(scope="module")
def client(world: World) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=world.service.url, timeout=10, verify=PLAIN_HTTP) as found:
        yield found


def get_me(client: httpx.Client, token: str | bytes) -> httpx.Response:
    token = token if isinstance(token, bytes) else token.encode()
    return client.get("/v1/users/me", headers=[(b"authorization", b"Bearer " + token)])


def people(world: World) -> tuple[int, int]:
    """How many users and identities there are, and that none is of the subjects of bad tokens."""
    with psycopg.connect(world.service.database.superuser_url) as connection:
        query = "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM identities)"
        return connection.execute(query).fetchall()[0]


def flipped(token: str, place: int) -> str:
    """The token with another character at this place, of the same alphabet."""
    place %= len(token)
    return token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]


def respelled(token: str) -> str:
    """The same token, with a last character that stands for the same bits: most decoders read it like the first."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]
    signature, again = (base64.urlsafe_b64decode(f"{found.split('.')[2]}==") for found in (token, other))
    assert signature == again
    return other


def without_signature(token: str, **header: object) -> str:
    return f"{encoded(header)}.{token.split('.')[1]}."


def in_der(world: World) -> str:
    """An ECDSA signature as OpenSSL writes it, not as RFC 7518 does."""
    head, payload, signature = world.es256.sign(world.claims()).split(".")
    raw = base64.urlsafe_b64decode(f"{signature}==")
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    return f"{head}.{payload}.{base64url(der)}"


def pem(key: Key) -> bytes:
    return key.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def hour_from_now() -> int:
    return int(time.time()) + 3600


BAD: dict[str, Callable[[World], str | bytes]] = {
    # No algorithm
    "alg none": lambda w: without_signature(w.token(), alg="none"),
    "alg None": lambda w: without_signature(w.token(), alg="None"),
    "alg NONE with a key id": lambda w: without_signature(w.token(), alg="NONE", kid=w.eddsa.kid),
    "alg none, of the shared secret": lambda w: without_signature(w.shared(), alg="none"),
    "alg none, local": lambda w: without_signature(w.local(), alg="none", typ="at+jwt"),
    "alg none over a true signature": lambda w: w.eddsa.sign(w.claims(), alg="none"),
    "alg empty": lambda w: w.eddsa.sign(w.claims(), alg=""),
    "alg absent": lambda w: w.eddsa.sign(w.claims(), alg=...),
    "alg null": lambda w: w.eddsa.sign(w.claims(), alg=None),
    "alg a number": lambda w: w.eddsa.sign(w.claims(), alg=256),
    "alg a list": lambda w: w.eddsa.sign(w.claims(), alg=["EdDSA"]),
    "alg in lower case": lambda w: w.eddsa.sign(w.claims(), alg="eddsa"),
    # Another algorithm
    "HS256 by the PEM of the RSA key": lambda w: w.by_hmac(pem(w.rs256)),
    "HS256 by the PEM without its last newline": lambda w: w.by_hmac(pem(w.rs256).strip()),
    "HS256 by the modulus of the RSA key": lambda w: w.by_hmac(w.rs256.jwk["n"].encode()),
    "HS256 by the JWK of the RSA key": lambda w: w.by_hmac(json.dumps(w.rs256.jwk).encode()),
    "HS256 by the PEM of the Ed25519 key": lambda w: w.by_hmac(pem(w.eddsa), kid=w.eddsa.kid),
    "HS256 by the bytes of the Ed25519 key": lambda w: w.by_hmac(
        w.eddsa.private.public_key().public_bytes_raw(), kid=w.eddsa.kid
    ),
    "HS256 by nothing": lambda w: w.by_hmac(b""),
    "HS256 by a key that the key set shows": lambda w: w.by_hmac(w.published_secret, kid="published"),
    "HS256 of the key set's issuer by the shared secret": lambda w: w.by_hmac(w.shared_secret.encode()),
    "HS256 of the key set's issuer by the local secret": lambda w: w.by_hmac(w.local_secret.encode()),
    "HS384 by the shared secret": lambda w: w.shared(algorithm="HS384"),
    "HS512 by the shared secret": lambda w: w.shared(algorithm="HS512"),
    "PS256 by the RSA key": lambda w: sign("PS256", w.rs256.private, w.claims(), {"alg": "PS256", "kid": w.rs256.kid}),
    "RS512 by the RSA key": lambda w: sign("RS512", w.rs256.private, w.claims(), {"alg": "RS512", "kid": w.rs256.kid}),
    "ES384, which the issuer isn't to use": lambda w: w.unlisted.sign(w.claims()),
    "EdDSA that says ES256": lambda w: w.eddsa.sign(w.claims(), alg="ES256"),
    "EdDSA with the key id of the RSA key": lambda w: w.eddsa.sign(w.claims(), kid=w.rs256.kid),
    "RS256 with the key id of the Ed25519 key": lambda w: w.rs256.sign(w.claims(), kid=w.eddsa.kid),
    "ES256 in DER": in_der,
    # Another key
    "unknown key id": lambda w: w.attacker.sign(w.claims()),
    "known key id, unknown key": lambda w: w.attacker.sign(w.claims(), kid=w.eddsa.kid),
    "no key id where there are several": lambda w: w.attacker.sign(w.claims(), kid=...),
    "key id empty": lambda w: w.eddsa.sign(w.claims(), kid=""),
    "key id a number": lambda w: w.eddsa.sign(w.claims(), kid=1),
    "key id null, key unknown": lambda w: w.attacker.sign(w.claims(), kid=None),
    "key id an object": lambda w: w.eddsa.sign(w.claims(), kid={"kid": w.eddsa.kid}),
    "key id a path": lambda w: w.by_hmac(b"", kid="../../../../dev/null"),
    "key id a statement": lambda w: w.attacker.sign(w.claims(), kid="' OR 1=1; --"),
    "key id of 2,000 characters": lambda w: w.attacker.sign(w.claims(), kid="k" * 2000),
    "the other issuer's key under the same key id": lambda w: w.other.sign(w.claims()),
    "the other issuer named, this one's key": lambda w: w.eddsa.sign(claims(OTHER, NOBODY)),
    "a key of its own in the header": lambda w: w.attacker.sign(w.claims(), kid=..., jwk=w.attacker.jwk),
    "a key of its own under a known id": lambda w: w.attacker.sign(w.claims(), kid=w.eddsa.kid, jwk=w.attacker.jwk),
    "a key set of its own": lambda w: w.attacker.sign(w.claims(), jku=w.trap.url),
    "a certificate of its own": lambda w: w.attacker.sign(w.claims(), x5u=w.trap.url, x5c=["MIIB"]),
    "a key for encryption": lambda w: w.encryption.sign(w.claims()),
    "an RSA key of 1,024 bits": lambda w: w.weak.sign(w.claims()),
    "another shared secret": lambda w: w.shared(key=secrets.token_hex(32)),
    "the shared secret by the local one": lambda w: w.shared(key=w.local_secret),
    # Header
    "a critical member nobody knows": lambda w: w.eddsa.sign(w.claims(), crit=["exp"]),
    "a payload that isn't encoded": lambda w: w.eddsa.sign(w.claims(), crit=["b64"], b64=False),
    "compressed": lambda w: w.eddsa.sign(w.claims(), zip="DEF", crit=["zip"]),
    "typ of a refresh token": lambda w: w.eddsa.sign(w.claims(), typ="rt+jwt"),
    "typ of Better Auth's session cookie": lambda w: w.eddsa.sign(w.claims(), typ="better-auth.session-cache+jwt"),
    "typ of a logout": lambda w: w.eddsa.sign(w.claims(), typ="logout+jwt"),
    "typ a number": lambda w: w.eddsa.sign(w.claims(), typ=1),
    "typ empty": lambda w: w.eddsa.sign(w.claims(), typ=""),
    "header a list": lambda w: sign("EdDSA", w.eddsa.private, w.claims(), b'["EdDSA"]'),
    "header not JSON": lambda w: sign("EdDSA", w.eddsa.private, w.claims(), b"alg=EdDSA"),
    "header not UTF-8": lambda w: sign("EdDSA", w.eddsa.private, w.claims(), b'{"alg": "\xff"}'),
    "header nested 1,000 deep": lambda w: sign("EdDSA", w.eddsa.private, w.claims(), b"[" * 1000),
    "alg twice": lambda w: sign(
        "EdDSA", w.eddsa.private, w.claims(), f'{{"alg":"none","kid":"{w.eddsa.kid}","alg":"EdDSA"}}'.encode()
    ),
    "key id twice": lambda w: sign(
        "EdDSA", w.eddsa.private, w.claims(), f'{{"alg":"EdDSA","kid":"x","kid":"{w.eddsa.kid}"}}'.encode()
    ),
    # exp
    "exp absent": lambda w: w.token(exp=...),
    "exp absent, by the shared secret": lambda w: w.shared(exp=...),
    "exp absent, local": lambda w: w.local(exp=...),
    "exp null": lambda w: w.token(exp=None),
    "exp a text": lambda w: w.token(exp=str(hour_from_now())),
    "exp a date": lambda w: w.token(exp="2099-01-01T00:00:00Z"),
    "exp a fraction": lambda w: w.token(exp=hour_from_now() + 0.5),
    "exp true": lambda w: w.token(exp=True),
    "exp a list": lambda w: w.token(exp=[hour_from_now()]),
    "exp in the year 9000": lambda w: w.token(exp=221_845_392_000),
    "exp in the year 9000, by the shared secret": lambda w: w.shared(exp=221_845_392_000),
    "exp in the year 9000, local": lambda w: w.local(exp=221_845_392_000),
    "sub of half a surrogate pair, local": lambda w: w.local(sub="\ud800"),
    "exp of 4,000 digits": lambda w: w.edited('"exp": ', '"exp": ' + "9" * 4000),
    "exp of 5,000 digits": lambda w: w.raw('{"exp": ' + "9" * 5000 + "}"),
    "exp infinite": lambda w: w.token(exp=float("inf")),
    "exp not a number": lambda w: w.token(exp=float("nan")),
    "exp 1e400": lambda w: w.edited('"exp": ', '"exp": 1e400, "x": '),
    "exp negative": lambda w: w.token(exp=-1),
    "exp beyond 64 bits": lambda w: w.token(exp=2**64),
    "exp passed": lambda w: w.token(iat=int(time.time()) - 1000, exp=int(time.time()) - 100),
    "exp passed, by the shared secret": lambda w: w.shared(iat=int(time.time()) - 1000, exp=int(time.time()) - 100),
    "exp before iat": lambda w: w.token(iat=int(time.time()) + 30, exp=int(time.time()) + 20),
    "a life of a year": lambda w: w.token(exp=int(time.time()) + 365 * 86_400),
    "a life of a year, by the shared secret": lambda w: w.shared(exp=int(time.time()) + 365 * 86_400),
    # iat and nbf
    "iat absent": lambda w: w.token(iat=...),
    "iat a text": lambda w: w.token(iat=str(int(time.time()))),
    "iat a fraction": lambda w: w.token(iat=time.time()),
    "iat null": lambda w: w.token(iat=None),
    "iat negative": lambda w: w.token(iat=-1),
    "issued in an hour": lambda w: w.token(iat=hour_from_now(), exp=hour_from_now() + 900),
    "issued in the year 9000": lambda w: w.token(iat=221_845_392_000, exp=221_845_392_900),
    "not valid before an hour from now": lambda w: w.token(nbf=hour_from_now(), exp=hour_from_now() + 900),
    "not valid yet, by the shared secret": lambda w: w.shared(nbf=hour_from_now(), exp=hour_from_now() + 900),
    "nbf a text": lambda w: w.token(nbf="0"),
    "nbf beyond 64 bits": lambda w: w.token(nbf=2**70),
    # sub
    "sub absent": lambda w: w.token(sub=...),
    "sub empty": lambda w: w.token(sub=""),
    "sub empty, by the shared secret": lambda w: w.shared(sub=""),
    "sub empty, local": lambda w: w.local(sub=""),
    "sub null": lambda w: w.token(sub=None),
    "sub a number": lambda w: w.token(sub=7),
    "sub a list": lambda w: w.token(sub=[NOBODY]),
    "sub an object": lambda w: w.token(sub={"id": NOBODY}),
    "NUL in sub": lambda w: w.token(sub="nobody\0"),
    "NUL in sub, by the shared secret": lambda w: w.shared(sub="\0"),
    "half a surrogate pair in sub": lambda w: w.edited(f'"{NOBODY}"', '"\\ud800"'),
    "sub of 256 characters": lambda w: w.token(sub="s" * 256),
    "sub of 4,000 characters": lambda w: w.token(sub="s" * 4000),
    "somebody else's sub, local": lambda w: w.local(sub=NOBODY),
    "an unknown user, local": lambda w: w.local(sub="01890000-0000-7000-8000-000000000000"),
    # iss
    "iss absent": lambda w: w.token(iss=...),
    "iss unknown": lambda w: w.token(iss="https://evil.example.com"),
    "iss with a slash more": lambda w: w.token(iss=f"{MAIN}/"),
    "iss in upper case": lambda w: w.token(iss=MAIN.upper()),
    "iss with a space": lambda w: w.token(iss=f"{MAIN} "),
    "iss a list": lambda w: w.token(iss=[MAIN]),
    "iss null": lambda w: w.token(iss=None),
    "iss empty": lambda w: w.token(iss=""),
    "iss an object": lambda w: w.token(iss={MAIN: MAIN}),
    "iss of the service by an outside key": lambda w: w.token(iss=LOCAL, aud=LOCAL, ver=1, sub=str(w.local_user)),
    "iss of the shared secret, which carries none": lambda w: w.shared(iss="https://shared.example.com"),
    "iss of the key set by the shared secret": lambda w: w.shared(iss=MAIN, aud=AUDIENCE),
    "iss empty by the shared secret": lambda w: w.shared(iss=""),
    "iss null by the shared secret": lambda w: w.shared(iss=None),
    # aud
    "aud absent": lambda w: w.token(aud=...),
    "aud of somebody else": lambda w: w.token(aud="https://elsewhere.example.com"),
    "aud the issuer, where another is set": lambda w: w.token(aud=MAIN),
    "aud the beginning of ours": lambda w: w.token(aud=AUDIENCE[:-1]),
    "aud null": lambda w: w.token(aud=None),
    "aud an empty list": lambda w: w.token(aud=[]),
    "aud a list of others": lambda w: w.token(aud=[MAIN, OTHER]),
    "aud a list with a number": lambda w: w.token(aud=[AUDIENCE, 1]),
    "aud an object": lambda w: w.token(aud={AUDIENCE: True}),
    "aud carried where none is": lambda w: w.shared(aud=AUDIENCE),
    # Twice
    "sub twice": lambda w: w.edited('"sub"', '"sub": "admin", "sub"'),
    "iss twice": lambda w: w.edited('"iss"', f'"iss": "{OTHER}", "iss"'),
    "iss twice, the last one ours": lambda w: w.edited('"iss"', f'"iss": "{LOCAL}", "iss"'),
    "exp twice": lambda w: w.edited('"exp"', f'"exp": {int(time.time()) + 60}, "exp"'),
    "aud twice": lambda w: w.edited('"aud"', '"aud": "x", "aud"'),
    "sub twice, spelled with an escape": lambda w: w.edited('"sub"', '"\\u0073ub": "admin", "sub"'),
    # Tampered with
    "payload changed": lambda w: flipped(w.token(), len(w.token()) // 2),
    "header changed": lambda w: flipped(w.token(), 12),
    "first character of the signature changed": lambda w: flipped(w.token(), w.token().rindex(".") + 1),
    "last character of the signature respelled": lambda w: respelled(w.token()),
    "last character of the signature respelled, by the shared secret": lambda w: respelled(w.shared()),
    "last character of the signature respelled, local": lambda w: respelled(w.local()),
    "signature cut off by a character": lambda w: w.token()[:-1],
    "signature cut off by four characters": lambda w: w.token()[:-4],
    "signature empty": lambda w: w.token().rpartition(".")[0] + ".",
    "signature of another token": lambda w: w.token().rpartition(".")[0] + "." + w.token(sub="x").rpartition(".")[2],
    "payload of another token": lambda w: ".".join(
        [*w.token().split(".")[:1], w.token(sub="x").split(".")[1], w.token().split(".")[2]]
    ),
    "signature with a stray character": lambda w: w.token() + "!",
    "signature with a stray character within": lambda w: w.token()[:-3] + "*" + w.token()[-3:],
    "signature padded": lambda w: w.token() + "==",
    "signature padded, local": lambda w: w.local() + "=",
    "payload padded": lambda w: w.token().replace(".", "=.", 1),
    "a space within": lambda w: w.token().replace(".", ". ", 1),
    "a tab behind a part": lambda w: w.token().replace(".", "\t.", 1),
    ".bypass behind": lambda w: w.token() + ".bypass",
    ".bypass behind, by the shared secret": lambda w: w.shared() + ".bypass",
    ".bypass behind, local": lambda w: w.local() + ".bypass",
    ".bypass for a signature": lambda w: w.token().rpartition(".")[0] + ".bypass",
    "five parts, as if encrypted": lambda w: f"{w.token()}.AAAA.AAAA",
    "two parts": lambda w: w.token().rpartition(".")[0],
    "one part": lambda w: w.token().partition(".")[0],
    "a dot in front": lambda w: "." + w.token(),
    "dots only": lambda _: "..",
    "in quotation marks": lambda w: f'"{w.token()}"',
    "Bearer twice": lambda w: f"Bearer {w.token()}",
    "two tokens": lambda w: f"{w.token()}, {w.token()}",
    "Latin-1 behind": lambda w: w.token().encode() + b"\xe9",
    # Payload
    "payload empty": lambda w: w.raw(""),
    "payload an empty object": lambda w: w.raw("{}"),
    "payload a list": lambda w: w.raw(json.dumps([w.claims()])),
    "payload a text": lambda w: w.raw('"payload"'),
    "payload a number": lambda w: w.raw("1"),
    "payload null": lambda w: w.raw("null"),
    "payload not JSON": lambda w: w.raw("sub=nobody"),
    "payload not UTF-8": lambda w: w.raw(json.dumps(w.claims()).encode()[:-1] + b',"x":"\xff"}'),
    "payload in UTF-16": lambda w: w.raw(json.dumps(w.claims()).encode("utf-16")),
    "payload with something behind": lambda w: w.raw(json.dumps(w.claims()) + "{}"),
    "payload nested 1,000 deep": lambda w: w.raw(json.dumps(w.claims())[:-1] + ',"x":' + "[" * 1000 + "]" * 1000 + "}"),
    "payload nested 1,000 deep and unfinished": lambda w: w.raw("[" * 1000),
    # No JWT at all, or none of ours
    "an opaque session token": lambda _: secrets.token_urlsafe(24),
    "a UUID": lambda w: str(w.local_user),
    "null": lambda _: "null",
    "undefined": lambda _: "undefined",
    "a password": lambda _: "user:password",
    "JSON": lambda w: json.dumps(w.claims()),
    "a refresh token": lambda w: w.local_refresh_token,
    "local, of another typ": lambda w: w.local(header={"typ": "JWT"}),
    "local, without ver": lambda w: w.local(ver=...),
    "local, with a ver that never was": lambda w: w.local(ver=2),
    "local, another secret": lambda w: w.local(key=secrets.token_hex(32)),
    "local, by the shared secret": lambda w: w.local(key=w.shared_secret),
    "local, of another audience": lambda w: w.local(aud=MAIN),
    "local, without iss": lambda w: w.local(iss=...),
    "16,000 characters": lambda w: w.token(x="x" * 12_000),
    "30,000 dots": lambda _: "." * 30_000,
}

EXPIRED = {"exp negative", "exp passed", "exp passed, by the shared secret"}

GOOD: dict[str, Callable[[World], str]] = {
    "EdDSA": lambda w: w.token(sub="good"),
    "ES256": lambda w: w.es256.sign(w.claims(sub="good")),
    "RS256": lambda w: w.rs256.sign(w.claims(sub="good")),
    "typ JWT": lambda w: w.eddsa.sign(w.claims(sub="good"), typ="JWT"),
    "typ at+jwt": lambda w: w.eddsa.sign(w.claims(sub="good"), typ="at+jwt"),
    "our audience among others": lambda w: w.token(sub="good", aud=[MAIN, AUDIENCE]),
    "valid since a minute": lambda w: w.token(sub="good", nbf=int(time.time()) - 60),
    "a clock that is half a minute fast": lambda w: w.token(sub="good", iat=int(time.time()) + 30),
    "a day's life": lambda w: w.token(sub="good", exp=int(time.time()) + 86_000),
    "other claims": lambda w: w.token(sub="good", azp="x", scope=["a"], nested={"iss": "x", "sub": {"sub": 1}}),
    "another person by the same issuer": lambda w: w.token(sub="good, too"),
    "a subject in any script": lambda w: w.token(sub="użytkownik/1|🐟 '\"\\;--"),
    "a subject of 255 characters": lambda w: w.token(sub="ż" * 255),
    "the other issuer": lambda w: w.other.sign(claims(OTHER, "good")),
    "the shared secret": lambda w: w.shared(sub="good"),
    "local": lambda w: w.local(),
}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
SOON = st.integers(-100_000, 100_000).map(lambda seconds: int(time.time()) + seconds)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "cty", "crit", "b64", "zip", "jwk"]), JSON_VALUES, max_size=3
    ),
    st.dictionaries(
        st.sampled_from(["iss", "aud", "sub", "iat", "exp", "nbf", "email", "name"]), JSON_VALUES | SOON, max_size=4
    ),
)
def test_whatever_an_issuer_signs_is_refused_or_safe(header: dict[str, Any], changes: dict[str, Any]) -> None:
    """It never fails in another way, and what is let through the database can keep."""
    secret = "an-example-secret-of-32-bytes-or-more"
    issuer = Issuer(IssuerSettings(name=MAIN, audience=AUDIENCE, secret=Secret(secret)))
    content = {**claims(MAIN, "somebody", aud=AUDIENCE), **changes}
    text = sign("HS256", secret.encode(), content, {"alg": "HS256", **header})
    try:
        found = asyncio.run(issuer.judge(parse_token(text.encode())))
    except Problem as refused:
        event(f"refused: {refused.code}")
        if refused.code in {"invalid_token", "token_expired"}:
            return
        raise
    event("taken")
    assert (found.issuer, found.subject) == (content["iss"], content["sub"]) == (MAIN, found.subject)
    assert content["aud"] == AUDIENCE or AUDIENCE in content["aud"]
    assert 1 <= len(found.subject) <= 255
    assert found.issued_at - 60 <= time.time() < found.expires_at <= found.issued_at + 7 * 86_400
    for kept in (found.subject, found.email or "", found.full_name or ""):
        assert "\0" not in kept
        kept.encode()
    assert len(found.email or "") <= 255
    assert len(found.full_name or "") <= 200


def test_every_bad_token_is_a_401_and_makes_nobody(world: World, client: httpx.Client) -> None:
    before = people(world)
    wrong = dict[str, str]()
    for name, make in BAD.items():
        token = make(world)
        # Twice: what was refused must not be remembered as what was taken, nor the other way round.
        for _ in range(2):
            answer = get_me(client, token)
            try:
                problem(answer, 401, "token_expired" if name in EXPIRED else "invalid_token")
            except AssertionError:
                wrong[name] = f"{answer.status_code} {answer.text}"
        if (found := people(world)) != before:
            wrong[name] = "made somebody"
            before = found
    assert wrong == {}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_token_is_taken(world: World, client: httpx.Client, name: str) -> None:
    """The matrix above would be green, too, if nothing worked."""
    answer = get_me(client, GOOD[name](world))
    assert answer.status_code == 200, answer.text


def test_good_tokens_of_one_person_are_one_user_and_of_two_issuers_are_two(world: World, client: httpx.Client) -> None:
    ids = {name: get_me(client, make(world)).json()["id"] for name, make in GOOD.items()}
    same = {ids[name] for name in ("EdDSA", "ES256", "RS256", "typ JWT", "our audience among others")}
    assert len(same) == 1
    apart = [ids[name] for name in ("EdDSA", "another person by the same issuer", "the other issuer")]
    apart += [ids[name] for name in ("the shared secret", "local", "a subject of 255 characters")]
    assert len(set(apart)) == len(apart)


def test_a_token_of_a_megabyte_is_refused_unread(world: World, client: httpx.Client) -> None:
    """The limit of all headers together comes first, and has a status of its own (RFC 6585)."""
    problem(get_me(client, world.token(x="x" * 750_000)), 431, "headers_too_large")
    assert get_me(client, GOOD["EdDSA"](world)).status_code == 200


def test_an_empty_token_is_no_token(client: httpx.Client) -> None:
    for header in ("Bearer", "bearer", "Basic dXNlcjpwYXNzd29yZA==", "Token x", ""):
        answer = client.get("/v1/users/me", headers={"Authorization": header})
        assert answer.status_code == 401, header
        assert answer.json()["code"] in {"unauthenticated", "invalid_token"}


def test_a_token_counts_in_the_header_only(world: World, client: httpx.Client) -> None:
    token = GOOD["EdDSA"](world)
    problem(
        client.get("/v1/users/me", headers={"Cookie": f"access_token={token}; token={token}"}), 401, "unauthenticated"
    )
    problem(client.get("/v1/users/me", headers={"X-Authorization": f"Bearer {token}"}), 401, "unauthenticated")


def test_two_authorization_headers_are_refused(world: World, client: httpx.Client) -> None:
    """Whoever stands in front may have looked at the other one."""
    good, bad = GOOD["EdDSA"](world), BAD["unknown key id"](world)
    for pair in ((good, bad), (bad, good), (good, GOOD["local"](world))):
        answer = client.get("/v1/users/me", headers=[("Authorization", f"Bearer {token}") for token in pair])
        assert answer.status_code in {400, 401}, answer.text


@pytest.mark.parametrize("name", ["EdDSA", "the shared secret"])
def test_an_outside_token_is_no_refresh_token(world: World, client: httpx.Client, name: str) -> None:
    answer = client.post("/v1/auth/refresh", json={"refresh_token": GOOD[name](world)})
    problem(answer, 401, "invalid_token")


def test_nothing_of_a_bad_token_is_logged(world: World, client: httpx.Client) -> None:
    """Neither the token nor its claims; and what was refused is no error of the service's."""
    mark = secrets.token_hex(8)
    for token in (world.token(sub=mark, aud="x"), world.attacker.sign(world.claims(sub=mark, jti=mark))):
        assert get_me(client, token).status_code == 401
        assert token not in world.service.log()
    log = world.service.log()
    assert mark not in log
    assert "Traceback" not in log
    assert '"level":"error"' not in log.replace(" ", "")
