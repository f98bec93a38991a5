"""The quick ways of the hot path lead where the slow ones do."""

import secrets
import socket
from typing import Any, cast
from urllib.parse import parse_qsl
from uuid import UUID

import httpx
import pytest

from service.app import ROUTES, create_app
from service.db.statements import set_local, set_locally
from service.http.endpoint import Shortcut, _next_link
from service.http.reading import path_reader, read_pairs
from service.problems import Problem
from service.settings import Secret, Settings
from tests.conftest import Server

NOBODY = "018f4fd2-0000-7000-8000-00000000abcd"


def shortcut() -> Shortcut:
    settings = Settings(
        database_url=Secret("postgresql://nobody@localhost/none"), jwt_secret=Secret(secrets.token_hex(32))
    )
    return cast("Any", create_app(settings))._app


def scope(method: str, path: str, host: bytes | None = b"example.com") -> dict[str, Any]:
    return {"method": method, "path": path, "headers": [] if host is None else [(b"host", host)]}


# Paths


def test_every_route_is_found_with_its_parameters():
    found = shortcut()
    for route in ROUTES:
        values = {name: f"value{number}" for number, name in enumerate(route.path_parameters)}
        taken = found._find(scope(route.method, route.path.format(**values)))
        assert taken is not None
        assert taken[0] is route
        assert taken[2] == values


@pytest.mark.parametrize(
    ("method", "path", "host"),
    [
        ("GET", "/", b"example.com"),
        ("GET", "", b"example.com"),
        ("GET", "/v1", b"example.com"),
        ("GET", "/v1/todos/", b"example.com"),
        ("GET", "/v1//todos", b"example.com"),
        ("GET", "//v1/todos", b"example.com"),
        ("GET", f"/v1/todos/{NOBODY}/", b"example.com"),
        ("GET", f"/v1/todos/{NOBODY}/links", b"example.com"),
        ("GET", "/metrics", b"example.com"),
        ("GET", "/schema/openapi.json", b"example.com"),
        ("DELETE", "/v1/todos", b"example.com"),
        ("OPTIONS", "/v1/todos", b"example.com"),
        ("get", "/v1/todos", b"example.com"),
        ("GET", "/v1/todos", b"exa mple.com"),
        ("GET", "/v1/todos", b"example.com/x"),
        ("GET", "/v1/todos", b"example.com\n"),
        ("GET", "/v1/todos", b""),
    ],
)
def test_what_the_list_of_routes_does_not_say_is_left_to_litestar(method: str, path: str, host: bytes):
    assert shortcut()._find(scope(method, path, host)) is None


@pytest.mark.parametrize("host", [b"example.com", b"127.0.0.1:8000", b"localhost", None])
def test_a_usual_host_takes_the_shortcut(host: bytes | None):
    assert shortcut()._find(scope("GET", "/v1/todos", host)) is not None


@pytest.mark.parametrize("spelling", ["/v1/todos/{id}", "/v1/todos/{id}/", "//v1/todos//{id}", "/v1/todos/{ID}"])
def test_a_path_in_another_spelling_gets_the_same_answer(new_user: Any, server: Server, spelling: str):
    user = new_user()
    todo = user.client.post("/v1/todos", json={"title": "Buy milk"}).json()
    path = spelling.format(id=todo["id"], ID=todo["id"].upper())
    # httpx would tidy the path up.
    answer = raw(server, f"GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {user.token}\r\n")
    assert answer.startswith("HTTP/1.1 200 ")
    assert f'"id":"{todo["id"]}"' in answer


def test_a_host_that_cannot_be_one_is_refused(new_user: Any, server: Server):
    answer = raw(server, f"GET /v1/todos HTTP/1.1\r\nHost: a b\r\nAuthorization: Bearer {new_user().token}\r\n")
    assert answer.startswith("HTTP/1.1 400 ")


def raw(server: Server, head: str) -> str:
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port), timeout=10) as connection:
        connection.sendall(f"{head}Connection: close\r\n\r\n".encode())
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return answer.decode()


# Query strings


@pytest.mark.parametrize(
    "query",
    [
        "a=b",
        "a",
        "a=",
        "=b",
        "&&a=b&",
        "a=b=c",
        "a=b&a=c",
        "a=b;c",
        "a=%41&b=+",
        "a=\x7f",
        "a=b&" * 199 + "z=y",
        "~=-._",
    ],
)
def test_a_query_string_is_read_as_the_library_reads_it(query: str):
    expected: dict[str, list[str]] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        expected.setdefault(name, []).append(value)
    assert read_pairs(query.encode()) == expected


@pytest.mark.parametrize("query", [b"a=b&" * 200 + b"z=y", b"a=%ff", "a=é".encode()])
def test_a_query_string_that_cannot_be_read_is_malformed(query: bytes):
    with pytest.raises(Problem) as refused:
        read_pairs(query)
    assert refused.value.code == "malformed_request"


@pytest.mark.parametrize(
    ("query", "link"),
    [
        (b"", "cursor=NEXT"),
        (b"limit=5", "limit=5&cursor=NEXT"),
        (b"cursor=OLD", "cursor=NEXT"),
        (b"status=pending&cursor=OLD&limit=5", "status=pending&limit=5&cursor=NEXT"),
        (b"%63ursor=OLD&limit=5", "limit=5&cursor=NEXT"),
        (b"due_before=2026-01-31T18:00:00Z", "due_before=2026-01-31T18%3A00%3A00Z&cursor=NEXT"),
        (b'limit=5&x=">', "limit=5&x=%22%3E&cursor=NEXT"),
    ],
)
def test_the_link_to_the_next_page_is_the_same_request_with_its_cursor(query: bytes, link: str):
    assert (
        _next_link({"path": "/v1/todos", "query_string": query}, "NEXT") == f'</v1/todos?{link}>; rel="next"'.encode()
    )


# Values


@pytest.mark.parametrize(
    "value",
    ["", "3f6baec8", "a.b_c:d/e+f=g@h-i", "it's", "a\\b", "é", "a\nb", "a\n", "; DROP TABLE x", "%s", '"', "$1"],
)
def test_a_setting_is_quoted_as_the_driver_quotes_it(value: str):
    assert set_locally("app.request_id")(value) == set_local("app.request_id", value)


def test_an_id_in_a_path_is_read_in_any_case_and_in_no_other_form():
    read = path_reader(UUID)
    assert read(NOBODY) == read(NOBODY.upper()) == UUID(NOBODY)
    for text in (
        "",
        "7",
        NOBODY.replace("-", ""),
        f"{{{NOBODY}}}",
        f"urn:uuid:{NOBODY}",
        NOBODY + " ",
        "g" + NOBODY[1:],
    ):
        with pytest.raises(Problem):
            read(text)
