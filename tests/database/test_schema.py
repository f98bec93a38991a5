"""The tables hold the rules of the model for whoever writes: each rule is tried in SQL, by the service and by hand."""

import functools
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import errors, sql
from psycopg.types.json import Json, Jsonb

from service.audit import _UNDO_UPDATE
from service.db.loading import TEXTS
from service.db.migration_files import known_objects
from service.http.fields import CONTENT_LENGTH, DESCRIPTION_LENGTH, TITLE_LENGTH
from tests.conftest import TestDatabase

Connection = psycopg.Connection[Any]

DEADLINE_SECONDS = 10.0
NOW = datetime.now(UTC)
PAST, FUTURE = NOW - timedelta(days=1), NOW + timedelta(days=1)
_numbers = count(1)


@pytest.fixture(scope="module")
def database(make_module_database: Callable[[], TestDatabase]) -> TestDatabase:
    return make_module_database()


@pytest.fixture(scope="module")
def dba(database: TestDatabase) -> Iterator[Connection]:
    """A superuser who types SQL by hand; every statement is a transaction."""
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def service(database: TestDatabase) -> Iterator[Connection]:
    """The service's own login."""
    with psycopg.connect(database.service_url, autocommit=True) as connection:
        yield connection


@contextmanager
def acting(connection: Connection, user_id: UUID, request_id: str = "") -> Iterator[Connection]:
    """A transaction for this user, as the service opens it."""
    with connection.transaction():
        for name, value in (("app.user_id", str(user_id)), ("app.request_id", request_id)):
            connection.execute(sql.SQL("SET LOCAL {} = {}").format(sql.SQL(name), value))
        yield connection


def insert(connection: Connection, table: str, **values: Any) -> dict[str, Any]:
    """Insert a row with just these columns; the whole row as it then stands."""
    adapted = [Jsonb(value) if isinstance(value, dict) else value for value in values.values()]
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING *").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, values)),
        sql.SQL(", ").join([sql.Placeholder()] * len(values)),
    )
    cursor = connection.execute(statement, adapted)
    row = cursor.fetchone()
    assert row
    return dict(zip([column.name for column in cursor.description or ()], row, strict=True))


def update(connection: Connection, table: str, row: dict[str, Any], **values: Any) -> dict[str, Any]:
    """Set columns of the row; the whole row as it then stands."""
    adapted = [Jsonb(value) if isinstance(value, dict) else value for value in values.values()]
    statement = sql.SQL("UPDATE {} SET {} WHERE id = %s RETURNING *").format(
        sql.Identifier(table),
        sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in values),
    )
    cursor = connection.execute(statement, [*adapted, row["id"]])
    found = cursor.fetchone()
    assert found, "no such row"
    return dict(zip([column.name for column in cursor.description or ()], found, strict=True))


def new_user(connection: Connection, **values: Any) -> UUID:
    row = insert(connection, "users", **{"email": f"person{next(_numbers)}@example.org", **values})
    return row["id"]


def new_todo(connection: Connection, user_id: UUID, **values: Any) -> dict[str, Any]:
    return insert(connection, "todos", **{"user_id": user_id, "title": "Buy milk", **values})


def new_conversation(connection: Connection, user_id: UUID, **values: Any) -> dict[str, Any]:
    return insert(connection, "conversations", **{"user_id": user_id, **values})


def new_message(connection: Connection, conversation: dict[str, Any], **values: Any) -> dict[str, Any]:
    owner, conversation_id = conversation["user_id"], conversation["id"]
    basics = {"user_id": owner, "conversation_id": conversation_id, "sender_type": "user", "content": "Hello"}
    return insert(connection, "messages", **{**basics, **values})


def new_link(
    connection: Connection, todo: dict[str, Any], conversation: dict[str, Any], **values: Any
) -> dict[str, Any]:
    ids = {"user_id": todo["user_id"], "todo_id": todo["id"], "conversation_id": conversation["id"]}
    return insert(connection, "todo_conversation_links", **{**ids, **values})


def reread(connection: Connection, table: str, row: dict[str, Any]) -> dict[str, Any]:
    cursor = connection.execute(sql.SQL("SELECT * FROM {} WHERE id = %s").format(sql.Identifier(table)), [row["id"]])
    return dict(zip([column.name for column in cursor.description or ()], cursor.fetchone(), strict=True))


@contextmanager
def refused(state: str, constraint: str | None = None) -> Iterator[None]:
    """What happens inside must fail with this SQLSTATE and, where one is given, this constraint."""
    with pytest.raises(psycopg.Error) as caught:
        yield
    assert (caught.value.sqlstate, caught.value.diag.constraint_name) == (state, constraint), caught.value


def refused_check(constraint: str):
    return refused("23514", constraint)


# The catalogue


OURS = "nspname = 'public' AND pg_get_userbyid(relowner) = 'todochat_owner'"

COLUMNS = {
    "users": "id email username full_name password_hash is_active token_version tokens_valid_from created_at updated_at"
    " version",
    "sign_in_attempts": "key allowed_at",
    "ended_identities": "digest ended_at",
    "identities": "user_id id issuer subject created_at updated_at version",
    "todo_counters": "user_id last_number",
    "todos": "user_id id number title description status completed priority due_date assigned_to completed_at metadata"
    " created_at updated_at version updated_hour",
    "conversations": "user_id id external_id title metadata last_position message_count created_at updated_at version"
    " updated_hour",
    "messages": "user_id conversation_id position id sender_type role sender_id content message_type metadata"
    " item content_truncated created_at updated_at version",
    "todo_conversation_links": "user_id id todo_id conversation_id relationship_type created_at updated_at version",
    "idempotency_keys": "user_id key operation request_hash status headers body created_at",
    "api_keys": "user_id id slot name scope digest expires_at last_used_at created_at",
    "audit_log": "user_id seq at actor_id row_id action table_name before request_id",
}

# What need not start with user_id, and why.
ACROSS_USERS = {
    "identities_issuer_subject_key": "an outside account is one person's",
    "todos_assigned_to_fkey": "the assignee is somebody else",
    "todos_assigned_to_idx": "serves the assignee's list",
    "idempotency_keys_created_at_idx": "serves the removal of old keys, of all users",
    "audit_log_actor_id_idx": "serves the erasure of an actor from other people's trails",
}


def test_every_table_has_the_columns_of_the_model(dba: Connection) -> None:
    rows = dba.execute(
        "SELECT relname, string_agg(attname, ' ' ORDER BY attnum) FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = relnamespace JOIN pg_attribute ON attrelid = c.oid"
        f" WHERE {OURS} AND relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped GROUP BY relname"
    )
    assert dict(rows.fetchall()) == COLUMNS


COMMENTED = {
    "tables and indexes": "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
    f" WHERE {OURS} AND relkind IN ('r', 'p', 'i', 'v') AND obj_description(c.oid, 'pg_class') IS NULL",
    "columns": "SELECT relname, attname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
    f" JOIN pg_attribute ON attrelid = c.oid WHERE {OURS} AND relkind IN ('r', 'p', 'v') AND attnum > 0"
    " AND NOT attisdropped AND col_description(c.oid, attnum) IS NULL",
    "domains": "SELECT typname FROM pg_type t WHERE typtype = 'd' AND typnamespace = 'public'::regnamespace"
    " AND obj_description(t.oid, 'pg_type') IS NULL",
    "functions": "SELECT proname FROM pg_proc p WHERE pronamespace = 'public'::regnamespace"
    " AND obj_description(p.oid, 'pg_proc') IS NULL",
    "policies": "SELECT polname FROM pg_policy p WHERE obj_description(p.oid, 'pg_policy') IS NULL",
    "triggers": "SELECT tgname FROM pg_trigger t WHERE NOT tgisinternal"
    " AND obj_description(t.oid, 'pg_trigger') IS NULL",
    "roles": "SELECT rolname FROM pg_roles r WHERE rolname IN ('todochat_owner', 'todochat_app')"
    " AND shobj_description(r.oid, 'pg_authid') IS NULL",
}


@pytest.mark.parametrize("query", COMMENTED.values(), ids=COMMENTED)
def test_everything_says_in_a_comment_what_it_is(dba: Connection, query: str) -> None:
    assert dba.execute(query).fetchall() == []


def test_every_index_says_which_query_it_serves(dba: Connection) -> None:
    rows = dba.execute(
        "SELECT relname, obj_description(c.oid, 'pg_class') FROM pg_class c"
        f" JOIN pg_namespace n ON n.oid = relnamespace WHERE {OURS} AND relkind = 'i'"
    ).fetchall()
    assert len(rows) > len(COLUMNS)
    assert [name for name, comment in rows if not comment.startswith("Serves ")] == []


def test_every_key_of_a_user_s_table_starts_with_user_id(dba: Connection) -> None:
    rows = dba.execute(
        "SELECT conname, a.attname FROM pg_constraint JOIN pg_class c ON c.oid = conrelid"
        " JOIN pg_attribute u ON u.attrelid = conrelid AND u.attname = 'user_id'"
        " JOIN pg_attribute a ON a.attrelid = conrelid AND a.attnum = conkey[1] WHERE contype IN ('p', 'u', 'f')"
        " UNION SELECT relname, a.attname FROM pg_index i JOIN pg_class c ON c.oid = indexrelid"
        " JOIN pg_attribute u ON u.attrelid = indrelid AND u.attname = 'user_id'"
        " JOIN pg_attribute a ON a.attrelid = indrelid AND a.attnum = indkey[0]"
    ).fetchall()
    assert len(rows) > len(COLUMNS)
    assert {name for name, first in rows if first != "user_id"} == set(ACROSS_USERS)


def test_every_constraint_and_index_is_named_after_its_table(dba: Connection) -> None:
    rows = dba.execute(
        "SELECT conrelid::regclass::text, conname FROM pg_constraint JOIN pg_class c ON c.oid = conrelid"
        f" JOIN pg_namespace n ON n.oid = relnamespace WHERE {OURS} AND contype <> 'n'"
        " UNION SELECT indrelid::regclass::text, c.relname FROM pg_index JOIN pg_class c ON c.oid = indexrelid"
        f" JOIN pg_namespace n ON n.oid = relnamespace WHERE {OURS}"
    ).fetchall()
    assert rows
    assert [name for table, name in rows if not name.startswith(f"{table}_") or name[-1].isdigit()] == []


