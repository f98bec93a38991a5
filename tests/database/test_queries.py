"""The query files: what is refused at start, what PostgreSQL's grammar and a migrated database say of each query."""

import ast
import asyncio
import dataclasses
import hashlib
import inspect
import re
import subprocess
import sys
import types
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, LiteralString, Union, get_args, get_origin
from uuid import UUID

import msgspec
import psycopg
import pytest
from psycopg import pq

import service.app
import service.commands.retention  # noqa: F401 - between them, these declare every query
from service.audit import AuditFilters, list_audit, list_changes
from service.commands.accounts import Account
from service.conversations import ConversationFilters, list_conversations, list_todo_conversations
from service.db import loading, queries
from service.db.caller import Caller
from service.db.database import Database
from service.db.loading import TEXTS, USER_TABLES, QueryError, QueryText, show_queries
from service.db.queries import DECLARED, Statement
from service.db.statements import Context, Prepared
from service.embedded import EmbeddedPostgres
from service.http.paging import LOOKED_AT, Page, PageQuery
from service.links import LinkFilters, list_links
from service.messages import MessageFilters, list_messages
from service.search import MessageSearch, search_messages
from service.settings import Secret, Settings
from service.todo_lists import Order, TodoFilters, list_conversation_todos, list_todos
from service.todos import Todo
from tests.conftest import REPOSITORY, TestDatabase
from tests.support import grammar
from tests.support.asking import asking
from tests.support.plans import Recorder, buffers, execute, nodes, plan, prepare, seed, service_session
from tests.support.worlds import Connection

EVERY_QUERY = pytest.mark.parametrize("query", TEXTS.values(), ids=TEXTS)

OPERATORS = {name for name, query in TEXTS.items() if query.where.startswith("admin.sql")}
"""Run from the command line as the owner of the tables, never for a request."""

UNBOUND = {
    "list_accounts": ["u"],
    "find_prunable_user": ["a", "a", "n", "u"],
    "count_prunable_keys": ["k"],
    "prune_idempotency_keys": ["k", "o"],
}
"""What goes through everybody's rows, for the operator: ``user_id``, if there is one, only says where to begin."""


# What is refused when the service starts

HEADER = "-- name: get_todo\n-- param user_id: uuid\n-- returns: maybe Todo\n-- index: todos_pkey\n"
GOOD = HEADER + "SELECT id\nFROM todos\nWHERE user_id = %(user_id)s;\n"


def load(folder: Path, **files: str) -> dict[str, QueryText]:
    for name, text in files.items():
        (folder / f"{name}.sql").write_text(text)
    return loading._load(folder)


def test_a_good_file_is_read_as_it_says(tmp_path: Path):
    query = load(tmp_path, todos="-- Todos.\n\n" + GOOD)["get_todo"]
    assert (query.cardinality, query.row, query.index, query.where) == ("maybe", "Todo", "todos_pkey", "todos.sql:3")
    assert query.parameters == {"user_id": "uuid"}
    assert query.prepared == (b"get_todo", b"SELECT /* get_todo */ id\nFROM todos\nWHERE user_id = $1", (2950,), True)


def test_a_doubled_percent_sign_stands_for_one(tmp_path: Path):
    query = load(tmp_path, a=GOOD.replace("SELECT id", "SELECT 7 %% 2"))["get_todo"]
    assert query.prepared.text.startswith(b"SELECT /* get_todo */ 7 % 2\n")


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        (GOOD.replace("-- returns: maybe Todo\n", ""), 3, "lacks returns"),
        (GOOD.replace("-- index: todos_pkey\n", ""), 3, "lacks index"),
        (GOOD.replace("maybe Todo", "perhaps Todo"), 3, "perhaps"),
        (GOOD.replace("maybe Todo", "maybe"), 3, "maybe"),
        (GOOD.replace("maybe Todo", "count Todo"), 3, "count"),
        (GOOD.replace("user_id: uuid", "user_id: guid"), 3, "unknown type 'guid'"),
        (GOOD.replace("-- param user_id: uuid\n", ""), 3, "declares [] and uses ['user_id']"),
        (GOOD.replace("-- returns", "-- param id: uuid\n-- returns"), 3, "declares ['id', 'user_id']"),
        (GOOD.replace("%(user_id)s", "%(user)s"), 3, "uses ['user']"),
        (GOOD.replace("%(user_id)s", "%(user_id)s AND number % 2 = 0"), 3, "bare %"),
        (GOOD.replace("%(user_id)s", "%(user_id)s AND title LIKE 'a%'"), 3, "bare %"),
        (GOOD.replace("%(user_id)s", "%(user_id)s; DELETE FROM todos"), 3, "one statement"),
        (GOOD.replace("%(user_id)s;", "%(user_id)s"), 3, "semicolon"),
        (GOOD + "DELETE FROM todos;\n", 10, "outside a named query"),
        (GOOD + "\n" + GOOD, 11, "stands in todos.sql:3 already"),
        (GOOD.replace("-- param user_id: uuid\n", "").replace("\nWHERE user_id = %(user_id)s", ""), 3, "user's table"),
        (
            GOOD.replace("-- param user_id: uuid\n", "").replace("todos\nWHERE user_id = %(user_id)s", "public.todos"),
            3,
            "user's table",
        ),
        (GOOD.replace("user_id: uuid", "id: uuid").replace("user_id = %(user_id)s", "id = %(id)s"), 3, "user's table"),
        (GOOD.replace("-- name: get_todo", "-- name: get todo"), 3, "name"),
        (GOOD.replace("-- param", "-- parm"), 3, "declares []"),
        (GOOD.replace("-- index", "-- returns: many Todo\n-- index"), 3, "twice"),
        (GOOD.replace("-- returns", "-- param user_id: text\n-- returns"), 3, "twice"),
    ],
)
def test_a_query_file_with_a_mistake_is_refused_with_its_place(tmp_path: Path, text: str, line: int, reason: str):
    with pytest.raises(QueryError) as refused:
        load(tmp_path, todos="-- Todos.\n\n" + text)
    assert str(refused.value).startswith(f"todos.sql:{line}: ")
    assert reason in str(refused.value)


