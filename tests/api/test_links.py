"""Links over HTTP: between a todo and a conversation, made by themselves and together with a todo."""

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from service.http.paging import encode_cursor
from service.links import LinkFilters
from tests.conftest import Server
from tests.support.problems import problem

NewUser = Callable[..., Any]

FIELDS = ["id", "user_id", "todo_id", "conversation_id", "relationship_type", "created_at"]
TYPES = ("discussion", "update", "creation")
NOBODY = "018f4fd2-0000-7000-8000-000000000000"


def todo(client: httpx.Client, title: str = "Buy milk", **fields: Any) -> Any:
    made = client.post("/v1/todos", json={"title": title, **fields})
    assert made.status_code == 201, made.text
    return made.json()


def conversation(client: httpx.Client, **fields: Any) -> Any:
    made = client.post("/v1/conversations", json=fields)
    assert made.status_code == 201, made.text
    return made.json()


def link(client: httpx.Client, one: Any, other: Any, relationship_type: str = "discussion") -> Any:
    body = {"todo_id": one["id"], "conversation_id": other["id"], "relationship_type": relationship_type}
    made = client.post("/v1/links", json=body)
    assert made.status_code == 201, made.text
    return made.json()


def get(client: httpx.Client, path: str, **parameters: Any) -> Any:
    answer = client.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def links(client: httpx.Client, **parameters: Any) -> list[Any]:
    return get(client, "/v1/links", **parameters)["items"]


def ends(client: httpx.Client, **parameters: Any) -> set[tuple[str, str, str]]:
    found = links(client, **parameters)
    made = {(item["todo_id"], item["conversation_id"], item["relationship_type"]) for item in found}
    assert len(made) == len(found)
    return made


def walk(client: httpx.Client, path: str, **parameters: Any) -> list[Any]:
    """Every item of the list, page by page."""
    items: list[Any] = []
    cursor: dict[str, str] = {}
    for _ in range(100):
        page = get(client, path, **parameters, **cursor)
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        cursor = {"cursor": page["next_cursor"]}
    pytest.fail("the list does not end")


def shown(answer: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    """All of an answer but when it was given."""
    return answer.status_code, {name: value for name, value in answer.headers.items() if name != "date"}, answer.content


@pytest.fixture(scope="module")
def client(new_module_user: NewUser) -> httpx.Client:
    """Of a user whom those tests share that don't mind what else the user has."""
    return new_module_user().client


def test_a_link_is_made_and_can_be_read_back(new_user: NewUser) -> None:
    ada = new_user()
    milk, talk = todo(ada.client), conversation(ada.client)
    made = ada.client.post("/v1/links", json={"todo_id": milk["id"], "conversation_id": talk["id"]})
    found = made.json()
    assert made.status_code == 201
    assert list(found) == FIELDS
    expected = {
        "user_id": str(ada.id),
        "todo_id": milk["id"],
        "conversation_id": talk["id"],
        "relationship_type": "discussion",
    }
    assert expected.items() <= found.items()
    assert UUID(found["id"]).version == 7
    assert made.headers["location"] == f"/v1/links/{found['id']}"
    read = ada.client.get(made.headers["location"])
    assert read.json() == found
    assert read.headers["etag"] == made.headers["etag"] == '"1"'
    assert ada.client.get(made.headers["location"], headers={"If-None-Match": '"1"'}).status_code == 304


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"todo_id": None}, "todo_id"),
        ({"todo_id": 1}, "todo_id"),
        ({"todo_id": "1"}, "todo_id"),
        ({"conversation_id": "x"}, "conversation_id"),
        ({"relationship_type": "other"}, "relationship_type"),
        ({"relationship_type": None}, "relationship_type"),
        ({"user_id": NOBODY}, "user_id"),
        ({"metadata": {}}, "metadata"),
    ],
)
def test_a_field_that_breaks_a_rule_is_named(client: httpx.Client, fields: dict[str, Any], field: str) -> None:
    body = {"todo_id": NOBODY, "conversation_id": NOBODY, **fields}
    problem(client.post("/v1/links", json=body), 422, "validation_failed", field=field)
    for missing in ("todo_id", "conversation_id"):
        less = {name: value for name, value in body.items() if name != missing} if fields.keys() - {missing} else {}
        problem(client.post("/v1/links", json=less), 422, "validation_failed")


