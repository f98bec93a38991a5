"""Todos over HTTP: making, finding, changing and deleting them, alone and in batches."""

import itertools
from base64 import urlsafe_b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from psycopg import sql

from service.http.paging import encode_cursor
from service.todo_lists import TodoFilters
from tests.conftest import Server
from tests.support.load import in_parallel
from tests.support.problems import problem

NewUser = Callable[..., Any]

NOW = datetime.now(UTC)
A_TIME = "a time by RFC 3339, such as 2026-01-31T18:00:00Z"
PAST = (NOW - timedelta(days=2)).isoformat()
FUTURE = (NOW + timedelta(days=30)).isoformat()
FIELDS = [
    *("id", "number", "user_id", "title", "description", "status", "completed", "priority", "due_date"),
    *("assigned_to", "completed_at", "metadata", "version", "created_at", "updated_at"),
]
STATUSES = ("pending", "in_progress", "completed", "archived")


def create(client: httpx.Client, title: str = "Buy milk", **fields: Any) -> Any:
    made = client.post("/v1/todos", json={"title": title, **fields})
    assert made.status_code == 201, made.text
    return made.json()


def patch(client: httpx.Client, todo: Any, **fields: Any) -> httpx.Response:
    return client.patch(f"/v1/todos/{todo['id']}", json=fields)


def titles(client: httpx.Client, **parameters: Any) -> list[str]:
    answer = client.get("/v1/todos", params=parameters)
    assert answer.status_code == 200, answer.text
    return [todo["title"] for todo in answer.json()["items"]]


def walk(client: httpx.Client, **parameters: Any) -> list[Any]:
    """Every item of the list, page by page."""
    items: list[Any] = []
    cursor: dict[str, str] = {}
    for _ in range(100):
        page = client.get("/v1/todos", params={**parameters, **cursor})
        assert page.status_code == 200, page.text
        items += page.json()["items"]
        if page.json()["next_cursor"] is None:
            return items
        cursor = {"cursor": page.json()["next_cursor"]}
    pytest.fail("the list does not end")


def parse(text: str) -> datetime:
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


@pytest.fixture(scope="module")
def client(new_module_user: NewUser) -> httpx.Client:
    """Of a user whom those tests share that don't mind what else the user has."""
    return new_module_user().client


# Making


def test_a_todo_is_created_with_defaults_and_can_be_read_back(new_user: NewUser) -> None:
    ada = new_user()
    made = ada.client.post("/v1/todos", json={"title": "Buy milk"})
    todo = made.json()
    assert list(todo) == FIELDS
    expected = {
        "number": 1,
        "user_id": str(ada.id),
        "title": "Buy milk",
        "description": None,
        "status": "pending",
        "completed": False,
        "priority": "medium",
        "due_date": None,
        "assigned_to": None,
        "completed_at": None,
        "metadata": {},
        "version": 1,
    }
    assert expected.items() <= todo.items()
    assert UUID(todo["id"]).version == 7
    assert parse(todo["created_at"]) == parse(todo["updated_at"])
    assert made.headers["location"] == f"/v1/todos/{todo['id']}"
    assert made.headers["etag"] == '"1"'
    found = ada.client.get(made.headers["location"])
    assert found.json() == todo
    assert found.headers["etag"] == '"1"'


def test_a_todo_keeps_everything_it_was_created_with(new_user: NewUser) -> None:
    ada, bob = new_user(), new_user()
    sent = {
        "title": '  Dîner à 8 — <b>&amp; "quotes"</b> 🎉 ',
        "description": "line\nbreak\ttab \u200d",
        "status": "in_progress",
        "priority": "urgent",
        "due_date": "2031-05-06T07:08:09.123456+02:00",
        "assigned_to": str(bob.id),
        "metadata": {"tags": ["a", {"b": None}], "n": 12345678901234567890123, "x": 1.5, "<k>": "&"},
    }
    todo = create(ada.client, **sent)
    assert todo == {**todo, **sent, "due_date": "2031-05-06T05:08:09.123456Z"}
    assert ada.client.get(f"/v1/todos/{todo['id']}").json() == todo


def test_numbers_count_from_one_for_each_owner_and_are_never_reused(new_user: NewUser) -> None:
    ada, bob = new_user(), new_user()
    assert [create(ada.client)["number"] for _ in range(3)] == [1, 2, 3]
    assert create(bob.client)["number"] == 1
    assert ada.client.delete("/v1/todos/3").status_code == 204
    assert create(ada.client)["number"] == 4


UNFIT = {
    '{"title": 5}': ("title", "must be a string"),
    '{"title": ""}': ("title", "must have at least 1 character"),
    '{"title": null}': ("title", "must be a string"),
    '{"title": "x", "due_date": 5}': ("due_date", f"must be {A_TIME} or null"),
    '{"title": "x", "due_date": "tomorrow"}': ("due_date", f"must be {A_TIME}"),
    '{"title": "x", "assigned_to": 5}': ("assigned_to", "must be a UUID or null"),
    '{"title": "x", "assigned_to": "5"}': ("assigned_to", "must be a UUID"),
    '{"title": "x", "metadata": []}': ("metadata", "must be an object"),
    "[]": ("body", "must be an object"),
}


@pytest.mark.parametrize("body", UNFIT)
def test_what_a_field_must_be_is_said_in_words(new_module_user: NewUser, body: str) -> None:
    answer = new_module_user().client.post("/v1/todos", content=body, headers={"Content-Type": "application/json"})
    field, message = UNFIT[body]
    assert (answer.status_code, answer.json()["errors"]) == (422, [{"field": field, "message": message}])


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("limit=0", "must be at least 1"),
        ("limit=-1", "must be at least 1"),
        ("limit=201", "must be at most 200"),
        (f"limit={10**30}", "must be at most 200"),
        ("limit=many", "must be a whole number"),
        ("overdue=1", "must be true or false"),
        ("q=", "must have at least 1 character"),
        ("due_after=2026-11-27T00:00:00+02:00", f"must be {A_TIME}; + is written as %2B in a URL"),
        ("due_before=tomorrow", f"must be {A_TIME}"),
    ],
)
def test_what_a_filter_must_be_is_said_in_words(new_module_user: NewUser, query: str, message: str) -> None:
    answer = new_module_user().client.get(f"/v1/todos?{query}")
    assert (answer.status_code, answer.json()["errors"]) == (
        422,
        [{"field": query.partition("=")[0], "message": message}],
    )