ORDERED = """-- name: list_{todos}_by_{order}
-- fill: todos | owner
-- with: mine | user_id = {column}
-- with: all | TRUE
-- fill: order | column
-- with: id | id
-- with: number | number
-- param user_id: uuid
-- returns: many Todo
-- index: none
SELECT {column} FROM todos WHERE user_id = %(user_id)s AND {owner};
"""


def test_tables_make_a_query_of_each_combination_of_their_rows(tmp_path: Path):
    texts = load(tmp_path, a=ORDERED)
    assert [*texts] == ["list_mine_by_id", "list_mine_by_number", "list_all_by_id", "list_all_by_number"]
    assert texts["list_mine_by_number"].text.endswith("AND user_id = number")
    assert texts["list_all_by_id"].text == "SELECT id FROM todos WHERE user_id = %(user_id)s AND TRUE"


@pytest.mark.parametrize(
    ("line", "instead", "reason"),
    [
        ("-- with: all | TRUE", "-- with: all", "as many cells"),
        ("-- fill: todos | owner\n", "", "one fill"),
        ("-- fill: order | column", "-- fill: order | colum", "nothing is filled with ['colum']"),
    ],
)
def test_a_table_with_a_mistake_is_refused_with_its_place(tmp_path: Path, line: str, instead: str, reason: str):
    with pytest.raises(QueryError, match=re.escape(reason)) as refused:
        load(tmp_path, a=ORDERED.replace(line, instead))
    assert str(refused.value).startswith("a.sql:1: ")


def test_a_name_may_stand_in_one_file_only(tmp_path: Path):
    with pytest.raises(QueryError, match=r"b\.sql:1: get_todo stands in a\.sql:1 already"):
        load(tmp_path, a=GOOD, b=GOOD)


@pytest.mark.parametrize(
    "clause", ["SELECT id FROM {}", "DELETE FROM {}", "UPDATE {} SET version = 1", "INSERT INTO {} (id) VALUES (1)"]
)
def test_a_query_on_a_users_table_names_the_user(tmp_path: Path, clause: str):
    for table in sorted(USER_TABLES):
        text = f"-- name: a\n-- returns: none\n-- index: none\n{clause.format(table)};\n"
        with pytest.raises(QueryError, match="user's table without"):
            load(tmp_path, a=text)


def test_python_declares_a_query_as_its_file_does():
    declared = dict(DECLARED)
    try:
        with pytest.raises(QueryError, match="no query 'get_nothing'"):
            queries.Maybe("get_nothing", Todo)
        with pytest.raises(QueryError, match=r"todos\.sql:\d+: get_todo returns maybe Todo, Python says many Todo"):
            queries.Many("get_todo", Todo)
        with pytest.raises(QueryError, match="Python says maybe Account"):
            queries.Maybe("get_todo", Account)
    finally:
        DECLARED.clear()
        DECLARED.update(declared)


def test_a_query_is_called_with_its_parameters_and_no_others():
    query = DECLARED["get_todo"]
    for values in ({}, {"id": UUID(int=1), "number": 1}, {"id": UUID(int=1), "user_id": UUID(int=1)}):
        with pytest.raises(TypeError, match=r"takes \['id'\]"):
            query(**values)


# What Python makes of them


def test_every_query_is_declared_in_python():
    assert sorted(DECLARED) == sorted(TEXTS)


def held(value: object) -> set[str]:
    """The queries that a module's variable is, or has in its dictionary or tuple."""
    if isinstance(value, queries.Query):
        return {value.source.name}
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
    return set[str]().union(*map(held, parts))


def test_every_declared_query_is_used():
    used: set[str] = set()
    modules = [module for name, module in sys.modules.items() if name.startswith("service.") and module is not queries]
    reads = [
        {
            node.id
            for node in ast.walk(ast.parse(inspect.getsource(module)))
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        }
        for module in modules
    ]
    everywhere = set[str]().union(*reads)
    for module, here in zip(modules, reads, strict=True):
        for name, value in vars(module).items():
            used |= held(value) if name in (here if name.startswith("_") else everywhere) else set()
    assert sorted(used) == sorted(TEXTS)


def test_the_golden_file_shows_every_query_as_the_database_gets_it():
    """What slots and tables are filled with is reviewed there: `make schema` writes it anew."""
    assert (REPOSITORY / "sql" / "filled_queries.sql").read_text() == show_queries()


# What PostgreSQL's grammar says


def unbound(query: QueryText) -> list[str]:
    found = grammar.references(query.prepared.text.decode(), grammar.parameter_number(query))
    return [reference.alias for reference in found if not reference.bound]


