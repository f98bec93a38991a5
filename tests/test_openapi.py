"""The OpenAPI document: that it is valid, complete, and says what the service does."""

import json
import os
import re
import subprocess
import sys
from typing import Any

import httpx
import pytest
import schemathesis

from service.app import ROUTES
from service.endpoint import Route
from service.errors import CODES
from tests import openapi_hooks
from tests.conftest import REPOSITORY, Server

PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def document(server: Server) -> Any:
    return httpx.get(f"{server.url}/schema/openapi.json").json()


def operation(document: Any, route: Route) -> Any:
    return document["paths"][route.path][route.method.lower()]


def codes(answer: Any) -> set[str]:
    (_, narrowed) = answer["content"][PROBLEM]["schema"]["allOf"]
    return set(narrowed["properties"]["code"]["enum"])


# The document


def test_the_document_is_valid_openapi_3_1(document: Any) -> None:
    schemathesis.openapi.from_dict(document).validate()
    assert document["openapi"] == "3.1.0"


def test_every_route_is_documented_under_the_name_of_its_handler_and_nothing_else_is(document: Any) -> None:
    documented = {
        (method.upper(), path): details["operationId"]
        for path, methods in document["paths"].items()
        for method, details in methods.items()
    }
    files = {("GET", path) for path in ("/metrics", "/schema", "/schema/openapi.json")}
    assert documented.keys() == {(route.method, route.path) for route in ROUTES} | files
    for route in ROUTES:
        assert documented[route.method, route.path] == route.name == route.handler.__name__  # type: ignore[attr-defined]
    assert len(set(documented.values())) == len(documented)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_an_operation_says_who_may_call_it_with_what_and_how_it_fails(document: Any, route: Route) -> None:
    found = operation(document, route)
    assert found["summary"].endswith(".")
    assert ("security" in found) == (not route.public)
    assert ("requestBody" in found) == (route.body_type is not None)
    if route.body_type is not None:
        assert list(found["requestBody"]["content"]) == ["application/json"]
        assert found["requestBody"]["required"] is True
    named = {(parameter["in"], parameter["name"]) for parameter in found["parameters"]}
    assert {name for place, name in named if place == "path"} == route.path_parameters.keys()
    assert (("query", "escape") in named) == (route.method == "GET")
    assert (("header", "If-Match") in named) == route.takes_if_match == (route.method in ("PATCH", "DELETE"))
    assert (("header", "If-None-Match") in named) == (route.method == "GET" and route.has_etag)
    answers = found["responses"]
    success = "204" if route.returns is None else str(route.status)
    assert [status for status in answers if status < "300"] == [success]
    assert ("304" in answers) == (("header", "If-None-Match") in named)
    expected = {"400", "406", "422", "431", "500", "503"}
    expected |= set() if route.public else {"401"}
    expected |= {"408", "413", "415"} if route.body_type is not None else set()
    expected |= {"404"} if route.path_parameters else set()
    expected |= {"412"} if route.takes_if_match else set()
    expected |= {str(CODES[code].status) for code in route.problems}
    assert {status for status in answers if status >= "400"} == expected
    for status, answer in answers.items():
        assert answer["description"]
        assert "X-Request-ID" in answer["headers"]
        assert ("Retry-After" in answer["headers"]) == (status in ("429", "503"))
        assert ("WWW-Authenticate" in answer["headers"]) == (status == "401")
        if status >= "400":
            # 408: the body took too long to arrive.
            assert (
                codes(answer) == {"timeout"}
                if status == "408"
                else {CODES[code].status for code in codes(answer)} == {int(status)}
            )
    stated = {code for status, answer in answers.items() if status >= "400" for code in codes(answer)}
    assert stated >= set(route.problems)


def test_every_code_of_this_release_is_documented_somewhere(document: Any) -> None:
    stated = {
        code
        for route in ROUTES
        for status, answer in operation(document, route)["responses"].items()
        if status >= "400"
        for code in codes(answer)
    }
    later = {"link_exists", "stale_position", "idempotency_in_progress", "idempotency_key_reused"}
    assert stated == CODES.keys() - later - {"method_not_allowed"}


def test_every_reference_leads_somewhere_and_every_schema_is_used(document: Any) -> None:
    text = json.dumps(document)
    names = document["components"]["schemas"]
    for name in names:
        assert f'"#/components/schemas/{name}"' in text
    assert text.count('"#/components/schemas/') == sum(text.count(f'"#/components/schemas/{name}"') for name in names)


def test_no_schema_of_a_request_lets_unknown_fields_through(document: Any) -> None:
    for route in ROUTES:
        if route.body_type is None:
            continue
        name = operation(document, route)["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert document["components"]["schemas"][name.rpartition("/")[2]]["additionalProperties"] is False


def test_the_schema_of_a_todo_says_which_fields_are_times_ids_and_closed_sets(document: Any) -> None:
    fields = document["components"]["schemas"]["Todo"]["properties"]
    assert fields["created_at"]["format"] == "date-time"
    assert fields["due_date"]["anyOf"][0]["format"] == "date-time"
    assert fields["id"] == {"type": "string", "format": "uuid"}
    assert fields["status"]["type"] == "string"
    assert set(fields["status"]["enum"]) == {"pending", "in_progress", "completed", "archived"}
    assert fields["metadata"]["type"] == "object"


# The document against the service

EXCLUDED = (
    "positive_data_acceptance",  # some rules bind several fields, or the state of the database: no schema can say them
)
EXAMPLES = 10


def test_whatever_is_sent_to_the_service_is_answered_as_the_document_says(server: Server) -> None:
    failures = server.log().count('"status":500')
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/schema/openapi.json"]
    command += ["--exclude-checks", ",".join(EXCLUDED), f"--max-examples={EXAMPLES}", "--seed=20261122"]
    command += ["--generation-database=none", "--no-color"]
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "tests.openapi_hooks",
        "PYTHONPATH": str(REPOSITORY),
        openapi_hooks.URL: server.url,
        openapi_hooks.SECRET: server.env["JWT_SECRET"],
    }
    run = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    (tested,) = re.findall(r"Tested: (\d+)", run.stdout)
    assert int(tested) >= len(ROUTES)
    # No generated password or refresh token is a right one. What else is refused throughout was never really tested.
    refused = re.search(r"Authentication failed: .*?Unauthorized.*?\n(.*?)\n\n", run.stdout, re.DOTALL)
    known = {"POST /v1/auth/token", "POST /v1/auth/refresh", "PUT /v1/users/me/password"}
    assert {line.strip(" -") for line in (refused[1].splitlines() if refused else ())} <= known
    assert server.log().count('"status":500') == failures
