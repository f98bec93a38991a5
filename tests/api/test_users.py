"""Users over HTTP: as they see and change themselves, and as others find them."""

import secrets
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql

from service.users import UNASSIGNED
from tests.conftest import Server
from tests.support.problems import problem

NewUser = Callable[..., Any]

FIELDS = ["id", "email", "username", "full_name", "is_active", "version", "created_at", "updated_at"]
PASSWORD = "correct horse battery staple"


def name() -> str:
    """A username that nobody has."""
    return f"Ada_{secrets.token_hex(5)}"


def register(client: httpx.Client, **fields: Any) -> httpx.Response:
    email = f"ada.{secrets.token_hex(8)}@example.com"
    return client.post("/v1/auth/register", json={"email": email, "password": PASSWORD, **fields})


# Registering


def test_a_registered_user_is_answered_without_a_secret(client: httpx.Client) -> None:
    username = name()
    email = f"Ada.Lovelace+{secrets.token_hex(4)}@Example.ORG"
    made = register(client, email=email, username=username, full_name="Ada — <Lovelace>")
    user = made.json()
    assert (made.status_code, list(user)) == (201, FIELDS)
    expected = {
        "email": email,
        "username": username,
        "full_name": "Ada — <Lovelace>",
        "is_active": True,
        "version": 1,
    }
    assert expected.items() <= user.items()
    assert made.headers["location"] == "/v1/users/me"
    assert made.headers["etag"] == '"1"'
    assert PASSWORD not in made.text


def test_username_and_full_name_may_be_left_out_or_null(client: httpx.Client) -> None:
    for fields in ({}, {"username": None, "full_name": None}):
        user = register(client, **fields).json()
        assert (user["username"], user["full_name"]) == (None, None)


GOOD_EMAILS = [
    "a@b",
    "ada@localhost",
    "ada.lovelace+todo@example.co.uk",
    "!#$%&'*+/=?^_`{|}~-@example.com",
    ".ada..@example.com",
    "ada@xn--bcher-kva.example",
    "ada@127.0.0.1",
    f"{'a' * 187}@{'b' * 63}.org",
]
BAD_EMAILS = [
    "",
    "ada",
    "@example.com",
    "ada@",
    "ada@@example.com",
    "ada@example..com",
    "ada@example.com.",
    "ada@-example.com",
    "ada@example-.com",
    "ada@exam_ple.com",
    "ada lovelace@example.com",
    " ada@example.com",
    "ada@example.com\n",
    "ada@example.com\0",
    '"ada"@example.com',
    "Ada <ada@example.com>",
    "ada@[127.0.0.1]",
    "adé@example.com",
    "ada@bücher.example",
    "\uff41da@example.com",
    f"ada@{'b' * 64}.org",
    f"{'a' * 188}@{'b' * 63}.org",
    f"{'a' * 1000}@example.com",
    None,
    5,
    ["ada@example.com"],
]


@pytest.mark.parametrize("email", GOOD_EMAILS)
def test_an_address_that_a_browsers_form_takes_is_taken(client: httpx.Client, email: str) -> None:
    made = register(client, email=email)
    assert made.status_code == 201, made.text
    assert made.json()["email"] == email
    problem(register(client, email=email), 409, "email_taken")


@pytest.mark.parametrize("email", BAD_EMAILS)
def test_any_other_address_is_refused(client: httpx.Client, email: Any) -> None:
    problem(register(client, email=email), 422, "validation_failed", field="email")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("password", "x" * 7),
        ("password", "x" * 201),
        ("password", ""),
        ("password", None),
        ("password", 12345678),
        ("password", "xxxxxxxx\0"),
        ("username", "ab"),
        ("username", "a" * 51),
        ("username", "ada lovelace"),
        ("username", "adé"),
        ("username", "ada.l"),
        ("username", "ada\n"),
        ("username", "٣٣٣"),
        ("username", ""),
        ("username", 123),
        ("full_name", "x" * 201),
        ("full_name", 5),
        ("full_name", "a\0b"),
        ("is_active", False),
        ("id", "018f4fd2-0000-7000-8000-000000000000"),
        ("password_hash", "x"),
        ("token_version", 1),
    ],
)
def test_a_registration_that_breaks_a_rule_names_the_field(client: httpx.Client, field: str, value: Any) -> None:
    problem(register(client, **{field: value}), 422, "validation_failed", field=field)


