"""What a schema must be for its users to be split over several databases, as rules over the schema and the queries.

Each was met with Citus 14: it refuses what is against one of them, or does something else in silence. A rule finds what
is against it; it is shown what must be found beside the schema and the queries, where only what is listed here may be.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from service.db.loading import TEXTS, USER_TABLES
from tests.conftest import REPOSITORY, TestDatabase
from tests.support import grammar

Connection = psycopg.Connection[Any]
MIGRATIONS = "\n".join(
    path.read_text() for path in sorted((REPOSITORY / "migrations").glob("*.sql")) if "rollback" not in path.name
)

WITHOUT_OWNER = {
    "users": "its id is everybody else's user_id",
    "ended_identities": "outside accounts whose user is gone",
    "sign_in_attempts": "nobody has signed in yet",
}
"""Tables without user_id."""
ACROSS_USERS = {
    "identities_issuer_subject_key": "an outside account is one person's, whoever claims it",
    "todos_assigned_to_fkey": "the assignee is somebody else",
    "todos_assigned_to_idx": "the assignee's list asks all shards",
    "idempotency_keys_created_at_idx": "old keys go for all users at once",
    "audit_log_actor_id_idx": "an erasure goes through other people's trails",
}
"""Keys and indexes that don't begin with user_id, on purpose."""
TRANSITION_TABLES = {
    "messages_after_insert": "40,000 messages in one statement take 2.4 s and not 75",
    "messages_after_delete": "a rewind counts its messages once",
}
"""Triggers that a sharded table refuses: each needs another form there, and keeps bulk linear here."""
ASSIGNEES = {
    "get_todo",
    "update_todo",
    "lock_todos",
    *(name for name in TEXTS if name.startswith("list_assigned_todos_by_")),
}
"""Queries that look at other people's todos: they ask all shards."""
OPERATORS = {name for name, query in TEXTS.items() if query.where.startswith("admin.sql")}
"""They go through everybody's rows anyway, shard by shard."""


@pytest.fixture(scope="module")
def dba(make_module_database: Callable[[], TestDatabase]) -> Iterator[Connection]:
    with psycopg.connect(make_module_database().superuser_url, autocommit=True) as connection:
        yield connection


# The schema


def without_owner(dba: Connection) -> set[str]:
    """The tables that don't say whose a row is."""
    rows = dba.execute(
        "SELECT relname FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        " AND relname !~ '^_?yoyo'"
        " AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'user_id')"
    )
    return {name for (name,) in rows}


def keys_across_users(dba: Connection) -> set[str]:
    """Keys, indexes and foreign keys of users' tables that begin with another column, or with an expression."""
    rows = dba.execute(
        "SELECT c.relname, a.attname FROM pg_index i JOIN pg_class c ON c.oid = indexrelid"
        " JOIN pg_attribute u ON u.attrelid = indrelid AND u.attname = 'user_id'"
        " LEFT JOIN pg_attribute a ON a.attrelid = indrelid AND a.attnum = indkey[0]"
        " UNION SELECT conname, a.attname FROM pg_constraint"
        " JOIN pg_attribute u ON u.attrelid = conrelid AND u.attname = 'user_id'"
        " JOIN pg_attribute a ON a.attrelid = conrelid AND a.attnum = conkey[1] WHERE contype IN ('p', 'u', 'f')"
    ).fetchall()
    return {name for name, first in rows if first != "user_id"}


def indirect_policies(dba: Connection) -> set[str]:
    """Policies of the service that do anything but compare a column with the setting."""
    rows = dba.execute(
        "SELECT polname, text FROM pg_policy CROSS JOIN LATERAL"
        " (VALUES (pg_get_expr(polqual, polrelid)), (pg_get_expr(polwithcheck, polrelid))) AS e (text)"
        " WHERE NOT polroles @> ARRAY['todochat_owner'::regrole::oid] AND text IS NOT NULL"
    ).fetchall()
    direct = re.compile(r"\(\w+ = \(NULLIF\(current_setting\('app\.user_id'::text, true\), ''::text\)\)::uuid\)")
    assert rows
    return {name for name, text in rows if not direct.fullmatch(text)}


def with_transition_tables(dba: Connection) -> set[str]:
    """Triggers that see all rows of a statement at once."""
    rows = dba.execute("SELECT tgname FROM pg_trigger WHERE tgoldtable IS NOT NULL OR tgnewtable IS NOT NULL")
    return {name for (name,) in rows}


