"""The OpenAPI document: that it is valid, complete, and says what the service does."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from service.http.docs import Document
from service.http.request import decode_body
from service.problems import CODES
from tests.conftest import PLAIN_HTTP, REPOSITORY, Server
from tests.support import openapi_hooks
from tests.support.problems import problem
from tests.support.routes import ROUTES, Route


@pytest.fixture(scope="module")
def document(server: Server) -> Any:
    return httpx.get(f"{server.url}/schema/openapi.json", verify=PLAIN_HTTP).json()


def operation(document: Any, route: Route) -> Any:
    return document["paths"][route.path][route.method.lower()]


def resolved(document: Any, answer: Any) -> Any:
    """The response, or the shared one that it refers to."""
    place, _, name = answer.get("$ref", "").rpartition("/")
    return document["components"]["responses"][name] if place == "#/components/responses" else answer


# The document


def test_the_document_is_as_harmless_in_a_page_as_any_answer(document: Any, server: Server) -> None:
    plain = httpx.get(f"{server.url}/schema/openapi.json", verify=PLAIN_HTTP)
    assert not set(b"<>&") & set(plain.content)
    escaped = httpx.get(f"{server.url}/schema/openapi.json?escape=html", verify=PLAIN_HTTP)
    assert escaped.headers["etag"] != plain.headers["etag"]
    text = "on the wire `<`, `>` and `&` are written"
    assert text in document["info"]["description"]
    assert "on the wire `&lt;`, `&gt;` and `&amp;` are written" in escaped.json()["info"]["description"]


@pytest.mark.parametrize("state", [{}, {"escape": True}], ids=["plain", "escaped"])
def test_the_document_is_one_text_that_all_answers_share(state: dict[str, bool]) -> None:
    """1,500 strangers who ask for it at once took 430 MiB when each had a text of their own."""
    request: Any = SimpleNamespace(route_handler=SimpleNamespace(resolve_type_encoders=dict), scope={"state": state})
    found = Document()
    assert found.render(request, {"a": "<"}) is found.render(request, {"a": "<"})


def test_the_document_is_valid_openapi_3_1(document: Any) -> None:
    import schemathesis  # half a second, which not every process need spend to find tests

    schemathesis.openapi.from_dict(document).validate()
    assert document["openapi"] == "3.1.0"


def test_every_route_is_documented_under_the_name_of_its_handler_and_nothing_else_is(document: Any) -> None:
    documented = {
        (method.upper(), path): details["operationId"]
        for path, methods in document["paths"].items()
        for method, details in methods.items()
    }
    assert documented.keys() == {(route.method, route.path) for route in ROUTES} | {("GET", "/metrics")}
    for route in ROUTES:
        assert documented[route.method, route.path] == route.name
    assert len(set(documented.values())) == len(documented)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_an_operation_says_who_may_call_it_with_what_and_how_it_fails(document: Any, route: Route) -> None:
    found = operation(document, route)
    assert found["summary"].endswith(".")
    assert found.get("security") == ([] if route.public else None)
    assert document["security"] == [{"bearer": []}]
    has_body = route.body_type is not None or route.takes_upload
    assert ("requestBody" in found) == has_body
    if route.body_type is not None:
        (media_type,) = found["requestBody"]["content"]
        assert media_type == "application/json"
        assert found["requestBody"]["required"] is (route.name != "complete_task")
    named = {(parameter["in"], parameter["name"]) for parameter in found["parameters"]}
    assert {name for place, name in named if place == "path"} == route.path_parameters.keys()
    assert (("query", "escape") in named) == (route.method == "GET")
    # A rewind has no object of its own, and a key never changes.
    versionless = ("rewind_messages", "delete_key")
    changed = route.name == "update_task" or (route.method in ("PATCH", "DELETE") and route.name not in versionless)
    assert (("header", "If-Match") in named) == route.takes_if_match == changed
    assert (("header", "Idempotency-Key") in named) == (route.method == "POST" and not route.public)
    assert (("header", "If-None-Match") in named) == (route.method == "GET" and route.has_etag)
    answers = {status: resolved(document, answer) for status, answer in found["responses"].items()}
    codes = found["x-problem-codes"]
    success = "204" if route.returns is None else str(route.status)
    created = ["201"] if "creates" in route.handler.opt else []
    assert [status for status in answers if status < "300"] == [success, *created]
    assert ("304" in answers) == (("header", "If-None-Match") in named)
    headers = answers[success]["headers"]
    assert ("Idempotency-Replayed" in headers) == (("header", "Idempotency-Key") in named)
    assert ("Link" in headers) == (("query", "cursor") in named)
    assert ("Location" in headers) == (success == "201" or bool(created))
    assert ("ETag" in headers) == route.has_etag
    assert ("invalid_cursor" in codes["422"]) == (("query", "cursor") in named)
    expected = {"400", "406", "422", "431", "500", "503"}
    expected |= set() if route.public else {"401"}
    expected |= {"403"} if route.handler.opt.get("scope", "read") != "read" else set()
    expected |= {"408", "413", "415"} if has_body else set()
    expected |= {"404"} if route.path_parameters else set()
    expected |= {"412"} if route.takes_if_match else set()
    expected |= {"409"} if ("header", "Idempotency-Key") in named else set()
    expected |= {str(CODES[code].status) for code in route.problems}
    assert {status for status in answers if status >= "400"} == codes.keys() == expected
    for status, answer in answers.items():
        assert answer["description"]
        assert "X-Request-ID" in answer["headers"]
        assert ("Retry-After" in answer["headers"]) == (status in ("429", "503"))
        assert ("WWW-Authenticate" in answer["headers"]) == (status == "401")
        if status >= "400":
            assert found["responses"][status]["$ref"] == f"#/components/responses/Problem{status}"
            # 408: the body took too long to arrive.
            assert codes[status] == ["timeout"] or {CODES[code].status for code in codes[status]} == {int(status)}
    stated = {code for names in codes.values() for code in names}
    assert stated >= set(route.problems)


def test_every_code_of_this_release_is_documented_somewhere(document: Any) -> None:
    stated = {
        code for route in ROUTES for names in operation(document, route)["x-problem-codes"].values() for code in names
    }
    assert stated == CODES.keys() - {"method_not_allowed"}


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


def test_the_file_of_an_export_is_documented_as_lines(document: Any) -> None:
    exported = document["paths"]["/v1/export"]["get"]["responses"]["200"]["content"]
    imported = document["paths"]["/v1/import"]["post"]["requestBody"]
    assert list(exported) == ["application/x-ndjson"]
    assert list(imported["content"]) == ["application/x-ndjson"]
    assert imported["description"] == "Also taken: application/jsonl, application/json."
    assert imported["required"] is True


def test_lists_without_pages_are_bare_arrays(document: Any) -> None:
    arrays = {}
    for route in ROUTES:
        answer = operation(document, route)["responses"].get(str(route.status), {})
        schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
        if schema.get("type") == "array":
            arrays[route.name] = schema["items"]
    assert arrays["list_tasks"] == {"$ref": "#/components/schemas/Task"}
    message, item = arrays["get_context"]["anyOf"]
    assert message == {"$ref": "#/components/schemas/ContextMessage"}
    assert item.keys() == {"description"}  # any JSON there is
    assert document["components"]["schemas"]["TurnResult"]["properties"]["context"]["items"] == {
        "anyOf": [message, item]
    }
    assert len(arrays) == 2


def test_the_messages_of_a_listed_conversation_are_messages_and_may_be_absent(document: Any) -> None:
    listed = document["components"]["schemas"]["ListedConversation"]
    assert listed["properties"]["messages"] == {"type": "array", "items": {"$ref": "#/components/schemas/Message"}}
    assert "messages" not in listed["required"]


def test_a_rewind_says_where_it_begins(document: Any) -> None:
    rewind = document["paths"]["/v1/conversations/{conversation_id}/messages"]["delete"]
    (parameter,) = (found for found in rewind["parameters"] if found["in"] == "query")
    assert (parameter["name"], parameter["required"]) == ("from_position", True)
    assert parameter["schema"]["minimum"] == 1


def test_every_time_is_documented_as_one(document: Any) -> None:
    times = [
        (name, field, schema)
        for name, component in document["components"]["schemas"].items()
        for field, schema in component.get("properties", {}).items()
        if schema.get("description", "").startswith("Ignored") is False and field.endswith(("_at", "_date"))
    ]
    assert {"Todo", "Conversation", "ListedConversation", "Message", "Link", "Task", "User"} <= {
        name for name, _, _ in times
    }
    for name, field, schema in times:
        kinds = [kind for kind in schema.get("anyOf", [schema]) if kind != {"type": "null"}]
        assert [kind.get("format") for kind in kinds] == ["date-time"], (name, field)


@pytest.mark.parametrize(
    "key",
    ["a", "x" * 255, "x" * 256, "a key", "!", "~", "a\tb", "Ā".encode(), "é".encode("latin-1"), "a,b"],
)
def test_the_schema_of_an_idempotency_key_takes_what_the_service_takes(
    document: Any, new_module_user: Any, key: str | bytes
) -> None:
    (parameter,) = (
        found for found in document["paths"]["/v1/todos"]["post"]["parameters"] if found["name"] == "Idempotency-Key"
    )
    schema = parameter["schema"]
    sent = key if isinstance(key, bytes) else key.encode()
    text = sent.decode("latin-1")
    documented = schema["minLength"] <= len(text) <= schema["maxLength"] and re.search(schema["pattern"], text)
    made = new_module_user().client.post("/v1/todos", json={"title": "x"}, headers={b"Idempotency-Key": sent})
    assert made.status_code == (201 if documented else 422), made.text
    if not documented:
        problem(made, 422, "validation_failed", field="Idempotency-Key")


def test_the_schema_of_a_todo_says_which_fields_are_times_ids_and_closed_sets(document: Any) -> None:
    fields = document["components"]["schemas"]["Todo"]["properties"]
    assert fields["created_at"]["format"] == "date-time"
    assert fields["due_date"]["anyOf"][0]["format"] == "date-time"
    assert fields["id"] == {"type": "string", "format": "uuid"}
    assert fields["status"] == {"$ref": "#/components/schemas/TodoStatus"}
    status = document["components"]["schemas"]["TodoStatus"]
    assert status == {"type": "string", "enum": sorted(["pending", "in_progress", "completed", "archived"])}
    assert (fields["metadata"]["type"], fields["metadata"]["additionalProperties"]) == ("object", True)


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.body_type is not None], ids=lambda route: route.name
)
def test_every_body_has_an_example_that_the_service_takes(document: Any, route: Route) -> None:
    media = operation(document, route)["requestBody"]["content"]["application/json"]
    example = media["examples"]["usual"]["value"]
    assert decode_body(json.dumps(example).encode(), route.body_type)


def test_the_document_has_the_package_s_version(document: Any) -> None:
    assert document["info"]["version"] == importlib.metadata.version("todochat")


# The document against the service

EXCLUDED = (
    "positive_data_acceptance",  # some rules bind several fields, or the state of the database: no schema can say them
)
EXAMPLES = 6
PHASES = ("examples", "fuzzing", *(("coverage", "stateful") if os.environ.get("CI") else ()))
"""What CI sends besides takes a minute: 4,000 requests at the bounds of parameters and fields, and calls in a row."""


def test_whatever_is_sent_to_the_service_is_answered_as_the_document_says(server: Server) -> None:
    before = len(server.log())
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/schema/openapi.json"]
    command += ["--exclude-checks", ",".join(EXCLUDED), f"--max-examples={EXAMPLES}", "--seed=20261122"]
    command += [f"--phases={','.join(PHASES)}"]
    command += ["--generation-database=none", "--no-color"]
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "tests.support.openapi_hooks",
        "PYTHONPATH": str(REPOSITORY),
        openapi_hooks.URL: server.url,
        openapi_hooks.SECRET: server.env["JWT_SECRET"],
    }
    run = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    (tested,) = re.findall(r"Tested: (\d+)", run.stdout)
    assert int(tested) >= len(ROUTES)
    logged = [json.loads(line) for line in server.log()[before:].splitlines() if '"event":"request"' in line]
    requests = [line for line in logged if line["request_id"] != openapi_hooks.PREPARATION]
    assert not [line for line in logged if line["status"] == 500]
    # No generated password or refresh token is a right one. What else is refused throughout was never really tested.
    succeeded = {(line["method"], line["route"]) for line in requests if line["status"] < 300}
    never = {route.name for route in ROUTES if (route.method, route.path) not in succeeded}
    assert never <= {"create_token", "refresh_token", "change_password"}
