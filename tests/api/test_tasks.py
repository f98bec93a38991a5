"""Specification A's tasks over HTTP: another face of the todos, the same rows."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.support.problems import problem

NewUser = Callable[..., Any]

JSON = {"Content-Type": "application/json"}
FIELDS = ["id", "user_id", "title", "description", "completed", "created_at", "updated_at"]
STATUSES = ("pending", "in_progress", "completed", "archived")
FUTURE = (datetime.now(UTC) + timedelta(days=30)).isoformat()


@pytest.fixture
def ada(new_user: NewUser) -> Any:
    return new_user()


def tasks(user: Any) -> str:
    return f"/api/{user.id}/tasks"


def create(user: Any, title: str = "Buy milk", **fields: Any) -> Any:
    made = user.client.post(tasks(user), json={"title": title, **fields})
    assert made.status_code == 201, made.text
    return made.json()


def create_todo(user: Any, title: str = "Buy milk", **fields: Any) -> Any:
    made = user.client.post("/v1/todos", json={"title": title, **fields})
    assert made.status_code == 201, made.text
    return made.json()


def get(user: Any, path: str, **parameters: Any) -> Any:
    answer = user.client.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def as_task(todo: Any) -> Any:
    """The task that a todo is."""
    return {**{name: todo[name] for name in FIELDS}, "id": todo["number"]}


def titles(user: Any, **parameters: str) -> list[str]:
    return [task["title"] for task in get(user, tasks(user), **parameters)]


def shown(answer: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    """All of an answer but when it was given."""
    return answer.status_code, {name: value for name, value in answer.headers.items() if name != "date"}, answer.content


def test_a_task_is_made_and_can_be_read_back(ada: Any) -> None:
    made = ada.client.post(tasks(ada), json={"title": " Buy <milk> ", "description": "two\nbottles"})
    task = made.json()
    assert made.status_code == 201
    assert list(task) == FIELDS
    expected = {
        "id": 1,
        "user_id": str(ada.id),
        "title": " Buy <milk> ",
        "description": "two\nbottles",
        "completed": False,
    }
    assert expected.items() <= task.items()
    assert made.headers["location"] == f"{tasks(ada)}/1"
    found = ada.client.get(made.headers["location"])
    assert found.json() == task
    assert found.headers["etag"] == made.headers["etag"] == '"1"'
    assert ada.client.get(made.headers["location"], headers={"If-None-Match": '"1"'}).status_code == 304
    assert create(ada)["description"] is None
    assert get(ada, "/v1/todos/2")["priority"] == "medium"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"title": ""}, "title"),
        ({"title": " \u200b"}, "title"),
        ({"title": "x" * 201}, "title"),
        ({"title": None}, "title"),
        ({"title": 1}, "title"),
        ({"description": "x" * 1001}, "description"),
        ({"description": 1}, "description"),
        ({"status": "pending"}, "status"),
        ({"priority": "low"}, "priority"),
        ({"number": 1}, "number"),
        ({"completed": "yes"}, "completed"),
    ],
)
def test_a_field_that_breaks_a_rule_is_named(ada: Any, fields: dict[str, Any], field: str) -> None:
    task = create(ada)
    body = {"title": "x", **fields}
    problem(ada.client.post(tasks(ada), json=body), 422, "validation_failed", field=field)
    problem(ada.client.put(f"{tasks(ada)}/1", json=body), 422, "validation_failed", field=field)
    assert get(ada, tasks(ada)) == [task]


def test_a_task_may_be_made_completed(ada: Any) -> None:
    assert create(ada, completed=True)["completed"] is True
    assert get(ada, "/v1/todos/1")["completed_at"] is not None
    assert create(ada, completed=False)["completed"] is False


def test_a_task_s_own_fields_may_be_sent_back_and_are_ignored(ada: Any) -> None:
    task = create(ada, "first")
    copy = ada.client.post(tasks(ada), json={**task, "title": "second"})
    assert copy.status_code == 201
    assert (copy.json()["id"], copy.json()["title"]) == (2, "second")
    odd = {"id": "x", "user_id": 5, "created_at": None, "updated_at": []}
    changed = ada.client.put(f"{tasks(ada)}/1", json={**odd, "completed": True})
    assert changed.status_code == 200
    assert {**task, "completed": True, "updated_at": changed.json()["updated_at"]} == changed.json()


def test_what_one_face_makes_and_changes_the_other_shows(ada: Any) -> None:
    create(ada, "by task")
    made = create_todo(ada, "by todo", description="d", status="in_progress", due_date=FUTURE, metadata={"a": 1})
    assert get(ada, tasks(ada)) == [as_task(get(ada, f"/v1/todos/{number}")) for number in (1, 2)]
    assert get(ada, "/v1/todos", order="number")["items"][1] == made
    # The todo's face changes what the task shows ...
    patched = ada.client.patch("/v1/todos/1", json={"title": "renamed", "status": "completed"})
    task = ada.client.get(f"{tasks(ada)}/1")
    assert task.json() == as_task(patched.json())
    assert task.json()["completed"] is True
    assert task.headers["etag"] == patched.headers["etag"] == '"2"'
    # ... and the task's face what the todo shows, and nothing that a task doesn't have.
    put = ada.client.put(f"{tasks(ada)}/2", json={"title": "replaced", "completed": True})
    todo = ada.client.get("/v1/todos/2")
    assert put.json() == as_task(todo.json())
    assert todo.headers["etag"] == put.headers["etag"] == '"2"'
    moved = ("title", "description", "status", "completed", "completed_at", "version", "updated_at")
    assert {name: value for name, value in todo.json().items() if name not in moved} == {
        name: value for name, value in made.items() if name not in moved
    }
    assert todo.json()["status"] == "completed"
    assert todo.json()["completed_at"] == todo.json()["updated_at"]
    ada.client.patch(f"{tasks(ada)}/2/complete")
    assert get(ada, "/v1/todos/2")["completed_at"] is None
    assert ada.client.delete(f"{tasks(ada)}/2").status_code == 204
    problem(ada.client.get(f"/v1/todos/{made['id']}"), 404, "not_found")
    ada.client.delete("/v1/todos/1")
    problem(ada.client.get(f"{tasks(ada)}/1"), 404, "not_found")
    assert create(ada)["id"] == 3


def test_put_changes_what_is_sent_and_leaves_what_is_left_out(ada: Any) -> None:
    path = f"{tasks(ada)}/{create(ada, description='two bottles')['id']}"

    def put(**body: Any) -> tuple[Any, Any, Any]:
        answer = ada.client.put(path, json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json() == get(ada, path)
        return answer.json()["title"], answer.json()["description"], answer.json()["completed"]

    assert put(title="a", description="d") == ("a", "d", False)
    assert put(title="b", description="d", completed=True) == ("b", "d", True)
    assert put(title="c") == ("c", "d", True)
    assert put(description=None) == ("c", None, True)
    assert put() == ("c", None, True)
    assert put(title="c", completed=None) == ("c", None, True)
    assert put(title="c", completed=False) == ("c", None, False)
    version = ada.client.get(path).headers["etag"]
    assert put(title="c", completed=False) == ("c", None, False)
    assert ada.client.get(path).headers["etag"] == version
    ada.client.patch("/v1/todos/1", json={"status": "in_progress"})
    assert put(title="c", completed=False) == ("c", None, False)
    assert get(ada, "/v1/todos/1")["status"] == "in_progress"
    assert put(description="x") == ("c", "x", False)
    problem(ada.client.put(path, json={"title": None}), 422, "validation_failed", field="title")
    problem(ada.client.put(path, json={"title": "x", "completed": "yes"}), 422, "validation_failed", field="completed")


@pytest.mark.parametrize("before", STATUSES)
def test_completing_toggles_or_sets_and_keeps_to_the_transitions(ada: Any, before: str) -> None:
    path = f"{tasks(ada)}/{create_todo(ada, status=before)['number']}"
    assert ada.client.get(path).json()["completed"] == (before == "completed")
    if before == "archived":
        problem(ada.client.patch(f"{path}/complete"), 409, "invalid_transition")
        problem(ada.client.patch(f"{path}/complete", json={"completed": True}), 409, "invalid_transition")
        problem(ada.client.put(path, json={"title": "x", "completed": True}), 409, "invalid_transition")
        assert ada.client.patch(f"{path}/complete", json={"completed": False}).json()["completed"] is False
        assert get(ada, "/v1/todos/1")["status"] == "archived"
        return
    toggled = ada.client.patch(f"{path}/complete")
    assert (toggled.status_code, toggled.json()["completed"]) == (200, before != "completed")
    assert toggled.json() == get(ada, path)
    back = ada.client.patch(f"{path}/complete")
    assert back.json()["completed"] == (before == "completed")
    assert get(ada, "/v1/todos/1")["status"] == ("completed" if before == "completed" else "pending")
    for wanted in (True, True, False, False):
        earlier = ada.client.get(path)
        answer = ada.client.patch(f"{path}/complete", json={"completed": wanted})
        assert answer.json()["completed"] == wanted
        assert (answer.json() == earlier.json()) == (earlier.json()["completed"] == wanted)


def test_a_body_of_complete_is_an_object_or_absent(ada: Any) -> None:
    path = f"{tasks(ada)}/{create(ada)['id']}/complete"
    for body in (b"null", b"{}", b"true", b"[]", b'{"completed": null}', b'{"completed": 1}', b'{"done": true}'):
        problem(ada.client.patch(path, content=body, headers=JSON), 422, "validation_failed")
    for body in (b"{", b" ", b"\xff"):
        problem(ada.client.patch(path, content=body, headers=JSON), 400, "malformed_request")
    text = ada.client.patch(path, content=b"true", headers={"Content-Type": "text/plain"})
    problem(text, 415, "unsupported_media_type")
    assert get(ada, f"{tasks(ada)}/1")["completed"] is False
    assert ada.client.patch(path, headers=JSON).json()["completed"] is True
    assert ada.client.patch(path, content=b"").json()["completed"] is False


def test_the_list_is_a_bare_array_in_order_of_creation_without_the_archived(ada: Any) -> None:
    assert get(ada, tasks(ada)) == []
    for status in STATUSES:
        create_todo(ada, status, status=status)
    found = ada.client.get(tasks(ada))
    assert [task["title"] for task in found.json()] == ["pending", "in_progress", "completed"]
    assert "link" not in found.headers
    assert found.json() == [as_task(get(ada, f"/v1/todos/{number}")) for number in (1, 2, 3)]
    assert titles(ada, status="all") == ["pending", "in_progress", "completed"]
    assert titles(ada, status="pending") == ["pending", "in_progress"]
    assert titles(ada, status="completed") == ["completed"]


def test_the_list_sorts_by_creation_title_and_due_date(ada: Any) -> None:
    days = {"b": 3, "d": None, "a": 1, "c": None, "e": 2, "f": 1}
    for title, day in days.items():
        create_todo(ada, title, due_date=day and f"2031-01-0{day}T00:00:00Z")
    ada.client.patch("/v1/todos/1", json={"description": "touched"})
    assert titles(ada) == titles(ada, sort="created") == list(days)
    assert titles(ada, sort="title") == sorted(days)
    assert titles(ada, sort="due_date") == ["a", "f", "e", "b", "d", "c"]
    ada.client.patch(f"{tasks(ada)}/3/complete")
    assert titles(ada, sort="due_date", status="pending") == ["f", "e", "b", "d", "c"]


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"status": "archived"}, "status"),
        ({"status": "in_progress"}, "status"),
        ({"sort": "-title"}, "sort"),
        ({"limit": "1"}, "limit"),
        ({"status": ["all", "all"]}, "status"),
    ],
)
def test_a_parameter_that_is_unknown_repeated_or_wrong_is_refused_by_name(
    ada: Any, parameters: dict[str, Any], field: str
) -> None:
    problem(ada.client.get(tasks(ada), params=parameters), 422, "validation_failed", field=field)


def test_more_tasks_than_a_page_has_are_all_listed(ada: Any) -> None:
    batch = {"create": [{"title": str(number)} for number in range(450)]}
    assert ada.client.post("/v1/todos/batch", json=batch).status_code == 200
    everything = [str(number) for number in range(450)]
    assert titles(ada) == titles(ada, sort="due_date") == everything
    assert titles(ada, sort="title") == sorted(everything)
    assert titles(ada, status="completed") == []
    answer = ada.client.head(tasks(ada))
    assert (answer.status_code, answer.content) == (200, b"")
    ada.client.patch("/v1/todos/300", json={"title": "<b>"}).raise_for_status()
    assert b'"title":"\\u003cb\\u003e"' in ada.client.get(tasks(ada)).content
    assert b'"title":"&lt;b&gt;"' in ada.client.get(tasks(ada), params={"escape": "html"}).content


def test_the_etag_guards_a_task(ada: Any) -> None:
    path = f"{tasks(ada)}/{create(ada)['id']}"
    assert ada.client.put(path, json={"title": "a"}, headers={"If-Match": '"1"'}).headers["etag"] == '"2"'
    for stale in ('"1"', '"3"', "2"):
        headers = {"If-Match": stale}
        problem(ada.client.put(path, json={"title": "b"}, headers=headers), 412, "version_mismatch")
        problem(ada.client.patch(f"{path}/complete", headers=headers), 412, "version_mismatch")
        problem(ada.client.delete(path, headers=headers), 412, "version_mismatch")
    assert ada.client.patch(f"{path}/complete", headers={"If-Match": '"2"'}).headers["etag"] == '"3"'
    assert ada.client.delete(path, headers={"If-Match": '"3"'}).status_code == 204
    problem(ada.client.delete(path), 404, "not_found")


def calls(user: str, task: int | str) -> list[tuple[str, str, Any]]:
    base = f"/api/{user}/tasks"
    return [
        ("GET", base, None),
        ("POST", base, {"title": "x"}),
        ("GET", f"{base}/{task}", None),
        ("PUT", f"{base}/{task}", {"title": "x", "completed": True}),
        ("PATCH", f"{base}/{task}/complete", None),
        ("PATCH", f"{base}/{task}/complete", {"completed": True}),
        ("DELETE", f"{base}/{task}", None),
    ]


def test_another_users_path_is_forbidden_whether_there_is_such_a_user_or_task_or_not(
    ada: Any, new_user: NewUser
) -> None:
    eve = new_user()
    task = create(ada)
    headers = {"X-Request-ID": "same"}
    answers = []
    for user, number in ((str(ada.id), 1), (str(ada.id), 9), ("018f4fd2-0000-7000-8000-000000000000", 1), ("x", 1)):
        found = [
            eve.client.request(method, path, json=body, headers=headers) for method, path, body in calls(user, number)
        ]
        for answer in found:
            problem(answer, 403, "forbidden")
        answers.append([shown(answer) for answer in found])
    assert answers == [answers[0]] * len(answers)
    assert get(ada, tasks(ada)) == [task]


def test_ones_own_path_meets_no_task_of_another_and_numbers_are_ones_own(ada: Any, new_user: NewUser) -> None:
    eve = new_user()
    task = create(ada)
    assigned = create_todo(ada, assigned_to=str(eve.id))
    for number in (task["id"], assigned["number"], 99, 0, -1, "x", "1.0", "01", 2**63 - 1, 2**63, assigned["id"]):
        for method, path, body in calls(str(eve.id), number)[2:]:
            problem(eve.client.request(method, path, json=body), 404, "not_found")
    assert get(eve, tasks(eve)) == []
    assert create(eve)["id"] == 1
    assert get(ada, tasks(ada)) == [task, as_task(assigned)]


def test_the_path_may_spell_the_user_in_capitals(ada: Any) -> None:
    task = create(ada)
    assert get(ada, f"/api/{str(ada.id).upper()}/tasks/1") == task


def test_without_a_token_nothing_is_answered_but_401(ada: Any, client: httpx.Client) -> None:
    create(ada)
    for method, path, body in calls(str(ada.id), 1):
        problem(client.request(method, path, json=body), 401, "unauthenticated")


def test_tasks_made_at_once_get_numbers_without_holes_or_doubles_from_both_faces(ada: Any) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda number: create(ada)["id"] if number % 2 else create_todo(ada)["number"], range(24))
        )
    assert sorted(found) == list(range(1, 25))


def test_toggles_at_once_each_count(ada: Any) -> None:
    path = f"{tasks(ada)}/{create(ada)['id']}/complete"
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: ada.client.patch(path), range(15)))
    assert [answer.status_code for answer in answers] == [200] * 15
    assert sorted(answer.headers["etag"] for answer in answers) == sorted(f'"{number}"' for number in range(2, 17))
    assert get(ada, f"{tasks(ada)}/1")["completed"] is True