def lost_functions(dba: Connection) -> set[str]:
    """Functions that are dropped in silence: a body by BEGIN ATOMIC, or rows of a table as their result."""
    rows = dba.execute(
        "SELECT proname FROM pg_proc p JOIN pg_type t ON t.oid = prorettype"
        " WHERE pronamespace = 'public'::regnamespace"
        " AND (typrelid <> 0 OR pg_get_function_sqlbody(p.oid) LIKE 'BEGIN ATOMIC%')"
    )
    return {name for (name,) in rows}


@pytest.mark.parametrize(
    ("rule", "listed", "broken_by", "found"),
    [
        (without_owner, WITHOUT_OWNER, "CREATE TABLE tags (id uuid PRIMARY KEY)", "tags"),
        (keys_across_users, ACROSS_USERS, "ALTER TABLE todos ADD CONSTRAINT one UNIQUE (id, user_id)", "one"),
        (
            keys_across_users,
            ACROSS_USERS,
            "ALTER TABLE api_keys ADD CONSTRAINT one FOREIGN KEY (id) REFERENCES users (id)",
            "one",
        ),
        (keys_across_users, ACROSS_USERS, "CREATE INDEX one ON todos (lower(title), user_id)", "one"),
        (
            indirect_policies,
            {},
            "CREATE POLICY one ON messages USING (user_id = (SELECT current_setting('app.user_id')::uuid))",
            "one",
        ),
        (indirect_policies, {}, "CREATE POLICY one ON messages FOR INSERT WITH CHECK (true)", "one"),
        (
            with_transition_tables,
            TRANSITION_TABLES,
            "CREATE TRIGGER one AFTER INSERT ON todos REFERENCING NEW TABLE AS n EXECUTE FUNCTION touch()",
            "one",
        ),
        (
            lost_functions,
            {},
            "CREATE FUNCTION one() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM todos; END",
            "one",
        ),
        (lost_functions, {}, "CREATE FUNCTION one() RETURNS SETOF todos LANGUAGE sql AS 'TABLE todos'", "one"),
    ],
)
def test_the_schema_breaks_a_rule_only_where_it_is_listed(
    rule: Callable[[Connection], set[str]], listed: dict[str, str], broken_by: str, found: str, dba: Connection
) -> None:
    assert rule(dba) == set(listed)
    with dba.transaction(force_rollback=True):
        dba.execute(broken_by.encode())
        assert rule(dba) == {*listed, found}


def messages_without_their_constraint(text: str) -> list[str]:
    """Messages of RAISE that don't end with the name of the constraint: the field for it arrives empty."""
    raised = re.findall(r"RAISE EXCEPTION ('(?:[^']|'')*')[^;]*?CONSTRAINT = ('\w+'|TG_ARGV\[0\] \|\| '\w+')", text)
    assert raised
    endings = [(message, name.strip("'") if name.startswith("'") else "%_immutable_check") for message, name in raised]
    return [message for message, name in endings if not message.endswith(f'"{name}"\'')]


def test_a_message_ends_with_the_name_of_the_constraint_it_stands_for() -> None:
    assert messages_without_their_constraint(MIGRATIONS) == []
    wrong = "'nobody: \"other_check\"'"
    raised = f"RAISE EXCEPTION {wrong} USING ERRCODE = 'check_violation', CONSTRAINT = 'todos_check';"
    assert messages_without_their_constraint(MIGRATIONS + raised) == [wrong]


# Queries


def calls(tree: Any) -> set[str]:
    """The functions that a part of a query calls."""
    return {node.funcname[-1].sval for node in grammar.descendants(tree) if isinstance(node, grammar.ast.FuncCall)}


@pytest.fixture(scope="module")
def changing(dba: Connection) -> set[str]:
    """The functions, some of their name at least, that are volatile or stable."""
    return {name for (name,) in dba.execute("SELECT proname FROM pg_proc WHERE provolatile <> 'i'")}


@pytest.fixture(scope="module")
def querying(dba: Connection) -> set[str]:
    """The functions that run queries."""
    rows = dba.execute(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        " AND prosrc ~ '(FROM|INTO|UPDATE) public\\.'"
    )
    found = {name for (name,) in rows}
    assert {"find_credentials", "erase_user", "expect_position"} <= found
    return found


