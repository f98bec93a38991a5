"""Retention: what is past its age goes in small batches, what isn't stays, and nobody waits for it."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from service.commands import retention
from service.db.loading import TEXTS
from tests.conftest import Server, TestDatabase, User, user_factory
from tests.support.commands import as_migrator, complaint, run
from tests.support.problems import problem
from tests.support.worlds import Connection, make_person

DAY = 24 * 3600


@pytest.fixture
def database(make_database: Callable[[], TestDatabase]) -> TestDatabase:
    """One with nothing in it: pruning goes through everybody's rows."""
    return make_database()


@pytest.fixture
def superuser(database: TestDatabase) -> Iterator[Connection]:
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        yield connection


def plant(connection: Connection, days: list[float], *, is_user: bool = True) -> UUID:
    """A user, or nobody any more, with entries of that age and no others."""
    user = make_person(connection, "hash").id
    if not is_user:
        connection.execute("DELETE FROM users WHERE id = %s", (user,))
    connection.execute("DELETE FROM audit_log WHERE user_id = %s", (user,))
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO audit_log (user_id, seq, at, action, table_name, row_id, before, request_id)"
            " VALUES (%s, %s, now() - make_interval(secs => %s), 'update', 'todos', gen_random_uuid(), '{}', 'r')",
            [(user, seq, age * DAY) for seq, age in enumerate(days, 1)],
        )
    return user


def ages(connection: Connection, user: UUID) -> list[int]:
    """Of the user's entries, in whole days."""
    query = "SELECT round(extract(epoch FROM now() - at) / 86400)::int FROM audit_log WHERE user_id = %s ORDER BY at"
    return [age for (age,) in connection.execute(query, (user,)).fetchall()]


def plant_keys(connection: Connection, hours: list[float]) -> UUID:
    """A user with idempotency keys of that age."""
    user = plant(connection, [])
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO idempotency_keys (user_id, key, operation, request_hash, status, created_at)"
            " VALUES (%s, %s, 'POST /v1/todos', sha256('x'), 201, now() - make_interval(secs => %s))",
            [(user, f"key {place}", age * 3600) for place, age in enumerate(hours)],
        )
    return user


def keys(connection: Connection, user: UUID) -> list[str]:
    query = "SELECT key FROM idempotency_keys WHERE user_id = %s ORDER BY created_at"
    return [key for (key,) in connection.execute(query, (user,)).fetchall()]


def blank(connection: Connection, user: UUID) -> list[bool]:
    """Whether each of the user's entries is without content."""
    query = "SELECT before IS NULL AND request_id IS NULL FROM audit_log WHERE user_id = %s ORDER BY seq"
    return [row[0] for row in connection.execute(query, (user,)).fetchall()]


def prune(database: TestDatabase, **options: Any) -> dict[str, int]:
    return counts(retention.prune(database.owner_url, **options))


def counts(pruned: retention.Pruned) -> dict[str, int]:
    return {name: getattr(pruned, name) for name in pruned.__struct_fields__}


def prune_a_batch(connection: Connection, user: UUID, batch: int) -> None:
    """Begin what a batch does, and leave it open."""
    connection.execute("SET ROLE todochat_owner")
    values = {"user_id": user, "older_than": datetime.now(UTC) - timedelta(days=365), "batch": batch}
    connection.execute(TEXTS["prune_audit_log"].text.encode(), values)


def removed(entries: int = 0, users: int = 0, keys: int = 0, conversations: int = 0, held: int = 0) -> dict[str, int]:
    return {"entries": entries, "users": users, "keys": keys, "conversations": conversations, "held": held}


# What goes


def test_entries_past_their_age_go_and_the_others_stay(database: TestDatabase, superuser: Connection) -> None:
    some, none, all_ = plant(superuser, [800, 366, 364, 1, 0]), plant(superuser, [300, 0]), plant(superuser, [400, 380])
    assert prune(database) == removed(entries=3, users=2)
    assert [ages(superuser, user) for user in (some, none, all_)] == [[364, 1, 0], [300, 0], [380]]
    assert blank(superuser, some) == [False] * 3
    assert blank(superuser, all_) == [True], "the next one counts on from it"
    assert prune(database) == removed()


