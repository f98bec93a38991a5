"""Items: what frameworks hand over comes back as it was sent, and contexts hold whole calls."""

import json
import re
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from service.items import whole
from tests.conftest import User
from tests.support.problems import problem

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def user(new_user: Callable[..., User]) -> User:
    return new_user()


@pytest.fixture
def conversation(user: User) -> str:
    return user.client.post("/v1/conversations", json={}).json()["id"]


def post_raw(user: User, conversation: str, item: str, **fields: Any) -> httpx.Response:
    """A message with this text as its item."""
    rest = json.dumps({"sender_type": "ai", **fields})
    body = f'{rest[:-1]}, "item": {item}}}'
    return user.client.post(f"/v1/conversations/{conversation}/messages", content=body.encode(), headers=JSON)


def raw_item(answer: httpx.Response) -> str:
    """The item's own text in an answer: what is between its name and the end of the object."""
    text = answer.content.decode()
    return text[text.index('"item":') + len('"item":') : -1]


SHAPES = {
    "an object": '{"b":1,"a":[true,null]}',
    "white space": '{ "a" :\t[ 1 ,\n2 ] }',
    "numbers": "[1.10,1E400,-0,123456789012345678901234567890,0.1000]",
    "an integer of more digits than Python reads": '{"n":' + "7" * 5000 + "}",
    "NUL": r'{"output":"a\u0000b"}',
    "half a surrogate pair": r'{"output":"\ud800 \uDC00x"}',
    "keys twice": '{"a":1,"a":2}',
    "escapes": r'{"a":"\/\"\\\u00e9é"}',
    "a string": '"text"',
    "a number": "1.0",
    "null": "null",
    "deep": "[" * 90 + "]" * 90,
    "a name like the field's": '{"item":{"item":"x"}}',
    "brackets in strings": r'{"a":"]}\"]","b":"{["}',
}


@pytest.mark.parametrize("item", SHAPES.values(), ids=SHAPES)
def test_an_item_comes_back_byte_for_byte(user: User, conversation: str, item: str):
    made = post_raw(user, conversation, item)
    assert made.status_code == 201, made.text
    assert raw_item(made) == item
    got = user.client.get(made.headers["location"])
    assert (raw_item(got), got.headers["etag"]) == (item, made.headers["etag"])
    listed = user.client.get(f"/v1/conversations/{conversation}/messages?items=true").content.decode()
    assert f'"item":{item}}}' in listed
    context = user.client.get(f"/v1/conversations/{conversation}/context?format=items").content.decode()
    assert context == f"[{item}]"


def test_what_is_harmful_in_a_page_is_escaped_within_the_same_value(user: User, conversation: str):
    made = post_raw(user, conversation, '{"output":"</script>&"}')
    assert b"</script>" not in made.content
    assert made.json()["item"] == {"output": "</script>&"}


def test_markup_that_an_item_spells_with_escapes_is_escaped_for_who_asks(user: User, conversation: str):
    item = r'{"a":"\u003cb \u003Cx\u003e\u0026\u0022\u0027\\u003c","\u003ck\u003E":"\u00e9"}'
    made = post_raw(user, conversation, item)
    path = f"/v1/conversations/{conversation}"
    (listed,) = user.client.get(f"{path}/messages?items=true&escape=html").json()["items"]
    (context,) = user.client.get(f"{path}/context?format=items&escape=html").json()
    got = user.client.get(f"{made.headers['location']}?escape=html").json()
    for found in (got["item"], listed["item"], context):
        assert found == {"a": "&lt;b &lt;x&gt;&amp;&quot;&#x27;\\u003c", "&lt;k&gt;": "é"}
    assert raw_item(user.client.get(made.headers["location"])) == item


def test_an_item_of_1_mib_is_kept_and_a_larger_one_refused(user: User, conversation: str):
    item = '{"a":"' + "x" * (1024 * 1024 - 8) + '"}'
    made = post_raw(user, conversation, item)
    assert made.status_code == 201
    assert raw_item(made) == item
    problem(post_raw(user, conversation, item.replace("x", "xx", 1)), 422, "validation_failed", field="item")
    problem(post_raw(user, conversation, '"' + "é" * (512 * 1024) + '"'), 422, "validation_failed", field="item")