def test_the_grammar_finds_every_query_as_house_style_and_row_ownership_want_it():
    """One statement, explicit columns, keywords in upper case, every user's table bound to the caller."""
    for name, query in TEXTS.items():
        text = query.prepared.text.decode()
        statement = grammar.statement(text)
        assert grammar.stars(text) == 0, name
        assert grammar.lower_case_keywords(text) == set(), name
        assert sorted(unbound(query)) == UNBOUND.get(name, []), name
        writes = any(
            isinstance(node, grammar.ast.InsertStmt | grammar.ast.UpdateStmt | grammar.ast.DeleteStmt)
            for node in grammar.descendants(statement)
        )
        assert not (query.prepared.reads_only and writes), name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT id FROM todos WHERE user_id = $1", []),
        ("SELECT id FROM todos WHERE $1::uuid = todos.user_id AND id = $2", []),
        ("SELECT id FROM todos WHERE (user_id = $1 OR assigned_to = $1) AND id = $2", []),
        ("SELECT id FROM users WHERE id = $1", []),
        ("SELECT t.id FROM todos t JOIN messages m ON m.user_id = t.user_id WHERE t.user_id = $1", []),
        ("SELECT t.id FROM todos t, users u WHERE u.id = t.user_id AND u.id = $1", []),
        ("WITH todos AS (SELECT id FROM messages WHERE user_id = $1) SELECT id FROM todos", []),
        ("INSERT INTO todos (title, user_id) VALUES ('', $1), ('', $1)", []),
        ("INSERT INTO messages (user_id, content) SELECT $1, t.title FROM todos t WHERE t.user_id = $1", []),
        ("INSERT INTO todos (user_id, id) VALUES ($1, $2) ON CONFLICT (user_id, id) DO UPDATE SET title = ''", []),
        ("SELECT u.id FROM (SELECT) AS one LEFT JOIN users u ON u.id = $1", []),
        # not bound
        ("SELECT id FROM todos", ["todos"]),
        ("SELECT u.id FROM users u LEFT JOIN todos t ON u.id = $1", ["u", "t"]),
        ("SELECT t.id FROM (SELECT) AS one LEFT JOIN todos t ON t.user_id = $1 OR t.id = $2", ["t"]),
        ("SELECT id FROM public.todos WHERE id = $2", ["todos"]),
        ("SELECT id FROM todos WHERE user_id = $2", ["todos"]),
        ("SELECT id FROM todos WHERE user_id <> $1", ["todos"]),
        ("SELECT id FROM todos WHERE id = $1", ["todos"]),
        ("SELECT id FROM users WHERE user_id = $1", ["users"]),
        ("SELECT id FROM messages WHERE assigned_to = $1", ["messages"]),
        ("SELECT id FROM todos WHERE user_id = $1 OR id = $2", ["todos"]),
        ("SELECT id FROM todos WHERE NOT user_id = $1", ["todos"]),
        ("SELECT id FROM todos WHERE ($2 IS NULL OR user_id = $1)", ["todos"]),
        ("SELECT id, user_id = $1 FROM todos", ["todos"]),
        ("SELECT t.id FROM todos t JOIN messages m ON m.id = t.id WHERE t.user_id = $1", ["m"]),
        ("SELECT t.id FROM todos t LEFT JOIN messages m ON m.user_id = t.user_id WHERE t.user_id = $1", ["m"]),
        ("SELECT t.id FROM todos t, messages m WHERE user_id = $1", ["t", "m"]),
        ("SELECT id FROM todos WHERE user_id = $1 AND id IN (SELECT id FROM messages)", ["messages"]),
        ("SELECT id FROM todos WHERE user_id = $1 UNION ALL SELECT id FROM messages", ["messages"]),
        ("WITH a AS (SELECT id FROM todos) SELECT id FROM a", ["todos"]),
        ("SELECT (SELECT count(*) FROM todos)", ["todos"]),
        ("UPDATE todos SET title = ''", ["todos"]),
        ("UPDATE todos SET title = m.content FROM messages m WHERE m.user_id = $1", ["todos"]),
        ("UPDATE todos SET title = (SELECT content FROM messages) WHERE user_id = $1", ["messages"]),
        ("DELETE FROM todos t USING messages m WHERE t.user_id = $1", ["m"]),
        ("INSERT INTO todos (title) VALUES ('')", ["todos"]),
        ("INSERT INTO todos (user_id) VALUES ($1), ($2)", ["todos"]),
        ("INSERT INTO todos (user_id) SELECT m.user_id FROM messages m WHERE m.user_id = $1", ["todos"]),
        ("INSERT INTO todos (user_id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET title = ''", ["todos"]),
    ],
)
def test_the_grammar_tells_whether_a_table_is_bound(text: str, expected: list[str]):
    assert [reference.alias for reference in grammar.references(text, 1) if not reference.bound] == expected


def test_the_grammar_tells_which_columns_are_never_null():
    assert grammar.columns_not_null("SELECT a, b FROM t WHERE a = 1 AND b IS NOT NULL") == {"b"}
    assert grammar.columns_not_null("SELECT a FROM t WHERE a IS NULL") == set()
    assert grammar.columns_not_null("SELECT a FROM t WHERE a IS NOT NULL OR b = 1") == set()
    assert grammar.columns_not_null("UPDATE t SET a = NULL WHERE a IS NOT NULL RETURNING a") == set()


def test_the_style_checks_see_what_they_are_for():
    assert grammar.stars("SELECT * FROM todos") == 1
    assert grammar.stars("SELECT t.* FROM todos AS t WHERE EXISTS (SELECT FROM users)") == 1
    assert grammar.stars("DELETE FROM todos RETURNING *") == 1
    assert grammar.stars("INSERT INTO todos VALUES (1)") == 1
    assert grammar.stars("SELECT count(*) FROM todos") == 0
    assert grammar.lower_case_keywords("select id FROM todos ORDER By id Limit 1") == {"select", "By", "Limit"}
    assert grammar.lower_case_keywords("SELECT position, name FROM messages AS value FOR update") == {"update"}


# What a migrated database says

USERS = 2000
TODOS_EACH = 48


