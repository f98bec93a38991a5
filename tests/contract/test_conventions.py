"""What holds for every route: bodies, parameters, headers, errors, and that what was accepted can be read back."""

import asyncio
import copy
import importlib
import json
import pkgutil
import re
import secrets
import socket
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler

import service
from service import health
from service.app import HANDLERS, LOCAL_HANDLERS, PROTOCOL_HANDLERS, create_app
from service.http.fields import TITLE_LENGTH
from service.http.request import BODY_BYTES
from service.messages import MESSAGE_BYTES
from service.problems import CODES, Problem
from service.settings import Secret, Settings
from service.todos import BATCH_BYTES
from service.turns import TURN_BYTES
from tests.support.problems import problem
from tests.support.routes import ROUTES, Route

NewUser = Callable[..., Any]

JSON = {"Content-Type": "application/json"}
WITH_BODY = [route for route in ROUTES if route.body_type is not None]
NOBODY = "018f4fd2-0000-7000-8000-000000000000"
NOWHERE = {
    "todo_id": NOBODY,
    "conversation_id": NOBODY,
    "message_id": NOBODY,
    "link_id": NOBODY,
    "key_id": NOBODY,
    "external_id": "nowhere",
    "change_id": "999999999",
    "user_id": NOBODY,
    "task_id": "999999999",
}
"""Values of the right form for every parameter of a path, of objects that are not there."""
PASSWORD = "correct horse battery staple"

VALID: dict[str, Any] = {
    "register": {"email": "a@b", "password": PASSWORD},
    "create_token": {"email": "a@b", "password": PASSWORD},
    "refresh_token": {"refresh_token": "x"},
    "change_password": {"current_password": PASSWORD, "new_password": PASSWORD},
    "update_me": {"full_name": "Ada"},
    "create_key": {"name": "Assistant", "scope": "read"},
    "ensure_conversation": {"title": "Groceries"},
    "create_todo": {"title": "Buy milk"},
    "batch_todos": {"delete": [1]},
    "update_todo": {"title": "Buy milk"},
    "create_conversation": {"title": "Groceries"},
    "update_conversation": {"title": "Groceries"},
    "create_message": {"sender_type": "user", "content": "What is left to buy?"},
    "update_message": {"content": "What is left to buy today?", "message_type": "text"},
    "create_turn": {
        "messages": [{"sender_type": "user", "content": "Milk?"}, {"sender_type": "ai", "content": "Yes."}]
    },
    "create_first_turn": {"title": "Groceries", "messages": [{"sender_type": "user", "content": "Milk?"}]},
    "create_link": {"todo_id": NOBODY, "conversation_id": NOBODY, "relationship_type": "discussion"},
    "update_link": {"relationship_type": "update"},
    "create_task": {"title": "Buy milk", "description": "Two litres"},
    "update_task": {"title": "Buy milk", "description": "Two litres"},
    "complete_task": {"completed": True},
}
"""A body of the right form for every route that takes one, by operation."""
NULLABLE = {
    ("update_me", "full_name"),
    ("create_conversation", "title"),
    ("update_conversation", "title"),
    ("ensure_conversation", "title"),
    ("create_first_turn", "title"),
    ("create_task", "description"),
    ("update_task", "description"),
}
"""The texts among them in whose place null may be sent."""
REQUIRED_QUERY = {
    "search_messages": {"q": "milk"},
    "list_users": {"username": "abc"},
    "rewind_messages": {"from_position": "1"},
}
"""The parameters that can't be left out, of every route that has some."""


@pytest.fixture(scope="module")
def ada(new_module_user: NewUser) -> Any:
    return new_module_user(username=f"ada_{secrets.token_hex(6)}")


@pytest.fixture(scope="module", autouse=True)
def todo(ada: Any) -> Any:
    """Ada's first todo, with HTML in every place where there can be a string."""
    body = {
        "title": "<b>\"milk\" & 'bread'</b>",
        "description": '</script>\\\\"<!-- \\u003c &lt;',
        "metadata": {"<k>&'\"\\": ["<v>", {"&": "'"}], "n": 1.10, "big": 123456789012345678901234567890},
    }
    made = ada.client.post("/v1/todos", json=body).json()
    ada.client.post("/v1/todos", json={"title": "Another"}).raise_for_status()  # so that a page of one has a next
    return made


@pytest.fixture(scope="module")
def places(ada: Any, todo: Any) -> dict[str, str]:
    """A value for every parameter of a path: real objects of Ada's, each with HTML where there can be some."""

    def make(path: str, **body: Any) -> str:
        made = ada.client.post(path, json=body)
        assert made.status_code == 201, made.text
        return made.json()["id"]

    conversation_id = make("/v1/conversations", title="<i>'groceries'</i>", metadata={"<k>&'\"\\": ["<v>"]})
    messages = f"/v1/conversations/{conversation_id}/messages"
    message_id = make(messages, sender_type="ai", content="<p>&amp;\"'\\u003c</p>", metadata={"<k>": "&"})
    return {
        "change_id": str(ada.client.get("/v1/changes", params={"limit": 1}).json()["items"][0]["id"]),
        "todo_id": todo["id"],
        "conversation_id": conversation_id,
        "message_id": message_id,
        "external_id": "groceries",
        "key_id": make("/v1/keys", name="<b>&'\"</b>", scope="read"),
        "link_id": make("/v1/links", todo_id=todo["id"], conversation_id=conversation_id),
        "user_id": str(ada.id),
        "task_id": str(todo["number"]),
    }


def path_of(route: Route, values: dict[str, str] = NOWHERE) -> str:
    return route.path.format(**values)


def query_of(route: Route, **values: str) -> str:
    """A query string with these values, and what the route can't do without."""
    return "?" + urlencode({**REQUIRED_QUERY.get(route.name, {}), **values})


def ids(route: Any) -> str:
    return route.name if isinstance(route, Route) else str(route)[:40]


