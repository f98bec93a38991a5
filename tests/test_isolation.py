"""One user never sees or changes what is another's: over HTTP, query by query, and if every query forgot its WHERE."""

import asyncio
import dataclasses
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import psycopg
import pytest

import service.accounts  # noqa: F401 - declares the operator's queries
from service.app import ROUTES, create_app
from service.auth import Tokens
from service.db import Context, Database, Prepared, Result, StatementFailed
from service.endpoint import Route
from service.passwords import Passwords
from service.queries import DECLARED, TEXTS
from service.settings import Secret, Settings
from tests import grammar
from tests.conftest import PASSWORD, Server, TestDatabase
from tests.worlds import ASSIGNED, Connection, Person, World, make_world, snapshot

STRANGERS = ("stranger", "assignee", "former_assignee")
"""Who isn't the owner. Whoever one todo is assigned to is a stranger to the others."""
EVERY_STRANGER = pytest.mark.parametrize("who", STRANGERS)


# Query by query


@dataclasses.dataclass(frozen=True)
class QueryCase:
    """A query aimed at the owner's rows: its parameters are the owner's, but for ``user_id``."""

    values: Callable[[World], dict[str, Any]] = lambda _: {}
    shows: frozenset[str] = frozenset()
    """What of the owner everybody may see through it."""
    reaches: bool = True
    """Whether it shows or changes anything of the owner's when the owner runs it."""
    refused: str | None = None
    """The code with which what the owner owns makes it fail, for the owner."""


FIRST_ID, LAST_ID = UUID(int=0), UUID(int=2**128 - 1)
FIRST_TIME, LAST_TIME = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
ROW_LIMIT = 1_000_000


def todo_list(**first: Any) -> QueryCase:
    """A list from its start, without filters."""
    filters = dict.fromkeys(("status", "completed", "priority", "due_before", "due_after", "overdue"))
    return QueryCase(lambda _: {**filters, "row_limit": ROW_LIMIT, **first})


def nothing_set(name: str) -> dict[str, Any]:
    """The parameters of an update that changes nothing."""
    return {
        parameter: False if parameter.startswith("set_") else None
        for parameter in TEXTS[name].parameters
        if parameter != "user_id"
    }


