"""The second wall: what the service's own login can reach when a statement has no WHERE, as the database sees it.

Every table is taken from the catalogue, so that a new one without its cases here makes the tests fail.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.conftest import TestDatabase

Connection = psycopg.Connection[Any]


@dataclasses.dataclass(frozen=True)
class Owner:
    """A user who has a row in every table, and one more for each insert."""

    id: UUID
    todo: UUID
    spare_todo: UUID
    conversation: UUID

    @property
    def values(self) -> dict[str, Any]:
        return {"user": self.id, "todo": self.todo, "spare": self.spare_todo, "conversation": self.conversation}


@dataclasses.dataclass(frozen=True)
class Case:
    """Statements that work for the owner of the rows; None where nobody has the privilege."""

    insert: str | None
    update: str | None
    delete: bool = True


# No statement names whose rows it wants: row security alone stands in the way.
CASES = {
    "identities": Case("(user_id, issuer, subject) VALUES (%(user)s, 'i', gen_random_uuid()::text)", None),
    "todo_counters": Case("(user_id, last_number) VALUES (%(user)s, 1)", "last_number = last_number + 1", delete=False),
    "todos": Case("(user_id, title) VALUES (%(user)s, 'x')", "title = 'changed'"),
    "conversations": Case("(user_id, title) VALUES (%(user)s, 'x')", "title = 'changed'"),
    "messages": Case(
        "(user_id, conversation_id, sender_type, content) VALUES (%(user)s, %(conversation)s, 'ai', 'x')",
        "content = 'changed'",
    ),
    "todo_conversation_links": Case(
        "(user_id, todo_id, conversation_id) VALUES (%(user)s, %(spare)s, %(conversation)s)",
        "relationship_type = 'creation'",
    ),
    "idempotency_keys": Case(
        "(user_id, key, operation, request_hash) VALUES (%(user)s, gen_random_uuid()::text, 'x', %(hash)s)",
        "status = 201",
    ),
    "api_keys": Case(
        "(user_id, slot, name, scope, digest) VALUES (%(user)s, 2, 'x', 'read', %(hash)s)", "last_used_at = now()"
    ),
    "audit_log": Case(None, None, delete=False),
}
DENIED = {
    "insert": {
        "audit_log": "(user_id, seq, at, action, table_name, row_id)"
        " VALUES (%(user)s, 1000, now(), 'delete', 'todos', %(todo)s)",
    },
    "update": {"audit_log": "actor_id = NULL", "identities": "subject = 'changed'"},
}
NO_USER = {"users", "sign_in_attempts", "ended_identities"}
VERBS = ("select", "insert", "update", "delete")


@pytest.fixture(scope="module")
def database(make_module_database: Callable[[], TestDatabase]) -> TestDatabase:
    return make_module_database()


@pytest.fixture(scope="module")
def dba(database: TestDatabase) -> Iterator[Connection]:
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def service(database: TestDatabase) -> Iterator[Connection]:
    """The service's login, on a connection that has had other users' transactions before."""
    with psycopg.connect(database.service_url, autocommit=True) as connection:
        yield connection


def new_user(dba: Connection) -> UUID:
    email = f"{uuid4()}@example.org"
    return dba.execute("INSERT INTO users (email, username) VALUES (%s, NULL) RETURNING id", [email]).fetchone()[0]


@pytest.fixture(scope="module")
def owner(dba: Connection) -> Owner:
    user = new_user(dba)

    def add(table: str, columns: str, *values: Any) -> UUID:
        marks = ", ".join(["%s"] * len(values))
        statement = (
            f"INSERT INTO {table} (user_id, {columns}) VALUES (%s, {marks}) RETURNING {columns.split(', ', 1)[0]}"
        )
        return dba.execute(statement.encode(), [user, *values]).fetchone()[0]

    todo, spare, conversation = uuid4(), uuid4(), uuid4()
    add("todos", "id, title", todo, "secret")
    add("todos", "id, title", spare, "secret")
    add("conversations", "id, title", conversation, "secret")
    add("messages", "conversation_id, sender_type, content", conversation, "ai", "secret")
    add("todo_conversation_links", "todo_id, conversation_id", todo, conversation)
    add("identities", "issuer, subject", "issuer", str(user))
    add("idempotency_keys", "key, operation, request_hash", "key", "POST /", b"x" * 32)
    add("api_keys", "slot, name, scope, digest", 1, "key", "write", b"y" * 32)
    return Owner(user, todo, spare, conversation)


@pytest.fixture(scope="module")
def stranger(dba: Connection) -> UUID:
    return new_user(dba)


@contextmanager
def transaction(connection: Connection, user: UUID | str | None) -> Iterator[Connection]:
    """A transaction that is rolled back, with app.user_id set to this or, for None, not set at all."""
    with connection.transaction(force_rollback=True):
        if user is not None:
            connection.execute(sql.SQL("SET LOCAL app.user_id = {}").format(str(user)))
        yield connection


@contextmanager
def session(database: TestDatabase, service: Connection, *, fresh: bool) -> Iterator[Connection]:
    """Whether the setting is unset or empty depends on what the connection has done before."""
    if not fresh:
        yield service
        return
    with psycopg.connect(database.service_url, autocommit=True) as connection:
        yield connection


def statement(table: str, verb: str) -> str | None:
    """The statement of a case; None where the privilege is missing altogether."""
    case = CASES[table]
    if verb == "select":
        return f"SELECT * FROM {table}"
    if verb == "delete":
        return f"DELETE FROM {table}" if case.delete else None
    if verb == "update":
        return case.update and f"UPDATE {table} SET {case.update}"
    return case.insert and f"INSERT INTO {table} {case.insert}"


def denied_statement(table: str, verb: str) -> str:
    if verb == "delete":
        return f"DELETE FROM {table}"
    given = DENIED[verb][table]
    return f"UPDATE {table} SET {given}" if verb == "update" else f"INSERT INTO {table} {given}"


def run(connection: Connection, text: str, owner: Owner) -> "psycopg.Cursor[Any]":
    return connection.execute(text.encode(), {**owner.values, "hash": b"x" * 32})


def content(dba: Connection, table: str) -> Any:
    statement = sql.SQL("SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {} AS t")
    return dba.execute(statement.format(sql.Identifier(table))).fetchone()


def user_tables(dba: Connection) -> set[str]:
    rows = dba.execute(
        "SELECT relname FROM pg_class c JOIN pg_attribute ON attrelid = c.oid AND attname = 'user_id'"
        " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
    )
    return {row[0] for row in rows}


def test_every_table_of_the_catalogue_has_its_cases(dba: Connection) -> None:
    assert user_tables(dba) == set(CASES)
    rows = dba.execute(
        "SELECT relname FROM pg_class c WHERE relnamespace = 'public'::regnamespace"
        " AND relkind IN ('r', 'p', 'v', 'm', 'f') AND pg_get_userbyid(relowner) = 'todochat_owner'"
    )
    assert {row[0] for row in rows} == set(CASES) | NO_USER


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("table", CASES)
def test_a_row_is_seen_and_written_with_its_owner_s_id_alone(
    database: TestDatabase,
    dba: Connection,
    service: Connection,
    owner: Owner,
    stranger: UUID,
    table: str,
    verb: str,
) -> None:
    before = content(dba, table)
    allowed = statement(table, verb)
    text = allowed or denied_statement(table, verb)
    for setting, value in {"unset": None, "empty": "", "other user": stranger, "garbage": "'; SELECT 1; --"}.items():
        state = None
        with session(database, service, fresh=setting == "unset") as connection:
            if setting == "unset":
                assert connection.execute("SELECT current_setting('app.user_id', true)").fetchone() == (None,)
            try:
                with connection.transaction():
                    if value is not None:
                        connection.execute(sql.SQL("SET LOCAL app.user_id = {}").format(str(value)))
                    cursor = run(connection, text, owner)
                    own_rows = [row for row in (cursor.fetchall() if verb == "select" else []) if stranger not in row]
                    assert own_rows == [], setting
                    assert verb == "select" or cursor.rowcount == 0, setting
            except psycopg.Error as error:
                state = error.sqlstate
        assert content(dba, table) == before, setting
        if setting == "garbage":
            # Planning may look at the policy before the privilege is asked for.
            assert state in ({"22P02"} if allowed else {"22P02", "42501"}), setting
        elif allowed is None:
            assert state == "42501", setting
        elif verb == "insert":
            # The conversation that a message names can't be seen either.
            assert state == ("23503" if table == "messages" else "42501"), setting
        else:
            assert state is None, setting
    # Last with the owner's id: else the rest would show nothing.
    with transaction(service, owner.id):
        if allowed is None:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                run(service, text, owner)
        elif (table, verb) == ("todo_counters", "insert"):
            with pytest.raises(psycopg.errors.UniqueViolation):  # the row is there, and seen
                run(service, text, owner)
        else:
            assert run(service, text, owner).rowcount >= 1, "owner"


def test_one_s_own_account_is_all_there_is_of_users(
    dba: Connection, service: Connection, owner: Owner, stranger: UUID
) -> None:
    before = content(dba, "users")
    with transaction(service, stranger):
        assert service.execute("SELECT id FROM users").fetchall() == [(stranger,)]
        assert service.execute("UPDATE users SET full_name = 'x'").rowcount == 1
    for user in ("", uuid4()):
        with transaction(service, user):
            assert service.execute("SELECT id FROM users").fetchall() == []
            assert service.execute("UPDATE users SET full_name = 'x'").rowcount == 0
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                service.execute("INSERT INTO users (id, email) VALUES (%s, 'new@example.org')", [owner.id])
    with pytest.raises(psycopg.errors.InvalidTextRepresentation), transaction(service, "garbage"):
        service.execute("SELECT id FROM users")
    new = uuid4()
    with transaction(service, new):
        assert service.execute("INSERT INTO users (id, email) VALUES (%s, 'new@example.org')", [new]).rowcount == 1
    assert content(dba, "users") == before


@pytest.mark.parametrize("column", ["token_version", "is_active", "version", "created_at"])
def test_the_service_cannot_register_a_user_with_columns_of_its_choice(service: Connection, column: str) -> None:
    new = uuid4()
    with pytest.raises(psycopg.errors.InsufficientPrivilege), transaction(service, new):
        service.execute(f"INSERT INTO users (id, email, {column}) VALUES (%s, 'new@example.org', DEFAULT)", [new])


@pytest.mark.parametrize("verb", ["SELECT * FROM {}", "DELETE FROM {}", "UPDATE {} SET {} = ''", "TABLE {}"])
@pytest.mark.parametrize(("table", "column"), [("sign_in_attempts", "key"), ("ended_identities", "digest")])
def test_what_belongs_to_no_user_is_reached_through_functions_only(
    service: Connection, table: str, column: str, verb: str
) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        service.execute(verb.format(table, column).encode())


def test_an_assignee_sees_the_todo_and_nothing_else_of_its_owner(
    dba: Connection, service: Connection, owner: Owner
) -> None:
    assignee = new_user(dba)
    dba.execute("UPDATE todos SET assigned_to = %s WHERE id = %s", [assignee, owner.todo])
    with transaction(service, assignee):
        for table in CASES:
            rows = service.execute(f"SELECT * FROM {table}".encode()).fetchall()
            theirs = [row for row in rows if owner.id in row and assignee not in row]
            assert theirs == [], table
        assert service.execute("SELECT id FROM todos").fetchall() == [(owner.todo,)]
        assert service.execute("SELECT id FROM users").fetchall() == [(assignee,)]
        assert service.execute("UPDATE todos SET status = 'in_progress'").rowcount == 1
        assert service.execute("DELETE FROM todos").rowcount == 0
    with pytest.raises(psycopg.errors.InsufficientPrivilege), transaction(service, assignee):
        service.execute("INSERT INTO todos (user_id, title, assigned_to) VALUES (%s, 'x', %s)", [owner.id, assignee])
    dba.execute("UPDATE todos SET assigned_to = NULL WHERE id = %s", [owner.todo])
    with transaction(service, assignee):
        assert service.execute("SELECT id FROM todos").fetchall() == []


# No oracle


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (
            "todos",
            "INSERT INTO todo_conversation_links (user_id, todo_id, conversation_id) VALUES (%(me)s, %(id)s, %(mine)s)",
        ),
        (
            "conversations",
            "INSERT INTO messages (user_id, conversation_id, sender_type, content) VALUES (%(me)s, %(id)s, 'ai', 'x')",
        ),
    ],
)
def test_a_foreign_key_tells_nothing_of_other_people_s_rows(
    dba: Connection, service: Connection, owner: Owner, table: str, text: str
) -> None:
    me = new_user(dba)
    mine = dba.execute("INSERT INTO conversations (user_id) VALUES (%s) RETURNING id", [me]).fetchone()[0]
    answers = set()
    for target in ({"todos": owner.todo, "conversations": owner.conversation}[table], uuid4()):
        with pytest.raises(psycopg.errors.ForeignKeyViolation) as caught, transaction(service, me):
            service.execute(text.encode(), {"me": me, "mine": mine, "id": target})
        found = caught.value.diag
        answers.add((found.constraint_name, found.message_primary, str(found.message_detail).replace(str(target), "")))
    assert len(answers) == 1


@pytest.mark.parametrize("table", ["todos", "conversations"])
def test_another_user_s_id_is_free_to_be_used_again(
    service: Connection, dba: Connection, owner: Owner, table: str
) -> None:
    me = new_user(dba)
    taken = {"todos": owner.todo, "conversations": owner.conversation}[table]
    with transaction(service, me):
        service.execute(f"INSERT INTO {table} (user_id, id, title) VALUES (%s, %s, 'x')".encode(), [me, taken])


def test_assigning_to_an_unknown_and_to_an_inactive_user_look_the_same(dba: Connection, service: Connection) -> None:
    me, inactive = new_user(dba), new_user(dba)
    dba.execute("UPDATE users SET is_active = false WHERE id = %s", [inactive])
    answers = set()
    for target in (inactive, uuid4()):
        with pytest.raises(psycopg.errors.CheckViolation) as caught, transaction(service, me):
            service.execute("INSERT INTO todos (user_id, title, assigned_to) VALUES (%s, 'x', %s)", [me, target])
        answers.add((caught.value.diag.message_primary, caught.value.diag.message_detail))
    assert len(answers) == 1


# What the service's login is not allowed at all


FORBIDDEN = {
    "truncate": "TRUNCATE todos",
    "truncate the trail": "TRUNCATE audit_log",
    "references": "CREATE TABLE mine (id uuid, user_id uuid, FOREIGN KEY (user_id, id) REFERENCES todos (user_id, id))",
    "a table": "CREATE TABLE mine (id int)",
    "a temporary table": "CREATE TEMPORARY TABLE mine (id int)",
    "a function": "CREATE FUNCTION mine() RETURNS int LANGUAGE sql RETURN 1",
    "a schema": "CREATE SCHEMA mine",
    "a trigger": "CREATE TRIGGER mine BEFORE INSERT ON todos FOR EACH ROW EXECUTE FUNCTION todos_validate()",
    "row security off": "ALTER TABLE todos DISABLE ROW LEVEL SECURITY",
    "force off": "ALTER TABLE todos NO FORCE ROW LEVEL SECURITY",
    "a trigger off": "ALTER TABLE todos DISABLE TRIGGER ALL",
    "all triggers off": "SET session_replication_role = replica",
    "a policy": "CREATE POLICY mine ON todos USING (true)",
    "no policy": "DROP POLICY todos_owner ON todos",
    "drop": "DROP TABLE todos",
    "become the owner": "SET ROLE todochat_owner",
    "become a superuser": "SET ROLE postgres",
    "give itself a role": "GRANT todochat_owner TO CURRENT_USER",
    "another function body": "CREATE OR REPLACE FUNCTION uuid7() RETURNS uuid LANGUAGE sql RETURN gen_random_uuid()",
    "a loose search path": "ALTER FUNCTION audit() RESET search_path",
    "delete a counter": "DELETE FROM todo_counters",
    "another number": "UPDATE todos SET number = 1",
    "another owner": "UPDATE todos SET user_id = gen_random_uuid()",
    "another version": "UPDATE todos SET version = 1",
    "the end of an account": "DELETE FROM users",
    "another email": "UPDATE users SET email = 'x@example.org'",
    "another position": "UPDATE messages SET position = 1",
    "forge an entry": "INSERT INTO audit_log (user_id, seq, at, action, table_name, row_id)"
    " VALUES (current_setting('app.user_id')::uuid, 1000, now(), 'insert', 'todos', uuid7())",
    "change an entry": "UPDATE audit_log SET actor_id = NULL",
    "remove an entry": "DELETE FROM audit_log",
    "call a trigger's function": "SELECT audit()",
}


@pytest.mark.parametrize("text", FORBIDDEN.values(), ids=FORBIDDEN)
def test_the_service_s_login_may_not(service: Connection, owner: Owner, text: str) -> None:
    with pytest.raises(psycopg.Error) as caught, transaction(service, owner.id):
        service.execute(text.encode())
    # A trigger's function can't be called, whoever asks.
    assert caught.value.sqlstate in ({"42501", "0A000"} if "SELECT audit()" in text else {"42501"}), caught.value


def test_switching_row_security_off_makes_an_error_and_shows_nothing(service: Connection, owner: Owner) -> None:
    for table in CASES:
        with transaction(service, owner.id):
            service.execute("SET LOCAL row_security = off")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                service.execute(f"SELECT * FROM {table}".encode())


def test_the_service_s_login_has_no_privilege_beyond_the_four(dba: Connection, database: TestDatabase) -> None:
    login = conninfo_to_dict(database.service_url)["user"]
    rows = dba.execute(
        "SELECT relname, p FROM pg_class c, unnest(ARRAY['TRUNCATE', 'REFERENCES', 'TRIGGER']) AS p"
        " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND has_table_privilege(%s, c.oid, p)"
        " UNION ALL SELECT relname, p FROM pg_class c, unnest(ARRAY['INSERT', 'UPDATE', 'DELETE']) AS p"
        " WHERE relnamespace = 'public'::regnamespace"
        " AND relname IN ('audit_log', 'sign_in_attempts', 'ended_identities')"
        " AND has_table_privilege(%s, c.oid, p)",
        [login, login],
    )
    assert rows.fetchall() == []
    login_row = dba.execute(
        "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, pg_has_role(rolname, 'todochat_owner', 'MEMBER')"
        " FROM pg_roles WHERE rolname = %s",
        [login],
    )
    assert login_row.fetchone() == (False,) * 5


def test_an_audit_entry_is_not_diverted_into_a_temporary_table(
    database: TestDatabase, dba: Connection, owner: Owner
) -> None:
    """Even where a DBA has given the login what it should not have."""
    login = conninfo_to_dict(database.service_url)["user"]
    grant = sql.SQL("{} TEMPORARY ON DATABASE {} {} {}")
    names = {"database": sql.Identifier(database.name), "login": sql.Identifier(login)}
    dba.execute(grant.format(sql.SQL("GRANT"), names["database"], sql.SQL("TO"), names["login"]))
    try:
        with psycopg.connect(database.service_url) as connection:
            for table in ("audit_log", "users", "todo_counters", "conversations", "pg_class"):
                connection.execute(f"CREATE TEMPORARY TABLE {table} (LIKE public.audit_log)".encode())
            connection.execute("SET LOCAL search_path = pg_temp, public, pg_catalog")
            connection.execute(sql.SQL("SET LOCAL app.user_id = {}").format(str(owner.id)))
            row = connection.execute(
                "INSERT INTO public.todos (user_id, title, assigned_to) VALUES (%s, 'x', %s) RETURNING id",
                [owner.id, owner.id],
            ).fetchone()
            connection.execute("UPDATE public.todos SET title = 'y' WHERE id = %s", row)
            connection.execute(
                "INSERT INTO public.messages (user_id, conversation_id, sender_type, content)"
                " VALUES (%s, %s, 'ai', 'x')",
                [owner.id, owner.conversation],
            )
            connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
            for table in ("audit_log", "users", "todo_counters", "conversations"):
                assert connection.execute(f"SELECT count(*) FROM pg_temp.{table}".encode()).fetchone() == (0,)
            found = connection.execute("SELECT action FROM public.audit_log WHERE row_id = %s ORDER BY seq", row)
            assert found.fetchall() == [("insert",), ("update",)]
            connection.rollback()
    finally:
        dba.execute(grant.format(sql.SQL("REVOKE"), names["database"], sql.SQL("FROM"), names["login"]))


def test_a_session_cannot_pass_its_changes_off_as_another_user_s(
    service: Connection, owner: Owner, stranger: UUID
) -> None:
    """Whose name a change bears is whose rows it may touch: with another's id the rows are out of reach."""
    with transaction(service, owner.id):
        service.execute(sql.SQL("SET LOCAL app.user_id = {}").format(str(stranger)))
        assert service.execute("UPDATE todos SET title = 'x'").rowcount == 0
        with pytest.raises(psycopg.errors.InsufficientPrivilege), service.transaction():
            service.execute("INSERT INTO todos (user_id, title) VALUES (%s, 'x')", [owner.id])


