"""Writes rows through every trigger and check, as todochat_owner, in the caller's one transaction.

Row security is forced, also for the owner, and allows no COPY. So each user's rows are inserted under `app.user_id`, as
the service does it.
"""

from collections.abc import Iterable, Iterator
from typing import Any, LiteralString
from uuid import UUID

import msgspec
import psycopg
from psycopg.sql import SQL, Literal

from service.commands.demo.progress import Stage
from service.commands.demo.rows import KINDS, Message, World
from service.commands.demo.words import Json, Piece

Connection = psycopg.Connection[Any]
Counts = dict[str, int]
OWNED = ("users", "todos", "conversations", "messages", "todo_conversation_links")
"""What is counted for the reader."""

SET_USER = SQL("SET LOCAL app.user_id = {}")
NO_USER = "SET LOCAL app.user_id = ''"

INSERT_USERS = """
INSERT INTO public.users (id, email, username, full_name, password_hash, created_at, updated_at)
SELECT r.id, r.email, r.username, r.full_name, %(password_hash)s, t.created_at, t.created_at
FROM json_to_recordset(%(rows)s::json) AS r (id uuid, email text, username text, full_name text, created_at bigint)
CROSS JOIN LATERAL (SELECT 'epoch'::timestamptz + r.created_at * interval '1 microsecond' AS created_at) AS t
"""
INSERT_TODOS = """
INSERT INTO public.todos (user_id, id, number, title, description, status, priority, due_date, assigned_to,
    completed_at, metadata, created_at, updated_at)
SELECT %(user_id)s, r.id, r.number, r.title, r.description, r.status, r.priority,
    'epoch'::timestamptz + r.due_date * interval '1 microsecond', r.assigned_to,
    'epoch'::timestamptz + r.completed_at * interval '1 microsecond', r.metadata,
    'epoch'::timestamptz + r.created_at * interval '1 microsecond',
    'epoch'::timestamptz + r.updated_at * interval '1 microsecond'
FROM json_to_recordset(%(rows)s::json) AS r (id uuid, number integer, title text, description text, status text,
    priority text, due_date bigint, assigned_to uuid, completed_at bigint, metadata jsonb, created_at bigint,
    updated_at bigint)
"""
INSERT_CONVERSATIONS = """
INSERT INTO public.conversations (user_id, id, title, metadata, created_at, updated_at)
SELECT %(user_id)s, r.id, r.title, r.metadata, t.created_at, t.created_at
FROM json_to_recordset(%(rows)s::json) AS r (id uuid, title text, metadata jsonb, created_at bigint)
CROSS JOIN LATERAL (SELECT 'epoch'::timestamptz + r.created_at * interval '1 microsecond' AS created_at) AS t
"""
INSERT_MESSAGES = """
INSERT INTO public.messages (user_id, conversation_id, position, id, sender_type, content, message_type, metadata,
    created_at)
SELECT %(user_id)s, r.conversation_id, r.position, r.id, r.sender_type, r.content, r.message_type, r.metadata,
    'epoch'::timestamptz + r.created_at * interval '1 microsecond'
FROM json_to_recordset(%(rows)s::json) AS r (conversation_id uuid, position integer, id uuid, sender_type text,
    content text, message_type text, metadata jsonb, created_at bigint)
"""
INSERT_LINKS = """
INSERT INTO public.todo_conversation_links (user_id, id, todo_id, conversation_id, relationship_type, created_at,
    updated_at)
SELECT %(user_id)s, r.id, r.todo_id, r.conversation_id, r.relationship_type, t.created_at, t.created_at
FROM json_to_recordset(%(rows)s::json) AS r (id uuid, todo_id uuid, conversation_id uuid, relationship_type text,
    created_at bigint)
CROSS JOIN LATERAL (SELECT 'epoch'::timestamptz + r.created_at * interval '1 microsecond' AS created_at) AS t
"""

USERS_AT_ONCE = 20
MESSAGES_AT_ONCE = 5_000
"""Messages in one statement; a conversation's are never parted, because each statement moves its version."""


def insert_through_triggers(connection: Connection, world: World, password_hash: str) -> Counts:
    """Insert all rows as the connection's role, which must be todochat_owner; the number of rows by table."""
    counts: Counts = dict.fromkeys(OWNED, 0) | {"users": world.size.users}
    last = world.size.users
    with Stage("users") as stage:
        for first in range(0, last, 1_000):
            users = [world.user(index) for index in range(first, min(first + 1_000, last))]
            insert_users(connection, (user._asdict() for user in users), password_hash)
            stage.update(min(1, (first + 1_000) / last), len(users))
    with Stage("what they own") as stage:
        for first in range(0, last, USERS_AT_ONCE):
            before = sum(counts.values())
            with connection.pipeline():
                for index in range(first, min(first + USERS_AT_ONCE, last)):
                    for table, added in _insert_one(connection, world, index).items():
                        counts[table] += added
            stage.update(min(1, (first + USERS_AT_ONCE) / last), sum(counts.values()) - before)
        connection.execute(NO_USER)
    return counts


def insert_users(connection: Connection, users: Iterable[dict[str, Any]], password_hash: str) -> None:
    """Insert users of one password."""
    connection.execute(INSERT_USERS, {"rows": _json(users), "password_hash": password_hash})


def insert_rows(connection: Connection, statement: LiteralString, user_id: int, rows: Iterable[dict[str, Any]]) -> None:
    """Insert a user's rows with one of the statements above; ``app.user_id`` must name the user already."""
    connection.execute(statement, {"rows": _json(rows), "user_id": UUID(int=user_id)})


def _insert_one(connection: Connection, world: World, index: int) -> Counts:
    user_id = world.user_ids[index]
    todos = [todo._asdict() for todo in world.todos(index)]
    conversations = world.conversations(index)
    links = [link._asdict() for link in world.links(index, conversations)]
    connection.execute(SET_USER.format(Literal(str(UUID(int=user_id)))))
    insert_rows(connection, INSERT_TODOS, user_id, todos)
    insert_rows(connection, INSERT_CONVERSATIONS, user_id, (found._asdict() for found in conversations))
    for messages in _whole_conversations(world.messages(index, conversations)):
        insert_rows(connection, INSERT_MESSAGES, user_id, map(_message_fields, messages))
    insert_rows(connection, INSERT_LINKS, user_id, links)
    return {
        "todos": len(todos),
        "conversations": len(conversations),
        "messages": world.message_counts[index],
        "todo_conversation_links": len(links),
    }


def _whole_conversations(messages: Iterable[Message]) -> Iterator[list[Message]]:
    chunk: list[Message] = []
    for message in messages:
        if message.position == 1 and len(chunk) >= MESSAGES_AT_ONCE:
            yield chunk
            chunk = []
        chunk.append(message)
    yield chunk


def _message_fields(message: Message) -> dict[str, Any]:
    sender_type, message_type = KINDS[message.kind]
    return {**message._asdict(), "sender_type": sender_type, "message_type": message_type}


def _json(rows: Iterable[dict[str, Any]]) -> str:
    """Rows as PostgreSQL reads them: ids are the integers of more than 64 bits, texts may be pieces."""
    return msgspec.json.encode([{name: _plain(value) for name, value in row.items()} for row in rows]).decode()


def _plain(value: object) -> object:
    if isinstance(value, Json):
        return msgspec.Raw(value.text.encode())
    if isinstance(value, Piece):
        return value.text
    if isinstance(value, int) and value >> 64:
        return f"{value:032x}"
    return value
