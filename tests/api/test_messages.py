"""Messages over HTTP: what is said, in order; turns, context, rewind; many writers, and a great many messages."""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from psycopg import sql

from service.db.loading import TEXTS
from service.db.statements import SESSION
from service.http.paging import encode_cursor
from service.messages import MessageFilters
from tests.conftest import Server
from tests.support.load import in_parallel
from tests.support.problems import problem

NewUser = Callable[..., Any]

JSON = {"Content-Type": "application/json"}
FIELDS = [
    *("id", "conversation_id", "user_id", "position", "sender_type", "role", "sender_id", "content", "message_type"),
    *("metadata", "content_truncated", "created_at", "updated_at"),
]
NOBODY = "018f4fd2-0000-7000-8000-000000000000"


def open_conversation(client: httpx.Client) -> str:
    """The path of a new conversation."""
    made = client.post("/v1/conversations", json={})
    assert made.status_code == 201, made.text
    return made.headers["location"]


def user(content: str, **fields: Any) -> dict[str, Any]:
    return {"sender_type": "user", "content": content, **fields}


def say(client: httpx.Client, path: str, content: str = "hello", sender_type: str = "user", **fields: Any) -> Any:
    made = client.post(f"{path}/messages", json={"sender_type": sender_type, "content": content, **fields})
    assert made.status_code == 201, made.text
    return made.json()


def take_turn(client: httpx.Client, path: str, *contents: str, **fields: Any) -> Any:
    made = client.post(f"{path}/turns", json={"messages": [user(content) for content in contents], **fields})
    assert made.status_code == 201, made.text
    return made.json()


def get(client: httpx.Client, path: str, **parameters: Any) -> Any:
    answer = client.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def contents(client: httpx.Client, path: str, **parameters: Any) -> list[str]:
    return [message["content"] for message in get(client, f"{path}/messages", **parameters)["items"]]


def listed(*messages: Any) -> list[Any]:
    """As a list answers them: without items."""
    return [{name: value for name, value in message.items() if name != "item"} for message in messages]


def walk(client: httpx.Client, path: str, **parameters: Any) -> Iterator[Any]:
    """Every message of the list, page by page."""
    cursor: dict[str, str] = {}
    for _ in range(1000):
        page = get(client, f"{path}/messages", **parameters, **cursor)
        yield from page["items"]
        if page["next_cursor"] is None:
            return
        cursor = {"cursor": page["next_cursor"]}
    pytest.fail("the list does not end")


@pytest.fixture(scope="module")
def client(new_module_user: NewUser) -> httpx.Client:
    """Of a user whom those tests share that don't mind what else the user has."""
    return new_module_user().client


@pytest.fixture
def path(client: httpx.Client) -> str:
    """Of a new conversation of that user's."""
    return open_conversation(client)


# One message


def test_a_message_is_added_and_can_be_read_back(new_user: NewUser) -> None:
    ada = new_user()
    path = open_conversation(ada.client)
    made = ada.client.post(f"{path}/messages", json=user("Buy milk"))
    message = made.json()
    assert made.status_code == 201
    assert list(message) == [*FIELDS, "item"]
    expected = {
        "conversation_id": path.rpartition("/")[2],
        "user_id": str(ada.id),
        "position": 1,
        "sender_type": "user",
        "role": "user",
        "sender_id": str(ada.id),
        "content": "Buy milk",
        "message_type": "text",
        "metadata": {},
    }
    assert expected.items() <= message.items()
    assert UUID(message["id"]).version == 7
    assert message["created_at"] == message["updated_at"]
    assert made.headers["location"] == f"{path}/messages/{message['id']}"
    found = ada.client.get(made.headers["location"])
    assert found.json() == message
    assert found.headers["etag"] == made.headers["etag"] == '"1"'


@pytest.mark.parametrize(("sender_type", "role"), [("user", "user"), ("ai", "assistant"), ("system", "system")])
@pytest.mark.parametrize("message_type", ["text", "command", "response", "error"])
def test_every_kind_of_message_is_kept_with_the_role_that_models_know(
    client: httpx.Client, path: str, sender_type: str, role: str, message_type: str
) -> None:
    metadata = {"tool": "add_todo", "arguments": {"title": "<milk>"}}
    message = say(client, path, "{}", sender_type, message_type=message_type, metadata=metadata)
    assert (message["role"], message["message_type"], message["metadata"]) == (role, message_type, metadata)
    assert message["sender_id"] == (message["user_id"] if sender_type == "user" else None)


