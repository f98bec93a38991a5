"""Users from outside: made at their first call, known by their issuer and subject alone, and like any other after."""

import asyncio
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, cast
from urllib.parse import quote
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from service.db.caller import Caller
from service.db.database import Database
from service.identity import authentication
from service.identity.authentication import Authenticator
from service.identity.issuers import Issuer
from service.identity.tokens import Tokens
from service.problems import Problem
from service.settings import IssuerSettings, Secret
from tests.conftest import PASSWORD, PLAIN_HTTP, REPOSITORY, Server, service_environment
from tests.support.jwks_server import claims, sign
from tests.support.problems import problem
from tests.support.routes import ROUTES

OPEN, CLOSED = "https://open.example.com", "https://closed.example.com"
SECRETS = {OPEN: secrets.token_urlsafe(32), CLOSED: secrets.token_urlsafe(32)}
SETTINGS = {
    "ISSUER": OPEN,
    "ISSUER_SECRET": SECRETS[OPEN],
    "ISSUER_2": CLOSED,
    "ISSUER_2_SECRET": SECRETS[CLOSED],
    "ISSUER_2_CREATES_USERS": "false",
}


def token(subject: object, issuer: str = OPEN, **changes: object) -> str:
    return sign("HS256", SECRETS[issuer].encode(), claims(issuer, subject, **changes), {"alg": "HS256"})


def fresh() -> str:
    """A subject that nobody has seen before."""
    return secrets.token_hex(16)


def address() -> str:
    return f"{secrets.token_hex(8)}@Example.com"


@pytest.fixture(scope="module")
def server(start_module_server: Callable[..., Server]) -> Server:
    return start_module_server(**SETTINGS)


@pytest.fixture(scope="module")
def outside_only(server: Server, start_module_server: Callable[..., Server]) -> Server:
    """On the same database, without local accounts and without a secret of its own."""
    return start_module_server(database=server.database, LOCAL_ACCOUNTS="false", JWT_SECRET="", **SETTINGS)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=10, verify=PLAIN_HTTP) as found:
        yield found


@pytest.fixture(scope="module")
def dba(server: Server) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(server.database.superuser_url, autocommit=True) as connection:
        yield connection


def ask(client: httpx.Client, bearer: str, method: str = "GET", path: str = "/v1/users/me", **more: Any) -> Any:
    headers = {"Authorization": f"Bearer {bearer}", **more.pop("headers", {})}
    return client.request(method, path, headers=headers, **more)


def me(client: httpx.Client, bearer: str) -> Any:
    answer = ask(client, bearer)
    assert answer.status_code == 200, answer.text
    return answer.json()


# The first call


def test_the_first_call_makes_the_user_and_the_next_finds_them(client: httpx.Client) -> None:
    subject, email = fresh(), address()
    first = me(client, token(subject, email=email, name="Ada Lovelace"))
    assert (first["email"], first["full_name"], first["username"]) == (email, "Ada Lovelace", None)
    assert (first["is_active"], first["version"]) == (True, 1)
    assert me(client, token(subject, jti="another", email=address(), name="Other")) == first


def test_without_a_name_and_an_address_there_are_none(client: httpx.Client) -> None:
    made = me(client, token(fresh()))
    assert (made["email"], made["full_name"]) == (None, None)


@pytest.mark.parametrize("email", ["ada", "ada@", "ada@exa mple.com", "ada@example.com\n", "\u00e4da@example.com"])
def test_an_address_that_is_none_by_our_rules_is_left_out(client: httpx.Client, email: str) -> None:
    made = me(client, token(fresh(), email=email, name="Ada"))
    assert (made["email"], made["full_name"]) == (None, "Ada")


