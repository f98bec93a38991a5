"""A user who owns something, and people who are not that user: what the tests of isolation look at."""

import dataclasses
import itertools
import secrets
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

Connection = psycopg.Connection[Any]

_people = itertools.count(1)
_worlds = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class Person:
    id: UUID
    email: str
    username: str
    full_name: str


@dataclasses.dataclass(frozen=True)
class World:
    """The owner has todos that are nobody else's business (one is the target) and one that the assignee may see."""

    owner: Person
    stranger: Person
    assignee: Person
    former_assignee: Person
    """Whom the target was assigned to once."""
    target: UUID
    target_number: int
    assigned: UUID
    assigned_number: int
    conversation: UUID
    """Linked with both, and with one message in it."""
    message: UUID
    link: UUID
    """Of the target, of type discussion."""
    key: str
    """An Idempotency-Key with its answer kept."""
    old_key: str
    """One that is older than a day."""
    secrets: dict[str, str]
    """What must not be seen: its name → the text that gives it away."""

    def seen(self, text: str) -> set[str]:
        """The names of the owner's secrets that stand in the text."""
        return {name for name, secret in self.secrets.items() if secret in text}


ASSIGNED = {"owner_id", "assigned_id", "assigned_title"}
"""The secrets that the assignee shares."""


def make_person(connection: Connection, password_hash: str) -> Person:
    number, mark = next(_people), secrets.token_hex(6)
    person = {
        "email": f"person{number}-{mark}@example.com",
        "username": f"name-{number}-{mark}",
        "full_name": f"Person {number} {mark}",
    }
    row = connection.execute(
        "INSERT INTO users (email, username, full_name, password_hash)"
        " VALUES (%(email)s, %(username)s, %(full_name)s, %(password_hash)s) RETURNING id",
        {**person, "password_hash": password_hash},
    ).fetchone()
    assert row
    return Person(row[0], **person)


def make_world(connection: Connection, password_hash: str = "") -> World:
    """Four new users and what the owner owns: a row or more in every table. The connection is a superuser's.

    They share a password, where its hash is given.
    """
    target_title, assigned_title, private = [secrets.token_hex(8) for _ in range(3)]
    hashes = [password_hash or f"hash {secrets.token_hex(8)}" for _ in range(4)]
    with connection.transaction():
        owner, stranger, assignee, former = [make_person(connection, password_hash) for password_hash in hashes]
        # Numbers that nobody else has, in no other world either.
        connection.execute(
            "INSERT INTO todo_counters (user_id, last_number) VALUES (%s, %s)", (owner.id, 100 * next(_worlds))
        )
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO todos (user_id, title, description, status, due_date, assigned_to)"
                " VALUES (%s, %s, %s, %s, now() + interval '1 day', %s) RETURNING id, number",
                [
                    (owner.id, target_title, private, "pending", former.id),
                    (owner.id, assigned_title, None, "completed", assignee.id),
                    (owner.id, private, private, "pending", None),
                ],
                returning=True,
            )
            rows: list[Any] = [found.fetchone() for found in cursor.results()]
        (target, target_number), (assigned, assigned_number), _ = rows
        connection.execute("UPDATE todos SET assigned_to = NULL WHERE user_id = %s AND id = %s", (owner.id, target))
        found = connection.execute(
            "WITH conversation AS ("
            "    INSERT INTO conversations (user_id, title) VALUES (%(user)s, %(private)s) RETURNING id"
            "), keys AS ("
            "    INSERT INTO idempotency_keys (user_id, key, operation, request_hash, status, body, created_at)"
            "    SELECT %(user)s, %(private)s || age, 'POST /' || %(private)s, sha256('x'), 201, '{}',"
            "        now() - age::interval"
            "    FROM unnest(ARRAY['0 hours', '25 hours']) AS age"
            "), identity AS ("
            "    INSERT INTO identities (user_id, issuer, subject)"
            "    VALUES (%(user)s, 'https://example.com', %(private)s)"
            ") INSERT INTO todo_conversation_links (user_id, todo_id, conversation_id)"
            " SELECT %(user)s, todo, id FROM conversation, unnest(%(todos)s) AS todo"
            " RETURNING conversation_id, todo_id, id",
            {"user": owner.id, "private": private, "todos": [target, assigned]},
        ).fetchall()
        conversation = found[0][0]
        (link,) = (row[2] for row in found if row[1] == target)
        (message,) = connection.execute(
            "INSERT INTO messages (user_id, conversation_id, sender_type, sender_id, content)"
            " VALUES (%(user)s, %(conversation)s, 'user', %(user)s, %(private)s) RETURNING id",
            {"user": owner.id, "conversation": conversation, "private": private},
        ).fetchall()[0]
    return World(
        owner=owner,
        stranger=stranger,
        assignee=assignee,
        former_assignee=former,
        target=target,
        target_number=target_number,
        assigned=assigned,
        assigned_number=assigned_number,
        conversation=conversation,
        message=message,
        link=link,
        key=f"{private}0 hours",
        old_key=f"{private}25 hours",
        secrets={
            "owner_id": str(owner.id),
            "email": owner.email,
            "username": owner.username,
            "full_name": owner.full_name,
            "password_hash": hashes[0],
            "target_id": str(target),
            "target_title": target_title,
            "assigned_id": str(assigned),
            "assigned_title": assigned_title,
            "conversation_id": str(conversation),
            "message_id": str(message),
            "link_id": str(link),
            "private": private,
        },
    )


def snapshot(connection: Connection, user_id: UUID) -> dict[str, list[Any]]:
    """Every row that is the user's, by table, the audit trail included. The connection is a superuser's."""
    tables = connection.execute(
        "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'user_id'"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') ORDER BY c.relname"
    ).fetchall()
    found: dict[str, list[Any]] = {}
    with connection.cursor(row_factory=dict_row) as cursor:
        for table, column in [("users", "id"), *((name, "user_id") for (name,) in tables)]:
            query = sql.SQL("SELECT * FROM {} WHERE {} = %s ORDER BY ctid")
            cursor.execute(query.format(sql.Identifier(table), sql.Identifier(column)), (user_id,))
            found[table] = sorted(cursor.fetchall(), key=repr)
    return found
