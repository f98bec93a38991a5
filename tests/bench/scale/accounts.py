"""Accounts that are made for a measurement, and the files that an import fills them with, as an export writes them."""

from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import UUID

import msgspec
import psycopg

from service.exports import FORMAT, ConversationLine, ExportEnd, ExportHeader, Line, MessageLine, TodoLine, encode_line
from service.http.fields import new_id
from tests.bench.data import BenchDatabase
from tests.bench.operations import DESCRIPTION, SAID, TITLE, token

_NOTHING = msgspec.Raw(b"{}")


def new_account(database: BenchDatabase) -> str:
    """The id of a new user, who owns nothing."""
    user_id = str(new_id())
    with psycopg.connect(database.service_url) as connection:
        connection.execute(f"SET LOCAL app.user_id = '{user_id}'".encode())
        email = f"{user_id}@scale.example"
        connection.execute("INSERT INTO users (id, email) VALUES (%s, %s)", (user_id, email))
    return user_id


def file(todos: int, conversations: Iterable[int]) -> tuple[bytes, list[UUID]]:
    """A file with so many todos, and conversations of so many messages; and the conversations' ids."""
    now = datetime.now(UTC)
    times = {"metadata": _NOTHING, "created_at": now, "updated_at": now, "version": 1}
    lines: list[Line] = [ExportHeader(FORMAT, None, todos)]
    lines += [
        TodoLine(new_id(), number, TITLE, DESCRIPTION, "pending", "high", None, None, None, **times)
        for number in range(1, todos + 1)
    ]
    ids: list[UUID] = []
    said = 0
    for messages in conversations:
        ids.append(new_id())
        said += messages
        lines.append(ConversationLine(ids[-1], TITLE, last_position=messages, message_count=messages, **times))
        lines += [
            MessageLine(new_id(), ids[-1], position, ("user", "ai")[position % 2], SAID, "text", **times)
            for position in range(1, messages + 1)
        ]
    lines.append(ExportEnd(todos, len(ids), said, 0))
    return b"".join(encode_line(line) + b"\n" for line in lines), ids


def import_request(user_id: str, content: bytes) -> bytes:
    """The request that brings a file into an account."""
    head = f"POST /v1/import HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token(user_id)}\r\n"
    return f"{head}Content-Type: application/x-ndjson\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content