def send(client: httpx.Client, route: Route, content: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.request(route.method, path_of(route), content=content, headers={**JSON, **named})


# Every route

ALLOWED: dict[str, set[str]] = {}
"""The methods of each path."""
for _route in ROUTES:
    ALLOWED.setdefault(_route.path, set()).update({_route.method}, {"HEAD"} if _route.method == "GET" else ())


@pytest.mark.parametrize("route", ROUTES, ids=ids)
def test_every_route_is_behind_what_all_routes_share(ada: Any, client: httpx.Client, route: Route) -> None:
    """The methods that OPTIONS names, the token, ``Accept``, unknown parameters, and ``escape``."""
    options = client.options(path_of(route))
    assert options.status_code in (204, 405)
    assert set(options.headers["allow"].split(", ")) - {"OPTIONS"} == ALLOWED[route.path]

    open_routes = {"get_live", "get_ready", "register", "create_token", "refresh_token"}
    assert route.public == (route.name in open_routes)
    if not route.public:
        problem(client.request(route.method, path_of(route), content=b"\xff"), 401, "unauthenticated")
        wrong = {"Authorization": "Bearer not.a.token"}
        problem(client.request(route.method, path_of(route), content=b"\xff", headers=wrong), 401, "invalid_token")

    def ask(query: str, **headers: str) -> httpx.Response:
        return ada.client.request(route.method, path_of(route) + query, json=VALID.get(route.name), headers=headers)

    problem(ask(query_of(route), Accept="text/html"), 406, "not_acceptable")
    problem(ask(query_of(route, no_such="1")), 422, "validation_failed", field="no_such")
    escape = "xml" if route.method == "GET" else "html"  # where nothing is read, nothing is escaped
    problem(ask(query_of(route, escape=escape)), 422, "validation_failed", field="escape")


# Errors

API_TABLE = """
400 malformed_request
401 unauthenticated invalid_token token_expired bad_credentials account_inactive
403 forbidden
404 not_found
405 method_not_allowed
406 not_acceptable
413 payload_too_large
415 unsupported_media_type
431 headers_too_large
409 email_taken username_taken invalid_transition active_todos_assigned user_has_records link_exists stale_position
409 idempotency_in_progress too_many_keys external_id_taken
412 version_mismatch
422 validation_failed invalid_cursor idempotency_key_reused
429 rate_limited
503 overloaded database_unavailable timeout
500 internal
"""


def test_the_codes_and_their_statuses_are_those_of_the_contract() -> None:
    rows = [line.split() for line in API_TABLE.strip().splitlines()]
    expected = {code: int(status) for status, *codes in rows for code in codes}
    assert {code: known.status for code, known in CODES.items()} == expected
    assert len({known.title for known in CODES.values()}) == len(CODES)


def test_every_401_carries_a_challenge_and_every_503_says_when_to_try_again() -> None:
    for code, known in CODES.items():
        headers = Problem(code).headers
        assert ("WWW-Authenticate" in headers) == (known.status == 401)
        assert ("Retry-After" in headers) == (known.status == 503)


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/nothing", "/v1/todos/1/2", "/v1/todos/a%2Fb", "/v2/todos", "/%00", "/é"]
)
def test_an_unknown_path_is_not_found_with_or_without_a_token(client: httpx.Client, ada: Any, path: str) -> None:
    for visitor in (client, ada.client):
        for method in ("GET", "POST", "DELETE"):
            problem(visitor.request(method, path), 404, "not_found")


@pytest.mark.parametrize("path", [*ALLOWED, "/schema", "/schema/openapi.json", "/metrics"])
def test_another_method_is_refused_and_the_right_ones_are_named(ada: Any, client: httpx.Client, path: str) -> None:
    """Before anybody is asked who they are, and no otherwise to who is known."""
    problem(ada.client.request("TRACE", path.format(**NOWHERE)), 405, "method_not_allowed")
    allowed = ALLOWED.get(path, {"GET", "HEAD"})
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE"} - allowed:
        answer = client.request(method, path.format(**NOWHERE))
        problem(answer, 405, "method_not_allowed")
        assert set(answer.headers["allow"].split(", ")) - {"OPTIONS"} == allowed


def test_an_error_nobody_foresaw_is_answered_without_its_cause(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise LookupError("the secret of this machine")

    monkeypatch.setattr(health.get_live, "_fn", fail)
    app = create_app(Settings(database_url=Secret("postgresql://a@127.0.0.1:1/b"), jwt_secret=Secret("x" * 32)))

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get("/health/live")

    answer = asyncio.run(ask())
    problem(answer, 500, "internal")
    assert "secret" not in answer.text
    assert "LookupError: the secret of" in caplog.text


# Bodies

# What the reader of JSON refuses is in test_strict_json.py, in full.


@pytest.mark.parametrize("route", WITH_BODY, ids=ids)
def test_every_body_goes_through_the_one_reader(ada: Any, route: Route) -> None:
    """One of each kind that is refused: what isn't JSON, what two readers could read differently, another type."""
    problem(send(ada.client, route, b'{"title": '), 400, "malformed_request")
    nothing = send(ada.client, route, b"")
    if route.body_required:
        problem(nothing, 400, "malformed_request")
    else:
        problem(nothing, 403, "forbidden")  # nothing sent is nothing wrong: on to whose tasks these are
    problem(send(ada.client, route, b'{"\\u0000": 1}'), 422, "validation_failed", field="body")
    sound = json.dumps(VALID[route.name])
    for name in ("no_such_field", next(iter(VALID[route.name]))):  # what isn't known, and what is there already
        more = json.dumps({name: VALID[route.name].get(name)})
        problem(send(ada.client, route, f"{sound[:-1]}, {more[1:]}".encode()), 422, "validation_failed", field=name)
    problem(send(ada.client, route, sound.encode(), Content_Type="text/plain"), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "route",
    [route for route in WITH_BODY if route.name in ("create_todo", "create_message", "complete_task")],
    ids=ids,
)
def test_a_body_that_is_no_object_to_rely_on_is_refused_however_it_is_read(ada: Any, route: Route) -> None:
    """At once, with an item in it that is kept as it was sent, and where it may be left out."""
    for malformed in (b'{"title": NaN}', b'{"title": "\xff"}', b"[" * 1000 + b"]" * 1000, b"  "):
        problem(send(ada.client, route, malformed), 400, "malformed_request")
    for invalid in (b"null", b"[]", b'{"": null}', b'{"a": 1, "a": 1}', b'{"\\ud800": 1}'):
        problem(send(ada.client, route, invalid), 422, "validation_failed")
    unknown = send(ada.client, route, b'{"' + b"x" * 100_000 + b'": 1}')
    problem(unknown, 422, "validation_failed")
    assert len(unknown.content) < 2000


def test_the_routes_that_stand_for_others_are_there() -> None:
    assert {"create_todo", "create_message", "complete_task", "batch_todos", *ONE_OF_EACH_READER} <= {
        route.name for route in ROUTES
    }
    texts = {(route.name, field) for route in WITH_BODY for field, _, _ in text_fields(VALID[route.name])}
    assert texts >= ONE_OF_EACH_KIND


def test_only_a_task_is_completed_with_or_without_a_body() -> None:
    assert [route.name for route in WITH_BODY if not route.body_required] == ["complete_task"]


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "0"}, JSON], ids=["no header", "no length", "a type"])
def test_a_body_that_may_be_left_out_can_be_left_out(ada: Any, headers: dict[str, str]) -> None:
    made = ada.client.post(f"/api/{ada.id}/tasks", json={"title": "x"})
    path = made.headers["location"] + "/complete"
    assert [ada.client.patch(path, headers=headers).json()["completed"] for _ in range(2)] == [True, False]
    chunked = ada.client.patch(path, content=iter([b""]), headers=JSON)
    assert chunked.json()["completed"] is True


