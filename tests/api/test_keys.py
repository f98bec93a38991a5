"""API keys: what they may do, what they may not, and that they end at once."""

import json
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from service.app import PROTOCOL_HANDLERS
from service.db.caller import ApiKey, Caller
from service.identity.authentication import Authenticator
from service.problems import Problem
from tests.conftest import PLAIN_HTTP, Server, User
from tests.support.asking import in_process
from tests.support.problems import problem
from tests.support.routes import ROUTES, Route

SCOPES = {"read", "write", "account"}


@pytest.fixture
def user(new_user: Callable[..., User]) -> User:
    return new_user()


def make_key(user: User, scope: str = "write", **fields: Any) -> Any:
    answer = user.client.post("/v1/keys", json={"name": "Agent", "scope": scope, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()


@pytest.fixture
def agent(server: Server) -> Iterator[Callable[[str], httpx.Client]]:
    """Call it for a client that sends this key."""
    clients: list[httpx.Client] = []

    def make(key: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key}"}
        clients.append(httpx.Client(base_url=server.url, headers=headers, timeout=10, verify=PLAIN_HTTP))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


Agent = Callable[[str], httpx.Client]


def test_a_key_is_shown_once_and_then_without_its_text(user: User, agent: Agent, superuser: Any):
    answer = user.client.post("/v1/keys", json={"name": "Agent", "scope": "write"})
    made = answer.json()
    assert made.keys() == {"id", "name", "scope", "expires_at", "last_used_at", "created_at", "key"}
    assert made["key"].startswith("tck_")
    assert (made["name"], made["scope"], made["expires_at"], made["last_used_at"]) == ("Agent", "write", None, None)
    assert answer.headers["location"] == f"/v1/keys/{made['id']}"
    expected = {name: value for name, value in made.items() if name != "key"}
    assert user.client.get(answer.headers["location"]).json() == expected
    assert user.client.get("/v1/keys").json() == {"items": [expected], "next_cursor": None}
    stored = str(superuser.execute("SELECT k::text FROM api_keys k WHERE user_id = %s", (user.id,)).fetchall())
    assert made["key"].removeprefix("tck_") not in stored
    assert agent(made["key"]).get("/v1/users/me").json()["id"] == str(user.id)


def test_an_answer_given_again_doesnt_show_the_key(user: User, superuser: Any):
    body, headers = {"name": "Agent", "scope": "write"}, {"Idempotency-Key": secrets.token_hex(8)}
    first = user.client.post("/v1/keys", json=body, headers=headers).json()
    again = user.client.post("/v1/keys", json=body, headers=headers)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == {name: value for name, value in first.items() if name != "key"}
    kept = superuser.execute("SELECT body FROM idempotency_keys WHERE user_id = %s", (user.id,)).fetchall()
    assert first["key"].encode() not in kept[0][0]
    assert len(user.client.get("/v1/keys").json()["items"]) == 1


def test_keys_are_listed_newest_first_a_page_at_a_time(user: User):
    made = [make_key(user, name=f"Key {number}")["id"] for number in range(5)]
    first = user.client.get("/v1/keys?limit=3").json()
    second = user.client.get(f"/v1/keys?limit=3&cursor={first['next_cursor']}").json()
    assert [item["id"] for item in first["items"] + second["items"]] == made[::-1]
    assert second["next_cursor"] is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "x" * 101),
        ("scope", "account"),
        ("scope", None),
        ("expires_at", "2020-01-01T00:00:00Z"),
        ("expires_at", "2030-01-01T00:00:00"),
        ("key", "tck_own"),
    ],
)
def test_a_key_of_another_form_is_refused(user: User, field: str, value: Any):
    answer = user.client.post("/v1/keys", json={"name": "Agent", "scope": "read", field: value})
    problem(answer, 422, "validation_failed", field=field)


def test_a_user_has_20_keys_at_most_however_many_are_made_at_once(user: User):
    with ThreadPoolExecutor(8) as pool:
        body = {"name": "Agent", "scope": "read"}
        answers = list(pool.map(lambda _: user.client.post("/v1/keys", json=body), range(24)))
    assert sorted(answer.status_code for answer in answers) == [201] * 20 + [409] * 4
    refused = next(answer for answer in answers if answer.status_code == 409)
    problem(refused, 409, "too_many_keys")
    kept = user.client.get("/v1/keys").json()["items"]
    assert len(kept) == 20
    assert user.client.delete(f"/v1/keys/{kept[7]['id']}").status_code == 204
    make_key(user)