def differs_by_node(text: str, changing: set[str]) -> set[str]:
    """What in SET or WHERE of an UPDATE may differ from node to node: volatile and stable functions, sums of times."""
    found: set[str] = set()
    for update in grammar.descendants(grammar.statement(text)):
        if not isinstance(update, grammar.ast.UpdateStmt) or update.relation.relname not in USER_TABLES:
            continue
        for part in (*update.targetList, *([update.whereClause] if update.whereClause else [])):
            found |= calls(part) & {*changing, "make_interval"}
            for node in grammar.descendants(part):
                if isinstance(node, grammar.ast.SQLValueFunction):
                    found.add("a keyword for the time or the user")
                if isinstance(node, grammar.ast.TypeName) and node.names[-1].sval == "interval":
                    found.add("interval")
    return found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("UPDATE todos SET title = $2 WHERE user_id = $1", set[str]()),
        ("UPDATE todos SET due_date = now() WHERE user_id = $1", {"now"}),
        ("UPDATE todos SET title = $2 WHERE user_id = $1 AND random() < 0.5", {"random"}),
        ("UPDATE todos SET due_date = current_date WHERE user_id = $1", {"a keyword for the time or the user"}),
        ("UPDATE todos SET due_date = due_date + interval '1 day' WHERE user_id = $1", {"interval"}),
        ("UPDATE todos SET title = $2 WHERE user_id = $1 AND due_date < $3 - '1 day'::interval", {"interval"}),
        (
            "WITH changed AS (UPDATE todos SET id = uuid7() WHERE user_id = $1 RETURNING id) SELECT id FROM changed",
            {"uuid7"},
        ),
    ],
)
def test_what_may_differ_from_node_to_node_is_found(text: str, found: set[str], changing: set[str]) -> None:
    assert differs_by_node(text, changing) == found


def test_an_update_sets_and_compares_with_nothing_that_may_differ_from_node_to_node(changing: set[str]) -> None:
    found = {query.name: differs_by_node(query.prepared.text.decode(), changing) for query in TEXTS.values()}
    assert {name for name, differing in found.items() if differing} <= OPERATORS


def querying_beside_a_table(text: str, querying: set[str]) -> set[str]:
    """The functions that run queries, where the query also names a user's table."""
    return calls(grammar.statement(text)) & querying if grammar.references(text, None) else set()


def test_no_function_that_runs_queries_is_called_beside_a_users_table(querying: set[str]) -> None:
    beside = "SELECT expect_position(c.user_id, c.id, 1) FROM conversations AS c WHERE c.user_id = $1"
    assert querying_beside_a_table(beside, querying) == {"expect_position"}
    found = {query.name: querying_beside_a_table(query.prepared.text.decode(), querying) for query in TEXTS.values()}
    assert {name for name, functions in found.items() if functions} == set()


def asks_all_shards(text: str, user: int | None) -> bool:
    """Whether it looks for rows of whatever owner. Accounts don't count: there is one table of them for all shards."""
    if any(not found.bound and found.table != "users" for found in grammar.references(text, user)):
        return True
    nodes = grammar.descendants(grammar.statement(text))
    conditions = [condition for node in nodes if (condition := getattr(node, "whereClause", None))]
    return any(
        isinstance(node, grammar.ast.A_Expr)
        and isinstance(node.lexpr, grammar.ast.ColumnRef)
        and node.lexpr.fields[-1].sval == "assigned_to"
        for condition in conditions
        for node in grammar.descendants(condition)
    )


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("SELECT id FROM todos WHERE user_id = $1 AND id = $2", False),
        ("SELECT id FROM todos WHERE id = $2", True),
        ("SELECT id FROM todos WHERE user_id = $1 OR assigned_to = $1", True),
        ("DELETE FROM messages WHERE conversation_id IN (SELECT id FROM conversations WHERE user_id = $1)", True),
        ("INSERT INTO todos (user_id, title) VALUES ($2, $3)", True),
    ],
)
def test_what_asks_all_shards_is_found(text: str, is_found: bool) -> None:
    assert asks_all_shards(text, 1) == is_found


def test_a_query_asks_one_shard_unless_it_is_listed() -> None:
    found = {
        query.name
        for query in TEXTS.values()
        if asks_all_shards(query.prepared.text.decode(), grammar.parameter_number(query))
    }
    assert found - OPERATORS == ASSIGNEES
