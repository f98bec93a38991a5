"""Demo data: believable, the same for a seed whoever writes it, valid in every rule of the schema, added once."""

import io
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import msgspec
import psycopg
import pytest

from service.commands import demo, progress
from service.commands.connection import DatabaseError
from service.embedded import EmbeddedPostgres
from tests.conftest import (
    REPOSITORY,
    UNSAFE_BUT_FAST,
    Server,
    TestDatabase,
    User,
    reachable_folder,
    service_environment,
)
from tests.support.commands import complaint, run, run_process
from tests.support.ports import free_port

SIZE = demo.Size(users=12, todos=400, messages=1_500, seed=7)
CONTENT = {
    "users": "to_jsonb(t) - 'password_hash'",
    "todos": "to_jsonb(t)",
    "todo_counters": "to_jsonb(t)",
    "conversations": "to_jsonb(t)",
    "messages": "to_jsonb(t)",
    "todo_conversation_links": "to_jsonb(t)",
    # Its times are never the same, and numbers depend on what was written between; the order within a table's doesn't.
    "audit_log": "to_jsonb(t) - '{seq,at}'::text[] || jsonb_build_object('place',"
    " row_number() OVER (PARTITION BY t.user_id, t.table_name, t.action ORDER BY t.seq))",
}


def digests(database: TestDatabase) -> dict[str, tuple[int, str]]:
    """How many rows each table has, and a digest of them in no particular order."""
    found: dict[str, Any] = {}
    with psycopg.connect(database.superuser_url) as connection:
        for table, content in CONTENT.items():
            query = (
                "SELECT count(*), md5(string_agg(content, '' ORDER BY content))"
                f" FROM (SELECT md5(({content})::text) AS content FROM {table} AS t) AS c"
            )
            found[table] = connection.execute(query.encode()).fetchone()
    return found


@pytest.fixture(scope="module")
def copied(make_module_database: Callable[[], TestDatabase]) -> tuple[TestDatabase, demo.Filled]:
    """Filled by a superuser."""
    database = make_module_database()
    return database, demo.fill_many(database.superuser_url, SIZE)


@pytest.fixture(scope="module")
def inserted(make_module_database: Callable[[], TestDatabase]) -> tuple[TestDatabase, demo.Filled]:
    """Filled by the login that migrates, which is bound by row security and triggers."""
    database = make_module_database()
    return database, demo.fill_many(database.owner_url, SIZE)


@pytest.fixture(scope="module", params=["superuser", "owner"])
def database(request: pytest.FixtureRequest) -> TestDatabase:
    """Filled in either way."""
    filled: tuple[TestDatabase, demo.Filled] = request.getfixturevalue(
        {"superuser": "copied", "owner": "inserted"}[request.param]
    )
    return filled[0]


@pytest.fixture
def connection(database: TestDatabase) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database.superuser_url) as found:
        yield found


def sign_in(url: str, email: str, password: str = demo.PASSWORD) -> httpx.Client:
    answer = httpx.post(f"{url}/v1/auth/token", json={"email": email, "password": password})
    assert answer.status_code == 200, answer.text
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {answer.json()['access_token']}"}, timeout=10)