def test_columns_have_types_that_row_security_and_readers_can_live_with(dba: Connection) -> None:
    rows = dba.execute(
        "SELECT DISTINCT format_type(coalesce(nullif(typbasetype, 0), atttypid), atttypmod) FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = relnamespace JOIN pg_attribute ON attrelid = c.oid JOIN pg_type t"
        f" ON t.oid = atttypid WHERE {OURS} AND relkind = 'r' AND attnum > 0 AND NOT attisdropped"
    )
    timeless = {"uuid", "text", "integer", "smallint", "boolean", "jsonb", "bytea", "bigint"}
    assert {row[0] for row in rows} == {*timeless, "timestamp with time zone"}


# Ids, times and what a DBA need not type


def test_what_the_migrations_make_is_read_from_them_as_it_is_in_the_database(dba: Connection) -> None:
    """Of this the service, `migrate` and `backup` say that it is todochat's; functions by the types they take."""
    made = known_objects()
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tableowner = 'todochat_owner'"
    assert sorted(made.tables) == sorted(name for (name,) in dba.execute(tables))
    functions = "SELECT oid FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    found = "SELECT to_regprocedure('public.' || f)::oid FROM unnest(%s::text[]) AS f"
    assert sorted(dba.execute(found, [made.functions])) == sorted(dba.execute(functions))
    domains = "SELECT typname FROM pg_type WHERE typtype = 'd' AND typnamespace = 'public'::regnamespace"
    assert sorted(made.domains) == sorted(name for (name,) in dba.execute(domains))


def test_ids_are_of_version_7_and_in_the_order_of_time(dba: Connection) -> None:
    before = time.time()
    ids = [dba.execute("SELECT uuid7()").fetchone()[0] for _ in range(50)]
    assert all(found.version == 7 and found.variant == "specified in RFC 4122" for found in ids)
    assert [one < other for one, other in pairwise(ids)] == [True] * 49
    assert before - 0.01 < (ids[0].int >> 80) / 1000 < time.time() + 0.01


def test_ids_made_in_one_statement_differ(dba: Connection) -> None:
    assert dba.execute("SELECT count(DISTINCT uuid7()) FROM generate_series(1, 20000)").fetchone() == (20000,)


def test_a_row_typed_by_hand_needs_no_id_number_position_or_time(dba: Connection) -> None:
    user = new_user(dba)
    todo, conversation = new_todo(dba, user), new_conversation(dba, user)
    message, link = new_message(dba, conversation), new_link(dba, todo, conversation)
    identity = insert(dba, "identities", user_id=user, issuer="https://issuer.example", subject=str(user))
    for row in (todo, conversation, message, link, identity):
        assert row["id"].version == 7
        assert row["version"] == 1
        assert row["created_at"] == row["updated_at"]
        assert abs(row["created_at"] - datetime.now(UTC)) < timedelta(seconds=30)
    assert (todo["number"], todo["status"], todo["priority"], todo["metadata"]) == (1, "pending", "medium", {})
    assert (message["position"], message["message_type"], message["sender_id"]) == (1, "text", user)
    assert link["relationship_type"] == "discussion"


def test_the_owner_of_the_tables_can_type_rows_for_the_user_it_names(database: TestDatabase, dba: Connection) -> None:
    user = new_user(dba)
    with psycopg.connect(database.owner_url, autocommit=True) as owner:
        owner.execute("SET ROLE todochat_owner")
        with acting(owner, user):
            todo = new_todo(owner, user)
            assert new_message(owner, new_conversation(owner, user))["position"] == 1
        with refused("42501"):
            new_todo(owner, user)
    assert reread(dba, "todos", todo)["number"] == 1


# What a column takes


LONG_EMAIL = f"{'a' * 64}@{'b' * 63}.{'c' * 63}.{'d' * 61}"  # 254 characters
INVISIBLE = (
    " \t\n\u00a0\u00ad\u115f\u1160\u1680\u180e\u2003\u200b\u200f\u2028\u202e\u202f\u2060\u2064\u2800\u3000\u3164\ufeff"
)
BIGGEST = {"k": "x" * (16384 - len('{"k": ""}'))}


def nested(levels: int) -> dict[str, Any]:
    found: Any = {}
    for _ in range(levels - 2):
        found = [found]
    return {"k": found}


TITLES_GOOD = ["a", "x" * 200, f" {'x' * 200}\n", "\u200bok\ufeff", "日本語", "<b>&", "🙂" * 200, " " * 800 + "x" * 200]
TITLES_BAD = ["", " ", INVISIBLE, "\x01\x1f\x7f\x85", "x" * 201, f"{'x' * 100} {'x' * 100}", " " * 1000 + "x"]
METADATA_GOOD = [{}, {"a": [1, 2.5, None, {"b": "c"}]}, BIGGEST, nested(32), {"big": 17 * 10**307, "small": -1e-300}]
METADATA_BAD = [{"k": BIGGEST["k"] + "x"}, nested(33)]
TIMES_GOOD = ["1970-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"]
TIMES_BAD = ["1969-12-31T23:59:59.999999Z", "10000-01-01T00:00:00Z", "infinity", "-infinity"]

# table, column, good values, bad values; the constraint is called table_column_check, or is the one of DOMAINS.
VALUES: list[tuple[str, str, list[Any], list[Any]]] = [
    (
        "users",
        "email",
        ["a@b", "A.b+c@d-e.example", "!#$%&'*+/=?^_`{|}~-@x.y", LONG_EMAIL, f"a{LONG_EMAIL}"],
        ["", "a", "@b", "a@", "a b@c.de", "a@b..c", "a@-b.c", "a@b-.c", "ä@b.de", "a@ä.de", "a@b\n", f"aa{LONG_EMAIL}"],
    ),
    ("users", "username", ["abc", "A_b-9", "x" * 49 + "y"], ["", "ab", "x" * 51, "a b", "äbc", "abc\n", "a.bc"]),
    ("users", "full_name", ["", "Åse Ødegård", "x" * 200], ["x" * 201]),
    ("users", "password_hash", ["$argon2id$", "x" * 255], ["", "x" * 256]),
    ("users", "token_version", [1], [0]),
    ("todos", "number", [2, 2**31 - 1], [0, -1]),
    ("todos", "title", TITLES_GOOD, TITLES_BAD),
    ("todos", "description", ["", "x" * 1000], ["x" * 1001]),
    ("todos", "status", ["pending", "in_progress", "completed", "archived"], ["", "done", "Pending", "PENDING"]),
    ("todos", "priority", ["low", "medium", "high", "urgent"], ["", "top", "High"]),
    ("todos", "due_date", [*TIMES_GOOD, None, PAST], TIMES_BAD),
    ("todos", "metadata", METADATA_GOOD, METADATA_BAD),
    ("todos", "version", [1, 7], [0]),
    ("conversations", "title", [*TITLES_GOOD, None], TITLES_BAD),
    ("conversations", "metadata", METADATA_GOOD, METADATA_BAD),
    ("conversations", "last_position", [0, 5], [-1]),
    ("messages", "content", ["x", " ", "x" * 10000, "🙂" * 10000], ["x" * 10001]),
    ("messages", "item", [None, "null", "{}", '"\\u0000"', '"' + "x" * 1048574 + '"'], ['"' + "x" * 1048575 + '"']),
    ("conversations", "external_id", [None, "x", "🙂" * 255], ["", "x" * 256]),
    ("messages", "message_type", ["text", "command", "response", "error"], ["", "tool"]),
    ("messages", "position", [1, 2**31 - 1], [0, -1]),
    ("messages", "metadata", METADATA_GOOD, METADATA_BAD),
    ("todo_conversation_links", "relationship_type", ["discussion", "update", "creation"], ["", "deletion"]),
    ("identities", "issuer", ["x", "x" * 255], ["", "x" * 256]),
    ("identities", "subject", ["x", "x" * 255, "not a uuid, やあ"], ["", "x" * 256]),
    ("idempotency_keys", "key", ["x", " ", "~" * 255], ["", "x" * 256, "é", "a\tb", "a\n"]),
    ("idempotency_keys", "operation", ["POST /v1/todos", "x" * 500], ["", "x" * 501]),
    ("idempotency_keys", "request_hash", [b"x" * 32], [b"", b"x" * 31, b"x" * 33]),
    ("idempotency_keys", "status", [None, 200, 599], [0, 199, 600]),
    ("api_keys", "slot", [1, 20], [0, 21]),
    ("api_keys", "name", ["x", "x" * 100], ["", "x" * 101]),
    ("api_keys", "scope", ["read", "write"], ["", "admin"]),
    ("api_keys", "digest", [b"x" * 32], [b"", b"x" * 31, b"x" * 33]),
    ("idempotency_keys", "headers", [{}, {"location": "/v1/todos/1"}], [Json([]), Json("a"), Json(None)]),
]


DOMAINS = {
    **{name: name for name in ("title", "description", "content", "metadata", "status", "priority", "sender_type")},
    **{name: name for name in ("message_type", "relationship_type", "item")},
    **dict.fromkeys(("token_version", "number", "position", "version"), "ordinal"),
    **dict.fromkeys(("due_date", "completed_at", "created_at", "updated_at"), "moment"),
}
"""Column → the domain that it is of, wherever it stands in TABLES_OF_DOMAINS."""
TABLES_OF_DOMAINS = {"users", "identities", "todos", "conversations", "messages", "todo_conversation_links"}


def check_of(table: str, column: str) -> str:
    """The name of the constraint that holds the rule of a column."""
    if (table, column) == ("conversations", "last_position"):
        return "conversations_counters_check"
    is_of_domain = table in TABLES_OF_DOMAINS and column in DOMAINS
    return f"{DOMAINS[column]}_check" if is_of_domain else f"{table}_{column}_check"


