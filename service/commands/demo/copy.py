"""Copies rows in as a superuser, in the caller's one transaction: binary COPY with triggers and foreign keys off.

What triggers keep is written here as they would: counters, versions, the audit trail. So both ways leave the same rows,
down to the trail's order; only its own ids, times and transactions, and the password's hash, are never the same twice.
"""

from collections.abc import Callable, Iterator
from struct import Struct
from typing import LiteralString, NamedTuple
from uuid import UUID

from service.commands.demo.insert import Connection, Counts
from service.commands.demo.progress import Stage
from service.commands.demo.rows import KINDS, World
from service.commands.demo.words import Piece, pack

NULL = b"\xff\xff\xff\xff"
HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
CHUNK = 256 * 1024
POSTGRES_EPOCH = 946_684_800_000_000
"""2000-01-01, from which binary times count."""


class _Table(NamedTuple):
    name: str
    copy: LiteralString
    rows: Callable[[World, int, str], Iterator[bytes]]
    """One user's rows, each as binary COPY wants it."""


def copy_as_superuser(connection: Connection, world: World, password_hash: str) -> Counts:
    """Copy all rows in, triggers off, and write what triggers would have; the number of rows by table."""
    connection.execute("SET LOCAL session_replication_role = replica")
    counts = {table.name: _copy(connection, world, table, password_hash) for table in _TABLES}
    connection.execute("SET LOCAL enable_seqscan = off")  # without statistics, each slice would read whole tables
    with Stage("audit_log") as stage:
        for first in range(0, world.size.users, AUDITED_AT_ONCE):
            some = [UUID(int=user_id) for user_id in world.user_ids[first : first + AUDITED_AT_ONCE]]
            added = connection.execute(_INSERT_AUDIT, {"user_ids": some}).rowcount
            stage.update(min(1, (first + AUDITED_AT_ONCE) / world.size.users), added)
    del counts["todo_counters"]
    return counts


def _copy(connection: Connection, world: World, table: _Table, password_hash: str) -> int:
    with Stage(table.name) as stage, connection.cursor() as cursor, cursor.copy(table.copy) as copy:
        buffer = bytearray(HEADER)
        for index in range(world.size.users):
            rows = 0
            for row in table.rows(world, index, password_hash):
                buffer += row
                rows += 1
                if len(buffer) >= CHUNK:
                    copy.write(buffer)
                    buffer = bytearray()
            stage.update(index / world.size.users, rows)
        copy.write(buffer + TRAILER)
    return stage.rows


def _id(value: int) -> bytes:
    return value.to_bytes(16, "big")


_LONG = Struct(">iq")


def _time(value: int | None) -> bytes:
    return NULL if value is None else _LONG.pack(8, value - POSTGRES_EPOCH)


def _piece(value: Piece | None) -> bytes:
    return NULL if value is None else value.packed


_USER = Struct(">hi16siqiq")


def _users(world: World, index: int, password_hash: str) -> Iterator[bytes]:
    user = world.user(index)
    time = user.created_at - POSTGRES_EPOCH
    texts = (user.email, user.username, user.full_name, password_hash)
    yield _USER.pack(7, 16, _id(user.id), 8, time, 8, time) + b"".join(pack(text.encode()) for text in texts)


_TODO = Struct(">hi16si16siiiqiq")
_WORDS = {
    word: pack(word.encode())
    for word in (
        *("pending", "in_progress", "completed", "archived", "low", "medium", "high", "urgent"),
        *("discussion", "update", "creation"),
    )
}


def _todos(world: World, index: int, _: str) -> Iterator[bytes]:
    user_id = _id(world.user_ids[index])
    for todo in world.todos(index):
        times = (todo.created_at - POSTGRES_EPOCH, 8, todo.updated_at - POSTGRES_EPOCH)
        yield b"".join(
            (
                _TODO.pack(13, 16, user_id, 16, _id(todo.id), 4, todo.number, 8, *times),
                todo.title.packed,
                _piece(todo.description),
                _WORDS[todo.status],
                _WORDS[todo.priority],
                _time(todo.due_date),
                NULL if todo.assigned_to is None else pack(_id(todo.assigned_to)),
                _time(todo.completed_at),
                todo.metadata.packed,
            )
        )


_COUNTER = Struct(">hi16sii")


def _counters(world: World, index: int, _: str) -> Iterator[bytes]:
    if world.todo_counts[index]:
        yield _COUNTER.pack(2, 16, _id(world.user_ids[index]), 4, world.todo_counts[index])


_CONVERSATION = Struct(">hi16si16siiiiiiiqiq")


def _conversations(world: World, index: int, _: str) -> Iterator[bytes]:
    user_id = _id(world.user_ids[index])
    for found in world.conversations(index):
        count = found.message_count
        times = (found.created_at - POSTGRES_EPOCH, 8, found.updated_at - POSTGRES_EPOCH)
        # Version 2: the messages came in one statement after it.
        head = _CONVERSATION.pack(9, 16, user_id, 16, _id(found.id), 4, count, 4, count, 4, 2, 8, *times)
        yield head + _piece(found.title) + found.metadata.packed


