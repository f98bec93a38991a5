"""A user who owns something, and people who are not that user: what the tests of isolation look at."""

import dataclasses
import itertools
import secrets
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from service.db.loading import USER_TABLES

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
    api_key: UUID
    api_key_digest: bytes
    changes: dict[str, int]
    """Entries of the audit trail that nothing came after for their row: table and action → seq. A deleted todo had a
    link, a deleted conversation one and a message. The last entry of all is a link's delete."""
    gone_link: UUID
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
        connection.execute("SET CONSTRAINTS ALL IMMEDIATE")  # its trail is read before it is committed
        owner, stranger, assignee, former = [make_person(connection, password_hash) for password_hash in hashes]
        # Numbers that nobody else has, in no other world either.
        connection.execute(
            "INSERT INTO todo_counters (user_id, last_number) VALUES (%s, %s)", (owner.id, 100 * next(_worlds))
        )
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO todos (user_id, title, description, status, due_date, assigned_to)"
                " VALUES (%s, %s, %s, %s, now() + %s * interval '1 day', %s) RETURNING id, number",
                [
                    (owner.id, target_title, private, "pending", 1, former.id),
                    (owner.id, assigned_title, None, "completed", 1, assignee.id),
                    (owner.id, private, private, "pending", None, None),
                ],
                returning=True,
            )
            rows: list[Any] = [found.fetchone() for found in cursor.results()]
        (target, target_number), (assigned, assigned_number), _ = rows
        connection.execute("UPDATE todos SET assigned_to = NULL WHERE user_id = %s AND id = %s", (owner.id, target))
        found = connection.execute(
            "WITH conversation AS ("
            "    INSERT INTO conversations (user_id, title, external_id)"
            "    VALUES (%(user)s, %(private)s::text, %(private)s::text) RETURNING id"
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
            "INSERT INTO messages (user_id, conversation_id, sender_type, content, item, metadata)"
            " VALUES (%(user)s, %(conversation)s, 'user', %(private)s::text, to_json(%(private)s::text),"
            '     \'{"item_id": "msg_own"}\') RETURNING id',
            {"user": owner.id, "conversation": conversation, "private": private},
        ).fetchall()[0]
        connection.execute(
            # Of others nothing is kept, so that whatever they get to see is the owner's.
            "DELETE FROM audit_log WHERE user_id = ANY(%s)",
            ([stranger.id, assignee.id, former.id],),
        )
        digest = secrets.token_bytes(32)
        (api_key,) = connection.execute(
            "INSERT INTO api_keys (user_id, slot, name, scope, digest) VALUES (%s, 1, %s, 'write', %s) RETURNING id",
            (owner.id, private, digest),
        ).fetchall()[0]
        gone = make_history(connection, owner, private, conversation, message, link, target)
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
        api_key=api_key,
        api_key_digest=digest,
        changes={name: change for name, (_, change) in gone.items()},
        gone_link=gone["todo_conversation_links delete"][0],
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
            "api_key_id": str(api_key),
            "private": private,
            **{f"{name} row": str(row) for name, (row, _) in gone.items() if name.endswith("delete")},
        },
    )


def make_history(
    connection: Connection, owner: Person, private: str, conversation: UUID, message: UUID, link: UUID, target: UUID
) -> dict[str, tuple[UUID, int]]:
    """Update a row of every table, and delete others: table and action → the row, and the entry in the audit trail."""

    def make(table: str, **values: Any) -> UUID:
        names = sql.SQL(", ").join(map(sql.Identifier, values))
        places = sql.SQL(", ").join(map(sql.Placeholder, values))
        text = sql.SQL("INSERT INTO {} (user_id, {}) VALUES ({}, {}) RETURNING id")
        row = connection.execute(
            text.format(sql.Identifier(table), names, sql.Literal(owner.id), places), values
        ).fetchone()
        assert row
        return UUID(str(row[0]))

    def delete(table: str, row: UUID) -> UUID:
        text = sql.SQL("DELETE FROM {} WHERE user_id = %s AND id = %s").format(sql.Identifier(table))
        connection.execute(text, (owner.id, row))
        return row

    said = {"sender_type": "ai", "content": private}
    # First, because the conversation counts it.
    gone = {"messages": delete("messages", make("messages", conversation_id=conversation, **said))}
    updates = {
        "users": (owner.id, "full_name", "id", owner.full_name),
        "todos": (target, "priority", "user_id", "medium"),
        "conversations": (conversation, "title", "user_id", private),
        "messages": (message, "content", "user_id", private),
        "todo_conversation_links": (link, "relationship_type", "user_id", "discussion"),
    }
    # There and back, so that the rows are what they were.
    others = {"todos": "low", "todo_conversation_links": "update"}
    for table, (row, column, key, value) in updates.items():
        text = sql.SQL("UPDATE {} SET {} = %s WHERE {} = %s AND id = %s").format(
            *map(sql.Identifier, (table, column, key))
        )
        for wanted in (others.get(table, f"Once {private}"), value):
            connection.execute(text, (wanted, owner.id, row))
    ends = {"todo_id": target, "conversation_id": conversation}
    gone["conversations"] = make("conversations", title=private)
    make("messages", conversation_id=gone["conversations"], **said)
    make("todo_conversation_links", todo_id=target, conversation_id=gone["conversations"])
    delete("conversations", gone["conversations"])
    gone["todos"] = make("todos", title=private)
    make("todo_conversation_links", todo_id=gone["todos"], conversation_id=conversation)
    delete("todos", gone["todos"])
    gone["todo_conversation_links"] = delete(
        "todo_conversation_links", make("todo_conversation_links", **ends, relationship_type="creation")
    )
    rows = {f"{table} update": row for table, (row, *_) in updates.items()}
    rows |= {f"{table} delete": row for table, row in gone.items()}
    entries = dict(
        connection.execute(
            "SELECT DISTINCT ON (row_id) row_id, seq FROM audit_log WHERE user_id = %s ORDER BY row_id, seq DESC",
            (owner.id,),
        ).fetchall()
    )
    return {name: (row, entries[row]) for name, row in rows.items()}


_SNAPSHOT = sql.SQL(" UNION ALL ").join(
    sql.SQL("SELECT {}, to_jsonb(t) FROM {} AS t WHERE t.{} = %(user)s").format(
        table, sql.Identifier(table), sql.Identifier("id" if table == "users" else "user_id")
    )
    for table in sorted(USER_TABLES)
)


def snapshot(connection: Connection, user_id: UUID) -> dict[str, list[Any]]:
    """Every row that is the user's, by table, the audit trail included, as JSON. The connection is a superuser's."""
    found: dict[str, list[Any]] = {table: [] for table in USER_TABLES}
    for table, row in connection.execute(_SNAPSHOT, {"user": user_id}):
        found[table].append(row)
    return {table: sorted(rows, key=repr) for table, rows in found.items()}