class Base:
    """For each table a way to insert a row that is fine but for what is given."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.user = new_user(connection)
        self.todo = new_todo(connection, self.user)
        self.conversation = new_conversation(connection, self.user)

    def insert(self, table: str, **values: Any) -> dict[str, Any]:
        basics: dict[str, dict[str, Any]] = {
            "users": {"email": f"person{next(_numbers)}@example.org"},
            "todos": {"user_id": self.user, "title": "Buy milk"},
            "conversations": {"user_id": self.user},
            "messages": {
                "user_id": self.user,
                "conversation_id": self.conversation["id"],
                "sender_type": "user",
                "content": "Hello",
            },
            "todo_conversation_links": {
                "user_id": self.user,
                "todo_id": self.todo["id"],
                "conversation_id": self.conversation["id"],
            },
            "identities": {"user_id": self.user, "issuer": "https://issuer.example", "subject": "somebody"},
            "api_keys": {"user_id": self.user, "slot": 1, "name": "key", "scope": "read", "digest": b"y" * 32},
            "idempotency_keys": {
                "user_id": self.user,
                "key": "key",
                "operation": "POST /v1/todos",
                "request_hash": b"x" * 32,
            },
        }
        return insert(self.connection, table, **{**basics[table], **values})


@pytest.fixture(scope="module")
def base(dba: Connection) -> Base:
    return Base(dba)


@pytest.mark.parametrize(("table", "column", "good", "bad"), VALUES, ids=[f"{case[0]}-{case[1]}" for case in VALUES])
def test_a_column_takes_what_the_model_allows_and_nothing_else(
    base: Base, table: str, column: str, good: list[Any], bad: list[Any]
) -> None:
    for value in good:
        with base.connection.transaction(force_rollback=True):
            stored = base.insert(table, **{column: value})
            assert stored[column] == value or isinstance(stored[column], datetime)
    for value in bad:
        with refused_check(check_of(table, column)), base.connection.transaction(force_rollback=True):
            base.insert(table, **{column: value})


def test_only_beside_an_item_a_message_s_content_may_be_empty(base: Base) -> None:
    with base.connection.transaction(force_rollback=True):
        assert base.insert("messages", content="", item="{}")["content"] == ""
    with refused_check("messages_content_check"), base.connection.transaction(force_rollback=True):
        base.insert("messages", content="")


def test_an_item_is_json(base: Base) -> None:
    for text in ("", "{", "{} x", "NaN"):
        with pytest.raises(errors.InvalidTextRepresentation), base.connection.transaction(force_rollback=True):
            base.insert("messages", item=text)


def test_every_check_has_its_case(dba: Connection) -> None:
    """The others, listed here, have tests of their own."""
    rows = dba.execute(
        "SELECT conname FROM pg_constraint JOIN pg_class c ON c.oid = conrelid JOIN pg_namespace n"
        f" ON n.oid = relnamespace WHERE {OURS} AND contype = 'c'"
        " UNION ALL SELECT conname FROM pg_constraint WHERE contypid <> 0 AND contype = 'c'"
        " AND connamespace = 'public'::regnamespace"
    )
    names = [row[0] for row in rows]
    own_test = {name for name in names if name.endswith("_times_check")} | {
        "sender_type_check",
        "todos_completed_at_check",
        "messages_content_check",
        "sign_in_attempts_key_check",
        "ended_identities_digest_check",
        "action_check",
    }
    assert sorted(names) == sorted(own_test | {check_of(table, column) for table, column, _, _ in VALUES})


TIMED = ["users", "identities", "todos", "conversations", "messages", "todo_conversation_links"]


@pytest.mark.parametrize("table", TIMED)
def test_times_lie_between_1970_and_9999_and_a_row_is_not_changed_before_it_is_made(base: Base, table: str) -> None:
    last = datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)
    for created, updated in ((datetime(1970, 1, 1, tzinfo=UTC), NOW), (last, last)):
        with base.connection.transaction(force_rollback=True):
            row = base.insert(table, created_at=created, updated_at=updated)
            assert (row["created_at"], row["updated_at"]) == (created, updated)
    for given, changed in ((TIMES_BAD[0], NOW), (NOW, "10000-01-01T00:00:00Z"), ("infinity", "infinity")):
        with refused_check("moment_check"), base.connection.transaction(force_rollback=True):
            base.insert(table, created_at=given, updated_at=changed)
    order = "conversations_counters_check" if table == "conversations" else f"{table}_times_check"
    with refused_check(order), base.connection.transaction(force_rollback=True):
        base.insert(table, created_at=NOW, updated_at=PAST)


@pytest.mark.parametrize("table", TIMED)
def test_versions_start_at_1(base: Base, table: str) -> None:
    with refused_check("ordinal_check"), base.connection.transaction(force_rollback=True):
        base.insert(table, version=0)


@pytest.mark.parametrize("table", ["todos", "conversations", "messages"])
@pytest.mark.parametrize("value", ["[]", '"text"', "1", "null", '{"n": 1e400}', '{"n": [{"m": -1e309}]}'])
def test_metadata_is_an_object_of_numbers_that_can_be_read_back(base: Base, table: str, value: str) -> None:
    with refused_check("metadata_check"), base.connection.transaction(force_rollback=True):
        base.insert(table, metadata=value)


def test_nul_and_lone_surrogates_reach_no_column(base: Base) -> None:
    with refused("22P05"):
        base.insert("todos", metadata='{"k": "\\u0000"}')
    with refused("22P02"):
        base.insert("todos", metadata='{"k": "\\ud800"}')
    with pytest.raises(psycopg.DataError):
        base.insert("todos", title="a\0b")


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("todos", "user_id"),
        ("todos", "title"),
        ("todos", "metadata"),
        ("conversations", "user_id"),
        ("messages", "content"),
        ("messages", "sender_type"),
        ("todo_conversation_links", "todo_id"),
        ("todo_conversation_links", "conversation_id"),
        ("identities", "issuer"),
        ("identities", "subject"),
    ],
)
def test_required_columns_are_required(base: Base, table: str, column: str) -> None:
    with pytest.raises(errors.NotNullViolation), base.connection.transaction(force_rollback=True):
        base.insert(table, **{column: None})


# Users


@pytest.mark.parametrize(
    ("column", "first", "second"),
    [("email", "Case{}@Example.org", "cASE{}@eXAMPLE.ORG"), ("username", "Case-{}", "cASE-{}")],
)
def test_email_and_username_are_unique_regardless_of_case_and_kept_as_typed(
    dba: Connection, column: str, first: str, second: str
) -> None:
    number = next(_numbers)
    user = new_user(dba, **{column: first.format(number)})
    assert reread(dba, "users", {"id": user})[column] == first.format(number)
    with refused("23505", f"users_{column}_key"):
        new_user(dba, **{column: second.format(number)})


def test_many_users_can_have_no_username(dba: Connection) -> None:
    assert new_user(dba) != new_user(dba)


def test_an_outside_account_belongs_to_one_user(dba: Connection) -> None:
    one, other = new_user(dba), new_user(dba)
    subject = str(uuid4())
    insert(dba, "identities", user_id=one, issuer="https://a.example", subject=subject)
    insert(dba, "identities", user_id=other, issuer="https://b.example", subject=subject)
    with refused("23505", "identities_issuer_subject_key"):
        insert(dba, "identities", user_id=other, issuer="https://a.example", subject=subject)


def test_a_token_is_taken_while_its_version_is_the_active_users_current_one(
    dba: Connection, service: Connection
) -> None:
    user, other = new_user(dba), new_user(dba)
    check = TEXTS["authenticate"].prepared.text

    def authenticate(claimed: UUID | None, version: int | None) -> None:
        with acting(service, user), psycopg.RawCursor(service) as cursor:
            cursor.execute(check, [claimed, version, None])
            assert cursor.fetchall() == []

    authenticate(user, 1)
    for claimed, version in ((user, 2), (user, 0), (other, 1), (uuid4(), 1), (None, 1), (user, None)):
        with refused("TC401"):
            authenticate(claimed, version)
    dba.execute("UPDATE users SET is_active = false WHERE id = %s", [user])
    for version in (1, 2):
        with refused("TC402"):
            authenticate(user, version)


def test_deactivating_makes_older_tokens_worthless_even_after_a_reactivation(dba: Connection) -> None:
    row = {"id": new_user(dba)}
    assert update(dba, "users", row, is_active=False)["token_version"] == 2
    assert update(dba, "users", row, is_active=True)["token_version"] == 2
    assert update(dba, "users", row, is_active=False, token_version=9)["token_version"] == 9
    with refused_check("users_token_version_check"):
        update(dba, "users", row, token_version=8)


def test_the_service_finds_credentials_by_address_and_active_people_by_name(
    dba: Connection, service: Connection
) -> None:
    number = next(_numbers)
    email, name = f"Who{number}@example.org", f"Who-{number}"
    user = new_user(dba, email=email, username=name, full_name="Who", password_hash="hash")
    find = "SELECT * FROM find_credentials(%s)"
    assert service.execute(find, [email.upper()]).fetchall() == [(user, "hash", True, 1)]
    assert service.execute(find, [f"x{email}"]).fetchall() == []
    assert service.execute(find, [None]).fetchall() == []
    find = "SELECT * FROM find_user_by_username(%s)"
    assert service.execute(find, [name.lower()]).fetchall() == [(user, name, "Who")]
    assert service.execute(find, [name[:-1] + "%"]).fetchall() == []
    dba.execute("UPDATE users SET is_active = false WHERE id = %s", [user])
    assert service.execute(find, [name]).fetchall() == []


# Sign-in attempts


def attempt(service: Connection, account: str, *networks: str) -> float:
    keys = [account.encode(), [network.encode() for network in networks]]
    return service.execute("SELECT take_sign_in_attempt(%s, %s)", keys).fetchone()[0]


def forgive(service: Connection, account: str, *networks: str) -> None:
    keys = [account.encode(), [network.encode() for network in networks]]
    service.execute("SELECT forgive_sign_in_attempt(%s, %s)", keys)


def pass_time(dba: Connection, seconds: float, account: str, *networks: str) -> None:
    """For what these attempts count on."""
    dba.execute(
        "UPDATE sign_in_attempts AS a SET allowed_at = allowed_at - %s * interval '1 s'"
        " FROM sign_in_limits(%s, %s) AS l WHERE a.key = l.key",
        [seconds, account.encode(), [network.encode() for network in networks]],
    )


def names(kind: str) -> str:
    return f"{kind} {next(_numbers)}"


def attack(service: Connection, account: str) -> None:
    """Guess from so many networks that the account is under attack."""
    for _ in range(21):
        assert attempt(service, account, names("network")) == 0


def test_a_network_has_ten_attempts_at_an_account_and_then_one_in_30_seconds(
    dba: Connection, service: Connection
) -> None:
    account, network = names("account"), names("network")
    assert [attempt(service, account, network) for _ in range(10)] == [0] * 10
    waits = [attempt(service, account, network) for _ in range(3)]
    assert all(25 < wait <= 30 for wait in waits), "a refused attempt must not make the wait longer"
    pass_time(dba, 30, account, network)
    assert attempt(service, account, network) == 0
    assert attempt(service, account, network) > 25
    assert attempt(service, names("account"), network) == 0
    assert attempt(service, account, names("network")) == 0


def test_guesses_from_many_networks_leave_each_other_three_attempts_and_then_one_in_15_minutes(
    dba: Connection, service: Connection
) -> None:
    account, network = names("account"), names("network")
    attack(service, account)
    assert [attempt(service, account, network) for _ in range(3)] == [0] * 3
    assert all(890 < attempt(service, account, network) <= 900 for _ in range(2))
    pass_time(dba, 900, account, network)
    attack(service, account)
    assert attempt(service, account, network) == 0
    assert attempt(service, account, network) > 890


def test_an_attack_is_over_when_the_account_was_left_in_peace(dba: Connection, service: Connection) -> None:
    account, network = names("account"), names("network")
    for _ in range(200):  # however long it went on, an hour is kept in mind
        attempt(service, account, names("network"))
    assert [attempt(service, account, network) for _ in range(3)] == [0] * 3
    pass_time(dba, 45 * 60, account, network)
    assert [attempt(service, account, network) for _ in range(3)] == [0] * 3
    assert attempt(service, account, network) > 0, "still under attack"
    pass_time(dba, 10 * 60, account, network)
    assert attempt(service, account, network) == 0


def test_a_network_has_fifty_attempts_and_then_one_in_3_seconds(dba: Connection, service: Connection) -> None:
    network = names("network")
    # Forty-five steps used up at once, to spare forty-five calls.
    insert_row = "INSERT INTO sign_in_attempts VALUES (%s, clock_timestamp() + 45 * interval '3 s')"
    dba.execute(insert_row, [network.encode()])
    assert [attempt(service, names("account"), network) for _ in range(5)] == [0] * 5
    account = names("account")
    assert 0 < attempt(service, account, network) <= 3
    count_rows = "SELECT count(*) FROM sign_in_attempts WHERE key = %s"
    assert dba.execute(count_rows, [account.encode()]).fetchone() == (0,), "a refused network counts on no account"


def test_every_network_of_an_address_counts(service: Connection) -> None:
    account, wide = names("account"), names("wide network")
    assert [attempt(service, account, names("narrow network"), wide) for _ in range(10)] == [0] * 10
    assert attempt(service, account, names("narrow network"), wide) > 0


def test_a_sign_in_that_succeeds_gives_its_attempt_back(dba: Connection, service: Connection) -> None:
    account, network = names("account"), names("network")
    read = "SELECT allowed_at FROM sign_in_attempts WHERE key = ANY(%s) ORDER BY key"
    keys = [[account.encode(), network.encode()]]
    for _ in range(9):
        attempt(service, account, network)
    before = dba.execute(read, keys).fetchall()
    attempt(service, account, network)
    forgive(service, account, network)
    assert dba.execute(read, keys).fetchall() == before
    assert [attempt(service, account, network) for _ in range(10)] == [0] * 10, "its guesses are forgotten"


def test_attempts_made_at_once_are_all_counted(database: TestDatabase) -> None:
    account, network = names("account"), names("network")
    results: list[float] = []

    def guess() -> None:
        with psycopg.connect(database.service_url, autocommit=True) as connection:
            results.extend(attempt(connection, account, network) for _ in range(5))

    run_together([guess] * 5)
    assert sorted(result == 0 for result in results) == [False] * 15 + [True] * 10


def test_attempts_and_what_is_forgiven_never_wait_for_each_other_in_a_circle(database: TestDatabase) -> None:
    accounts, networks = [names("account") for _ in range(2)], [names("network") for _ in range(3)]

    def work(number: int) -> None:
        with psycopg.connect(database.service_url, autocommit=True) as connection:
            for turn in range(15):
                account = accounts[(number + turn) % 2]
                attempt(connection, account, *networks[number % 2 :])
                forgive(connection, account, *networks[:: 1 if number % 2 else -1])

    run_together([functools.partial(work, number) for number in range(4)])


def test_spent_attempts_are_removed(dba: Connection, service: Connection) -> None:
    dba.execute(
        "INSERT INTO sign_in_attempts SELECT ('spent' || n)::bytea, now() - interval '1 h' FROM generate_series(1, 6) n"
    )
    for _ in range(2):
        attempt(service, names("account"), names("network"))
    left = dba.execute("SELECT count(*) FROM sign_in_attempts WHERE allowed_at < now() - interval '1 min'")
    assert left.fetchone() == (0,)
    with refused_check("sign_in_attempts_key_check"):
        attempt(service, "", "network")


# Todos


ALLOWED = {
    "pending": {"in_progress", "completed", "archived"},
    "in_progress": {"pending", "completed", "archived"},
    "completed": {"pending", "in_progress", "archived"},
    "archived": {"pending"},
}


@pytest.mark.parametrize("before", ALLOWED)
@pytest.mark.parametrize("after", ALLOWED)
def test_a_status_goes_only_where_the_model_lets_it(base: Base, before: str, after: str) -> None:
    with base.connection.transaction(force_rollback=True):
        todo = base.insert("todos", status=before)
        if after == before:
            assert update(base.connection, "todos", todo, status=after) == todo
        elif after in ALLOWED[before]:
            assert update(base.connection, "todos", todo, status=after)["status"] == after
        else:
            with refused("TC409"):
                update(base.connection, "todos", todo, status=after)


def test_an_unknown_status_is_no_transition_but_a_bad_value(base: Base) -> None:
    for status in ALLOWED:
        with base.connection.transaction(force_rollback=True):
            todo = base.insert("todos", status=status)
            with refused_check("status_check"):
                update(base.connection, "todos", todo, status="done")


def test_completed_at_is_set_cleared_and_kept_with_the_status(base: Base) -> None:
    dba = base.connection
    todo = base.insert("todos")
    assert (todo["completed"], todo["completed_at"]) == (False, None)
    done = update(dba, "todos", todo, status="completed")
    assert done["completed"]
    assert done["completed_at"] == done["updated_at"] > todo["updated_at"]
    assert update(dba, "todos", todo, title="Milk")["completed_at"] == done["completed_at"]
    assert update(dba, "todos", todo, status="in_progress")["completed_at"] is None
    again = update(dba, "todos", todo, status="completed")
    assert again["completed_at"] > done["completed_at"]
    archived = update(dba, "todos", todo, status="archived")
    assert (archived["completed"], archived["completed_at"]) == (False, again["completed_at"])
    assert update(dba, "todos", todo, status="pending")["completed_at"] is None
    assert base.insert("todos", status="completed")["completed_at"] is not None


def test_completed_at_can_be_given_with_the_status_but_not_in_the_future(base: Base) -> None:
    dba = base.connection
    todo = base.insert("todos")
    assert update(dba, "todos", todo, status="completed", completed_at=PAST)["completed_at"] == PAST
    assert update(dba, "todos", todo, completed_at=PAST - timedelta(days=1))["completed_at"] == PAST - timedelta(days=1)
    assert base.insert("todos", status="completed", completed_at=PAST)["completed_at"] == PAST
    assert base.insert("todos", status="archived", completed_at=PAST)["completed_at"] == PAST
    for values in (
        {"completed_at": FUTURE},
        {"completed_at": None},
        {"status": "pending", "completed_at": PAST - timedelta(days=2)},
        {"status": "archived", "completed_at": PAST - timedelta(days=2)},
    ):
        with refused_check("todos_completed_at_check"):
            update(dba, "todos", todo, **values)
    with refused_check("moment_check"):
        update(dba, "todos", todo, completed_at="1969-12-31T23:59:59Z")
    for values in (
        {"status": "completed", "completed_at": FUTURE},
        {"status": "archived", "completed_at": FUTURE},
        {"completed_at": PAST},
        {"status": "in_progress", "completed_at": PAST},
    ):
        with refused_check("todos_completed_at_check"):
            base.insert("todos", **values)


def test_a_past_due_date_is_written_on_open_todos_only(base: Base) -> None:
    dba = base.connection
    overdue = base.insert("todos", due_date=PAST)
    done = update(dba, "todos", overdue, status="completed")
    assert done["due_date"] == PAST, "completing what is overdue is fine"
    same = update(dba, "todos", done, due_date=PAST, title="Milk")
    assert same["title"] == "Milk", "the same date is not written anew"
    other = PAST - timedelta(days=1)
    with refused_check("todos_due_date_check"):
        update(dba, "todos", done, due_date=other)
    assert update(dba, "todos", done, due_date=FUTURE)["due_date"] == FUTURE
    assert update(dba, "todos", done, due_date=None)["due_date"] is None
    assert update(dba, "todos", done, due_date=other, status="pending")["due_date"] == other
    with refused_check("todos_due_date_check"):
        update(dba, "todos", done, due_date=PAST, status="completed")
    with refused_check("todos_due_date_check"):
        base.insert("todos", status="completed", due_date=PAST)
    assert base.insert("todos", status="completed", due_date=FUTURE)["completed"]
    assert base.insert("todos", status="archived", due_date=PAST)["due_date"] == PAST


def test_numbers_count_up_for_each_owner_and_are_never_used_again(dba: Connection) -> None:
    one, other = new_user(dba), new_user(dba)
    assert [new_todo(dba, user)["number"] for user in (one, one, other, one)] == [1, 2, 1, 3]
    dba.execute("DELETE FROM todos WHERE user_id = %s", [one])
    assert new_todo(dba, one)["number"] == 4
    with dba.transaction(force_rollback=True):
        assert new_todo(dba, one)["number"] == 5
    assert new_todo(dba, one)["number"] == 5, "what was rolled back leaves no hole"
    assert new_todo(dba, one, number=50)["number"] == 50
    assert new_todo(dba, one, number=20)["number"] == 20
    assert new_todo(dba, one)["number"] == 51
    with refused("23505", "todos_user_id_number_key"):
        new_todo(dba, one, number=51)


def test_numbers_are_dense_when_many_create_at_once(database: TestDatabase, dba: Connection) -> None:
    user = new_user(dba)

    def create() -> None:
        with psycopg.connect(database.service_url, autocommit=True) as connection:
            for _ in range(10):
                with acting(connection, user):
                    new_todo(connection, user)

    run_together([create] * 8)
    found = dba.execute("SELECT number FROM todos WHERE user_id = %s ORDER BY number", [user]).fetchall()
    assert [row[0] for row in found] == list(range(1, 81))


# What every row does when it is changed


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("users", {"username": None, "full_name": None}),
    ("identities", {"issuer": "https://issuer.example"}),
    ("todos", {"title": "Buy milk", "description": None, "status": "pending", "metadata": {}, "assigned_to": None}),
    ("conversations", {"title": None, "metadata": {}}),
    ("messages", {"content": "Hello", "message_type": "text", "metadata": {}}),
    ("todo_conversation_links", {"relationship_type": "discussion"}),
]
REAL_CHANGES: dict[str, dict[str, Any]] = {
    "users": {"full_name": "Somebody"},
    "identities": {"subject": "somebody else"},
    "todos": {"metadata": {"a": 1}},
    "conversations": {"title": "About milk"},
    "messages": {"content": "Good bye"},
    "todo_conversation_links": {"relationship_type": "creation"},
}


@pytest.mark.parametrize(("table", "same"), CHANGES, ids=[case[0] for case in CHANGES])
def test_version_and_updated_at_move_on_a_real_change_only(base: Base, table: str, same: dict[str, Any]) -> None:
    dba = base.connection
    with dba.transaction(force_rollback=True):
        row = base.insert(table)
        assert update(dba, table, row, **same) == row
        for column, value in (("version", 9), ("updated_at", FUTURE)):
            with refused_check(f"{table}_immutable_check"), dba.transaction():
                update(dba, table, row, **{column: value})
        changed = update(dba, table, row, **REAL_CHANGES[table])
        assert changed["version"] == 2
        assert row["updated_at"] < changed["updated_at"] < FUTURE
        assert update(dba, table, row, **REAL_CHANGES[table]) == changed


def test_updated_at_never_goes_back_when_an_older_transaction_writes_later(database: TestDatabase, base: Base) -> None:
    todo = base.insert("todos")
    with psycopg.connect(database.superuser_url) as older:
        older.execute("SELECT now()")
        first = update(base.connection, "todos", todo, title="First")
        second = update(older, "todos", todo, title="Second")
    assert second["updated_at"] > first["updated_at"]


IMMUTABLE = {
    "users": "id created_at",
    "identities": "user_id id created_at",
    "todos": "user_id id number created_at",
    "conversations": "user_id id created_at",
    "messages": "user_id conversation_id position id sender_type created_at",
    "todo_conversation_links": "user_id id todo_id conversation_id created_at",
}


@pytest.mark.parametrize(
    ("table", "column"), [(table, column) for table, columns in IMMUTABLE.items() for column in columns.split()]
)
def test_what_a_row_is_never_changes(base: Base, table: str, column: str) -> None:
    dba = base.connection
    values = {"created_at": PAST, "number": 99, "position": 99, "sender_type": "ai"}
    with dba.transaction(force_rollback=True):
        row = base.insert(table)
        assert update(dba, table, row, **{column: row[column]}) == row
        with refused_check(f"{table}_immutable_check"):
            update(dba, table, row, **{column: values.get(column, uuid4())})


# Assignees


def test_an_assignee_must_be_an_active_user(base: Base) -> None:
    dba = base.connection
    assignee, inactive = new_user(dba), new_user(dba)
    dba.execute("UPDATE users SET is_active = false WHERE id = %s", [inactive])
    todo = base.insert("todos", assigned_to=assignee)
    assert todo["assigned_to"] == assignee
    for wrong in (inactive, uuid4()):
        for status in ALLOWED:
            with refused_check("todos_assigned_to_check"):
                base.insert("todos", assigned_to=wrong, status=status)
        with refused_check("todos_assigned_to_check"):
            update(dba, "todos", todo, assigned_to=wrong)
    assert update(dba, "todos", todo, assigned_to=base.user)["assigned_to"] == base.user, "to oneself"
    assert update(dba, "todos", todo, assigned_to=None)["assigned_to"] is None


def test_a_closed_todo_of_an_inactive_assignee_stays_closed(dba: Connection, base: Base) -> None:
    for status in ("completed", "archived"):
        assignee = new_user(dba)
        todo = base.insert("todos", assigned_to=assignee, status=status)
        dba.execute("UPDATE users SET is_active = false WHERE id = %s", [assignee])
        assert update(dba, "todos", todo, title="Milk", assigned_to=assignee)["version"] == 2
        with refused_check("todos_assigned_to_check"):
            update(dba, "todos", todo, status="pending")
        assert update(dba, "todos", todo, status="pending", assigned_to=None)["status"] == "pending"


def test_an_assignee_reads_the_todo_and_changes_its_status_and_nothing_else(
    dba: Connection, service: Connection, base: Base
) -> None:
    assignee, third = new_user(dba), new_user(dba)
    todo = base.insert("todos", assigned_to=assignee)
    with acting(service, assignee):
        assert service.execute("SELECT id FROM todos").fetchall() == [(todo["id"],)]
        assert update(service, "todos", todo, status="completed")["completed_at"] is not None
    with acting(service, assignee):
        assert update(service, "todos", todo, status="in_progress", title="Buy milk")["completed_at"] is None
    for values in (
        {"title": "x"},
        {"description": "x"},
        {"priority": "low"},
        {"due_date": FUTURE},
        {"metadata": {"x": 1}},
        {"assigned_to": None},
        {"assigned_to": third},
        {"status": "completed", "completed_at": PAST},
        {"status": "completed", "title": "x"},
    ):
        with refused("TC403"), acting(service, assignee):
            update(service, "todos", todo, **values)
    with acting(service, assignee):
        assert service.execute("DELETE FROM todos").rowcount == 0
    with acting(service, base.user):
        assert update(service, "todos", todo, title="Milk", assigned_to=None)["version"] == 4
    with acting(service, assignee):
        assert service.execute("SELECT id FROM todos").fetchall() == []


@pytest.mark.parametrize("status", ["pending", "in_progress"])
def test_a_user_with_open_todos_of_their_own_assigned_is_deactivated_by_an_operator_only(
    dba: Connection, service: Connection, base: Base, status: str
) -> None:
    own = new_user(dba)
    todo = new_todo(dba, own, assigned_to=own, status=status)
    new_todo(dba, own, assigned_to=own, status="completed")
    others = base.insert("todos", assigned_to=own)
    with refused("TC410"), acting(service, own):
        service.execute(DEACTIVATE, [own])
    assert reread(dba, "todos", others) == others
    assert update(dba, "users", {"id": own}, full_name="Somebody")["is_active"]
    assert not update(dba, "users", {"id": own}, is_active=False)["is_active"]
    assert [reread(dba, "todos", row)["assigned_to"] for row in (todo, others)] == [None, None]


def test_own_todos_that_are_closed_keep_nobody_active(dba: Connection, service: Connection) -> None:
    own = new_user(dba)
    closed = [new_todo(dba, own, assigned_to=own, status=status) for status in ("completed", "archived")]
    with acting(service, own):
        assert service.execute(DEACTIVATE, [own]).rowcount == 1
    assert [reread(dba, "todos", todo) for todo in closed] == closed


@pytest.mark.parametrize("status", ["pending", "in_progress"])
def test_the_service_unassigns_on_deactivation_what_it_cannot_see(
    dba: Connection, service: Connection, base: Base, status: str
) -> None:
    assignee = new_user(dba)
    open_todo = base.insert("todos", assigned_to=assignee, status=status)
    closed = base.insert("todos", assigned_to=assignee, status="completed")
    with acting(service, assignee):
        service.execute(DEACTIVATE, [assignee])
    after = reread(dba, "todos", open_todo)
    assert (after["assigned_to"], after["version"]) == (None, 2)
    assert reread(dba, "todos", closed) == closed
    entry = dba.execute(
        "SELECT user_id, actor_id, before ->> 'assigned_to' FROM audit_log WHERE row_id = %s AND action = 'update'",
        [open_todo["id"]],
    ).fetchall()
    assert entry == [(base.user, assignee, str(assignee))]


def test_the_owner_of_the_tables_may_take_an_assignee_off_and_change_nothing_else(
    database: TestDatabase, dba: Connection, base: Base
) -> None:
    assignee = new_user(dba)
    todo = base.insert("todos", assigned_to=assignee)
    with psycopg.connect(database.owner_url, autocommit=True) as operator:
        operator.execute("SET ROLE todochat_owner")
        for change in ("title = 'mine'", f"assigned_to = '{base.user}'", "status = 'archived'"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                operator.execute(f"UPDATE todos SET {change} WHERE id = '{todo['id']}'".encode())
        operator.execute(DEACTIVATE, [assignee])
    assert reread(dba, "todos", todo)["assigned_to"] is None


# Races: one session holds its transaction open, the other is seen waiting for it, then the first one ends.


class Waiter:
    """A statement in a session of its own, which has to wait for another session."""

    def __init__(self, url: str, user_id: UUID, statement: str, *values: Any) -> None:
        self.connection: Connection = psycopg.connect(url)
        self.connection.execute(sql.SQL("SET LOCAL app.user_id = {}").format(str(user_id)))
        self.rows: list[Any] = []
        self.error: psycopg.Error | None = None
        self.thread = threading.Thread(target=self._run, args=(statement, values))
        self.thread.start()

    def _run(self, statement: str, values: tuple[Any, ...]) -> None:
        try:
            with self.connection:
                cursor = self.connection.execute(statement.encode(), values)
                self.rows = cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            self.error = error
        finally:
            self.connection.close()

    def wait_until_blocked(self, watcher: Connection) -> None:
        query = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
        deadline = time.monotonic() + DEADLINE_SECONDS
        while watcher.execute(query, [self.connection.info.backend_pid]).fetchone() != (True,):
            assert self.thread.is_alive(), f"did not have to wait: {self.error}"
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def outcome(self) -> str | None:
        """Its SQLSTATE, or None when it succeeded."""
        self.thread.join(DEADLINE_SECONDS)
        assert not self.thread.is_alive()
        return self.error.sqlstate if self.error else None


def run_together(functions: list[Callable[[], None]]) -> None:
    failures: list[BaseException] = []

    def guarded(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - raised again below, in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS * 3)
    assert not failures, failures[0]


ASSIGN = "UPDATE todos SET assigned_to = %s WHERE id = %s"
REOPEN = "UPDATE todos SET status = 'pending', assigned_to = %s WHERE id = %s"
DEACTIVATE = "UPDATE users SET is_active = false WHERE id = %s"


@pytest.mark.parametrize("opens", [ASSIGN, REOPEN], ids=["assigning", "reopening"])
@pytest.mark.parametrize("commits", [True, False], ids=["committed", "rolled back"])
@pytest.mark.parametrize("first", ["assigner", "deactivator"])
def test_a_todo_assigned_while_the_assignee_is_deactivated(
    database: TestDatabase, dba: Connection, base: Base, first: str, commits: bool, opens: str
) -> None:
    assignee = new_user(dba)
    base.insert("todos", assigned_to=assignee)  # which a deactivation changes: it waits for nobody in a circle
    todo = base.insert("todos") if opens == ASSIGN else base.insert("todos", status="completed", assigned_to=assignee)
    steps = {
        "assigner": (base.user, opens, (assignee, todo["id"])),
        "deactivator": (assignee, DEACTIVATE, (assignee,)),
    }
    user_id, statement, values = steps.pop(first)
    (later,) = steps.values()
    with psycopg.connect(database.service_url) as holder:
        holder.execute(sql.SQL("SET LOCAL app.user_id = {}").format(str(user_id)))
        assert holder.execute(statement.encode(), values).rowcount == 1
        waiter = Waiter(database.service_url, later[0], later[1], *later[2])
        if first == "deactivator":
            waiter.wait_until_blocked(dba)
            holder.commit() if commits else holder.rollback()
            assert waiter.outcome() == ("23514" if commits else None)
        else:  # nothing of somebody else's transaction keeps anybody from deactivating
            assert waiter.outcome() is None
            with refused_check("todos_assigned_to_check") if commits else nullcontext():
                holder.commit() if commits else holder.rollback()

    broken = dba.execute(
        "SELECT count(*) FROM todos t JOIN users u ON u.id = t.assigned_to"
        " WHERE t.status IN ('pending', 'in_progress') AND NOT u.is_active"
    )
    assert broken.fetchone() == (0,)


TAKE_ATTEMPT = "SELECT take_sign_in_attempt(%s, %s)"
ADD_TODO = "INSERT INTO todos (user_id, title) VALUES (%s, 'x') RETURNING number"
ADD_MESSAGE = (
    "INSERT INTO messages (user_id, conversation_id, sender_type, content) VALUES (%s, %s, 'ai', 'x')"
    " RETURNING position"
)


@pytest.mark.parametrize("commits", [True, False], ids=["committed", "rolled back"])
@pytest.mark.parametrize("statement", [ADD_TODO, ADD_MESSAGE], ids=["todos", "messages"])
def test_the_next_in_line_waits_for_the_one_before(
    database: TestDatabase, dba: Connection, statement: str, commits: bool
) -> None:
    user = new_user(dba)
    values = (user,) if statement == ADD_TODO else (user, new_conversation(dba, user)["id"])
    dba.execute(statement.encode(), values)
    with psycopg.connect(database.service_url) as holder:
        holder.execute(sql.SQL("SET LOCAL app.user_id = {}").format(str(user)))
        assert holder.execute(statement.encode(), values).fetchone() == (2,)
        waiter = Waiter(database.service_url, user, statement, *values)
        waiter.wait_until_blocked(dba)
        holder.commit() if commits else holder.rollback()
        assert waiter.outcome() is None
    assert waiter.rows == [(3 if commits else 2,)]


def test_an_attempt_made_while_the_last_one_is_taken_is_refused(database: TestDatabase, dba: Connection) -> None:
    values = names("account").encode(), [names("network").encode()]
    for _ in range(9):
        dba.execute(TAKE_ATTEMPT, values)
    with psycopg.connect(database.service_url) as holder:
        assert holder.execute(TAKE_ATTEMPT, values).fetchone() == (0,)
        waiter = Waiter(database.service_url, uuid4(), TAKE_ATTEMPT, *values)
        waiter.wait_until_blocked(dba)
        holder.commit()
        assert waiter.outcome() is None
    assert waiter.rows[0][0] > 25


def test_nobody_is_deactivated_where_a_snapshot_could_hide_an_assignment(
    database: TestDatabase, dba: Connection
) -> None:
    user = new_user(dba)
    with psycopg.connect(database.superuser_url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with refused("25000"):
            connection.execute(DEACTIVATE.encode(), [user])


# Conversations and messages


def test_messages_are_numbered_and_counted_on_their_conversation(dba: Connection, base: Base) -> None:
    conversation = base.insert("conversations")
    first = new_message(dba, conversation)
    after_first = reread(dba, "conversations", conversation)
    assert (after_first["last_position"], after_first["message_count"], after_first["version"]) == (1, 1, 1)
    assert after_first["updated_at"] == first["created_at"] > conversation["updated_at"]
    ids = [conversation["user_id"], conversation["id"]]
    rows = dba.execute(
        "INSERT INTO messages (user_id, conversation_id, sender_type, content)"
        " VALUES (%s, %s, 'user', 'a'), (%s, %s, 'ai', 'b'), (%s, %s, 'system', 'c')"
        " RETURNING position, content, role, sender_id, created_at",
        ids * 3,
    ).fetchall()
    assert [row[:4] for row in rows] == [
        (2, "a", "user", base.user),
        (3, "b", "assistant", None),
        (4, "c", "system", None),
    ]
    assert first["created_at"] <= rows[0][4] <= rows[1][4] <= rows[2][4]
    after = reread(dba, "conversations", conversation)
    assert (after["last_position"], after["message_count"], after["updated_at"]) == (4, 4, rows[2][4])
    assert after["version"] == 1, "a message is no change of the conversation's own"


def test_one_statement_can_write_to_several_conversations(dba: Connection, base: Base) -> None:
    one, other = base.insert("conversations"), base.insert("conversations")
    rows = dba.execute(
        "INSERT INTO messages (user_id, conversation_id, sender_type, content) VALUES"
        " (%(u)s, %(a)s, 'ai', '1'), (%(u)s, %(b)s, 'ai', '1'), (%(u)s, %(a)s, 'ai', '2') RETURNING position",
        {"u": base.user, "a": one["id"], "b": other["id"]},
    ).fetchall()
    assert [row[0] for row in rows] == [1, 1, 2]
    assert [reread(dba, "conversations", row)["message_count"] for row in (one, other)] == [2, 1]


def test_a_position_is_never_used_twice_not_even_after_a_rewind(dba: Connection, base: Base) -> None:
    conversation = base.insert("conversations")
    for _ in range(5):
        new_message(dba, conversation)
    before = reread(dba, "conversations", conversation)
    rewind = "DELETE FROM messages WHERE conversation_id = %s AND position >= 3"
    assert dba.execute(rewind, [conversation["id"]]).rowcount == 3
    after = reread(dba, "conversations", conversation)
    assert (after["last_position"], after["message_count"], after["version"]) == (5, 2, before["version"])
    assert after["updated_at"] > before["updated_at"]
    assert new_message(dba, conversation)["position"] == 6
    assert new_message(dba, conversation, position=4)["position"] == 4, "a place may be filled by hand"
    assert reread(dba, "conversations", conversation)["last_position"] == 7, "which counts as a position more"
    assert new_message(dba, conversation, position=9)["position"] == 9
    assert new_message(dba, conversation)["position"] == 10
    assert reread(dba, "conversations", conversation)["message_count"] == 6
    with refused("23505", "messages_pkey"):
        new_message(dba, conversation, position=10)


def test_a_message_that_is_there_already_counts_once(dba: Connection, base: Base) -> None:
    conversation = base.insert("conversations")
    message = new_message(dba, conversation)
    values = [message[name] for name in ("user_id", "conversation_id", "id", "position")]
    again = (
        "INSERT INTO messages (user_id, conversation_id, id, position, sender_type, content)"
        " VALUES (%s, %s, %s, %s, 'ai', 'x') ON CONFLICT DO NOTHING"
    )
    before = reread(dba, "conversations", conversation)
    assert dba.execute(again, values).rowcount == 0
    assert reread(dba, "conversations", conversation) == before


def test_times_given_by_hand_are_kept_and_later_ones_do_not_go_back(dba: Connection, base: Base) -> None:
    conversation = base.insert("conversations", created_at=PAST, updated_at=PAST)
    given = new_message(dba, conversation, created_at=FUTURE, sender_type="ai")
    assert given["created_at"] == given["updated_at"] == FUTURE
    assert new_message(dba, conversation)["created_at"] >= FUTURE
    old = new_message(dba, conversation, created_at=PAST)
    assert old["created_at"] == PAST
    assert reread(dba, "conversations", conversation)["updated_at"] >= FUTURE


@pytest.mark.parametrize(
    ("sender_type", "role"),
    [("user", "user"), ("ai", "assistant"), ("system", "system"), ("assistant", None), ("", None)],
)
def test_only_the_owner_s_own_messages_have_a_sender(base: Base, sender_type: str, role: str | None) -> None:
    if role is None:
        with refused_check("sender_type_check"):
            base.insert("messages", sender_type=sender_type)
        return
    message = base.insert("messages", sender_type=sender_type)
    assert (message["role"], message["sender_id"]) == (role, base.user if sender_type == "user" else None)
    for column in ("role", "sender_id"):
        with refused("428C9"):  # generated: nobody sets it
            base.insert("messages", sender_type=sender_type, **{column: message[column]})


def test_the_counters_of_a_conversation_are_not_set_by_hand(dba: Connection, service: Connection, base: Base) -> None:
    conversation = base.insert("conversations")
    new_message(dba, conversation)
    for values in ({"last_position": 7}, {"message_count": 0}, {"last_position": 9, "message_count": 9}):
        with refused_check("conversations_immutable_check"):
            update(dba, "conversations", conversation, **values)
        with refused_check("conversations_immutable_check"), acting(service, base.user):
            update(service, "conversations", conversation, **values)
    with refused("42501"), acting(service, base.user):
        insert(service, "conversations", user_id=base.user, message_count=5, last_position=5)
    for count_ in (5, -1):
        with refused_check("conversations_counters_check"):
            base.insert("conversations", message_count=count_)


@pytest.mark.parametrize("restoring", ["", "on"])
def test_very_many_messages_are_counted_exactly_and_in_linear_time(dba: Connection, base: Base, restoring: str) -> None:
    """However they come: by one statement or some, in one conversation or two, with positions or without."""
    one, other = base.insert("conversations"), base.insert("conversations")
    values = {"user": base.user, "one": one["id"], "other": other["id"]}
    add = (
        (
            "INSERT INTO messages (user_id, conversation_id, sender_type, content, position) SELECT %(user)s,"
            " CASE WHEN n % 3 = 0 THEN %(other)s::uuid ELSE %(one)s END, 'ai', 'x', CASE WHEN n > {0} THEN n END"
            " FROM generate_series({1}, {2}) AS n"
        )
        .replace("%", "%%")
        .replace("%%(", "%(")
    )
    took: list[float] = []
    with dba.transaction():
        dba.execute(sql.SQL("SET LOCAL app.restoring = {}").format(restoring))
        for first, last, given in ((1, 700, 10**6), (701, 1400, 10**6), (1401, 4400, 10**6), (50_001, 53_000, 50_000)):
            began = time.monotonic()
            dba.execute(add.format(given, first, last).encode(), values)
            took.append(time.monotonic() - began)
    counted = [reread(dba, "conversations", row) for row in (one, other)]
    found = dba.execute(
        "SELECT conversation_id, count(*), max(position) FROM messages WHERE user_id = %(user)s"
        " AND conversation_id IN (%(one)s, %(other)s) GROUP BY conversation_id",
        values,
    ).fetchall()
    assert sorted(found) == sorted((row["id"], row["message_count"], row["last_position"]) for row in counted)
    assert sum(row["message_count"] for row in counted) == 7400


def test_messages_that_come_back_do_not_pass_all_that_were_deleted(dba: Connection, base: Base) -> None:
    """Their deleted selves stand in the index at the same positions, above those that are not back yet."""
    conversation = base.insert("conversations")
    values = {"user": base.user, "conversation": conversation["id"]}
    add = (
        "INSERT INTO messages (user_id, conversation_id, sender_type, content, position)"
        " SELECT %(user)s, %(conversation)s, 'ai', 'x', n FROM generate_series(1, 4000) AS n"
    )

    def pages() -> int:
        row = dba.execute(b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + add.encode(), values).fetchone()
        assert row
        return row[0][0]["Plan"]["Shared Hit Blocks"]

    first = pages()
    dba.execute("DELETE FROM messages WHERE conversation_id = %(conversation)s", values)
    assert pages() < 1.6 * first  # the keys' own look for what is there already passes them once


def test_fifty_turns_at_once_are_in_a_line(database: TestDatabase, dba: Connection) -> None:
    user = new_user(dba)
    conversation = new_conversation(dba, user)

    def write(writer: int) -> None:
        with psycopg.connect(database.service_url, autocommit=True) as connection:
            for turn in range(10):
                with acting(connection, user):
                    connection.execute(
                        "INSERT INTO messages (user_id, conversation_id, sender_type, content)"
                        " VALUES (%(u)s, %(c)s, 'user', %(t)s), (%(u)s, %(c)s, 'ai', %(t)s)",
                        {"u": user, "c": conversation["id"], "t": f"{writer}/{turn}"},
                    )

    run_together([lambda writer=writer: write(writer) for writer in range(5)])
    rows = dba.execute(
        "SELECT position, sender_type, content, created_at FROM messages WHERE conversation_id = %s ORDER BY position",
        [conversation["id"]],
    ).fetchall()
    assert [row[0] for row in rows] == list(range(1, 101))
    assert [row[1] for row in rows] == ["user", "ai"] * 50
    assert all(rows[i][2] == rows[i + 1][2] for i in range(0, 100, 2)), "a turn's messages stand together"
    assert all(one[3] <= other[3] for one, other in pairwise(rows))
    assert len({row[2] for row in rows}) == 50
    found = reread(dba, "conversations", conversation)
    assert (found["last_position"], found["message_count"], found["version"]) == (100, 100, 1)


def test_a_message_needs_its_conversation(base: Base) -> None:
    with refused("23503", "messages_conversation_id_fkey"):
        base.insert("messages", conversation_id=uuid4())


# Links, and what belongs to two people


def test_there_is_one_link_a_todo_conversation_and_type(base: Base) -> None:
    with base.connection.transaction(force_rollback=True):
        for kind in ("discussion", "update", "creation"):
            base.insert("todo_conversation_links", relationship_type=kind)
        with refused("23505", "todo_conversation_links_key"):
            base.insert("todo_conversation_links", relationship_type="update")


@pytest.mark.parametrize("login", ["service", "owner", "superuser"])
def test_no_row_ties_two_people_s_rows_together(database: TestDatabase, dba: Connection, login: str) -> None:
    me, other = new_user(dba), new_user(dba)
    mine, theirs = new_todo(dba, me), new_todo(dba, other)
    my_talk, their_talk = new_conversation(dba, me), new_conversation(dba, other)
    urls = {"service": database.service_url, "owner": database.owner_url, "superuser": database.superuser_url}
    with psycopg.connect(urls[login], autocommit=True) as connection:
        if login == "owner":
            connection.execute("SET ROLE todochat_owner")
        with refused("23503", "messages_conversation_id_fkey"), acting(connection, me):
            new_message(connection, {"user_id": me, "id": their_talk["id"]})
        with refused("23503", "todo_conversation_links_todo_id_fkey"), acting(connection, me):
            new_link(connection, {"user_id": me, "id": theirs["id"]}, my_talk)
        with refused("23503", "todo_conversation_links_conversation_id_fkey"), acting(connection, me):
            new_link(connection, mine, their_talk)
        if login != "superuser":
            with refused("42501"), acting(connection, me):
                new_link(connection, theirs, their_talk)
        if login == "owner":
            # The foreign key alone holds too, with the trigger that comes first out of the way.
            with refused("23503", "messages_conversation_id_fkey"), acting(connection, me):
                connection.execute("ALTER TABLE messages DISABLE TRIGGER messages_before_insert")
                foreign = {"user_id": me, "id": their_talk["id"]}
                new_message(connection, foreign, position=1, created_at=NOW, updated_at=NOW)


# Deleting


def entries(dba: Connection, user_id: UUID, request_id: str) -> list[tuple[str, str]]:
    rows = dba.execute(
        "SELECT action, table_name FROM audit_log WHERE user_id = %s AND request_id = %s ORDER BY seq",
        [user_id, request_id],
    )
    return rows.fetchall()


def test_deleting_a_conversation_takes_its_messages_and_links_and_touches_nothing_else(
    dba: Connection, service: Connection
) -> None:
    user = new_user(dba)
    todo = new_todo(dba, user)
    gone, stays = new_conversation(dba, user), new_conversation(dba, user)
    for conversation in (gone, stays):
        new_link(dba, todo, conversation)
        for _ in range(20):
            new_message(dba, conversation)
    before = reread(dba, "conversations", stays)
    with acting(service, user, "the request"):
        assert service.execute("DELETE FROM conversations WHERE id = %s", [gone["id"]]).rowcount == 1
    assert dba.execute("SELECT count(*) FROM messages WHERE user_id = %s", [user]).fetchone() == (20,)
    assert dba.execute("SELECT count(*) FROM todo_conversation_links WHERE user_id = %s", [user]).fetchone() == (1,)
    assert reread(dba, "conversations", stays) == before
    written = entries(dba, user, "the request")
    kinds = {kind: written.count(kind) for kind in set(written)}
    assert kinds == {
        ("delete", "messages"): 20,
        ("delete", "todo_conversation_links"): 1,
        ("delete", "conversations"): 1,
    }, "a conversation that vanishes is not counted down message by message"


def test_deleting_a_todo_takes_its_links(dba: Connection, service: Connection) -> None:
    user = new_user(dba)
    todo, conversation = new_todo(dba, user), new_conversation(dba, user)
    new_link(dba, todo, conversation)
    with acting(service, user):
        assert service.execute("DELETE FROM todos WHERE id = %s", [todo["id"]]).rowcount == 1
    assert dba.execute("SELECT count(*) FROM todo_conversation_links WHERE user_id = %s", [user]).fetchone() == (0,)
    assert reread(dba, "conversations", conversation)["version"] == 1


@pytest.mark.parametrize("table", ["todos", "conversations"])
@pytest.mark.parametrize("by", ["dba", "service"])
def test_deleting_a_user_who_has_records_is_refused(dba: Connection, service: Connection, table: str, by: str) -> None:
    user = new_user(dba)
    insert(dba, table, user_id=user, title="Mine")
    with refused("23503", f"{table}_user_id_fkey"):
        if by == "dba":
            dba.execute("DELETE FROM users WHERE id = %s", [user])
        else:
            with acting(service, user):
                service.execute("SELECT erase_user(%s, NULL, false)", [user])
    assert reread(dba, "users", {"id": user})["version"] == 1


def test_messages_and_links_keep_their_user_through_what_they_belong_to(dba: Connection) -> None:
    user = new_user(dba)
    todo, conversation = new_todo(dba, user), new_conversation(dba, user)
    new_message(dba, conversation)
    new_link(dba, todo, conversation)
    with pytest.raises(errors.ForeignKeyViolation):
        dba.execute("DELETE FROM users WHERE id = %s", [user])


def test_a_user_without_records_goes_with_what_is_theirs_alone_and_is_unassigned(
    dba: Connection, service: Connection, base: Base
) -> None:
    user = new_user(dba)
    assigned = base.insert("todos", assigned_to=user)
    archived = base.insert("todos", assigned_to=user, status="archived")
    dba.execute("DELETE FROM todos WHERE id = %s", [new_todo(dba, user)["id"]])
    insert(dba, "identities", user_id=user, issuer="https://issuer.example", subject=str(user))
    insert(dba, "idempotency_keys", user_id=user, key="k", operation="POST /", request_hash=b"x" * 32)
    insert(dba, "api_keys", user_id=user, slot=1, name="key", scope="read", digest=b"y" * 32)
    with acting(service, user, "goodbye"):
        service.execute("SELECT erase_user(%s, NULL, false)", [user])
        service.execute("SET LOCAL app.request_id = 'goodbye'")  # which an erasure takes off
    for table in ("identities", "idempotency_keys", "api_keys", "todo_counters"):
        statement = sql.SQL("SELECT count(*) FROM {} WHERE user_id = %s").format(sql.Identifier(table))
        assert dba.execute(statement, [user]).fetchone() == (0,)
    for todo in (assigned, archived):
        after = reread(dba, "todos", todo)
        assert (after["assigned_to"], after["version"], after["status"]) == (None, 2, todo["status"])
    assert entries(dba, base.user, "goodbye") == [("update", "todos"), ("update", "todos")]
    assert entries(dba, user, "goodbye") == [("delete", "users")]


# The audit trail


def trail(dba: Connection, row_id: UUID) -> list[tuple[Any, ...]]:
    columns = "action, table_name, user_id, actor_id, request_id, before"
    return dba.execute(f"SELECT {columns} FROM audit_log WHERE row_id = %s ORDER BY seq", [row_id]).fetchall()


@pytest.mark.parametrize("table", TIMED)
def test_every_insert_update_and_delete_leaves_an_entry(base: Base, table: str) -> None:
    dba = base.connection
    with dba.transaction(force_rollback=True):
        dba.execute("SET CONSTRAINTS ALL IMMEDIATE")
        row = base.insert(table)
        assert trail(dba, row["id"]) == [("insert", table, row.get("user_id", row["id"]), None, None, None)]
        changes = REAL_CHANGES[table]
        update(dba, table, row, **changes)
        update(dba, table, row, **changes)
        dba.execute(sql.SQL("DELETE FROM {} WHERE id = %s").format(sql.Identifier(table)), [row["id"]])
        _, updated, deleted = trail(dba, row["id"])
        assert (updated[0], deleted[0]) == ("update", "delete")
        names = set(COLUMNS[table].split()) - UNAUDITED
        kept = names - DERIVED if table == "conversations" else names
        assert {name: value for name, value in updated[5].items() if name in REAL_CHANGES[table]} == {
            name: row[name] for name in changes
        }
        assert updated[5].keys() == kept
        assert (updated[5]["version"], datetime.fromisoformat(updated[5]["created_at"])) == (1, row["created_at"])
        if table == "users":
            assert deleted[5] is None, "of who is gone nothing is kept"
        else:
            assert deleted[5].keys() == names
            assert (deleted[5]["id"], deleted[5]["version"]) == (str(row["id"]), 2)
            assert {name: deleted[5][name] for name in changes} == changes


UNAUDITED = {"password_hash", "tokens_valid_from", "completed", "role", "sender_id", "updated_hour"}
DERIVED = {"last_position", "message_count", "updated_at"}
"""What follows from a conversation's messages."""