# The catalogue


def test_row_security_is_forced_wherever_there_is_a_user_id(dba: Connection) -> None:
    rows = dba.execute(
        "SELECT relname, relrowsecurity, relforcerowsecurity FROM pg_class c"
        " WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
        " AND pg_get_userbyid(relowner) = 'todochat_owner'"
    ).fetchall()
    assert {row[0] for row in rows if row[1]} == set(CASES) | NO_USER
    assert {row[0] for row in rows if row[2]} == set(CASES)


RETENTION = ("audit_log_write", "idempotency_keys_retention")


def test_policies_are_in_direct_form(dba: Connection) -> None:
    """Without a sub-select or a function of our own: Citus runs no others, and the planner sees through them."""
    rows = dba.execute(
        "SELECT polname, coalesce(pg_get_expr(polqual, polrelid), '') || ' ' ||"
        " coalesce(pg_get_expr(polwithcheck, polrelid), '') FROM pg_policy"
    ).fetchall()
    context = r"\(NULLIF\(current_setting\('app\.user_id'::text, true\), ''::text\)\)::uuid"
    direct = re.compile(rf"\((user_id|id|assigned_to) = {context}\) ")
    others = {name: text for name, text in rows if not direct.fullmatch(text)}
    assert others == {
        "todos_check_deactivation": "(assigned_to IS NOT NULL) ",
        "todos_unassign": "(assigned_to IS NOT NULL) (assigned_to IS NULL)",
        "identities_resolve": "true ",
        **dict.fromkeys(RETENTION, "true "),
    }


