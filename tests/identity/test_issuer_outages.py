"""An issuer that is down, slow, or up to no good: nobody else notices, and it is asked rarely."""

import concurrent.futures
import contextlib
import dataclasses
import gzip
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.conftest import PASSWORD, PLAIN_HTTP, Server
from tests.support.jwks_server import JwksServer, Key, claims, jwks_server
from tests.support.load import wait_for
from tests.support.problems import problem

PATIENCE = 3.0
"""Seconds after which a request counts as held up: less than the service gives an issuer to answer (5 s)."""
LIMIT_BYTES = 65_536
"""What a key set may have."""


@dataclasses.dataclass
class World:
    """A service, and an issuer of its that it has asked for nothing yet."""

    service: Server
    jwks: JwksServer
    key: Key
    client: httpx.Client

    def token(self, subject: str = "somebody", key: Key | None = None, **changes: object) -> str:
        return (key or self.key).sign(claims(self.jwks.issuer, subject, **changes))

    def stray(self) -> str:
        """A token with a key id that nobody knows."""
        return self.token("nobody", Key("EdDSA"))

    def get_me(self, token: str, seconds: float = 20.0) -> httpx.Response:
        return self.client.get("/v1/users/me", headers={"Authorization": f"Bearer {token}"}, timeout=seconds)

    def get_all(self, tokens: list[str]) -> list[httpx.Response]:
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            return list(pool.map(self.get_me, tokens))


@pytest.fixture(scope="module")
def new_world(start_module_server: Callable[..., Server]) -> Iterator[Callable[[], World]]:
    """Call it for a world with an issuer that no other test has; nine at a time share a service."""
    with contextlib.ExitStack() as stack:
        worlds: list[World] = []

        def make() -> World:
            if not worlds:
                key = Key("EdDSA")
                servers = [stack.enter_context(jwks_server(key)) for _ in range(9)]
                settings: dict[str, str] = {}
                for number, jwks in enumerate(servers, 1):
                    prefix = "ISSUER" if number == 1 else f"ISSUER_{number}"
                    settings |= {prefix: jwks.issuer, f"{prefix}_JWKS_URL": jwks.url}
                service = start_module_server(**settings)
                client = stack.enter_context(httpx.Client(base_url=service.url, verify=PLAIN_HTTP))
                worlds.extend(World(service, jwks, key, client) for jwks in servers)
            return worlds.pop()

        yield make


@pytest.fixture
def world(new_world: Callable[[], World]) -> World:
    return new_world()


# How often it is asked


def test_the_key_set_is_asked_for_once_however_many_come_at_first(world: World) -> None:
    assert world.jwks.fetches == 0
    answers = world.get_all([world.token(f"person {number % 10}") for number in range(80)])
    assert [answer.status_code for answer in answers] == [200] * 80
    assert len({answer.json()["id"] for answer in answers}) == 10
    assert world.jwks.fetches == 1


def test_two_hundred_unknown_key_ids_are_one_fetch_at_most(world: World) -> None:
    assert world.get_me(world.token()).status_code == 200
    assert world.jwks.fetches == 1
    for answer in world.get_all([world.stray() for _ in range(200)]):
        problem(answer, 401, "invalid_token")
    assert world.jwks.fetches <= 2
    assert world.get_me(world.token()).status_code == 200


def test_two_hundred_unknown_key_ids_at_the_very_first_are_one_fetch(world: World) -> None:
    for answer in world.get_all([world.stray() for _ in range(200)]):
        problem(answer, 401, "invalid_token")
    assert world.jwks.fetches <= 2
    assert world.get_me(world.token()).status_code == 200


def test_a_known_key_id_under_a_false_signature_asks_for_nothing(world: World) -> None:
    assert world.get_me(world.token()).status_code == 200
    for attacker in (Key("EdDSA", kid=world.key.kid), Key("RS256", kid=world.key.kid)):
        problem(world.get_me(world.token("nobody", attacker)), 401, "invalid_token")
    for answer in world.get_all([world.token(exp=time.time() + 60) for _ in range(20)]):
        problem(answer, 401, "invalid_token")
    assert world.jwks.fetches == 1