def test_there_is_one_link_for_each_todo_conversation_and_type(client: httpx.Client) -> None:
    milk, talk = todo(client), conversation(client)
    made = [link(client, milk, talk, kind) for kind in TYPES]
    for kind in TYPES:
        body = {"todo_id": milk["id"], "conversation_id": talk["id"], "relationship_type": kind}
        problem(client.post("/v1/links", json=body), 409, "link_exists")
    for kind in TYPES[1:]:
        refused = client.patch(f"/v1/links/{made[0]['id']}", json={"relationship_type": kind})
        problem(refused, 409, "link_exists")
    assert links(client, todo_id=milk["id"]) == made[::-1]


def test_of_many_equal_links_made_at_once_one_stays(new_user: NewUser) -> None:
    client = new_user().client
    body = {"todo_id": todo(client)["id"], "conversation_id": conversation(client)["id"]}
    barrier = threading.Barrier(8)

    def make(_: int) -> int:
        barrier.wait(20)
        return client.post("/v1/links", json=body).status_code

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(make, range(8))) == [201] + [409] * 7
    assert len(links(client)) == 1


def test_a_patch_changes_the_type_and_the_etag_guards_it(client: httpx.Client) -> None:
    made = link(client, todo(client), conversation(client))
    path = f"/v1/links/{made['id']}"
    changed = client.patch(path, json={"relationship_type": "update"}, headers={"If-Match": '"1"'})
    assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')
    assert changed.json() == {**made, "relationship_type": "update"}
    for nothing in ({}, {"relationship_type": "update"}):
        same = client.patch(path, json=nothing)
        assert (same.json(), same.headers["etag"]) == (changed.json(), '"2"')
    for stale in ('"1"', '"3"', "2"):
        refused = client.patch(path, json={"relationship_type": "creation"}, headers={"If-Match": stale})
        problem(refused, 412, "version_mismatch")
        problem(client.delete(path, headers={"If-Match": stale}), 412, "version_mismatch")
    for field in ("todo_id", "conversation_id"):
        problem(client.patch(path, json={field: made[field]}), 422, "validation_failed", field=field)
    problem(client.patch(path, json={"relationship_type": None}), 422, "validation_failed", field="relationship_type")
    assert get(client, path) == changed.json()
    assert client.delete(path, headers={"If-Match": '"2"'}).status_code == 204
    problem(client.delete(path), 404, "not_found")
    problem(client.get(path), 404, "not_found")


def test_deleting_a_link_leaves_both_ends_and_deleting_an_end_takes_the_link(client: httpx.Client) -> None:
    milk, talk = todo(client), conversation(client)
    client.delete(f"/v1/links/{link(client, milk, talk)['id']}")
    assert get(client, f"/v1/todos/{milk['id']}") == milk
    assert get(client, f"/v1/conversations/{talk['id']}") == talk
    for path in (f"/v1/todos/{milk['id']}", f"/v1/conversations/{talk['id']}"):
        made = link(client, todo(client) if "conversations" in path else milk, talk)
        assert client.delete(path).status_code == 204
        problem(client.get(f"/v1/links/{made['id']}"), 404, "not_found")


# Between users