QUERY_CASES = {
    # sign_in.sql
    "authenticate": QueryCase(lambda _: {"token_version": 1}, reaches=False),
    "create_user": QueryCase(
        lambda world: {
            "email": world.owner.email.upper(),
            "username": None,
            "full_name": None,
            "password_hash": "stolen",
        },
        refused="email_taken",
    ),
    # Sign-in asks for an address, and looks whether the password is the one; no route answers with what it finds.
    "find_credentials": QueryCase(
        lambda world: {"email": world.owner.email}, shows=frozenset({"owner_id", "password_hash"})
    ),
    "get_own_credentials": QueryCase(),
    "take_sign_in_attempt": QueryCase(lambda _: {"account": b"a", "address": b"b"}, reaches=False),
    "forgive_sign_in_attempt": QueryCase(lambda _: {"account": b"a", "address": b"b"}, reaches=False),
    "set_password": QueryCase(lambda _: {"password_hash": "stolen"}),
    "revoke_tokens": QueryCase(),
    # users.sql
    "get_me": QueryCase(),
    "update_me": QueryCase(lambda _: {**nothing_set("update_me"), "set_full_name": True, "full_name": "Stolen"}),
    "delete_me": QueryCase(lambda _: {"version": None}, refused="user_has_records"),
    "list_users": QueryCase(
        lambda world: {"username": world.owner.username.upper()},
        shows=frozenset({"owner_id", "username", "full_name"}),
    ),
    # todos.sql
    "get_todo": QueryCase(lambda world: {"id": world.target}),
    "get_todo_by_number": QueryCase(lambda world: {"number": world.target_number}),
    "create_todo": QueryCase(
        lambda _: {
            "title": "Planted",
            "description": None,
            "status": "pending",
            "priority": "low",
            "due_date": None,
            "assigned_to": None,
            "completed_at": None,
            "metadata": None,
        }
    ),
    "update_todo": QueryCase(
        # The status alone: the trigger that keeps assignees from the rest is no part of what is tried here.
        lambda world: {**nothing_set("update_todo"), "id": world.target, "status": "in_progress"}
    ),
    "delete_todo": QueryCase(lambda world: {"id": world.target, "number": None, "version": None}),
    "list_todos_by_status": QueryCase(
        lambda _: {"status": "pending", "after": LAST_TIME, "after_id": LAST_ID, "row_limit": ROW_LIMIT}
    ),
    "list_todos_by_created_at": todo_list(after=FIRST_TIME, after_id=FIRST_ID),
    "list_todos_by_created_at_desc": todo_list(after=LAST_TIME, after_id=LAST_ID),
    "list_todos_by_updated_at": todo_list(after=FIRST_TIME, after_id=FIRST_ID),
    "list_todos_by_updated_at_desc": todo_list(after=LAST_TIME, after_id=LAST_ID),
    "list_todos_by_due_date": todo_list(after=FIRST_TIME, after_id=FIRST_ID, after_undated_id=FIRST_ID),
    "list_todos_by_due_date_desc": todo_list(after=LAST_TIME, after_id=LAST_ID, after_undated_id=LAST_ID),
    "list_todos_by_priority": todo_list(after=0, after_id=FIRST_ID),
    "list_todos_by_priority_desc": todo_list(after=5, after_id=LAST_ID),
    "list_todos_by_number": todo_list(after=0),
    "list_todos_by_number_desc": todo_list(after=2**31 - 1),
    "list_assigned_todos": dataclasses.replace(
        todo_list(sort="created_at", direction=1, after=0, after_id=FIRST_ID),
        reaches=False,  # the owner has given all theirs away
    ),
    "list_all_todos": todo_list(sort="created_at", direction=1, after=0, after_id=FIRST_ID),
    # health.sql
    "check_login": QueryCase(reaches=False),
    "list_applied_migrations": QueryCase(reaches=False),
    # admin.sql, as if the service ran it
    "list_accounts": QueryCase(lambda _: {"limit": ROW_LIMIT}, reaches=False),  # those behind user_id
    "find_account": QueryCase(lambda world: {"email": world.owner.email}, shows=frozenset({"owner_id"})),
    "update_account": QueryCase(lambda _: {"is_active": False}),
}
EVERY_QUERY = pytest.mark.parametrize("name", QUERY_CASES)


def test_every_query_has_a_case():
    assert sorted(QUERY_CASES) == sorted(TEXTS) == sorted(DECLARED)


def named_tables(name: str) -> set[str]:
    """The users' tables that the query names."""
    return {found.table for found in grammar.references(TEXTS[name].prepared.text.decode(), None)}


def is_insert(name: str) -> bool:
    return isinstance(grammar.statement(TEXTS[name].prepared.text.decode()), grammar.ast.InsertStmt)


def forgetful(name: str) -> Prepared | None:
    """The query with every comparison with ``user_id`` taken out; None where there is none."""
    query = TEXTS[name]
    user = grammar.parameter_number(query)
    if user is None or not named_tables(name) or is_insert(name):
        return None
    text = grammar.without_user(query.prepared.text.decode(), user).encode()
    return query.prepared._replace(name=b"forgetful_" + query.prepared.name, text=text)


FORGETFUL = {name: mutant for name in TEXTS if (mutant := forgetful(name))}
EVERY_FORGETFUL = pytest.mark.parametrize("name", FORGETFUL)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a query: its rows, or the code of its refusal, and what of the owner's they show."""

    result: Result | None
    refused: str | None
    seen: frozenset[str]
    changed: bool
    """Whether any row of the owner's is another than before."""