def test_tokens_of_no_issuer_of_ours_ask_for_nothing(world: World) -> None:
    for issuer in ("https://evil.example.com", f"{world.jwks.issuer}/", world.jwks.url):
        problem(world.get_me(world.key.sign(claims(issuer, "nobody"))), 401, "invalid_token")
    assert world.jwks.fetches == 0


def test_a_failing_issuer_is_not_asked_again_for_every_token(world: World) -> None:
    world.jwks.answer(status=500)
    answers = world.get_all([world.token() for _ in range(100)])
    assert {answer.status_code for answer in answers} <= {401, 503}
    assert world.jwks.fetches <= 2


def test_a_key_that_comes_is_known_at_the_first_token_and_one_that_goes_stays_until_then(world: World) -> None:
    """A rotation: the new key's first token brings the new set."""
    assert world.get_me(world.token()).status_code == 200
    old, new = world.key, Key("ES256")
    world.jwks.keys[:] = [new]
    assert world.get_me(world.token("somebody", old)).status_code == 200
    answers = world.get_all([world.token("somebody", new) for _ in range(40)])
    assert [answer.status_code for answer in answers] == [200] * 40
    assert world.jwks.fetches == 2
    # It was taken out of the set, so it counts no more.
    problem(world.get_me(world.token("somebody else", old)), 401, "invalid_token")


# While it is slow or gone


@contextlib.contextmanager
def asking(world: World, tokens: list[str]) -> Iterator[list[httpx.Response]]:
    """Meanwhile, requests with these tokens wait for the issuer; their answers are in the list afterwards."""
    answers: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda token=token: answers.append(world.get_me(token))) for token in tokens]
    before = world.jwks.fetches
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: world.jwks.fetches > before)
        yield answers
    finally:
        for thread in threads:
            thread.join()


def test_an_issuer_that_never_answers_holds_up_no_request_whose_key_is_known(world: World) -> None:
    known = [world.token(f"person {number}") for number in range(5)]
    assert {world.get_me(token).status_code for token in known} == {200}
    with world.jwks.stalled(), asking(world, [world.stray() for _ in range(20)]) as answers:
        for _ in range(10):
            for token in (*known, world.token(f"new {secrets.token_hex(4)}")):
                assert world.get_me(token, PATIENCE).status_code == 200
    assert len(answers) == 20
    for answer in answers:
        problem(answer, 401, "invalid_token")
    assert world.jwks.fetches <= 2


def test_a_rotation_that_comes_through_while_others_wait_lets_them_all_in(world: World) -> None:
    assert world.get_me(world.token()).status_code == 200
    new = Key("EdDSA")
    world.jwks.keys.append(new)
    with contextlib.ExitStack() as stall:
        stall.enter_context(world.jwks.stalled())
        with asking(world, [world.token("somebody", new)] * 15) as answers:
            stall.close()
    assert [answer.status_code for answer in answers] == [200] * 15
    assert world.jwks.fetches == 2


def test_an_issuer_whose_process_is_gone_is_missed_by_nobody_whose_key_is_known(world: World) -> None:
    assert world.get_me(world.token()).status_code == 200
    world.jwks.close()
    problem(world.get_me(world.stray()), 401, "invalid_token")
    for number in range(20):
        assert world.get_me(world.token(f"person {number}"), PATIENCE).status_code == 200


def test_an_issuer_that_is_stuck_from_the_start_keeps_nobody_else_out(new_world: Callable[[], World]) -> None:
    """Its own people come in as soon as it answers."""
    stuck, well = new_world(), new_world()
    with stuck.jwks.stalled(), asking(stuck, [stuck.token() for _ in range(20)]) as answers:
        assert well.get_me(well.token(), PATIENCE).status_code == 200
        account = {"email": f"{secrets.token_hex(6)}@example.com", "password": PASSWORD}
        assert stuck.client.post("/v1/auth/register", json=account, timeout=PATIENCE).status_code == 201
        signed_in = stuck.client.post("/v1/auth/token", json=account, timeout=PATIENCE)
        assert stuck.get_me(signed_in.json()["access_token"], PATIENCE).status_code == 200
        assert stuck.client.get("/health/ready", timeout=PATIENCE).status_code == 200
    for answer in answers:
        problem(answer, 503, "timeout")
    assert stuck.jwks.fetches <= 2
    wait_for(lambda: stuck.get_me(stuck.token()).status_code == 200, 20)