def test_a_link_to_or_of_somebody_else_is_answered_byte_for_byte_like_a_missing_one(new_user: NewUser) -> None:
    ada, eve = new_user(), new_user()
    adas, eves = (todo(ada.client), conversation(ada.client)), (todo(eve.client), conversation(eve.client))
    secret = link(ada.client, *adas)
    headers = {"X-Request-ID": "same"}

    def same(method: str, path: str, missing: str, body: Any = None, other: Any = None) -> None:
        answers = [
            eve.client.request(method, place, json=sent, headers=headers)
            for place, sent in ((path, body), (missing, other if other is not None else body))
        ]
        problem(answers[0], 404, "not_found")
        assert shown(answers[0]) == shown(answers[1])

    nothing = {"todo_id": NOBODY, "conversation_id": NOBODY}
    for milk, talk in ((adas[0], adas[1]), (adas[0], eves[1]), (eves[0], adas[1])):
        same("POST", "/v1/links", "/v1/links", {"todo_id": milk["id"], "conversation_id": talk["id"]}, nothing)
    for method, body in (("GET", None), ("PATCH", {"relationship_type": "update"}), ("PATCH", {}), ("DELETE", None)):
        same(method, f"/v1/links/{secret['id']}", f"/v1/links/{NOBODY}", body)
    for end, which in (("todos", 0), ("conversations", 1)):
        other = "conversations" if end == "todos" else "todos"
        same("GET", f"/v1/{end}/{adas[which]['id']}/{other}", f"/v1/{end}/{NOBODY}/{other}")
    # With a todo
    creation, unknown = ({"title": "x", "conversation_id": found} for found in (adas[1]["id"], NOBODY))
    same("POST", "/v1/todos", "/v1/todos", creation, unknown)
    same(
        "PATCH",
        f"/v1/todos/{eves[0]['id']}",
        f"/v1/todos/{eves[0]['id']}",
        {"conversation_id": adas[1]["id"]},
        {"conversation_id": NOBODY},
    )
    same("PATCH", f"/v1/todos/{adas[0]['id']}", f"/v1/todos/{NOBODY}", {"conversation_id": eves[1]["id"]})
    same("PATCH", f"/v1/todos/{adas[0]['id']}", f"/v1/todos/{NOBODY}", {"conversation_id": adas[1]["id"], "title": "x"})
    for parameters in ({"todo_id": adas[0]["id"]}, {"conversation_id": adas[1]["id"]}, {}):
        assert links(eve.client, **parameters) == []
    assert links(ada.client) == [secret]
    assert get(ada.client, f"/v1/todos/{adas[0]['id']}") == adas[0]
    assert get(eve.client, "/v1/todos")["items"] == [eves[0]]


def attempt(connection: "psycopg.Connection[Any]", role: str, user_id: UUID | None, query: str, values: Any) -> Any:
    """The SQLSTATE of the refusal, or how many rows were changed. Nothing of it stays."""
    try:
        if role:
            connection.execute(f"SET LOCAL ROLE {role}")
        if user_id is not None:
            connection.execute(f"SET LOCAL app.user_id = '{user_id}'")
        return connection.execute(query, values).rowcount
    except psycopg.Error as error:
        return error.sqlstate
    finally:
        connection.rollback()


REFUSED = ("23503", "23514", "42501", 0)
"""By a foreign key, a check, a privilege or row security; or row security leaves nothing to change."""

LOGINS = [("service_url", ""), ("owner_url", "todochat_owner"), ("superuser_url", "")]


@pytest.mark.parametrize(("login", "role"), LOGINS)
def test_a_link_between_two_peoples_rows_is_impossible_in_sql(
    new_user: NewUser, server: Server, login: str, role: str
) -> None:
    ada, eve = new_user(), new_user()
    adas, eves = (todo(ada.client), conversation(ada.client)), (todo(eve.client), conversation(eve.client))
    own = link(eve.client, *eves)
    insert = "INSERT INTO todo_conversation_links (user_id, todo_id, conversation_id) VALUES (%s, %s, %s)"
    right = (
        "INSERT INTO todo_conversation_links (user_id, todo_id, conversation_id, relationship_type)"
        " VALUES (%s, %s, %s, 'update')"
    )
    attempts = [
        (insert, (user.id, milk["id"], talk["id"]))
        for user, milk, talk in itertools.product((ada, eve), (adas[0], eves[0]), (adas[1], eves[1]))
        if (milk, talk) != (adas if user is ada else eves)
    ]
    attempts += [
        ("UPDATE todo_conversation_links SET todo_id = %s WHERE id = %s", (adas[0]["id"], own["id"])),
        ("UPDATE todo_conversation_links SET conversation_id = %s WHERE id = %s", (adas[1]["id"], own["id"])),
        ("UPDATE todo_conversation_links SET user_id = %s WHERE id = %s", (ada.id, own["id"])),
    ]
    with psycopg.connect(getattr(server.database, login)) as connection:
        for acting, (statement, values) in itertools.product((ada, eve, None), attempts):
            outcome = attempt(connection, role, acting and acting.id, statement, values)
            assert outcome in (REFUSED if login != "superuser_url" else ("23503", "23514"))
        for user, ends_ in ((ada, adas), (eve, eves)):  # what is right is not refused
            values = (user.id, ends_[0]["id"], ends_[1]["id"])
            assert attempt(connection, role, user.id, right, values) == 1
    assert (links(ada.client), links(eve.client)) == ([], [own])


