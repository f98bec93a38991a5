"""What is asked: the six operations, on rows picked from the data, and what the right answer is.

The right answer is what the database says (see `truth`), so no contender is the measure of another.
"""

import time
from datetime import datetime
from typing import Any, Literal, NamedTuple

import jwt
import msgspec

from tests.bench.data import BenchDatabase

Operation = Literal["get", "list", "create", "append", "last", "turn"]
OPERATIONS: dict[Operation, str] = {
    "get": "get a todo",
    "list": "list 20 by status",
    "create": "create a todo",
    "append": "append a message",
    "last": "last 50 messages",
    "turn": "turn: 2 messages + last 20",
}
READS: tuple[Operation, ...] = ("get", "list", "last")
PICKS = 2000
"""How many different rows are asked for: they are of about as many users, each with a token of their own."""
LISTED, LAST, CONTEXT = 20, 50, 20
SECRET = "this secret guards the rows of a benchmark"
TOKEN_SECONDS = 86_400

TITLE = "Call the dentist about the appointment on Friday"
DESCRIPTION = "Ask whether an earlier one can be had, and whether the papers of last year are needed again."
SAID = "Please remind me to call the dentist on Friday, and tell me what else is on my list for that day."
REPLY = "I have added a todo to call the dentist. On Friday you also have two others: buy milk, and water the plants."

TODO_FIELDS = (
    *("id", "number", "user_id", "title", "description", "status", "completed", "priority", "due_date", "assigned_to"),
    *("completed_at", "metadata", "version", "created_at", "updated_at"),
)
MESSAGE_FIELDS = (
    *("id", "conversation_id", "user_id", "position", "sender_type", "role", "sender_id", "content", "message_type"),
    *("metadata", "created_at", "updated_at"),
)
_TIMES = ("due_date", "completed_at", "created_at", "updated_at")


class Pick(NamedTuple):
    """A user, and one of their rows: a todo for `get`, a conversation where there is one to name."""

    user_id: str
    id: str = ""


class Answer(msgspec.Struct, frozen=True):
    """What every contender's answer comes down to: the rows, and the context of a turn."""

    rows: list[dict[str, Any]]
    context: list[dict[str, Any]] = []


_PICK: dict[str, str] = {
    "todo": "SELECT user_id::text, id::text FROM todos ORDER BY md5(id::text) LIMIT %s",
    "list": (
        "SELECT user_id::text, '' FROM todos WHERE status = 'pending' GROUP BY user_id"
        f" HAVING count(*) >= {LISTED} ORDER BY md5(user_id::text) LIMIT %s"
    ),
    "user": "SELECT id::text, '' FROM users ORDER BY md5(id::text) LIMIT %s",
    "conversation": (
        f"SELECT user_id::text, id::text FROM conversations WHERE message_count >= {LAST}"
        " ORDER BY md5(id::text) LIMIT %s"
    ),
}
_PICKED_BY: dict[Operation, str] = {
    "get": "todo",
    "list": "list",
    "create": "user",
    "append": "conversation",
    "last": "conversation",
    "turn": "conversation",
}


def pick(database: BenchDatabase) -> dict[Operation, list[Pick]]:
    """The rows to ask for: at random, but the same in every run on the same data."""
    found = {kind: [Pick(*row) for row in database.execute(query, (PICKS,))] for kind, query in _PICK.items()}
    for kind, picks in found.items():
        if not picks:
            raise ValueError(f"the data is too small: there is no {kind} to ask for")
    return {operation: found[kind] for operation, kind in _PICKED_BY.items()}


def token(user_id: str, **claims: str) -> str:
    """An access token as todochat issues them; ``claims`` are those that another contender needs beside."""
    now = int(time.time())
    times = {"iat": now, "exp": now + TOKEN_SECONDS}
    standard = {"iss": "todochat", "aud": "todochat", "sub": user_id, "ver": 1, **times}
    return jwt.encode({**standard, **claims}, SECRET, algorithm="HS256", headers={"typ": "at+jwt"})


def http_request(method: str, path: str, bearer: str, body: object = None, headers: str = "") -> bytes:
    """A whole request, ready to be sent."""
    payload = b"" if body is None else msgspec.json.encode(body)
    content = f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n" if payload else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {bearer}\r\n{headers}{content}\r\n"
    return head.encode() + payload


def messages() -> list[dict[str, str]]:
    """What a turn appends."""
    return [{"sender_type": "user", "content": SAID}, {"sender_type": "ai", "content": REPLY}]


def normal_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its times as whole milliseconds, the most that JavaScript's dates carry."""
    times = {name: _milliseconds(row[name]) for name in _TIMES if row.get(name) is not None}
    return {**row, **times}


def _milliseconds(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return int(moment.timestamp()) * 1000 + moment.microsecond // 1000


def truth(database: BenchDatabase, operation: Operation, asked: Pick, answer: Answer) -> Answer:
    """What should have been answered; of rows that were made, the answer says which."""
    if operation == "get":
        rows = _rows(database, "todos", "user_id = %s AND id = %s", asked)
    elif operation == "list":
        where = "user_id = %s AND status = 'pending'"
        rows = _rows(database, "todos", where, asked[:1], f"created_at DESC, id DESC LIMIT {LISTED}")
    elif operation == "create":
        rows = _rows(database, "todos", "user_id = %s AND id = %s", (asked.user_id, answer.rows[0]["id"]))
    else:
        count = {"last": LAST, "append": 1, "turn": 2}[operation]
        where, order = "user_id = %s AND conversation_id = %s", "position DESC LIMIT "
        rows = _rows(database, "messages", where, asked, f"{order}{count}")
        if operation == "turn":
            last = _rows(database, "messages", where, asked, f"{order}{CONTEXT}")[::-1]
            if last[0]["message_type"] == "response" and len(answer.context) < len(last):
                del last[0]  # todochat leaves away an output whose call is not among them, which models refuse
            context = [{"role": row["role"], "content": row["content"]} for row in last]
            return Answer(rows[::-1], context)
    return Answer(rows)


def _rows(database: BenchDatabase, table: str, where: str, values: Any, order: str = "id") -> list[dict[str, Any]]:
    fields = ", ".join(TODO_FIELDS if table == "todos" else MESSAGE_FIELDS)
    query = f"SELECT to_jsonb(r) FROM (SELECT {fields} FROM {table} WHERE {where} ORDER BY {order}) AS r"
    return [normal_row(row) for (row,) in database.execute(query, values)]


def check_written(operation: Operation, answer: Answer) -> str:
    """What is wrong with the content of an answer to a write, or an empty text."""
    wanted = {"create": [TITLE], "append": [SAID], "turn": [SAID, REPLY]}.get(operation)
    if wanted is None:
        return ""
    said = [row["title" if operation == "create" else "content"] for row in answer.rows]
    return "" if said == wanted else f"it wrote {said!r}"


def counts(database: BenchDatabase) -> tuple[int, int]:
    """How many todos and messages there are, by what their parents count: exact, and quick."""
    ((todos, said),) = database.execute(
        "SELECT (SELECT sum(last_number) FROM todo_counters), (SELECT sum(message_count) FROM conversations)"
    )
    return int(todos), int(said)


WRITES_EACH: dict[Operation, tuple[int, int]] = {"create": (1, 0), "append": (0, 1), "turn": (0, 2)}
"""Todos and messages that one request adds."""