def test_a_deleted_key_is_refused_at_once(user: User, agent: Agent):
    made = make_key(user)
    client = agent(made["key"])
    assert client.get("/v1/todos").status_code == 200
    assert user.client.delete(f"/v1/keys/{made['id']}").status_code == 204
    problem(client.get("/v1/todos"), 401, "invalid_token")
    problem(user.client.delete(f"/v1/keys/{made['id']}"), 404, "not_found")


def test_a_key_ends_when_it_expires(user: User, agent: Agent, superuser: Any):
    ahead = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    made = make_key(user, expires_at=ahead)
    client = agent(made["key"])
    assert client.get("/v1/todos").status_code == 200
    superuser.execute("UPDATE api_keys SET expires_at = now() WHERE id = %s", (made["id"],))
    problem(client.get("/v1/todos"), 401, "token_expired")


def test_a_key_outlives_other_tokens_but_not_its_users_account(user: User, agent: Agent):
    client = agent(make_key(user)["key"])
    assert user.client.post("/v1/auth/logout-everywhere").status_code == 204
    problem(user.client.get("/v1/todos"), 401, "invalid_token")
    assert client.get("/v1/todos").status_code == 200


def test_a_deactivated_users_keys_stop(user: User, agent: Agent):
    client = agent(make_key(user)["key"])
    assert user.client.patch("/v1/users/me", json={"is_active": False}).status_code == 200
    problem(client.get("/v1/todos"), 401, "account_inactive")


def test_a_deleted_users_keys_go_with_them(user: User, agent: Agent):
    client = agent(make_key(user)["key"])
    assert user.client.delete("/v1/users/me").status_code == 204
    problem(client.get("/v1/todos"), 401, "invalid_token")


def test_the_hour_of_its_last_use_is_noted_by_reads_too(user: User, agent: Agent, superuser: Any):
    made = make_key(user, "read")
    client = agent(made["key"])
    assert client.get("/v1/todos").status_code == 200

    def last_used() -> datetime:
        return datetime.fromisoformat(user.client.get(f"/v1/keys/{made['id']}").json()["last_used_at"])

    hour = last_used()
    assert (hour.minute, hour.second, hour.microsecond) == (0, 0, 0)
    assert datetime.now(UTC) - hour < timedelta(hours=1, seconds=10)
    before = superuser.execute("SELECT xmin FROM api_keys WHERE id = %s", (made["id"],)).fetchone()
    assert client.get("/v1/todos").status_code == 200
    after = superuser.execute("SELECT xmin FROM api_keys WHERE id = %s", (made["id"],)).fetchone()
    assert before == after, "once an hour is enough"


def test_the_hour_that_is_noted_is_the_one_in_which_the_request_began(monkeypatch: pytest.MonkeyPatch):
    noted: dict[bytes, int] = {}

    def statements(seconds: float) -> int:
        monkeypatch.setattr(time, "time", lambda: seconds)
        return len(ApiKey(b"digest", "read", noted).check(reads_only=False))

    key = ApiKey(b"digest", "read", noted)
    monkeypatch.setattr(time, "time", lambda: 3599.9)
    assert len(key.check(reads_only=False)) == 2
    monkeypatch.setattr(time, "time", lambda: 3600.1)
    key.note()
    assert (statements(3599.9), statements(3600.1)) == (1, 2)
    later = ApiKey(b"digest", "read", noted)  # what had nothing to note in one hour notes nothing in the next
    monkeypatch.setattr(time, "time", lambda: 3599.9)
    assert len(later.check(reads_only=False)) == 1
    monkeypatch.setattr(time, "time", lambda: 3600.1)
    later.note()
    assert statements(3600.1) == 2


def test_a_use_in_a_transaction_of_several_round_trips_is_noted(user: User, agent: Agent):
    made = make_key(user)
    answer = agent(made["key"]).post("/v1/todos", json={"title": "Keyed"}, headers={"Idempotency-Key": "once"})
    assert answer.status_code == 201
    assert user.client.get(f"/v1/keys/{made['id']}").json()["last_used_at"] is not None


def test_what_fails_is_noted_with_the_next_request(user: User, agent: Agent):
    made = make_key(user)
    client = agent(made["key"])
    links = {"todo_id": str(uuid4()), "conversation_id": str(uuid4())}
    assert client.post("/v1/links", json=links).status_code == 404
    assert client.get("/v1/todos").status_code == 200
    assert user.client.get(f"/v1/keys/{made['id']}").json()["last_used_at"] is not None