class Stage:
    """A database, reached as the service does (or whoever the URL names), and a superuser's look at it."""

    def __init__(self, runner: asyncio.Runner, url: str, superuser: Connection) -> None:
        self.superuser = superuser
        self._runner = runner
        self._database = Database(Settings(database_url=Secret(url), database_pool_size=2), lambda *_: None)
        runner.run(self._database.open())

    def close(self) -> None:
        self._runner.run(self._database.close())

    def attempt(
        self,
        name: str,
        world: World,
        who: Person,
        *,
        mutant: Prepared | None = None,
        user_id: UUID | None = None,
    ) -> Outcome:
        """Run the query for ``who``: as it is, or a mutant of it, or with another ``user_id`` than theirs."""
        prepared, values = DECLARED[name](**QUERY_CASES[name].values(world)).step(user_id or who.id)
        step = (mutant or prepared, values)
        before = snapshot(self.superuser, world.owner.id)
        try:
            (result,) = self._runner.run(self._database.transact(Context(who.id, "test"), [step]))
            refused = None
        except StatementFailed as failure:
            result, refused = None, failure.problem.code
        changed = snapshot(self.superuser, world.owner.id) != before
        seen = world.seen(msgspec.json.encode(result.rows).decode()) if result else set()
        return Outcome(result, refused, frozenset(seen), changed)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as found:
        yield found


def make_stage(runner: asyncio.Runner, database: TestDatabase, url: str) -> Iterator[Stage]:
    with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
        found = Stage(runner, url, superuser)
        yield found
        found.close()


@pytest.fixture(scope="module")
def stage(runner: asyncio.Runner, make_module_database: Callable[[], TestDatabase]) -> Iterator[Stage]:
    """As the service sees it: bound by row security."""
    database = make_module_database()
    yield from make_stage(runner, database, database.service_url)


@pytest.fixture(scope="module")
def unbound_stage(runner: asyncio.Runner, make_module_database: Callable[[], TestDatabase]) -> Iterator[Stage]:
    """As a superuser sees it: without row security."""
    database = make_module_database()
    yield from make_stage(runner, database, database.superuser_url)


@EVERY_QUERY
def test_a_query_reaches_the_owners_rows_when_the_owner_runs_it(name: str, stage: Stage):
    case = QUERY_CASES[name]
    world = make_world(stage.superuser)
    outcome = stage.attempt(name, world, world.owner)
    assert outcome.refused == case.refused
    assert bool(outcome.seen or outcome.changed or outcome.refused) == case.reaches


def assert_kept_apart(outcome: Outcome, who: str, name: str) -> None:
    allowed = QUERY_CASES[name].shows | (ASSIGNED if who == "assignee" else set())
    assert outcome.seen <= allowed
    if (who, name) == ("assignee", "delete_me"):
        return  # nobody is left whom the todo could be assigned to: the owner's row says so
    assert not outcome.changed
    if who != "assignee" and named_tables(name) - {"users"} and not is_insert(name):
        assert outcome.result == ([], 0)


@EVERY_STRANGER
@EVERY_QUERY
def test_a_query_shows_and_changes_nothing_of_the_owners_for_somebody_else(name: str, who: str, stage: Stage):
    world = make_world(stage.superuser)
    outcome = stage.attempt(name, world, getattr(world, who))
    assert_kept_apart(outcome, who, name)
    assert outcome.refused == (QUERY_CASES[name].refused if is_insert(name) else None)


# Were the WHERE forgotten


def test_every_query_on_a_users_table_has_a_forgetful_mutant():
    expected = {name for name in TEXTS if named_tables(name) and not is_insert(name)}
    assert set(FORGETFUL) == expected
    for name, mutant in FORGETFUL.items():
        user = grammar.parameter_number(TEXTS[name])
        assert not any(found.bound for found in grammar.references(mutant.text.decode(), user)), name


@EVERY_STRANGER
@EVERY_FORGETFUL
def test_row_security_alone_keeps_a_forgetful_query_from_the_owners_rows(name: str, who: str, stage: Stage):
    world = make_world(stage.superuser)
    outcome = stage.attempt(name, world, getattr(world, who), mutant=FORGETFUL[name])
    assert outcome.refused is None
    assert_kept_apart(outcome, who, name)


