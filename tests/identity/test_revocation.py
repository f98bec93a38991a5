"""What was taken back stops working with the next request, whoever issued the token and whichever process is asked."""

import concurrent.futures
import dataclasses
import secrets
import time
from collections.abc import Callable, Iterator
from uuid import UUID

import httpx
import psycopg
import pytest

from tests.conftest import PASSWORD, PLAIN_HTTP, Server
from tests.support.jwks_server import Key, claims, jwks_server, sign
from tests.support.problems import problem

ISSUER = "https://accounts.example.com"
SHARED = "https://shared.example.com"
SECRET = secrets.token_urlsafe(32)


@dataclasses.dataclass
class World:
    """Two processes of the service on one database, with an issuer of each kind."""

    first: httpx.Client
    second: httpx.Client
    server: Server
    key: Key

    def token(self, kind: str, subject: str, age: int = 5, **changes: object) -> str:
        """A token issued ``age`` seconds ago."""
        issued = int(time.time()) - age
        content = {"iat": issued, "exp": issued + 900, **changes}
        if kind == "shared secret":
            content = claims(SHARED, subject, **{"iss": ..., "aud": ..., **content})
            return sign("HS256", SECRET.encode(), content, {"alg": "HS256"})
        return self.key.sign(claims(ISSUER, subject, **content))

    def warm(self, *tokens: str) -> UUID:
        """Use the tokens with both processes, so that whatever they remember is remembered; whose they are."""
        ids = {
            asked(client, token, "GET", "/v1/users/me").json()["id"]
            for token in tokens
            for client in (self.first, self.second)
        }
        (found,) = ids
        return UUID(found)

    def refused(self, token: str, code: str) -> None:
        """Both processes refuse it, reading and writing."""
        for client in (self.first, self.second):
            problem(asked(client, token, "GET", "/v1/users/me"), 401, code)
            problem(asked(client, token, "POST", "/v1/todos", json={"title": "x"}), 401, code)

    def execute(self, statement: str, **parameters: object) -> int:
        """Run a statement as who owns the tables; how many rows it changed."""
        with psycopg.connect(self.server.database.superuser_url) as connection:
            connection.execute("SET LOCAL ROLE todochat_owner")
            if user := parameters.get("user"):
                connection.execute("SELECT set_config('app.user_id', %s, true)", (str(user),))
            return connection.execute(statement, parameters).rowcount

    def count(self, table: str) -> int:
        with psycopg.connect(self.server.database.superuser_url) as connection:
            return connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0]


def asked(client: httpx.Client, token: str, method: str, path: str, **options: object) -> httpx.Response:
    return client.request(method, path, headers={"Authorization": f"Bearer {token}"}, **options)


@pytest.fixture(scope="module")
def world(start_module_server: Callable[..., Server]) -> Iterator[World]:
    key = Key("EdDSA")
    with jwks_server(key) as jwks:
        settings = {
            "JWT_SECRET": secrets.token_hex(32),
            "ISSUER": ISSUER,
            "ISSUER_JWKS_URL": jwks.url,
            "ISSUER_2": SHARED,
            "ISSUER_2_SECRET": SECRET,
            "ISSUER_2_ABSENT_CLAIMS": "iss,aud",
        }
        first = start_module_server(**settings)
        second = start_module_server(database=first.database, **settings)
        with (
            httpx.Client(base_url=first.url, timeout=10, verify=PLAIN_HTTP) as one,
            httpx.Client(base_url=second.url, timeout=10, verify=PLAIN_HTTP) as two,
        ):
            yield World(one, two, first, key)


@pytest.fixture(params=["key set", "shared secret"])
def kind(request: pytest.FixtureRequest) -> str:
    """How the issuer signs."""
    return request.param


@pytest.fixture
def subject() -> str:
    """Somebody whom nobody has seen before."""
    return secrets.token_hex(16)


def test_deactivated_after_issue(world: World, kind: str, subject: str) -> None:
    token, other = world.token(kind, subject), world.token(kind, subject, age=4)
    user = world.warm(token, other)
    answer = asked(world.first, token, "PATCH", "/v1/users/me", json={"is_active": False})
    assert answer.status_code == 200, answer.text
    people = world.count("users")
    for found in (token, other, world.token(kind, subject, age=0)):
        world.refused(found, "account_inactive")
    assert world.count("users") == people
    # What was issued before stays dead when somebody opens the account again.
    assert world.execute("UPDATE users SET is_active = true WHERE id = %(user)s", user=user) == 1
    for found in (token, other):
        world.refused(found, "invalid_token")


@pytest.mark.parametrize("by_whom", ["its user", "somebody in SQL"])
def test_deleted_after_issue(world: World, kind: str, subject: str, by_whom: str) -> None:
    """The same token doesn't make the user anew; one that is issued later makes a new one, who owns nothing."""
    token, other = world.token(kind, subject), world.token(kind, subject, age=4)
    user = world.warm(token, other)
    if by_whom == "its user":
        answer = asked(world.first, token, "DELETE", "/v1/users/me")
        assert answer.status_code == 204, answer.text
    else:
        assert world.execute("DELETE FROM users WHERE id = %(user)s", user=user) == 1
    people, identities = world.count("users"), world.count("identities")
    for found in (token, other, world.token(kind, subject, age=2)):
        world.refused(found, "invalid_token")
    assert (world.count("users"), world.count("identities")) == (people, identities)
    # A token tells the second it was issued in, and one of the same second counts as before.
    deadline = time.monotonic() + 10
    while asked(world.second, world.token(kind, subject, age=0), "GET", "/v1/users/me").status_code == 401:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert world.warm(world.token(kind, subject, age=0)) != user
    for found in (token, other):
        world.refused(found, "invalid_token")


