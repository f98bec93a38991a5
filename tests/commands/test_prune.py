"""Retention: what is past its age goes in small batches, what isn't stays, and nobody waits for it."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
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
_entries = itertools.count(1)


@pytest.fixture
def database(make_database: Callable[[], TestDatabase]) -> TestDatabase:
    """One with nothing in it: pruning goes through everybody's rows."""
    return make_database()


@pytest.fixture
def superuser(database: TestDatabase) -> Iterator[Connection]:
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        yield connection


def entry_id(days: float) -> UUID:
    """The id of an entry of so many days ago."""
    return UUID(f"{int((time.time() - days * DAY) * 1000):012x}7000{0x8000 + next(_entries):04x}000000000000")


def plant(connection: Connection, days: list[float], *, is_user: bool = True) -> UUID:
    """A user, or nobody any more, with entries of that age and no others."""
    user = make_person(connection, "hash").id
    if not is_user:
        connection.execute("DELETE FROM users WHERE id = %s", (user,))
    connection.execute("DELETE FROM audit_log WHERE user_id = %s", (user,))
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO audit_log (user_id, id, at, action, table_name, row_id)"
            " VALUES (%s, %s, now() - make_interval(secs => %s), 'insert', 'todos', gen_random_uuid())",
            [(user, entry_id(age), age * DAY) for age in days],
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


def mark(connection: Connection, user: UUID) -> Any:
    return connection.execute("SELECT commit_order, id FROM audit_prunes WHERE user_id = %s", (user,)).fetchone()


def prune(database: TestDatabase, **options: Any) -> dict[str, int]:
    return counts(retention.prune(database.owner_url, **options))


def counts(pruned: retention.Pruned) -> dict[str, int]:
    return {name: getattr(pruned, name) for name in pruned.__struct_fields__}


def removed(entries: int = 0, users: int = 0, keys: int = 0, held: int = 0) -> dict[str, int]:
    return {"entries": entries, "users": users, "keys": keys, "held": held}


# What goes


def test_entries_past_their_age_go_and_the_others_stay(database: TestDatabase, superuser: Connection) -> None:
    some, none, all_ = plant(superuser, [800, 366, 364, 1, 0]), plant(superuser, [300, 0]), plant(superuser, [400, 380])
    assert prune(database) == removed(entries=4, users=2)
    assert [ages(superuser, user) for user in (some, none, all_)] == [[364, 1, 0], [300, 0], []]
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
    first, second = plant(superuser, [400 + n for n in range(6)] + [1.0]), plant(superuser, [500])
    other = plant_keys(superuser, [30, 29, 28, 25, 23])
    assert prune(database, batch=batch) == removed(entries=7, users=2, keys=4)
    assert (ages(superuser, first), ages(superuser, second), keys(superuser, other)) == ([1], [], ["key 4"])


def test_idempotency_keys_live_for_24_hours(database: TestDatabase, superuser: Connection) -> None:
    user, other = plant_keys(superuser, [100, 24.01, 23.9, 0]), plant_keys(superuser, [48])
    assert prune(database) == removed(keys=3)
    assert (keys(superuser, user), keys(superuser, other)) == (["key 2", "key 3"], [])


def test_entries_of_users_who_are_gone_go_too(database: TestDatabase, superuser: Connection) -> None:
    user = plant(superuser, [400, 2], is_user=False)
    assert prune(database) == removed(entries=1, users=1)
    assert (ages(superuser, user), mark(superuser, user)) == ([2], None)


def test_a_dry_run_counts_and_removes_nothing(database: TestDatabase, superuser: Connection) -> None:
    user, gone = plant(superuser, [400, 380, 1]), plant(superuser, [380], is_user=False)
    other = plant_keys(superuser, [30, 1])
    assert prune(database, dry_run=True) == removed(entries=3, users=2, keys=1)
    assert (ages(superuser, user), ages(superuser, gone)) == ([400, 380, 1], [380])
    assert (keys(superuser, other), mark(superuser, user)) == (["key 0", "key 1"], None)
    assert prune(database) == removed(entries=3, users=2, keys=1)


# How far it came


def test_the_last_entry_removed_is_remembered_in_the_order_of_the_feed(
    database: TestDatabase, superuser: Connection
) -> None:
    user = plant(superuser, [800, 700, 400, 10])
    superuser.execute(
        "UPDATE audit_log AS a SET commit_order = o.place"
        " FROM (SELECT id, (ARRAY[50, 90, 70, 80])[row_number() OVER (ORDER BY id)] AS place FROM audit_log"
        " WHERE user_id = %(user)s) AS o WHERE a.user_id = %(user)s AND a.id = o.id",
        {"user": user},
    )
    ids = dict(superuser.execute("SELECT commit_order, id FROM audit_log WHERE user_id = %s", (user,)).fetchall())
    assert prune(database, audit_days=750) == removed(entries=1, users=1)
    assert mark(superuser, user) == (50, ids[50])
    assert prune(database, audit_days=500) == removed(entries=1, users=1)
    assert mark(superuser, user) == (90, ids[90])
    assert prune(database) == removed(entries=1, users=1)
    assert mark(superuser, user) == (90, ids[90]), "it never goes back"