# For each column that may change, what changes it.
AUDITED: dict[str, dict[str, Any]] = {
    "users": {"email": "new@example.org", "username": "new-name", "full_name": "New", "is_active": False}
    | {"token_version": 5, "password_hash": "x"},
    "identities": {"issuer": "https://new.example", "subject": "new"},
    "todos": {"title": "New", "description": "New", "status": "in_progress", "priority": "urgent", "due_date": FUTURE}
    | {"metadata": {"new": 1}},
    "conversations": {"title": "New", "metadata": {"new": 1}},
    "messages": {"content": "New", "message_type": "error", "metadata": {"new": 1}, "content_truncated": True},
    "todo_conversation_links": {"relationship_type": "update"},
}


@pytest.mark.parametrize(("table", "column"), [(t, c) for t, columns in AUDITED.items() for c in columns])
def test_a_change_of_any_column_has_an_entry_with_the_old_row(base: Base, table: str, column: str) -> None:
    dba = base.connection
    with dba.transaction(force_rollback=True):
        dba.execute("SET CONSTRAINTS ALL IMMEDIATE")
        row = base.insert(table)
        update(dba, table, row, **{column: AUDITED[table][column]})
        assert [entry[0] for entry in trail(dba, row["id"])] == ["insert", "update"]
        before = trail(dba, row["id"])[-1][5]
        assert before.get(column) == (None if column == "password_hash" else row[column])