def test_an_export_takes_a_key_and_is_noted_as_a_use_of_it(user: User, agent: Agent):
    made = make_key(user, "read")
    answer = agent(made["key"]).get("/v1/export")
    assert answer.status_code == 200
    assert answer.text.endswith('"links":0}\n')
    assert user.client.get(f"/v1/keys/{made['id']}").json()["last_used_at"] is not None


# Scopes


def test_every_route_of_a_signed_in_user_declares_the_scope_that_it_needs():
    assert {
        route.name for route in ROUTES if not route.public and route.handler.opt.get("scope") not in SCOPES
    } == set()
    assert {route.name for route in ROUTES if route.public and "scope" in route.handler.opt} == set()
    writing = {"POST", "PUT", "PATCH", "DELETE"}
    reading = {route.path for route in ROUTES if route.method in writing and route.handler.opt.get("scope") == "read"}
    assert reading == set()


def test_every_route_of_a_protocol_declares_the_scope_that_it_needs():
    declared = {handler.handler_name: handler.opt.get("scope") for handler in PROTOCOL_HANDLERS}
    public = {handler.handler_name for handler in PROTOCOL_HANDLERS if "public" in handler.opt}
    assert {name for name, scope in declared.items() if scope not in SCOPES} == public
    writing = {
        handler.handler_name
        for handler in PROTOCOL_HANDLERS
        if handler.http_methods & {"POST", "PUT", "PATCH", "DELETE"}
    }
    # Of a call of a tool, the tool says what it needs.
    assert {name for name in writing if declared[name] == "read"} == {"call_mcp"}


def routes(*scopes: str) -> list[Route]:
    return [route for route in ROUTES if route.handler.opt.get("scope") in scopes]


BODIES: dict[str, Any] = {
    "change_password": {"current_password": "wrong horse", "new_password": "new horse battery"},
    "create_key": {"name": "Another", "scope": "read"},
    "update_me": {"full_name": "Changed"},
    "create_todo": {"title": "New"},
    "batch_todos": {"create": [{"title": "New"}]},
    "create_conversation": {},
    "ensure_conversation": {"title": "New"},
    "update_conversation": {"title": "New"},
    "create_message": {"sender_type": "user", "content": "Hello"},
    "update_message": {"content": "Changed"},
    "create_turn": {"messages": [{"sender_type": "user", "content": "Hello"}]},
    "create_first_turn": {"messages": [{"sender_type": "user", "content": "Hello"}]},
    "create_link": {"todo_id": str(UUID(int=1)), "conversation_id": str(UUID(int=1))},
    "update_link": {"relationship_type": "update"},
    "update_todo": {"title": "New"},
    "create_task": {"title": "New"},
    "update_task": {"title": "New"},
}


def request(client: httpx.Client, route: Route, user: User) -> httpx.Response:
    path = route.path.format(
        **{
            **dict.fromkeys(route.path_parameters, str(uuid4())),
            "user_id": str(user.id),
            "task_id": "7",
            "change_id": "7",
        }
    )
    if route.takes_upload:
        return client.post(path, content=b"{}\n", headers={"Content-Type": "application/x-ndjson"})
    params = {"from_position": "1"} if route.name == "rewind_messages" else {}
    return client.request(route.method, path, json=BODIES.get(route.name), params=params)


def test_a_key_that_reads_does_nothing_that_writes(user: User, agent: Agent, subtests: pytest.Subtests):
    client = agent(make_key(user, "read")["key"])
    for route in routes("write", "account"):
        with subtests.test(route.name):
            problem(request(client, route, user), 403, "forbidden")


def test_no_key_makes_keys_changes_the_password_or_deletes_the_account(
    user: User, agent: Agent, subtests: pytest.Subtests
):
    client = agent(make_key(user)["key"])
    for route in routes("account"):
        with subtests.test(route.name):
            problem(request(client, route, user), 403, "forbidden")
            assert user.client.get("/v1/users/me").status_code == 200
            assert len(user.client.get("/v1/keys").json()["items"]) == 1


def test_the_account_is_what_is_said_to_be_the_account_s():
    assert {route.name for route in ROUTES if route.handler.opt.get("scope") == "account"} == {
        "change_password",
        "create_key",
        "delete_key",
        "delete_me",
        "logout_everywhere",
    }


def test_no_key_deactivates_the_account(user: User, agent: Agent):
    client = agent(make_key(user)["key"])
    problem(client.patch("/v1/users/me", json={"is_active": False}), 403, "forbidden")
    assert client.patch("/v1/users/me", json={"full_name": "Ada"}).json()["full_name"] == "Ada"