def test_whom_a_todo_cannot_be_assigned_to_is_answered_alike_whoever_it_is(new_user: NewUser) -> None:
    ada, inactive, gone, erased = new_user(), new_user(), new_user(), new_user()
    inactive.client.patch("/v1/users/me", json={"is_active": False})
    assert gone.client.delete("/v1/users/me").status_code == 204
    create(erased.client)
    assert erased.client.delete("/v1/users/me?erase=true").status_code == 204
    todo = create(ada.client)["id"]
    nobody = [str(user.id) for user in (inactive, gone, erased)] + [str(uuid4()), todo]
    answers = [ada.client.post("/v1/todos", json={"title": "x", "assigned_to": user}) for user in nobody]
    answers += [ada.client.patch(f"/v1/todos/{todo}", json={"assigned_to": user}) for user in nobody]
    for answer in answers:
        problem(answer, 422, "validation_failed", field="assigned_to")
    assert len({str({**answer.json(), "request_id": ""}) for answer in answers}) == 1


def test_a_value_that_is_none_of_some_is_answered_with_those(new_module_user: NewUser) -> None:
    me = new_module_user()
    said = "must be one of: pending, in_progress, completed, archived"
    batch = {"create": [{"title": "x"}, {"title": "x", "status": "robot"}]}
    for answer, field in (
        (me.client.post("/v1/todos", json={"title": "x", "status": "robot"}), "status"),
        (me.client.post("/v1/todos/batch", json=batch), "create[1].status"),
        (me.client.get("/v1/todos", params={"status": ["pending", "robot"]}), "status"),
    ):
        assert answer.status_code == 422
        assert answer.json()["errors"] == [{"field": field, "message": said}]


BROKEN_RULES: list[tuple[dict[str, Any], str]] = [
    ({}, "title"),
    ({"title": None}, "title"),
    ({"title": 5}, "title"),
    ({"title": ""}, "title"),
    ({"title": " \t\n"}, "title"),
    ({"title": "\u200b\ufeff\u2060\u00ad\u3164"}, "title"),
    ({"title": "\U000e0020\U000e0100\U0001d173\U0001bca0 "}, "title"),
    ({"title": "x" * 201}, "title"),
    ({"title": "x" * 1001}, "title"),
    ({"description": "x" * 1001}, "description"),
    ({"description": 1}, "description"),
    ({"status": "done"}, "status"),
    ({"status": None}, "status"),
    ({"priority": "asap"}, "priority"),
    ({"priority": 1}, "priority"),
    ({"due_date": "tomorrow"}, "due_date"),
    ({"due_date": "2030-01-01T00:00:00"}, "due_date"),
    ({"due_date": "2030-01-01"}, "due_date"),
    ({"due_date": 1893456000}, "due_date"),
    ({"due_date": "1969-12-31T23:59:59Z"}, "due_date"),
    ({"due_date": "1970-01-01T00:00:00+00:01"}, "due_date"),
    ({"due_date": "9999-12-31T23:59:59-14:00"}, "due_date"),
    ({"due_date": "9999-12-31T23:59:59.9999999Z"}, "due_date"),
    ({"due_date": "0001-01-01T00:00:00+14:00"}, "due_date"),
    ({"assigned_to": "bob"}, "assigned_to"),
    ({"assigned_to": 7}, "assigned_to"),
    ({"metadata": []}, "metadata"),
    ({"metadata": "x"}, "metadata"),
    ({"metadata": None}, "metadata"),
    ({"metadata": {"k": "x" * 16384}}, "metadata"),
    ({"metadata": {"k": "é" * 8192}}, "metadata"),
    ({"completed": True}, "completed"),
    ({"id": "018f4fd2-0000-7000-8000-000000000000"}, "id"),
    ({"number": 7}, "number"),
    ({"user_id": "018f4fd2-0000-7000-8000-000000000000"}, "user_id"),
    ({"version": 3}, "version"),
    ({"created_at": "2030-01-01T00:00:00Z"}, "created_at"),
    ({"updated_at": "2030-01-01T00:00:00Z"}, "updated_at"),
]


def test_a_field_that_breaks_a_rule_is_named(client: httpx.Client, subtests: pytest.Subtests) -> None:
    todo = create(client)
    for fields, field in BROKEN_RULES:
        before = client.get("/v1/todos").json()
        body = fields if field == "title" else {"title": "x", **fields}
        with subtests.test(fields=fields):
            problem(client.post("/v1/todos", json=body), 422, "validation_failed", field=field)
            if fields:
                problem(patch(client, todo, **fields), 422, "validation_failed", field=field)
            assert client.get("/v1/todos").json() == before


@pytest.mark.parametrize(
    "fields",
    [
        {"title": "x" * 200},
        {"title": " " * 100 + "é" * 200 + " " * 100},
        {"title": "\u200bx"},
        {"description": "x" * 1000},
        {"description": ""},
        {"description": None},
        {"due_date": "1970-01-01T00:00:00Z"},
        {"due_date": "9999-12-31T23:59:59.999999Z"},
        {"due_date": "9999-12-31T09:59:59-14:00"},
        {"due_date": None},
        {"assigned_to": None},
        {"completed_at": None},
        {"metadata": {"k": "x" * (16384 - 9)}},
        {"metadata": {"": [[[]]], "k": [10**300, -(10**300), 0, 1e-300]}},
    ],
)
def test_what_a_rule_just_allows_is_kept_as_it_is(client: httpx.Client, fields: dict[str, Any]) -> None:
    todo = create(client, **fields)
    expected = {**fields, **({"due_date": todo["due_date"]} if fields.get("due_date") else {})}
    assert expected.items() <= todo.items()
    assert client.get(f"/v1/todos/{todo['id']}").json() == todo
    assert patch(client, todo, **fields).json()["version"] == 1


# Finding one


def test_a_todo_is_found_by_its_id_and_by_its_number(new_user: NewUser) -> None:
    client = new_user().client
    todo = create(client)
    for reference in (todo["id"], todo["id"].upper(), "1"):
        assert client.get(f"/v1/todos/{reference}").json() == todo