def test_the_sender_of_a_users_message_is_the_caller_and_nobody_else(new_user: NewUser) -> None:
    ada, eve = new_user(), new_user()
    path = open_conversation(ada.client)
    for sender_id in (None, str(ada.id), str(ada.id).upper()):
        assert say(ada.client, path, sender_id=sender_id)["sender_id"] == str(ada.id)
    for sender_type in ("ai", "system"):
        assert say(ada.client, path, "x", sender_type, sender_id=None)["sender_id"] is None
    wrong = [
        *(user("x", sender_id=sender_id) for sender_id in (str(eve.id), NOBODY, "x", 1)),
        *({"sender_type": kind, "content": "x", "sender_id": str(ada.id)} for kind in ("ai", "system")),
    ]
    before = get(ada.client, f"{path}/messages")
    for body in wrong:
        problem(ada.client.post(f"{path}/messages", json=body), 422, "validation_failed", field="sender_id")
        for turns in (f"{path}/turns", "/v1/turns"):
            refused = ada.client.post(turns, json={"messages": [user("x"), body]})
            problem(refused, 422, "validation_failed", field="messages[1].sender_id", list="messages", index=1)
    assert get(ada.client, f"{path}/messages") == before
    assert len(get(ada.client, "/v1/conversations")["items"]) == 1


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"content": ""}, "content"),
    ({"content": None}, "content"),
    ({"content": 1}, "content"),
    ({"content": "x" * 10_001}, "content"),
    ({"content": "🎉" * 10_001}, "content"),
    ({"content": "a\0b"}, "content"),
    ({"message_type": "tool"}, "message_type"),
    ({"message_type": None}, "message_type"),
    ({"metadata": None}, "metadata"),
    ({"metadata": []}, "metadata"),
    ({"metadata": {"k": "x" * 16384}}, "metadata"),
    ({"metadata": {"n": [1e300] * 60}}, "metadata"),  # more than 16 KiB only as the database writes it
    ({"id": NOBODY}, "id"),
    ({"position": 1}, "position"),
    ({"role": "user"}, "role"),
    ({"user_id": NOBODY}, "user_id"),
    ({"conversation_id": NOBODY}, "conversation_id"),
    ({"created_at": "2026-01-01T00:00:00Z"}, "created_at"),
    ({"version": 1}, "version"),
]


@pytest.mark.parametrize(("fields", "field"), BAD_FIELDS)
def test_a_field_that_breaks_a_rule_is_named(
    client: httpx.Client, path: str, fields: dict[str, Any], field: str
) -> None:
    first = say(client, path)
    bad = {**user("x"), **fields}
    problem(client.post(f"{path}/messages", json=bad), 422, "validation_failed", field=field)
    problem(client.patch(f"{path}/messages/{first['id']}", json=fields), 422, "validation_failed", field=field)
    for turns in (f"{path}/turns", "/v1/turns"):
        refused = client.post(turns, json={"messages": [user("x"), user("y"), bad]})
        problem(refused, 422, "validation_failed", field=f"messages[2].{field}", list="messages", index=2)
    assert get(client, f"{path}/messages")["items"] == listed(first)


@pytest.mark.parametrize("fields", [{}, {"sender_type": "assistant"}, {"sender_type": None}, {"sender_type": 1}])
def test_a_sender_type_is_required_and_one_of_three(client: httpx.Client, path: str, fields: dict[str, Any]) -> None:
    problem(
        client.post(f"{path}/messages", json={"content": "x", **fields}), 422, "validation_failed", field="sender_type"
    )


def test_content_of_1_to_10_000_characters_is_kept_exactly(client: httpx.Client, path: str) -> None:
    texts = [
        "x",
        " ",
        "\u200b",
        "\r\n\t",
        "é" * 10_000,
        "🎉" * 10_000,
        "<" * 10_000,
        "\x01" * 10_000,
        "e\u0301\ufeff\u2028",
    ]
    for text in texts:
        assert get(client, f"{path}/messages/{say(client, path, text)['id']}")["content"] == text
    assert contents(client, path) == texts
    many = take_turn(client, path, *["🎉" * 10_000] * 100, context={"messages": 200})
    assert [message["content"] for message in many["messages"]] == ["🎉" * 10_000] * 100
    assert len(many["context"]) == len(texts) + 100


def test_a_tools_output_of_200_kb_is_refused_naming_the_limit_and_never_cut(client: httpx.Client, path: str) -> None:
    output = json.dumps([{"id": number, "title": "a todo"} for number in range(7000)])
    assert len(output) > 200_000
    first = say(client, path, "list my todos")
    for field, limit, fields in (
        ("content", "10000", {"content": output}),
        ("metadata", "16384", {"content": "see metadata", "metadata": {"output": output}}),
    ):
        message = {"sender_type": "system", "message_type": "response", **fields}
        body = problem(client.post(f"{path}/messages", json=message), 422, "validation_failed", field=field)
        assert limit in body["detail"]
        for turns in (f"{path}/turns", "/v1/turns"):
            refused = client.post(turns, json={"messages": [user("x"), message]})
            body = problem(refused, 422, "validation_failed", field=f"messages[1].{field}", list="messages", index=1)
            assert limit in body["detail"]
        changed = client.patch(f"{path}/messages/{first['id']}", json=fields)
        assert limit in problem(changed, 422, "validation_failed", field=field)["detail"]
    huge = problem(client.post(f"{path}/messages", json=user("x" * 3_000_000)), 413, "payload_too_large")
    assert "2097152" in huge["detail"]
    assert get(client, f"{path}/messages")["items"] == listed(first)


