"""Somebody else's session holds what a request needs."""

import time
from collections.abc import Iterator

import psycopg
import pytest

from tests.faults.conftest import POOL_SIZE, Service
from tests.support.load import Ask, Stream, at_once, lateness, wait_for

LOCK_SECONDS = 2.0
"""lock_timeout of the service's sessions."""


@pytest.fixture
def other_session(service: Service) -> "Iterator[psycopg.Connection[tuple[object, ...]]]":
    """A session of an operator; what it holds, it holds until the test ends."""
    with psycopg.connect(service.server.database.superuser_url) as session:
        yield session
        session.rollback()


def test_a_change_of_a_locked_todo_is_refused_within_the_lock_timeout_and_others_are_not_slowed(
    service: Service, other_session: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    victim = service.users[0]
    other_session.execute("SELECT FROM todos WHERE id = %s FOR UPDATE", (service.todos[0],))
    reads = service.reads[1:]
    writes = service.creations("meanwhile")[1:]
    change = Ask("PATCH", f"/v1/todos/{service.todos[0]}", victim.token, {"title": "changed"})
    with lateness() as late, Stream(service.url, reads + writes, pause=0.01) as stream:
        (refused,) = at_once(service.url, [change])
    assert (refused.status, refused.code) == (503, "timeout")
    assert refused.retry_after
    assert LOCK_SECONDS - 0.1 < refused.seconds < LOCK_SECONDS + 1 + late()
    assert stream.statuses().keys() == {200, 201}
    assert len(stream.answers) > 100
    # Had one of them waited for the lock, or behind it, it would have taken its 2 s.
    assert max(answer.seconds for _, answer in stream.answers) < LOCK_SECONDS / 2 + late()
    # What is only read is not locked.
    assert at_once(service.url, service.reads[:1])[0].status == 200
    other_session.rollback()
    changed = victim.client.patch(f"/v1/todos/{service.todos[0]}", json={"title": "changed"})
    assert changed.status_code == 200


def test_a_user_who_waits_for_a_lock_many_times_over_holds_half_of_the_connections_at_most(
    service: Service, other_session: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    victim = service.users[0]
    other_session.execute("SELECT FROM todos WHERE id = %s FOR UPDATE", (service.todos[0],))
    flood = [Ask("PATCH", f"/v1/todos/{service.todos[0]}", victim.token, {"title": "changed"})] * 40
    reads = service.reads[1:]
    with lateness() as late, Stream(service.url, reads, pause=0.01) as stream:
        wait_for(lambda: len(stream.answers) > 20)
        started = time.monotonic()
        refused = at_once(service.url, flood)
        ended = time.monotonic()
    assert {(answer.status, answer.code) for answer in refused} == {(503, "timeout"), (503, "overloaded")}
    assert all(answer.retry_after for answer in refused)
    # Two seconds in the queue, then two for each of two locks, but in all no more than a transaction may take.
    assert max(answer.seconds for answer in refused) < 6 + late()
    meanwhile = [answer for _, answer in stream.answers if started < answer.at < ended]
    assert len(meanwhile) > 100
    assert {answer.status for answer in meanwhile} == {200}
    assert max(answer.seconds for answer in meanwhile) < LOCK_SECONDS / 2 + late()


def test_more_requests_than_connections_are_refused_soon_and_served_again_at_full_speed(
    service: Service, other_session: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    reads = service.reads * 10
    at_once(service.url, reads)
    started = time.monotonic()
    assert {answer.status for answer in at_once(service.url, reads)} == {200}
    usual = time.monotonic() - started

    other_session.execute("LOCK TABLE todos")
    with lateness() as late:
        answers = at_once(service.url, reads)
    assert {answer.status for answer in answers} == {503}
    assert {answer.code for answer in answers} <= {"timeout", "overloaded"}
    assert sum(answer.code == "overloaded" for answer in answers) >= len(reads) - 2 * POOL_SIZE
    assert all(answer.retry_after for answer in answers)
    # Two seconds in the queue; or less, and then two in the database.
    assert max(answer.seconds for answer in answers) < 6 + late()
    other_session.rollback()

    with lateness() as late:
        started = time.monotonic()
        assert {answer.status for answer in at_once(service.url, reads)} == {200}
        assert time.monotonic() - started < 3 * usual + 0.5 + late()