# Lists


def test_the_filters_keep_what_they_say_together_and_page_by_page(new_user: NewUser) -> None:
    client = new_user().client
    todos = [todo(client, str(number)) for number in range(3)]
    talks = [conversation(client) for _ in range(3)]
    made = [
        link(client, one, other, kind)
        for one, other, kind in itertools.product(todos, talks, TYPES)
        if (one, other) != (todos[2], talks[2])
    ][::-1]
    choices = ((None, *todos), (None, *talks), (None, *TYPES))
    for one, other, kind in itertools.product(*choices):
        wanted = {
            "todo_id": one and one["id"],
            "conversation_id": other and other["id"],
            "relationship_type": kind,
        }
        parameters = {name: value for name, value in wanted.items() if value is not None}
        expected = [item for item in made if all(item[name] == value for name, value in parameters.items())]
        assert links(client, **parameters) == expected
        assert walk(client, "/v1/links", **parameters, limit=2) == expected
    assert links(client, todo_id=str(uuid4())) == []
    first = client.get("/v1/links", params={"limit": 1, "todo_id": todos[0]["id"]})
    assert f"todo_id={todos[0]['id']}" in first.headers["link"]
    assert 'rel="next"' in first.headers["link"]


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"todo_id": "1"}, "todo_id"),
        ({"conversation_id": "x"}, "conversation_id"),
        ({"relationship_type": "other"}, "relationship_type"),
        ({"limit": "0"}, "limit"),
        ({"order": "created_at"}, "order"),
    ],
)
def test_a_parameter_that_is_unknown_or_wrong_is_refused_by_name(
    client: httpx.Client, parameters: dict[str, str], field: str
) -> None:
    problem(client.get("/v1/links", params=parameters), 422, "validation_failed", field=field)


def test_a_cursor_holds_for_its_own_list_only(new_user: NewUser) -> None:
    client = new_user().client
    milk, talk = todo(client), conversation(client)
    for kind in TYPES:
        link(client, milk, talk, kind)
        link(client, todo(client), talk, kind)
        link(client, milk, conversation(client), kind)
    of_todo, of_talk = f"/v1/todos/{milk['id']}/conversations", f"/v1/conversations/{talk['id']}/todos"
    lists: list[tuple[str, dict[str, str]]] = [
        ("/v1/links", {}),
        ("/v1/links", {"todo_id": milk["id"]}),
        ("/v1/links", {"conversation_id": talk["id"]}),
        ("/v1/links", {"relationship_type": "update"}),
        (of_todo, {}),
        (of_talk, {}),
    ]
    cursors = [get(client, path, limit=1, **parameters)["next_cursor"] for path, parameters in lists]
    for (path, parameters), (number, cursor) in itertools.product(lists, enumerate(cursors)):
        answer = client.get(path, params={**parameters, "cursor": cursor})
        if (path, parameters) == lists[number]:
            assert answer.status_code == 200
        else:
            problem(answer, 422, "invalid_cursor")
    questions = {
        "/v1/links": LinkFilters(limit=1),
        of_todo: ("todo", milk["id"]),
        of_talk: ("conversation", talk["id"]),
    }
    for path, question in questions.items():
        for key in [(), ("x",), (1,), (None,), (uuid4(), 1)]:
            problem(client.get(path, params={"cursor": encode_cursor(question, key)}), 422, "invalid_cursor")