def test_a_patch_changes_what_it_names_and_nothing_of_the_others(client: httpx.Client, path: str) -> None:
    before = [say(client, path, content) for content in ("a", "b", "c")]
    message = f"{path}/messages/{before[1]['id']}"
    edited = client.patch(message, json={"content": "B"})
    assert (edited.status_code, edited.headers["etag"]) == (200, '"2"')
    assert edited.json() == {**before[1], "content": "B", "updated_at": edited.json()["updated_at"]}
    assert edited.json()["updated_at"] > before[1]["updated_at"]
    more = client.patch(message, json={"message_type": "error", "metadata": {"a": 1}}).json()
    assert more == {**edited.json(), "message_type": "error", "metadata": {"a": 1}, "updated_at": more["updated_at"]}
    for nothing in ({}, {"content": "B"}, {"message_type": "error", "metadata": {"a": 1}}):
        same = client.patch(message, json=nothing)
        assert (same.json(), same.headers["etag"]) == (more, '"3"')
    for fixed in ("sender_type", "sender_id", "position"):
        problem(client.patch(message, json={fixed: before[1][fixed]}), 422, "validation_failed", field=fixed)
    assert get(client, f"{path}/messages")["items"] == listed(before[0], more, before[2])


def test_the_etag_spares_and_guards_a_message(client: httpx.Client, path: str) -> None:
    message = f"{path}/messages/{say(client, path)['id']}"
    assert client.get(message, headers={"If-None-Match": '"1"'}).status_code == 304
    edited = client.patch(message, json={"content": "a"}, headers={"If-Match": '"1"'})
    assert (edited.status_code, edited.headers["etag"]) == (200, '"2"')
    assert client.get(message, headers={"If-None-Match": '"1"'}).headers["etag"] == '"2"'
    for stale in ('"1"', '"3"', "x"):
        problem(client.patch(message, json={"content": "b"}, headers={"If-Match": stale}), 412, "version_mismatch")
        problem(client.delete(message, headers={"If-Match": stale}), 412, "version_mismatch")
    assert contents(client, path) == ["a"]
    assert client.delete(message, headers={"If-Match": '"2"'}).status_code == 204
    problem(client.delete(message, headers={"If-Match": '"2"'}), 404, "not_found")


def test_a_message_is_found_in_its_own_conversation_only(client: httpx.Client, path: str) -> None:
    message, other = say(client, path), open_conversation(client)
    for call in (client.get, client.delete, lambda found: client.patch(found, json={"content": "x"})):
        problem(call(f"{other}/messages/{message['id']}"), 404, "not_found")
    assert get(client, f"{path}/messages")["items"] == listed(message)


# Lists


def test_messages_are_listed_by_position_both_ways_page_by_page(client: httpx.Client, path: str) -> None:
    made = take_turn(client, path, *map(str, range(1, 12)))["messages"]
    assert [message["position"] for message in made] == list(range(1, 12))
    for order, limit in itertools.product(("position", "-position"), (1, 3, 11, 12, 200)):
        expected = made if order == "position" else made[::-1]
        assert list(walk(client, path, order=order, limit=limit)) == expected
    assert get(client, f"{path}/messages")["items"] == made


def test_the_filters_keep_what_they_say_together_with_each_other_and_pages(client: httpx.Client, path: str) -> None:
    kinds = list(itertools.product(("user", "ai", "system"), ("text", "command", "response", "error"))) * 2
    messages = [{"sender_type": sender, "message_type": kind, "content": "x"} for sender, kind in kinds]
    made = client.post(f"{path}/turns", json={"messages": messages}).json()["messages"]
    senders, types, after, before = (None, "ai", "user"), (None, "command"), (None, 0, 5, 24), (None, 0, 1, 20, 99)
    for sender, kind, low, high in itertools.product(senders, types, after, before):
        wanted = {"sender_type": sender, "message_type": kind, "after_position": low, "before_position": high}
        parameters = {name: value for name, value in wanted.items() if value is not None}
        expected = [
            message
            for message in made
            if sender in (None, message["sender_type"])
            and kind in (None, message["message_type"])
            and (low is None or message["position"] > low)
            and (high is None or message["position"] < high)
        ]
        assert get(client, f"{path}/messages", **parameters)["items"] == expected
        if sender == "ai":
            assert list(walk(client, path, **parameters, limit=3)) == expected
            assert list(walk(client, path, **parameters, limit=3, order="-position")) == expected[::-1]


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"sender_type": "assistant"}, "sender_type"),
        ({"message_type": "tool"}, "message_type"),
        ({"after_position": "-1"}, "after_position"),
        ({"before_position": "1.0"}, "before_position"),
        ({"after_position": str(2**31)}, "after_position"),
        ({"order": "created_at"}, "order"),
        ({"limit": "201"}, "limit"),
        ({"role": "user"}, "role"),
        ({"sender_type": ["user", "ai"]}, "sender_type"),
    ],
)
def test_a_parameter_that_is_unknown_repeated_or_wrong_is_refused_by_name(
    client: httpx.Client, path: str, parameters: dict[str, Any], field: str
) -> None:
    problem(client.get(f"{path}/messages", params=parameters), 422, "validation_failed", field=field)


