"""Sign-in over HTTP: accounts, tokens and what ends them, and how guessing passwords is slowed."""

import asyncio
import base64
import contextlib
import itertools
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import httpx
import jwt
import pytest
from argon2.exceptions import VerifyMismatchError

from service import sign_in
from service.http import threads
from service.http.networks import networks as networks_of
from service.http.threads import PLACES, Threads
from service.identity import passwords
from service.identity.tokens import TokenRefused, Tokens, parse_token
from service.problems import Problem
from tests import conftest
from tests.conftest import Server
from tests.support.asking import asking
from tests.support.problems import problem

NewUser = Callable[..., Any]

PASSWORD = "correct horse battery staple"
WRONG = "incorrect horse battery staple"


@pytest.fixture(scope="module")
def door(
    make_module_database: Callable[[], conftest.TestDatabase], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A service of this module's own, which believes X-Forwarded-For: so a test can come from many addresses."""
    with conftest._server_factory(tmp_path_factory.mktemp("door"), make_module_database) as start:
        yield start(FORWARDED_ALLOW_IPS="127.0.0.1", METRICS_TOKEN=secrets.token_hex(32))


_addresses = map("2001:db8:{:x}::1".format, itertools.count(1))  # several threads at once may take the next


@pytest.fixture
def visitor(door: Server) -> Iterator[httpx.Client]:
    """A client at an address that nobody used before."""
    headers = {"X-Forwarded-For": next(_addresses)}
    with httpx.Client(base_url=door.url, headers=headers, timeout=30, verify=conftest.PLAIN_HTTP) as found:
        yield found


def email() -> str:
    return f"Ada.{secrets.token_hex(8)}@example.com"


def register(client: httpx.Client, password: str = PASSWORD) -> Any:
    made = client.post("/v1/auth/register", json={"email": email(), "password": password})
    assert made.status_code == 201, made.text
    return made.json()


def sign(client: httpx.Client, address: str, password: str = PASSWORD, **headers: str) -> httpx.Response:
    body = {"email": address, "password": password}
    return client.post("/v1/auth/token", json=body, headers={name.replace("_", "-"): v for name, v in headers.items()})


def pair(client: httpx.Client, user: Any, password: str = PASSWORD) -> Any:
    answer = sign(client, user["email"], password)
    assert answer.status_code == 200, answer.text
    return answer.json()


def me(client: httpx.Client, token: str) -> httpx.Response:
    return client.get("/v1/users/me", headers={"Authorization": f"Bearer {token}"})


def refresh(client: httpx.Client, token: Any) -> httpx.Response:
    return client.post("/v1/auth/refresh", json={"refresh_token": token})


# Signing in


def test_signing_in_gives_a_pair_of_tokens_that_no_cache_may_keep(visitor: httpx.Client) -> None:
    user = register(visitor)
    answer = sign(visitor, user["email"])
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    tokens = answer.json()
    assert list(tokens) == ["access_token", "refresh_token", "token_type", "expires_in"]
    assert (tokens["token_type"], tokens["expires_in"]) == ("Bearer", 900)
    assert me(visitor, tokens["access_token"]).json() == user
    lifetimes = []
    for token, kind in ((tokens["access_token"], "at+jwt"), (tokens["refresh_token"], "rt+jwt")):
        claims = jwt.decode(token, options={"verify_signature": False})
        assert claims.keys() == {"iss", "aud", "sub", "ver", "iat", "exp"}
        assert claims["sub"] == user["id"]
        assert abs(claims["iat"] - time.time()) < 60
        assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": kind}
        lifetimes.append(claims["exp"] - claims["iat"])
    assert lifetimes == [900, 30 * 86_400]


def test_the_address_is_the_same_in_any_case_and_the_password_is_not(visitor: httpx.Client) -> None:
    user = register(visitor)
    for address in (user["email"].upper(), user["email"].lower()):
        assert sign(visitor, address).status_code == 200
    problem(sign(visitor, user["email"], PASSWORD.upper()), 401, "bad_credentials")
    problem(sign(visitor, user["email"], PASSWORD + " "), 401, "bad_credentials")


def test_a_wrong_password_and_an_unknown_address_get_the_same_answer(visitor: httpx.Client) -> None:
    user = register(visitor)
    wrong = sign(visitor, user["email"], WRONG, X_Request_ID="the-same")
    unknown = sign(visitor, email(), WRONG, X_Request_ID="the-same")
    problem(wrong, 401, "bad_credentials")
    assert wrong.content == unknown.content
    assert {**wrong.headers, "date": ""} == {**unknown.headers, "date": ""}


class _Hasher:
    """Stands in for argon2's hasher and notes which hashes it was asked to verify."""

    def __init__(self) -> None:
        self.verified: list[str] = []

    def verify(self, password_hash: str, password: str) -> bool:
        self.verified.append(password_hash)
        if password != PASSWORD:
            raise VerifyMismatchError
        return True


class _Caller:
    """Stands in for the database: no waiting, and these credentials."""

    def __init__(self, found: sign_in.Credentials | None) -> None:
        self.found = found
        self.runs = 0

    async def run(self, *_: Any) -> Any:
        self.runs += 1
        return 0.0, self.found


@pytest.mark.parametrize("case", ["wrong", "unknown", "without a password", "inactive"])
def test_every_refused_sign_in_takes_one_round_trip_and_verifies_one_hash_of_equal_cost(
    monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    real = passwords._hasher.hash(PASSWORD)
    found = {
        "wrong": sign_in.Credentials(uuid4(), real, True, 1),
        "inactive": sign_in.Credentials(uuid4(), real, False, 1),
        "without a password": sign_in.Credentials(uuid4(), None, True, 1),
        "unknown": None,
    }[case]
    monkeypatch.setattr(passwords, "_hasher", hasher := _Hasher())
    checker = passwords.Passwords()
    caller: Any = _Caller(found)
    tokens = Tokens("x" * 32, None, 900, 3600)
    request = asking(caller, tokens=tokens, passwords=checker)
    with pytest.raises(Problem) as refused:
        asyncio.run(sign_in.create_token.fn(request, sign_in.SignIn("a@b", WRONG)))
    checker.close()
    assert refused.value.code == "bad_credentials"
    assert (caller.runs, len(hasher.verified)) == (1, 1)
    assert hasher.verified[0].rpartition("p=1$")[0] == real.rpartition("p=1$")[0]
    assert real.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"email": "a@b"}, "password"),
        ({"password": PASSWORD}, "email"),
        ({"email": None, "password": PASSWORD}, "email"),
        ({"email": "a@b", "password": 5}, "password"),
        ({"email": "a@b", "password": PASSWORD, "scope": "x"}, "scope"),
        ({"email": "a" * 256, "password": PASSWORD}, "email"),
        ({"email": "a@b", "password": "x" * 201}, "password"),
    ],
)
def test_a_sign_in_that_breaks_a_rule_names_the_field(visitor: httpx.Client, body: Any, field: str) -> None:
    problem(visitor.post("/v1/auth/token", json=body), 422, "validation_failed", field=field)