@EVERY_FORGETFUL
def test_without_row_security_a_forgetful_query_would_reach_them(name: str, unbound_stage: Stage):
    world = make_world(unbound_stage.superuser)
    outcome = unbound_stage.attempt(name, world, world.stranger, mutant=FORGETFUL[name])
    assert outcome.refused == QUERY_CASES[name].refused
    assert outcome.seen or outcome.changed or outcome.refused


@EVERY_STRANGER
@EVERY_QUERY
def test_row_security_keeps_a_query_that_names_the_owner_from_the_owners_rows(name: str, who: str, stage: Stage):
    world = make_world(stage.superuser)
    outcome = stage.attempt(name, world, getattr(world, who), user_id=world.owner.id)
    assert outcome.seen <= QUERY_CASES[name].shows | (ASSIGNED if who == "assignee" else set())
    assert not outcome.changed
    if is_insert(name) or name == "authenticate":
        assert outcome.refused
    else:
        assert outcome.refused is None


# Over HTTP


@dataclasses.dataclass(frozen=True)
class RouteCase:
    """A request to a route. ``todo`` is the UUID or the number of a todo: the owner's, or one that doesn't exist."""

    body: Callable[[World, Person, Any], Any] | None = None
    """Of the world, whoever asks, and ``todo``."""
    query: Callable[[World], dict[str, str]] = lambda _: {}
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    shows: frozenset[str] = frozenset()
    """What of the owner everybody may see."""
    owner_status: int | None = None
    """Where the owner's answer is another than the route's usual one."""
    names_todo: bool = False
    """Whether the body names the todo; a path that does says so itself."""
    label: str = "plain"


CHANGE = {"status": "in_progress"}
ROUTE_CASES: dict[tuple[str, str], list[RouteCase]] = {
    ("GET", "/health/live"): [RouteCase()],
    ("GET", "/health/ready"): [RouteCase()],
    ("POST", "/v1/auth/register"): [
        RouteCase(lambda *_: {"email": f"new-{secrets.token_hex(8)}@example.com", "password": PASSWORD})
    ],
    ("POST", "/v1/auth/token"): [RouteCase(lambda _, person, __: {"email": person.email, "password": PASSWORD})],
    ("POST", "/v1/auth/refresh"): [RouteCase(lambda _, person, __: {"refresh_token": refresh_token(person)})],
    ("POST", "/v1/auth/logout-everywhere"): [RouteCase()],
    ("PUT", "/v1/users/me/password"): [
        RouteCase(lambda *_: {"current_password": PASSWORD, "new_password": PASSWORD + "!"})
    ],
    ("GET", "/v1/users/me"): [RouteCase()],
    ("PATCH", "/v1/users/me"): [RouteCase(lambda *_: {"full_name": "Changed"})],
    ("DELETE", "/v1/users/me"): [RouteCase(owner_status=409)],
    ("GET", "/v1/users"): [
        RouteCase(
            query=lambda world: {"username": world.owner.username},
            shows=frozenset({"owner_id", "username", "full_name"}),
        )
    ],
    ("GET", "/v1/todos"): [
        RouteCase(query=lambda _, scope=scope: {"scope": scope}, label=scope) for scope in ("owned", "assigned", "all")
    ],
    ("POST", "/v1/todos"): [RouteCase(lambda *_: {"title": "New"})],
    ("POST", "/v1/todos/batch"): [
        RouteCase(lambda *_: {"create": [{"title": "New"}]}, label="create"),
        RouteCase(lambda _, __, todo: {"update": [{"id": todo, **CHANGE}]}, names_todo=True, label="update"),
        RouteCase(lambda _, __, todo: {"delete": [todo]}, names_todo=True, label="delete"),
        RouteCase(
            lambda _, __, todo: {"create": [{"title": "New"}], "update": [{"id": todo, **CHANGE}]},
            names_todo=True,
            label="create and update",
        ),
    ],
    ("GET", "/v1/todos/{todo_id}"): [
        RouteCase(),
        RouteCase(query=lambda _: {"escape": "html"}, label="escaped"),
        RouteCase(headers={"If-None-Match": "*"}, owner_status=304, label="If-None-Match"),
    ],
    ("PATCH", "/v1/todos/{todo_id}"): [
        RouteCase(lambda *_: CHANGE),
        RouteCase(lambda *_: {}, label="empty"),
        RouteCase(lambda *_: {"status": "archived", "title": "Taken"}, label="title"),
        RouteCase(lambda _, person, __: {"assigned_to": str(person.id)}, label="assign"),
        RouteCase(lambda *_: CHANGE, headers={"If-Match": "*"}, label="If-Match"),
        RouteCase(lambda *_: CHANGE, headers={"If-Match": '"99"'}, owner_status=412, label="stale If-Match"),
    ],
    ("DELETE", "/v1/todos/{todo_id}"): [
        RouteCase(),
        RouteCase(headers={"If-Match": "*"}, label="If-Match"),
        RouteCase(headers={"If-Match": '"99"'}, owner_status=412, label="stale If-Match"),
    ],
}
CASES: list[Any] = [
    pytest.param(route, case, id=f"{route.method} {route.path} {case.label}")
    for route in ROUTES
    for case in ROUTE_CASES.get((route.method, route.path), [])
]
TODO_CASES = [param for param in CASES if "{todo_id}" in param.values[0].path or param.values[1].names_todo]
REQUEST_ID = "one-for-all-requests"