def test_policies_beyond_the_user_s_own_rows_are_the_owner_s_alone(dba: Connection) -> None:
    rows = dba.execute(
        "SELECT polname, polcmd::text, array_to_string(ARRAY(SELECT pg_get_userbyid(r) FROM unnest(polroles) r), ',')"
        " FROM pg_policy WHERE polname = ANY (%s)",
        [["todos_check_deactivation", "todos_unassign", "identities_resolve", *RETENTION]],
    ).fetchall()
    assert sorted(rows) == [
        *((name, "*", "todochat_owner") for name in RETENTION),
        ("identities_resolve", "r", "todochat_owner"),
        ("todos_check_deactivation", "r", "todochat_owner"),
        ("todos_unassign", "w", "todochat_owner"),
    ]


def test_functions_that_run_as_the_owner_pin_their_search_path(dba: Connection) -> None:
    rows = dba.execute(
        "SELECT proname, prosecdef, proconfig, prorettype = 'trigger'::regtype, pg_get_userbyid(proowner)"
        " FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    ).fetchall()
    assert any(row[1] for row in rows)
    assert {row[4] for row in rows} == {"todochat_owner"}
    for name, is_definer, settings, is_trigger, _ in rows:
        if is_definer or is_trigger:
            assert settings[0] == "search_path=pg_catalog, pg_temp", name
            assert set(settings[1:]) <= {"enable_seqscan=off", "TimeZone=UTC"}, name


def test_only_the_service_may_call_functions_and_only_those_it_needs(dba: Connection) -> None:
    rows = dba.execute(
        "SELECT proname, has_function_privilege('todochat_app', p.oid, 'EXECUTE'),"
        " EXISTS (SELECT FROM aclexplode(proacl) WHERE grantee = 0) OR proacl IS NULL"
        " FROM pg_proc p WHERE pronamespace = 'public'::regnamespace"
    ).fetchall()
    assert [name for name, _, public in rows if public] == []
    assert {name for name, callable_, _ in rows if callable_} == {
        "uuid7",
        "visible_length",
        "metadata_is_valid",
        "refuse_token",
        "find_credentials",
        "find_user_by_username",
        "take_sign_in_attempt",
        "forgive_sign_in_attempt",
        "expect_position",
        "refuse_key",
        "resolve_identity",
        "erase_user",
        "unassign_todos",
    }


def test_every_table_of_users_data_is_audited(dba: Connection) -> None:
    """All but what tells nothing of its own: kept answers, keys, the counter and the trail."""
    rows = dba.execute(
        "SELECT tgrelid::regclass::text, string_agg(tgtype::text, ',' ORDER BY tgtype),"
        " bool_and(tgdeferrable AND tginitdeferred AND tgenabled = 'O')"
        " FROM pg_trigger WHERE tgfoid = 'audit()'::regprocedure GROUP BY tgrelid"
    ).fetchall()
    silent = {"idempotency_keys", "api_keys", "todo_counters", "audit_log"}
    # 13: after each row, of an insert or a delete; 17: of an update.
    assert sorted(rows) == sorted((table, "13,17", True) for table in {"users", *CASES} - silent)