BAD_TEXTS = (5, None, "a\0b", "a\ud800b")
MORE_BAD_TEXTS = (1.5, True, [], {}, "\0", "\ud800", "\udc00", "\ud800\ud800")
ONE_OF_EACH_KIND = {
    ("update_me", "full_name"),
    ("create_todo", "title"),
    ("create_message", "content"),
    ("create_link", "todo_id"),
    ("create_link", "relationship_type"),
}
"""A text that may be null, one of which a pattern is asked, one beside an item, an id, and one of a closed set."""
TOO_LONG = {"content": "x" * 10_001}
"""A text that is longer than any may be, where "x" * 5000 is not."""


def text_fields(body: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any], str]]:
    """Every text of a body: how a 422 names it, and the object that holds it, with its name there."""
    for name, value in body.items():
        if isinstance(value, str) and name != "refresh_token":
            yield prefix + name, body, name
        elif isinstance(value, list):
            for index, item in enumerate(item for item in value if isinstance(item, dict)):
                yield from text_fields(item, f"{prefix}{name}[{index}].")


@pytest.mark.parametrize("route", WITH_BODY, ids=ids)
def test_every_text_refuses_what_is_no_text_or_cannot_be_stored(ada: Any, route: Route) -> None:
    body = copy.deepcopy(VALID[route.name])
    for field, parent, name in list(text_fields(body)):
        place = re.match(r"(\w+)\[(\d+)\]", field)
        members: dict[str, Any] = {"list": place[1], "index": int(place[2])} if place else {}
        valid = parent[name]
        more = MORE_BAD_TEXTS if (route.name, field) in ONE_OF_EACH_KIND else ()
        for value in (*BAD_TEXTS, TOO_LONG.get(name, "x" * 5000), *more):
            if value is None and (route.name, field) in NULLABLE:
                continue
            parent[name] = value
            answer = send(ada.client, route, json.dumps(body).encode())
            problem(answer, 422, "validation_failed", field=field, **members)
        parent[name] = valid


NUMBERS = ("1.0", "1e0", "-1", "0", '"1"', "true", "null", "1" * 40, "-" + "9" * 40, "1e400", "[1]", "9" * 4000)


TEXTS = ('"1.0"', '"01"', '"+1"', '" 1"', '"1\\n"', '"0"', '"-1"', '"\uff11"', '""', '"' + "1" * 40 + '"')
"""A todo's number may be sent as the text that it is in a path, but as no other."""


@pytest.mark.parametrize("number", [*(number for number in NUMBERS if number != '"1"'), *TEXTS])
def test_an_integer_is_never_guessed_from_something_else(ada: Any, number: str) -> None:
    for body in (f'{{"delete": [{number}]}}', f'{{"update": [{{"id": {number}, "title": "x"}}]}}'):
        answer = ada.client.post("/v1/todos/batch", content=body.encode(), headers=JSON)
        problem(answer, 422, "validation_failed", list=body[2:8], index=0)


@pytest.mark.parametrize("number", [number for number in NUMBERS if number not in ("0", "null")])
def test_a_turns_integers_are_never_guessed_either(ada: Any, places: dict[str, str], number: str) -> None:
    for field, value in (("expected_position", number), ("context.messages", f'{{"messages": {number}}}')):
        name = field.partition(".")[0]
        body = f'{{"messages": [{{"sender_type": "ai", "content": "x"}}], "{name}": {value}}}'.encode()
        for path in ("/v1/turns", f"/v1/conversations/{places['conversation_id']}/turns"):
            problem(ada.client.post(path, content=body, headers=JSON), 422, "validation_failed", field=field)


def nested(levels: int, *, lists: bool = False) -> Any:
    value: Any = {} if not lists else []
    for _ in range(levels - 1):
        value = [value] if lists else {"a": value}
    return value


BAD_METADATA: dict[str, str] = {
    "a list": "[]",
    "null": "null",
    "a text": '"x"',
    "a number": "1",
    "an infinite number": '{"n": 1e5000}',
    "a negative infinite number": '{"n": [-1e309]}',
    "an integer beyond any double": '{"n": 1' + "0" * 309 + "}",
    "33 levels": json.dumps(nested(33)),
    "33 levels of lists": json.dumps({"a": nested(32, lists=True)}),
    "16 KiB and 1 byte": json.dumps({"k": "x" * (16384 - 8)}),
    "16 KiB and 1 byte of é": json.dumps({"k": "é" * 8188 + "x"}, ensure_ascii=False),
    "many keys": json.dumps({f"key{n}": n for n in range(2000)}),
    "a NUL": '{"k": "\\u0000"}',
    "a NUL in a key": '{"\\u0000": 1}',
    "half a surrogate pair": '{"k": ["\\ud83d"]}',
    "half a surrogate pair in a key": '{"\\ude00": 1}',
    "numbers that grow when written out": '{"n": [' + ",".join(["1e300"] * 60) + "]}",
}