def user_id(number: int) -> UUID:
    return UUID(f"00000000-0000-7000-8000-{number:012}")


OWNER = 1
"""The number of the user who owns TODOS_OWNED todos, and whose plans are looked at."""
TODOS_OWNED = 5000
CONVERSATIONS_OWNED = 1500
LINKS_OF_ONE = 400
"""How many links the first todo and the first conversation of OWNER have each."""
TODO = UUID("0000000027117000800075c124fae7a8")
CONVERSATION = UUID("00000001-0000-7000-9000-000000000001")
"""The first of OWNER's, which has MESSAGES."""
MESSAGES = 5000
OWNER_ID = user_id(OWNER)

SEED = f"""
CREATE TEMP TABLE seeded_conversations AS
SELECT
    ('00000000-0000-7000-8000-' || lpad(u::text, 12, '0'))::uuid AS user_id,
    (lpad(to_hex(u), 8, '0') || '00007000' || '9000' || lpad(to_hex(n), 12, '0'))::uuid AS conversation_id,
    n,
    CASE WHEN u = {OWNER} AND n = 1 THEN {MESSAGES} ELSE 1 + n % 4 END AS messages,
    '2026-01-01T00:00:00Z'::timestamptz + n * interval '1 minute' + u * interval '1 second' AS created_at
FROM
    generate_series(1, {USERS}) AS u,
    generate_series(1, CASE u WHEN {OWNER} THEN {CONVERSATIONS_OWNED} ELSE 5 END) AS n;
SET session_replication_role = replica;  -- no triggers: they would take longer than all the tests
INSERT INTO users (id, email, username, full_name, password_hash)
SELECT
    ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'user' || n || '@example.com', 'user' || n, 'U', 'h'
FROM generate_series(1, {USERS}) AS n;
INSERT INTO identities (user_id, issuer, subject)
SELECT id, 'https://issuer.example', username FROM users;
INSERT INTO todos (
    user_id, id, number, title, status, priority, due_date, assigned_to, completed_at, created_at, updated_at
)
SELECT
    ('00000000-0000-7000-8000-' || lpad(u::text, 12, '0'))::uuid,
    (lpad(to_hex(u * 10000 + n), 12, '0') || '70008000' || substr(md5(u || ' ' || n), 1, 12))::uuid,
    n,
    'Todo ' || n,
    (ARRAY['pending', 'in_progress', 'completed', 'archived'])[1 + n % 4],
    (ARRAY['low', 'medium', 'high', 'urgent'])[1 + n / 3 % 4],
    CASE WHEN n % 3 > 0 THEN '2026-01-01T00:00:00Z'::timestamptz + n * 37 % 5000 * interval '1 hour' END,
    CASE
        WHEN n % 16 = 0 THEN (
            '00000000-0000-7000-8000-'
            || lpad(CASE u % 16 WHEN 0 THEN {OWNER} ELSE 1 + (u * 7 + n) % {USERS} END::text, 12, '0')
        )::uuid
    END,
    CASE WHEN n % 4 = 2 THEN '2026-02-01T00:00:00Z'::timestamptz END,
    '2026-01-01T00:00:00Z'::timestamptz + n * interval '1 minute' + u * interval '1 second',
    '2026-06-01T00:00:00Z'::timestamptz + n * 7919 % 10007 * interval '1 minute'
FROM
    generate_series(1, {USERS}) AS u,
    generate_series(1, CASE u WHEN {OWNER} THEN {TODOS_OWNED} ELSE {TODOS_EACH} END) AS n
ORDER BY md5(n || ' ' || u);  -- a user's rows lie all over the table, as they do in the end
INSERT INTO identities (user_id, issuer, subject)
SELECT id, 'https://issuer.example', id::text FROM users;
INSERT INTO todo_counters (user_id, last_number)
SELECT user_id, max(number) FROM todos GROUP BY user_id;
INSERT INTO sign_in_attempts (key, allowed_at)
SELECT sha256(n::text::bytea), now() + n * interval '1 second' FROM generate_series(1, 5000) AS n;
INSERT INTO conversations (
    user_id, id, external_id, title, message_count, last_position, created_at, updated_at
)
SELECT
    user_id, conversation_id, 'chat ' || n, 'Conversation ' || n, messages, messages, created_at,
    created_at + n * 7919 % 10007 * interval '1 minute'
FROM seeded_conversations
ORDER BY md5(conversation_id::text);
INSERT INTO messages (user_id, conversation_id, position, sender_type, content, created_at, updated_at)
SELECT
    user_id, conversation_id, p, CASE p % 2 WHEN 1 THEN 'user' ELSE 'ai' END,
    'Message ' || p, created_at + p * interval '1 second', created_at + p * interval '1 second'
FROM seeded_conversations, generate_series(1, messages) AS p
ORDER BY p, md5(conversation_id::text);
INSERT INTO todo_conversation_links (user_id, id, todo_id, conversation_id)
SELECT user_id, md5(todo_id::text || conversation_id)::uuid, todo_id, conversation_id
FROM (
    SELECT t.user_id, t.id AS todo_id, c.conversation_id
    FROM todos AS t
    JOIN seeded_conversations AS c ON c.user_id = t.user_id AND c.n = t.number
    UNION
    SELECT t.user_id, t.id, '{CONVERSATION}'
    FROM todos AS t
    WHERE t.user_id = '{OWNER_ID}' AND t.number <= {LINKS_OF_ONE}
    UNION
    SELECT c.user_id, '{TODO}', c.conversation_id
    FROM seeded_conversations AS c
    WHERE c.user_id = '{OWNER_ID}' AND c.n <= {LINKS_OF_ONE}
) AS links
ORDER BY md5(todo_id::text || conversation_id);
INSERT INTO audit_log (user_id, seq, at, action, table_name, row_id, before)
SELECT
    e.user_id,
    row_number() OVER (PARTITION BY e.user_id ORDER BY e.number, e.row_id),
    '2026-01-01T00:00:00Z'::timestamptz + row_number() OVER (PARTITION BY e.user_id ORDER BY e.number, e.row_id)
        * interval '1 second',
    e.action, e.table_name, e.row_id, e.before
FROM (
    SELECT user_id, number, 'insert', 'todos', id, NULL::jsonb
    FROM todos
    UNION ALL
    SELECT user_id, position, 'insert', 'messages', id, NULL
    FROM messages
    UNION ALL
    SELECT m.user_id, m.position, 'update', 'conversations', m.conversation_id,
        jsonb_build_object('title', 'Title ' || m.position, 'metadata', '{{}}'::jsonb, 'version', m.position)
    FROM messages AS m
) AS e (user_id, number, action, table_name, row_id, before)
ORDER BY md5(e.row_id::text || e.number);
INSERT INTO idempotency_keys (user_id, key, operation, request_hash, created_at)
SELECT u.id, 'key ' || n, 'POST /v1/todos', sha256('x'), now() - n * interval '1 minute'
FROM users AS u, generate_series(1, 10) AS n
ORDER BY md5(u.id::text || n);
INSERT INTO api_keys (user_id, slot, name, scope, digest)
SELECT u.id, n, 'key ' || n, 'write', sha256((u.id::text || n)::bytea)
FROM users AS u, generate_series(1, 5) AS n
ORDER BY md5(u.id::text || n);
RESET session_replication_role;
"""