def test_an_address_of_another_form_is_just_unknown(visitor: httpx.Client) -> None:
    for address in ("ada", "a@b@c", "'; DROP TABLE users --", "\u202eada@example.com", "x" * 255):
        problem(sign(visitor, address), 401, "bad_credentials")


# Refreshing


def test_a_refresh_token_gives_a_new_pair(visitor: httpx.Client) -> None:
    user = register(visitor)
    tokens = pair(visitor, user)
    answer = refresh(visitor, tokens["refresh_token"])
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert list(answer.json()) == list(tokens)
    assert me(visitor, answer.json()["access_token"]).json() == user
    assert refresh(visitor, answer.json()["refresh_token"]).status_code == 200


def test_neither_kind_of_token_works_as_the_other(visitor: httpx.Client) -> None:
    tokens = pair(visitor, register(visitor))
    problem(me(visitor, tokens["refresh_token"]), 401, "invalid_token")
    problem(refresh(visitor, tokens["access_token"]), 401, "invalid_token")


@pytest.mark.parametrize("body", [{}, {"refresh_token": None}, {"refresh_token": 5}, {"refresh_token": ["x"]}])
def test_a_refresh_without_a_text_for_a_token_names_the_field(visitor: httpx.Client, body: Any) -> None:
    problem(visitor.post("/v1/auth/refresh", json=body), 422, "validation_failed", field="refresh_token")


# Bad tokens


def make_token(
    secret: str, kind: str, algorithm: str = "HS256", header: dict[str, Any] | None = None, **claims: Any
) -> str:
    """A token as the service makes them but for the claims given; one that is given as ... is left out."""
    now = int(time.time())
    payload = {"iss": "todochat", "aud": "todochat", "sub": str(uuid4()), "ver": 1, "iat": now, "exp": now + 300}
    payload = {name: value for name, value in {**payload, **claims}.items() if value is not ...}
    headers = {"typ": kind, **(header or {}), "alg": algorithm}
    parts = [_encode(json.dumps(part).encode()) for part in (headers, payload)]
    signer = jwt.get_algorithm_by_name(algorithm)
    key = signer.prepare_key("" if algorithm == "none" else secret)
    return ".".join([*parts, _encode(signer.sign(".".join(parts).encode(), key))])


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