def test_a_key_set_that_trickles_in_is_given_up(world: World) -> None:
    """Each byte comes in time, the whole never does."""
    assert world.get_me(world.token()).status_code == 200
    world.jwks.answer(pause=0.3)
    with asking(world, [world.stray()]) as answers:
        assert world.get_me(world.token("another"), PATIENCE).status_code == 200
    problem(answers[0], 401, "invalid_token")


# What it answers


def test_an_answer_that_is_no_key_set_is_none(new_world: Callable[[], World]) -> None:
    with jwks_server() as elsewhere:
        told: list[Callable[[bytes], dict[str, object]]] = [
            lambda _: {"status": 302, "Location": elsewhere.url},
            lambda good: {"status": 404, "body": good},
            lambda _: {"body": b"<html>"},
            lambda _: {"body": b'{"keys": {}}'},
            lambda _: {"body": b"[" * 10_000},
            lambda good: {"body": good + b" " * LIMIT_BYTES},
            lambda good: {"body": gzip.compress(good + b" " * 50_000_000), "Content_Encoding": "gzip"},
        ]
        for make in told:
            world = new_world()
            elsewhere.keys[:] = [world.key]
            world.jwks.answer(**make(json.dumps(world.jwks.document()).encode()))
            answer = world.get_me(world.token())
            assert answer.status_code in {401, 503}, answer.text
            assert world.jwks.fetches == 1
            assert "Traceback" not in world.service.log()
        assert elsewhere.fetches == 0


@pytest.mark.parametrize(("status", "body"), [(500, b""), (200, b""), (200, b'{"keys": []}'), (200, b"null")])
def test_an_answer_that_is_no_key_set_takes_no_key_away(world: World, status: int, body: bytes) -> None:
    assert world.get_me(world.token()).status_code == 200
    world.jwks.answer(status=status, body=body)
    problem(world.get_me(world.stray()), 401, "invalid_token")
    assert world.jwks.fetches == 2
    assert world.get_me(world.token(secrets.token_hex(4))).status_code == 200


def test_keys_that_cannot_be_used_do_not_spoil_the_others(world: World) -> None:
    good = world.key.jwk
    odd: list[object] = [
        None,
        7,
        [],
        {},
        {"kty": "OKP"},
        {"kty": "OKP", "crv": "X25519", "x": "AA", "kid": "x"},
        {"kty": "OKP", "crv": "Ed25519", "x": 7, "kid": "number"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "no point"},
        {"kty": "RSA", "n": "!!", "e": "AQAB", "kid": "broken"},
        {"kty": "RSA", "n": "", "e": "", "kid": "empty"},
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA", "kid": "new"},
        {"kty": "oct", "k": "AAAA", "kid": "secret"},
        {**good, "kid": 7},
    ]
    world.jwks.answer(body=json.dumps({"keys": [*odd, good, *odd], "more": 1}).encode())
    answer = world.get_me(world.token())
    assert answer.status_code == 200, answer.text


def test_a_set_of_a_thousand_keys_is_too_large_to_be_read(world: World) -> None:
    keys = [{**world.key.jwk, "kid": secrets.token_hex(16)} for _ in range(1000)]
    body = json.dumps({"keys": [world.key.jwk, *keys]}).encode()
    assert len(body) > LIMIT_BYTES
    world.jwks.answer(body=body)
    assert world.get_me(world.token()).status_code in {401, 503}


def test_an_issuer_that_is_not_there_is_a_503_at_once(world: World) -> None:
    """Nothing can be said of any token while there are no keys; the next moment may bring some."""
    world.jwks.close()
    problem(world.get_me(world.token(), PATIENCE), 503, "timeout")