@pytest.fixture(scope="module")
def database(make_module_database: Callable[[], TestDatabase]) -> TestDatabase:
    """A database with as much in it as makes the planner think."""
    made = make_module_database()
    seed(made.superuser_url, SEED)
    return made


@pytest.fixture(scope="module")
def service_connection(database: TestDatabase) -> Iterator[Connection]:
    with service_session(database.service_url) as connection:
        yield connection


@pytest.fixture(scope="module")
def superuser(database: TestDatabase) -> Iterator[Connection]:
    """For reading the catalogs."""
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def connection(query: QueryText, service_connection: Connection, superuser: Connection) -> Iterator[Connection]:
    """A transaction as the query's is when it runs: the service's login, row security for the owner's rows."""
    found = superuser if query.name in OPERATORS else service_connection
    with found.transaction(force_rollback=True):
        if query.name in OPERATORS:
            found.execute("SET LOCAL ROLE todochat_owner")
        found.execute(f"SET LOCAL app.user_id = '{user_id(OWNER)}'")
        yield found


def test_the_module_knows_every_table_of_users(superuser: Connection):
    rows = superuser.execute(
        "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'user_id'"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')"
    ).fetchall()
    assert {name for (name,) in rows} | {"users"} == USER_TABLES


OIDS: dict[Any, set[int]] = {
    UUID: {2950},
    str: {25, 1043},
    bool: {16},
    int: {20, 21, 23},
    float: {701},
    datetime: {1184},
    msgspec.Raw: {114, 3802},
    bytes: {17},
    list[str]: {1009},
}
"""Type of a field → the types that a column for it may have."""


def flat(kind: Any) -> tuple[Any, bool]:
    """The type without what is said about it, and whether None is one of its values."""
    if hasattr(kind, "__metadata__"):
        return flat(kind.__origin__)
    if isinstance(kind, types.UnionType) or get_origin(kind) is Union:
        (plain,) = [part for part in get_args(kind) if part not in (type(None), msgspec.UnsetType)]
        return flat(plain)[0], type(None) in get_args(kind)
    if get_origin(kind) is Literal:
        return type(get_args(kind)[0]), False
    return kind, False


def described(connection: Connection, text: bytes, kinds: tuple[int, ...] | None) -> pq.abc.PGresult:
    """The statement's parameters and columns, as the server sees them."""
    for result in (connection.pgconn.prepare(b"", text, kinds), connection.pgconn.describe_prepared(b"")):
        assert result.status == pq.ExecStatus.COMMAND_OK, result.error_message.decode()
    return result


WHOLE_NUMBERS = {20, 21, 23}
JSONB = 3802


@EVERY_QUERY
def test_the_database_describes_a_query_as_its_header_and_its_struct_do(
    query: QueryText, connection: Connection, superuser: Connection
):
    assert_parameters(query, connection)
    assert_columns(query, connection, superuser)


def assert_parameters(query: QueryText, connection: Connection) -> None:
    """The database takes the parameters as the header declares them."""
    types = query.prepared.types
    declared = described(connection, query.prepared.text, types)
    assert tuple(map(declared.param_type, range(declared.nparams))) == types
    # What the server makes of them by their use alone. A comparison with a wider number is as good, in an index too;
    # a jsonb beside a literal, coalesce($9, '{}'), tells nothing.
    told = tuple(kind if kind == JSONB else 0 for kind in types)
    inferred = described(connection, grammar.without_null_tests(query.prepared.text.decode()).encode(), told)
    for number, (name, kind) in enumerate(zip(query.parameters, types, strict=True)):
        found = base_type(connection, inferred.param_type(number))
        assert found in (WHOLE_NUMBERS if kind in WHOLE_NUMBERS else {kind}), name


def base_type(connection: Connection, kind: int) -> int:
    """The type itself, or the one that the domain is of."""
    row = connection.execute(
        "SELECT coalesce(nullif(typbasetype, 0), oid) FROM pg_type WHERE oid = %s", (kind,)
    ).fetchone()
    assert row
    return row[0]