NOBODY = "018f4fd2-0000-7000-8000-000000000000"
YEAR_9000 = 221_845_392_000
BAD_CLAIMS: list[dict[str, Any]] = [
    *({name: ...} for name in ("iss", "aud", "sub", "ver", "iat", "exp")),
    *({name: None} for name in ("iss", "aud", "sub", "ver", "iat", "exp")),
    {"iss": "somebody"},
    {"iss": ["todochat"]},
    {"aud": "somebody"},
    {"aud": []},
    {"aud": 5},
    {"sub": ""},
    {"sub": "ada"},
    {"sub": 5},
    {"sub": [NOBODY]},
    {"sub": NOBODY},
    {"ver": 0},
    {"ver": 2},
    {"ver": -1},
    {"ver": "1"},
    {"ver": 1.5},
    {"ver": True},
    {"ver": 2**31},
    {"ver": 2**64},
    {"exp": str(int(time.time()) + 300)},
    {"exp": "soon"},
    {"exp": YEAR_9000},
    {"exp": YEAR_9000, "iat": YEAR_9000 - 60},
    {"exp": 10**18},
    {"exp": 10**2000},
    {"exp": float("nan")},
    {"exp": float("inf")},
    {"exp": [1]},
    {"exp": True},
    {"exp": {}},
    {"iat": "now"},
    {"iat": -1},
    {"iat": 0},
    {"iat": float("inf")},
    {"iat": int(time.time()) + 3600, "exp": int(time.time()) + 3700},
    {"nbf": int(time.time()) + 3600},
    {"nbf": "later"},
]


def test_a_token_with_a_bad_claim_is_invalid(server: Server, member: Any, subtests: pytest.Subtests) -> None:
    secret = server.env["JWT_SECRET"]
    for bad in BAD_CLAIMS:
        claims = {"sub": str(member.id), **bad}
        with subtests.test(**bad):
            problem(me(member.client, make_token(secret, "at+jwt", **claims)), 401, "invalid_token")
            problem(refresh(member.client, make_token(secret, "rt+jwt", **claims)), 401, "invalid_token")


@pytest.fixture(scope="module")
def member(new_module_user: NewUser) -> Any:
    """A user of the session's service, whose secret is known."""
    return new_module_user()


def test_the_tokens_that_these_tests_forge_would_be_good_without_the_fault(server: Server, member: Any) -> None:
    secret = server.env["JWT_SECRET"]
    assert me(member.client, make_token(secret, "at+jwt", sub=str(member.id))).status_code == 200
    assert me(member.client, make_token(secret, "at+jwt", sub=str(member.id), aud=["x", "todochat"])).status_code == 200
    assert me(member.client, make_token(secret, "at+jwt", sub=str(member.id), more="x")).status_code == 200
    ahead = int(time.time()) + 30  # the clock of another process
    skewed = make_token(secret, "at+jwt", sub=str(member.id), iat=ahead, exp=ahead + 900)
    assert me(member.client, skewed).status_code == 200
    assert refresh(member.client, make_token(secret, "rt+jwt", sub=str(member.id))).status_code == 200


def test_an_expired_token_says_so(server: Server, member: Any) -> None:
    secret = server.env["JWT_SECRET"]
    for exp in (int(time.time()) - 1, -1):
        past = {"sub": str(member.id), "iat": int(time.time()) - 300, "exp": exp}
        problem(me(member.client, make_token(secret, "at+jwt", **past)), 401, "token_expired")
        problem(refresh(member.client, make_token(secret, "rt+jwt", **past)), 401, "token_expired")


