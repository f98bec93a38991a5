"""Many at once: what must be decided once is decided once, and rules across rows hold whoever comes first."""

from collections import Counter
from collections.abc import Callable

import psycopg

from tests.conftest import Server, User
from tests.support.load import Ask, at_once


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