@pytest.mark.parametrize("password", ["x" * 8, "x" * 200, "🎉" * 200, "  spaces  ", "\u200b" * 8])
def test_a_password_of_8_to_200_characters_is_taken_as_it_is(client: httpx.Client, password: str) -> None:
    email = register(client, password=password).json()["email"]
    assert client.post("/v1/auth/token", json={"email": email, "password": password}).status_code == 200


def test_addresses_and_usernames_are_unique_regardless_of_case(client: httpx.Client) -> None:
    username = name()
    taken = register(client, username=username).json()
    problem(register(client, email=taken["email"].upper()), 409, "email_taken")
    problem(register(client, username=username.upper()), 409, "username_taken")
    problem(register(client, username=username.lower()), 409, "username_taken")


# Oneself


def test_a_user_sees_and_changes_themselves(new_user: NewUser) -> None:
    ada = new_user()
    me = ada.client.get("/v1/users/me")
    assert list(me.json()) == FIELDS
    assert (me.json()["id"], me.json()["email"], me.headers["etag"]) == (str(ada.id), ada.email, '"1"')
    username = name()
    changed = ada.client.patch("/v1/users/me", json={"username": username, "full_name": "Ada"})
    assert changed.headers["etag"] == '"2"'
    assert changed.json() == {
        **me.json(),
        "username": username,
        "full_name": "Ada",
        "version": 2,
        "updated_at": changed.json()["updated_at"],
    }
    assert changed.json()["updated_at"] > me.json()["updated_at"]
    assert ada.client.get("/v1/users/me").json() == changed.json()
    cleared = ada.client.patch("/v1/users/me", json={"username": None}).json()
    assert (cleared["username"], cleared["full_name"], cleared["version"]) == (None, "Ada", 3)
    assert ada.client.patch("/v1/users/me", json={"full_name": None}).json()["full_name"] is None


@pytest.mark.parametrize("fields", [{}, {"is_active": True}, {"username": None}, {"full_name": None}])
def test_a_patch_that_changes_nothing_moves_nothing(new_module_user: NewUser, fields: dict[str, Any]) -> None:
    ada = new_module_user()
    before = ada.client.get("/v1/users/me").json()
    assert ada.client.patch("/v1/users/me", json=fields).json() == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("username", "ab"),
        ("username", ""),
        ("username", "a b c"),
        ("full_name", "x" * 201),
        ("is_active", None),
        ("is_active", "false"),
        ("is_active", 0),
        ("email", "new@example.com"),
        ("password", "another password"),
        ("version", 2),
        ("id", "018f4fd2-0000-7000-8000-000000000000"),
    ],
)
def test_a_change_that_breaks_a_rule_names_the_field(me: Any, field: str, value: Any) -> None:
    problem(me.client.patch("/v1/users/me", json={field: value}), 422, "validation_failed", field=field)


@pytest.fixture(scope="module")
def me(new_module_user: NewUser) -> Any:
    """A user whom tests share that change nothing."""
    return new_module_user()


def test_a_username_of_somebody_else_is_taken_in_any_case_and_ones_own_is_not(new_user: NewUser) -> None:
    ada, bob = new_user(username=(username := name())), new_user()
    problem(bob.client.patch("/v1/users/me", json={"username": username.upper()}), 409, "username_taken")
    assert ada.client.patch("/v1/users/me", json={"username": username.upper()}).json()["username"] == username.upper()


def test_if_none_match_and_if_match_hold_for_users_too(new_user: NewUser) -> None:
    client = new_user().client
    same = client.get("/v1/users/me", headers={"If-None-Match": '"1"'})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", '"1"')
    stale = {"If-Match": '"2"'}
    problem(client.patch("/v1/users/me", json={"full_name": "x"}, headers=stale), 412, "version_mismatch")
    problem(client.delete("/v1/users/me", headers=stale), 412, "version_mismatch")
    assert client.patch("/v1/users/me", json={"full_name": "x"}, headers={"If-Match": '"1"'}).status_code == 200
    assert client.delete("/v1/users/me", headers=stale).status_code == 204


# Deactivating