def test_the_age_is_the_operators_to_choose(database: TestDatabase, superuser: Connection) -> None:
    user = plant(superuser, [800, 366, 364, 31, 29, 0])
    assert prune(database, audit_days=500) == removed(entries=1, users=1)
    assert ages(superuser, user) == [366, 364, 31, 29, 0]
    assert prune(database, audit_days=30) == removed(entries=3, users=1)
    assert ages(superuser, user) == [29, 0]
    assert prune(database, audit_days=999_999_999) == removed()


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 1000])
def test_all_of_it_goes_whatever_the_size_of_a_batch(batch: int, database: TestDatabase, superuser: Connection) -> None:
    first, second = plant(superuser, [406.0 - n for n in range(6)] + [1.0]), plant(superuser, [500])
    other = plant_keys(superuser, [30, 29, 28, 25, 23])
    assert prune(database, batch=batch) == removed(entries=6, users=1, keys=4)
    assert (ages(superuser, first), ages(superuser, second), keys(superuser, other)) == ([1], [500], ["key 4"])


def test_idempotency_keys_live_for_24_hours(database: TestDatabase, superuser: Connection) -> None:
    user, other = plant_keys(superuser, [100, 24.01, 23.9, 0]), plant_keys(superuser, [48])
    assert prune(database) == removed(keys=3)
    assert (keys(superuser, user), keys(superuser, other)) == (["key 2", "key 3"], [])


def test_entries_of_users_who_are_gone_go_too(database: TestDatabase, superuser: Connection) -> None:
    user = plant(superuser, [400, 2], is_user=False)
    assert prune(database) == removed(entries=1, users=1)
    assert ages(superuser, user) == [2]
    superuser.execute("UPDATE audit_log SET at = now() - interval '366 days' WHERE user_id = %s", (user,))
    assert prune(database) == removed(entries=1, users=1)
    assert ages(superuser, user) == []


def test_a_dry_run_counts_and_removes_nothing(database: TestDatabase, superuser: Connection) -> None:
    user, gone = plant(superuser, [400, 380, 1]), plant(superuser, [380], is_user=False)
    other = plant_keys(superuser, [30, 1])
    assert prune(database, dry_run=True) == removed(entries=3, users=2, keys=1)
    assert (ages(superuser, user), ages(superuser, gone)) == ([400, 380, 1], [380])
    assert keys(superuser, other) == ["key 0", "key 1"]
    assert prune(database) == removed(entries=3, users=2, keys=1)


# The feed goes on


def test_a_follower_who_is_behind_what_was_pruned_is_told_and_others_go_on(
    start_server: Callable[..., Server], database: TestDatabase, superuser: Connection
) -> None:
    with user_factory(start_server(database=database)) as new_user:
        ada: User = new_user()

        def told(cursor: str = "", limit: int = 200) -> Any:
            return ada.client.get("/v1/changes", params={"limit": limit, **({"cursor": cursor} if cursor else {})})

        for title in ("Buy milk", "Buy bread", "Bake a cake"):
            assert ada.client.post("/v1/todos", json={"title": title}).status_code == 201
        cursors = [""]
        for _ in range(4):
            cursors.append(told(cursors[-1], limit=1).json()["next_cursor"])
        superuser.execute("UPDATE audit_log SET at = at - interval '366 days' WHERE seq <= 2")
        assert prune(database) == removed(entries=2, users=1)
        problem(told(cursors[1]), 422, "invalid_cursor")
        assert [item["id"] for item in told(cursors[2]).json()["items"]] == [3, 4]
        assert [item["id"] for item in told().json()["items"]] == [3, 4]
        assert [item["id"] for item in told(cursors[3]).json()["items"]] == [4]
        superuser.execute("UPDATE audit_log SET at = at - interval '366 days' WHERE seq = 3")
        assert prune(database) == removed(entries=1, users=1)
        assert told(cursors[4]).json() == {"items": [], "next_cursor": cursors[4]}
        assert ada.client.post("/v1/todos", json={"title": "Eat it"}).status_code == 201
        assert [item["id"] for item in told(cursors[4]).json()["items"]] == [5]


# Conversations