def test_a_cursor_holds_for_its_conversation_filters_and_order_only(client: httpx.Client, path: str) -> None:
    other = open_conversation(client)
    for one in (path, other):
        take_turn(client, one, "a", "b", "c")
    cursor = get(client, f"{path}/messages", limit=1)["next_cursor"]
    assert [message["content"] for message in get(client, f"{path}/messages", cursor=cursor)["items"]] == ["b", "c"]
    for parameters in ({"order": "-position"}, {"sender_type": "user"}, {"after_position": 0}):
        refused = client.get(f"{path}/messages", params={"cursor": cursor, **parameters})
        problem(refused, 422, "invalid_cursor")
    problem(client.get(f"{other}/messages", params={"cursor": cursor}), 422, "invalid_cursor")
    question = (path.rpartition("/")[2], MessageFilters(limit=1))
    for key in [(), ("1",), (1.0,), (-1,), (2**31,), (2**64 - 1,), (None,), (1, 2)]:
        problem(client.get(f"{path}/messages", params={"cursor": encode_cursor(question, key)}), 422, "invalid_cursor")


# Turns, context, rewind


def test_a_turn_appends_in_order_and_answers_with_the_context(client: httpx.Client, path: str) -> None:
    say(client, path, "you are helpful", "system")
    messages = [
        user("add milk"),
        {"sender_type": "ai", "content": '{"title": "milk"}', "message_type": "command", "metadata": {"tool": "add"}},
        {"sender_type": "ai", "content": "Done."},
    ]
    made = client.post(f"{path}/turns", json={"messages": messages, "expected_position": 1, "context": {"messages": 3}})
    turn = made.json()
    assert made.status_code == 201
    assert list(turn) == ["messages", "context", "position"]
    assert made.headers["location"] == path
    assert [
        {key: message[key] for key in sent} for message, sent in zip(turn["messages"], messages, strict=True)
    ] == messages
    assert [message["position"] for message in turn["messages"]] == [2, 3, 4]
    assert turn["position"] == 4
    assert turn["context"] == [
        {"role": "user", "content": "add milk"},
        {"role": "assistant", "content": '{"title": "milk"}'},
        {"role": "assistant", "content": "Done."},
    ]
    assert get(client, f"{path}/messages", after_position=1)["items"] == turn["messages"]
    everything = [{"role": "system", "content": "you are helpful"}, *turn["context"]]
    assert get(client, f"{path}/context") == get(client, f"{path}/context", messages=200) == everything
    assert get(client, f"{path}/context", messages=1) == everything[-1:]
    assert get(client, f"{path}/context", messages=0) == []
    assert take_turn(client, path, "more", context={"messages": 0})["context"] == []
    assert take_turn(client, path, "more")["context"] == []


HUGE_WHEN_WRITTEN_OUT = {"n": [1e300] * 60}
"""Metadata that only the database refuses."""


@pytest.mark.parametrize("others", [{}, {"metadata": {"tool": "add"}}])
@pytest.mark.parametrize(("size", "bad"), [(size, bad) for size in (1, 2, 3, 4) for bad in range(size)])
def test_a_message_that_the_database_refuses_is_named_wherever_it_stands_in_its_turn(
    client: httpx.Client, path: str, size: int, bad: int, others: dict[str, Any]
) -> None:
    messages = [user(f"{number}", **others) for number in range(size)]
    messages[bad]["metadata"] = HUGE_WHEN_WRITTEN_OUT
    for turns in (f"{path}/turns", "/v1/turns"):
        refused = client.post(turns, json={"messages": messages})
        problem(refused, 422, "validation_failed", field=f"messages[{bad}].metadata", list="messages", index=bad)
    assert contents(client, path) == []


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 100])
@pytest.mark.parametrize("others", [{}, {"metadata": {"tool": "add"}}])
def test_a_turn_of_any_length_stands_in_order_and_is_counted(
    client: httpx.Client, path: str, size: int, others: dict[str, Any]
) -> None:
    say(client, path, "before")
    messages = [user(f"{number}", **(others if number % 3 else {})) for number in range(size)]
    made = client.post(f"{path}/turns", json={"messages": messages, "context": {"messages": 200}})
    assert made.status_code == 201, made.text
    turn = made.json()
    assert [message["content"] for message in turn["messages"]] == [message["content"] for message in messages]
    assert [message["metadata"] for message in turn["messages"]] == [m.get("metadata", {}) for m in messages]
    assert [message["position"] for message in turn["messages"]] == list(range(2, size + 2))
    assert turn["position"] == size + 1
    assert [message["content"] for message in turn["context"]] == contents(client, path, limit=200)
    times = [message["created_at"] for message in turn["messages"]]
    assert times == sorted(times)
    conversation = get(client, path)
    assert conversation["message_count"] == size + 1
    assert conversation["updated_at"] == times[-1]