def bad_tokens(secret: str, kind: str, sub: str) -> Iterator[str]:
    """Tokens that are wrong in their form, header or signature."""
    good = make_token(secret, kind, sub=sub)
    header, payload, signature = good.split(".")
    yield make_token(secret, kind, "none", sub=sub)
    for algorithm in ("HS384", "HS512"):
        yield make_token(secret, kind, algorithm, sub=sub)
    yield make_token(secrets.token_hex(32), kind, sub=sub)
    for wrong in ("JWT", "", "at+jwt" if kind == "rt+jwt" else "rt+jwt", None, 5, [kind]):
        yield make_token(secret, kind, header={"typ": wrong}, sub=sub)
    yield make_token(secret, kind, header={"crit": ["x"], "x": 1}, sub=sub)
    yield make_token(secret, kind, header={"b64": False}, sub=sub)
    yield make_token(secret, kind, header={"kid": 5}, sub=sub)
    yield f"{header}.{payload}."
    yield f"{header}.{payload}"
    yield f"{header}..{signature}"
    yield f".{payload}.{signature}"
    yield f"{good}.{payload}"
    yield f"{header}.{payload}.{signature[::-1]}"
    yield f"{header}.{_encode(json.dumps({'sub': NOBODY}).encode())}.{signature}"
    yield f"{_encode(b'{}')}.{payload}.{signature}"
    yield good[:-5]
    for body in (b"[]", b"5", b'"x"', b"{", b"\xff", b"[" * 2000, b'{"sub":"\\ud800"}', b""):
        parts = f"{header}.{_encode(body)}"
        signer = jwt.get_algorithm_by_name("HS256")
        yield f"{parts}.{_encode(signer.sign(parts.encode(), signer.prepare_key(secret)))}"
    yield make_token(secret, kind, sub=sub, padding="x" * 8192)
    yield from ("x", "a.b.c", "..", ".", "=", "null", secrets.token_urlsafe(32), "x" * 10_000)


def test_a_token_that_is_malformed_or_wrongly_signed_is_invalid(server: Server, member: Any) -> None:
    secret = server.env["JWT_SECRET"]
    for token in bad_tokens(secret, "at+jwt", str(member.id)):
        problem(me(member.client, token), 401, "invalid_token")
    for token in bad_tokens(secret, "rt+jwt", str(member.id)):
        problem(refresh(member.client, token), 401, "invalid_token")


def test_a_token_of_a_megabyte_is_refused_without_a_fault(member: Any) -> None:
    assert me(member.client, "x" * 1_000_000).status_code == 431
    for token in ("x" * 1_000_000, "", "é\u0000"[:1], "\u202e"):
        problem(refresh(member.client, token), 401, "invalid_token")


@pytest.mark.parametrize("header", [None, b"", b"Basic YTpi", b"Token x", b"Bearer_x", b"\xff", b"x" * 5000])
def test_without_a_bearer_token_one_is_asked_for(client: httpx.Client, header: bytes | None) -> None:
    headers = {} if header is None else {b"Authorization": header}
    problem(client.get("/v1/users/me", headers=headers), 401, "unauthenticated")


@pytest.mark.parametrize("header", [b"Bearer", b"Bearer \xff\xfe", b"Bearer a b", b"bearer x", b"BEARER x"])
def test_with_a_bearer_token_that_is_none_it_is_invalid(client: httpx.Client, header: bytes) -> None:
    answer = client.get("/v1/users/me", headers={b"Authorization": header})
    problem(answer, 401, "invalid_token")


def test_two_authorization_headers_are_refused_and_the_scheme_is_the_same_in_any_case(
    client: httpx.Client, member: Any
) -> None:
    both = [("Authorization", f"Bearer {member.token}"), ("Authorization", f"Bearer {member.token}")]
    problem(client.get("/v1/users/me", headers=both), 401, "invalid_token")
    for scheme in ("bearer", "BEARER", "Bearer "):
        headers = {"Authorization": f"{scheme} {member.token}"}
        assert client.get("/v1/users/me", headers=headers).status_code == 200


# What ends a session


def ends(client: httpx.Client, tokens: Any, code: str) -> None:
    """Assert that no token of the pair works any more."""
    problem(me(client, tokens["access_token"]), 401, code)
    problem(refresh(client, tokens["refresh_token"]), 401, code)
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    problem(client.post("/v1/todos", json={"title": "x"}, headers=headers), 401, code)
    problem(client.get("/v1/todos", headers=headers), 401, code)