def test_an_address_links_nobody_and_is_left_out_when_it_is_taken(client: httpx.Client) -> None:
    email = address()
    local = client.post("/v1/auth/register", json={"email": email, "password": PASSWORD}).json()
    first = me(client, token(fresh(), email=email.upper()))
    second = me(client, token(fresh(), email=email, email_verified=True))
    assert (first["email"], second["email"]) == (None, None)
    assert len({local["id"], first["id"], second["id"]}) == 3
    ours = address()
    assert me(client, token(fresh(), email=ours))["email"] == ours
    problem(client.post("/v1/auth/register", json={"email": ours, "password": PASSWORD}), 409, "email_taken")


def test_issuer_and_subject_together_are_the_person(client: httpx.Client, dba: psycopg.Connection[Any]) -> None:
    subject = fresh()
    first = me(client, token(subject))
    for other in (subject.upper(), f"{subject} ", f" {subject}", subject[:-1], f"{subject}.bypass"):
        assert me(client, token(other))["id"] != first["id"]
    other = uuid4()
    dba.execute("INSERT INTO users (id) VALUES (%s)", [other])
    dba.execute("INSERT INTO identities (user_id, issuer, subject) VALUES (%s, %s, %s)", [other, CLOSED, subject])
    assert me(client, token(subject, CLOSED))["id"] == str(other)
    assert me(client, token(subject))["id"] == first["id"]


def test_where_users_are_not_made_an_unknown_subject_is_refused(
    client: httpx.Client, dba: psycopg.Connection[Any]
) -> None:
    before = dba.execute("SELECT count(*) FROM users").fetchall()
    for _ in range(2):
        problem(ask(client, token(fresh(), CLOSED)), 401, "invalid_token")
    assert dba.execute("SELECT count(*) FROM users").fetchall() == before


def test_what_was_made_is_audited_with_the_new_user_as_actor(
    client: httpx.Client, dba: psycopg.Connection[Any]
) -> None:
    bearer = token(fresh(), email=address())
    made = ask(client, bearer, headers={"X-Request-ID": "the-first-call"}).json()
    rows = dba.execute(
        "SELECT table_name, action, actor_id, request_id FROM audit_log WHERE user_id = %s ORDER BY seq", [made["id"]]
    ).fetchall()
    assert sorted(rows) == [(table, "insert", UUID(made["id"]), "the-first-call") for table in ("identities", "users")]


def test_the_first_call_may_be_any_and_may_be_repeated(client: httpx.Client) -> None:
    bearer = token(fresh())
    key = {"Idempotency-Key": "first"}
    made = ask(client, bearer, "POST", "/v1/todos", json={"title": "Buy milk"}, headers=key)
    again = ask(client, bearer, "POST", "/v1/todos", json={"title": "Buy milk"}, headers=key)
    assert (made.status_code, again.status_code) == (201, 201)
    assert again.json() == made.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    assert [todo["title"] for todo in ask(client, bearer, path="/v1/todos").json()["items"]] == ["Buy milk"]


def test_a_user_from_outside_can_t_sign_in_with_a_password(client: httpx.Client) -> None:
    email = address()
    bearer = token(fresh(), email=email)
    me(client, bearer)
    for password in (PASSWORD, "null", " "):
        answer = client.post("/v1/auth/token", json={"email": email, "password": password})
        problem(answer, 401, "bad_credentials")
    change = {"current_password": PASSWORD, "new_password": "another good password"}
    for who in (bearer, token(fresh())):
        problem(ask(client, who, "PUT", "/v1/users/me/password", json=change), 401, "bad_credentials")


def test_the_operator_names_who_has_no_address_by_their_id(server: Server, client: httpx.Client) -> None:
    bearer = token(fresh())
    made = me(client, bearer)

    def users(*arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "service", "users", *arguments],
            cwd=REPOSITORY,
            env=service_environment(DATABASE_URL=server.database.owner_url),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stderr
        return done.stdout or done.stderr

    (line,) = [line for line in users("list").splitlines() if made["id"] in line]
    assert line == f"{made['created_at'][:10]}  active    {made['id']}  -"
    users("deactivate", made["id"])
    problem(ask(client, bearer), 401, "account_inactive")
    nobody = str(uuid4())
    assert users("activate", nobody, status=1) == f"todochat: no account has the id {nobody}\n"


