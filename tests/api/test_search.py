"""Finding things again: by words, by metadata, by a client's own id, and in an order that skips nothing."""

import itertools
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest

from service.search import LOOKED_AT
from tests.conftest import Server, User
from tests.support.problems import problem


@pytest.fixture
def user(new_user: Callable[..., User]) -> User:
    return new_user()


def listed(client: httpx.Client, path: str, **parameters: Any) -> list[Any]:
    return list(walk(client, path, **parameters))


def walk(client: httpx.Client, path: str, **parameters: Any) -> Iterator[Any]:
    while True:
        page = client.get(path, params=parameters).raise_for_status().json()
        yield from page["items"]
        if page["next_cursor"] is None:
            return
        parameters["cursor"] = page["next_cursor"]


# Words and metadata


@pytest.fixture(scope="module")
def looker(new_module_user: Callable[..., User]) -> User:
    """A user with three todos, shared by tests that only look for something."""
    user = new_module_user()
    user.client.post("/v1/todos", json={"title": "Buy Milk", "description": "Two litres"})
    user.client.post("/v1/todos", json={"title": "Milkshake"})
    user.client.post("/v1/todos", json={"title": "Call åse", "description": "100%"})
    return user


WORDS: dict[str, set[int]] = {
    "milk": {1, 2},
    "MILK": {1, 2},
    "milk buy": {1},
    "two litres": {1},
    "  litres \t two ": {1},
    "100%": {3},
    "_": set(),
    "ÅSE": {3},
    "nothing": set(),
}


@pytest.mark.parametrize("scope", ["owned", "all"])
def test_todos_are_found_by_all_words_in_title_or_description(looker: User, scope: str, subtests: pytest.Subtests):
    for q, order in itertools.product(WORDS, ("-created_at", "due_date", "number", "-updated_at", "priority")):
        with subtests.test(q=q, order=order):
            items = listed(looker.client, "/v1/todos", q=q, scope=scope, order=order, limit=1)
            assert {item["number"] for item in items} == WORDS[q]


def test_conversations_are_found_by_words_and_metadata(user: User):
    made = {
        title: user.client.post("/v1/conversations", json={"title": title, "metadata": {"label": title[0]}}).json()[
            "id"
        ]
        for title in ("Shopping list", "Shopping", "Travel")
    }
    user.client.post("/v1/conversations", json={})

    def ids(**parameters: Any) -> set[str]:
        return {item["id"] for item in listed(user.client, "/v1/conversations", **parameters)}

    assert ids(q="SHOPPING") == {made["Shopping"], made["Shopping list"]}
    assert ids(q="list shop", messages=2) == {made["Shopping list"]}
    assert ids(metadata='{"label":"T"}') == {made["Travel"]}
    assert ids(metadata='{"label":"T"}', q="shop") == set()
    assert len(ids(metadata="{}")) == 4


def test_a_letter_is_found_in_each_of_its_cases(user: User):
    texts = (
        "\u03bf\u03b4\u03cc\u03c2",
        "\u039f\u0394\u038c\u03a3",
        "\u0130stanbul",
        "Stra\u1e9ee",
    )
    for text in texts:
        user.client.post("/v1/todos", json={"title": text}).raise_for_status()
        user.client.post("/v1/turns", json={"title": text, "messages": [{"sender_type": "user", "content": text}]})
    for path in ("/v1/todos", "/v1/conversations", "/v1/messages"):
        for q, count in (
            (texts[0], 2),
            (texts[1], 2),
            (texts[1].lower()[:-1] + "\u03c3", 2),
            ("STRA\u00dfE", 1),
            ("istanbul", 1),
        ):
            assert len(listed(user.client, path, q=q)) == count, (path, q)


def test_todos_are_found_by_what_their_metadata_contains(user: User):
    for metadata in ({"labels": ["home", "urgent"], "source": {"id": 7}}, {"labels": ["work"]}, {}):
        user.client.post("/v1/todos", json={"title": "x", "metadata": metadata})
    for wanted, numbers in (
        ({"labels": ["home"]}, [1]),
        ({"source": {"id": 7}}, [1]),
        ({"source": {"id": 7.0}}, [1]),
        ({"source": {"id": "7"}}, []),
        ({"labels": []}, [1, 2]),
        ({}, [1, 2, 3]),
    ):
        items = listed(user.client, "/v1/todos", metadata=json.dumps(wanted), order="number", limit=1)
        assert [item["number"] for item in items] == numbers


SENSELESS = [
    ("q", ""),
    ("q", "   "),
    ("q", "x" * 201),
    ("metadata", ""),
    ("metadata", "[]"),
    ("metadata", "{"),
    ("metadata", '{"a":1,"a":2}'),
    ("metadata", '{"a":"\\u0000"}'),
]