def test_a_follower_who_is_behind_what_was_pruned_is_told(server: Server) -> None:
    """On the session's server: who is pruned here is a user of this test alone, by the function for one user."""
    with (
        user_factory(server) as new_user,
        psycopg.connect(server.database.superuser_url, autocommit=True) as connection,
    ):
        ada: User = new_user()
        for title in ("Buy milk", "Buy bread", "Bake a cake"):
            assert ada.client.post("/v1/todos", json={"title": title}).status_code == 201
        cursors: list[str] = []
        cursor = None
        while True:
            page = ada.client.get("/v1/changes", params={"limit": 1, **({"cursor": cursor} if cursor else {})}).json()
            if not page["items"]:
                break
            cursor = page["next_cursor"]
            cursors.append(cursor)
        assert len(cursors) == 4
        entries = connection.execute("SELECT id FROM audit_log WHERE user_id = %s ORDER BY id", (ada.id,)).fetchall()
        with connection.transaction():
            connection.execute("SET LOCAL ROLE todochat_owner")
            connection.execute("SELECT prune_audit_log(%s, %s, 100)", (ada.id, entries[2][0]))
        problem(ada.client.get("/v1/changes", params={"cursor": cursors[0], "limit": 1}), 422, "invalid_cursor")
        rest = ada.client.get("/v1/changes", params={"cursor": cursors[1]}).json()["items"]
        assert [item["id"] for item in rest] == [str(entry) for (entry,) in entries[2:]]
        kept = ada.client.get("/v1/changes").json()["items"]
        assert [item["id"] for item in kept] == [str(entry) for (entry,) in entries[2:]]
        with connection.transaction():
            connection.execute("SET LOCAL ROLE todochat_owner")
            connection.execute("SELECT prune_audit_log(%s, %s, 100)", (ada.id, UUID(int=2**128 - 1)))
        problem(ada.client.get("/v1/changes", params={"cursor": cursors[2]}), 422, "invalid_cursor")
        empty = ada.client.get("/v1/changes").json()
        assert empty["items"] == []
        assert ada.client.post("/v1/todos", json={"title": "Eat it"}).status_code == 201
        latest = ada.client.get("/v1/changes", params={"cursor": empty["next_cursor"]})
        assert [item["action"] for item in latest.json()["items"]] == ["insert"], latest.text


# Beside others


def test_what_another_transaction_holds_is_passed_over_and_goes_next_time(
    database: TestDatabase, superuser: Connection
) -> None:
    user, other = plant(superuser, [400, 390, 380]), plant_keys(superuser, [30, 29])
    with psycopg.connect(database.superuser_url) as holder:
        holder.execute("SELECT 1 FROM audit_log WHERE user_id = %s ORDER BY id LIMIT 1 FOR UPDATE", (user,))
        holder.execute("SELECT 1 FROM idempotency_keys WHERE key = 'key 0' FOR UPDATE")
        assert prune(database, batch=2) == removed(entries=2, users=1, keys=1)
    assert (ages(superuser, user), keys(superuser, other)) == ([400], ["key 0"])
    assert prune(database) == removed(entries=1, users=1, keys=1)


def test_a_user_who_is_being_erased_is_passed_over(database: TestDatabase, superuser: Connection) -> None:
    busy, other = plant(superuser, [400]), plant(superuser, [400])
    with psycopg.connect(database.superuser_url) as erasing:
        erasing.execute("SELECT erase_user(%s, NULL)", (busy,))
        assert prune(database) == removed(entries=1, users=1, held=1)
    assert ages(superuser, other) == []
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
        pruning.execute("SET ROLE todochat_owner")
        pruning.execute("SELECT prune_audit_log(%s, %s, 1)", (user, entry_id(365)))
        erasing.start()
        deadline = time.monotonic() + 10
        query = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%erase_user%'"
        while not superuser.execute(query).fetchone():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    erasing.join(10)
    assert (erased, ages(superuser, user), mark(superuser, user)) == ([(True,)], [0], None)


def test_two_at_once_do_the_work_once(database: TestDatabase, superuser: Connection) -> None:
    users = [plant(superuser, [400 + n for n in range(40)] + [1]) for _ in range(5)]
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
    user = plant(superuser, [400 + n for n in range(5)])
    with psycopg.connect(database.owner_url) as killed:
        killed.execute("SET ROLE todochat_owner")
        killed.execute("SELECT prune_audit_log(%s, %s, 2)", (user, entry_id(365)))
        superuser.execute("SELECT pg_terminate_backend(%s)", (killed.info.backend_pid,))
        with pytest.raises(psycopg.OperationalError):
            killed.execute("SELECT 1")
    assert (len(ages(superuser, user)), mark(superuser, user)) == (5, None)
    assert prune(database) == removed(entries=5, users=1)


def test_finding_the_next_user_costs_a_step_for_each_and_not_for_each_entry(superuser: Connection) -> None:
    for _ in range(20):
        plant(superuser, [100 + n / 10 for n in range(200)])
    wanted = plant(superuser, [400])
    superuser.execute("VACUUM ANALYZE audit_log")
    query = (
        TEXTS["find_prunable_user"]
        .text.replace("%(user_id)s", f"'{UUID(int=0)}'::uuid")
        .replace("%(older_than)s", f"'{entry_id(365)}'::uuid")
    )
    with superuser.transaction(force_rollback=True):
        superuser.execute("SET LOCAL ROLE todochat_owner")
        assert superuser.execute(query).fetchall() == [(wanted,)]
        (plan,) = superuser.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + query).fetchone()
    assert plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"] <= 21 * 6


# Who may


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM audit_log",
        "UPDATE audit_log SET request_id = NULL",
        "SELECT 1 FROM audit_log FOR UPDATE",
        "INSERT INTO audit_prunes (user_id, commit_order, id) VALUES (gen_random_uuid(), 1, gen_random_uuid())",
        "UPDATE audit_prunes SET commit_order = 0",
        "DELETE FROM audit_prunes",
        "SELECT prune_audit_log(gen_random_uuid(), gen_random_uuid(), 1)",
        "SELECT find_prunable_user(gen_random_uuid(), gen_random_uuid())",
        "SELECT count_prunable_entries(gen_random_uuid(), gen_random_uuid())",
        "SELECT prune_idempotency_keys(1)",
        "SELECT count_prunable_keys()",
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