def test_each_message_that_comes_or_goes_moves_the_version_of_its_conversation(client: httpx.Client, path: str) -> None:
    version = get(client, path)["version"]
    turn = take_turn(client, path, "add milk", "and bread")
    assert get(client, path)["version"] == version + 2
    assert client.delete(f"{path}/messages/{turn['messages'][0]['id']}").status_code == 204
    assert get(client, path)["version"] == version + 3
    client.patch(path, json={"title": "Milk"}, headers={"If-Match": f'"{version + 3}"'}).raise_for_status()
    assert get(client, path)["version"] == version + 4


def test_a_turn_without_an_expectation_needs_a_conversation_too(client: httpx.Client) -> None:
    refused = client.post(f"/v1/conversations/{NOBODY}/turns", json={"messages": [user("x"), user("y")]})
    problem(refused, 404, "not_found")


def test_a_turn_without_a_conversation_opens_one(new_user: NewUser) -> None:
    client = new_user().client
    body = {
        "messages": [user("hello"), {"sender_type": "ai", "content": "hi"}],
        "title": " Hi ",
        "expected_position": 0,
    }
    made = client.post("/v1/turns", json={**body, "context": {"messages": 1}})
    turn = made.json()
    assert made.status_code == 201
    assert turn["context"] == [{"role": "assistant", "content": "hi"}]
    assert turn["position"] == 2
    conversation = get(client, made.headers["location"])
    assert (conversation["title"], conversation["message_count"]) == (" Hi ", 2)
    assert {message["conversation_id"] for message in turn["messages"]} == {conversation["id"]}
    assert UUID(conversation["id"]).version == 7
    untitled = client.post("/v1/turns", json={"messages": [user("hello")]})
    assert get(client, untitled.headers["location"])["title"] is None
    for wrong, field in (({"title": ""}, "title"), ({"messages": []}, "messages"), ({"metadata": {}}, "metadata")):
        problem(client.post("/v1/turns", json={**body, **wrong}), 422, "validation_failed", field=field)
    assert len(get(client, "/v1/conversations")["items"]) == 2


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [user("x")] * 101}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": {}}, "messages"),
        ({"context": {"messages": -1}}, "context.messages"),
        ({"context": {"messages": 201}}, "context.messages"),
        ({"context": {"messages": 1.5}}, "context.messages"),
        ({"context": {"messages": None}}, "context.messages"),
        ({"context": {"messages": 1, "role": "user"}}, "context.role"),
        ({"context": 5}, "context"),
        ({"expected_position": -1}, "expected_position"),
        ({"expected_position": 2**31}, "expected_position"),
        ({"expected_position": "1"}, "expected_position"),
        ({"position": 1}, "position"),
    ],
)
def test_a_turn_that_breaks_a_limit_is_refused_whole(
    client: httpx.Client, path: str, fields: dict[str, Any], field: str
) -> None:
    for turns in (f"{path}/turns", "/v1/turns"):
        refused = client.post(turns, json={"messages": [user("x")], **fields})
        problem(refused, 422, "validation_failed", field=field)
    assert contents(client, path) == []


@pytest.mark.parametrize("value", ["-1", "201", "x", "1.0", ""])
def test_a_context_has_0_to_200_messages(client: httpx.Client, path: str, value: str) -> None:
    problem(client.get(f"{path}/context", params={"messages": value}), 422, "validation_failed", field="messages")


def test_a_context_has_twenty_messages_unless_asked_and_200_at_the_most(client: httpx.Client, path: str) -> None:
    for number in range(3):
        take_turn(client, path, *(f"{number} {place}" for place in range(100)))
    everything = [f"{number} {place}" for number in range(3) for place in range(100)]
    for count, parameters in ((20, {}), (200, {"messages": 200}), (7, {"messages": 7})):
        assert [message["content"] for message in get(client, f"{path}/context", **parameters)] == everything[-count:]
    for count, size in ((20, {}), (1, {"max_characters": 3}), (20, {"format": "items"})):
        turn = client.post(f"{path}/turns", json={"messages": [user("one")], "context": size})
        assert len(turn.json()["context"]) == count


def test_a_stale_turn_is_refused_with_the_current_position_and_nothing_of_it_written(
    client: httpx.Client, path: str
) -> None:
    def refuse(expected: int, position: int) -> None:
        before = get(client, path), get(client, f"{path}/messages")
        body = {"messages": [user("x"), user("y")], "expected_position": expected, "context": {"messages": 5}}
        refused = problem(client.post(f"{path}/turns", json=body), 409, "stale_position", position=position)
        assert str(position) in refused["detail"]
        assert (get(client, path), get(client, f"{path}/messages")) == before

    refuse(1, 0)
    assert take_turn(client, path, "a", "b", expected_position=0)["position"] == 2
    for expected in (0, 1, 3, 2**31 - 1):
        refuse(expected, 2)
    assert take_turn(client, path, "c", expected_position=2)["position"] == 3
    client.delete(f"{path}/messages", params={"from_position": 3})
    refuse(3, 2)
    assert take_turn(client, path, "d", expected_position=2)["position"] >= 3


