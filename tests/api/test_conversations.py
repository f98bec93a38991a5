"""Conversations over HTTP: opening, finding, changing and deleting them, and the list with their last messages."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from service.conversations import ConversationFilters
from service.http.paging import encode_cursor
from tests.conftest import Server
from tests.support.problems import problem

NewUser = Callable[..., Any]

JSON = {"Content-Type": "application/json"}
FIELDS = ["id", "user_id", "external_id", "title", "metadata", "message_count", "version", "created_at", "updated_at"]
NOBODY = "018f4fd2-0000-7000-8000-000000000000"


def create(client: httpx.Client, **fields: Any) -> Any:
    made = client.post("/v1/conversations", json=fields)
    assert made.status_code == 201, made.text
    return made.json()


def say(client: httpx.Client, conversation: Any, *contents: str, **fields: Any) -> list[Any]:
    messages = [{"sender_type": "user", "content": content, **fields} for content in contents]
    made = client.post(f"/v1/conversations/{conversation['id']}/turns", json={"messages": messages})
    assert made.status_code == 201, made.text
    return made.json()["messages"]


def get(client: httpx.Client, path: str, **parameters: Any) -> Any:
    answer = client.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


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


def test_a_conversation_is_opened_with_nothing_and_can_be_read_back(new_user: NewUser) -> None:
    ada = new_user()
    made = ada.client.post("/v1/conversations", json={})
    conversation = made.json()
    assert made.status_code == 201
    assert list(conversation) == FIELDS
    expected = {
        "user_id": str(ada.id),
        "external_id": None,
        "title": None,
        "metadata": {},
        "message_count": 0,
        "version": 1,
    }
    assert expected.items() <= conversation.items()
    assert UUID(conversation["id"]).version == 7
    assert conversation["created_at"] == conversation["updated_at"]
    assert made.headers["location"] == f"/v1/conversations/{conversation['id']}"
    found = ada.client.get(made.headers["location"])
    assert found.json() == conversation
    assert found.headers["etag"] == made.headers["etag"] == '"1"'


def test_title_and_metadata_are_kept_as_sent(client: httpx.Client) -> None:
    sent = {"title": '  <b>&amp; "Ä" 🎉 ', "metadata": {"model": {"name": "x", "t": 0.5}, "<k>": [None, True]}}
    conversation = create(client, **sent)
    assert conversation == {**conversation, **sent}
    assert get(client, f"/v1/conversations/{conversation['id']}") == conversation


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"title": ""}, "title"),
    ({"title": " \u200b"}, "title"),
    ({"title": "x" * 201}, "title"),
    ({"title": 1}, "title"),
    ({"metadata": []}, "metadata"),
    ({"metadata": None}, "metadata"),
    ({"metadata": {"k": "x" * 16384}}, "metadata"),
    ({"metadata": {"n": [1e300] * 60}}, "metadata"),
    ({"user_id": NOBODY}, "user_id"),
    ({"id": NOBODY}, "id"),
    ({"version": 1}, "version"),
    ({"message_count": 1}, "message_count"),
    ({"messages": []}, "messages"),
    ({"created_at": "2026-01-01T00:00:00Z"}, "created_at"),
]


@pytest.mark.parametrize(("fields", "field"), BAD_FIELDS)
def test_a_field_that_breaks_a_rule_is_named(client: httpx.Client, fields: dict[str, Any], field: str) -> None:
    problem(client.post("/v1/conversations", json=fields), 422, "validation_failed", field=field)
    conversation = create(client, title="before")
    path = f"/v1/conversations/{conversation['id']}"
    problem(client.patch(path, json=fields), 422, "validation_failed", field=field)
    assert get(client, path) == conversation


def test_a_patch_changes_what_it_names_and_null_clears_the_title(client: httpx.Client) -> None:
    conversation = create(client, title="Groceries", metadata={"a": 1})
    path = f"/v1/conversations/{conversation['id']}"
    renamed = client.patch(path, json={"title": "Shopping"})
    assert (renamed.status_code, renamed.headers["etag"]) == (200, '"2"')
    assert renamed.json() == {
        **conversation,
        "title": "Shopping",
        "version": 2,
        "updated_at": renamed.json()["updated_at"],
    }
    assert renamed.json()["updated_at"] > conversation["updated_at"]
    marked = client.patch(path, json={"metadata": {"b": 2}}).json()
    assert (marked["title"], marked["metadata"], marked["version"]) == ("Shopping", {"b": 2}, 3)
    cleared = client.patch(path, json={"title": None}).json()
    assert (cleared["title"], cleared["metadata"], cleared["version"]) == (None, {"b": 2}, 4)
    assert get(client, path) == cleared


@pytest.mark.parametrize("fields", [{}, {"title": "Groceries"}, {"metadata": {"a": 1}}])
def test_a_patch_that_changes_nothing_moves_nothing(client: httpx.Client, fields: dict[str, Any]) -> None:
    conversation = create(client, title="Groceries", metadata={"a": 1})
    same = client.patch(f"/v1/conversations/{conversation['id']}", json=fields)
    assert (same.status_code, same.json(), same.headers["etag"]) == (200, conversation, '"1"')


def test_messages_that_come_and_go_move_the_count_the_version_and_updated_at(client: httpx.Client) -> None:
    conversation = create(client)
    path = f"/v1/conversations/{conversation['id']}"
    said = say(client, conversation, "one", "two", "three")
    after = get(client, path)
    assert (after["message_count"], after["updated_at"]) == (3, said[-1]["created_at"])
    assert after["version"] > conversation["version"]
    client.delete(f"{path}/messages/{said[1]['id']}")
    less = get(client, path)
    assert (less["message_count"], less["version"]) == (2, after["version"] + 1)
    assert less["updated_at"] > after["updated_at"]
    client.delete(f"{path}/messages", params={"from_position": 1})
    assert get(client, path)["message_count"] == 0


def test_the_etag_spares_and_guards_a_conversation(client: httpx.Client) -> None:
    conversation = create(client)
    path = f"/v1/conversations/{conversation['id']}"
    for known in ('"1"', 'W/"1"', '"7", "1"', "*"):
        answer = client.get(path, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", '"1"')
    moved = client.patch(path, json={"title": "a"}, headers={"If-Match": '"1"'})
    assert moved.headers["etag"] == '"2"'
    assert client.get(path, headers={"If-None-Match": '"1"'}).status_code == 200
    for stale in ('"1"', '"3"', 'W/"2"', "2", '"x"'):
        problem(client.patch(path, json={"title": "b"}, headers={"If-Match": stale}), 412, "version_mismatch")
        problem(client.delete(path, headers={"If-Match": stale}), 412, "version_mismatch")
    say(client, conversation, "hello")
    problem(client.patch(path, json={"title": "b"}, headers={"If-Match": '"2"'}), 412, "version_mismatch")
    assert get(client, path)["title"] == "a"
    current = client.get(path).headers["etag"]
    assert client.delete(path, headers={"If-Match": current}).status_code == 204
    problem(client.delete(path, headers={"If-Match": current}), 404, "not_found")


def test_deleting_a_conversation_takes_its_messages_and_links_and_leaves_the_todo(new_user: NewUser) -> None:
    client = new_user().client
    conversation, other = create(client), create(client)
    message = say(client, conversation, "remind me to buy milk")[0]
    kept = say(client, other, "hello")[0]
    todo = client.post("/v1/todos", json={"title": "milk", "conversation_id": conversation["id"]}).json()
    link = get(client, "/v1/links")["items"][0]
    deleted = client.delete(f"/v1/conversations/{conversation['id']}")
    assert (deleted.status_code, deleted.content) == (204, b"")
    for path in ("", "/messages", "/context", "/todos", f"/messages/{message['id']}"):
        problem(client.get(f"/v1/conversations/{conversation['id']}{path}"), 404, "not_found")
    problem(client.get(f"/v1/links/{link['id']}"), 404, "not_found")
    assert get(client, "/v1/links")["items"] == []
    assert get(client, f"/v1/todos/{todo['id']}") == todo
    assert get(client, f"/v1/todos/{todo['id']}/conversations")["items"] == []
    assert get(client, f"/v1/conversations/{other['id']}/messages")["items"] == [kept]


CALLS: list[tuple[str, str, Any]] = [
    ("GET", "", None),
    ("PATCH", "", {"title": "mine"}),
    ("DELETE", "", None),
    ("GET", "/todos", None),
    ("GET", "/messages", None),
    ("GET", "/context", None),
    ("POST", "/messages", {"sender_type": "user", "content": "x"}),
    ("DELETE", "/messages?from_position=1", None),
    ("POST", "/turns", {"messages": [{"sender_type": "user", "content": "x"}]}),
    ("POST", "/turns", {"messages": [{"sender_type": "user", "content": "x"}], "expected_position": 1}),
    ("POST", "/turns", {"messages": [{"sender_type": "user", "content": "x"}], "expected_position": 5}),
    ("GET", "/messages/{message}", None),
    ("PATCH", "/messages/{message}", {"content": "x"}),
    ("DELETE", "/messages/{message}", None),
]


@pytest.mark.parametrize("if_match", [None, '"1"', '"2"', '"99"'])
def test_a_strangers_conversation_is_answered_byte_for_byte_like_a_missing_one(
    new_user: NewUser, if_match: str | None
) -> None:
    ada, eve = new_user(), new_user()
    conversation = create(ada.client, title="secret")
    message = say(ada.client, conversation, "secret")[0]
    before = get(ada.client, "/v1/conversations", messages=50)
    own = create(eve.client)
    headers = {"X-Request-ID": "same"} | ({"If-Match": if_match} if if_match else {})
    for method, suffix, body in CALLS:
        answers = []
        for id_, message_id in ((conversation["id"], message["id"]), (NOBODY, NOBODY)):
            path = f"/v1/conversations/{id_}{suffix.format(message=message_id)}"
            answers.append(eve.client.request(method, path, json=body, headers=headers))
        problem(answers[0], 404, "not_found")
        assert shown(answers[0]) == shown(answers[1])
        if "{message}" in suffix:  # somebody else's message is not to be had through one's own conversation either
            path = f"/v1/conversations/{own['id']}/messages/{message['id']}"
            assert shown(eve.client.request(method, path, json=body, headers=headers)) == shown(answers[1])
    assert get(ada.client, "/v1/conversations", messages=50) == before
    assert get(eve.client, "/v1/conversations")["items"] == [own]


def test_a_reference_to_nothing_is_not_found_whatever_it_looks_like(client: httpx.Client) -> None:
    for reference in (str(uuid4()), "1", "0", "x", "%20", "null", "018f4fd2000070008000000000000000", "'--", "é"):
        problem(client.get(f"/v1/conversations/{reference}"), 404, "not_found")
        problem(client.get(f"/v1/conversations/{reference}/messages"), 404, "not_found")


# The list


def test_the_most_recently_active_conversation_comes_first_page_by_page(new_user: NewUser) -> None:
    client = new_user().client
    made = [create(client, title=str(number)) for number in range(7)]
    assert [item["id"] for item in walk(client, "/v1/conversations")] == [item["id"] for item in reversed(made)]
    say(client, made[2], "hello")
    client.patch(f"/v1/conversations/{made[4]['id']}", json={"title": "four"})
    client.patch(f"/v1/conversations/{made[1]['id']}", json={"title": "1"})  # no change, no activity
    expected = [made[number]["id"] for number in (4, 2, 6, 5, 3, 1, 0)]
    for limit, messages in itertools.product((1, 2, 3, 7, 200), (0, 1)):
        found = walk(client, "/v1/conversations", limit=limit, messages=messages)
        assert [item["id"] for item in found] == expected
    assert get(client, "/v1/conversations")["items"] == [get(client, f"/v1/conversations/{id_}") for id_ in expected]


def test_conversations_of_the_same_moment_are_listed_once_each(new_user: NewUser, server: Server) -> None:
    ada = new_user()
    made = {create(ada.client)["id"] for _ in range(5)}
    with psycopg.connect(server.database.superuser_url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(
            "UPDATE conversations SET created_at = '2026-01-01', updated_at = '2026-02-01' WHERE user_id = %s",
            (ada.id,),
        )
    found = [item["id"] for item in walk(ada.client, "/v1/conversations", limit=2)]
    assert len(found) == 5
    assert set(found) == made


def test_a_link_header_leads_to_the_next_page(new_user: NewUser) -> None:
    client = new_user().client
    made = [create(client)["id"] for _ in range(3)]
    first = client.get("/v1/conversations", params={"limit": 2, "messages": 1})
    found = re.fullmatch(r'<(.+)>; rel="next"', first.headers["link"])
    assert found
    second = client.get(found[1])
    assert [item["id"] for item in second.json()["items"]] == made[:1]
    assert "messages" in second.json()["items"][0]
    assert "link" not in second.headers


def test_each_conversations_last_messages_are_the_very_ones_it_lists(new_user: NewUser, server: Server) -> None:
    ada = new_user()
    conversations = [create(ada.client, title=str(number)) for number in range(4)]
    say(ada.client, conversations[0], *(f"message {number}" for number in range(60)))
    say(ada.client, conversations[1], '<script>&\u2028\u0001\x7f"\\/é🎉\n\t\r\b\f', metadata={"a": {"<b>": "</b>"}})
    numbers = (
        '{"n": 1.10, "long": 0.1234567890123456789012345678901234567890, "big": 1' + "0" * 40 + ', "small": -1E-9}'
    )
    body = f'{{"sender_type": "ai", "content": "x", "message_type": "command", "metadata": {numbers}}}'
    path = f"/v1/conversations/{conversations[2]['id']}/messages"
    assert ada.client.post(path, content=body, headers=JSON).status_code == 201
    with psycopg.connect(server.database.superuser_url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        for position, moment in enumerate(
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.1Z", "2026-01-02T03:04:05.000001Z"), 1
        ):
            connection.execute(
                "UPDATE messages SET created_at = %s, updated_at = %s"
                " WHERE user_id = %s AND conversation_id = %s AND position = %s",
                (moment, moment, ada.id, conversations[0]["id"], position + 57),
            )

    def exact(answer: httpx.Response) -> Any:
        return json.loads(answer.content, parse_float=Decimal, parse_int=Decimal)

    for count in (1, 3, 50):
        listed = exact(ada.client.get("/v1/conversations", params={"messages": count}))["items"]
        assert [list(item) for item in listed] == [[*FIELDS, "messages"]] * 4
        for item in listed:
            path = f"/v1/conversations/{item['id']}/messages"
            own = exact(ada.client.get(path, params={"order": "-position", "limit": count}))["items"]
            assert item["messages"] == own[::-1]
            assert [list(message) for message in item["messages"]] == [list(message) for message in own]
    assert all("messages" not in item for item in get(ada.client, "/v1/conversations")["items"])
    assert all("messages" not in item for item in get(ada.client, "/v1/conversations", messages=0)["items"])


def test_the_embedded_messages_are_escaped_as_all_strings_are(new_user: NewUser) -> None:
    client = new_user().client
    say(client, create(client), "<b>'&\"")
    answer = client.get("/v1/conversations", params={"messages": 1})
    assert b"\\u003cb\\u003e'\\u0026\\\"" in answer.content
    escaped = get(client, "/v1/conversations", messages=1, escape="html")["items"][0]["messages"][0]
    assert escaped["content"] == "&lt;b&gt;&#x27;&amp;&quot;"


def queries(server: Server) -> Counter[str]:
    """How often each named query has run."""
    text = httpx.get(f"{server.url}/metrics").text
    found = re.findall(r'^todochat_query_seconds_count\{query="(\w+)"\} (\S+)$', text, re.MULTILINE)
    return Counter({name: int(float(count)) for name, count in found})


@pytest.mark.parametrize("messages", [0, 20])
def test_a_list_is_one_query_however_many_conversations_it_has(
    new_user: NewUser, server: Server, messages: int
) -> None:
    client = new_user().client
    for number in range(12):
        say(client, create(client), *["hello"] * (number + 1))
    before = queries(server)
    items = get(client, "/v1/conversations", messages=messages)["items"]
    assert len(items) == 12
    name = f"list_conversations_{'with_messages_' if messages else ''}by_updated_at_desc"
    assert queries(server) - before == Counter({"authenticate": 1, name: 1})


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"messages": "-1"}, "messages"),
        ({"messages": "51"}, "messages"),
        ({"messages": "x"}, "messages"),
        ({"messages": ["1", "2"]}, "messages"),
        ({"limit": "0"}, "limit"),
        ({"limit": "201"}, "limit"),
        ({"order": "title"}, "order"),
        ({"title": "x"}, "title"),
    ],
)
def test_a_parameter_that_is_unknown_repeated_or_wrong_is_refused_by_name(
    client: httpx.Client, parameters: dict[str, str], field: str
) -> None:
    problem(client.get("/v1/conversations", params=parameters), 422, "validation_failed", field=field)


def test_a_cursor_that_is_not_this_lists_is_refused(new_user: NewUser) -> None:
    client = new_user().client
    for _ in range(3):
        create(client)
    cursor = get(client, "/v1/conversations", limit=1)["next_cursor"]
    assert get(client, "/v1/conversations", limit=2, cursor=cursor)["next_cursor"] is None
    question = ConversationFilters(limit=1)
    now = datetime.now(UTC)
    forged = [
        encode_cursor(question, key)
        for key in [
            (),
            (now,),
            (now, uuid4(), 1),
            (now.replace(tzinfo=None), uuid4()),
            ("2026-01-01T00:00:00", str(uuid4())),
            ("x", uuid4()),
            (now, "x"),
            (None, None),
            (1, uuid4()),
        ]
    ]
    for wrong in ["", "x", cursor[:-2], cursor + "AA", *forged]:
        problem(client.get("/v1/conversations", params={"cursor": wrong}), 422, "invalid_cursor")
    assert "messages" in get(client, "/v1/conversations", cursor=cursor, messages=1)["items"][0], "no filter"
    problem(client.get("/v1/conversations", params={"cursor": cursor, "order": "created_at"}), 422, "invalid_cursor")
    problem(client.get("/v1/links", params={"cursor": cursor}), 422, "invalid_cursor")


def test_another_users_cursor_shows_nothing_of_theirs(new_user: NewUser) -> None:
    ada, eve = new_user(), new_user()
    for _ in range(3):
        create(ada.client)
    cursor = get(ada.client, "/v1/conversations", limit=1)["next_cursor"]
    assert get(eve.client, "/v1/conversations", cursor=cursor) == {"items": [], "next_cursor": None}