@pytest.mark.parametrize("status", ["pending", "in_progress"])
def test_nobody_is_deactivated_while_open_todos_of_their_own_are_assigned_to_them(
    new_user: NewUser, status: str
) -> None:
    bob, boss = new_user(), new_user()
    todo = {"title": "x", "status": status, "assigned_to": str(bob.id)}
    for owner in (bob, boss):
        assert owner.client.post("/v1/todos", json=todo).status_code == 201
    refused = bob.client.patch("/v1/users/me", json={"is_active": False, "full_name": "gone"})
    problem(refused, 409, "active_todos_assigned")
    assert bob.client.get("/v1/users/me").json()["version"] == 1
    assert boss.client.get("/v1/todos/1").json()["assigned_to"] == str(bob.id), "all or nothing"
    assert bob.client.patch("/v1/todos/1", json={"status": "completed"}).status_code == 200
    assert bob.client.patch("/v1/users/me", json={"is_active": False}).json()["is_active"] is False


def test_nobody_is_kept_from_deactivating_by_todos_of_others(new_user: NewUser) -> None:
    bob, ada, eve = new_user(), new_user(), new_user()
    made = {
        (owner, status): owner.client.post(
            "/v1/todos", json={"title": "x", "status": status, "assigned_to": str(bob.id)}
        ).json()
        for owner in (ada, eve)
        for status in ("pending", "in_progress", "completed", "archived")
    }
    untouched = ada.client.post("/v1/todos", json={"title": "y", "assigned_to": str(eve.id)}).json()
    headers = {"X-Request-ID": "bob-leaves"}
    left = bob.client.patch("/v1/users/me", json={"is_active": False}, headers=headers)
    assert (left.status_code, left.json()["is_active"]) == (200, False)

    for (owner, status), todo in made.items():
        found = owner.client.get(f"/v1/todos/{todo['id']}").json()
        if status in {"completed", "archived"}:
            assert found == todo, "what is closed keeps who it was assigned to"
            continue
        assert found == {**todo, "assigned_to": None, "version": 2, "updated_at": found["updated_at"]}
        trail = owner.client.get("/v1/audit", params={"row_id": todo["id"]}).json()["items"]
        assert [(entry["action"], entry["actor_id"], entry["request_id"]) for entry in trail[:1]] == [
            ("update", str(bob.id), "bob-leaves")
        ]
        assert trail[0]["changes"]["assigned_to"] == [str(bob.id), None]
        assert trail[0]["user_id"] == str(owner.id)
    assert ada.client.get(f"/v1/todos/{untouched['id']}").json() == untouched


@pytest.mark.parametrize("erases", [False, True], ids=["deactivating", "erasing"])
def test_nobody_is_kept_by_very_many_todos_of_others(new_user: NewUser, server: Server, erases: bool) -> None:
    """One transaction would take too long for them: most are unassigned ahead of it, some at a time."""
    bob, ada = new_user(), new_user()
    with psycopg.connect(server.database.superuser_url) as superuser:
        superuser.execute(
            "INSERT INTO todos (user_id, number, title, assigned_to)"
            " SELECT %s, n, 'x', %s FROM generate_series(1, %s) AS n",
            (ada.id, bob.id, 2 * UNASSIGNED + 10),
        )
    bob.client.timeout = httpx.Timeout(60)
    stale = {"If-Match": '"999"'}
    if erases:
        problem(bob.client.delete("/v1/users/me?erase=true", headers=stale), 412, "version_mismatch")
    else:
        problem(bob.client.patch("/v1/users/me", json={"is_active": False}, headers=stale), 412, "version_mismatch")
        own = bob.client.post("/v1/todos", json={"title": "x", "assigned_to": str(bob.id)}).json()["id"]
        refused = bob.client.patch("/v1/users/me", json={"is_active": False})
        problem(refused, 409, "active_todos_assigned")
        bob.client.delete(f"/v1/todos/{own}")
        ada.client.patch("/v1/users/me", json={"username": (taken := name())})
        refused = bob.client.patch("/v1/users/me", json={"is_active": False, "username": taken})
        problem(refused, 409, "username_taken")
    steps = (
        "SELECT count(*), count(DISTINCT at) FROM audit_log"
        " WHERE user_id = %s AND table_name = 'todos' AND action = 'update'"
    )
    with psycopg.connect(server.database.superuser_url, autocommit=True) as superuser:
        assert superuser.execute(steps, (ada.id,)).fetchone() == (0, 0), "what is refused unassigns nothing"
        if erases:
            assert bob.client.delete("/v1/users/me?erase=true").status_code == 204
        else:
            assert bob.client.patch("/v1/users/me", json={"is_active": False}).status_code == 200
        assert superuser.execute(steps, (ada.id,)).fetchone() == (2 * UNASSIGNED + 10, 3)
        left = "SELECT count(*) FROM todos WHERE assigned_to = %s"
        assert superuser.execute(left, (bob.id,)).fetchone() == (0,)