WITH_METADATA = {
    "/v1/todos": ("todo_id", '"title": "x"'),
    "/v1/conversations": ("conversation_id", '"title": "x"'),
    "/v1/conversations/{conversation_id}/messages": ("message_id", '"sender_type": "ai", "content": "x"'),
}
"""Where objects with metadata are made: the parameter that names one, and what else they need."""


@pytest.mark.parametrize("metadata", BAD_METADATA.values(), ids=BAD_METADATA.keys())
def test_metadata_that_could_not_be_read_back_is_refused_with_its_place(
    ada: Any, places: dict[str, str], metadata: str
) -> None:
    for template, (parameter, others) in WITH_METADATA.items():
        path = template.format(**places)
        made = ada.client.post(path, content=f'{{{others}, "metadata": {metadata}}}'.encode(), headers=JSON)
        refused = problem(made, 422, "validation_failed")
        assert refused["errors"][0]["field"].startswith("metadata")
        sent = f'{{"metadata": {metadata}}}'.encode()
        changed = ada.client.patch(f"{path}/{places[parameter]}", content=sent, headers=JSON)
        assert problem(changed, 422, "validation_failed")["errors"] == refused["errors"]
    for path, list_name, others in (
        ("/v1/todos/batch", "create", '"title": "x"'),
        ("/v1/turns", "messages", '"sender_type": "ai", "content": "x"'),
    ):
        body = f'{{"{list_name}": [{{{others}}}, {{{others}, "metadata": {metadata}}}]}}'.encode()
        answer = ada.client.post(path, content=body, headers=JSON)
        refused = problem(answer, 422, "validation_failed", list=list_name, index=1)
        assert refused["errors"][0]["field"].startswith(f"{list_name}[1].metadata")


GOOD_METADATA: dict[str, str] = {
    "nothing": "{}",
    "32 levels": json.dumps(nested(32)),
    "32 levels of lists": json.dumps({"a": nested(31, lists=True)}),
    "16 KiB": json.dumps({"k": "x" * (16384 - 9)}),
    "16 KiB of é": json.dumps({"k": "é" * 8187 + "x"}, ensure_ascii=False),
    "16 KiB of escapes": json.dumps({"k": "é" * 8000, "n": [10**40, 1.5]}),
    "16 KiB and much white space": json.dumps({"k": "x" * 16000}, indent=2000),
    "the largest double": '{"n": [1.7976931348623157e308, -1.7976931348623157e308]}',
    "a tiny number": '{"n": [5e-324, -1e-300, 0.1, 1.10, 100, -0.0]}',
    "40 digits": '{"n": [1234567890123456789012345678901234567890, 0.1234567890123456789012345678901234567890]}',
    "an empty key": '{"": {"": null}}',
    "every control character but NUL": json.dumps({"k": "".join(map(chr, range(1, 32)))}),
    "beyond the basic plane": '{"🎉": "\\ud83c\\udf89"}',
    "what is special elsewhere": json.dumps({"__proto__": {"constructor": "$"}, "<script>": "%s\\u2028\u2028"}),
}


def decimal(text: str | bytes) -> Any:
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


@pytest.mark.parametrize("metadata", GOOD_METADATA.values(), ids=GOOD_METADATA.keys())
def test_metadata_within_the_rules_is_read_back_exactly(ada: Any, places: dict[str, str], metadata: str) -> None:
    for path, (_, others) in WITH_METADATA.items():
        sent = f'{{{others}, "metadata": {metadata}}}'.encode()
        made = ada.client.post(path.format(**places), content=sent, headers=JSON)
        assert made.status_code == 201, made.text
        assert decimal(made.content)["metadata"] == decimal(metadata)
        assert decimal(ada.client.get(made.headers["location"]).content)["metadata"] == decimal(metadata)


@pytest.mark.parametrize("number", ["1e-400", "1e-16383", "1e-20000", "0." + "0" * 5000 + "1"])
def test_a_number_too_small_for_a_double_is_refused_or_kept(ada: Any, number: str) -> None:
    body = f'{{"title": "x", "metadata": {{"n": {number}}}}}'.encode()
    made = ada.client.post("/v1/todos", content=body, headers=JSON)
    if made.status_code == 201:
        assert decimal(ada.client.get(made.headers["location"]).content)["metadata"]["n"] == Decimal(number)
    else:
        problem(made, 422, "validation_failed", field="metadata")


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonx",
        "application/ld+json",
        "application/json, text/plain",
        "application/json; charset=latin-1",
        "application/json; charset=utf-16",
        "*/*",
    ],
)
def test_a_body_of_another_type_is_refused(ada: Any, content_type: str | None) -> None:
    request = ada.client.build_request("POST", "/v1/todos", content=b'{"title": "x"}')
    if content_type is not None:
        request.headers["content-type"] = content_type
    problem(ada.client.send(request), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "content_type",
    ["application/json; charset=utf-8", 'APPLICATION/JSON;Charset="UTF-8"', "application/json ; charset=UTF-8"],
)
def test_json_in_utf_8_may_be_spelt_in_any_way(ada: Any, content_type: str) -> None:
    made = ada.client.post("/v1/todos", content=b'{"title": "x"}', headers={"Content-Type": content_type})
    assert made.status_code == 201


def test_a_compressed_body_is_refused(ada: Any) -> None:
    for encoding in ("gzip", "br", "deflate", "identity, gzip", "x"):
        refused = ada.client.post("/v1/todos", json={"title": "x"}, headers={"Content-Encoding": encoding})
        problem(refused, 415, "unsupported_media_type")
    made = ada.client.post("/v1/todos", json={"title": "x"}, headers={"Content-Encoding": "Identity"})
    assert made.status_code == 201