def test_every_column_that_the_service_may_change_counts_as_a_change(dba: Connection) -> None:
    rows = dba.execute(
        "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND attnum > 0"
        " WHERE relnamespace = 'public'::regnamespace AND has_column_privilege('todochat_app', c.oid, attnum, 'UPDATE')"
        " AND EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid AND tgfoid = 'touch()'::regprocedure)"
    ).fetchall()
    by_hand = {("users", "email"), ("identities", "issuer"), ("identities", "subject")}
    elsewhere = {("todos", "assigned_to"), ("todos", "completed_at")} | {("conversations", name) for name in DERIVED}
    assert set(rows) | by_hand == {(t, c) for t, columns in AUDITED.items() for c in columns} | elsewhere


WRITTEN_BY = {
    "todos": ("undo_todo_delete", "import_todos", "export_todos"),
    "conversations": ("undo_conversation_delete", "import_conversations", "export_conversations"),
    "messages": ("undo_message_delete", "restore_messages", "import_messages", "export_messages"),
    "todo_conversation_links": (
        *("undo_link_delete", "restore_todo_links", "restore_conversation_links"),
        *("import_links", "export_links"),
    ),
}
"""What brings rows of a table back, in, and out."""
UNDONE_BY = {
    "todos": ("undo_todo_update", {"todos_validate"}),
    "conversations": ("undo_conversation_update", set[str]()),
    "messages": ("undo_message_update", set[str]()),
    "todo_conversation_links": ("undo_link_update", set[str]()),
}
"""What undoes an update, and the functions that compare what an assignee may not change."""
COUNTED = {"last_position", "message_count", "updated_at"}
"""What a conversation's messages change."""


