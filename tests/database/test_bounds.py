"""What a request may look at, whatever it asks for and however much the user has."""

import dataclasses
import secrets
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, get_args
from uuid import UUID

import msgspec
import psycopg
import pytest

from service.audit import ListedEntryRow
from service.contexts import ContextSize
from service.conversations import ConversationFilters, list_conversations
from service.db.caller import Caller
from service.db.queries import DECLARED
from service.http.paging import ANSWER_BYTES, LOOKED_AT, Page
from service.links import LinkFilters, list_links
from service.messages import MessageFilters, get_context, list_messages
from service.search import LOOKED_AT as MESSAGES_LOOKED_AT
from service.search import MessageSearch, search_messages
from service.todo_lists import Order, TodoFilters, list_todos
from tests.conftest import TestDatabase
from tests.support.asking import asking, in_process
from tests.support.plans import Recorder, buffers, seed, service_session
from tests.support.worlds import Connection

ADA = UUID("00000000-0000-7000-8000-000000000001")
EVE = UUID("00000000-0000-7000-8000-000000000002")
LONGEST = UUID("00000000-0000-7000-9000-000000000001")
"""Ada's conversation of LONGEST_MESSAGES."""
HEAVY = UUID("00000000-0000-7000-9000-000000000002")
"""Another one, whose last 30 messages have items of 96 kB."""
CONVERSATIONS = 20_000
MESSAGES = 100_000
LONGEST_MESSAGES = MESSAGES - 3 * (CONVERSATIONS - 1)
TODOS = 30_000
NEEDLES = "-50, 15003, 15004"
"""The numbers of todos that are looked for: in the middle of every order; the first is Eve's, Ada's to do."""

SEED = f"""
SET session_replication_role = replica;  -- no triggers: they would take longer than all the tests
INSERT INTO users (id, email) VALUES ('{ADA}', 'ada@example.com'), ('{EVE}', 'eve@example.com');
INSERT INTO todos (user_id, number, title, priority, due_date, assigned_to, metadata, created_at, updated_at)
SELECT
    CASE WHEN n > 0 THEN '{ADA}' ELSE '{EVE}' END::uuid,
    abs(n),
    CASE WHEN n IN ({NEEDLES}) THEN 'A needle' ELSE 'Hay ' || n END,
    (ARRAY['low', 'medium', 'high', 'urgent'])[1 + abs(n) / 3 % 4],
    CASE WHEN n % 2 = 0 THEN '2026-01-01Z'::timestamptz + n * 7919 % 10007 * interval '1 hour' END,
    CASE WHEN n < 0 THEN '{ADA}'::uuid END,
    CASE WHEN n IN ({NEEDLES}) THEN '{{"needle": [1, 2]}}' ELSE '{{}}' END::jsonb,
    '2026-01-01Z'::timestamptz + n * interval '1 minute',
    '2026-06-01Z'::timestamptz + n * 7919 % 10007 * interval '1 minute'
FROM generate_series(-100, {TODOS}) AS n
WHERE n <> 0
ORDER BY md5(n::text);  -- rows that belong together lie all over the table, as they do in the end
INSERT INTO conversations (user_id, id, title, message_count, last_position, created_at, updated_at)
SELECT
    '{ADA}',
    ('00000000-0000-7000-9000-' || lpad(n::text, 12, '0'))::uuid,
    CASE n WHEN {CONVERSATIONS // 2} THEN 'A needle' ELSE 'Hay ' || n END,
    CASE n WHEN 1 THEN {LONGEST_MESSAGES} ELSE 3 END,
    CASE n WHEN 1 THEN {LONGEST_MESSAGES} ELSE 3 END,
    '2026-01-01Z'::timestamptz + n * interval '1 minute',
    '2026-06-01Z'::timestamptz + n * 7919 % 10007 * interval '1 minute'
FROM generate_series(1, {CONVERSATIONS}) AS n
ORDER BY md5(n::text);
INSERT INTO messages (user_id, conversation_id, position, sender_type, message_type, content, created_at, updated_at)
SELECT
    '{ADA}', id, p, 'ai', CASE p WHEN {LONGEST_MESSAGES // 2} THEN 'error' ELSE 'text' END,
    CASE WHEN p = 3 AND title = 'A needle' THEN 'A needle' ELSE 'Hay ' || p END,
    created_at, updated_at
FROM conversations, generate_series(1, last_position) AS p
ORDER BY md5(p || title);
INSERT INTO messages (user_id, conversation_id, position, sender_type, content, item, created_at, updated_at)
SELECT
    '{ADA}', id, p + 100, 'ai', 'Heavy',
    to_json((SELECT string_agg(md5(p::text || n), '') FROM generate_series(1, 3000) AS n)),
    created_at, '2027-01-01Z'
FROM conversations, generate_series(1, 30) AS p
WHERE id = '{HEAVY}';
INSERT INTO todo_conversation_links (user_id, todo_id, conversation_id, relationship_type)
SELECT
    '{ADA}', t.id, ('00000000-0000-7000-9000-' || lpad(t.number::text, 12, '0'))::uuid,
    CASE t.number WHEN {CONVERSATIONS // 2} THEN 'creation' ELSE 'discussion' END
FROM todos AS t
WHERE t.user_id = '{ADA}' AND t.number <= {CONVERSATIONS}
ORDER BY t.number;
UPDATE conversations
SET updated_at = '2027-01-01Z', message_count = 30, last_position = 130
WHERE id = '{HEAVY}';
RESET session_replication_role;
"""


