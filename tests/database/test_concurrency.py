"""Many at once: what must be decided once is decided once, and rules across rows hold whoever comes first."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from service import conversations
from service.db.caller import Caller
from service.http.missing import changed
from service.problems import Problem
from tests.conftest import Server, TestDatabase, User
from tests.support.asking import in_process
from tests.support.commands import as_migrator, run
from tests.support.load import Ask, at_once, wait_for


def test_of_50_changes_with_if_match_exactly_one_is_made(server: Server, new_user: Callable[..., User]) -> None:
    user = new_user()
    todo = user.client.post("/v1/todos", json={"title": "contended"}).json()
    path = f"/v1/todos/{todo['id']}"
    asks = [Ask("PATCH", path, user.token, {"title": f"by {number}"}, {"If-Match": '"1"'}) for number in range(50)]
    answers = at_once(server.url, asks)
    assert Counter(answer.status for answer in answers) == {200: 1, 412: 49}
    assert {answer.code for answer in answers if answer.status == 412} == {"version_mismatch"}
    (made,) = [answer.body for answer in answers if answer.status == 200]
    assert made["version"] == 2
    assert user.client.get(path).json() == made


def test_50_changes_without_if_match_are_all_made_one_after_another(
    server: Server, new_user: Callable[..., User]
) -> None:
    user = new_user()
    todo = user.client.post("/v1/todos", json={"title": "contended"}).json()
    path = f"/v1/todos/{todo['id']}"
    answers = at_once(server.url, [Ask("PATCH", path, user.token, {"title": f"by {place}"}) for place in range(50)])
    assert Counter(answer.status for answer in answers) == {200: 50}
    assert sorted(answer.body["version"] for answer in answers) == list(range(2, 52))


def test_50_deletions_delete_once(server: Server, new_user: Callable[..., User]) -> None:
    user = new_user()
    todo = user.client.post("/v1/todos", json={"title": "contended"}).json()
    answers = at_once(server.url, [Ask("DELETE", f"/v1/todos/{todo['id']}", user.token)] * 50)
    assert Counter(answer.status for answer in answers) == {204: 1, 404: 49}


def test_50_todos_created_at_once_are_numbered_from_1_to_50(server: Server, new_user: Callable[..., User]) -> None:
    user = new_user()
    answers = at_once(server.url, [Ask("POST", "/v1/todos", user.token, {"title": "one of many"})] * 50)
    assert Counter(answer.status for answer in answers) == {201: 50}
    assert sorted(answer.body["number"] for answer in answers) == list(range(1, 51))
    # A creation that is refused, and a batch that is, take no number with them.
    refused = {"title": "late", "status": "completed", "due_date": "2000-01-01T00:00:00Z"}
    batch = {"create": [{"title": "kept back"}, refused]}
    asks = [Ask("POST", "/v1/todos", user.token, refused), Ask("POST", "/v1/todos/batch", user.token, batch)] * 10
    asks += [Ask("POST", "/v1/todos", user.token, {"title": "one more"})] * 10
    answers = at_once(server.url, asks)
    assert Counter(answer.status for answer in answers) == {422: 20, 201: 10}
    assert sorted(answer.body["number"] for answer in answers if answer.status == 201) == list(range(51, 61))


def test_one_address_registered_many_times_at_once_becomes_one_account(server: Server) -> None:
    body = {"email": "Contended@example.com", "password": "correct horse battery staple"}
    again = {**body, "email": "contended@EXAMPLE.com"}
    answers = at_once(
        server.url, [Ask("POST", "/v1/auth/register", None, body), Ask("POST", "/v1/auth/register", None, again)] * 4
    )
    assert Counter((answer.status, answer.code) for answer in answers) == {(201, None): 1, (409, "email_taken"): 7}


def test_a_deactivated_user_has_no_open_todos_however_assigning_and_deactivating_race(
    server: Server, new_user: Callable[..., User]
) -> None:
    owners = [new_user() for _ in range(3)]
    held = "SELECT count(*) FROM todos WHERE assigned_to = %s AND status IN ('pending', 'in_progress')"
    outcomes: Counter[str] = Counter()
    with psycopg.connect(server.database.superuser_url, autocommit=True) as admin:
        for turn in range(100):
            if turn >= 12 and outcomes.keys() >= {"before", "after"}:
                break
            assignee = new_user()
            ready = [
                owner.client.post("/v1/todos", json={"title": "waits", "status": "completed"}).json()["id"]
                for owner in owners
            ]
            for owner, todo in zip(owners, ready, strict=True):
                assigned = owner.client.patch(f"/v1/todos/{todo}", json={"assigned_to": str(assignee.id)})
                assert assigned.status_code == 200
            deactivate = Ask("PATCH", "/v1/users/me", assignee.token, {"is_active": False})
            assign = [
                Ask("POST", "/v1/todos", owner.token, {"title": "open", "assigned_to": str(assignee.id)})
                for owner in owners
            ]
            # Reopening makes an open todo of an assignee out of what was none.
            reopen = [
                Ask("PATCH", f"/v1/todos/{todo}", owner.token, {"status": "pending"})
                for owner, todo in zip(owners, ready, strict=True)
            ]
            others = [*assign, *reopen]
            place = turn % (len(others) + 1)  # in every place of the queue
            answers = at_once(server.url, [*others[:place], deactivate, *others[place:]])
            assert {answer.status for answer in answers} <= {200, 201, 422}
            (open_todos,) = admin.execute(held, (assignee.id,)).fetchone() or (None,)
            row = admin.execute("SELECT is_active FROM users WHERE id = %s", (assignee.id,)).fetchone()
            deactivated = answers.pop(place)
            assert (deactivated.status, row, open_todos) == (200, (False,), 0)
            for answer in answers:
                outcomes["before" if answer.status in {200, 201} else "after"] += 1
            refused = [answer for answer in answers if answer.status == 422]
            assert {answer.body["errors"][0]["field"] for answer in refused} <= {"assigned_to"}
            # What was assigned before is still there, with nobody assigned.
            for owner in owners:
                todos = owner.client.get("/v1/todos", params={"status": "pending", "limit": 200}).json()["items"]
                assert {todo["assigned_to"] for todo in todos} <= {None}
    assert outcomes.keys() == {"before", "after"}


Session = psycopg.Connection[tuple[object, ...]]
WAITING = """
SELECT pg_blocking_pids(pid) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@contextmanager
def holding(database: TestDatabase, *statement: object) -> Iterator[tuple[Session, Callable[[], list[list[int]]]]]:
    """A session that holds what the statement locks, and what tells by whom each of those who wait is kept waiting.

    It waits longer than others until it looks for a deadlock, so that it is always the other one who finds it.
    """
    with (
        psycopg.connect(database.superuser_url) as session,
        psycopg.connect(database.superuser_url, autocommit=True) as watching,
    ):
        session.execute("SET deadlock_timeout = '1min'")
        session.execute(*statement)  # pyright: ignore[reportArgumentType]
        yield session, lambda: [pids for (pids,) in watching.execute(WAITING)]
        session.rollback()