def test_a_key_that_writes_is_asked_no_further(user: User, agent: Agent, subtests: pytest.Subtests):
    for route in routes("write", "read"):
        with subtests.test(route.name):
            made = make_key(user)  # which nothing has proven yet
            assert request(agent(made["key"]), route, user).status_code not in (401, 403)
            user.client.delete(f"/v1/keys/{made['id']}")


# What is no key


def test_another_users_key_is_another_user(user: User, new_user: Callable[..., User], agent: Agent):
    other = new_user()
    todo = other.client.post("/v1/todos", json={"title": "Private"}).json()
    problem(agent(make_key(user)["key"]).get(f"/v1/todos/{todo['id']}"), 404, "not_found")


def test_a_key_that_names_another_user_is_none(user: User, new_user: Callable[..., User], agent: Agent):
    raw = urlsafe_b64decode(make_key(user)["key"].removeprefix("tck_"))
    forged = urlsafe_b64encode(new_user().id.bytes + raw[16:]).decode()
    problem(agent(f"tck_{forged}").get("/v1/todos"), 401, "invalid_token")


def forged(user: User) -> str:
    return "tck_" + urlsafe_b64encode(user.id.bytes + secrets.token_bytes(32)).decode()


def test_until_it_is_proven_a_key_is_counted_on_the_network_that_it_comes_from(user: User, server: Server):
    """Else anybody could take up a user's connections, with keys that only name the user."""
    keys = [forged(user), make_key(user)["key"]]

    async def borrowers(callers: Callable[[UUID], Caller]) -> list[int | str | None]:
        authenticator = Authenticator(callers(user.id).database, None, [])
        found: list[int | str | None] = []
        for key in keys:
            for _ in range(2):
                caller = await authenticator.caller(f"Bearer {key}".encode(), "test", "read", "2001:db8::1")
                found.append(caller._context().borrower)
                with suppress(Problem):
                    await caller.run_all([])
        return found

    network = "2001:db8::/56"
    assert in_process(server.database.service_url, borrowers) == [network, network, network, user.id.int]


def test_the_log_names_no_user_whom_a_key_only_claims(user: User, agent: Agent, server: Server):
    for key, user_id in ((forged(user), None), (make_key(user)["key"], str(user.id))):
        request_id = secrets.token_hex(16)
        agent(key).get("/v1/todos", headers={"X-Request-ID": request_id})
        deadline = time.monotonic() + 10
        while not (lines := [line for line in server.log().splitlines() if request_id in line and "duration" in line]):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert json.loads(lines[0])["user_id"] == user_id


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key[:-1],
        lambda key: key + "A",
        lambda key: key[:-1] + ("A" if key[-1] != "A" else "B"),
        lambda key: key[:-1] + "=",
        lambda key: key[:-1] + "é",
        lambda key: key[:4],
        lambda key: "TCK_" + key[4:],
    ],
)
def test_what_only_looks_like_a_key_is_refused(change: Callable[[str], str], user: User, client: httpx.Client):
    key = change(make_key(user)["key"])
    answer = client.get("/v1/todos", headers={"Authorization": f"Bearer {key}".encode("latin-1")})
    problem(answer, 401, "invalid_token")


def test_a_key_is_sent_like_any_bearer_token(user: User, client: httpx.Client):
    key = make_key(user)["key"]
    for authorization in (f"bearer {key}", f"BEARER {key}", f"Bearer  {key}"):
        assert client.get("/v1/todos", headers={"Authorization": authorization}).status_code == 200
    for authorization in (key, f"Basic {key}"):
        problem(client.get("/v1/todos", headers={"Authorization": authorization}), 401, "unauthenticated")


def test_a_key_that_is_none_is_refused_before_a_large_body_is_taken(user: User, agent: Agent):
    made = make_key(user)
    client = agent(made["key"])
    user.client.delete(f"/v1/keys/{made['id']}")
    answer = client.post("/v1/import", content=b"x" * 2_000_000, headers={"Content-Type": "application/x-ndjson"})
    problem(answer, 401, "invalid_token")


def test_no_key_reads_the_metrics_which_an_access_token_may(user: User, agent: Agent):
    from_elsewhere = {"Via": "1.1 proxy"}
    assert user.client.get("/metrics", headers=from_elsewhere).status_code == 200
    refused = agent(make_key(user)["key"]).get("/metrics", headers=from_elsewhere)
    assert "a local account's access token" in problem(refused, 401, "unauthenticated")["detail"]
