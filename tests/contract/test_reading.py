"""How paths, query strings and headers are read and written, where a shorter way stands beside a library's."""

import socket
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID

import httpx
import pytest
from psycopg import sql

from service.db.statements import set_setting
from service.http.reading import path_reader, read_pairs
from service.http.response import next_link
from service.problems import Problem
from tests.conftest import Server
from tests.support.problems import problem

NOBODY = "018f4fd2-0000-7000-8000-00000000abcd"


# Paths


@pytest.mark.parametrize("spelling", ["/v1/todos/{id}", "/v1/todos/{id}/", "//v1/todos//{id}", "/v1/todos/{ID}"])
def test_a_path_in_another_spelling_gets_the_same_answer(new_user: Any, server: Server, spelling: str):
    user = new_user()
    todo = user.client.post("/v1/todos", json={"title": "Buy milk"}).json()
    path = spelling.format(id=todo["id"], ID=todo["id"].upper())
    # httpx would tidy the path up.
    answer = raw(server, f"GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {user.token}\r\n")
    assert answer.startswith("HTTP/1.1 200 ")
    assert f'"id":"{todo["id"]}"' in answer


@pytest.mark.parametrize(
    ("path", "status", "named"),
    [
        ("//v1/conversations//by-external-id///a//b%2F/c", "201", '"external_id":"a//b//c"'),
        ("/v1/conversations/by%2Dexternal%2did/a%2Db", "201", '"external_id":"a-b"'),
        ("/v1/conversations%2Fby-external-id/a/b", "404", "not_found"),
    ],
)
def test_a_name_at_the_end_of_a_path_begins_behind_the_slashes_before_it(
    new_user: Any, server: Server, path: str, status: str, named: str
):
    signed_in = f"Authorization: Bearer {new_user().token}\r\nContent-Type: application/json\r\nContent-Length: 2"
    answer = raw(server, f"PUT {path} HTTP/1.1\r\nHost: a\r\n{signed_in}\r\n", "{}")
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert named in answer


@pytest.mark.parametrize("weight", ["1e999", "inf", "-inf", "nan", "x", ""])
def test_a_weight_in_accept_that_is_none_does_not_matter(server: Server, weight: str):
    assert httpx.get(f"{server.url}/health/live", headers={"Accept": f"*/*;q={weight}"}).status_code == 200


def test_a_host_that_cannot_be_one_is_refused(new_user: Any, server: Server):
    answer = raw(server, f"GET /v1/todos HTTP/1.1\r\nHost: a b\r\nAuthorization: Bearer {new_user().token}\r\n")
    assert answer.startswith("HTTP/1.1 400 ")


def raw(server: Server, head: str, body: str = "") -> str:
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port), timeout=10) as connection:
        connection.sendall(f"{head}Connection: close\r\n\r\n{body}".encode())
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


@pytest.mark.parametrize("limit", ["01", "007", "-0", "00"])
def test_a_number_in_a_query_string_is_written_as_in_json(new_user: Any, limit: str):
    answer = new_user().client.get("/v1/todos", params={"limit": limit})
    problem(answer, 422, "validation_failed", field="limit")


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
    assert next_link({"path": "/v1/todos", "query_string": query}, "NEXT") == f'</v1/todos?{link}>; rel="next"'.encode()


# Values


@pytest.mark.parametrize(
    "value",
    ["", "3f6baec8", "a.b_c:d/e+f=g@h-i", "it's", "a\\b", "é", "a\nb", "a\n", "; DROP TABLE x", "%s", '"', "$1"],
)
def test_a_setting_is_quoted_as_the_driver_quotes_it(value: str):
    expected = sql.SQL("SET LOCAL app.request_id = {}").format(sql.Literal(value)).as_bytes(None)
    assert set_setting("app.request_id", value)[0].text == expected


def test_an_id_in_a_path_is_read_in_any_case_and_in_no_other_form():
    read = path_reader("todo_id", UUID)
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