def may(dba: Connection, table: str, privilege: str) -> set[str]:
    """The columns of which the service may do this."""
    rows = dba.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"
        " AND has_column_privilege('todochat_app', attrelid, attnum, %s)",
        (f"public.{table}", privilege),
    )
    return {name for (name,) in rows}


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z_]+", text))


@pytest.mark.parametrize(("table", "query"), [(table, name) for table, names in WRITTEN_BY.items() for name in names])
def test_every_column_that_the_service_may_insert_comes_back_and_in_and_out(
    dba: Connection, table: str, query: str
) -> None:
    text = TEXTS[query].prepared.text.decode()
    least = 1 if query.startswith("export_") else 2  # what is inserted is selected, too
    named = {name for name in words(text) if len(re.findall(rf"\b{name}\b", text)) >= least}
    assert may(dba, table, "INSERT") - {"user_id"} - named == set()


@pytest.mark.parametrize("table", UNDONE_BY)
def test_every_column_that_the_service_may_update_is_undone_and_not_an_assignees_to_change(
    dba: Connection, table: str
) -> None:
    query, functions = UNDONE_BY[table]
    columns = may(dba, table, "UPDATE") - (COUNTED if table == "conversations" else set())
    assert columns == _UNDO_UPDATE[table][1]
    assignments, _, _ = TEXTS[query].prepared.text.decode().partition("FROM")
    assert columns == set(re.findall(r"\b([a-z_]+) = r\.\1\b", assignments))
    for name in functions:
        row = dba.execute("SELECT prosrc FROM pg_proc WHERE proname = %s", (name,)).fetchone()
        assert row
        for side in ("NEW", "OLD"):
            compared = max(re.findall(rf"\({side}\.[a-z_]+(?:, {side}\.[a-z_]+)+\)", row[0]), key=len)
            assert set(re.findall(r"\.([a-z_]+)", compared)) == columns - {"status"}