def test_every_route_has_a_case():
    assert sorted(ROUTE_CASES) == sorted((route.method, route.path) for route in ROUTES)
    assert all(ROUTE_CASES.values())


def test_nothing_is_served_beside_the_list_of_routes():
    edge = create_app(
        Settings(database_url=Secret("postgresql://nobody@localhost/none"), jwt_secret=Secret(secrets.token_hex(32)))
    )
    litestar: Any = edge._app
    listed = {(route.method, route.path) for route in ROUTES}
    for path in litestar.routes:
        for handler in path.route_handlers:
            if handler.opt.get("file"):  # the documentation and /metrics
                assert path.path == "/metrics" or path.path.startswith("/schema")
                continue
            if handler.http_methods == {"OPTIONS"}:  # Litestar's own
                continue
            (method,) = handler.http_methods
            listed.remove((method, handler.opt["route"].path))
    assert listed == set()


_tokens: list[Tokens] = []


def refresh_token(person: Person) -> str:
    return _tokens[-1].issue(person.id, 1).refresh_token


class Site:
    """The running service, and a superuser's look at its database."""

    def __init__(self, server: Server, superuser: Connection, password_hash: str) -> None:
        self.superuser = superuser
        self.client = httpx.Client(base_url=server.url, timeout=10)
        self._password_hash = password_hash
        self._tokens = Tokens(server.env["JWT_SECRET"], None, 900, 3600)
        _tokens.append(self._tokens)

    def world(self) -> World:
        return make_world(self.superuser, self._password_hash)

    def headers(self, who: Person | None) -> dict[str, str]:
        """Nobody (None) sends no token."""
        token = who and f"Bearer {self._tokens.issue(who.id, 1).access_token}"
        return {"X-Request-ID": REQUEST_ID, **({"Authorization": token} if token else {})}

    def send(self, who: Person, method: str, path: str, body: Any = None) -> httpx.Response:
        return self.client.request(method, path, headers=self.headers(who), json=body)

    def ask(
        self, route: Route, case: RouteCase, world: World, who: Person | None, todo: UUID | int | None = None
    ) -> httpx.Response:
        """The case's request."""
        named = str(todo) if isinstance(todo, UUID) else todo
        return self.client.request(
            route.method,
            route.path.format(todo_id=todo),
            params=case.query(world),
            headers={**self.headers(who), **case.headers},
            json=case.body(world, who or world.owner, named) if case.body else None,
        )


@pytest.fixture(scope="module")
def site(server: Server) -> Iterator[Site]:
    passwords = Passwords()
    password_hash = asyncio.run(passwords.hash(PASSWORD))
    passwords.close()
    with psycopg.connect(server.database.superuser_url, autocommit=True) as superuser:
        found = Site(server, superuser, password_hash)
        with found.client:
            yield found