@pytest.mark.parametrize("path", ["/v1/todos", "/v1/conversations", "/v1/messages"])
def test_what_can_t_be_looked_for_is_refused(looker: User, path: str, subtests: pytest.Subtests):
    for field, value in SENSELESS:
        with subtests.test(**{field: value}):
            answer = looker.client.get(path, params={"q": "x", field: value})
            problem(answer, 422, "validation_failed", field=field)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ('{"a":1,"a":2}', "a is given more than once"),
        ('{"a":1e400}', "a holds a number that is not finite"),
        ('{"a":1e999-0}', "must be a JSON object: it must be JSON in UTF-8"),
    ],
)
def test_what_is_wrong_with_metadata_is_a_sentence(looker: User, metadata: str, message: str):
    answer = looker.client.get("/v1/todos", params={"metadata": metadata})
    assert answer.json()["errors"] == [{"field": "metadata", "message": message}]


# Messages


def test_messages_are_found_in_all_conversations_newest_first(user: User):
    expected: list[tuple[str, int]] = []
    for number in range(3):
        said = [{"sender_type": "user", "content": f"Milk {number}"}, {"sender_type": "ai", "content": "Bread"}]
        turn = user.client.post("/v1/turns", json={"messages": [*said, {**said[0], "content": "x MILK y"}]}).json()
        conversation = turn["messages"][0]["conversation_id"]
        expected += [(conversation, 1), (conversation, 3)]
    found = listed(user.client, "/v1/messages", q="milk", limit=2)
    assert [(item["conversation_id"], item["position"]) for item in found] == expected[::-1]
    assert found[0].keys() == {"id", "conversation_id", "position", "role", "message_type", "snippet", "created_at"}
    assert listed(user.client, "/v1/messages", q="milk bread") == []
    problem(user.client.get("/v1/messages"), 422, "validation_failed", field="q")


def test_a_snippet_is_what_stands_around_the_first_word(user: User):
    content = "a" * 5000 + " needle " + "b" * 4000
    user.client.post("/v1/turns", json={"messages": [{"sender_type": "user", "content": content}]})
    (found,) = listed(user.client, "/v1/messages", q="NEEDLE")
    assert "needle" in found["snippet"]
    assert len(found["snippet"]) == 200


def test_a_cursor_leads_through_any_number_of_messages(user: User, server: Server):
    conversation = user.client.post("/v1/conversations", json={}).json()["id"]
    with psycopg.connect(server.database.superuser_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO messages (user_id, conversation_id, sender_type, content)"
            " SELECT %s, %s, 'ai', CASE WHEN n = 1 THEN 'needle' ELSE 'hay' END FROM generate_series(1, %s) AS n",
            (user.id, conversation, 2 * LOOKED_AT + 10),
        )
    first = user.client.get("/v1/messages?q=needle").json()
    assert first["items"] == []
    assert [item["position"] for item in listed(user.client, "/v1/messages", q="needle")] == [1]
    problem(user.client.get("/v1/messages", params={"q": "hay", "cursor": first["next_cursor"]}), 422, "invalid_cursor")


def test_nobody_finds_what_another_said(user: User, new_user: Callable[..., User]):
    user.client.post("/v1/turns", json={"title": "Secret", "messages": [{"sender_type": "user", "content": "Secret"}]})
    user.client.post("/v1/todos", json={"title": "Secret"})
    other = new_user()
    for path in ("/v1/messages", "/v1/conversations", "/v1/todos"):
        assert listed(other.client, path, q="secret") == []


# A client's own id


def put(user: User, name: str, **body: Any) -> httpx.Response:
    return user.client.put(f"/v1/conversations/by-external-id/{quote(name, safe='')}", json=body)


def test_a_conversation_is_made_once_under_its_own_name(user: User):
    made = put(user, "chat-42", title="First", metadata={"a": 1})
    assert (made.status_code, made.json()["external_id"], made.json()["title"]) == (201, "chat-42", "First")
    assert made.headers["location"] == f"/v1/conversations/{made.json()['id']}"
    again = put(user, "chat-42", title="Second")
    assert (again.status_code, again.json(), again.headers["etag"]) == (200, made.json(), made.headers["etag"])
    for parameters in ({}, {"messages": 3}):
        (found,) = listed(user.client, "/v1/conversations", external_id="chat-42", **parameters)
        assert found["id"] == made.json()["id"]
    assert listed(user.client, "/v1/conversations", external_id="chat-4") == []
    assert listed(user.client, "/v1/conversations", external_id="chat-42", q="second") == []


def test_forty_at_once_get_one_conversation(user: User):
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: put(user, "chat"), range(40)))
    assert sorted(answer.status_code for answer in answers) == [200] * 39 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_a_name_is_one_users_and_one_conversations(user: User, new_user: Callable[..., User]):
    named = user.client.post("/v1/conversations", json={"external_id": "chat"})
    assert named.json()["external_id"] == "chat"
    problem(user.client.post("/v1/conversations", json={"external_id": "chat"}), 409, "external_id_taken")
    assert put(new_user(), "chat").status_code == 201