def test_a_rewind_deletes_a_message_and_all_after_it_and_no_position_is_used_twice(
    client: httpx.Client, path: str
) -> None:
    take_turn(client, path, "a", "b", "c", "d", "e")
    rewind = client.delete(f"{path}/messages", params={"from_position": 3})
    assert (rewind.status_code, rewind.json()) == (200, {"deleted": 3})
    assert contents(client, path) == ["a", "b"]
    assert client.delete(f"{path}/messages", params={"from_position": 3}).json() == {"deleted": 0}
    more = take_turn(client, path, "f", "g")
    positions = [message["position"] for message in get(client, f"{path}/messages")["items"]]
    assert positions == sorted(set(positions))
    assert more["position"] == positions[-1]
    assert client.delete(f"{path}/messages", params={"from_position": 1}).json() == {"deleted": 4}
    assert take_turn(client, path, "h")["position"] >= 1
    assert get(client, path)["message_count"] == 1
    for wrong in ({}, {"from_position": "0"}, {"from_position": "x"}, {"from_position": str(2**31)}):
        problem(client.delete(f"{path}/messages", params=wrong), 422, "validation_failed", field="from_position")
    problem(client.delete(f"{path}/messages?from_position=1&all=true"), 422, "validation_failed", field="all")
    assert contents(client, path) == ["h"]


# Many writers


def post_patiently(client: httpx.Client, path: str, body: Any) -> httpx.Response:
    """Asks again when the service says that it is too busy to begin."""
    while True:
        answer = client.post(path, json=body, timeout=30)
        if answer.status_code != 503 or answer.json()["code"] != "overloaded":
            return answer


def test_fifty_writers_append_turns_without_holes_doubles_or_mixing(new_user: NewUser) -> None:
    ada = new_user()
    path = open_conversation(ada.client)
    sizes = [1 + number % 5 for number in range(50)]

    def write(number: int) -> list[Any]:
        answers = []
        for turn in range(2):
            messages = [user(f"{number} {turn} {place}") for place in range(sizes[number])]
            body = {"messages": messages, "context": {"messages": sizes[number]}}
            answers.append(post_patiently(ada.client, f"{path}/turns", body))
            single = post_patiently(ada.client, f"{path}/messages", user("single"))
            assert single.status_code == 201, single.text
        return answers

    answers = list(itertools.chain(*in_parallel(50, write)))
    assert [answer.status_code for answer in answers] == [201] * 100
    stored = list(walk(ada.client, path, limit=200))
    assert [message["position"] for message in stored] == list(range(1, 2 * sum(sizes) + 100 + 1))
    times = [datetime.fromisoformat(message["created_at"]) for message in stored]
    assert times == sorted(times)
    by_position = {message["position"]: message for message in stored}
    for answer in answers:
        turn = answer.json()
        first = turn["messages"][0]["position"]
        assert [by_position[first + place] for place in range(len(turn["messages"]))] == turn["messages"]
        assert [int(message["content"].split()[2]) for message in turn["messages"]] == list(
            range(len(turn["messages"]))
        )
        assert turn["position"] == first + len(turn["messages"]) - 1
        assert [item["content"] for item in turn["context"]] == [message["content"] for message in turn["messages"]]
    conversation = get(ada.client, path)
    assert conversation["message_count"] == len(stored)
    assert conversation["updated_at"] == stored[-1]["created_at"]