@pytest.mark.parametrize("settings", [{"METRICS_TOKEN": secrets.token_hex(32)}, {}])
def test_metrics_are_not_for_whoever_signs_in_outside(
    start_server: Callable[..., Server], settings: dict[str, str]
) -> None:
    own = start_server(**settings, **SETTINGS)
    with httpx.Client(base_url=own.url, timeout=10, verify=PLAIN_HTTP, headers={"Via": "1.1 proxy"}) as client:
        bearer = token(fresh())
        me(client, bearer)
        problem(ask(client, bearer, path="/metrics"), 401, "unauthenticated")


# Tasks by subject


@pytest.mark.parametrize("subject", ["plain", "auth0|5f7c", "やあ", "a b+c%d", "x\r\nSet-Cookie: a=b", "ü;?#&=@"])
def test_tasks_are_found_by_the_subject_as_well_as_by_the_id(client: httpx.Client, subject: str) -> None:
    subject += fresh()
    bearer = token(subject)
    user = me(client, bearer)
    path = f"/api/{quote(subject, safe='')}/tasks"
    made = ask(client, bearer, "POST", path, json={"title": "Buy milk"})
    assert made.status_code == 201
    assert made.json()["user_id"] == user["id"]
    assert "set-cookie" not in made.headers
    assert made.headers["location"] == f"{path}/1"
    assert ask(client, bearer, path=made.headers["location"]).json() == made.json()
    assert ask(client, bearer, path=f"/api/{user['id']}/tasks").json() == [made.json()]


def test_another_subject_is_forbidden_and_so_is_one_s_own_at_another_issuer(
    client: httpx.Client, dba: psycopg.Connection[Any]
) -> None:
    mine, theirs = fresh(), fresh()
    user = me(client, token(mine))
    me(client, token(theirs))
    for other in (theirs, mine.upper() if mine != mine.upper() else mine.lower(), mine[:-1], "nobody"):
        problem(ask(client, token(mine), path=f"/api/{other}/tasks"), 403, "forbidden")
    dba.execute("INSERT INTO identities (user_id, issuer, subject) VALUES (%s, %s, %s)", [user["id"], CLOSED, theirs])
    problem(ask(client, token(mine, jti=fresh()), path=f"/api/{theirs}/tasks"), 403, "forbidden")
    assert ask(client, token(theirs, CLOSED), path=f"/api/{theirs}/tasks").status_code == 200


def test_a_local_user_has_no_subject(client: httpx.Client, server: Server) -> None:
    user = client.post("/v1/auth/register", json={"email": address(), "password": PASSWORD}).json()
    bearer = Tokens(server.env["JWT_SECRET"], None, 900, 900).issue(UUID(user["id"]), 1).access_token
    assert ask(client, bearer, path=f"/api/{user['id']}/tasks").status_code == 200
    for other in ("None", "null", "todochat", user["email"]):
        problem(ask(client, bearer, path=f"/api/{other}/tasks"), 403, "forbidden")


# Without local accounts


def test_without_local_accounts_their_routes_are_not_there(outside_only: Server) -> None:
    local = {(route.method, route.path) for route in ROUTES if route.local}
    assert {path for _, path in local} == {
        "/v1/auth/register",
        "/v1/auth/token",
        "/v1/auth/refresh",
        "/v1/users/me/password",
    }
    bearer = token(fresh())
    with httpx.Client(base_url=outside_only.url, timeout=10, verify=PLAIN_HTTP) as client:
        for method, path in local:
            problem(ask(client, bearer, method, path, json={}), 404, "not_found")
            problem(client.options(path), 404, "not_found")
        document = client.get("/schema/openapi.json").json()
        found = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
        listed = {(route.method, route.path) for route in ROUTES}
        assert listed - found == local
        assert "/v1/auth/token" not in client.get("/schema/openapi.json").text
        assert "Registration" not in document["components"]["schemas"]
        assert me(client, bearer)["is_active"]
        assert ask(client, bearer, "POST", "/v1/auth/logout-everywhere").status_code == 204
        problem(ask(client, bearer), 401, "invalid_token")
    assert "serving http" in outside_only.log()
    assert "register" not in outside_only.log().split('"event":"request"')[0]