@pytest.mark.parametrize(
    ("domain", "length"), [("title", TITLE_LENGTH), ("content", CONTENT_LENGTH), ("description", DESCRIPTION_LENGTH)]
)
def test_a_text_may_be_as_long_in_a_table_as_in_a_body(dba: Connection, domain: str, length: int) -> None:
    cast = sql.SQL("SELECT repeat('x', %s)::public.{}").format(sql.Identifier(domain))
    dba.execute(cast, (length,))
    with pytest.raises(errors.CheckViolation), dba.transaction():
        dba.execute(cast, (length + 1,))


def test_an_entry_says_who_did_it_in_which_request(dba: Connection, service: Connection, base: Base) -> None:
    assignee = new_user(dba)
    with acting(service, base.user, "request 1"):
        todo = new_todo(service, base.user, assigned_to=assignee)
    with acting(service, assignee, "request 2"):
        update(service, "todos", todo, status="completed")
    assert [entry[1:5] for entry in trail(dba, todo["id"])] == [
        ("todos", base.user, base.user, "request 1"),
        ("todos", base.user, assignee, "request 2"),
    ]


def test_a_password_s_hash_never_reaches_the_trail(dba: Connection) -> None:
    user = new_user(dba, password_hash="first secret")
    update(dba, "users", {"id": user}, password_hash="second secret", full_name="Somebody")
    update(dba, "users", {"id": user}, password_hash="third secret")
    dba.execute("DELETE FROM users WHERE id = %s", [user])
    found = trail(dba, user)
    assert [entry[0] for entry in found] == ["insert", "update", "update", "delete"]
    assert "secret" not in str(found)
    assert found[2][5]["version"] == 2, "that it changed is told"


