"""The key set of an outside issuer: when it is fetched, what is kept, and which keys of it are used for what."""

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed448
from jwt.algorithms import OKPAlgorithm

from service.identity import key_set
from service.identity.key_set import COOLDOWN_SECONDS, FIRST_COOLDOWN_SECONDS, LIFETIME_SECONDS, KeySet, read_keys
from service.problems import Problem
from service.settings import DEFAULT_ALGORITHMS, KEY_SET_ALGORITHMS
from tests.support.jwks_server import JwksServer, Key, jwks_server

FIRST, SECOND = Key("EdDSA", kid="first"), Key("EdDSA", kid="second")
RSA = Key("RS256", kid="rsa")


@pytest.fixture
def issuer() -> Iterator[JwksServer]:
    with jwks_server(FIRST) as server:
        yield server


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(issuer: JwksServer, test: Callable[[KeySet, Clock], Awaitable[None]]) -> None:
    async def whole() -> None:
        clock = Clock()
        keys = KeySet(issuer.url, DEFAULT_ALGORITHMS, clock)
        try:
            await test(keys, clock)
        finally:
            await keys.close()

    asyncio.run(whole())


async def settled(keys: KeySet) -> None:
    """Wait for what goes on in the background."""
    if keys._loading is not None:
        await asyncio.wait([keys._loading])


async def asked(issuer: JwksServer) -> None:
    """Wait until the issuer, which is a thread of its own, has been asked."""
    while not issuer.fetches:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


# When it is fetched


def test_nothing_is_fetched_before_a_token_comes_and_a_known_key_is_not_fetched_again(issuer: JwksServer) -> None:
    async def test(keys: KeySet, clock: Clock) -> None:
        await asyncio.sleep(0)
        assert issuer.fetches == 0
        for _ in range(3):
            assert await keys.find("first", "EdDSA") is not None
            clock.now += LIFETIME_SECONDS / 4
        assert issuer.fetches == 1

    run(issuer, test)


def test_an_old_set_is_renewed_in_the_background_and_a_key_that_was_taken_away_ends(issuer: JwksServer) -> None:
    async def test(keys: KeySet, clock: Clock) -> None:
        assert await keys.find("first", "EdDSA") is not None
        issuer.keys[:] = [SECOND]
        clock.now += LIFETIME_SECONDS
        with issuer.stalled():
            assert await asyncio.wait_for(keys.find("first", "EdDSA"), 1) is not None
        await settled(keys)
        assert issuer.fetches == 2
        assert await keys.find("second", "EdDSA") is not None
        assert await keys.find("first", "EdDSA") is None

    run(issuer, test)


def test_while_the_issuer_fails_old_keys_stay_and_it_is_asked_once_a_cooldown(issuer: JwksServer) -> None:
    async def test(keys: KeySet, clock: Clock) -> None:
        assert await keys.find("first", "EdDSA") is not None
        issuer.answer(status=500)
        clock.now += 10 * LIFETIME_SECONDS
        for _ in range(3):
            fetches = issuer.fetches
            for _ in range(5):
                assert await keys.find("first", "EdDSA") is not None
                assert await keys.find("unknown", "EdDSA") is None
                await settled(keys)
            assert issuer.fetches == fetches + 1
            clock.now += COOLDOWN_SECONDS
        issuer.answer()
        issuer.keys.append(SECOND)
        assert await keys.find("second", "EdDSA") is not None

    run(issuer, test)


def test_an_attempt_for_a_key_that_it_did_not_bring_starts_the_cooldown(issuer: JwksServer) -> None:
    async def test(keys: KeySet, clock: Clock) -> None:
        assert await keys.find("first", "EdDSA") is not None
        assert await keys.find("second", "EdDSA") is None
        assert issuer.fetches == 2
        issuer.keys.append(SECOND)
        clock.now += COOLDOWN_SECONDS - 1
        assert await keys.find("second", "EdDSA") is None
        assert issuer.fetches == 2
        clock.now += 1
        assert await keys.find("second", "EdDSA") is not None
        assert issuer.fetches == 3

    run(issuer, test)


def test_an_attempt_that_brought_the_key_starts_none(issuer: JwksServer) -> None:
    async def test(keys: KeySet, _: Clock) -> None:
        for key in (FIRST, SECOND, Key("EdDSA", kid="third")):
            issuer.keys[:] = [key]
            assert await keys.find(key.kid, "EdDSA") is not None
        assert issuer.fetches == 3

    run(issuer, test)


def test_a_known_key_asked_for_with_another_algorithm_is_none_and_fetches_nothing(issuer: JwksServer) -> None:
    async def test(keys: KeySet, _: Clock) -> None:
        assert await keys.find("first", "EdDSA") is not None
        for algorithm in ("ES256", "RS256", "HS256", "none"):
            assert await keys.find("first", algorithm) is None
        assert issuer.fetches == 1

    run(issuer, test)