def test_without_local_accounts_their_tokens_are_refused(
    outside_only: Server, server: Server, client: httpx.Client
) -> None:
    user = client.post("/v1/auth/register", json={"email": address(), "password": PASSWORD}).json()
    bearer = Tokens(server.env["JWT_SECRET"], None, 900, 900).issue(UUID(user["id"]), 1).access_token
    assert me(client, bearer) == user
    with httpx.Client(base_url=outside_only.url, timeout=10, verify=PLAIN_HTTP) as other:
        problem(ask(other, bearer), 401, "invalid_token")


# After a deletion


def test_who_comes_back_after_a_deletion_is_somebody_new_at_every_process(
    client: httpx.Client, outside_only: Server, dba: psycopg.Connection[Any]
) -> None:
    subject = fresh()
    now = int(time.time())
    before = token(subject, iat=now - 60)
    # Later than the deletion in whatever second that is; the skew that is allowed makes it good already.
    after = token(subject, iat=now + 30)
    with httpx.Client(base_url=outside_only.url, timeout=10, verify=PLAIN_HTTP) as other:
        first = me(client, before)
        assert me(other, before) == first
        assert ask(client, before, "DELETE").status_code == 204
        # Both processes remember whose the token was.
        for process in (client, other):
            problem(ask(process, before), 401, "invalid_token")
        made = ask(other, after, "POST", "/v1/todos", json={"title": "Back"})
        assert made.status_code == 201
        assert me(client, after)["id"] == made.json()["user_id"] != first["id"]
        for process in (client, other):
            problem(ask(process, before), 401, "invalid_token")
    trail = dba.execute("SELECT actor_id FROM audit_log WHERE user_id = %s", [made.json()["user_id"]]).fetchall()
    assert {actor for (actor,) in trail} == {UUID(made.json()["user_id"])}


def resolve(dba: psycopg.Connection[Any], issuer: str, subject: str, issued_at: int) -> UUID | None:
    new = uuid4()
    with dba.transaction():
        dba.execute("SELECT set_config('app.user_id', %s, true)", [str(new)])
        values = [new, issuer, subject, issued_at]
        return dba.execute("SELECT resolve_identity(%s, %s, %s, %s, NULL, NULL, true)", values).fetchall()[0][0]


def test_what_marks_a_deletion_names_nobody_and_is_gone_when_no_token_can_be_left(
    dba: psycopg.Connection[Any],
) -> None:
    subject, now = fresh(), int(time.time())
    first = resolve(dba, "i", subject, now)
    dba.execute("DELETE FROM users WHERE id = %s", [first])
    marks = dba.execute("SELECT digest FROM ended_identities").fetchall()
    assert not any(subject.encode() in digest for (digest,) in marks)
    # Told apart, although both names in one piece read the same.
    assert resolve(dba, f"i{subject[0]}", subject[1:], now - 3600) is not None
    with pytest.raises(psycopg.DatabaseError, match="deleted") as refused:
        resolve(dba, "i", subject, now - 3600)
    assert refused.value.sqlstate == "TC401"
    dba.execute("UPDATE ended_identities SET ended_at = now() - interval '31 days 1 minute'")
    for _ in range(len(marks)):
        assert resolve(dba, "i", fresh(), now) is not None
    assert dba.execute("SELECT count(*) FROM ended_identities").fetchall() == [(0,)]