def everything(answer: httpx.Response) -> tuple[int, list[tuple[str, str]], bytes]:
    """All that a client can tell two answers apart by, but for the time."""
    headers = sorted((name, value) for name, value in answer.headers.multi_items() if name != "date")
    return answer.status_code, headers, answer.content


def todo_of(world: World, kind: str) -> UUID | int:
    return world.target if kind == "id" else world.target_number


def missing(kind: str) -> UUID | int:
    return uuid4() if kind == "id" else 999_999_999


BY_ID_AND_NUMBER = pytest.mark.parametrize("kind", ["id", "number"])


@pytest.mark.parametrize(("route", "case"), CASES)
def test_without_a_token_only_public_routes_answer(route: Route, case: RouteCase, site: Site):
    world = site.world()
    before = snapshot(site.superuser, world.owner.id)
    answer = site.ask(route, case, world, None, world.target)
    if route.public:
        assert answer.status_code == route.status
        return
    assert answer.status_code == 401
    assert answer.json()["code"] == "unauthenticated"
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert everything(answer) == everything(site.ask(route, case, world, None, uuid4()))
    assert world.seen(answer.text) == set()
    assert snapshot(site.superuser, world.owner.id) == before


@pytest.mark.parametrize(("route", "case"), CASES)
@BY_ID_AND_NUMBER
def test_the_owner_is_served(route: Route, case: RouteCase, kind: str, site: Site):
    world = site.world()
    answer = site.ask(route, case, world, world.owner, todo_of(world, kind))
    nothing = route.returns is None
    assert answer.status_code == (case.owner_status or (204 if nothing else route.status)), answer.text


@pytest.mark.parametrize(("route", "case"), TODO_CASES)
@EVERY_STRANGER
@BY_ID_AND_NUMBER
def test_a_stranger_gets_the_same_answer_as_for_a_missing_todo(
    route: Route, case: RouteCase, who: str, kind: str, site: Site
):
    world = site.world()
    person = getattr(world, who)
    before = snapshot(site.superuser, world.owner.id)
    answer = site.ask(route, case, world, person, todo_of(world, kind))
    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"
    assert everything(answer) == everything(site.ask(route, case, world, person, missing(kind)))
    assert snapshot(site.superuser, world.owner.id) == before


@pytest.mark.parametrize(("route", "case"), [param for param in CASES if param not in TODO_CASES])
def test_a_stranger_is_served_with_nothing_of_the_owners(route: Route, case: RouteCase, site: Site):
    world = site.world()
    before = snapshot(site.superuser, world.owner.id)
    answer = site.ask(route, case, world, world.stranger)
    assert answer.is_success, answer.text
    assert world.seen(answer.text) == case.shows
    assert snapshot(site.superuser, world.owner.id) == before


# What an assignee may


def assert_all_missing(site: Site, world: World, who: Person, todo: UUID) -> None:
    """Whatever is asked about the todo, the answer is that of a todo that doesn't exist."""
    before = snapshot(site.superuser, world.owner.id)
    for param in TODO_CASES:
        route, case = param.values
        answer = site.ask(route, case, world, who, todo)
        assert answer.status_code == 404
        assert everything(answer) == everything(site.ask(route, case, world, who, uuid4()))
    assert snapshot(site.superuser, world.owner.id) == before


def test_an_assignee_reads_the_todo_as_its_owner_does(site: Site):
    world = site.world()
    path = f"/v1/todos/{world.assigned}"
    answer = site.send(world.assignee, "GET", path)
    assert answer.status_code == 200
    assert everything(answer) == everything(site.send(world.owner, "GET", path))
    assert world.seen(answer.text) == ASSIGNED


def test_an_assignee_finds_the_todo_among_the_assigned_ones_only(site: Site):
    world = site.world()
    seen = {
        scope: [todo["id"] for todo in site.send(world.assignee, "GET", f"/v1/todos?scope={scope}").json()["items"]]
        for scope in ("owned", "assigned", "all")
    }
    assert seen == {"owned": [], "assigned": [str(world.assigned)], "all": [str(world.assigned)]}
    assert site.send(world.assignee, "GET", f"/v1/todos/{world.assigned_number}").status_code == 404


