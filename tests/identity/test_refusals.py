"""A token that is refused says why: to the operator by a reason in the log, and to its sender where it may."""

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, cast
from uuid import uuid4

import httpx
import pytest

from service.db.database import Database
from service.identity import authentication
from service.identity.authentication import REFUSALS_A_MINUTE, Authenticator
from service.identity.issuers import Issuer
from service.identity.tokens import TokenRefused, Tokens
from service.settings import IssuerSettings, Secret
from tests.conftest import PLAIN_HTTP, Server
from tests.support.jwks_server import Key, claims, jwks_server, sign
from tests.support.problems import problem

MAIN, SHARED, CLOSED = "https://accounts.example.com", "https://shared.example.com", "https://closed.example.com"
SECRET = secrets.token_hex(32)
WEEK = 7 * 86_400
KEY, RSA = Key("EdDSA"), Key("RS256")


class Strangers(Authenticator):
    """Its database knows nobody."""

    async def _resolve(self, subject: Any, request_id: str, address: str) -> Any:
        del subject, request_id, address
        raise TokenRefused("unknown_subject", "The token's subject is not known here.")


@pytest.fixture(scope="module")
def main_settings() -> Iterator[IssuerSettings]:
    with jwks_server(KEY, RSA) as server:
        yield IssuerSettings(name=MAIN, audience="todos", jwks_url=server.url, algorithms=("EdDSA",))


@pytest.fixture
def authenticator(main_settings: IssuerSettings) -> Authenticator:
    shared = IssuerSettings(name=SHARED, audience=SHARED, secret=Secret(SECRET), absent_claims=frozenset({"iss"}))
    return Strangers(cast("Database", None), Tokens(SECRET, None, 900, 3600), [Issuer(main_settings), Issuer(shared)])


def refuse(authenticator: Authenticator, token: str, request_id: str = "the-request") -> TokenRefused:
    async def ask() -> None:
        await authenticator.caller(f"Bearer {token}".encode(), request_id, "read")

    with pytest.raises(TokenRefused) as refused:
        asyncio.run(ask())
    return refused.value


def main(**changes: Any) -> str:
    return KEY.sign({**claims(MAIN, "ada", aud="todos"), **changes})


def without(name: str) -> str:
    return KEY.sign(claims(MAIN, "ada", **{"aud": "todos", name: ...}))


def now() -> int:
    return int(time.time())