@pytest.mark.parametrize("route", WITH_BODY, ids=ids)
def test_a_body_may_have_so_many_bytes_and_not_one_more(ada: Any, route: Route) -> None:
    turns = {"create_turn": TURN_BYTES, "create_first_turn": TURN_BYTES}
    larger = {"batch_todos": BATCH_BYTES, "create_message": MESSAGE_BYTES, **turns}
    limit = larger.get(route.name, 1024 * 1024)
    assert route.body_bytes == limit
    for extra, status, code in ((b"", 422, "validation_failed"), (b" ", 413, "payload_too_large")):
        body = b"[" + b" " * (limit - 2) + extra + b"]"
        answer = ada.client.request(route.method, path_of(route), content=body, headers=JSON)
        problem(answer, status, code)
        if route.name in ("create_todo", "batch_todos"):  # without a length, what came is counted by the same limit
            chunks = (body[start : start + 65536] for start in range(0, len(body), 65536))
            answer = ada.client.request(route.method, path_of(route), content=chunks, headers=JSON)
            problem(answer, status, code)


def test_a_body_where_none_belongs_is_passed_over(ada: Any) -> None:
    for method, path in (("GET", "/v1/users/me"), ("GET", "/v1/todos"), ("GET", "/health/live")):
        for content in (b'{"title": "x"}', b"\xff", b"x" * 100_000):
            assert ada.client.request(method, path, content=content, headers=JSON).status_code == 200
    made = ada.client.post("/v1/todos", json={"title": "x"}).json()
    answer = ada.client.request("DELETE", f"/v1/todos/{made['id']}", content=b"{}", headers=JSON)
    assert answer.status_code == 204
    assert ada.client.get("/v1/users/me").status_code == 200


# What was accepted can be read back

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(title=TEXT, description=st.none() | TEXT, metadata=st.dictionaries(TEXT, JSON_VALUES, max_size=4))
def test_whatever_texts_and_metadata_are_accepted_are_read_back_exactly(
    ada: Any, title: str, description: str | None, metadata: dict[str, Any]
) -> None:
    sent = json.dumps({"title": title, "description": description, "metadata": metadata})
    made = ada.client.post("/v1/todos", content=sent.encode(), headers=JSON)
    if made.status_code != 201:
        refused = problem(made, 422, "validation_failed")
        # Everything that is generated is within the rules, but for titles in which nothing can be seen.
        assert refused["errors"][0]["field"] == "title"
        assert not re.search(r"[!-~]", title)
        return
    for answer in (made, ada.client.get(made.headers["location"])):
        found = decimal(answer.content)
        assert {name: found[name] for name in ("title", "description", "metadata")} == decimal(sent)


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(content=TEXT.filter(bool), metadata=st.dictionaries(TEXT, JSON_VALUES, max_size=4))
def test_whatever_is_said_is_read_back_exactly_wherever_messages_are_answered(
    ada: Any, content: str, metadata: dict[str, Any]
) -> None:
    said = json.dumps({"sender_type": "user", "content": content, "metadata": metadata})
    body = f'{{"messages": [{said}], "context": {{"messages": 1}}}}'.encode()
    made = ada.client.post("/v1/turns", content=body, headers=JSON)
    assert made.status_code == 201, made.text
    (message,) = decimal(made.content)["messages"]
    assert {name: message[name] for name in ("sender_type", "content", "metadata")} == decimal(said)
    path = made.headers["location"]
    conversation = decimal(ada.client.get("/v1/conversations?messages=1&limit=1").content)["items"][0]
    assert conversation["id"] == message["conversation_id"]
    assert conversation["messages"] == [message]
    assert decimal(ada.client.get(f"{path}/messages").content)["items"] == [message]
    assert decimal(ada.client.get(f"{path}/messages/{message['id']}").content) == {**message, "item": None}
    context = [{"role": "user", "content": content}]
    assert made.json()["context"] == ada.client.get(f"{path}/context").json() == context