def test_without_any_set_nothing_can_be_said_of_a_token_and_the_cooldown_is_short(issuer: JwksServer) -> None:
    async def test(keys: KeySet, clock: Clock) -> None:
        issuer.answer(status=503)
        for _ in range(3):
            with pytest.raises(Problem) as refused:
                await keys.find("first", "EdDSA")
            assert (refused.value.code, refused.value.status) == ("timeout", 503)
            assert refused.value.headers["Retry-After"] == f"{FIRST_COOLDOWN_SECONDS:.0f}"
        assert issuer.fetches == 1
        issuer.answer()
        clock.now += FIRST_COOLDOWN_SECONDS
        assert await keys.find("first", "EdDSA") is not None

    run(issuer, test)


def test_all_who_wait_share_one_request_which_outlives_whoever_made_it(issuer: JwksServer) -> None:
    async def test(keys: KeySet, _: Clock) -> None:
        with issuer.stalled():
            waiting = [asyncio.create_task(keys.find("first", "EdDSA")) for _ in range(50)]
            await asked(issuer)
            waiting[0].cancel()
            await asyncio.wait(waiting[:1])
        assert None not in await asyncio.gather(*waiting[1:])
        assert issuer.fetches == 1

    run(issuer, test)


def test_closing_does_not_wait_for_an_issuer_that_never_answers(issuer: JwksServer) -> None:
    async def test(keys: KeySet, _: Clock) -> None:
        waiting = asyncio.create_task(keys.find("first", "EdDSA"))
        await asked(issuer)
        await asyncio.wait_for(keys.close(), 2)
        waiting.cancel()
        await asyncio.wait([waiting])

    with issuer.stalled():
        run(issuer, test)


def test_a_fetch_that_takes_too_long_is_given_up(issuer: JwksServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_set, "FETCH_SECONDS", 0.05)

    async def test(keys: KeySet, _: Clock) -> None:
        with pytest.raises(Problem, match="timeout"):
            await keys.find("first", "EdDSA")

    with issuer.stalled():
        run(issuer, test)


def answers(document: bytes) -> dict[str, dict[str, Any]]:
    return {
        "not there": {"status": 404, "body": document},
        "no content": {"status": 204, "body": b""},
        "elsewhere": {"status": 302, "body": document, "location": "/keys"},
        "compressed": {"body": gzip.compress(document), "content_encoding": "gzip"},
        "too large": {"body": document[:-1] + b" " * key_set.SET_BYTES + b"}"},
        "cut off": {"body": document[:-10]},
        "no JSON": {"body": b"<html>"},
        "not UTF-8": {"body": b'{"keys": ["\xff"]}'},
        "a list": {"body": b"[" + document + b"]"},
        "no list of keys": {"body": b'{"keys": {"first": 1}}'},
        "no keys": {"body": b'{"keys": []}'},
        "nested": {"body": b'{"keys": ' + b"[" * 20_000 + b"]" * 20_000 + b"}"},
    }


@pytest.mark.parametrize("name", answers(b""))
def test_an_answer_that_is_no_key_set_is_an_attempt_that_failed(issuer: JwksServer, name: str) -> None:
    async def test(keys: KeySet, clock: Clock) -> None:
        assert await keys.find("first", "EdDSA") is not None
        issuer.keys[:] = [FIRST, SECOND]
        issuer.answer(**answers(json.dumps(issuer.document()).encode())[name])
        assert await keys.find("second", "EdDSA") is None
        assert await keys.find("first", "EdDSA") is not None
        assert issuer.fetches == 2
        clock.now += COOLDOWN_SECONDS
        issuer.answer()
        assert await keys.find("second", "EdDSA") is not None

    run(issuer, test)