def test_conversations_that_were_left_alone_go_where_the_operator_says_so(
    start_server: Callable[..., Server], database: TestDatabase, superuser: Connection
) -> None:
    with user_factory(start_server(database=database)) as new_user:
        ada, eve = new_user(), new_user()
        said = {"messages": [{"sender_type": "user", "content": "x"}] * 3}
        paths = [
            f"/v1/conversations/{one.client.post('/v1/turns', json=said).json()['messages'][0]['conversation_id']}"
            for one in (ada, ada, eve)
        ]
        with superuser.transaction():
            superuser.execute("SET LOCAL session_replication_role = replica")
            superuser.execute(
                "UPDATE conversations SET created_at = now() - interval '99 days',"
                " updated_at = now() - interval '31 days' WHERE id = ANY(%s)",
                ([path[18:] for path in (paths[0], paths[2])],),
            )
        assert prune(database) == removed()
        assert prune(database, conversation_days=32) == removed()
        assert prune(database, conversation_days=30, dry_run=True) == removed(conversations=2)
        assert prune(database, conversation_days=30) == removed(conversations=2)
        assert [one.client.get(path).status_code for one, path in zip((ada, ada, eve), paths, strict=True)] == [
            404,
            200,
            404,
        ]
        # The trail says that it was no user who did it, and brings it back.
        gone = eve.client.get("/v1/audit", params={"row_id": paths[2][18:]}).json()["items"][0]
        assert (gone["action"], gone["actor_id"]) == ("delete", None)
        assert eve.client.post(f"/v1/changes/{gone['id']}/revert").status_code == 200
        assert eve.client.get(paths[2]).json()["message_count"] == 3


# Beside others


def test_what_another_transaction_holds_is_passed_over_and_goes_next_time(
    database: TestDatabase, superuser: Connection
) -> None:
    """Of a trail all that is younger stays, too: it has no holes."""
    user, other = plant(superuser, [400, 390, 380, 1]), plant_keys(superuser, [30, 29])
    with psycopg.connect(database.superuser_url) as holder:
        holder.execute("SELECT 1 FROM audit_log WHERE user_id = %s ORDER BY seq LIMIT 1 FOR UPDATE", (user,))
        holder.execute("SELECT 1 FROM idempotency_keys WHERE key = 'key 0' FOR UPDATE")
        assert prune(database, batch=2) == removed(keys=1, held=1)
    assert (ages(superuser, user), keys(superuser, other)) == ([400, 390, 380, 1], ["key 0"])
    assert prune(database) == removed(entries=3, users=1, keys=1)


def test_a_user_who_is_being_erased_is_passed_over(database: TestDatabase, superuser: Connection) -> None:
    busy, other = plant(superuser, [400, 390]), plant(superuser, [400, 1])
    with psycopg.connect(database.superuser_url) as erasing:
        erasing.execute("SELECT erase_user(%s, NULL)", (busy,))
        assert prune(database) == removed(entries=1, users=1, held=2)
    assert ages(superuser, other) == [1]
    assert ages(superuser, busy) == [0]  # that it happened
    assert prune(database) == removed()


def test_an_erasure_waits_for_a_batch_and_takes_the_rest(database: TestDatabase, superuser: Connection) -> None:
    user = plant(superuser, [400, 390])
    erased: list[Any] = []

    def erase() -> None:
        with psycopg.connect(database.superuser_url, autocommit=True) as connection:
            erased.append(connection.execute("SELECT erase_user(%s, NULL)", (user,)).fetchone())

    erasing = threading.Thread(target=erase)
    with psycopg.connect(database.owner_url) as pruning:
        prune_a_batch(pruning, user, 1)
        erasing.start()
        deadline = time.monotonic() + 10
        query = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%erase_user%'"
        while not superuser.execute(query).fetchone():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    erasing.join(10)
    assert (erased, ages(superuser, user)) == ([(True,)], [0])


def test_two_at_once_do_the_work_once(database: TestDatabase, superuser: Connection) -> None:
    users = [plant(superuser, [440 - n for n in range(40)] + [1]) for _ in range(5)]
    done: list[dict[str, int]] = []
    runs = [threading.Thread(target=lambda: done.append(prune(database, batch=3))) for _ in range(3)]
    for each in runs:
        each.start()
    for each in runs:
        each.join(60)
    assert len(done) == 3
    assert sum(each["entries"] for each in done) <= 200
    left = prune(database)["entries"]  # what two had in sight at the same time, and one of them passed over
    assert sum(each["entries"] for each in done) + left == 200
    assert [ages(superuser, user) for user in users] == [[1]] * 5