def todo_of(user: User, **fields: str) -> str:
    return user.client.post("/v1/todos", json={"title": "x", **fields}).json()["id"]


def test_batches_lock_their_todos_in_one_order_whatever_theirs_is(
    server: Server, new_user: Callable[..., User]
) -> None:
    user = new_user()
    first, second, third, last = (todo_of(user) for _ in range(4))
    number = user.client.get(f"/v1/todos/{second}").json()["number"]

    def batch(*names: str | int) -> httpx.Response:
        changes = [{"id": name, "title": f"{names}"} for name in names[:-1]]
        return user.client.post("/v1/todos/batch", json={"update": changes, "delete": names[-1:]})

    gate = "SELECT FROM todos WHERE user_id = %s AND id = ANY (%s) FOR UPDATE"
    with holding(server.database, gate, (user.id, [third, last])) as (session, waiting), ThreadPoolExecutor() as pool:
        one = pool.submit(batch, first, third, number)
        wait_for(lambda: len(waiting()) == 1)
        other = pool.submit(batch, number, last, first)
        wait_for(lambda: len(waiting()) == 2)
        kept_by_the_gate = [pids for pids in waiting() if session.info.backend_pid in pids]
        session.rollback()
    assert len(kept_by_the_gate) == 1, "the other waits for the one, and has locked nothing that it will need"
    assert one.result().status_code == 200
    assert other.result().status_code == 404, "the one deleted what the other changes"


def test_a_batch_that_waits_too_long_for_its_todos_blames_none_of_its_lists(
    server: Server, new_user: Callable[..., User]
) -> None:
    user = new_user()
    todo = todo_of(user)
    with holding(server.database, "SELECT FROM todos WHERE id = %s FOR UPDATE", (todo,)):
        answer = user.client.post("/v1/todos/batch", json={"update": [{"id": todo, "title": "y"}]})
    assert (answer.status_code, answer.json()["code"]) == (503, "timeout")
    assert not {"list", "index"} & answer.json().keys()