def assert_columns(query: QueryText, connection: Connection, superuser: Connection) -> None:
    """The columns are the fields of the struct, by name, type and whether they may be null."""
    result = described(connection, query.prepared.text, query.prepared.types)
    row = DECLARED[query.name].row
    if row is None:
        expected = 0 if query.cardinality == "count" else result.nfields
        assert result.nfields == expected
        return
    columns = [
        ((result.fname(number) or b"").decode(), result.ftype(number), result.ftable(number), result.ftablecol(number))
        for number in range(result.nfields)
    ]
    if not issubclass(row, msgspec.Struct):
        ((_, kind, _, _),) = columns
        assert kind in OIDS[row]
        return
    fields = msgspec.structs.fields(row)
    if query.cardinality == "some":
        assert [column[:2] for column in columns[-2:]] == [("matches", 16), ("is_last", 16)]
        del columns[-2:]
    if DECLARED[query.name].is_versioned:
        (name, kind, table, column) = columns.pop()
        assert (name, kind) == ("version", 23)
        assert never_null(superuser, table, column)
    assert [name for name, *_ in columns] == [field.name for field in fields]
    not_null = grammar.columns_not_null(query.prepared.text.decode())
    for field, (name, kind, table, column) in zip(fields, columns, strict=True):
        plain, nullable = flat(field.type)
        assert kind in OIDS[plain], name
        if table:  # a column of a table, not an expression
            assert (name in not_null or never_null(superuser, table, column)) == (not nullable), name


def never_null(superuser: Connection, table: int, column: int) -> bool:
    found = superuser.execute(
        "SELECT attnotnull FROM pg_attribute WHERE attrelid = %s AND attnum = %s", (table, column)
    ).fetchone()
    assert found
    return found[0]


# How the database runs it


def example(query: QueryText, name: str, kind: str) -> Any:
    """A value of OWNER's for the parameter; optional filters are left out."""
    first, last = UUID(int=1), UUID(int=2**128 - 1)
    values = {
        "user_id": user_id(OWNER),
        "id": TODO if kind == "uuid" else 17,
        "todo_id": TODO,
        "conversation_id": CONVERSATION,
        "from_position": MESSAGES - 1,
        "expected": MESSAGES,
        "messages": 20,
        "before": 2**31 - 1,
        "key": "key 3",
        "number": 17,
        "status": "pending" if kind == "text" else None,
        "row_limit": 51,
        "limit": 51,
        "after": {
            "timestamptz": "2026-01-03T00:00:00Z",
            "smallint": 2,
            "bigint": 1000,
            "integer": 100,
            "uuid": first,
            "text": "chat 7",
        }.get(kind),
        "external_id": "chat 7",
        "item_id": "msg_1",
        "message_bytes": 4_194_304,
        "words": ["message"],
        "row_id": CONVERSATION,
        "table": "conversations",
        "first": 1,
        "at": "2026-01-01T01:00:00Z",
        "before_id": last,
        "untouched_since": "2026-01-02T00:00:00Z",
        "looked_at": 5000,
        "after_id": last if re.search(r"\bid(, user_id\))? < \(?%\(after_id\)s", query.text) else first,
        "after_user": first,
        "after_undated_id": first,
        "digest": hashlib.sha256(f"{user_id(OWNER)}1".encode()).digest(),
        "scope": "write",
        "hour": "2030-01-01T00:00:00Z",
        "sort": "created_at",
        "direction": -1,
        "username": "User77",
        "email": "User77@example.com",
        "account": b"a" * 32,
        "last_id": last,
        "last_number": 17,
        "address": b"b" * 32,
        "is_active": True,
        "token_version": 1,
        "issued_at": 1_700_000_000,
        "issuer": "https://issuer.example",
        "subject": "user77",
        "creates": False,
        "records": True,
        "older_than": "2026-01-01T01:00:00Z",
        "batch": 10,
    }
    return None if f"%({name})s IS NULL OR" in query.text else values.get(name)


def run(connection: Connection, query: QueryText, values: dict[str, Any]) -> None:
    prepare(connection, query)
    connection.execute(execute(query, values))
    connection.execute("DEALLOCATE planned")


def scans(connection: Connection, index: str) -> int:
    """How often this transaction has looked into the index, inside functions too."""
    row = connection.execute("SELECT pg_stat_get_xact_numscans(to_regclass(%s))", (f"public.{index}",)).fetchone()
    assert row
    assert row[0] is not None, f"there is no index {index}"
    return row[0]


def sequential_scans(connection: Connection) -> set[str]:
    """The tables that this transaction has read from end to end."""
    rows = connection.execute("SELECT relname FROM pg_stat_xact_user_tables WHERE seq_scan > 0").fetchall()
    return {name for (name,) in rows}


@EVERY_QUERY
def test_a_query_rides_on_the_index_that_its_header_names(query: QueryText, connection: Connection):
    if query.index == "none":
        assert not grammar.references(query.prepared.text.decode(), None)
        return
    for mode in ("force_generic_plan", "force_custom_plan"):
        with connection.transaction(force_rollback=True):
            connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
            assert_index(query, connection)


def first_column(connection: Connection, index: str) -> str:
    found = connection.execute("SELECT pg_get_indexdef(to_regclass(%s), 1, true)", (f"public.{index}",)).fetchone()
    assert found
    return found[0]


