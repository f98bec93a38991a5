"""What a schema must be for its users to be split over several databases, as rules over the schema and the queries.

Each was met with Citus 14: it refuses what is against one of them, or does something else in silence.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from service.db.loading import TEXTS, USER_TABLES, QueryText
from tests.conftest import REPOSITORY, TestDatabase
from tests.support import grammar

Connection = psycopg.Connection[Any]
MIGRATIONS = "\n".join(
    path.read_text() for path in sorted((REPOSITORY / "migrations").glob("*.sql")) if "rollback" not in path.name
)
EVERY_QUERY = pytest.mark.parametrize("query", TEXTS.values(), ids=lambda query: query.name)

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
    *(name for name in TEXTS if name.startswith("list_assigned_todos_by_")),
    "count_assigned",
}
"""Queries that look at other people's todos: they ask all shards."""
OPERATORS = {name for name, query in TEXTS.items() if query.where.startswith("admin.sql")}
"""They go through everybody's rows anyway, shard by shard."""
SIGN_IN = {"find_credentials", "list_users", "find_exporter"}
"""They look for an account by its address or name, of which there is one table for all shards."""


@pytest.fixture(scope="module")
def dba(make_module_database: Callable[[], TestDatabase]) -> Iterator[Connection]:
    with psycopg.connect(make_module_database().superuser_url, autocommit=True) as connection:
        yield connection


def test_keys_uniques_and_foreign_keys_begin_with_user_id(dba: Connection) -> None:
    rows = dba.execute(
        "SELECT c.relname, a.attname FROM pg_index i JOIN pg_class c ON c.oid = indexrelid"
        " JOIN pg_attribute u ON u.attrelid = indrelid AND u.attname = 'user_id'"
        " JOIN pg_attribute a ON a.attrelid = indrelid AND a.attnum = indkey[0]"
        " UNION SELECT conname, a.attname FROM pg_constraint"
        " JOIN pg_attribute u ON u.attrelid = conrelid AND u.attname = 'user_id'"
        " JOIN pg_attribute a ON a.attrelid = conrelid AND a.attnum = conkey[1] WHERE contype IN ('p', 'u', 'f')"
    ).fetchall()
    assert {name for name, first in rows if first != "user_id"} == ACROSS_USERS.keys()


def test_policies_compare_a_column_with_the_setting_and_nothing_else(dba: Connection) -> None:
    rows = dba.execute(
        "SELECT polname, coalesce(pg_get_expr(polqual, polrelid), '') FROM pg_policy WHERE NOT polroles @> ARRAY["
        "'todochat_owner'::regrole::oid]"
    ).fetchall()
    direct = re.compile(r"\(\w+ = \(NULLIF\(current_setting\('app\.user_id'::text, true\), ''::text\)\)::uuid\)")
    assert rows
    assert [name for name, text in rows if not direct.fullmatch(text)] == []


def test_transition_tables_stand_only_where_they_keep_bulk_linear(dba: Connection) -> None:
    rows = dba.execute("SELECT tgname FROM pg_trigger WHERE tgoldtable IS NOT NULL OR tgnewtable IS NOT NULL")
    assert {name for (name,) in rows} == TRANSITION_TABLES.keys()


def test_functions_are_texts_and_return_no_rows_of_a_table(dba: Connection) -> None:
    """A body by BEGIN ATOMIC and SETOF of a table are dropped in silence."""
    assert "BEGIN ATOMIC" not in MIGRATIONS
    rows = dba.execute(
        "SELECT proname FROM pg_proc p JOIN pg_type t ON t.oid = prorettype"
        " WHERE pronamespace = 'public'::regnamespace AND typrelid <> 0"
    )
    assert rows.fetchall() == []


def test_a_message_ends_with_the_name_of_the_constraint_it_stands_for() -> None:
    """There the field for it arrives empty."""
    raised = re.findall(
        r"RAISE EXCEPTION ('(?:[^']|'')*')[^;]*?CONSTRAINT = ('\w+'|TG_ARGV\[0\] \|\| '\w+')", MIGRATIONS
    )
    assert len(raised) >= 5
    for message, name in raised:
        ending = name.strip("'") if name.startswith("'") else "%_immutable_check"
        assert message.rstrip("'").endswith(f'"{ending}"'), message


# Queries


def calls(tree: Any) -> set[str]:
    """The functions that a part of a query calls."""
    return {
        ".".join(part.sval for part in node.funcname)
        for node in grammar.descendants(tree)
        if isinstance(node, grammar.ast.FuncCall)
    }


@pytest.fixture(scope="module")
def volatility(dba: Connection) -> dict[str, set[str]]:
    """The functions by what they promise: i, s or v. Several of one name may promise different things."""
    found: dict[str, set[str]] = {}
    for name, promise in dba.execute("SELECT proname, provolatile::text FROM pg_proc").fetchall():
        found.setdefault(name, set()).add(promise)
    return found


def updates(query: QueryText) -> list[Any]:
    statement = grammar.statement(query.prepared.text.decode())
    nodes = [statement, *grammar.descendants(statement)]
    return [node for node in nodes if isinstance(node, grammar.ast.UpdateStmt)]


@EVERY_QUERY
def test_an_update_sets_and_compares_with_nothing_that_may_differ_from_node_to_node(
    query: QueryText, volatility: dict[str, set[str]]
) -> None:
    """No volatile or stable function, and no arithmetic of times, in SET or WHERE."""
    for update in updates(query):
        if update.relation.relname not in USER_TABLES or query.name in OPERATORS:
            continue
        for part in (*update.targetList, *([update.whereClause] if update.whereClause else [])):
            called = {name.rpartition(".")[2] for name in calls(part)}
            assert {name for name in called if volatility.get(name, {"i"}) - {"i"}} <= {"coalesce"}, query.name
        assert not re.search(r"INTERVAL", query.text.partition("WHERE")[2]), query.name


QUERYING = (
    "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    " AND prosrc ~ '(FROM|INTO|UPDATE) public\\.'"
)


@EVERY_QUERY
def test_no_function_that_runs_queries_is_called_beside_a_users_table(query: QueryText, dba: Connection) -> None:
    querying = {name for (name,) in dba.execute(QUERYING).fetchall()}
    assert {"authenticate", "erase_user", "expect_position"} <= querying
    text = query.prepared.text.decode()
    called = calls(grammar.statement(text)) & querying
    tables = {found.table for found in grammar.references(text, None)}
    assert not (called and tables), query.name


@EVERY_QUERY
def test_a_query_asks_one_shard(query: QueryText) -> None:
    """Every user's table in it is bound to one user, but for assignees and operators, who see across users."""
    number = grammar.parameter_number(query)
    references = grammar.references(query.prepared.text.decode(), number)
    across = [found.table for found in references if not found.bound and found.table != "users"]
    assert not across or query.name in ASSIGNEES | OPERATORS | SIGN_IN, (query.name, across)
    if "assigned_to" in query.text.partition("WHERE")[2]:
        assert re.search(r"assigned_to = %\(user_id\)s", query.text) is None or query.name in ASSIGNEES