@pytest.mark.parametrize("way", ["a batch with a key", "an undo"])
def test_what_collides_in_several_round_trips_is_done_again(
    server: Server, new_user: Callable[..., User], way: str
) -> None:
    """Each waits for the trail, with the todo locked, which whoever has the trail wants next."""
    user = new_user()
    todo = todo_of(user)
    user.client.patch(f"/v1/todos/{todo}", json={"title": "y"}).raise_for_status()
    change = user.client.get("/v1/audit?limit=1").json()["items"][0]["id"]

    def act() -> httpx.Response:
        if way == "an undo":
            return user.client.post(f"/v1/changes/{change}/revert")
        body = {"update": [{"id": todo, "title": "x"}]}
        return user.client.post("/v1/todos/batch", json=body, headers={"Idempotency-Key": "once"})

    trail = "SELECT pg_advisory_xact_lock(uuid_hash_extended(%s, 0))"
    with holding(server.database, trail, (user.id,)) as (session, waiting), ThreadPoolExecutor() as pool:
        done = pool.submit(act)
        wait_for(lambda: len(waiting()) == 1)
        session.execute("SELECT FROM todos WHERE user_id = %s AND id = %s FOR UPDATE", (user.id, todo))
        session.rollback()
        assert done.result().status_code == 200, done.result().text
    assert user.client.get(f"/v1/todos/{todo}").json()["title"] == "x"
    assert len(user.client.get("/v1/audit?table=todos").json()["items"]) == 3


@pytest.mark.parametrize("command", ["erase", "deactivate"])
def test_a_command_that_collides_with_requests_is_done_again(
    server: Server, new_user: Callable[..., User], command: str
) -> None:
    user, owner = new_user(), new_user()
    todo = todo_of(owner, assigned_to=str(user.id))
    with (
        holding(server.database, "SELECT FROM todos WHERE id = %s FOR UPDATE", (todo,)) as (session, waiting),
        ThreadPoolExecutor() as pool,
    ):
        option = "--yes" if command == "erase" else "--unassign"
        done = pool.submit(run, "users", command, user.email, option, **as_migrator(server.database))
        wait_for(lambda: len(waiting()) == 1)
        session.execute("SELECT FROM users WHERE id = %s FOR UPDATE", (user.id,))
        session.rollback()
        assert (done.result().returncode, done.result().stderr) == (0, "")
    assert owner.client.get(f"/v1/todos/{todo}").json()["assigned_to"] is None


@pytest.mark.parametrize("end", ["deactivation", "erasure"])
def test_the_end_of_an_account_waits_for_a_trail_longer_than_other_requests(
    server: Server, new_user: Callable[..., User], end: str
) -> None:
    """Such as of somebody who assigned it a todo, and now imports many others."""
    user, owner = new_user(), new_user()
    todo_of(owner, assigned_to=str(user.id))

    def act() -> httpx.Response:
        if end == "erasure":
            return user.client.delete("/v1/users/me?erase=true")
        return user.client.patch("/v1/users/me", json={"is_active": False})

    trail = "SELECT pg_advisory_xact_lock(uuid_hash_extended(%s, 0))"
    long_since = "SELECT count(*) FROM pg_locks WHERE NOT granted AND waitstart < now() - interval '2.2 s'"
    with (
        holding(server.database, trail, (owner.id,)) as (session, _),
        psycopg.connect(server.database.superuser_url, autocommit=True) as watching,
        ThreadPoolExecutor() as pool,
    ):
        done = pool.submit(act)
        wait_for(lambda: watching.execute(long_since).fetchone() == (1,) or done.done())
        session.rollback()
        assert done.result().status_code in {200, 204}, done.result().text


def test_what_comes_back_behind_a_change_of_any_version_was_not_there_for_it(
    server: Server, new_user: Callable[..., User]
) -> None:
    user = new_user()
    there = user.client.post("/v1/conversations", json={}).json()["id"]

    async def change(make: Callable[..., Caller]) -> str:
        patch = conversations.ConversationPatch(title="x")
        update = conversations._update(id=uuid4(), **conversations.changes(patch), version=None)
        with pytest.raises(Problem) as raised:
            await changed(make(user.id), update, conversations.GET(id=UUID(there)), "conversation")
        return raised.value.code

    assert in_process(server.database.service_url, change) == "not_found"