def assert_index(query: QueryText, connection: Connection) -> None:
    """The plan looks into the index that the header names, and reads nothing from end to end."""
    text = query.prepared.text.decode()
    connection.execute("SET LOCAL statement_timeout = 0")  # erasing OWNER is more than a usual request
    values = {name: example(query, name, kind) for name, kind in query.parameters.items()}
    before = scans(connection, query.index)
    steps = list(nodes(plan(connection, query, values)["Plan"]))
    assert [step for step in steps if step["Node Type"] == "Seq Scan"] == []
    # An index is looked into from its first column on: else all users' parts of it are read.
    for step in steps:
        if "Index Name" in step:
            assert re.search(rf"\b{first_column(connection, step['Index Name'])}\b", step.get("Index Cond", "")), step
    root = grammar.statement(text)
    if isinstance(root, grammar.ast.InsertStmt):
        unique = connection.execute(
            "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(%s) AND indisunique AND indrelid = to_regclass(%s)",
            (query.index, root.relation.relname),
        )
        assert unique.fetchone(), "an INSERT names the key that it must not break"
    elif grammar.references(text, None):
        assert query.index in {step.get("Index Name") for step in steps}
    else:  # a function's plan isn't shown: run it
        run(connection, query, values)
        assert scans(connection, query.index) > before
        assert not sequential_scans(connection)


# What an operator sees

LISTS_OF_ROWS = [
    query
    for query in TEXTS.values()
    if query.cardinality == "many" and query.index != "none" and query.name not in OPERATORS
]


def explained(mode: LiteralString) -> list[tuple[QueryText, list[str]]]:
    """For each list the statements that tell its plan, in a mode of the cache of plans."""
    found: list[tuple[QueryText, list[str]]] = []
    for query in LISTS_OF_ROWS:
        values = {name: example(query, name, kind) for name, kind in query.parameters.items()}
        kinds = f" ({', '.join(query.parameters.values())})" if query.parameters else ""
        found.append(
            (
                query,
                [
                    f"SET LOCAL plan_cache_mode = {mode}",
                    f"PREPARE planned{kinds} AS {query.prepared.text.decode()}",
                    f"EXPLAIN (COSTS OFF) {execute(query, values).as_string(None)}",
                    "DEALLOCATE planned",
                ],
            )
        )
    return found


async def plans_of_the_service(url: str, mode: LiteralString) -> dict[str, str]:
    """The plans that the service's own connection makes."""
    database = Database(Settings(database_url=Secret(url), database_pool_size=1), lambda *_: None)
    await database.open()
    try:
        found: dict[str, str] = {}
        for query, statements in explained(mode):
            steps = [(Prepared(b"", statement.encode(), (), reads_only=True), ()) for statement in statements]
            _, _, lines, _ = await database.transact(Context(OWNER_ID, "test"), steps)
            found[query.name] = "\n".join(line for (line,) in lines.rows)
        return found
    finally:
        await database.close()


def plans_in_psql(program: Path, url: str, mode: LiteralString) -> dict[str, str]:
    """The plans in plain psql, as the service's login, that says no more than whose rows are asked for."""
    script = ""
    for query, statements in explained(mode):
        told = [f"\\echo == {query.name}\nBEGIN", f"SET LOCAL app.user_id = '{OWNER_ID}'", *statements, "COMMIT"]
        script += ";\n".join(told) + ";\n"
    command = [str(program), "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "-v", "ON_ERROR_STOP=1", url]
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=True)
    plans = [part.split("\n", 1) for part in done.stdout.split("== ")[1:]]
    return {name: text.strip("\n") for name, text in plans}


@pytest.mark.parametrize("mode", ["auto", "force_generic_plan"])
def test_the_plan_of_every_list_is_in_plain_psql_what_it_is_in_the_service(
    mode: LiteralString, database: TestDatabase, postgres: EmbeddedPostgres
):
    """What planning depends on is set on the login, where an operator who looks for a slow query gets it too."""
    psql = plans_in_psql(postgres.bin_dir / "psql", database.service_url, mode)
    assert psql.keys() == {query.name for query in LISTS_OF_ROWS}
    assert psql == asyncio.run(plans_of_the_service(database.service_url, mode))
    assert not [name for name, text in psql.items() if "Seq Scan" in text]


# Pages

PAGE = 50
ORDERS = [*get_args(get_args(Order)[0])]
CONVERSATION_ORDERS = ("updated_at", "-updated_at", "created_at", "-created_at")


@dataclasses.dataclass(frozen=True)
class Listed:
    """A list, asked for a page at a time."""

    label: str
    ask: Callable[[Caller, str | None], Awaitable[Page[Any]]]
    query: str = ""
    """The one that gets a page, where there is another beside it."""
    tables: int = 1
    """From how many an item is read."""
    is_sorted: bool = False
    """Whether all of it is read for every page."""
    looked_at: int = 0
    """How many entries a page may look at without showing them."""


def todo_list(label: str, *, is_sorted: bool = False, **filters: Any) -> Listed:
    return Listed(
        label,
        lambda caller, cursor: list_todos.fn(asking(caller, TodoFilters(**filters, limit=200, cursor=cursor))),
        is_sorted=is_sorted,
    )


def conversation_list(messages: int, **filters: Any) -> Listed:
    return Listed(
        f"conversations with {messages} messages {' '.join(map(str, filters.values()))}",
        lambda caller, cursor: list_conversations.fn(
            asking(caller, ConversationFilters(messages=messages, limit=200, cursor=cursor, **filters))
        ),
        query=f"list_conversations_{'with_messages_' if messages else ''}by_{named(filters['order'])}",
        tables=2 if messages else 1,
    )


def named(order: str) -> str:
    """An order as the names of queries have it."""
    return order.removeprefix("-") + ("_desc" if order.startswith("-") else "")