@pytest.fixture(scope="module")
def database(make_module_database: Callable[[], TestDatabase]) -> TestDatabase:
    made = make_module_database()
    seed(made.superuser_url, SEED)
    return made


@pytest.fixture(scope="module")
def service_connection(database: TestDatabase) -> Iterator[Connection]:
    with service_session(database.service_url) as connection:
        yield connection


# Lists of which few rows match


@dataclasses.dataclass(frozen=True)
class Sought:
    """A list with a filter, asked for a page at a time."""

    label: str
    ask: Callable[[Caller, str | None], Awaitable[Page[Any]]]
    needles: int
    """How many match, in the middle of all that the user has."""
    looked_at: int = LOOKED_AT
    """How many rows a statement of a page may look at."""


def todos(filters: dict[str, Any], scope: str, needles: int) -> Iterator[Sought]:
    for order in get_args(get_args(Order)[0]):
        yield Sought(
            f"{scope} todos by {order} with {', '.join(filters)}",
            lambda caller, cursor, order=order: list_todos.fn(
                asking(caller, TodoFilters(**filters, scope=scope, order=order, cursor=cursor))  # pyright: ignore[reportArgumentType]
            ),
            needles,
        )


def conversations(messages: int) -> Iterator[Sought]:
    for order in ("updated_at", "-updated_at", "created_at", "-created_at"):
        yield Sought(
            f"conversations by {order} with {messages} messages",
            lambda caller, cursor, order=order: list_conversations.fn(
                asking(caller, ConversationFilters(q="needle", messages=messages, order=order, cursor=cursor))  # pyright: ignore[reportArgumentType]
            ),
            1,
        )


def messages(items: bool) -> Iterator[Sought]:
    for order in ("position", "-position"):
        yield Sought(
            f"messages of a type by {order}{' with items' if items else ''}",
            lambda caller, cursor, order=order: list_messages.fn(
                asking(caller, MessageFilters(message_type="error", order=order, items=items, cursor=cursor)),  # pyright: ignore[reportArgumentType]
                LONGEST,
            ),
            1,
        )


SOUGHT = [
    *todos({"q": "needle"}, "owned", 2),
    *todos({"q": "needle"}, "all", 3),
    *todos({"metadata": '{"needle":[2]}', "completed": False}, "owned", 2),
    *conversations(0),
    *conversations(3),
    *messages(items=False),
    *messages(items=True),
    Sought(
        "messages",
        lambda caller, cursor: search_messages.fn(asking(caller, MessageSearch(q="needle", cursor=cursor))),
        1,
        MESSAGES_LOOKED_AT,
    ),
    Sought(
        "links of a type",
        lambda caller, cursor: list_links.fn(asking(caller, LinkFilters(relationship_type="creation", cursor=cursor))),
        1,
    ),
]