def test_a_message_is_told_once_and_its_conversation_not_at_all(dba: Connection, base: Base) -> None:
    conversation = base.insert("conversations")
    message = new_message(dba, conversation)
    dba.execute("DELETE FROM messages WHERE conversation_id = %s", [conversation["id"]])
    assert [entry[0] for entry in trail(dba, conversation["id"])] == ["insert"]
    assert [entry[0] for entry in trail(dba, message["id"])] == ["insert", "delete"]


def test_counting_a_message_stays_within_its_page(dba: Connection, base: Base) -> None:
    conversation = base.insert("conversations")
    updates = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = 'conversations'"
    with dba.transaction():
        [(all_before, within_before)] = dba.execute(updates).fetchall()
        for _ in range(10):
            new_message(dba, conversation)
        [(all_after, within_after)] = dba.execute(updates).fetchall()
    assert (all_after - all_before, within_after - within_before) == (10, 10)


def test_entries_are_numbered_for_each_user_and_those_of_a_transaction_have_its_time(dba: Connection) -> None:
    one, other = new_user(dba), new_user(dba)
    with dba.transaction():
        [(began,)] = dba.execute("SELECT now()").fetchall()
        for user in (one, other, one):
            new_todo(dba, user)
    new_todo(dba, one)
    rows = dba.execute("SELECT seq, at = %s FROM audit_log WHERE user_id = %s ORDER BY seq", [began, one]).fetchall()
    assert rows == [(1, False), (2, True), (3, True), (4, False)]
    rows = dba.execute("SELECT seq FROM audit_log WHERE user_id = %s ORDER BY seq", [other]).fetchall()
    assert rows == [(1,), (2,)]


def test_the_time_of_entries_never_goes_back(database: TestDatabase, dba: Connection) -> None:
    user = new_user(dba)
    with psycopg.connect(database.superuser_url) as older:
        older.execute("SELECT now()")
        new_todo(dba, user)
        new_todo(older, user)
    rows = dba.execute("SELECT at FROM audit_log WHERE user_id = %s ORDER BY seq", [user]).fetchall()
    assert len(rows) == 3
    assert rows == sorted(rows)


def test_what_is_rolled_back_leaves_no_entry(base: Base) -> None:
    with base.connection.transaction(force_rollback=True):
        todo = base.insert("todos")
    assert trail(base.connection, todo["id"]) == []


def test_every_audited_table_names_itself_to_its_triggers(dba: Connection) -> None:
    rows = dba.execute(
        "SELECT tgrelid::regclass::text, count(*), bool_and(split_part(encode(tgargs, 'escape'), '\\000', 1)"
        " = tgrelid::regclass::text) FROM pg_trigger WHERE tgfoid = 'audit()'::regprocedure GROUP BY tgrelid"
    ).fetchall()
    assert sorted(rows) == sorted((table, 2, True) for table in TIMED)