def wait_for_lock_waiters(connection: "psycopg.Connection[Any]", count: int) -> None:
    """Until so many sessions of the connection's database wait for a lock."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchone()
        if found[0] == count:
            return
        time.sleep(0.005)
    pytest.fail(f"there never were {count} sessions waiting for a lock")


def test_of_two_racers_who_expect_the_same_position_exactly_one_wins(new_user: NewUser, server: Server) -> None:
    ada = new_user()
    path = open_conversation(ada.client)
    position = take_turn(ada.client, path, "first")["position"]

    def race(number: int) -> httpx.Response:
        body = {"messages": [user(f"{number} a"), user(f"{number} b")], "expected_position": position}
        return post_patiently(ada.client, f"{path}/turns", body)

    with psycopg.connect(server.database.superuser_url, autocommit=True) as watching:
        for _ in range(5):
            before = get(ada.client, f"{path}/messages")["items"]
            with psycopg.connect(server.database.superuser_url) as holding, ThreadPoolExecutor(2) as pool:
                holding.execute("SELECT FROM conversations WHERE user_id = %s FOR UPDATE", (ada.id,))
                racers = [pool.submit(race, number) for number in range(2)]
                wait_for_lock_waiters(watching, 2)
                holding.rollback()
                answers = [racer.result() for racer in racers]
            won, lost = sorted(answers, key=lambda answer: answer.status_code)
            assert won.status_code == 201
            problem(lost, 409, "stale_position", position=position + 2)
            assert get(ada.client, f"{path}/messages")["items"] == before + won.json()["messages"]
            position = won.json()["position"]
            assert position == before[-1]["position"] + 2


@pytest.mark.parametrize("way", ["rewind", "delete"])
def test_a_message_that_is_appended_ahead_of_a_deletion_is_there_for_it(
    new_user: NewUser, server: Server, way: str
) -> None:
    """The deletion waits for the conversation, and then sees what the writer before it has committed."""
    ada = new_user()
    path = open_conversation(ada.client)
    take_turn(ada.client, path, *["x"] * 3)
    appended = uuid4()
    with (
        psycopg.connect(server.database.superuser_url, autocommit=True) as watching,
        psycopg.connect(server.database.superuser_url) as appending,
        ThreadPoolExecutor() as pool,
    ):
        appending.execute(
            "INSERT INTO messages (user_id, conversation_id, id, sender_type, content) VALUES (%s, %s, %s, 'ai', 'y')",
            (ada.id, path.rpartition("/")[2], appended),
        )
        rest = "?from_position=2" if way == "rewind" else f"/{appended}"
        deletion = pool.submit(ada.client.delete, f"{path}/messages{rest}")
        wait_for_lock_waiters(watching, 1)
        appending.commit()

    assert deletion.result().status_code == (200 if way == "rewind" else 204)
    positions = [message["position"] for message in get(ada.client, f"{path}/messages")["items"]]
    assert positions == ([1] if way == "rewind" else [1, 2, 3])


def test_a_message_and_its_conversation_are_deleted_at_once_without_a_deadlock(
    new_user: NewUser, server: Server
) -> None:
    """In OpenAI's way the deletion is in a transaction of several round trips, which a deadlock would end for good."""
    ada = new_user()
    path = open_conversation(ada.client)
    item = f"msg_{UUID(take_turn(ada.client, path, 'x')['messages'][0]['id']).hex}"
    place = f"/openai/v1/conversations/conv_{UUID(path.rpartition('/')[2]).hex}"
    with (
        psycopg.connect(server.database.superuser_url, autocommit=True) as watching,
        psycopg.connect(server.database.superuser_url) as holding,
        ThreadPoolExecutor() as pool,
    ):
        holding.execute("SELECT FROM conversations WHERE user_id = %s FOR UPDATE", (ada.id,))
        first = pool.submit(ada.client.delete, path)
        wait_for_lock_waiters(watching, 1)
        second = pool.submit(ada.client.delete, f"{place}/items/{item}")
        wait_for_lock_waiters(watching, 2)
        holding.rollback()

    assert first.result().status_code == 204
    assert second.result().status_code == 404, second.result().text


def test_of_many_who_expect_the_same_position_exactly_one_wins(new_user: NewUser) -> None:
    ada = new_user()
    path = open_conversation(ada.client)
    body = {"messages": [user("x")], "expected_position": 0}
    answers = in_parallel(20, lambda _: post_patiently(ada.client, f"{path}/turns", body))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 19
    for answer in answers:
        if answer.status_code == 409:
            problem(answer, 409, "stale_position", position=1)
    assert contents(ada.client, path) == ["x"]


def test_writers_rewinds_and_deletes_at_once_leave_the_count_right(new_user: NewUser) -> None:
    ada = new_user()
    path = open_conversation(ada.client)
    take_turn(ada.client, path, *["x"] * 30)
    ids = [message["id"] for message in get(ada.client, f"{path}/messages")["items"]]

    def act(number: int) -> int:
        if number % 3 == 0:
            return ada.client.post(f"{path}/turns", json={"messages": [user("y")] * 3}).status_code
        if number % 3 == 1:
            return ada.client.delete(f"{path}/messages/{ids[number]}").status_code
        return ada.client.delete(f"{path}/messages", params={"from_position": 40 - number}).status_code

    assert set(in_parallel(12, act)) <= {200, 201, 204, 404}
    stored = list(walk(ada.client, path, limit=200))
    positions = [message["position"] for message in stored]
    assert positions == sorted(set(positions))
    assert get(ada.client, path)["message_count"] == len(stored)