@pytest.mark.parametrize("sought", SOUGHT, ids=lambda sought: sought.label)
def test_a_page_looks_at_so_many_rows_and_its_cursor_leads_on(
    sought: Sought, database: TestDatabase, service_connection: Connection
):
    async def walk(user: Callable[[UUID], Caller]) -> tuple[Recorder, list[list[Any]]]:
        caller = Recorder(user(ADA).database, ADA)
        pages: list[list[Any]] = []
        cursor = None
        while True:
            page = await sought.ask(caller, cursor)
            pages.append(msgspec.json.decode(msgspec.json.encode(page.items)))
            cursor = page.next_cursor
            if cursor is None:
                return caller, pages

    recorder, pages = in_process(database.service_url, walk)
    found = [item["id"] for page in pages for item in page]
    assert len(found) == len(set(found)) == sought.needles
    assert len(pages) > 2
    assert pages[0] == [] or "all" in sought.label
    for statement in recorder.statements[:3]:
        assert buffers(service_connection, ADA, statement) < 1.05 * sought.looked_at + 100


@pytest.mark.parametrize("scope", ["owned", "all"])
@pytest.mark.parametrize("order", ["due_date", "-due_date"])
def test_what_is_due_in_a_day_is_found_at_once_in_the_order_of_due_dates(
    database: TestDatabase, order: Any, scope: Any
):
    day = {"due_after": datetime(2026, 6, 10, tzinfo=UTC), "due_before": datetime(2026, 6, 11, tzinfo=UTC)}

    async def walk(user: Callable[[UUID], Caller], order: Any, limit: int = 200) -> list[list[Any]]:
        pages: list[list[Any]] = []
        cursor = None
        while cursor or not pages:
            asked = TodoFilters(**day, order=order, scope=scope, limit=limit, cursor=cursor)  # pyright: ignore[reportArgumentType]
            page = await list_todos.fn(asking(user(ADA), asked))
            pages.append(msgspec.json.decode(msgspec.json.encode(page.items)))
            cursor = page.next_cursor
        return pages

    async def walk_all(user: Callable[[UUID], Caller]) -> list[list[list[Any]]]:
        return [await walk(user, "number"), await walk(user, order), await walk(user, order, limit=10)]

    by_number, at_once, in_pages = in_process(database.service_url, walk_all)
    assert len(by_number) > 2
    due = sorted(item["id"] for page in by_number for item in page)
    assert len(due) > 20
    assert len(at_once) == 1
    assert sorted(item["id"] for item in at_once[0]) == due
    assert [len(page) for page in in_pages] == [*[10] * (len(due) // 10), *([len(due) % 10] if len(due) % 10 else [])]
    assert [item for page in in_pages for item in page] == at_once[0]


# What a conversation of very many messages costs


READS: dict[str, tuple[Callable[[Caller], Awaitable[Any]], int]] = {
    "context": (lambda caller: get_context.fn(asking(caller, ContextSize(20)), LONGEST), 25),
    "context of items": (lambda caller: get_context.fn(asking(caller, ContextSize(20, format="items")), LONGEST), 25),
    "last messages": (
        lambda caller: list_messages.fn(asking(caller, MessageFilters(order="-position", limit=20)), LONGEST),
        25,
    ),
    "messages in the middle": (
        lambda caller: list_messages.fn(
            asking(caller, MessageFilters(after_position=LONGEST_MESSAGES // 2, limit=20, items=True)), LONGEST
        ),
        40,
    ),
    "conversations with messages": (
        lambda caller: list_conversations.fn(asking(caller, ConversationFilters(messages=3, limit=20))),
        220,
    ),
    "messages whose items aren't asked for": (
        lambda caller: list_messages.fn(asking(caller, MessageFilters(order="-position", limit=20)), HEAVY),
        25,
    ),
    "a context of such messages": (lambda caller: get_context.fn(asking(caller, ContextSize(20)), HEAVY), 25),
    "a conversation with such messages": (
        lambda caller: list_conversations.fn(asking(caller, ConversationFilters(messages=20, limit=1))),
        130,
    ),
    "todos": (lambda caller: list_todos.fn(asking(caller, TodoFilters(limit=20))), 30),
}
"""Each read, and the buffers that its dearest statement may take."""


@pytest.mark.parametrize("name", READS)
def test_a_read_costs_what_it_answers_however_much_there_is(
    name: str, database: TestDatabase, service_connection: Connection
):
    read, limit = READS[name]

    async def record(user: Callable[[UUID], Caller]) -> Recorder:
        caller = Recorder(user(ADA).database, ADA)
        await read(caller)
        return caller

    statements = in_process(database.service_url, record).statements
    assert max(buffers(service_connection, ADA, statement) for statement in statements) <= limit


def test_items_are_read_where_they_are_asked_for(database: TestDatabase, service_connection: Connection):
    """And then they are seen to cost: else the test above would not show that they cost nothing."""

    async def record(user: Callable[[UUID], Caller]) -> Recorder:
        caller = Recorder(user(ADA).database, ADA)
        await get_context.fn(asking(caller, ContextSize(20, format="items")), HEAVY)
        return caller

    statements = in_process(database.service_url, record).statements
    assert buffers(service_connection, ADA, statements[-1]) > 20 * 96_000 / 8192


# What a page of the trail costs where rows are large

BOB = UUID("00000000-0000-7000-8000-000000000003")
LARGE = 60
"""How many of Bob's messages have an item of 1 MB, and how many entries each action of them has."""
LARGE_TRAIL = """
DELETE FROM audit_log WHERE user_id = %(user)s;
DELETE FROM conversations WHERE user_id = %(user)s;
INSERT INTO users (id, email) VALUES (%(user)s, 'bob@example.com') ON CONFLICT DO NOTHING;
INSERT INTO conversations (user_id) VALUES (%(user)s);
INSERT INTO messages (user_id, conversation_id, sender_type, content, item)
SELECT user_id, id, 'ai', 'Large ' || n, to_json(n || %(text)s::text)
FROM conversations, generate_series(1, %(large)s) AS n
WHERE user_id = %(user)s;
UPDATE messages SET content = content || '!' WHERE user_id = %(user)s;
SET CONSTRAINTS ALL IMMEDIATE;
INSERT INTO audit_log (user_id, seq, at, action, table_name, row_id, before)
SELECT user_id, seq + %(large)s, at, 'delete', table_name, uuid7(), before
FROM audit_log
WHERE user_id = %(user)s AND action = 'update';
"""
"""Bob's entries: of what he and his conversation began with, and then of inserts, updates and deletes of messages."""


@pytest.mark.parametrize("text", [secrets.token_hex(500_000), "x" * 1_000_000], ids=["as large where stored", "packed"])
def test_a_page_of_large_entries_reads_and_answers_little_more_than_it_may_have(
    text: str, database: TestDatabase, service_connection: Connection
):
    with psycopg.ClientCursor(psycopg.connect(database.superuser_url)) as seeding, seeding.connection:
        seeding.execute(LARGE_TRAIL, {"user": BOB, "text": text, "large": LARGE})
        begun = seeding.execute("SELECT count(*) - 3 * %s FROM audit_log WHERE user_id = %s", (LARGE, BOB)).fetchone()
    assert begun
    statements = [
        statement
        for first in range(begun[0] + 1, begun[0] + 1 + 3 * LARGE, LARGE)
        for statement in (
            DECLARED["list_changes"](first=first, row_limit=LARGE),
            DECLARED["list_audit"](first=first, before=first + LARGE, table=None, action=None, row_limit=LARGE),
        )
    ]

    async def ask(user: Callable[[UUID], Caller]) -> list[list[ListedEntryRow]]:
        return [await user(BOB).run(statement) for statement in statements]

    pages = in_process(database.service_url, ask)
    assert [len(page) for page in pages] == [LARGE] * 6
    assert [page[0].action for page in pages] == [*["insert"] * 2, *["update"] * 2, *["delete"] * 2]
    for statement, page in zip(statements, pages, strict=True):
        answered = [bytes(row.before or b"") + bytes(row.after or b"") for row in page]
        assert ANSWER_BYTES < sum(map(len, answered)) < 2 * ANSWER_BYTES
        assert all(answered[: sum(row.fits for row in page)])
        assert buffers(service_connection, BOB, statement) < 3 * ANSWER_BYTES / 8192 + 20 * LARGE