@pytest.mark.parametrize("item", ['{"a":}', "[1,]", "NaN", '{"a":"\x00"}', "[" * 101 + "]" * 101])
def test_what_is_no_json_is_malformed(user: User, conversation: str, item: str):
    problem(post_raw(user, conversation, item), 400, "malformed_request")


def test_beside_an_item_the_rest_of_the_body_is_as_strict_as_ever(user: User, conversation: str):
    path = f"/v1/conversations/{conversation}/messages"
    for body in (
        r'{"sender_type": "ai", "content": "\u0000", "item": {}}',
        r'{"sender_type": "ai", "content": "\ud800", "item": {}}',
        '{"sender_type": "ai", "sender_type": "ai", "item": {}}',
        '{"sender_type": "ai", "item": {}, "item": {}}',
        '{"sender_type": "ai", "item": {}, "metadata": {"item": 1, "item": 2}}',
        '{"sender_type": "ai", "item": {}, "other": 1}',
    ):
        problem(user.client.post(path, content=body, headers=JSON), 422, "validation_failed")


# Its text


@pytest.mark.parametrize(
    ("item", "content", "message_type"),
    [
        ({"role": "user", "content": "Hi"}, "Hi", "text"),
        ({"content": [{"type": "output_text", "text": "A"}, {"type": "refusal", "refusal": "B"}]}, "A\nB", "text"),
        ({"type": "function_call", "call_id": "c", "name": "add", "arguments": '{"a": 1}'}, 'add({"a": 1})', "command"),
        ({"type": "function_call_output", "call_id": "c", "output": "done"}, "done", "response"),
        ({"type": "custom_tool_call_output", "call_id": "c", "output": [{"text": "x"}]}, "x", "response"),
        ({"type": "reasoning", "summary": [{"type": "summary_text", "text": "Thinking"}]}, "Thinking", "text"),
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function"}]}, "", "command"),
        ({"role": "tool", "tool_call_id": "c", "content": "done"}, "done", "response"),
        (
            {"role": "assistant", "content": [{"type": "tool-call", "toolCallId": "c", "toolName": "f", "input": {}}]},
            "",
            "command",
        ),
        (
            {"role": "tool", "content": [{"type": "tool-result", "toolCallId": "c", "output": {"value": "x"}}]},
            "",
            "response",
        ),
        ({"parts": [{"type": "tool-get_output", "toolCallId": "c", "state": "input-available"}]}, "", "response"),
        ({"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {}}]}, "", "command"),
        ({"type": "function_result", "call_id": "c", "result": "x"}, "", "response"),
        ({"type": "mcp_tool_use", "id": "c", "name": "f", "input": {}}, "", "command"),
        ({"type": "mcp_tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "x"}]}, "x", "response"),
        ({"type": "image_generation_call", "id": "ig_1", "result": "aGk="}, "", "text"),
        ({"id": "m", "role": "assistant", "parts": [{"type": "text", "text": "Hello"}]}, "Hello", "text"),
        ([1, {"a": 2}], "", "text"),
        (7, "", "text"),
    ],
)  # fmt: skip
def test_the_text_and_kind_that_are_left_out_are_found_in_the_item(
    user: User, conversation: str, item: Any, content: str, message_type: str
):
    made = post_raw(user, conversation, json.dumps(item)).json()
    assert (made["content"], made["message_type"], made["content_truncated"]) == (content, message_type, False)


def test_what_is_given_stands(user: User, conversation: str):
    call = json.dumps({"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"})
    made = post_raw(user, conversation, call, content="Said", message_type="error").json()
    assert (made["content"], made["message_type"]) == ("Said", "error")
    assert post_raw(user, conversation, call, content="").json()["content"] == ""


@pytest.mark.parametrize("given", [True, False])
def test_a_long_text_is_cut_on_a_whole_character(user: User, conversation: str, given: bool):
    text = "🙂" * 10_001
    item = json.dumps({"role": "user", "content": text}, ensure_ascii=False)
    made = post_raw(user, conversation, item, **({"content": text} if given else {})).json()
    assert (made["content"], made["content_truncated"]) == ("🙂" * 10_000, True)
    path = f"/v1/conversations/{conversation}/messages/{made['id']}"
    changed = user.client.patch(path, json={"content": "Short"}).json()
    assert (changed["content"], changed["content_truncated"], changed["item"]) == ("Short", False, made["item"])


def test_nul_and_half_pairs_in_its_text_are_replaced(user: User, conversation: str):
    made = post_raw(user, conversation, r'{"type":"function_call_output","call_id":"c","output":"a\u0000b\ud800"}')
    assert made.json()["content"] == "a\ufffdb?"


def test_without_an_item_the_old_rules_hold(user: User, conversation: str):
    path = f"/v1/conversations/{conversation}/messages"
    for body in ({}, {"content": ""}, {"content": "x" * 10_001}, {"content": None}):
        problem(user.client.post(path, json={"sender_type": "ai", **body}), 422, "validation_failed", field="content")
    made = user.client.post(path, json={"sender_type": "ai", "content": "Hi"}).json()
    assert (made["item"], made["content_truncated"]) == (None, False)


def test_lists_carry_items_only_where_they_are_asked_for(user: User, conversation: str):
    path = f"/v1/conversations/{conversation}/messages"
    made = post_raw(user, conversation, '{"a":1}').json()
    assert "item" not in user.client.get(path).json()["items"][0]
    for order in ("position", "-position"):
        assert user.client.get(f"{path}?items=true&order={order}").json()["items"] == [made]
    assert "item" not in user.client.get("/v1/conversations?messages=5").json()["items"][0]["messages"][0]


def test_a_page_of_large_items_ends_early_and_leads_on(user: User, conversation: str):
    item = json.dumps("x" * 900_000)
    for _ in range(7):
        assert post_raw(user, conversation, item).status_code == 201
        assert post_raw(user, conversation, '"small"').status_code == 201
    for order in ("position", "-position"):
        found: list[int] = []
        path = f"/v1/conversations/{conversation}/messages?items=true&order={order}"
        cursor = ""
        while True:
            answer = user.client.get(path + cursor)
            assert len(answer.content) < 6_000_000
            found += [message["position"] for message in answer.json()["items"]]
            if answer.json()["next_cursor"] is None:
                break
            cursor = f"&cursor={answer.json()['next_cursor']}"
        assert found == sorted(range(1, 15), reverse=order == "-position")
    context = user.client.get(f"/v1/conversations/{conversation}/context?format=items&messages=200")
    assert len(context.content) < 4_300_000
    assert context.json()[-1] == "small"


# Turns, and the context


CALL = {"type": "function_call", "call_id": "c1", "name": "add_task", "arguments": '{"title": "Milk"}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "x" * 22_000}


def turn(user: User, conversation: str, *items: Any, **context: Any) -> Any:
    messages = [item if "sender_type" in item else {"sender_type": "ai", "item": item} for item in items]
    body = {"messages": messages, **({"context": context} if context else {})}
    answer = user.client.post(f"/v1/conversations/{conversation}/turns", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_a_turn_keeps_items_and_answers_with_them_as_context(user: User, conversation: str):
    said = {"sender_type": "user", "content": "Remind me"}
    done = turn(user, conversation, said, CALL, OUTPUT, messages=10, format="items")
    assert done["context"] == [{"role": "user", "content": "Remind me"}, CALL, OUTPUT]
    assert [message["message_type"] for message in done["messages"]] == ["text", "command", "response"]
    assert [message["content_truncated"] for message in done["messages"]] == [False, False, True]
    assert all("item" not in message for message in done["messages"])


def context(user: User, conversation: str, query: str) -> Any:
    return user.client.get(f"/v1/conversations/{conversation}/context?{query}").json()


@pytest.mark.parametrize("format_", ["messages", "items"])
def test_an_output_never_comes_without_its_call(user: User, conversation: str, format_: str):
    other = {"type": "function_call", "call_id": "c2", "name": "list", "arguments": "{}"}
    other_output = {"type": "function_call_output", "call_id": "c2", "output": "ok"}
    said = {"sender_type": "user", "content": "Hi"}
    turn(user, conversation, said, CALL, OUTPUT, other, other_output, said)
    lengths = [len(context(user, conversation, f"format={format_}&messages={number}")) for number in range(7)]
    assert lengths == [0, 1, 1, 3, 3, 5, 6]


def test_at_the_beginning_of_a_conversation_nothing_was_parted(user: User, conversation: str):
    response = {"sender_type": "ai", "content": "Hello Ada!", "message_type": "response"}
    assert turn(user, conversation, response, messages=20)["context"] == [
        {"role": "assistant", "content": "Hello Ada!"}
    ]
    turn(user, conversation, {"sender_type": "user", "content": "Hi"})
    assert [len(context(user, conversation, f"messages={number}")) for number in (1, 2, 3)] == [1, 2, 2]
    assert len(context(user, conversation, "messages=3&max_characters=2")) == 1


def test_a_context_of_items_has_4_mib_when_they_are_escaped_too(user: User, conversation: str):
    for number in range(6):
        turn(user, conversation, {"output": f"{number}{'<' * 300_000}"})
    answer = user.client.get(f"/v1/conversations/{conversation}/context?format=items&messages=6")
    assert [item["output"][0] for item in answer.json()] == ["4", "5"]
    assert len(answer.content) < 4 * 1024 * 1024
    turn(user, conversation, {"output": "<" * 1_000_000})
    newest = user.client.get(f"/v1/conversations/{conversation}/context?format=items&messages=6").json()
    assert [len(item["output"]) for item in newest] == [1_000_000], "one comes however large it is"


def test_of_parallel_calls_none_is_parted_from_its_output(user: User, conversation: str):
    calls = [{**CALL, "call_id": name} for name in ("a", "b")]
    outputs = [{**OUTPUT, "call_id": name, "output": name} for name in ("a", "b")]
    turn(user, conversation, *calls, *outputs)
    lengths = [len(context(user, conversation, f"format=items&messages={number}")) for number in range(5)]
    assert lengths == [0, 0, 0, 0, 4]


def test_commands_and_responses_without_items_stay_together_too(user: User, conversation: str):
    command = {"sender_type": "ai", "content": "add_task", "message_type": "command"}
    response = {"sender_type": "ai", "content": "done", "message_type": "response"}
    turn(user, conversation, command, response, {"sender_type": "ai", "content": "Done"})
    assert [len(context(user, conversation, f"messages={number}")) for number in (1, 2, 3)] == [1, 1, 3]


@pytest.mark.parametrize("format_", ["messages", "items"])
def test_what_stands_alone_further_on_takes_nothing_with_it(user: User, conversation: str, format_: str):
    """It lost all that came before."""
    said = [{"sender_type": "user", "content": "My name is Ada"}, {"sender_type": "user", "content": "What is it?"}]
    answer = {"sender_type": "ai", "content": "Hello Ada!", "message_type": "response"}
    turn(user, conversation, said[0], answer, OUTPUT, CALL, OUTPUT, said[1])
    found = context(user, conversation, f"format={format_}&messages=20")
    texts = [item.get("content") for item in found]
    assert [*texts[:2], texts[-1]] == ["My name is Ada", "Hello Ada!", "What is it?"]
    if format_ == "items":
        assert found[2:4] == [CALL, OUTPUT], "only the output ahead of its call is left out"
        assert len(found) == 5


@pytest.mark.parametrize(
    ("call", "output"),
    [
        ({"type": "local_shell_call", "id": "i", "call_id": "c"}, {"type": "local_shell_call_output", "id": "c"}),
        (
            {"type": "mcp_approval_request", "id": "m", "name": "x", "arguments": "{}"},
            {"type": "mcp_approval_response", "approval_request_id": "m", "approve": True},
        ),
        (
            {"role": "assistant", "content": [{"type": "tool-call", "toolCallId": "c", "toolName": "f", "input": {}}]},
            {"role": "tool", "content": [{"type": "tool-result", "toolCallId": "c", "output": {"value": "x"}}]},
        ),
    ],
    ids=["a local shell", "an approval", "Vercel's messages for models"],
)
def test_what_names_its_call_in_another_way_is_not_parted_from_it_either(
    user: User, conversation: str, call: Any, output: Any
):
    turn(user, conversation, call, output, {"sender_type": "user", "content": "Hi"})
    lengths = [len(context(user, conversation, f"format=items&messages={number}")) for number in range(4)]
    assert lengths == [0, 1, 1, 3]


def test_a_context_of_many_outputs_costs_no_more_for_the_calls_before_them():
    """As CPU time, the least of three; it took 100 times as long."""
    calls = (frozenset(map(str, range(100_000))), frozenset[str]())
    output = (frozenset[str](), frozenset("7"))

    def seconds(outputs: int) -> float:
        times: list[float] = []
        for _ in range(3):
            started = time.process_time()
            assert len(whole([calls] + [output] * outputs)) == 1 + outputs
            times.append(time.process_time() - started)
        return min(times)

    assert seconds(200) < 20 * seconds(2)


def test_the_newest_that_fit_into_so_many_characters(user: User, conversation: str):
    texts = ["one", "twelve", "x" * 10]
    turn(user, conversation, *({"sender_type": "user", "content": text} for text in texts))
    for characters, number in ((9, 0), (10, 1), (15, 1), (16, 2), (19, 3)):
        found = context(user, conversation, f"messages=10&max_characters={characters}")
        assert [item["content"] for item in found] == texts[len(texts) - number :]
    turn(user, conversation, CALL)
    size = len(json.dumps(CALL, separators=(",", ":")))
    for characters, number in ((size - 1, 0), (size, 1), (size + 10, 2)):
        found = context(user, conversation, f"messages=10&max_characters={characters}&format=items")
        assert len(found) == number


def test_context_parameters_are_held_to_their_limits(user: User, conversation: str):
    for query in ("max_characters=0", "format=xml", "max_characters=1.0"):
        answer = user.client.get(f"/v1/conversations/{conversation}/context?{query}")
        problem(answer, 422, "validation_failed", field=query.partition("=")[0])


# Where it travels


def test_items_travel_in_the_feed_and_come_back_by_an_undo(user: User, conversation: str):
    item = SHAPES["NUL"]
    made = post_raw(user, conversation, item).json()
    path = f"/v1/conversations/{conversation}/messages/{made['id']}"
    inserted = user.client.get("/v1/changes").json()["items"][-1]
    assert inserted["changes"]["item"] == [None, item], "as text: it stays as it was sent"
    user.client.patch(path, json={"content": "Changed"})
    assert "item" not in user.client.get("/v1/changes").json()["items"][-1]["changes"]
    user.client.delete(path)
    gone = user.client.get("/v1/audit?limit=1").json()["items"][0]
    assert gone["changes"]["item"] == [item, None]
    assert user.client.post(f"/v1/changes/{gone['id']}/revert").status_code == 200
    assert raw_item(user.client.get(path)) == item
    user.client.delete(f"/v1/conversations/{conversation}")
    entries = user.client.get("/v1/audit?table=conversations&action=delete").json()["items"]
    assert user.client.post(f"/v1/changes/{entries[0]['id']}/revert").status_code == 200
    assert raw_item(user.client.get(path)) == item


def test_items_are_exported_and_imported_byte_for_byte(new_user: Callable[..., User], user: User, conversation: str):
    for item in SHAPES.values():
        assert post_raw(user, conversation, item).status_code == 201
    large = '{"a":"' + "<" * (1024 * 1024 - 8) + '"}'
    post_raw(user, conversation, large)
    exported = user.client.get("/v1/export").content
    other = new_user()
    lines = re.sub(rb'"email":"[^"]*"', b'"email":null', exported, count=1)
    answer = other.client.post("/v1/import", content=lines, headers={"Content-Type": "application/x-ndjson"})
    assert answer.status_code == 200, answer.text
    path = f"/v1/conversations/{conversation}/messages?items=true&limit=1&order=position"
    for position, item in enumerate([*SHAPES.values(), large], 1):
        got = other.client.get(f"{path}&after_position={position - 1}").content.decode()
        assert got.replace("\\u003c", "<").partition('"item":')[2].startswith(f"{item}}}]")


@pytest.mark.parametrize("item", ["{", "", '{"a":1} x'])
def test_an_import_of_what_is_no_json_is_refused(user: User, conversation: str, item: str):
    post_raw(user, conversation, '"kept"')
    exported = user.client.get("/v1/export").content.replace(
        rb'"item":"\"kept\""', b'"item":' + json.dumps(item).encode()
    )
    user.client.delete(f"/v1/conversations/{conversation}")
    answer = user.client.post("/v1/import", content=exported, headers={"Content-Type": "application/x-ndjson"})
    problem(answer, 422, "validation_failed", field="line 3")


def test_an_agent_appends_items_through_mcp(user: User, conversation: str):
    arguments = {"conversation_id": conversation, "messages": [{"sender_type": "ai", "item": {"output": "\0"}}]}
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "append_turn", "arguments": arguments},
    }
    assert user.client.post("/mcp", json=body).json()["result"]["structuredContent"]["position"] == 1
    assert context(user, conversation, "format=items") == [{"output": "\0"}]