def as_user(client: httpx.Client, tokens: Any, method: str, path: str, **body: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    return client.request(method, path, json=body or None, headers=headers)


def test_logging_out_everywhere_ends_every_token_issued_before(visitor: httpx.Client) -> None:
    user = register(visitor)
    first, second = pair(visitor, user), pair(visitor, user)
    answer = as_user(visitor, first, "POST", "/v1/auth/logout-everywhere")
    assert (answer.status_code, answer.content) == (204, b"")
    ends(visitor, first, "invalid_token")
    ends(visitor, second, "invalid_token")
    assert me(visitor, pair(visitor, user)["access_token"]).status_code == 200


def test_changing_the_password_ends_every_token_and_the_old_password(visitor: httpx.Client) -> None:
    user = register(visitor)
    tokens = pair(visitor, user)
    change = {"current_password": PASSWORD, "new_password": "another good password"}
    answer = as_user(visitor, tokens, "PUT", "/v1/users/me/password", **change)
    assert (answer.status_code, answer.content) == (204, b"")
    ends(visitor, tokens, "invalid_token")
    problem(sign(visitor, user["email"]), 401, "bad_credentials")
    assert me(visitor, pair(visitor, user, "another good password")["access_token"]).status_code == 200


def test_the_password_changes_only_for_who_knows_the_current_one(visitor: httpx.Client) -> None:
    user = register(visitor)
    tokens = pair(visitor, user)
    change = {"current_password": WRONG, "new_password": "another good password"}
    problem(as_user(visitor, tokens, "PUT", "/v1/users/me/password", **change), 401, "bad_credentials")
    assert me(visitor, tokens["access_token"]).status_code == 200
    for field, value in (("new_password", "short"), ("new_password", "x" * 201), ("current_password", "")):
        body = {"current_password": PASSWORD, "new_password": "another good password", field: value}
        refused = as_user(visitor, tokens, "PUT", "/v1/users/me/password", **body)
        problem(refused, 422, "validation_failed", field=field)
    assert sign(visitor, user["email"]).status_code == 200


def test_deactivating_the_account_ends_its_tokens_and_its_sign_in(visitor: httpx.Client) -> None:
    user = register(visitor)
    tokens = pair(visitor, user)
    assert as_user(visitor, tokens, "PATCH", "/v1/users/me", is_active=False).status_code == 200
    ends(visitor, tokens, "account_inactive")
    problem(sign(visitor, user["email"]), 401, "account_inactive")
    # Whether an account is inactive, only its owner learns.
    problem(sign(visitor, user["email"], WRONG), 401, "bad_credentials")


def test_deleting_the_account_ends_its_tokens(visitor: httpx.Client) -> None:
    user = register(visitor)
    tokens = pair(visitor, user)
    assert as_user(visitor, tokens, "DELETE", "/v1/users/me").status_code == 204
    ends(visitor, tokens, "invalid_token")
    problem(sign(visitor, user["email"]), 401, "bad_credentials")


# Two secrets


def test_while_a_secret_is_rotated_tokens_of_both_work_and_new_ones_are_of_the_new(
    server: Server, member: Any, start_server: Callable[..., Server]
) -> None:
    old = server.env["JWT_SECRET"]
    rotated = start_server(database=server.database, JWT_SECRET=secrets.token_hex(32), JWT_SECRET_PREVIOUS=old)
    issued = Tokens(old, None, 900, 3600).issue(member.id, 1)
    with httpx.Client(base_url=rotated.url, timeout=10) as client:
        assert me(client, issued.access_token).status_code == 200
        renewed = refresh(client, issued.refresh_token).json()
        assert me(client, renewed["access_token"]).status_code == 200
        problem(me(member.client, renewed["access_token"]), 401, "invalid_token")
        expired = make_token(old, "at+jwt", sub=str(member.id), iat=1, exp=2)
        problem(me(client, expired), 401, "token_expired")
        problem(me(client, make_token(secrets.token_hex(32), "at+jwt", sub=str(member.id))), 401, "invalid_token")


def test_after_the_rotation_tokens_of_the_old_secret_are_worthless() -> None:
    old, new = secrets.token_hex(32), secrets.token_hex(32)
    user_id = UUID(NOBODY)
    issued = Tokens(old, None, 900, 3600).issue(user_id, 1)
    during, after = Tokens(new, old, 900, 3600), Tokens(new, None, 900, 3600)
    assert during.read_access(parse_token(issued.access_token.encode())).user_id == user_id
    for read in (
        lambda: after.read_access(parse_token(issued.access_token.encode())),
        lambda: after.read_refresh(issued.refresh_token),
    ):
        with pytest.raises(Problem, match="invalid_token"):
            read()


def test_a_token_is_good_until_it_expires_where_tokens_are_issued_for_less_or_more_by_now() -> None:
    secret, user_id = secrets.token_hex(32), UUID(NOBODY)
    longest, shortest = Tokens(secret, None, 86_400, 365 * 86_400), Tokens(secret, None, 10, 60)
    for issuing, reading in ((longest, shortest), (shortest, longest)):
        issued = issuing.issue(user_id, 1)
        assert reading.read_access(parse_token(issued.access_token.encode())).user_id == user_id
        assert reading.read_refresh(issued.refresh_token).user_id == user_id
    too_long = Tokens(secret, None, 86_401, 365 * 86_400 + 1).issue(user_id, 1)
    for read in (
        lambda: longest.read_access(parse_token(too_long.access_token.encode())),
        lambda: longest.read_refresh(too_long.refresh_token),
    ):
        with pytest.raises(TokenRefused) as refused:
            read()
        assert refused.value.reason == "lives_too_long"


# Guessing


def limited(answer: httpx.Response, most: int) -> None:
    body = problem(answer, 429, "rate_limited")
    assert 1 <= int(answer.headers["retry-after"]) <= most
    assert answer.headers["retry-after"] in body["detail"]


def together(functions: list[Callable[[], Any]]) -> list[Any]:
    """What each of them returns, all started at once."""
    gate = threading.Barrier(len(functions))

    def run(function: Callable[[], Any]) -> Any:
        gate.wait()
        return function()

    with ThreadPoolExecutor(len(functions)) as threads:
        return list(threads.map(run, functions))


@pytest.fixture
def account(door: Server) -> Callable[[], dict[str, str]]:
    """Call it for an account whose password is checked fast: what a guess costs is no matter where they are counted."""

    def make() -> dict[str, str]:
        found = email()
        with conftest.connect_as_service(door.database.service_url) as connection:
            conftest.insert_user(connection, {"email": found, "password": PASSWORD})
        return {"email": found}

    return make


def attack(client: httpx.Client, address: str) -> None:
    """Guess the account's password from 30 networks: more than an account may be guessed at."""
    for _ in range(30):
        problem(sign(client, address, WRONG, X_Forwarded_For=next(_addresses)), 401, "bad_credentials")


def test_repeated_failures_slow_one_network_at_one_account_and_nobody_else(
    visitor: httpx.Client, account: Callable[[], dict[str, str]]
) -> None:
    ada, bob = account(), account()
    spellings = (ada["email"], ada["email"].upper())
    for number in range(10):
        problem(sign(visitor, spellings[number % 2], WRONG), 401, "bad_credentials")
    limited(sign(visitor, ada["email"], WRONG), 30)
    limited(sign(visitor, ada["email"].lower()), 30)
    assert sign(visitor, bob["email"]).status_code == 200
    assert sign(visitor, ada["email"], X_Forwarded_For=next(_addresses)).status_code == 200
    limited(sign(visitor, ada["email"]), 30)  # what others forget, this network doesn't


def test_guesses_from_other_networks_never_keep_the_right_password_out(
    visitor: httpx.Client, account: Callable[[], dict[str, str]]
) -> None:
    """4 a second kept it out for as long as they went on: 0 of 25 sign-ins in 100 s."""
    ada = account()
    attack(visitor, ada["email"])
    ends = threading.Event()

    def guess() -> int:
        wrong = 0
        while not ends.is_set():
            answer = sign(visitor, ada["email"], WRONG, X_Forwarded_For=next(_addresses))
            assert answer.status_code in (401, 503), answer.text
            wrong += 1
        return wrong

    with ThreadPoolExecutor(2) as threads:
        guessers = [threads.submit(guess) for _ in range(2)]
        try:
            for _ in range(10):
                assert sign(visitor, ada["email"], X_Forwarded_For=next(_addresses)).status_code == 200
                assert sign(visitor, ada["email"]).status_code == 200
        finally:
            ends.set()
    assert sum(guesser.result() for guesser in guessers) >= 5


def test_an_account_under_attack_leaves_each_network_three_guesses(
    visitor: httpx.Client, account: Callable[[], dict[str, str]]
) -> None:
    ada = account()
    attack(visitor, ada["email"])
    for _ in range(3):
        problem(sign(visitor, ada["email"], WRONG), 401, "bad_credentials")
    limited(sign(visitor, ada["email"], WRONG), 900)
    limited(sign(visitor, ada["email"]), 900)
    elsewhere = next(_addresses)
    problem(sign(visitor, ada["email"], WRONG, X_Forwarded_For=elsewhere), 401, "bad_credentials")
    assert sign(visitor, ada["email"], X_Forwarded_For=elsewhere).status_code == 200


def test_an_unknown_address_is_slowed_as_an_account_is(visitor: httpx.Client) -> None:
    nobody = email()
    codes = [sign(visitor, nobody, WRONG).status_code for _ in range(11)]
    assert codes == [401] * 10 + [429]


def change_password(client: httpx.Client, tokens: Any, current: str, new: str = PASSWORD) -> httpx.Response:
    return as_user(client, tokens, "PUT", "/v1/users/me/password", current_password=current, new_password=new)


def test_guesses_at_the_current_password_are_slowed_too(
    visitor: httpx.Client, account: Callable[[], dict[str, str]]
) -> None:
    user = account()
    tokens = pair(visitor, user)
    for _ in range(10):
        problem(change_password(visitor, tokens, WRONG), 401, "bad_credentials")
    limited(change_password(visitor, tokens, WRONG), 30)
    limited(change_password(visitor, tokens, PASSWORD), 30)
    assert me(visitor, tokens["access_token"]).status_code == 200


def test_nobody_who_guesses_keeps_who_has_a_token_from_changing_the_password(
    visitor: httpx.Client, account: Callable[[], dict[str, str]]
) -> None:
    user = account()
    tokens = pair(visitor, user)
    attack(visitor, user["email"])
    while sign(visitor, user["email"], WRONG).status_code != 429:  # from the same network as well
        pass
    assert change_password(visitor, tokens, PASSWORD, "another good password").status_code == 204


def test_a_sign_in_that_succeeds_forgets_the_failures(
    visitor: httpx.Client, account: Callable[[], dict[str, str]]
) -> None:
    user = account()
    for _ in range(2):
        for _ in range(6):
            problem(sign(visitor, user["email"], WRONG), 401, "bad_credentials")
        pair(visitor, user)


def test_parallel_guesses_at_one_account_count(visitor: httpx.Client, account: Callable[[], dict[str, str]]) -> None:
    user = account()
    answers = together([partial(sign, visitor, user["email"], WRONG)] * 30)
    assert sorted(answer.status_code for answer in answers) == [401] * 10 + [429] * 20


def test_repeated_failures_slow_one_address_and_no_other(
    visitor: httpx.Client, account: Callable[[], dict[str, str]]
) -> None:
    user = account()
    network = f"2001:db8:ffff:{secrets.randbelow(2**16):x}"
    # Whoever has one address of an IPv6 network has all 2^64 of them.
    started = time.monotonic()
    answers = together(
        [partial(sign, visitor, email(), WRONG, X_Forwarded_For=f"{network}::{number:x}") for number in range(60)]
    )
    codes = [answer.status_code for answer in answers]
    # 50 at once and one more every 3 seconds.
    assert codes.count(401) + codes.count(429) == 60
    assert 50 <= codes.count(401) <= 51 + (time.monotonic() - started) / 3
    deadline = time.monotonic() + 60
    while (answer := sign(visitor, email(), WRONG, X_Forwarded_For=f"{network}::1")).status_code == 401:
        assert time.monotonic() < deadline
    limited(answer, 3)
    limited(sign(visitor, user["email"], X_Forwarded_For=f"{network}::1"), 3)
    assert sign(visitor, user["email"]).status_code == 200


def test_a_customer_of_a_provider_has_no_more_guesses_than_an_address(
    visitor: httpx.Client, account: Callable[[], dict[str, str]]
) -> None:
    """Most get a /56 of IPv6: 256 networks of 2^64 addresses."""
    user = account()
    prefix = f"2001:db8:fffe:{secrets.randbelow(2**8):x}"
    codes = [
        sign(visitor, user["email"], WRONG, X_Forwarded_For=f"{prefix}{number:02x}::1").status_code
        for number in range(12)
    ]
    assert codes == [401] * 10 + [429] * 2


@pytest.mark.parametrize(
    ("address", "networks"),
    [
        ("192.0.2.1", ["192.0.2.1"]),
        ("::ffff:192.0.2.1", ["192.0.2.1"]),
        ("2001:db8:1:2345::1", ["2001:db8:1:2345::/64", "2001:db8:1:2300::/56"]),
        ("fe80::1%eth0", ["fe80::/64", "fe80::/56"]),
        ("", [""]),
        ("a socket", ["a socket"]),
    ],
)
def test_an_address_stands_for_the_networks_that_one_visitor_may_have(address: str, networks: list[str]) -> None:
    assert list(networks_of(address)) == networks


# Hashing


class _Slow:
    """Stands in for argon2's hasher: each call takes its thread until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def hash(self, password: str) -> str:
        assert self.go.wait(10)
        return password

    def verify(self, password_hash: str, password: str) -> bool:
        del password_hash, password
        return self.go.wait(10)


def test_new_accounts_never_take_the_turn_of_a_sign_in_or_of_a_new_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """Floods of them made sign-in 503 and 429, and a change of the password 503."""
    monkeypatch.setattr(passwords, "_hasher", slow := _Slow())

    async def test() -> None:
        own = passwords.Passwords()
        registering = [asyncio.create_task(own.registrations.hash(who, PASSWORD)) for who in range(PLACES)]
        await asyncio.sleep(0)
        checked = asyncio.create_task(own.sign_ins.verify("ada", "a hash", PASSWORD))
        changed = asyncio.create_task(own.changes.hash("ada", PASSWORD))
        slow.go.set()
        assert await checked
        assert await changed
        await asyncio.gather(*registering)
        own.close()

    asyncio.run(test())


def test_one_network_s_flood_leaves_places_and_turns_to_others() -> None:
    done: list[str] = []

    async def test() -> None:
        own = Threads(1, "test")
        begun, go = threading.Event(), threading.Event()

        async def ask(who: str, work: Callable[[], Any]) -> None:
            with own.places.hold(who):
                await own.run(who, work)
                done.append(who)

        first = asyncio.create_task(ask("crowd", lambda: (begun.set(), go.wait(10))))
        crowd = [asyncio.create_task(ask("crowd", lambda: None)) for _ in range(PLACES // 2 - 1)]
        await asyncio.to_thread(begun.wait, 10)
        with pytest.raises(Problem, match="overloaded"):
            await ask("crowd", lambda: None)
        others = [asyncio.create_task(ask(f"other {number}", lambda: None)) for number in range(PLACES // 2)]
        await asyncio.sleep(0)
        with pytest.raises(Problem, match="overloaded"):
            await ask("one more", lambda: None)
        go.set()
        await asyncio.gather(first, *crowd, *others)
        await ask("crowd", lambda: None)
        own.close()

    asyncio.run(test())
    assert done[0] == "crowd"
    assert set(done[1 : PLACES // 2 + 1]) > {f"other {number}" for number in range(PLACES // 2 - 1)}


def test_it_stays_an_owner_s_turn_while_a_thread_works_for_whoever_has_left() -> None:
    order: list[str] = []

    async def test() -> None:
        own = Threads(2, "test")
        begun, go = threading.Semaphore(0), threading.Event()

        def hold() -> None:
            begun.release()
            go.wait(10)

        left = [asyncio.create_task(own.run("crowd", hold)) for _ in range(2)]
        for _ in left:
            await asyncio.to_thread(begun.acquire, timeout=10)
        for one in left:
            one.cancel()
        await asyncio.wait(left)
        again = asyncio.create_task(own.run("crowd", order.append, "crowd"))
        other = asyncio.create_task(own.run("other", order.append, "other"))
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(again, other)
        own.close()

    asyncio.run(test())
    assert order == ["other", "crowd"]


def test_whoever_waits_for_threads_that_are_closed_hears_of_it() -> None:
    async def test() -> list[Any]:
        own = Threads(1, "test")
        begun, go = threading.Event(), threading.Event()
        first = asyncio.create_task(own.run("ada", lambda: (begun.set(), go.wait(10))))
        await asyncio.to_thread(begun.wait, 10)
        others = [asyncio.create_task(own.run("ada", lambda: None)) for _ in range(2)]
        await asyncio.sleep(0)
        own.close()
        go.set()
        await first
        async with asyncio.timeout(10):
            return await asyncio.gather(*others, return_exceptions=True)

    assert [type(found) for found in asyncio.run(test())] == [RuntimeError, RuntimeError]


def test_a_sign_in_that_finds_no_place_is_refused_before_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "PLACES", 2)
    checker = passwords.Passwords()
    caller: Any = _Caller(None)
    request = asking(caller, tokens=Tokens("x" * 32, None, 900, 3600), passwords=checker)
    with checker.sign_ins.places.hold("::1"), pytest.raises(Problem, match="overloaded"):
        asyncio.run(sign_in.create_token.fn(request, sign_in.SignIn("a@b", WRONG)))
    checker.close()
    assert caller.runs == 0


@pytest.mark.parametrize(("code", "gets_in"), [("timeout", True), ("overloaded", True), ("internal", False)])
def test_who_has_the_right_password_gets_in_though_the_attempt_can_not_be_forgiven(code: str, gets_in: bool) -> None:
    class Busy(_Caller):
        async def run(self, *queries: Any) -> Any:
            if self.runs:
                raise Problem(code)
            return await super().run(*queries)

    checker = passwords.Passwords()
    try:
        found = sign_in.Credentials(uuid4(), asyncio.run(checker.sign_ins.hash("ada", PASSWORD)), True, 1)
        request = asking(Busy(found), tokens=Tokens("x" * 32, None, 900, 3600), passwords=checker)
        with contextlib.nullcontext() if gets_in else pytest.raises(Problem, match=code):
            asyncio.run(sign_in.create_token.fn(request, sign_in.SignIn("a@b", PASSWORD)))
    finally:
        checker.close()


def test_hashing_lets_other_work_go_first() -> None:
    async def niceness() -> int:
        own = passwords.Passwords()
        try:
            return await own.changes.run("ada", lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        finally:
            own.close()

    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert asyncio.run(niceness()) == min(19, before + 10)
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
