"""Files as an export writes them: an account that has everything in it, and files with something changed."""

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx

from service.exports import FORMAT
from tests.conftest import User

NDJSON = {"Content-Type": "application/x-ndjson"}
TIMES = {"created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-02T00:00:00Z"}
Lines = list[dict[str, Any]]


def fill(user: User, *, assignee: User | None = None) -> None:
    """Todos in every state, numbers and positions with holes, conversations with and without messages, links."""
    client = user.client

    def send(method: str, path: str, **body: Any) -> Any:
        answer = client.request(method, path, json=body or None)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    turn = {"messages": [{"sender_type": kind, "content": f"{kind} <&> é 🙂"} for kind in ("user", "ai", "system")]}
    send("POST", "/v1/conversations", title="Nothing said")
    first = send("POST", "/v1/turns", title="Groceries", **turn)["messages"][0]["conversation_id"]
    second = send("POST", "/v1/turns", **turn)["messages"][0]["conversation_id"]
    path = f"/v1/conversations/{first}"
    command = {"sender_type": "ai", "message_type": "command", "content": "x", "metadata": {"<tool>": [1.10, None]}}
    send("POST", f"{path}/turns", messages=[command, command])
    listed = client.get(f"{path}/messages").json()["items"]
    send("PATCH", f"{path}/messages/{listed[1]['id']}", content="Edited")
    send("DELETE", f"{path}/messages/{listed[2]['id']}")
    assert client.delete(f"{path}/messages?from_position=5").is_success
    send("PATCH", f"/v1/conversations/{second}", metadata={"a": {"b": ["<", 1e20, -0.5]}})
    for number, status in enumerate(("pending", "in_progress", "completed", "archived"), 1):
        due = "2020-01-01T00:00:00+02:00"
        send("POST", "/v1/todos", title=f" {status} ", due_date=due, description="é\n\t\"'<b>", conversation_id=first)
        if status != "pending":
            send("PATCH", f"/v1/todos/{number}", status=status, conversation_id=second)
    send("PATCH", "/v1/todos/4", status="pending")
    send("PATCH", "/v1/todos/4", status="completed")
    send("PATCH", "/v1/todos/4", status="archived")
    send("PATCH", "/v1/todos/1", assigned_to=str(user.id), priority="urgent", metadata={"n": [1.10]})
    if assignee:
        send("PATCH", "/v1/todos/2", assigned_to=str(assignee.id))
    send("POST", "/v1/todos", title="Deleted")
    send("POST", "/v1/todos", title="Deleted, too")
    send("DELETE", "/v1/todos/5")
    send("DELETE", "/v1/todos/6")


def export(user: User) -> bytes:
    answer = user.client.get("/v1/export")
    assert answer.status_code == 200, answer.text
    return answer.content


def parsed(content: bytes) -> Lines:
    assert content.endswith(b"\n")
    return [json.loads(line) for line in content.splitlines()]


def written(lines: Lines) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def send(user: User, content: bytes | Lines, **headers: str) -> httpx.Response:
    content = content if isinstance(content, bytes) else written(content)
    # An import may take two minutes; on a busy machine, some thousand lines have taken ten seconds.
    return user.client.post("/v1/import", content=content, headers={**NDJSON, **headers}, timeout=120)


def small_file(change: Callable[[Lines], Any] = lambda _: None) -> Lines:
    """A valid file of one or two of each kind, then changed: 0 header, 1 and 2 todos, 3 and 6 conversations, 8 end."""
    todos = [str(uuid4()) for _ in range(2)]
    conversations = sorted(str(uuid4()) for _ in range(2))
    lines: Lines = [
        {"type": "export", "format": FORMAT, "email": None, "last_number": 9},
        *(
            {
                "type": "todo",
                "id": todo,
                "number": number,
                "title": "Buy milk",
                "description": None,
                "status": "pending",
                "priority": "low",
                "due_date": None,
                "assigned_to": None,
                "completed_at": None,
                "metadata": {},
                **TIMES,
                "version": 3,
            }
            for number, todo in zip((2, 5), todos, strict=True)
        ),
        conversation(conversations[0], 2),
        *(
            {
                "type": "message",
                "id": str(uuid4()),
                "conversation_id": conversations[0],
                "position": position,
                "sender_type": "user",
                "content": "Milk?",
                "message_type": "text",
                "metadata": {},
                **TIMES,
                "version": 1,
            }
            for position in (1, 3)
        ),
        conversation(conversations[1], 0),
        {
            "type": "link",
            "id": str(uuid4()),
            "todo_id": todos[0],
            "conversation_id": conversations[0],
            "relationship_type": "creation",
            **TIMES,
            "version": 1,
        },
        {"type": "end", "todos": 2, "conversations": 2, "messages": 2, "links": 1},
    ]
    change(lines)
    return lines


def conversation(conversation_id: str, messages: int) -> dict[str, Any]:
    return {
        "type": "conversation",
        "id": conversation_id,
        "title": None,
        "metadata": {},
        "last_position": 2 * messages,
        "message_count": messages,
        **TIMES,
        "version": 1 + messages,
    }