def test_the_service_can_t_make_a_user_but_the_one_its_transaction_is_for(server: Server) -> None:
    with psycopg.connect(server.database.service_url) as connection:
        for context in ("", str(uuid4())):
            connection.execute("SELECT set_config('app.user_id', %s, true)", [context])
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("SELECT resolve_identity(%s, 'i', %s, 0, NULL, NULL, true)", [uuid4(), fresh()])
            connection.rollback()


# What is remembered


class Counting(Issuer):
    """Counts how often it is asked."""

    def __init__(self, settings: IssuerSettings) -> None:
        super().__init__(settings)
        self.judged = 0

    async def judge(self, token: Any) -> Any:
        self.judged += 1
        return await super().judge(token)


class NoDatabase:
    """Knows everybody, by an id that is made anew each time."""

    async def transact(self, *_: Any) -> Any:
        raise AssertionError("not asked in these tests")


class Remembering(Authenticator):
    async def _resolve(self, subject: Any, request_id: str, address: str) -> UUID:
        del subject, request_id, address
        return uuid4()


@pytest.fixture
def counting() -> Counting:
    return Counting(IssuerSettings(name=OPEN, audience=OPEN, secret=Secret(SECRETS[OPEN])))


@pytest.fixture
def known(counting: Counting) -> Authenticator:
    return Remembering(cast("Database", NoDatabase()), None, [counting])


def callers(known: Authenticator, *bearers: str) -> list[Caller]:
    async def all_of_them() -> list[Caller]:
        return [await known.caller(f"Bearer {bearer}".encode(), "test", "read") for bearer in bearers]

    return asyncio.run(all_of_them())


def test_a_good_token_is_judged_once_in_its_minute(
    known: Authenticator, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    bearer = token("ada")
    first, second = callers(known, bearer, bearer)
    assert (first.user_id, first.subject) == (second.user_id, "ada")
    assert counting.judged == 1
    now = time.time()
    monkeypatch.setattr(authentication.time, "time", lambda: now + authentication.OUTSIDE_SECONDS + 1)
    callers(known, bearer, bearer)
    assert counting.judged == 2


def test_a_token_is_forgotten_when_it_expires(known: Authenticator, monkeypatch: pytest.MonkeyPatch) -> None:
    now = int(time.time())
    bearer = token("ada", exp=now + 30)
    callers(known, bearer)
    monkeypatch.setattr(authentication.time, "time", lambda: now + 30)
    with pytest.raises(Problem, match="token_expired"):
        callers(known, bearer)


def test_a_bad_token_is_never_remembered(known: Authenticator, counting: Counting) -> None:
    for _ in range(3):
        with pytest.raises(Problem, match="invalid_token"):
            callers(known, token("ada", aud="x"))
    assert counting.judged == 3
    assert not known._recent


def test_what_is_remembered_is_bounded_and_what_is_used_stays(
    known: Authenticator, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "REMEMBERED", 10)
    used, long = token("ada"), token("ada", padding="x" * authentication.REMEMBERED_BYTES)
    for number in range(50):
        callers(known, used, token(f"user {number}"), long)
        assert len(known._recent) + len(known._older) <= 20
    assert counting.judged == 1 + 50 + 1, "the long one, too, is judged once"
    assert max(len(name or b"") for name in known._recent) <= authentication.REMEMBERED_BYTES


def test_a_subject_that_nobody_knows_yet_takes_its_network_s_share(counting: Counting) -> None:
    asked: list[Any] = []

    class Database:
        async def transact(self, context: Any, *_: Any, **__: Any) -> Any:
            asked.append(context)
            raise Problem("overloaded")

    known = Authenticator(cast("Any", Database()), None, [counting])
    for name in ("ada", "bob"):
        with pytest.raises(Problem, match="overloaded"):
            asyncio.run(known.caller(f"Bearer {token(name)}".encode(), "test", "read", "192.0.2.7"))
    assert len({context.user_id for context in asked}) == 2
    assert {context.borrower for context in asked} == {"192.0.2.7"}