REFUSED: dict[str, tuple[Callable[[], str], str | None, str, str]] = {
    "an opaque session token": (lambda: secrets.token_urlsafe(32), None, "malformed", ""),
    "an issuer nobody named": (lambda: main(iss="https://x"), None, "unknown_issuer", "issuer is not known"),
    "another key": (lambda: Key("EdDSA").sign(claims(MAIN, "ada")), MAIN, "unknown_key", ""),
    "the key id of another": (lambda: Key("EdDSA").sign(claims(MAIN, "ada"), kid=KEY.kid), MAIN, "bad_signature", ""),
    "an algorithm not set": (lambda: RSA.sign(claims(MAIN, "ada")), MAIN, "wrong_algorithm", ""),
    "another type": (lambda: KEY.sign(claims(MAIN, "ada"), typ="logout+jwt"), MAIN, "wrong_type", ""),
    "another audience": (lambda: main(aud=MAIN), MAIN, "wrong_audience", "aud"),
    "no audience": (lambda: without("aud"), MAIN, "wrong_audience", "aud"),
    "no iat": (lambda: without("iat"), MAIN, "iat_missing", "iat"),
    "an iat with a fraction": (lambda: main(iat=time.time()), MAIN, "iat_malformed", "iat"),
    "no exp": (lambda: without("exp"), MAIN, "exp_missing", "exp"),
    "a time that has passed": (lambda: main(iat=now() - 20, exp=now() - 10), MAIN, "expired", "expired"),
    "a time that lies ahead": (lambda: main(nbf=now() + 900), MAIN, "not_yet_valid", "nbf"),
    "a month": (lambda: main(exp=now() + 30 * 86_400), MAIN, "lives_too_long", f"{WEEK} s"),
    "nobody": (lambda: main(sub=""), MAIN, "sub_missing", "subject"),
    "somebody unknown": (main, MAIN, "unknown_subject", "subject"),
    "a shared secret, wrong": (
        lambda: sign("HS256", b"x" * 32, claims("", "ada", iss=..., aud=...), {"alg": "HS256"}),
        SHARED,
        "bad_signature",
        "",
    ),
    "a local one, wrong": (
        lambda: Tokens("x" * 32, None, 900, 900).issue(uuid4(), 1).access_token,
        "todochat",
        "bad_signature",
        "",
    ),
    "a refresh token": (
        lambda: Tokens(SECRET, None, 900, 900).issue(uuid4(), 1).refresh_token,
        "todochat",
        "wrong_type",
        "another kind",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_log_says_why(authenticator: Authenticator, caplog: pytest.LogCaptureFixture, case: str) -> None:
    make, issuer, reason, detail = REFUSED[case]
    token = make()
    caplog.set_level(logging.INFO)
    refused = refuse(authenticator, token)
    (line,) = [cast("Any", record) for record in caplog.records if record.msg == "token_refused"]
    assert (line.reason, line.issuer, line.request_id) == (reason, issuer, "the-request")
    assert token not in str(line.__dict__)
    assert refused.code == ("token_expired" if reason == "expired" else "invalid_token")
    assert refused.status == 401
    assert detail in refused.detail
    if not detail:  # before the signature is proven, nothing is told
        assert refused.detail == "The token is not valid."
    assert "todos" not in refused.detail, "which audience it should be is for whoever set it up"


def test_a_flood_of_bad_tokens_leaves_few_lines_and_the_next_minute_says_how_many(
    authenticator: Authenticator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    minute = time.time() // 60 * 60
    monkeypatch.setattr(authentication.time, "time", lambda: minute)
    for number in range(300):
        refuse(authenticator, f"bad{number}")
        refuse(authenticator, main(iss=f"https://{number}.example.com"))
    lines = [cast("Any", record) for record in caplog.records]
    assert [line.reason for line in lines].count("malformed") == REFUSALS_A_MINUTE
    assert [line.reason for line in lines].count("unknown_issuer") == REFUSALS_A_MINUTE
    assert len(lines) == 2 * REFUSALS_A_MINUTE
    assert len(authenticator._refusals._seen) == 2, "what a token claims must not be kept"
    caplog.clear()
    minute += 60
    for _ in range(3):
        refuse(authenticator, "bad")
    assert [cast("Any", record).unlogged_before for record in caplog.records] == [300 - REFUSALS_A_MINUTE, 0, 0]


def test_the_operator_reads_it_in_the_log_of_the_service(start_server: Callable[..., Server]) -> None:
    server = start_server(ISSUER=SHARED, ISSUER_SECRET="s" * 32)
    month = sign("HS256", b"s" * 32, claims(SHARED, "ada", exp=now() + 30 * 86_400), {"alg": "HS256"})
    headers = {"Authorization": f"Bearer {month}", "X-Request-ID": "a-month"}
    answer = httpx.get(f"{server.url}/v1/users/me", headers=headers, verify=PLAIN_HTTP)
    assert f"{WEEK} s" in problem(answer, 401, "invalid_token")["detail"]
    server.stop()
    (line,) = [line for line in server.log().splitlines() if "token_refused" in line]
    expected = {"event": "token_refused", "reason": "lives_too_long", "issuer": SHARED, "request_id": "a-month"}
    assert json.loads(line).items() >= expected.items()


def test_a_missing_token_is_no_line(authenticator: Authenticator, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(Exception, match="unauthenticated"):
        asyncio.run(authenticator.caller(None, "the-request", "read"))
    assert not caplog.records