NO_REFERENCES = [
    "99999",
    "0",
    "-1",
    "01",
    "1.0",
    "9999999999",
    "9" * 18,
    "9" * 40,
    "x",
    "%00",
    "%F0%9F%8E%89",
    "١",
    "018f4fd2-0000-7000-8000-000000000000",
    "018f4fd2000070008000000000000000",
    "018f4fd2-00007-000-8000-000000000000",
    "{018f4fd2-0000-7000-8000-00000000000}",
]


def test_a_reference_to_nothing_is_not_found_whatever_it_looks_like(
    client: httpx.Client, subtests: pytest.Subtests
) -> None:
    create(client)
    missing = problem(client.get(f"/v1/todos/{uuid4()}"), 404, "not_found")
    for reference, method in itertools.product(NO_REFERENCES, ("GET", "PATCH", "DELETE")):
        body = {"title": "y"} if method == "PATCH" else None
        with subtests.test(f"{method} {reference}"):
            answer = client.request(method, f"/v1/todos/{reference}", json=body)
            assert problem(answer, 404, "not_found") == {**missing, "request_id": answer.headers["x-request-id"]}


def test_a_strangers_todo_is_answered_like_a_missing_one(new_user: NewUser) -> None:
    ada, eve = new_user(), new_user()
    todo = create(ada.client)
    for method, body in (("GET", None), ("PATCH", {"title": "mine"}), ("DELETE", None)):
        theirs = eve.client.request(method, f"/v1/todos/{todo['id']}", json=body, headers={"X-Request-ID": "same"})
        nobodys = eve.client.request(method, f"/v1/todos/{uuid4()}", json=body, headers={"X-Request-ID": "same"})
        assert theirs.content == nobodys.content
        assert theirs.status_code == nobodys.status_code == 404
    problem(eve.client.get("/v1/todos/1"), 404, "not_found")
    assert titles(eve.client, scope="all") == []
    assert ada.client.get("/v1/todos/1").json() == todo