@pytest.mark.parametrize("name", ["x" * 256, ""])
def test_a_name_has_1_to_255_characters(user: User, name: str):
    answer = user.client.post("/v1/conversations", json={"external_id": name})
    problem(answer, 422, "validation_failed", field="external_id")
    if name:
        assert (
            problem(put(user, name), 422, "validation_failed", field="external_id")["errors"] == answer.json()["errors"]
        )
    assert put(user, "é" * 255).status_code == 201


NAMES = {
    "a slash": "tenant/7/chat",
    "slashes at its ends": "/chat/",
    "what means something in a URL": "100%2F ?q=1&a=b#c;d+e:@",
    "white space": " a\tb\r\nc ",
    "dots": "../..",
    "control characters": "\x01\x1f\x7f",
    "characters of four bytes": "🙂" * 255,
    "255 characters": "x" + "/" * 254,
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_may_hold_any_characters(user: User, name: str):
    made = put(user, name)
    assert (made.status_code, made.json()["external_id"]) == (201, name)
    assert put(user, name).json() == made.json()
    (found,) = listed(user.client, "/v1/conversations", external_id=name)
    assert found["id"] == made.json()["id"]


def test_a_name_that_is_no_text_is_refused(user: User):
    path = "/v1/conversations/by-external-id/"
    problem(user.client.put(f"{path}%ff", json={}), 400, "malformed_request")
    problem(user.client.put(f"{path}a%00b", json={}), 422, "validation_failed", field="external_id")


def test_a_name_travels_with_its_conversation(user: User, new_user: Callable[..., User]):
    conversation = put(user, "chat").json()["id"]
    exported = user.client.get("/v1/export").content.replace(user.email.encode(), b"nobody@example.com")
    other = new_user()
    ndjson = {"Content-Type": "application/x-ndjson"}
    assert other.client.post("/v1/import", content=exported, headers=ndjson).status_code == 200
    assert put(other, "chat").json()["id"] == conversation
    user.client.delete(f"/v1/conversations/{conversation}")
    taken = put(user, "chat").json()["id"]
    answer = user.client.post("/v1/import", content=exported, headers=ndjson)
    problem(answer, 422, "validation_failed", field="line 2")
    user.client.delete(f"/v1/conversations/{taken}")
    entries = user.client.get("/v1/audit?table=conversations&action=delete").json()["items"]
    assert user.client.post(f"/v1/changes/{entries[1]['id']}/revert").status_code == 200
    assert put(user, "chat").json()["id"] == conversation


# Orders


@pytest.mark.parametrize("order", ["updated_at", "-updated_at", "created_at", "-created_at"])
@pytest.mark.parametrize("messages", [0, 2])
def test_conversations_come_in_the_order_asked_for(user: User, order: str, messages: int):
    made = [user.client.post("/v1/conversations", json={}).json()["id"] for _ in range(5)]
    said = {"sender_type": "user", "content": "Hi"}
    for index in (3, 0):
        user.client.post(f"/v1/conversations/{made[index]}/messages", json=said)
    by = [0, 1, 2, 3, 4] if order.endswith("created_at") else [1, 2, 4, 3, 0]
    expected = [made[index] for index in (by[::-1] if order.startswith("-") else by)]
    found = listed(user.client, "/v1/conversations", order=order, limit=2, messages=messages)
    assert [item["id"] for item in found] == expected
    assert all(("messages" in item) == bool(messages) for item in found)


@pytest.mark.parametrize("path", ["/v1/conversations", "/v1/todos"])
@pytest.mark.parametrize("order", ["updated_at", "-updated_at"])
def test_what_changes_while_a_list_is_walked_is_not_skipped(user: User, path: str, order: str):
    made = [user.client.post(path, json={"title": f"{number}"}).json()["id"] for number in range(9)]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    for turn in range(30):
        page = user.client.get(path, params={"order": order, "limit": 2, **cursor}).json()
        seen += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
        if turn < 3:  # one that hasn't been seen moves
            unseen = [found for found in made if found not in seen]
            user.client.patch(f"{path}/{unseen[turn % len(unseen)]}", json={"title": "Changed"}).raise_for_status()
    assert set(seen) == set(made)


@pytest.mark.parametrize("path", ["/v1/conversations", "/v1/todos"])
def test_a_walk_without_changes_sees_each_once(user: User, path: str):
    made = [user.client.post(path, json={"title": f"{number}"}).json()["id"] for number in range(5)]
    for limit in (1, 2, 5, 6):
        assert [item["id"] for item in listed(user.client, path, order="-updated_at", limit=limit)] == made[::-1]
    assert user.client.get(f"{path}?order=-updated_at&limit=5").json()["next_cursor"] is None