@pytest.mark.parametrize(
    "title",
    [
        "\u200b",
        "\u061c\ufe0f\u2066\uffa0",
        "\u2060x",
        "x\u202e",
        "e\u0301",
        "é",
        "\u1160",
        "🏳️\u200d🌈",
        " x ",
        "\x01x",
        "\x85",
    ],
)
def test_titles_are_kept_as_they_are_or_refused(ada: Any, title: str) -> None:
    made = ada.client.post("/v1/todos", json={"title": title})
    if title in ("\u200b", "\u061c\ufe0f\u2066\uffa0", "\u1160", "\x85"):
        problem(made, 422, "validation_failed", field="title")
    else:
        assert made.json()["title"] == title
        assert len(title) <= TITLE_LENGTH


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("2030-01-31T18:00:00Z", "2030-01-31T18:00:00Z"),
        ("2030-01-31T18:00:00+00:00", "2030-01-31T18:00:00Z"),
        ("2030-01-31T18:00:00-00:00", "2030-01-31T18:00:00Z"),
        ("2030-01-31t18:00:00z", "2030-01-31T18:00:00Z"),
        ("2030-01-31T18:00:00+05:30", "2030-01-31T12:30:00Z"),
        ("2030-01-31T18:00:00.5-23:59", "2030-02-01T17:59:00.500000Z"),
        ("2030-01-31T18:00:00.123456Z", "2030-01-31T18:00:00.123456Z"),
        ("2028-02-29T00:00:00Z", "2028-02-29T00:00:00Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_times_are_answered_in_utc(ada: Any, sent: str, kept: str) -> None:
    made = ada.client.post("/v1/todos", json={"title": "x", "due_date": sent})
    assert made.json()["due_date"] == kept
    assert ada.client.get(made.headers["location"]).json()["due_date"] == kept


@pytest.mark.parametrize(
    "time",
    [
        "2030-01-31T18:00:00",
        "2030-01-31 18:00:00",
        "2030-01-31",
        "18:00:00Z",
        "2030-02-30T00:00:00Z",
        "2029-02-29T00:00:00Z",
        "2030-13-01T00:00:00Z",
        "2030-01-31T24:00:00Z",
        "2030-01-31T18:60:00Z",
        "2030-01-31T18:00Z",
        "2030-01-31T18:00:00+24:00",
        "2030-W05-4T18:00:00Z",
        "+002030-01-31T18:00:00Z",
        "10000-01-01T00:00:00Z",
        "9999-12-31T23:59:59-14:00",
        "9999-12-31T23:59:59.9999999Z",
        "1969-12-31T23:59:59Z",
        "1970-01-01T00:59:59+01:00",
        "0001-01-01T00:00:00+01:00",
        "0000-01-01T00:00:00Z",
        "infinity",
        "now",
        "",
        " 2030-01-31T18:00:00Z",
        "2030-01-31T18:00:00Z\n",
        "٢٠٣٠-01-31T18:00:00Z",
    ],
)
def test_a_time_that_is_no_rfc_3339_time_with_an_offset_from_1970_to_9999_is_refused(ada: Any, time: str) -> None:
    made = ada.client.post("/v1/todos", json={"title": "x", "due_date": time})
    problem(made, 422, "validation_failed", field="due_date")
    problem(ada.client.get("/v1/todos", params={"due_after": time}), 422, "validation_failed", field="due_after")


def test_a_time_without_an_offset_is_refused_with_the_hint_to_add_one(ada: Any) -> None:
    made = ada.client.post("/v1/todos", json={"title": "x", "due_date": "2030-01-31T18:00:00"})
    assert "add one" in problem(made, 422, "validation_failed")["errors"][0]["message"]


# Parameters


INTEGERS = [
    (route, field.encode_name)
    for route in ROUTES
    if route.query_type is not None
    for field in msgspec.structs.fields(route.query_type)
    if re.search(r"\bint\b", str(field.type))
]


def test_these_are_the_integers_in_query_strings() -> None:
    assert {name for _, name in INTEGERS} == {
        "limit",
        "messages",
        "max_characters",
        "after_position",
        "before_position",
        "from_position",
    }


@pytest.mark.parametrize(("route", "name"), INTEGERS, ids=ids)
def test_an_integer_in_a_query_string_is_never_guessed(ada: Any, route: Route, name: str) -> None:
    """Each has bounds of its own, but one function reads them all."""
    more = ("", "1e0", "+1", " 1", "1_0", "0x1", "one", "null", "\u0663", "9" * 4000)
    for text in ("1.0", "-1", "1" * 40, *(more if (route, name) == INTEGERS[0] else ())):
        path = path_of(route) + query_of(route, **{name: text})
        problem(ada.client.request(route.method, path), 422, "validation_failed", field=name)
    twice = path_of(route) + query_of(route, **{name: "1"}) + f"&{name}=1"
    problem(ada.client.request(route.method, twice), 422, "validation_failed", field=name)


@pytest.mark.parametrize("route", [route for route in ROUTES if route.name in REQUIRED_QUERY], ids=ids)
def test_a_required_query_parameter_can_not_be_left_out(ada: Any, route: Route) -> None:
    (name,) = REQUIRED_QUERY[route.name]
    problem(ada.client.request(route.method, path_of(route)), 422, "validation_failed", field=name)


NAMES_NOTHING = ("0", "-1", "1.0", "01", "%201", "1" * 40, NOBODY[:-1], "{" + NOBODY + "}", "%00", "\u0663")
ONE_OF_EACH_READER = ("get_link", "get_todo", "get_task")
"""A UUID, either, and a number."""


@pytest.mark.parametrize("route", [route for route in ROUTES if route.path_parameters], ids=ids)
def test_a_path_that_can_name_nothing_is_not_found_whatever_its_form(
    ada: Any, places: dict[str, str], route: Route
) -> None:
    for name in route.path_parameters.keys() - {"user_id", "external_id"}:
        real = places[name]
        lenient = f"0{real}" if real.isdigit() else f"{{{real}}}"  # what int() and UUID() would take
        for text in (lenient, "%FF", *(NAMES_NOTHING if route.name in ONE_OF_EACH_READER else ())):
            path = path_of(route, {**places, name: text}) + query_of(route)
            answer = ada.client.request(route.method, path, json=VALID.get(route.name))
            problem(answer, 404, "not_found")


@pytest.mark.parametrize("query", ["%ff=1", "a=%ff", "status=%ed%a0%80", "&".join(["a=1"] * 300)])
def test_a_query_string_that_is_not_utf_8_or_endless_is_malformed(ada: Any, query: str) -> None:
    problem(ada.client.get(f"/v1/todos?{query}"), 400, "malformed_request")


@pytest.mark.parametrize("query", ["?", "?&", "?&&", "?status=pending&"])
def test_an_empty_part_of_a_query_string_means_nothing(ada: Any, query: str) -> None:
    assert ada.client.get(f"/v1/todos{query}").status_code == 200


@pytest.mark.parametrize("query", ["cursor=%00", "status=%00", "%00=1", "limit=%00", "due_after=%00"])
def test_a_nul_in_a_query_string_is_refused(ada: Any, query: str) -> None:
    problem(ada.client.get(f"/v1/todos?{query}"), 422, "validation_failed")


# HTML


def test_html_in_strings_is_harmless_on_the_wire_and_the_same_json(ada: Any, todo: Any, places: dict[str, str]) -> None:
    for path in (f"/v1/todos/{todo['id']}", "/v1/todos?order=number&limit=1"):
        answer = ada.client.get(path)
        assert not set(answer.content) & set(b"<>&")
        assert b"\\u003cb\\u003e" in answer.content
        item = answer.json().get("items", [answer.json()])[0]
        assert item["title"] == "<b>\"milk\" & 'bread'</b>"
        assert item["description"] == '</script>\\\\"<!-- \\u003c &lt;'
        assert set(item["metadata"]) == {"<k>&'\"\\", "n", "big"}
    read = [route for route in ROUTES if route.method == "GET" and route.path_parameters]
    for route in read:
        answer = ada.client.get(path_of(route, places))
        assert answer.status_code == 200
        assert not set(answer.content) & set(b"<>&"), route.name
    listed = ada.client.get("/v1/conversations?messages=50")
    assert not set(listed.content) & set(b"<>&")
    assert listed.json()["items"][0].keys() >= {"title", "messages"}
    refused = ada.client.post("/v1/todos", json={"title": "x", "<script>&": 1})
    problem(refused, 422, "validation_failed", field="<script>&")
    assert not set(refused.content) & set(b"<>&")


def test_escape_html_answers_every_string_escaped_names_in_metadata_too(ada: Any, todo: Any) -> None:
    lists = ada.client.get("/v1/todos?order=number&limit=1&escape=html")
    assert "escape=html" in lists.headers["link"]
    for answer in (ada.client.get(f"/v1/todos/{todo['id']}?escape=html"), lists):
        assert answer.headers["content-type"] == "application/json"
        item = decimal(answer.content)
        item = item.get("items", [item])[0]
        assert item["title"] == "&lt;b&gt;&quot;milk&quot; &amp; &#x27;bread&#x27;&lt;/b&gt;"
        assert item["description"] == "&lt;/script&gt;\\\\&quot;&lt;!-- \\u003c &amp;lt;"
        assert item["metadata"] == {
            "&lt;k&gt;&amp;&#x27;&quot;\\": ["&lt;v&gt;", {"&amp;": "&#x27;"}],
            "n": Decimal("1.10"),
            "big": Decimal(123456789012345678901234567890),
        }
    assert ada.client.get("/v1/users/me?escape=html").json() == ada.client.get("/v1/users/me").json()


def test_escape_html_holds_for_conversations_messages_and_tasks_alike(ada: Any, places: dict[str, str]) -> None:
    path = f"/v1/conversations/{places['conversation_id']}"
    content = "&lt;p&gt;&amp;amp;&quot;&#x27;\\u003c&lt;/p&gt;"
    conversation = ada.client.get(f"{path}?escape=html").json()
    assert conversation["title"] == "&lt;i&gt;&#x27;groceries&#x27;&lt;/i&gt;"
    assert conversation["metadata"] == {"&lt;k&gt;&amp;&#x27;&quot;\\": ["&lt;v&gt;"]}
    message = ada.client.get(f"{path}/messages/{places['message_id']}?escape=html").json()
    assert (message["content"], message["metadata"]) == (content, {"&lt;k&gt;": "&amp;"})
    assert {**ada.client.get(f"{path}/messages?escape=html").json()["items"][0], "item": None} == message
    context = ada.client.get(f"{path}/context?messages=200&escape=html").json()
    assert context[0] == {"role": "assistant", "content": content}
    listed = ada.client.get("/v1/conversations?messages=50&limit=200&escape=html").json()["items"]
    (found,) = (item for item in listed if item["id"] == conversation["id"])
    assert {**found.pop("messages")[0], "item": None} == message
    assert found == conversation
    task = ada.client.get(f"/api/{ada.id}/tasks/{places['task_id']}?escape=html").json()
    assert task["title"] == "&lt;b&gt;&quot;milk&quot; &amp; &#x27;bread&#x27;&lt;/b&gt;"


@pytest.mark.parametrize("query", ["escape=", "escape", "escape=HTML", "escape=xml", "escape=html&escape=html"])
def test_escape_is_html_once_and_nothing_else(ada: Any, query: str) -> None:
    problem(ada.client.get(f"/v1/todos?{query}"), 422, "validation_failed", field="escape")


def test_escape_html_holds_for_what_an_error_repeats_too(ada: Any) -> None:
    query = "%3Cscript%3E%26%22=1"
    plain, escaped = (ada.client.get(f"/v1/todos?{prefix}{query}") for prefix in ("", "escape=html&"))
    problem(plain, 422, "validation_failed", field='<script>&"')
    problem(escaped, 422, "validation_failed", field="&lt;script&gt;&amp;&quot;")
    assert not set(escaped.content) & set(b"<>")


# Headers


@pytest.mark.parametrize(
    "accept",
    [
        "*/*",
        "application/json",
        "APPLICATION/JSON",
        "application/*",
        "application/json;q=0.1",
        "application/json; charset=utf-8",
        "text/html, application/xhtml+xml, */*;q=0.1",
        "text/html;q=1, application/*;q=0.001",
        "*/*;q=0, application/json",
        "",
    ],
)
def test_whoever_takes_json_is_answered(ada: Any, accept: str) -> None:
    answer = ada.client.get("/v1/users/me", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "application/xml",
        "application/problem+json",
        "application/json;q=0",
        "application/json; q=0.000",
        "*/*;q=0",
        "application/json;q=0, */*",
        "application/*;q=0, */*",
        "garbage",
        "json",
    ],
)
def test_whoever_takes_no_json_is_refused_before_anything_happens(ada: Any, accept: str) -> None:
    headers = {"Accept": accept}
    problem(ada.client.delete("/v1/users/me", headers=headers), 406, "not_acceptable")
    problem(ada.client.get("/v1/nothing", headers=headers), 404, "not_found")
    lines = ada.client.get("/v1/export", headers=headers)  # is another type
    if accept == "application/json;q=0, */*":
        assert (lines.status_code, lines.headers["content-type"]) == (200, "application/x-ndjson")
    else:
        problem(lines, 406, "not_acceptable")