def test_the_objects_themselves_are_listed_once_each_however_they_are_linked(new_user: NewUser) -> None:
    client = new_user().client
    todos = [todo(client, str(number)) for number in range(5)]
    talks = [conversation(client) for _ in range(5)]
    for one, other in itertools.product(todos[:4], talks[:4]):
        for kind in TYPES[: 1 + (todos.index(one) + talks.index(other)) % 3]:
            link(client, one, other, kind)
    for limit in (1, 2, 3, 4, 200):
        assert walk(client, f"/v1/conversations/{talks[0]['id']}/todos", limit=limit) == todos[:4]
        assert walk(client, f"/v1/todos/{todos[0]['id']}/conversations", limit=limit) == talks[:4]
        assert walk(client, f"/v1/todos/{todos[0]['number']}/conversations", limit=limit) == talks[:4]
    assert get(client, f"/v1/conversations/{talks[4]['id']}/todos") == {"items": [], "next_cursor": None}
    assert get(client, f"/v1/todos/{todos[4]['id']}/conversations") == {"items": [], "next_cursor": None}
    for path in (
        f"/v1/conversations/{NOBODY}/todos",
        f"/v1/todos/{NOBODY}/conversations",
        "/v1/todos/99/conversations",
    ):
        problem(client.get(path), 404, "not_found")


def test_an_assignee_sees_nothing_of_the_conversations_behind_a_todo(new_user: NewUser) -> None:
    ada, bob = new_user(), new_user()
    talk = conversation(ada.client, title="secret")
    milk = todo(ada.client, assigned_to=str(bob.id), conversation_id=talk["id"])
    assert get(bob.client, f"/v1/todos/{milk['id']}") == milk
    problem(bob.client.get(f"/v1/todos/{milk['id']}/conversations"), 404, "not_found")
    assert links(bob.client, todo_id=milk["id"]) == []
    own = conversation(bob.client)
    body = {"todo_id": milk["id"], "conversation_id": own["id"]}
    problem(bob.client.post("/v1/links", json=body), 404, "not_found")


# Together with a todo


def test_a_todo_made_in_a_conversation_carries_a_creation_link_and_a_changed_one_an_update_link(
    new_user: NewUser,
) -> None:
    client = new_user().client
    talk, later = conversation(client), conversation(client)
    milk = todo(client, conversation_id=talk["id"])
    assert "conversation_id" not in milk
    assert ends(client) == {(milk["id"], talk["id"], "creation")}
    changed = client.patch(f"/v1/todos/{milk['id']}", json={"title": "Oat milk", "conversation_id": later["id"]})
    assert (changed.status_code, changed.json()["title"], changed.headers["etag"]) == (200, "Oat milk", '"2"')
    expected = {(milk["id"], talk["id"], "creation"), (milk["id"], later["id"], "update")}
    assert ends(client) == expected
    # Again, by number, with a guard, and without a change: the link that is there is enough, and nothing moves.
    for path, fields in ((milk["id"], {"title": "Oat milk"}), (milk["number"], {})):
        again = client.patch(
            f"/v1/todos/{path}", json={**fields, "conversation_id": later["id"]}, headers={"If-Match": '"2"'}
        )
        assert (again.status_code, again.json()) == (200, changed.json())
    assert ends(client) == expected
    third = conversation(client)
    assert client.patch(f"/v1/todos/{milk['number']}", json={"conversation_id": third["id"]}).json() == changed.json()
    assert ends(client) == expected | {(milk["id"], third["id"], "update")}
    assert todo(client, conversation_id=None)["number"] == 2
    assert len(ends(client)) == 3