def test_one_that_is_killed_has_done_whole_batches(database: TestDatabase, superuser: Connection) -> None:
    user = plant(superuser, [405 - n for n in range(5)] + [1])
    with psycopg.connect(database.owner_url) as killed:
        prune_a_batch(killed, user, 2)
        superuser.execute("SELECT pg_terminate_backend(%s)", (killed.info.backend_pid,))
        with pytest.raises(psycopg.OperationalError):
            killed.execute("SELECT 1")
    assert len(ages(superuser, user)) == 6
    assert prune(database) == removed(entries=5, users=1)


def test_finding_the_next_user_costs_a_step_for_each_and_not_for_each_entry(superuser: Connection) -> None:
    for _ in range(20):
        plant(superuser, [120 - n / 10 for n in range(200)])
    wanted = plant(superuser, [400])
    superuser.execute("VACUUM ANALYZE audit_log")
    found, pages = as_owner(superuser, "find_prunable_user", UUID(int=0))
    assert found == [(wanted,)]
    assert pages <= 21 * 6


def test_a_batch_looks_at_no_more_than_a_batch(superuser: Connection) -> None:
    user = plant(superuser, [400, *(300 - n / 100 for n in range(20_000))])
    superuser.execute("VACUUM ANALYZE audit_log")
    _, pages = as_owner(superuser, "prune_audit_log", user)
    assert pages <= 40


def as_owner(superuser: Connection, query: str, user: UUID) -> tuple[list[Any], int]:
    """What a query of the retention's finds, from the user on, and how many pages it touches."""
    values = {"user_id": f"'{user}'::uuid", "older_than": "now() - interval '365 days'", "batch": "100"}
    text = TEXTS[query].text
    for name, value in values.items():
        text = text.replace(f"%({name})s", value)
    with superuser.transaction(force_rollback=True):
        superuser.execute("SET LOCAL ROLE todochat_owner")
        cursor = superuser.execute(text)
        found = cursor.fetchall() if cursor.description else []
    with superuser.transaction(force_rollback=True):
        superuser.execute("SET LOCAL ROLE todochat_owner")
        (plan,) = superuser.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + text).fetchone()
    return found, plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"]


# Who may


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM audit_log",
        "UPDATE audit_log SET request_id = NULL",
        "SELECT 1 FROM audit_log FOR UPDATE",
    ],
)
def test_the_service_can_not_prune(statement: str, session_database: TestDatabase) -> None:
    with (
        psycopg.connect(session_database.service_url, autocommit=True) as service,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        service.execute(statement.encode())


# The command


def test_the_command_says_what_it_would_do_and_what_it_did(database: TestDatabase, superuser: Connection) -> None:
    user = plant(superuser, [400, 380, 100, 1])
    plant_keys(superuser, [30, 1])
    env = as_migrator(database)
    rest = "of 1 user), 1 from idempotency_keys (older than 24 hours)\n"
    dry = run("prune", "--dry-run", **env)
    assert (dry.returncode, dry.stderr) == (0, "")
    assert dry.stdout == f"would remove 2 from audit_log (older than 365 days, {rest}"
    assert ages(superuser, user) == [400, 380, 100, 1]
    refused = complaint(run("prune", **env))
    assert refused.startswith(
        "todochat: this can't be undone, and nobody is here to be asked: removes 2 from audit_log"
    )
    assert ages(superuser, user) == [400, 380, 100, 1]
    done = run("prune", "--yes", "--audit-days", "90", "--batch", "2", **env)
    assert done.stdout == f"removed 3 from audit_log (older than 90 days, {rest}"
    assert (done.returncode, done.stderr, ages(superuser, user)) == (0, "", [1])


@pytest.mark.parametrize("option", ["--audit-days", "--batch"])
@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5"])
def test_a_senseless_age_or_batch_is_refused(option: str, value: str) -> None:
    done = run("prune", option, value)
    assert (done.returncode, f"Invalid value for '{option}'" in done.stderr) == (2, True)