def test_accept_in_two_headers_is_one_list(ada: Any) -> None:
    both = [("Accept", "text/html"), ("Accept", "application/json")]
    assert ada.client.get("/v1/users/me", headers=both).status_code == 200
    both = [("Accept", "text/html"), ("Accept", "text/plain")]
    request = ada.client.build_request("GET", "/v1/users/me")
    del request.headers["accept"]
    request.headers = httpx.Headers([*request.headers.raw, *both])
    problem(ada.client.send(request), 406, "not_acceptable")


@pytest.mark.parametrize("route", [route for route in ROUTES if route.method == "GET"], ids=ids)
def test_head_answers_the_headers_of_get_and_who_knows_the_version_is_not_answered_again(
    ada: Any, places: dict[str, str], route: Route
) -> None:
    path = path_of(route, places) + query_of(route)
    same = {"X-Request-ID": "same"}
    got, head = ada.client.get(path, headers=same), ada.client.head(path, headers=same)
    assert (got.status_code, head.status_code) == (200, 200)
    assert head.content == b""
    # What is chunked has no length to be told (RFC 9110, section 9.3.2).
    expected = {name: value for name, value in got.headers.items() if name != "transfer-encoding"}
    assert {**head.headers, "date": ""} == {**expected, "date": ""}
    if "transfer-encoding" not in got.headers:
        assert head.headers["content-length"] == str(len(got.content))
    etag = got.headers.get("etag")
    assert etag == (f'"{got.json().get("version", 1)}"' if route.has_etag else None)
    again = ada.client.get(path, headers={"If-None-Match": etag or "*"})
    assert (again.status_code, again.headers.get("etag")) == (304 if etag else 200, etag)
    assert (again.content == b"") == route.has_etag