def test_a_todo_and_its_link_come_together_or_not_at_all(new_user: NewUser) -> None:
    client = new_user().client
    talk = conversation(client)
    milk = todo(client)
    path = f"/v1/todos/{milk['id']}"
    problem(client.post("/v1/todos", json={"title": "x", "conversation_id": NOBODY}), 404, "not_found")
    problem(client.patch(path, json={"title": "x", "conversation_id": NOBODY}), 404, "not_found")
    stale = client.patch(path, json={"title": "x", "conversation_id": talk["id"]}, headers={"If-Match": '"9"'})
    problem(stale, 412, "version_mismatch")
    wrong = client.patch(path, json={"status": "archived", "conversation_id": talk["id"]})
    assert wrong.status_code == 200
    refused = client.patch(path, json={"status": "completed", "conversation_id": conversation(client)["id"]})
    problem(refused, 409, "invalid_transition")
    for body in ({"conversation_id": "x"}, {"conversation_id": 1}):
        problem(client.patch(path, json=body), 422, "validation_failed", field="conversation_id")
        problem(
            client.post("/v1/todos", json={"title": "x", **body}), 422, "validation_failed", field="conversation_id"
        )
    assert ends(client) == {(milk["id"], talk["id"], "update")}
    assert [item["title"] for item in get(client, "/v1/todos")["items"]] == ["Buy milk"]
    assert todo(client)["number"] == 2


def test_an_assignee_may_not_link_even_with_a_status_they_may_set(new_user: NewUser) -> None:
    ada, bob = new_user(), new_user()
    milk = todo(ada.client, assigned_to=str(bob.id))
    own, adas = conversation(bob.client), conversation(ada.client)
    for found in (own["id"], adas["id"], NOBODY):
        for body in ({"conversation_id": found}, {"status": "completed", "conversation_id": found}):
            problem(bob.client.patch(f"/v1/todos/{milk['id']}", json=body), 403, "forbidden")
            batch = {"update": [{"id": milk["id"], **body}]}
            refused = bob.client.post("/v1/todos/batch", json=batch)
            problem(refused, 403, "forbidden", list="update", index=0)
    assert get(ada.client, f"/v1/todos/{milk['id']}") == milk
    assert links(ada.client) == links(bob.client) == []
    assert bob.client.patch(f"/v1/todos/{milk['id']}", json={"status": "completed"}).status_code == 200


def test_a_batch_links_what_it_makes_and_changes_or_nothing_at_all(new_user: NewUser) -> None:
    client = new_user().client
    talk, later = conversation(client), conversation(client)
    old = [todo(client, f"old {number}") for number in range(3)]
    batch: dict[str, Any] = {
        "create": [
            {"title": "new 0", "conversation_id": talk["id"]},
            {"title": "new 1"},
            {"title": "new 2", "conversation_id": later["id"]},
        ],
        "update": [
            {"id": old[0]["id"], "title": "changed 0"},
            {"id": old[1]["number"], "title": "changed 1", "conversation_id": talk["id"]},
            {"id": old[2]["id"], "conversation_id": talk["id"]},
            {"id": old[1]["id"], "conversation_id": talk["id"]},
        ],
        "delete": [old[2]["number"]],
    }
    made = client.post("/v1/todos/batch", json=batch).json()
    assert [item["title"] for item in made["create"]] == ["new 0", "new 1", "new 2"]
    assert [item["title"] for item in made["update"]] == ["changed 0", "changed 1", "old 2", "changed 1"]
    assert made["delete"] == [old[2]["id"]]
    expected = {
        (made["create"][0]["id"], talk["id"], "creation"),
        (made["create"][2]["id"], later["id"], "creation"),
        (old[1]["id"], talk["id"], "update"),
    }
    assert ends(client) == expected
    before = get(client, "/v1/todos")
    for bad, list_name, index in (
        ({**batch, "create": [*batch["create"], {"title": "x", "conversation_id": NOBODY}], "delete": []}, "create", 3),
        (
            {
                "create": batch["create"],
                "update": [{"id": 1, "conversation_id": later["id"]}, {"id": 2, "conversation_id": NOBODY}],
            },
            "update",
            1,
        ),
        (
            {"update": [{"id": 1, "conversation_id": later["id"]}, {"id": 99, "conversation_id": talk["id"]}]},
            "update",
            1,
        ),
        ({"create": batch["create"], "delete": [1, 99]}, "delete", 1),
    ):
        if list_name == "create":
            bad["update"] = []
        refused = client.post("/v1/todos/batch", json=bad)
        problem(refused, 404, "not_found", list=list_name, index=index)
    assert ends(client) == expected
    assert get(client, "/v1/todos") == before