@pytest.mark.parametrize("erases", [False, True], ids=["deactivating", "erasing"])
def test_no_transaction_of_others_keeps_a_user_from_leaving(new_user: NewUser, server: Server, erases: bool) -> None:
    """An import of two minutes that assigns a todo to somebody would keep them from it for as long."""
    bob, ada = new_user(), new_user()
    with psycopg.connect(server.database.service_url) as other:
        other.execute(sql.SQL("SET LOCAL app.user_id = {}").format(str(ada.id)))
        other.execute("INSERT INTO todos (user_id, title, assigned_to) VALUES (%s, 'x', %s)", (ada.id, bob.id))
        assert bob.client.post("/v1/keys", json={"name": "Agent", "scope": "read"}).status_code == 201
        if erases:
            assert bob.client.delete("/v1/users/me?erase=true").status_code == 204
        else:
            assert bob.client.patch("/v1/users/me", json={"is_active": False}).status_code == 200
        with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.ForeignKeyViolation)):
            other.commit()


def test_own_todos_that_are_not_assigned_do_not_keep_anybody_active(new_user: NewUser) -> None:
    bob = new_user()
    assert bob.client.post("/v1/todos", json={"title": "x"}).status_code == 201
    assert bob.client.patch("/v1/users/me", json={"is_active": False}).status_code == 200


# Deleting


def test_a_user_who_owns_records_is_not_deleted(new_user: NewUser) -> None:
    ada = new_user()
    assert ada.client.post("/v1/todos", json={"title": "x"}).status_code == 201
    problem(ada.client.delete("/v1/users/me"), 409, "user_has_records")
    assert ada.client.get("/v1/todos/1").status_code == 200
    assert ada.client.delete("/v1/todos/1").status_code == 204
    gone = ada.client.delete("/v1/users/me")
    assert (gone.status_code, gone.content) == (204, b"")
    problem(ada.client.get("/v1/users/me"), 401, "invalid_token")


def test_a_deleted_users_address_and_name_are_free_again(new_user: NewUser, client: httpx.Client) -> None:
    ada = new_user(username=(username := name()))
    assert ada.client.delete("/v1/users/me").status_code == 204
    assert register(client, email=ada.email, username=username).status_code == 201


def test_whoever_is_deleted_is_taken_off_the_todos_of_others(new_user: NewUser) -> None:
    ada, bob = new_user(), new_user()
    ada.client.post("/v1/todos", json={"title": "x", "assigned_to": str(bob.id)})
    assert bob.client.delete("/v1/users/me").status_code == 204
    assert ada.client.get("/v1/todos/1").json()["assigned_to"] is None


# Finding others


def test_a_user_is_found_by_their_whole_username_in_any_case(new_user: NewUser) -> None:
    eve, ada = new_user(), new_user(username=(username := name()), full_name=(full_name := name()))
    for query in (username, username.upper(), username.lower()):
        found = eve.client.get("/v1/users", params={"username": query})
        item = {"id": str(ada.id), "username": username, "full_name": full_name}
        assert found.json() == {"items": [item], "next_cursor": None}
        assert "link" not in found.headers
    for query in (username[:-1], username + "_", name(), "___", full_name):
        assert eve.client.get("/v1/users", params={"username": query}).json() == {"items": [], "next_cursor": None}
    assert len(eve.client.get("/v1/users", params={"username": username, "limit": 1}).json()["items"]) == 1
    problem(eve.client.get("/v1/users", params={"username": username, "cursor": "x"}), 422, "invalid_cursor")


def test_whoever_is_inactive_is_not_found(new_user: NewUser) -> None:
    eve, ada = new_user(), new_user(username=(username := name()))
    assert ada.client.patch("/v1/users/me", json={"is_active": False}).status_code == 200
    assert eve.client.get("/v1/users", params={"username": username}).json()["items"] == []


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({}, "username"),
        ({"username": ""}, "username"),
        ({"username": "%"}, "username"),
        ({"username": "a b"}, "username"),
        ({"username": ["abc", "abd"]}, "username"),
        ({"username": "abc", "email": "x"}, "email"),
        ({"username": "abc", "limit": "0"}, "limit"),
    ],
)
def test_a_search_that_breaks_a_rule_names_the_parameter(me: Any, parameters: dict[str, Any], field: str) -> None:
    problem(me.client.get("/v1/users", params=parameters), 422, "validation_failed", field=field)