def test_an_assignee_changes_the_status(site: Site):
    world = site.world()
    path = f"/v1/todos/{world.assigned}"
    before = site.send(world.owner, "GET", path).json()
    answer = site.send(world.assignee, "PATCH", path, {"status": "in_progress"})
    assert answer.status_code == 200
    expected = {"status": "in_progress", "completed": False, "completed_at": None, "version": before["version"] + 1}
    assert answer.json() == {**before, **expected, "updated_at": answer.json()["updated_at"]}
    again = site.send(
        world.assignee, "POST", "/v1/todos/batch", {"update": [{"id": str(world.assigned), "status": "completed"}]}
    )
    assert again.status_code == 200
    assert again.json()["update"][0]["status"] == "completed"


@pytest.mark.parametrize(
    "change",
    [
        {"title": "Taken"},
        {"status": "archived", "title": "Taken"},
        {"description": "Taken"},
        {"priority": "urgent"},
        {"due_date": "2100-01-01T00:00:00Z"},
        {"due_date": None},
        {"assigned_to": None},
        {"metadata": {"taken": True}},
        {"status": "completed", "completed_at": "2020-01-01T00:00:00Z"},
    ],
    ids="-".join,
)
def test_an_assignee_changes_nothing_else(change: dict[str, Any], site: Site):
    world = site.world()
    before = snapshot(site.superuser, world.owner.id)
    one = site.send(world.assignee, "PATCH", f"/v1/todos/{world.assigned}", change)
    many = site.send(world.assignee, "POST", "/v1/todos/batch", {"update": [{"id": str(world.assigned), **change}]})
    assert [answer.status_code for answer in (one, many)] == [403, 403]
    assert one.json()["code"] == "forbidden"
    assert (many.json()["code"], many.json()["list"], many.json()["index"]) == ("forbidden", "update", 0)
    assert snapshot(site.superuser, world.owner.id) == before


def test_an_assignee_does_not_hand_the_todo_on(site: Site):
    world = site.world()
    before = snapshot(site.superuser, world.owner.id)
    for person in (world.assignee, world.stranger):
        change = {"assigned_to": str(person.id)}
        answer = site.send(world.assignee, "PATCH", f"/v1/todos/{world.assigned}", change)
        # Naming who it is assigned to already changes nothing, and is no error.
        assert answer.status_code == (200 if person is world.assignee else 403)
    assert snapshot(site.superuser, world.owner.id) == before


def test_an_assignee_does_not_delete_the_todo(site: Site):
    world = site.world()
    before = snapshot(site.superuser, world.owner.id)
    one = site.send(world.assignee, "DELETE", f"/v1/todos/{world.assigned}")
    many = site.send(world.assignee, "POST", "/v1/todos/batch", {"delete": [str(world.assigned)]})
    assert [answer.status_code for answer in (one, many)] == [403, 403]
    assert snapshot(site.superuser, world.owner.id) == before


@pytest.mark.parametrize("successor", [None, "stranger"])
def test_who_is_no_longer_assigned_gets_the_same_answers_as_for_a_missing_todo(successor: str | None, site: Site):
    world = site.world()
    assigned_to = successor and str(getattr(world, successor).id)
    given = site.send(world.owner, "PATCH", f"/v1/todos/{world.assigned}", {"assigned_to": assigned_to})
    assert given.status_code == 200
    assert_all_missing(site, world, world.assignee, world.assigned)
    assert site.send(world.assignee, "GET", "/v1/todos?scope=all").json()["items"] == []


def test_assigning_gives_the_owner_no_sight_of_the_assignees_rows(site: Site):
    world = site.world()
    created = site.send(world.assignee, "POST", "/v1/todos", {"title": "Of the assignee"}).json()
    assert created["user_id"] == str(world.assignee.id)
    assert site.send(world.owner, "GET", f"/v1/todos/{created['id']}").status_code == 404
    for scope in ("owned", "assigned", "all"):
        assert created["id"] not in site.send(world.owner, "GET", f"/v1/todos?scope={scope}").text