def test_whatever_goes_wrong_in_an_attempt_is_an_attempt_that_failed(
    issuer: JwksServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(keys: KeySet, clock: Clock) -> None:
        assert await keys.find("first", "EdDSA") is not None
        attempts: list[float] = []

        def fail(*_: object) -> None:
            attempts.append(clock.now)
            raise RuntimeError("out of the blue")

        monkeypatch.setattr(keys._client, "stream", fail)
        for _ in range(3):
            assert await keys.find("second", "EdDSA") is None
            assert await keys.find("first", "EdDSA") is not None
        assert len(attempts) == 1

    run(issuer, test)


# A token without a key id


def test_a_token_without_a_key_id_is_judged_by_the_only_key_that_fits(issuer: JwksServer) -> None:
    async def test(keys: KeySet, clock: Clock) -> None:
        issuer.keys.append(RSA)
        assert await keys.find(None, "EdDSA") is not None
        assert await keys.find(None, "RS256") is not None
        assert await keys.find(None, "ES256") is None
        assert issuer.fetches == 1
        issuer.keys.append(SECOND)
        clock.now += LIFETIME_SECONDS
        await keys.find(None, "EdDSA")
        await settled(keys)
        assert await keys.find(None, "EdDSA") is None
        assert await keys.find(None, "RS256") is not None

    run(issuer, test)


# What is used for what


def algorithms(jwk: dict[str, Any]) -> set[str]:
    """What a key set of this one key can be used with."""
    found = read_keys([jwk], KEY_SET_ALGORITHMS)
    assert len(found) <= 1
    return {name for keys in found.values() for name in keys}


ANY_RSA = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
PUBLIC = {name: Key(name, kid=name).jwk for name in ("EdDSA", "ES256", "ES384", "ES512", "RS256")}


def without(name: str, *members: str, **changes: object) -> dict[str, Any]:
    return {member: value for member, value in PUBLIC[name].items() if member not in members} | changes


@pytest.mark.parametrize(
    ("jwk", "expected"),
    [
        *((PUBLIC[name], {name}) for name in PUBLIC),
        (without("EdDSA", "alg"), {"EdDSA"}),
        (without("EdDSA", alg="Ed25519"), {"EdDSA"}),
        (without("ES384", "alg"), {"ES384"}),
        (without("RS256", "alg"), ANY_RSA),
        (without("RS256", alg="PS512"), {"PS512"}),
        (without("RS256", "kid"), {"RS256"}),
        (without("RS256", use="sig", key_ops=["verify"]), {"RS256"}),
        # The key's type and what it says of itself must fit.
        (without("RS256", alg="ES256"), set()),
        (without("RS256", alg="HS256"), set()),
        (without("RS256", alg="RSA-OAEP"), set()),
        (without("EdDSA", alg="ES256"), set()),
        (without("ES256", alg="ES384"), set()),
        (without("ES256", "alg", crv="P-384"), set()),
        (without("ES256", "alg", crv="secp256k1"), set()),
        (without("ES256", "alg", crv=5), set()),
        (without("RS256", alg=5), set()),
        (without("RS256", "kty"), set()),
        (without("RS256", kty="EC"), set()),
        # Not for signatures
        (without("RS256", use="enc"), set()),
        (without("RS256", key_ops=["encrypt"]), set()),
        (without("RS256", key_ops="verify"), set()),
        # Secrets and private keys in public prove nothing.
        ({"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMzQ", "kid": "x", "alg": "HS256"}, set()),
        ({"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMzQ", "kid": "x"}, set()),
        (json.loads(OKPAlgorithm.to_jwk(FIRST.private)) | {"kid": "x"}, set()),
        # Curves of other purposes
        (json.loads(OKPAlgorithm.to_jwk(ed448.Ed448PrivateKey.generate().public_key())) | {"kid": "x"}, set()),
        (
            {"kty": "OKP", "crv": "X25519", "kid": "x", "x": "A" * 43},
            set(),
        ),
        # Broken
        (without("EdDSA", "x"), set()),
        (without("EdDSA", x="AAAA"), set()),
        (without("EdDSA", x=5), set()),
        (without("ES256", y="A" * 43), set()),
        (without("RS256", n="AQAB"), set()),
        (without("RS256", n=""), set()),
        (without("RS256", e="Ag"), set()),
        (without("RS256", kid=5), set()),
        (Key("RS256", bits=1024).jwk, set()),
        ({}, set()),
    ],
    ids=lambda value: f"{value.get('kty')}-{value.get('crv')}-{value.get('alg')}" if isinstance(value, dict) else "",
)
def test_a_key_is_used_for_what_its_type_and_its_own_words_allow(jwk: dict[str, Any], expected: set[str]) -> None:
    assert algorithms(jwk) == expected


def test_a_key_too_long_to_be_checked_in_time_is_left_out() -> None:
    modulus = "_" * 1368  # 8208 bits
    assert algorithms(without("RS256", n=modulus)) == set()


def test_other_entries_are_left_out_and_of_two_with_one_id_the_first_counts() -> None:
    entries = [5, None, "x", [], without("EdDSA", kid="a"), without("EdDSA", kid="a", x=SECOND.jwk["x"])]
    found = read_keys([*entries, without("ES256", kid="a")], DEFAULT_ALGORITHMS)
    assert {kid: set(keys) for kid, keys in found.items()} == {"a": {"EdDSA", "ES256"}}
    assert json.loads(OKPAlgorithm.to_jwk(found["a"]["EdDSA"]))["x"] == PUBLIC["EdDSA"]["x"]


def test_keys_are_used_with_the_algorithms_of_the_issuer_alone() -> None:
    found = read_keys([without("RS256", "alg"), PUBLIC["EdDSA"]], ["RS512"])
    assert {kid: set(keys) for kid, keys in found.items()} == {"RS256": {"RS512"}}