_MESSAGE = Struct(">hi16si16siii16siqiq")
_SENDERS = [pack(sender_type.encode()) + pack(message_type.encode()) for sender_type, message_type in KINDS]


def _messages(world: World, index: int, _: str) -> Iterator[bytes]:
    user_id = _id(world.user_ids[index])
    by_user = pack(user_id)
    senders = [words + (by_user if kind[0] == "user" else NULL) for words, kind in zip(_SENDERS, KINDS, strict=True)]
    head = _MESSAGE.pack
    conversation_id = b""
    for message in world.messages(index, world.conversations(index)):
        if message.position == 1:
            conversation_id = _id(message.conversation_id)
        time = message.created_at - POSTGRES_EPOCH
        yield (
            head(11, 16, user_id, 16, conversation_id, 4, message.position, 16, _id(message.id), 8, time, 8, time)
            + senders[message.kind]
            + message.content.packed
            + message.metadata.packed
        )


_LINK = Struct(">hi16si16si16si16siqiq")


def _links(world: World, index: int, _: str) -> Iterator[bytes]:
    user_id = _id(world.user_ids[index])
    for link in world.links(index, world.conversations(index)):
        ids = (16, user_id, 16, _id(link.id), 16, _id(link.todo_id), 16, _id(link.conversation_id))
        time = link.created_at - POSTGRES_EPOCH
        yield _LINK.pack(7, *ids, 8, time, 8, time) + _WORDS[link.relationship_type]


_TABLES = (
    _Table(
        "users",
        "COPY public.users (id, created_at, updated_at, email, username, full_name, password_hash) "
        "FROM STDIN (FORMAT binary)",
        _users,
    ),
    _Table(
        "todos",
        "COPY public.todos (user_id, id, number, created_at, updated_at, title, description, status, priority, "
        "due_date, assigned_to, completed_at, metadata) FROM STDIN (FORMAT binary)",
        _todos,
    ),
    _Table("todo_counters", "COPY public.todo_counters (user_id, last_number) FROM STDIN (FORMAT binary)", _counters),
    _Table(
        "conversations",
        "COPY public.conversations (user_id, id, last_position, message_count, version, created_at, updated_at, title, "
        "metadata) FROM STDIN (FORMAT binary)",
        _conversations,
    ),
    _Table(
        "messages",
        "COPY public.messages (user_id, conversation_id, position, id, created_at, updated_at, sender_type, "
        "message_type, sender_id, content, metadata) FROM STDIN (FORMAT binary)",
        _messages,
    ),
    _Table(
        "todo_conversation_links",
        "COPY public.todo_conversation_links (user_id, id, todo_id, conversation_id, created_at, updated_at, "
        "relationship_type) FROM STDIN (FORMAT binary)",
        _links,
    ),
)

AUDITED_AT_ONCE = 500
# In the order of the indexes, which is also the order in which the triggers would have written it for each user. The
# ids are made behind the sort.
_INSERT_AUDIT = """
INSERT INTO public.audit_log (user_id, actor_id, action, table_name, row_id, before)
SELECT e.user_id, e.actor_id, e.action, e.table_name, e.row_id, e.before
FROM (
    SELECT u.id, NULL::uuid, 'insert', 'users', u.id, NULL::jsonb, 1
    FROM public.users AS u WHERE u.id = ANY (%(user_ids)s)
    UNION ALL
    SELECT t.user_id, t.user_id, 'insert', 'todos', t.id, NULL, 2
    FROM public.todos AS t WHERE t.user_id = ANY (%(user_ids)s)
    UNION ALL
    SELECT c.user_id, c.user_id, 'insert', 'conversations', c.id, NULL, 3
    FROM public.conversations AS c WHERE c.user_id = ANY (%(user_ids)s)
    UNION ALL
    SELECT m.user_id, m.user_id, 'insert', 'messages', m.id, NULL, 4
    FROM public.messages AS m WHERE m.user_id = ANY (%(user_ids)s)
    UNION ALL
    SELECT c.user_id, c.user_id, 'update', 'conversations', c.id,
        jsonb_build_object('last_position', 0, 'message_count', 0, 'updated_at', c.created_at, 'version', 1), 5
    FROM public.conversations AS c WHERE c.user_id = ANY (%(user_ids)s)
    UNION ALL
    SELECT l.user_id, l.user_id, 'insert', 'todo_conversation_links', l.id, NULL, 6
    FROM public.todo_conversation_links AS l WHERE l.user_id = ANY (%(user_ids)s)
) AS e (user_id, actor_id, action, table_name, row_id, before, turn)
ORDER BY e.user_id, e.turn, e.row_id
"""