def test_head_of_what_is_missing_has_no_body_either(ada: Any) -> None:
    missing = ada.client.head("/v1/todos/99999")
    assert (missing.status_code, missing.content) == (404, b"")
    assert missing.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(("known", "status"), [('"77", W/"1"', 304), ("*", 304), ('"77"', 200)])
def test_of_several_known_versions_any_will_do(ada: Any, todo: Any, known: str, status: int) -> None:
    assert ada.client.get(f"/v1/todos/{todo['id']}", headers={"If-None-Match": known}).status_code == status


@pytest.mark.parametrize("route", [route for route in ROUTES if route.takes_if_match], ids=ids)
def test_a_change_of_another_version_is_refused_but_only_what_would_succeed_otherwise(
    ada: Any, places: dict[str, str], route: Route
) -> None:
    body = json.dumps(VALID[route.name]).encode() if route.body_type is not None else b""
    for if_match in ('"77"', 'W/"1"', "1", "no version", '"1", "2"'):
        answer = ada.client.request(
            route.method, path_of(route, places), content=body, headers={**JSON, "If-Match": if_match}
        )
        problem(answer, 412, "version_mismatch")
        if route.body_type is not None:
            problem(send(ada.client, route, b'{"no_such": 1}', If_Match=if_match), 422, "validation_failed")
    if route.path_parameters:
        missing = path_of(route, {**NOWHERE, "user_id": places["user_id"]})
        answer = ada.client.request(route.method, missing, content=body, headers={**JSON, "If-Match": '"77"'})
        problem(answer, 404, "not_found")


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.location and route.method == "POST" and not route.public], ids=ids
)
def test_what_is_created_is_where_location_says(ada: Any, places: dict[str, str], route: Route) -> None:
    body = VALID[route.name]
    if route.name == "create_link":
        body = {name: places.get(name, body[name]) for name in VALID[route.name]} | {"relationship_type": "creation"}
    made = ada.client.post(path_of(route, places), json=body)
    assert (made.status_code, route.status) == (201, 201), made.text
    found = ada.client.get(made.headers["location"])
    assert found.status_code == 200
    assert ("etag" in made.headers) == route.has_etag
    if route.has_etag:
        assert (made.json(), made.headers["etag"]) == (found.json(), found.headers["etag"])
    else:
        made_id = made.json()["id"] if "id" in made.json() else made.json()["messages"][0]["conversation_id"]
        assert made_id == found.json()["id"]


def test_success_and_problem_alike_carry_the_callers_request_id(ada: Any) -> None:
    headers = {"X-Request-ID": "req-1"}
    assert ada.client.get("/v1/users/me", headers=headers).headers["x-request-id"] == "req-1"
    refused = ada.client.get("/v1/todos/99999", headers=headers)
    assert refused.headers["x-request-id"] == refused.json()["request_id"] == "req-1"


def raw(url: str, request: bytes) -> bytes:
    """Send bytes as they are and read until the service closes the connection."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def test_a_path_or_header_of_bytes_that_are_not_ascii_is_no_fault(server: Any, ada: Any) -> None:
    token = ada.token.encode()
    for target in (b"/v1/todos?status=\xff", b"/v1/todos/\xff", b"/v1/todos/%ff%fe", b"/v1/users?username=\xc3\xa9"):
        request = b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer %b\r\n\r\n" % (
            target,
            token,
        )
        assert re.match(rb"HTTP/1.1 4\d\d ", raw(server.url, request)), target
    for header in (b"Accept: \xff", b"If-Match: \xff", b"If-None-Match: \xff\xfe", b"Content-Type: \xff"):
        request = b"PATCH /v1/todos/1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer %b\r\n" % token
        answer = raw(server.url, request + header + b"\r\nContent-Length: 2\r\n\r\n{}")
        assert re.match(rb"HTTP/1.1 4\d\d ", answer), header


def test_every_route_with_a_body_has_a_valid_one_in_these_tests() -> None:
    assert VALID.keys() == {route.name for route in WITH_BODY}
    assert NOWHERE.keys() == {name for route in ROUTES for name in route.path_parameters}
    assert BODY_BYTES == 1024 * 1024


# Litestar


def test_without_litestar_nothing_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(Settings(database_url=Secret("postgresql://a@127.0.0.1:1/b"), jwt_secret=Secret("x" * 32)))
    reached: list[str] = []

    async def fail(_: object, scope: Any, *__: object) -> None:
        reached.append(f"{scope['method']} {scope['path']}")
        raise LookupError

    monkeypatch.setattr(Litestar, "__call__", fail)
    asked = [(route.method, path_of(route)) for route in ROUTES] + [("GET", path) for path in ("/metrics", "/schema")]

    async def ask() -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            for method, path in asked:
                assert (await client.request(method, path)).status_code == 500

    asyncio.run(ask())
    assert reached == [f"{method} {path}" for method, path in asked]


def test_every_handler_is_in_the_list_of_those_that_are_served() -> None:
    defined = {
        (handler.fn.__module__, handler.fn.__qualname__)
        for module in pkgutil.walk_packages(service.__path__, "service.")
        if module.name != "service.__main__"
        for handler in vars(importlib.import_module(module.name)).values()
        if isinstance(handler, HTTPRouteHandler)
    }
    served = (*HANDLERS, *PROTOCOL_HANDLERS, *LOCAL_HANDLERS)
    assert defined == {(handler.fn.__module__, handler.fn.__qualname__) for handler in served}