def every_item(client: httpx.Client, path: str, **params: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": 200, **params}
    while True:
        answer = client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        items += answer.json()["items"]
        if answer.json()["next_cursor"] is None:
            return items
        query["cursor"] = answer.json()["next_cursor"]


# Many rows


def test_a_superuser_and_the_owner_write_the_same_rows_down_to_the_audit_trail(
    copied: tuple[TestDatabase, demo.Filled], inserted: tuple[TestDatabase, demo.Filled]
) -> None:
    assert (copied[1].as_superuser, inserted[1].as_superuser) == (True, False)
    assert copied[1].added == inserted[1].added
    assert copied[1].email == inserted[1].email
    assert digests(copied[0]) == digests(inserted[0])


def test_there_are_as_many_rows_as_were_asked_for(copied: tuple[TestDatabase, demo.Filled]) -> None:
    database, filled = copied
    found = {table: count for table, (count, _) in digests(database).items()}
    assert (found["users"], found["todos"], found["messages"]) == (SIZE.users, SIZE.todos, SIZE.messages)
    assert filled.added == {table: found[table] for table in filled.added}
    assert found["conversations"] > SIZE.users
    assert found["todo_conversation_links"] > 0


def test_a_seed_makes_the_same_rows_again_and_another_seed_makes_others(
    copied: tuple[TestDatabase, demo.Filled], make_database: Callable[[], TestDatabase]
) -> None:
    again, other = make_database(), make_database()
    with psycopg.connect(again.superuser_url, autocommit=True) as elsewhere:
        elsewhere.execute(f"ALTER DATABASE {again.name} SET timezone = 'America/New_York'".encode())
    demo.fill_many(again.superuser_url, SIZE)
    with psycopg.connect(again.superuser_url, autocommit=True) as elsewhere:
        elsewhere.execute(f"ALTER DATABASE {again.name} RESET timezone".encode())
    demo.fill_many(other.superuser_url, msgspec.structs.replace(SIZE, seed=8))
    assert digests(again) == digests(copied[0])
    same = [table for table, found in digests(other).items() if found == digests(copied[0])[table]]
    assert same == []


def test_a_size_that_takes_many_slices_makes_the_same_rows(
    copied: tuple[TestDatabase, demo.Filled],
    make_database: Callable[[], TestDatabase],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(demo, "ROWS_AT_ONCE", 1)
    database = make_database()
    assert demo.fill_many(database.superuser_url, SIZE).added == copied[1].added
    assert digests(database) == digests(copied[0])


def test_nothing_but_rows_is_left(database: TestDatabase, make_database: Callable[[], TestDatabase]) -> None:
    def functions(of: TestDatabase) -> set[Any]:
        with psycopg.connect(of.superuser_url) as connection:
            found = connection.execute("SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace")
            return set(found.fetchall())

    assert functions(database) == functions(make_database())


def test_every_constraint_holds(connection: psycopg.Connection) -> None:
    """All checks and foreign keys are checked anew: the superuser's way had the latter off."""
    with connection.transaction(force_rollback=True):
        connection.execute(
            "UPDATE pg_constraint SET convalidated = false"
            " WHERE contype IN ('c', 'f') AND connamespace = 'public'::regnamespace"
        )
        found = connection.execute(
            "SELECT format('ALTER %s VALIDATE CONSTRAINT %I', CASE contypid WHEN 0 THEN 'TABLE ' || conrelid::regclass"
            " ELSE 'DOMAIN ' || contypid::regtype END, conname) FROM pg_constraint"
            " WHERE NOT convalidated AND connamespace = 'public'::regnamespace"
        ).fetchall()
        assert len(found) > 40
        for (statement,) in found:
            connection.execute(statement.encode())


RULES = {
    "a conversation counts its messages, which are at 1 to n, and is as old as the last": """
        SELECT c.id FROM conversations c LEFT JOIN (
            SELECT conversation_id, count(*) AS n, min(position) AS low, max(position) AS high,
                max(created_at) AS last_at
            FROM messages GROUP BY conversation_id
        ) m ON m.conversation_id = c.id
        WHERE (c.message_count, c.last_position) IS DISTINCT FROM (m.n, m.high::bigint) OR m.low <> 1 OR m.high <> m.n
            OR c.updated_at <> m.last_at""",
    "a message is never older than the one before, and its id carries its time": """
        SELECT id FROM (
            SELECT id, created_at, lag(created_at) OVER (PARTITION BY conversation_id ORDER BY position) AS before
            FROM messages
        ) m
        WHERE created_at < before OR left(id::text, 13) <> regexp_replace(
            lpad(to_hex(floor(extract(epoch FROM created_at) * 1000)::bigint), 12, '0'), '^(.{8})', '\\1-')""",
    "a user's todos are numbered 1 to n in their order, and the counter stands at n": """
        SELECT t.user_id FROM (
            SELECT user_id, number, row_number() OVER (PARTITION BY user_id ORDER BY created_at, id) AS place,
                max(number) OVER (PARTITION BY user_id) AS high
            FROM todos
        ) t LEFT JOIN todo_counters c USING (user_id)
        WHERE t.number <> t.place OR c.last_number IS DISTINCT FROM t.high""",
    "completed todos say when, open ones don't, and nothing is of the future": """
        SELECT id FROM todos
        WHERE (status = 'completed' AND completed_at IS NULL) OR (status IN ('pending', 'in_progress')
            AND completed_at IS NOT NULL) OR completed_at > updated_at OR updated_at > now()
            OR (status = 'completed' AND due_date < completed_at)""",
    "open todos are assigned to active users": """
        SELECT t.id FROM todos t LEFT JOIN users u ON u.id = t.assigned_to AND u.is_active
        WHERE t.assigned_to IS NOT NULL AND t.status IN ('pending', 'in_progress') AND u.id IS NULL""",
    "an output follows its call": """
        SELECT id FROM (
            SELECT id, message_type, metadata, lag(metadata) OVER w AS before, lag(message_type) OVER w AS type_before
            FROM messages WINDOW w AS (PARTITION BY conversation_id ORDER BY position)
        ) m
        WHERE message_type IN ('response', 'error') AND (type_before <> 'command'
            OR metadata->>'call_id' IS DISTINCT FROM before->>'call_id')""",
    "a linked conversation began before the todo": """
        SELECT l.id FROM todo_conversation_links l JOIN todos t ON t.id = l.todo_id
        JOIN conversations c ON c.id = l.conversation_id
        WHERE c.created_at > t.created_at""",
    "every row has the one entry of its making in the audit trail": """
        SELECT row_id FROM (
            SELECT 'users' AS table_name, id AS row_id FROM users UNION ALL SELECT 'todos', id FROM todos
            UNION ALL SELECT 'conversations', id FROM conversations UNION ALL SELECT 'messages', id FROM messages
            UNION ALL SELECT 'todo_conversation_links', id FROM todo_conversation_links
        ) r FULL JOIN (SELECT table_name, row_id, count(*) AS n FROM audit_log WHERE action = 'insert' GROUP BY 1, 2) a
            USING (table_name, row_id)
        WHERE n IS DISTINCT FROM 1""",
}


@pytest.mark.parametrize("rule", RULES)
def test_the_rows_keep_the_rules_that_triggers_keep(connection: psycopg.Connection, rule: str) -> None:
    assert connection.execute(RULES[rule].encode()).fetchall() == []


def test_rows_are_varied_and_shared_out_as_in_life(connection: psycopg.Connection) -> None:
    def values(query: str) -> set[Any]:
        return {row[0] for row in connection.execute(query.encode()).fetchall()}

    assert values("SELECT DISTINCT status FROM todos") == {"pending", "in_progress", "completed", "archived"}
    assert values("SELECT DISTINCT priority FROM todos") == {"low", "medium", "high", "urgent"}
    assert values("SELECT DISTINCT message_type FROM messages") == {"text", "command", "response", "error"}
    assert values("SELECT DISTINCT relationship_type FROM todo_conversation_links") == {
        "discussion",
        "update",
        "creation",
    }
    assert values("SELECT assigned_to IS NULL FROM todos") == {True, False}
    counts = [row[0] for row in connection.execute("SELECT count(*) FROM messages GROUP BY user_id").fetchall()]
    assert max(counts) > 2 * statistics.median(counts)
    lengths = [row[0] for row in connection.execute("SELECT message_count FROM conversations").fetchall()]
    assert max(lengths) > 5 * statistics.median(lengths)


def test_a_second_run_adds_nothing_and_another_seed_adds_its_own(make_database: Callable[[], TestDatabase]) -> None:
    database = make_database()
    size = demo.Size(users=3, todos=9, messages=20, seed=1)
    assert demo.fill_many(database.superuser_url, size).added
    before = digests(database)
    for url in (database.superuser_url, database.owner_url):
        again = demo.fill_many(url, demo.Size(users=5, todos=50, messages=0, seed=1))
        assert (again.added, again.email) == ({}, "seed1-user00001@demo.example")
    assert digests(database) == before
    assert demo.fill_many(database.superuser_url, demo.Size(users=2, todos=0, messages=0, seed=10)).added["users"] == 2
    assert demo.fill_many(database.owner_url, demo.Size(users=2, todos=3, messages=0, seed=2)).added["todos"] == 3
    assert digests(database)["users"][0] == 7


def test_the_command_says_what_is_there_and_never_that_other_sizes_are(
    make_database: Callable[[], TestDatabase],
) -> None:
    database = make_database()
    for way in (database.owner_url, database.superuser_url):
        again = run("demo", "--users", "3", "--todos", "9", "--messages", "0", DATABASE_URL=way)
        assert again.returncode == 0
    said = again.stdout.splitlines()
    assert said[0] == "3 users of seed 0 are there already, with what they have: nothing was added"
    assert said[1].startswith("sign in as seed0-user00001@demo.example with")
    line = complaint(run("demo", "--users", "1000", "--seed", "0", DATABASE_URL=database.owner_url))
    assert line == "todochat: seed 0 has 3 users here, not 1,000, and nothing was added: --seed 1 does"


@pytest.mark.parametrize("way", ["superuser_url", "owner_url"])
def test_a_run_that_breaks_off_leaves_nothing(make_database: Callable[[], TestDatabase], way: str) -> None:
    database = make_database()
    with psycopg.connect(database.superuser_url) as connection:
        connection.execute("ALTER TABLE todo_conversation_links ADD CONSTRAINT no_links_today CHECK (false)")
    with pytest.raises(DatabaseError, match="no_links_today"):
        demo.fill_many(getattr(database, way), demo.Size(users=3, todos=90, messages=200))
    assert {count for count, _ in digests(database).values()} == {0}


def test_generated_users_sign_in_see_their_own_and_go_on_where_the_data_ends(server: Server) -> None:
    filled = demo.fill_many(server.database.superuser_url, demo.Size(users=4, todos=60, messages=120, seed=11))
    with psycopg.connect(server.database.superuser_url) as connection:
        found = connection.execute(
            "SELECT (SELECT array_agg(t.id) FROM todos t WHERE t.user_id = u.id),"
            " (SELECT count(*) FROM todos t WHERE t.assigned_to = u.id), c.id, c.message_count"
            " FROM users u JOIN conversations c ON c.user_id = u.id WHERE u.email = %s LIMIT 1",
            (filled.email,),
        ).fetchone()
    assert found
    own, assigned, conversation, messages = found
    with sign_in(server.url, filled.email) as client:
        assert {todo["id"] for todo in every_item(client, "/v1/todos")} == {str(todo_id) for todo_id in own}
        assert len(every_item(client, "/v1/todos", scope="assigned")) == assigned
        created = client.post("/v1/todos", json={"title": "One more"})
        assert (created.status_code, created.json()["number"]) == (201, len(own) + 1)
        said = client.post(
            f"/v1/conversations/{conversation}/messages", json={"sender_type": "user", "content": "One more"}
        )
        assert (said.status_code, said.json()["position"]) == (201, messages + 1)
        assert client.get(f"/v1/conversations/{conversation}").json()["message_count"] == messages + 1


# The account


def test_the_account_of_the_command_is_all_one_sees_in_every_state(
    server: Server, new_user: Callable[..., User]
) -> None:
    stranger = new_user()
    hidden = stranger.client.post("/v1/todos", json={"title": "Not Ada's business"}).json()["id"]
    env = {"MIGRATION_DATABASE_URL": server.database.owner_url}
    done = run("demo", **env)
    assert done.returncode == 0, done
    said = re.search(r"^sign in as (\S+) with the password: (.+)$", done.stdout, re.MULTILINE)
    assert said, done.stdout
    with sign_in(server.url, said[1], said[2]) as client:
        me = client.get("/v1/users/me").json()["id"]
        own = every_item(client, "/v1/todos")
        assert {todo["user_id"] for todo in own} == {me}
        assert {todo["status"] for todo in own} == {"pending", "in_progress", "completed", "archived"}
        assert {todo["priority"] for todo in own} == {"low", "medium", "high", "urgent"}
        assert len(every_item(client, "/v1/todos", overdue="true")) >= 3
        late = [todo for todo in own if todo["status"] == "completed" and todo["due_date"]]
        assert any(todo["due_date"] < todo["completed_at"] for todo in late)
        (other,) = {todo["assigned_to"] for todo in own} - {None}
        assigned = every_item(client, "/v1/todos", scope="assigned")
        assert {(todo["user_id"], todo["assigned_to"]) for todo in assigned} == {(other, me)}
        assert client.get(f"/v1/todos/{hidden}").status_code == 404
        assert stranger.client.get(f"/v1/todos/{own[0]['id']}").status_code == 404

        conversations = every_item(client, "/v1/conversations", messages=50)
        messages = [message for conversation in conversations for message in conversation["messages"]]
        assert {message["user_id"] for message in messages} == {me}
        assert {message["message_type"] for message in messages} == {"text", "command", "response", "error"}
        calls = [found["metadata"]["call_id"] for found in messages if found["message_type"] == "command"]
        outcomes = [found for found in messages if found["message_type"] in {"response", "error"}]
        assert sorted(calls) == sorted(found["metadata"]["call_id"] for found in outcomes)
        assert len(set(calls)) == len(calls) > 3
        links = every_item(client, "/v1/links")
        assert {link["relationship_type"] for link in links} == {"discussion", "update", "creation"}
        # What is said of numbers is true.
        titles = {todo["number"]: todo["title"] for todo in own}
        told = [re.findall(r'"number": (\d+), "title": "([^"]+)"', found["content"]) for found in outcomes]
        assert all(titles[int(number)] == title for pairs in told for number, title in pairs)

    before = digests(server.database)
    for way in ("owner_url", "superuser_url"):
        again = run("demo", DATABASE_URL=getattr(server.database, way))
        assert again.returncode == 0
        assert "nothing was added" in again.stdout
        assert said[0] in again.stdout
    assert digests(server.database) == before


def test_a_database_without_tables_or_rights_is_said_in_one_line(
    postgres: EmbeddedPostgres, make_database: Callable[[], TestDatabase]
) -> None:
    wrong = {
        make_database().service_url: ("MIGRATION_DATABASE_URL", ["--users", "2"]),
        postgres.url("postgres"): ("make migrate", []),
    }
    for url, (what_to_do, arguments) in wrong.items():
        done = run("demo", *arguments, DATABASE_URL=url)
        assert done.returncode == 1
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("todochat: ")
        assert what_to_do in line


@pytest.mark.parametrize("arguments", [["--seed", "1"], ["--users", "0"], ["--messages", "-1"], ["--todos", "many"]])
def test_sizes_that_make_no_sense_are_refused_before_a_database_is_started(arguments: list[str]) -> None:
    done = run("demo", *arguments, EMBEDDED_DATA_DIR="/nowhere/at/all")
    assert done.returncode in {1, 2}
    assert arguments[0] in done.stderr
    assert "Traceback" not in done.stderr


def test_the_embedded_database_is_filled_while_it_is_served() -> None:
    # Its server is started here, without fsync; the commands join it.
    with (
        reachable_folder() as folder,
        EmbeddedPostgres(folder / "data" / "postgres", options=UNSAFE_BUT_FAST),
    ):
        port = str(free_port())
        env = {"EMBEDDED_DATA_DIR": str(folder / "data")}
        first = run_process("demo", "--users", "3", "--messages", "20", **env)  # makes and migrates the database
        assert first.returncode == 0, first
        assert re.search(r"^messages +100% +20 rows", first.stderr, re.MULTILINE)
        assert re.search(r"^3 users, 150 todos, \d+ conversations, 20 messages, \d+ todo_", first.stdout), first.stdout
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "service", "serve"],
                cwd=REPOSITORY,
                env=service_environment(**env, PORT=port, SHUTDOWN_DELAY_SECONDS="0"),
                stdout=log,
                stderr=log,
            )
        served = Server(f"http://127.0.0.1:{port}", TestDatabase("", "", "", ""), folder / "log", {}, process)
        try:
            served.wait_until_ready()
            assert run_process("demo", **env).returncode == 0
            with sign_in(served.url, "ada@demo.example") as client:
                assert len(every_item(client, "/v1/todos")) > 10
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0


# How far it is


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_and_anything_else_plain_lines() -> None:
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        with progress.Stage("messages", stream) as stage:
            stage.update(0.5, 1_000)
            stage.update(1, 1_000)
    drawn = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", terminal.getvalue())
    assert re.search(r"messages +━{16} +100% +2,000 rows 0:00:00\n", drawn)
    assert max(map(len, re.split(r"[\r\n]+", drawn))) < 80
    assert re.fullmatch(r"messages +100% +2,000 rows +0.0 s\n", file.getvalue())


def test_without_a_terminal_a_long_stage_says_now_and_then_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0)
    file = io.StringIO()
    with progress.Stage("messages", file) as stage:
        stage.update(0.25, 1_000)
        stage.update(None, 1_000)
    said = [line.split() for line in file.getvalue().splitlines()]
    assert [words[1:-2] for words in said] == [
        ["25%", "1,000", "rows"],
        ["2,000", "rows"],
        ["100%", "2,000", "rows"],
    ]