def test_if_none_match_spares_an_unchanged_todo(new_user: NewUser) -> None:
    client = new_user().client
    todo = create(client)
    path = f"/v1/todos/{todo['id']}"
    for known in ('"1"', 'W/"1"', '"7", "1"', "*"):
        answer = client.get(path, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", '"1"')
        assert answer.headers["x-request-id"]
    for other in ('"2"', '"11"', "1", "garbage"):
        assert client.get(path, headers={"If-None-Match": other}).json() == todo
    patch(client, todo, title="Buy bread")
    changed = client.get(path, headers={"If-None-Match": '"1"'})
    assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')


# Lists


@pytest.fixture(scope="module")
def filled(new_module_user: NewUser) -> Any:
    """A user with todos of every status, priority and kind of due date."""
    ada = new_module_user()
    due = {"none": None, "past": PAST, "future": FUTURE}
    for status, priority, (name, when) in itertools.product(STATUSES, ("low", "high", "urgent"), due.items()):
        if status == "completed" and name == "past":
            todo = create(ada.client, f"{status} {priority} {name}", priority=priority, due_date=when)
            assert patch(ada.client, todo, status="completed").status_code == 200
        else:
            create(ada.client, f"{status} {priority} {name}", status=status, priority=priority, due_date=when)
    return ada


FILTERS: list[tuple[dict[str, Any], Callable[[str, str, str], bool]]] = [
    ({"status": "pending"}, lambda s, _p, _d: s == "pending"),
    ({"status": ["pending", "archived"]}, lambda s, _p, _d: s in ("pending", "archived")),
    ({"completed": "true"}, lambda s, _p, _d: s == "completed"),
    ({"completed": "false"}, lambda s, _p, _d: s != "completed"),
    ({"priority": "urgent"}, lambda _s, p, _d: p == "urgent"),
    ({"priority": ["low", "urgent"]}, lambda _s, p, _d: p in ("low", "urgent")),
    ({"priority": "medium"}, lambda _s, _p, _d: False),
    ({"due_before": NOW.isoformat()}, lambda _s, _p, d: d == "past"),
    ({"due_after": NOW.isoformat()}, lambda _s, _p, d: d == "future"),
    ({"due_before": FUTURE}, lambda _s, _p, d: d == "past"),
    ({"due_after": PAST, "due_before": FUTURE}, lambda _s, _p, d: d == "past"),
    ({"due_before": PAST}, lambda _s, _p, _d: False),
    ({"due_after": FUTURE}, lambda _s, _p, d: d == "future"),
    ({"overdue": "true"}, lambda s, _p, d: d == "past" and s in ("pending", "in_progress")),
    ({"overdue": "false"}, lambda s, _p, d: not (d == "past" and s in ("pending", "in_progress"))),
    (
        {"status": ["pending", "completed"], "completed": "false", "priority": ["high", "low"], "overdue": "true"},
        lambda s, p, d: s == "pending" and p in ("high", "low") and d == "past",
    ),
]


@pytest.mark.parametrize("order", ["-created_at", "due_date", "priority", "-number", "updated_at"])
def test_a_filter_lists_what_it_says_and_nothing_else(filled: Any, order: str, subtests: pytest.Subtests) -> None:
    every = titles(filled.client, limit=200)
    for (parameters, wanted), scope in itertools.product(FILTERS, ("owned", "all")):
        with subtests.test(scope=scope, **parameters):
            found = titles(filled.client, **parameters, order=order, scope=scope, limit=200)
            assert sorted(found) == sorted(title for title in every if wanted(*title.split()))


RANKS = {"low": 1, "medium": 2, "high": 3, "urgent": 4}
KEYS: dict[str, Callable[[Any], Any]] = {
    "created_at": lambda todo: todo["created_at"],
    "updated_at": lambda todo: todo["updated_at"],
    "due_date": lambda todo: todo["due_date"],
    "priority": lambda todo: RANKS[todo["priority"]],
    "number": lambda todo: todo["number"],
}


@pytest.fixture(scope="module")
def worker(new_module_user: NewUser) -> Any:
    """A user to whom another assigned todos of every kind of due date."""
    boss, worker = new_module_user(), new_module_user()
    operations = [
        {"title": f"{n}", "assigned_to": str(worker.id), "priority": priority, "due_date": due}
        for n, (priority, due) in enumerate(itertools.product(("urgent", "low", "high"), (None, PAST, FUTURE)))
    ]
    assert boss.client.post("/v1/todos/batch", json={"create": operations}).status_code == 200
    return worker


@pytest.mark.parametrize("scope", ["owned", "assigned", "all"])
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("key", KEYS)
def test_every_order_sorts_both_ways_with_null_due_dates_last_page_by_page(
    filled: Any, worker: Any, key: str, descending: bool, scope: str
) -> None:
    client = (worker if scope == "assigned" else filled).client
    order = f"-{key}" if descending else key
    whole = client.get("/v1/todos", params={"order": order, "limit": 200, "scope": scope}).json()
    assert whole["next_cursor"] is None
    items = whole["items"]
    assert len(items) == (9 if scope == "assigned" else 36)
    values = [KEYS[key](todo) for todo in items]
    dated = [value for value in values if value is not None]
    assert dated == sorted(dated, reverse=descending)
    assert values == dated + [None] * (len(values) - len(dated))
    if key == "due_date":
        assert len(dated) < len(values)
    for limit in (1, 4, len(items)):
        if limit == 1 and scope != "owned":
            continue
        paged = walk(client, order=order, limit=limit, scope=scope)
        assert [todo["id"] for todo in paged] == [todo["id"] for todo in items]


def test_the_default_is_fifty_of_ones_own_newest_first(new_user: NewUser) -> None:
    ada, bob = new_user(), new_user()
    assert ada.client.get("/v1/todos").json() == {"items": [], "next_cursor": None}
    for start in (0, 30):
        ada.client.post("/v1/todos/batch", json={"create": [{"title": f"{start + n}"} for n in range(30)]})
    create(bob.client, "assigned", assigned_to=str(ada.id))
    page = ada.client.get("/v1/todos")
    assert [todo["number"] for todo in page.json()["items"]] == list(range(60, 10, -1))
    assert len(walk(ada.client)) == 60


def test_a_link_header_leads_to_the_next_page(new_user: NewUser) -> None:
    client = new_user().client
    for n in range(5):
        create(client, f"{n}")
    first = client.get("/v1/todos", params={"limit": 3, "order": "number", "status": ["pending", "archived"]})
    link = first.headers["link"]
    target, relation = link.split("; ")
    assert relation == 'rel="next"'
    url = urlsplit(target.strip("<>"))
    assert parse_qs(url.query)["cursor"] == [first.json()["next_cursor"]]
    second = client.get(f"{url.path}?{url.query}")
    assert [todo["title"] for todo in second.json()["items"]] == ["3", "4"]
    assert "link" not in second.headers
    assert second.json()["next_cursor"] is None


@pytest.mark.parametrize("noun", ["todo", "conversation"])
@pytest.mark.parametrize("ahead", [[], [3], [3, 2]])
def test_a_change_during_a_walk_is_not_missed_where_rows_were_imported_from_a_clock_that_is_ahead(
    new_user: NewUser, server: Server, noun: str, ahead: list[int]
) -> None:
    ada = new_user()
    path = f"/v1/{noun}s"
    ids = [ada.client.post(path, json={"title": f"{number}"}).json()["id"] for number in range(4)]
    with psycopg.connect(server.database.superuser_url) as connection:
        connection.execute("SET session_replication_role = replica")  # no triggers
        update = "UPDATE {} SET updated_at = now() + interval '50 seconds' WHERE user_id = %s AND id = ANY (%s::uuid[])"
        connection.execute(
            sql.SQL(update).format(sql.Identifier(f"{noun}s")), (ada.id, [ids[number] for number in ahead])
        )
    seen: list[Any] = []
    parameters = {"order": "-updated_at", "limit": "1"}
    while "cursor" not in parameters or parameters["cursor"]:
        page = ada.client.get(path, params=parameters).json()
        seen += page["items"]
        parameters["cursor"] = page["next_cursor"]
        if len(seen) == 3:
            assert ada.client.patch(f"{path}/{ids[0]}", json={"title": "changed"}).status_code == 200
        assert len(seen) <= 20

    assert {found["id"] for found in seen} == set(ids)
    assert "changed" in [found["title"] for found in seen if found["id"] == ids[0]]


@pytest.mark.parametrize("order", ["created_at", "-created_at", "number", "-number", "due_date", "priority"])
def test_pages_show_each_todo_once_while_others_are_made(new_user: NewUser, order: str) -> None:
    client = new_user().client
    due = itertools.cycle((None, FUTURE))
    before = {create(client, f"{n}", due_date=next(due))["id"] for n in range(12)}
    seen: list[str] = []
    parameters: dict[str, Any] = {"order": order, "limit": 3}
    while True:
        page = client.get("/v1/todos", params=parameters).json()
        seen += [todo["id"] for todo in page["items"]]
        if page["next_cursor"] is None or len(seen) > 60:
            break
        parameters["cursor"] = page["next_cursor"]
        if len(seen) < 30:
            create(client, "in between", due_date=next(due), priority="urgent")
    assert len(seen) == len(set(seen))
    assert before <= set(seen)


WRONG_PARAMETERS: list[dict[str, Any]] = [
    {"limit": 0},
    {"limit": 201},
    {"limit": "many"},
    {"limit": "1.0"},
    {"limit": -1},
    {"limit": "9" * 40},
    {"limit": [1, 2]},
    {"status": "done"},
    {"status": ""},
    {"status": ["pending", "done"]},
    {"completed": "yes"},
    {"completed": ["true", "true"]},
    {"priority": "1"},
    {"due_before": "tomorrow"},
    {"due_before": "2030-01-01T00:00:00"},
    {"due_after": "9999-12-31T23:59:59-14:00"},
    {"overdue": "1"},
    {"scope": "everybody"},
    {"order": "title"},
    {"order": "+number"},
    {"order": "--number"},
    {"order": ["number", "number"]},
    {"colour": "red"},
    {"Limit": "5"},
    {"offset": "5"},
]


def test_a_parameter_that_is_unknown_repeated_or_wrong_is_refused_by_name(
    client: httpx.Client, subtests: pytest.Subtests
) -> None:
    for parameters in WRONG_PARAMETERS:
        with subtests.test(**parameters):
            answer = client.get("/v1/todos", params=parameters)
            problem(answer, 422, "validation_failed", field=next(iter(parameters)))


# Cursors


def test_a_cursor_holds_for_its_own_filters_and_order_only(new_user: NewUser) -> None:
    client = new_user().client
    for n in range(3):
        create(client, f"{n}")
    cursor = client.get("/v1/todos", params={"limit": 1, "status": "pending"}).json()["next_cursor"]
    same = {"status": "pending", "cursor": cursor}
    assert titles(client, **same, limit=1) == ["1"]
    assert titles(client, **same, limit=200) == ["1", "0"]
    for other in (
        {"cursor": cursor},
        {**same, "status": "completed"},
        {**same, "status": ["pending", "completed"]},
        {**same, "order": "created_at"},
        {**same, "order": "-updated_at"},
        {**same, "completed": "false"},
        {**same, "priority": "low"},
        {**same, "overdue": "false"},
        {**same, "scope": "all"},
        {**same, "due_after": PAST},
    ):
        problem(client.get("/v1/todos", params=other), 422, "invalid_cursor")


def test_a_cursor_holds_whatever_the_order_of_the_statuses(new_user: NewUser) -> None:
    client = new_user().client
    for n in range(3):
        create(client, f"{n}")
    several = {"status": ["pending", "completed"], "priority": ["low", "medium"], "limit": 1}
    cursor = client.get("/v1/todos", params=several).json()["next_cursor"]
    same = {"status": ["completed", "pending", "completed"], "priority": ["medium", "low"], "cursor": cursor}
    assert titles(client, **same) == ["1", "0"]


@pytest.mark.parametrize("order", ["-created_at", "due_date", "-priority", "number"])
@pytest.mark.parametrize("scope", ["owned", "all"])
def test_a_cursor_that_is_not_ours_is_refused(client: httpx.Client, order: str, scope: str) -> None:
    for n in range(2):
        create(client, f"{n}")
    parameters = {"order": order, "scope": scope}
    cursor = client.get("/v1/todos", params={**parameters, "limit": 1}).json()["next_cursor"]
    question = TodoFilters(order=order, scope=scope, limit=1)  # type: ignore[arg-type]
    forged = [
        encode_cursor(question, key)
        for key in [
            (),
            ("x", uuid4()),
            (None, None),
            ([], {}),
            (2**64 - 1, uuid4()),
            (-(2**63), 5),
            (True, str(uuid4())),
            (1.5, uuid4()),
            ("2026-01-01T00:00:00", uuid4()),
            (datetime(1, 1, 1, tzinfo=UTC), uuid4(), "more"),
            ("\ud7ff" * 50, "x"),
        ]
    ]
    garbage = ["", "x", "====", "AAAA", "é", "gA", "w" * 5000, cursor[:-4], cursor[::-1], "A" + cursor[1:]]
    garbage += [urlsafe_b64encode(b"\x91" * 5000 + b"\xc0").decode()]  # lists in lists
    for bad in [*garbage, *forged]:
        problem(client.get("/v1/todos", params={**parameters, "cursor": bad}), 422, "invalid_cursor")
    problem(client.get("/v1/todos", params={**parameters, "cursor": [cursor, cursor]}), 422, "validation_failed")


def test_any_change_to_a_cursor_is_refused_or_leads_to_ones_own_todos_only(new_user: NewUser) -> None:
    ada, bob = new_user(), new_user()
    create(bob.client, "bob's")
    for n in range(2):
        create(ada.client, f"ada's {n}")
    cursor = ada.client.get("/v1/todos", params={"limit": 1}).json()["next_cursor"]
    for position in range(len(cursor)):
        changed = cursor[:position] + ("B" if cursor[position] == "A" else "A") + cursor[position + 1 :]
        answer = ada.client.get("/v1/todos", params={"cursor": changed})
        if answer.status_code == 200:
            assert all(todo["user_id"] == str(ada.id) for todo in answer.json()["items"])
        else:
            problem(answer, 422, "invalid_cursor")


def test_another_users_cursor_shows_nothing_of_theirs(new_user: NewUser) -> None:
    ada, eve = new_user(), new_user()
    for n in range(3):
        create(ada.client, f"ada's {n}")
        create(eve.client, f"eve's {n}")
    for order in ("created_at", "-created_at", "due_date", "priority", "number"):
        for scope in ("owned", "all"):
            parameters = {"order": order, "scope": scope}
            cursor = ada.client.get("/v1/todos", params={**parameters, "limit": 1}).json()["next_cursor"]
            answer = eve.client.get("/v1/todos", params={**parameters, "cursor": cursor})
            if answer.status_code == 200:
                assert all(todo["title"].startswith("eve's") for todo in answer.json()["items"])
            else:
                problem(answer, 422, "invalid_cursor")


# Changing


def test_a_patch_changes_what_it_names_and_moves_the_version(new_user: NewUser) -> None:
    client = new_user().client
    todo = create(client, description="two litres", due_date=FUTURE, metadata={"a": 1})
    changed = patch(client, todo, title="Buy oat milk", priority="high")
    assert changed.headers["etag"] == '"2"'
    now = changed.json()
    expected = {**todo, "title": "Buy oat milk", "priority": "high", "version": 2, "updated_at": now["updated_at"]}
    assert now == expected
    assert parse(now["updated_at"]) > parse(todo["updated_at"])
    assert client.get("/v1/todos/1").json() == now
    assert client.patch("/v1/todos/1", json={"title": "by number"}).json()["id"] == todo["id"]


def test_null_clears_what_may_be_null(new_user: NewUser) -> None:
    ada, bob = new_user(), new_user()
    todo = create(ada.client, description="x", due_date=FUTURE, assigned_to=str(bob.id), metadata={"a": 1})
    cleared = patch(ada.client, todo, description=None, due_date=None, assigned_to=None, completed_at=None)
    assert cleared.status_code == 200
    assert [cleared.json()[name] for name in ("description", "due_date", "assigned_to")] == [None] * 3
    assert patch(ada.client, todo, metadata={}).json()["metadata"] == {}
    for name in ("title", "status", "priority", "metadata"):
        problem(patch(ada.client, todo, **{name: None}), 422, "validation_failed", field=name)


@pytest.mark.parametrize("fields", [{}, {"title": "Buy milk"}, {"status": "pending"}, {"metadata": {"b": 2, "a": 1.0}}])
def test_a_patch_that_changes_nothing_moves_nothing(client: httpx.Client, fields: dict[str, Any]) -> None:
    todo = create(client, metadata={"a": 1, "b": 2})
    before = client.get(f"/v1/todos/{todo['id']}").content
    answer = patch(client, todo, **fields)
    assert answer.status_code == 200
    assert answer.content == before, "1.0 is the number that 1 is"
    assert answer.json()["version"] == 1
    assert answer.json()["updated_at"] == todo["updated_at"]
    assert answer.headers["etag"] == '"1"'


def test_a_todo_can_be_sent_back_as_it_was_read(new_user: NewUser) -> None:
    client = new_user().client
    todo = create(client, due_date=FUTURE)
    writable = ("title", "description", "status", "priority", "due_date", "assigned_to", "completed_at", "metadata")
    answer = patch(client, todo, **{name: todo[name] for name in writable})
    assert answer.json() == todo


def test_if_match_lets_the_current_version_through_and_no_other(new_user: NewUser) -> None:
    client = new_user().client
    todo = create(client)
    path = f"/v1/todos/{todo['id']}"
    for wrong in ('"2"', '"0"', "1", 'W/"1"', '"01"', '"x"', '"99999999999"', "garbage", ""):
        for answer in (
            client.patch(path, json={"title": "y"}, headers={"If-Match": wrong}),
            client.delete(path, headers={"If-Match": wrong}),
        ):
            problem(answer, 412, "version_mismatch")
    assert client.get(path).json() == todo
    assert client.patch(path, json={"title": "y"}, headers={"If-Match": '"1"'}).json()["version"] == 2
    problem(client.patch(path, json={"title": "z"}, headers={"If-Match": '"1"'}), 412, "version_mismatch")
    problem(client.patch("/v1/todos/1", json={"title": "z"}, headers={"If-Match": '"1"'}), 412, "version_mismatch")
    assert client.patch(path, json={"title": "z"}, headers={"If-Match": "*"}).json()["version"] == 3
    problem(client.delete(path, headers={"If-Match": '"2"'}), 412, "version_mismatch")
    assert client.delete(path, headers={"If-Match": '"3"'}).status_code == 204
    problem(client.delete(path, headers={"If-Match": '"3"'}), 404, "not_found")
    problem(client.patch(path, json={"title": "y"}, headers={"If-Match": "*"}), 404, "not_found")


def test_of_many_who_change_the_same_version_at_once_one_gets_through(new_user: NewUser) -> None:
    client = new_user().client
    create(client)
    statuses: list[int] = []

    def change(number: int) -> None:
        answer = client.patch("/v1/todos/1", json={"title": f"{number}"}, headers={"If-Match": '"1"'})
        statuses.append(answer.status_code)

    in_parallel(50, change)
    assert sorted(statuses) == [200] + [412] * 49
    assert client.get("/v1/todos/1").json()["version"] == 2


def test_todos_made_at_once_get_numbers_without_holes_or_doubles(new_user: NewUser) -> None:
    client = new_user().client
    numbers: list[int] = []
    in_parallel(50, lambda _: numbers.append(create(client)["number"]))
    assert sorted(numbers) == list(range(1, 51))


def test_delete_answers_204_and_the_todo_is_gone(new_user: NewUser) -> None:
    client = new_user().client
    todo = create(client)
    gone = client.delete(f"/v1/todos/{todo['id']}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert "content-type" not in gone.headers
    problem(client.get(f"/v1/todos/{todo['id']}"), 404, "not_found")
    problem(client.delete("/v1/todos/1"), 404, "not_found")


# Status, completed_at, due_date

ALLOWED = {
    "pending": {"pending", "in_progress", "completed", "archived"},
    "in_progress": {"in_progress", "pending", "completed", "archived"},
    "completed": {"completed", "pending", "in_progress", "archived"},
    "archived": {"archived", "pending"},
}


def test_a_status_changes_along_the_allowed_ways_only(client: httpx.Client, subtests: pytest.Subtests) -> None:
    for before, after in itertools.product(STATUSES, STATUSES):
        with subtests.test(before=before, after=after):
            todo = create(client, status=before)
            answer = patch(client, todo, status=after)
            if after not in ALLOWED[before]:
                problem(answer, 409, "invalid_transition")
                assert client.get(f"/v1/todos/{todo['id']}").json() == todo
                continue
            changed = answer.json()
            assert answer.status_code == 200
            assert (changed["status"], changed["completed"]) == (after, after == "completed")
            assert changed["version"] == (1 if before == after else 2)
            is_completed = after == "completed" or (before, after) == ("completed", "archived")
            assert (changed["completed_at"] is not None) == is_completed


def test_completed_at_is_set_kept_and_cleared_with_the_status(new_user: NewUser) -> None:
    client = new_user().client
    todo = create(client)
    completed = patch(client, todo, status="completed").json()
    assert parse(todo["created_at"]) <= parse(completed["completed_at"]) <= parse(completed["updated_at"])
    again = patch(client, todo, status="completed", title="other").json()
    assert again["completed_at"] == completed["completed_at"]
    archived = patch(client, todo, status="archived").json()
    assert archived["completed_at"] == completed["completed_at"]
    assert archived["completed"] is False
    restored = patch(client, todo, status="pending").json()
    assert restored["completed_at"] is None
    born_completed = create(client, status="completed")
    assert born_completed["completed_at"] == born_completed["created_at"]


def test_a_caller_may_say_when_it_was_completed(new_user: NewUser) -> None:
    client = new_user().client
    own = "2024-02-29T12:00:00Z"
    assert create(client, status="completed", completed_at=own)["completed_at"] == own
    todo = create(client)
    assert patch(client, todo, status="completed", completed_at=own).json()["completed_at"] == own
    other = "2024-03-01T12:00:00Z"
    assert patch(client, todo, status="completed", completed_at=other).json()["completed_at"] == other
    archived = create(client, status="completed", completed_at=own)
    assert patch(client, archived, status="archived").json()["completed_at"] == own


@pytest.mark.parametrize(
    "fields",
    [
        {"completed_at": PAST},
        {"completed_at": PAST, "status": "pending"},
        {"completed_at": PAST, "status": "in_progress"},
        {"completed_at": PAST, "status": "archived"},
        {"completed_at": FUTURE, "status": "completed"},
        {"completed_at": "1969-12-31T23:59:59Z", "status": "completed"},
    ],
)
def test_completed_at_without_completing_or_in_the_future_is_refused(
    client: httpx.Client, fields: dict[str, Any]
) -> None:
    problem(client.post("/v1/todos", json={"title": "x", **fields}), 422, "validation_failed", field="completed_at")
    problem(patch(client, create(client), **fields), 422, "validation_failed", field="completed_at")
    completed = create(client, status="completed")
    for fields_of_completed in ({"completed_at": PAST}, {"completed_at": None}):
        problem(patch(client, completed, **fields_of_completed), 422, "validation_failed", field="completed_at")


def test_a_past_due_date_is_fine_on_an_open_todo_and_refused_when_written_on_a_completed_one(new_user: NewUser) -> None:
    client = new_user().client
    overdue = create(client, due_date=PAST)
    assert titles(client, overdue="true") == ["Buy milk"]
    # Completing what was already overdue is fine, and so is sending its due date along unchanged.
    assert patch(client, overdue, status="completed", due_date=PAST).status_code == 200
    assert patch(client, overdue, status="completed", due_date=PAST).json()["version"] == 2
    assert patch(client, overdue, description="late").status_code == 200
    assert titles(client, overdue="true") == []
    problem(patch(client, overdue, due_date="2020-01-01T00:00:00Z"), 422, "validation_failed", field="due_date")
    assert patch(client, overdue, due_date=FUTURE).status_code == 200
    assert patch(client, overdue, due_date=None).status_code == 200
    refused = client.post("/v1/todos", json={"title": "x", "status": "completed", "due_date": PAST})
    problem(refused, 422, "validation_failed", field="due_date")
    problem(
        patch(client, create(client), status="completed", due_date=PAST), 422, "validation_failed", field="due_date"
    )
    late = {"id": create(client)["id"], "status": "completed", "due_date": PAST}
    refused = client.post("/v1/todos/batch", json={"update": [late]})
    problem(refused, 422, "validation_failed", field="update[0].due_date", list="update", index=0)
    # Reopening it by the same call makes it an open one.
    completed = create(client, status="completed")
    assert patch(client, completed, status="pending", due_date=PAST).status_code == 200


# Assignment


def test_an_assignee_reads_the_todo_and_changes_its_status_and_nothing_else(new_user: NewUser) -> None:
    ada, bob = new_user(), new_user()
    create(ada.client, "ada's own")
    todo = create(ada.client, "for bob", assigned_to=str(bob.id))
    path = f"/v1/todos/{todo['id']}"
    assert bob.client.get(path).json() == todo
    assert titles(bob.client) == []
    assert titles(bob.client, scope="assigned") == ["for bob"]
    assert titles(bob.client, scope="all") == ["for bob"]
    assert titles(ada.client, scope="assigned") == []
    assert sorted(titles(ada.client, scope="all")) == ["ada's own", "for bob"]
    done = bob.client.patch(path, json={"status": "completed"})
    assert done.json()["completed_at"] is not None
    assert bob.client.patch(path, json={"status": "in_progress"}).json()["version"] == 3
    for fields in (
        {"title": "mine"},
        {"description": "x"},
        {"priority": "low"},
        {"due_date": FUTURE},
        {"assigned_to": None},
        {"assigned_to": str(ada.id)},
        {"metadata": {"x": 1}},
        {"status": "completed", "completed_at": PAST},
        {"status": "completed", "title": "mine"},
    ):
        problem(bob.client.patch(path, json=fields), 403, "forbidden")
    problem(bob.client.delete(path), 403, "forbidden")
    problem(bob.client.get(f"/v1/todos/{todo['number']}"), 404, "not_found")
    assert ada.client.get(path).json()["version"] == 3
    # Taken away from them, it is a stranger's.
    assert patch(ada.client, todo, assigned_to=None).status_code == 200
    problem(bob.client.get(path), 404, "not_found")


def test_a_todo_may_be_assigned_to_its_owner(new_user: NewUser) -> None:
    ada = new_user()
    todo = create(ada.client, assigned_to=str(ada.id))
    assert titles(ada.client, scope="assigned") == titles(ada.client, scope="all") == ["Buy milk"]
    assert patch(ada.client, todo, title="Buy bread").status_code == 200
    assert ada.client.delete("/v1/todos/1").status_code == 204


def test_an_assignee_must_be_an_active_user(new_user: NewUser) -> None:
    ada, gone, left = new_user(), new_user(), new_user()
    assert gone.client.patch("/v1/users/me", json={"is_active": False}).status_code == 200
    assert left.client.delete("/v1/users/me").status_code == 204
    todo = create(ada.client)
    for nobody in (uuid4(), gone.id, left.id):
        refused = ada.client.post("/v1/todos", json={"title": "x", "assigned_to": str(nobody)})
        first = problem(refused, 422, "validation_failed", field="assigned_to")
        second = problem(
            patch(ada.client, todo, assigned_to=str(nobody)), 422, "validation_failed", field="assigned_to"
        )
        assert first["errors"] == second["errors"]


def test_a_todo_cannot_be_reopened_for_somebody_who_left(new_user: NewUser) -> None:
    ada, bob = new_user(), new_user()
    todo = create(ada.client, assigned_to=str(bob.id), status="completed")
    assert bob.client.patch("/v1/users/me", json={"is_active": False}).status_code == 200
    problem(patch(ada.client, todo, status="pending"), 422, "validation_failed", field="assigned_to")
    assert patch(ada.client, todo, title="other").status_code == 200
    assert patch(ada.client, todo, status="pending", assigned_to=None).status_code == 200


# Batches


def batch(client: httpx.Client, **operations: Any) -> httpx.Response:
    return client.post("/v1/todos/batch", json=operations)


def test_a_batch_creates_updates_and_deletes_in_the_order_it_was_sent(new_user: NewUser) -> None:
    client = new_user().client
    old = [create(client, f"old {n}") for n in range(4)]
    done = batch(
        client,
        create=[{"title": "new 0", "status": "completed"}, {"title": "new 1", "priority": "low"}],
        update=[
            {"id": 2, "title": "changed"},
            {"id": old[0]["id"], "status": "archived"},
            {"id": "2", "description": "x"},
        ],
        delete=[old[3]["id"].upper(), "3"],
    )
    assert done.status_code == 200, done.text
    answer = done.json()
    assert list(answer) == ["create", "update", "delete"]
    assert [(todo["title"], todo["number"]) for todo in answer["create"]] == [("new 0", 5), ("new 1", 6)]
    assert [todo["version"] for todo in answer["update"]] == [2, 2, 3]
    assert [todo["id"] for todo in answer["update"]] == [old[1]["id"], old[0]["id"], old[1]["id"]]
    assert answer["delete"] == [old[3]["id"], old[2]["id"]]
    assert all(list(todo) == FIELDS for todo in answer["create"] + answer["update"])
    assert titles(client, order="number") == ["old 0", "changed", "new 0", "new 1"]


def test_a_batch_may_update_what_it_deletes(new_user: NewUser) -> None:
    client = new_user().client
    todo = create(client)
    answer = batch(client, update=[{"id": 1, "title": "x"}], delete=[1])
    assert answer.json()["delete"] == [todo["id"]]
    assert titles(client) == []


@pytest.mark.parametrize(("operations", "accepted"), [(0, False), (1, True), (500, True), (501, False)])
def test_a_batch_holds_1_to_500_operations(new_user: NewUser, operations: int, accepted: bool) -> None:
    client = new_user().client
    answer = batch(client, create=[{"title": f"{n}"} for n in range(operations)])
    if accepted:
        assert [todo["title"] for todo in answer.json()["create"]] == [f"{n}" for n in range(operations)]
        assert [todo["number"] for todo in answer.json()["create"]] == list(range(1, operations + 1))
    else:
        problem(answer, 422, "validation_failed", field="body")
        assert titles(client) == []


def test_a_batch_whose_answer_would_be_too_large_leaves_nothing_behind(new_user: NewUser) -> None:
    client = new_user().client
    todos = [{"title": "x", "metadata": {"a": "<" * 16_000}} for _ in range(180)]
    problem(client.post("/v1/todos/batch", json={"create": todos}), 413, "payload_too_large")
    assert titles(client) == []
    made = client.post("/v1/todos/batch", json={"create": todos[:170]}).json()["create"]
    assert len(made) == 170
    more = client.post("/v1/todos/batch", json={"create": todos[:10]}).json()["create"]
    changes = [{"id": todo["id"], "status": "completed"} for todo in [*made, *more]]
    problem(client.post("/v1/todos/batch", json={"update": changes}), 413, "payload_too_large")
    assert client.get("/v1/todos?completed=true").json()["items"] == []
    assert client.post("/v1/todos/batch", json={"update": changes[:170]}).status_code == 200
    wide = [{"title": "<" * 200, "description": "<" * 1000, "metadata": {"a": "<" * 5000}} for _ in range(500)]
    problem(client.post("/v1/todos/batch", json={"create": wide}), 413, "payload_too_large")
    answer = client.post("/v1/todos/batch", json={"create": wide[:400]})
    assert len(answer.content) < 16 * 1024 * 1024


def test_the_limit_of_a_batch_counts_all_its_lists(new_user: NewUser) -> None:
    client = new_user().client
    mixed = {"create": [{"title": "x"}] * 250, "update": [{"id": 1, "title": "y"}] * 250, "delete": [1]}
    problem(batch(client, **mixed), 422, "validation_failed", field="body")
    problem(batch(client, create=[], update=[], delete=[]), 422, "validation_failed", field="body")
    assert titles(client) == []


@pytest.mark.parametrize(
    ("operations", "status", "code", "list_name", "index", "field"),
    [
        ({"create": [{"title": "a"}, {"title": ""}]}, 422, "validation_failed", "create", 1, "create[1].title"),
        ({"create": [{"title": "a"}, {"nope": 1}]}, 422, "validation_failed", "create", 1, None),
        ({"create": [{"title": "a\0"}]}, 422, "validation_failed", "create", 0, "create[0].title"),
        ({"create": [5]}, 422, "validation_failed", "create", 0, "create[0]"),
        (
            {"create": [{"title": "a"}, {"title": "b", "assigned_to": str(uuid4())}]},
            422, "validation_failed", "create", 1, "create[1].assigned_to",
        ),
        (
            {"create": [{"title": "a"}], "update": [{"id": 1, "title": "b"}, {"id": 1, "completed_at": PAST}]},
            422, "validation_failed", "update", 1, "update[1].completed_at",
        ),
        ({"create": [{"title": "a"}], "update": [{"id": 999, "title": "b"}]}, 404, "not_found", "update", 0, None),
        ({"update": [{"id": 1, "title": "b"}, {"id": str(uuid4())}]}, 404, "not_found", "update", 1, None),
        ({"update": [{"id": 2, "status": "completed"}]}, 409, "invalid_transition", "update", 0, None),
        ({"update": [{"title": "b"}]}, 422, "validation_failed", "update", 0, "update[0].id"),
        ({"update": [{"id": "01", "title": "b"}]}, 422, "validation_failed", "update", 0, "update[0].id"),
        ({"update": [{"id": "999", "title": "b"}]}, 404, "not_found", "update", 0, None),
        ({"delete": ["1", "999"]}, 404, "not_found", "delete", 1, None),
        ({"update": [{"id": 1, "title": "b"}], "delete": [1, 999]}, 404, "not_found", "delete", 1, None),
        ({"delete": [1, 1]}, 404, "not_found", "delete", 1, None),
        ({"delete": [0]}, 422, "validation_failed", "delete", 0, "delete[0]"),
        ({"create": [{"title": "a"}], "delete": [str(uuid4())]}, 404, "not_found", "delete", 0, None),
    ],
)  # fmt: skip
def test_a_batch_that_fails_leaves_nothing_behind_and_names_the_operation(
    new_user: NewUser, operations: Any, status: int, code: str, list_name: str, index: int, field: str | None
) -> None:
    client = new_user().client
    create(client, "first")
    create(client, "archived", status="archived")
    before = client.get("/v1/todos").json()
    answer = batch(client, **operations)
    problem(answer, status, code, field=field, list=list_name, index=index)
    assert client.get("/v1/todos").json() == before
    assert create(client)["number"] == 3


def test_a_batch_meets_strangers_and_assigned_todos_as_single_calls_do(new_user: NewUser) -> None:
    ada, bob, eve = new_user(), new_user(), new_user()
    todo = create(ada.client, assigned_to=str(bob.id))
    problem(batch(eve.client, update=[{"id": todo["id"], "title": "x"}]), 404, "not_found", list="update", index=0)
    problem(batch(eve.client, delete=[todo["id"]]), 404, "not_found", list="delete", index=0)
    problem(batch(bob.client, update=[{"id": todo["id"], "title": "x"}]), 403, "forbidden", list="update", index=0)
    problem(batch(bob.client, delete=[todo["id"]]), 403, "forbidden", list="delete", index=0)
    done = batch(bob.client, update=[{"id": todo["id"], "status": "completed"}])
    assert done.json()["update"][0]["completed"] is True