# Between users, in SQL


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
def test_a_message_in_somebody_elses_conversation_is_impossible_in_sql(
    new_user: NewUser, server: Server, login: str, role: str
) -> None:
    ada, eve = new_user(), new_user()
    adas, eves = (open_conversation(one.client).rpartition("/")[2] for one in (ada, eve))
    say(eve.client, f"/v1/conversations/{eves}")
    insert = "INSERT INTO messages (user_id, conversation_id, sender_type, content) VALUES (%s, %s, 'user', 'x')"
    attempts: list[tuple[str, Any]] = [
        (insert, (eve.id, adas)),
        (insert, (ada.id, eves)),
        ("UPDATE messages SET user_id = %s, conversation_id = %s WHERE user_id = %s", (ada.id, adas, eve.id)),
        ("UPDATE messages SET conversation_id = %s WHERE user_id = %s", (adas, eve.id)),
    ]
    with psycopg.connect(getattr(server.database, login)) as connection:
        for acting, (statement, values) in itertools.product((ada.id, eve.id, None), attempts):
            outcome = attempt(connection, role, acting, statement, values)
            assert outcome in (REFUSED if login != "superuser_url" else ("23503", "23514"))
        assert attempt(connection, role, eve.id, insert, (eve.id, eves)) == 1  # what is right is not refused
    assert contents(ada.client, f"/v1/conversations/{adas}") == []
    assert contents(eve.client, f"/v1/conversations/{eves}") == ["hello"]


# A great many messages

MANY = 40_000


@pytest.fixture(scope="module")
def crowded(new_module_user: NewUser, server: Server) -> Any:
    """A user with a conversation of very many messages, and its path."""
    ada = new_module_user()
    path = open_conversation(ada.client)
    with psycopg.connect(server.database.superuser_url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(
            "INSERT INTO messages"
            " (user_id, conversation_id, position, sender_type, content, created_at, updated_at)"
            " SELECT %(user)s, %(conversation)s, n, CASE n %% 2 WHEN 1 THEN 'user' ELSE 'ai' END,"
            " 'message ' || n, t.moment, t.moment"
            " FROM generate_series(1, %(many)s) AS n,"
            " LATERAL (SELECT now() - interval '2 days' + n * interval '1 s' AS moment) AS t",
            {"user": ada.id, "conversation": path.rpartition("/")[2], "many": MANY},
        )
        connection.execute(
            "UPDATE conversations SET last_position = %s, message_count = %s WHERE user_id = %s", (MANY, MANY, ada.id)
        )
        connection.execute("VACUUM (ANALYZE) messages")
    return ada, path


@pytest.mark.parametrize("order", ["position", "-position"])
def test_paging_through_very_many_messages_shows_each_once_while_others_write(crowded: Any, order: str) -> None:
    ada, path = crowded
    at_start = get(ada.client, f"{path}/messages", order="-position", limit=1)["items"][0]["position"]
    assert at_start >= MANY
    stop = threading.Event()
    written: list[int] = []

    def write() -> None:
        while not stop.wait(0.01):
            written.append(take_turn(ada.client, path, "another", "one more")["position"])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = [message["position"] for message in walk(ada.client, path, order=order, limit=200)]
    finally:
        stop.set()
        writer.join()
    assert len(written) > 10
    assert [position for position in sorted(seen) if position <= at_start] == list(range(1, at_start + 1))
    assert seen == sorted(seen, reverse=order == "-position")
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("filters", [{}, {"sender_type": "ai"}])
@pytest.mark.parametrize("name", ["list_messages", "list_messages_desc"])
def test_the_last_page_of_very_many_costs_what_the_first_costs(
    crowded: Any, server: Server, name: str, filters: dict[str, str]
) -> None:
    ada, path = crowded
    query = TEXTS[name]
    common = {
        "user_id": ada.id,
        "conversation_id": path.rpartition("/")[2],
        "sender_type": None,
        "message_type": None,
        "row_limit": 51,
        **filters,
    }
    # The first page of the one order is the last of the other.
    places = [{"after": 0}, {"after": MANY // 2}, {"after": MANY - 60}]
    if name.endswith("desc"):
        places = [{"before": MANY + 1}, {"before": MANY // 2}, {"before": 60}]
    spent = []
    with psycopg.connect(server.database.service_url, autocommit=True) as connection:
        for setting, value in SESSION.items():
            connection.execute("SELECT set_config(%s, %s, false)", (setting, value))
        connection.execute(
            f"PREPARE planned ({', '.join(query.parameters.values())}) AS ".encode() + query.prepared.text
        )
        for place in places:
            values = {**common, "after": 0, "before": MANY + 1, **place}
            arguments = sql.SQL(", ").join(
                sql.SQL("{}::{}").format(values[parameter], sql.SQL(kind))
                for parameter, kind in query.parameters.items()
            )
            with connection.transaction():
                connection.execute(f"SET LOCAL app.user_id = '{ada.id}'")
                connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
                explain = sql.SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE planned ({})").format(arguments)
                connection.execute(explain)
                plan = connection.execute(explain).fetchone()[0][0]["Plan"]
            spent.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
            assert plan["Actual Rows"] >= 29
    assert max(spent) <= 1.5 * min(spent) + 5 <= 20


def test_forged_references_between_messages_and_conversations_find_nothing(client: httpx.Client, path: str) -> None:
    for reference in (str(uuid4()), "1", "x", "null", "%00"):
        problem(client.get(f"{path}/messages/{reference}"), 404, "not_found")