def test_logged_out_everywhere_after_issue(world: World, kind: str, subject: str) -> None:
    token, other = world.token(kind, subject), world.token(kind, subject, age=4)
    user = world.warm(token, other)
    assert asked(world.second, other, "POST", "/v1/auth/logout-everywhere").status_code == 204
    for found in (token, other, world.token(kind, subject, age=1)):
        world.refused(found, "invalid_token")
    deadline = time.monotonic() + 10
    while asked(world.first, world.token(kind, subject, age=0), "GET", "/v1/users/me").status_code == 401:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert world.warm(world.token(kind, subject, age=0)) == user
    # A second time, by a token that came after the first.
    later = world.token(kind, subject, age=0)
    world.warm(later)
    assert asked(world.first, later, "POST", "/v1/auth/logout-everywhere").status_code == 204
    world.refused(later, "invalid_token")


def test_issued_before_a_change_of_the_password(world: World, kind: str, subject: str) -> None:
    """Of somebody with a local account to which an operator linked an outside one."""
    account = {"email": f"{subject}@example.com", "password": PASSWORD}
    user = world.first.post("/v1/auth/register", json=account).json()["id"]
    issuer = SHARED if kind == "shared secret" else ISSUER
    world.execute(
        "INSERT INTO identities (user_id, issuer, subject) VALUES (%(user)s, %(issuer)s, %(subject)s)",
        user=user,
        issuer=issuer,
        subject=subject,
    )
    local = world.first.post("/v1/auth/token", json=account).json()
    outside = world.token(kind, subject)
    assert str(world.warm(outside, local["access_token"])) == user
    change = {"current_password": PASSWORD, "new_password": f"{PASSWORD}!"}
    answer = asked(world.first, local["access_token"], "PUT", "/v1/users/me/password", json=change)
    assert answer.status_code == 204, answer.text
    for found in (outside, local["access_token"]):
        world.refused(found, "invalid_token")
    refreshed = world.second.post("/v1/auth/refresh", json={"refresh_token": local["refresh_token"]})
    problem(refreshed, 401, "invalid_token")


def test_a_token_that_is_remembered_ends_when_it_says(world: World, kind: str, subject: str) -> None:
    expires = int(time.time()) + 3
    token = world.token(kind, subject, exp=expires)
    world.warm(token)
    while (answer := asked(world.first, token, "GET", "/v1/users/me")).status_code == 200:
        assert time.time() < expires + 2
        time.sleep(0.05)
    problem(answer, 401, "token_expired")
    assert time.time() >= expires


def test_no_character_of_a_remembered_token_can_be_another(world: World, kind: str, subject: str) -> None:
    token = world.token(kind, subject)
    world.warm(token)
    people = world.count("users")
    for place in range(len(token)):
        other = token[:place] + ("A" if token[place] != "A" else "E") + token[place + 1 :]
        assert asked(world.first, other, "GET", "/v1/users/me").status_code == 401, place
    for other in (token[:-1], f"{token}A", f"{token}.", token.lower(), token.swapcase()):
        assert asked(world.first, other, "GET", "/v1/users/me").status_code == 401
    assert world.count("users") == people
    world.warm(token)


def test_forty_first_calls_at_two_processes_make_one_user(world: World, kind: str, subject: str) -> None:
    token = world.token(kind, subject, email=f"{subject}@example.com", name="Ada")
    before = world.count("users"), world.count("identities")
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        clients = [world.first, world.second] * 20
        answers = list(pool.map(lambda client: asked(client, token, "GET", "/v1/users/me"), clients))
    assert [answer.status_code for answer in answers] == [200] * 40
    assert len({answer.text for answer in answers}) == 1
    assert answers[0].json()["email"] == f"{subject}@example.com"
    assert (world.count("users"), world.count("identities")) == (before[0] + 1, before[1] + 1)


def test_forty_people_with_one_address_at_once_are_forty_users(world: World, kind: str, subject: str) -> None:
    """Nobody is linked by an address; one of them has it, the others have none."""
    email = f"{subject}@example.com"
    tokens = [world.token(kind, f"{subject} {number}", email=email) for number in range(40)]
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        people = [answer.json() for answer in pool.map(lambda t: asked(world.first, t, "GET", "/v1/users/me"), tokens)]
    assert len({person["id"] for person in people}) == 40
    assert sorted(person["email"] or "" for person in people) == [""] * 39 + [email]


def test_deleted_while_the_token_is_in_use(world: World, kind: str, subject: str) -> None:
    """What is under way may still be answered; nothing that begins afterwards is, and nothing brings the user back."""
    token = world.token(kind, subject)
    user = world.warm(token)
    seen: list[tuple[float, int]] = []
    deleted: list[float] = []

    def use(client: httpx.Client) -> None:
        while not deleted or time.monotonic() < deleted[0] + 0.1:
            began = time.monotonic()
            seen.append((began, asked(client, token, "GET", "/v1/users/me").status_code))

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        uses = [pool.submit(use, client) for client in [world.first, world.second] * 3]
        try:
            while len(seen) < 30:
                time.sleep(0.001)
            assert world.execute("DELETE FROM users WHERE id = %(user)s", user=user) == 1
        finally:
            deleted.append(time.monotonic())
        for found in uses:
            found.result()
    assert {status for _, status in seen} == {200, 401}
    late = [status for began, status in seen if began > deleted[0]]
    assert late
    assert set(late) == {401}
    world.refused(token, "invalid_token")