def message_list(order: Literal["position", "-position"], *, items: bool = False) -> Listed:
    return Listed(
        f"messages by {order}{' with items' if items else ''}",
        lambda caller, cursor: list_messages.fn(
            asking(caller, MessageFilters(order=order, limit=200, cursor=cursor, items=items)), CONVERSATION
        ),
        query=f"list_messages{'_with_items' if items else ''}{'' if order == 'position' else '_desc'}",
    )


def link_list(label: str, *, is_sorted: bool = False, **filters: Any) -> Listed:
    return Listed(
        label,
        lambda caller, cursor: list_links.fn(asking(caller, LinkFilters(**filters, limit=200, cursor=cursor))),
        is_sorted=is_sorted,
    )


def audit_list(label: str, **filters: Any) -> Listed:
    # An entry, the next one of its row, and the row.
    return Listed(
        label,
        lambda caller, cursor: list_audit.fn(asking(caller, AuditFilters(**filters, limit=200, cursor=cursor))),
        query="list_audit_of_row" if "row_id" in filters else "list_audit",
        tables=4,
        looked_at=LOOKED_AT if "table" in filters else 0,
    )


async def list_changes_so_far(caller: Caller, cursor: str | None) -> Page[Any]:
    """A page of the feed, which has an end here."""
    page = await list_changes.fn(asking(caller, PageQuery(limit=200, cursor=cursor)))
    return page if msgspec.json.encode(page.items) != b"[]" else Page([], None)


LISTS = [
    *(
        dataclasses.replace(
            todo_list(f"{scope} todos by {order}{' without one' if undated else ''}", order=order, scope=scope),
            query=f"list_{'' if scope == 'owned' else 'assigned_'}todos_by_{undated}{named(order)}",
            is_sorted=scope == "assigned",
        )
        for order in ORDERS
        for scope in ("owned", "assigned")
        for undated in (("", "no_") if order.endswith("due_date") else ("",))
    ),
    todo_list("todos by status", status=["pending"]),
    dataclasses.replace(todo_list("all todos", scope="all"), query="list_todos_by_created_at_desc"),
    *(conversation_list(messages, order=order) for order in CONVERSATION_ORDERS for messages in (0, 3)),
    message_list("position", items=True),
    message_list("-position", items=True),
    Listed(
        "search",
        lambda caller, cursor: search_messages.fn(
            asking(caller, MessageSearch(q="message 1", limit=200, cursor=cursor))
        ),
        query="search_messages",
        is_sorted=True,
    ),
    message_list("position"),
    message_list("-position"),
    link_list("links"),
    link_list("links of a todo", todo_id=TODO, is_sorted=True),
    link_list("links of a conversation", conversation_id=CONVERSATION, is_sorted=True),
    audit_list("audit"),
    audit_list("audit of a table", table="todos"),
    audit_list("audit of a conversation", row_id=CONVERSATION),
    Listed("changes", list_changes_so_far, query="list_changes", tables=4),
    Listed(
        "conversations of a todo",
        lambda caller, cursor: list_todo_conversations.fn(asking(caller, PageQuery(limit=200, cursor=cursor)), TODO),
        query="list_todo_conversations",
        tables=2,
    ),
    Listed(
        "todos of a conversation",
        lambda caller, cursor: list_conversation_todos.fn(
            asking(caller, PageQuery(limit=200, cursor=cursor)), CONVERSATION
        ),
        query="list_conversation_todos",
        tables=2,
    ),
]


async def walk(url: str) -> dict[str, tuple[list[Any], list[Statement[Any]]]]:
    """For each of the lists all its items, and the statements that got its pages."""
    database = Database(Settings(database_url=Secret(url), database_pool_size=1), lambda *_: None)
    await database.open()
    found: dict[str, tuple[list[Any], list[Statement[Any]]]] = {}
    try:
        for wanted in LISTS:
            recorder = Recorder(database, OWNER_ID)
            items: list[Any] = []
            cursor = None
            while True:
                page = await wanted.ask(recorder, cursor)
                items += msgspec.json.decode(msgspec.json.encode(page.items))
                cursor = page.next_cursor
                if cursor is None:
                    break
            statements = [
                statement for statement in recorder.statements if wanted.query in ("", statement.query.source.name)
            ]
            found[wanted.label] = (items, statements)
    finally:
        await database.close()
    return found


@pytest.fixture(scope="module")
def walked(database: TestDatabase) -> dict[str, tuple[list[Any], list[Statement[Any]]]]:
    return asyncio.run(walk(database.service_url))


def test_every_query_that_gets_a_page_is_walked(walked: dict[str, tuple[list[Any], list[Statement[Any]]]]):
    names = {statement.query.source.name for _, statements in walked.values() for statement in statements}
    at_most_one = {name for name in TEXTS if name.endswith("_by_external_id") and "list" in name}
    assert names | at_most_one == {name for name, query in TEXTS.items() if "row_limit" in query.parameters}


@pytest.mark.parametrize("wanted", LISTS, ids=lambda wanted: wanted.label)
def test_the_last_page_of_a_list_costs_what_the_first_costs(
    wanted: Listed, walked: dict[str, tuple[list[Any], list[Statement[Any]]]], service_connection: Connection
):
    items, statements = walked[wanted.label]
    first, last = [
        buffers(service_connection, OWNER_ID, statement, row_limit=PAGE + 1)
        for statement in (statements[0], statements[-1])
    ]
    assert len(items) == len({item["id"] for item in items}) > 2 * PAGE
    assert last <= max(1.25 * first + 10, wanted.looked_at)
    if not wanted.is_sorted:
        assert first <= 4 * PAGE * wanted.tables
