"""What one client sends never keeps the others waiting: what is long is read beside the event loop, or in slices."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from uuid import uuid4

import httpx
import pytest

from service.http.request import BODY_BYTES
from service.todos import BATCH_BYTES
from service.turns import TURN_BYTES
from tests.conftest import Server, User, user_factory
from tests.support.watched import Watched

STILL = 0.05
"""Seconds that the event loop may stand still, whatever one client sends."""
KEYS = BODY_BYTES // 12 - 1
LONG_BODIES = {
    "16 KB of []": ("/v1/todos", b'{"metadata":{"a":[' + b"[]," * 5_400 + b"[]]}}"),
    "1 MiB of []": ("/v1/todos", b"[" + b"[]," * (BODY_BYTES // 3 - 1) + b"[]]"),
    "1 MiB of keys, the last one given twice": (
        "/v1/todos",
        b"{" + b",".join(b'"k%06d":1' % key for key in range(KEYS)) + b',"k%06d":2}' % (KEYS - 1),
    ),
    "1 MiB of integers": (
        "/v1/todos/batch",
        b'{"create":[{"metadata":{"a":[' + b"1," * (BODY_BYTES // 2) + b"1]}}]}",
    ),
    "12 MiB of integers": ("/v1/todos/batch", b'{"delete":[' + b"1," * ((BATCH_BYTES - 100) // 2) + b"1]}"),
    "12 MiB of numbers": ("/v1/todos/batch", b'{"delete":[' + b"1234567890," * ((BATCH_BYTES - 100) // 11) + b"1]}"),
    "12 MiB of a string": ("/v1/todos/batch", b'{"delete":["' + b"\\n" * ((BATCH_BYTES - 100) // 2) + b'"]}'),
}
"""Where it is sent, and what: read on the event loop, each holds it for several times as long."""


@pytest.fixture(scope="module")
def watched(start_module_server: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Watched:
    return Watched(start_module_server, tmp_path_factory.mktemp("watched"))


@pytest.fixture
def ada(watched: Watched) -> Iterator[User]:
    with user_factory(watched.server) as make:
        ada = make()
        ada.client.timeout = httpx.Timeout(60)
        yield ada


def stood_still(watched: Watched, send: Callable[[], httpx.Response], status: int) -> float:
    """For how long at most; up to three times, since the machine's own work is counted too."""
    longest = STILL
    for _ in range(3):
        if longest >= STILL:
            answers: list[httpx.Response] = []
            longest = max(watched.stalls(lambda answers=answers: answers.append(send())), default=0.0)
            assert answers[0].status_code == status, answers[0].text
    return longest


@pytest.mark.parametrize(("path", "body"), LONG_BODIES.values(), ids=LONG_BODIES)
def test_a_long_body_keeps_nobody_waiting(watched: Watched, ada: User, path: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    assert stood_still(watched, lambda: ada.client.post(path, content=body, headers=headers), 422) < STILL


def test_a_long_accept_keeps_nobody_waiting(watched: Watched, ada: User) -> None:
    lists = ("," * length for length in range(31_000, 31_003))
    assert stood_still(watched, lambda: ada.client.get("/v1/users/me", headers={"Accept": next(lists)}), 200) < STILL


def test_the_first_look_at_the_documentation_keeps_nobody_waiting(watched: Watched, ada: User) -> None:
    """That is when Litestar makes the document."""
    answers: list[httpx.Response] = []
    stalls = watched.stalls(lambda: answers.append(ada.client.get("/schema/openapi.json")))
    assert answers[0].json()["openapi"]
    assert max(stalls, default=0.0) < STILL


@pytest.mark.parametrize("path", ["/v1/todos", "/v1/auth/register"])
def test_one_client_s_long_bodies_are_read_in_turns_with_those_of_others(
    watched: Watched, ada: User, path: str
) -> None:
    _, body = LONG_BODIES["1 MiB of keys, the last one given twice"]
    short = {"messages": [{"sender_type": "user", "content": "x" * 9_000}] * 3}
    headers = {"Content-Type": "application/json"}
    with user_factory(watched.server) as make, ThreadPoolExecutor(12) as threads:
        bob = make()
        bob.client.timeout = httpx.Timeout(60)
        crowd = [threads.submit(ada.client.post, path, content=body, headers=headers) for _ in range(12)]
        wait(crowd, return_when=FIRST_COMPLETED)
        assert bob.client.post("/v1/turns", json=short).status_code == 201
        assert not all(one.done() for one in crowd), "it didn't wait for all that were there before"


def test_the_largest_batch_keeps_nobody_waiting(watched: Watched, ada: User) -> None:
    todo = {"title": "x", "description": "<" * 1000, "metadata": {"text": "<" * 2_000}}
    batch = json.dumps({"create": [todo] * 500})
    headers = {"Content-Type": "application/json"}
    assert stood_still(watched, lambda: ada.client.post("/v1/todos/batch", content=batch, headers=headers), 200) < STILL


FULL = TURN_BYTES - 1000
CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"append_turn","arguments":%b}}'
LISTS = b'{"a":[' + b"[]," * 18_000 + b"[]]}"
LONG_ITEMS = {
    "7 items of 1 MiB": ("/v1/conversations", b'{"items":[%b]}', b'{"a":"%b"}' % (b"x" * 1_000_000), 7, 200),
    "20 items of many lists": ("/v1/conversations", b'{"items":[%b]}', LISTS, 20, 200),
    "8 MiB of quotation marks": ("/v1/conversations", b'{"items":%b}', b'"' + b'\\"' * (FULL // 2) + b'"', 1, 422),
    "a turn of 7 items of 1 MiB": (
        "/mcp",
        CALL % b'{"conversation_id":"ID","messages":[%b]}',
        b'{"sender_type":"ai","item":"%b"}' % (b"x" * 1_000_000),
        7,
        200,
    ),
    "a turn of many lists": (
        "/mcp",
        CALL % b'{"conversation_id":"ID","messages":[%b]}',
        b'{"sender_type":"ai","item":%b}' % LISTS,
        20,
        200,
    ),
    "a turn of quotation marks, with a key": (
        "/mcp",
        CALL % b'{"conversation_id":"ID","idempotency_key":"once","messages":[%b]}',
        b'{"sender_type":"ai","item":"%b"}' % (b'\\"' * 490_000),
        7,
        200,
    ),
    "a call with 8 MiB of quotation marks": ("/mcp", CALL, b'"' + b'\\"' * (FULL // 2) + b'"', 1, 200),
}
"""Where they are sent, the body around them, one of them, how many, and the answer."""


@pytest.mark.parametrize(("path", "body", "item", "many", "status"), LONG_ITEMS.values(), ids=LONG_ITEMS)
def test_long_items_keep_nobody_waiting(
    watched: Watched, ada: User, path: str, body: bytes, item: bytes, many: int, status: int
) -> None:
    conversation = ada.client.post("/v1/conversations", json={}).json()["id"]
    content = (body % b",".join([item] * many)).replace(b"ID", conversation.encode(), 1)
    where = path if path == "/mcp" else f"/openai{path}/conv_{conversation.replace('-', '')}/items"
    headers = {"Content-Type": "application/json"}
    assert stood_still(watched, lambda: ada.client.post(where, content=content, headers=headers), status) < STILL


MANY_PARTS = {
    "empty objects": b"[" + b"{}," * 340_000 + b"{}]",
    "objects with an id": b"[" + b'{"id":1},' * 110_000 + b"{}]",
    "parts of a message": b'{"role":"user","content":[%b{}]}' % (b'{"type":"text","text":"a"},' * 37_000),
}


@pytest.mark.parametrize("item", MANY_PARTS.values(), ids=MANY_PARTS)
def test_a_context_and_a_list_of_long_items_keep_nobody_waiting(watched: Watched, ada: User, item: bytes) -> None:
    path = f"/v1/conversations/{ada.client.post('/v1/conversations', json={}).json()['id']}"
    headers = {"Content-Type": "application/json"}
    for _ in range(4):
        content = b'{"sender_type":"ai","item":%b}' % item
        ada.client.post(f"{path}/messages", content=content, headers=headers).raise_for_status()
    listed = f"/openai/v1/conversations/conv_{path[-36:].replace('-', '')}/items?limit=4"
    for asked in (f"{path}/context?format=items", listed):
        assert stood_still(watched, lambda asked=asked: ada.client.get(asked), 200) < STILL
    turn = {"messages": [{"sender_type": "user", "content": "x"}], "context": {"format": "items"}}
    assert stood_still(watched, lambda: ada.client.post(f"{path}/turns", json=turn), 201) < STILL


@pytest.mark.parametrize("escape", ["", "?escape=html"])
def test_an_export_of_long_items_keeps_nobody_waiting(watched: Watched, ada: User, escape: str) -> None:
    path = f"/v1/conversations/{ada.client.post('/v1/conversations', json={}).json()['id']}"
    headers = {"Content-Type": "application/json"}
    for character in (b"'", "\u2039".encode(), b"\\\\", b"'"):
        content = b'{"sender_type":"ai","item":"%b"}' % (character * (1_000_000 // len(character)))
        ada.client.post(f"{path}/messages", content=content, headers=headers).raise_for_status()
    assert stood_still(watched, lambda: ada.client.get(f"/v1/export{escape}"), 200) < STILL


def many_todos(ada: User, many: int, metadata: bytes) -> bytes:
    """A file to import, whose todos have this metadata."""
    ada.client.post("/v1/todos", json={"title": "x"})
    header, todo, *_, end = ada.client.get("/v1/export").content.splitlines(keepends=True)
    assert b'"metadata":{}' in todo
    todo = todo.replace(b'"metadata":{}', b'"metadata":' + metadata)
    mine = json.loads(todo)["id"].encode()
    assert b'"last_number":1' in header
    assert b'"todos":1' in end
    todos = [
        todo.replace(b'"number":1,', b'"number":%d,' % (number + 1)).replace(mine, str(uuid4()).encode())
        for number in range(many)
    ]
    header = header.replace(b'"last_number":1', b'"last_number":%d' % many)
    return b"".join((header, *todos, end.replace(b'"todos":1', b'"todos":%d' % many)))


@pytest.mark.parametrize(("lines", "size", "status"), [(3, 510_000, 422), (10, 65_000, 422), (100, 5_000, 200)])
def test_long_lines_of_an_import_keep_nobody_waiting(
    watched: Watched, ada: User, lines: int, size: int, status: int
) -> None:
    file = many_todos(ada, lines, b'{"a":[%b[]]}' % (b"[]," * (size // 3)))
    headers = {"Content-Type": "application/x-ndjson"}
    assert stood_still(watched, lambda: ada.client.post("/v1/import", content=file, headers=headers), status) < STILL


def test_a_long_import_and_its_export_keep_nobody_waiting(watched: Watched, ada: User) -> None:
    file = many_todos(ada, 1500, b"{}")
    headers = {"Content-Type": "application/x-ndjson"}
    assert stood_still(watched, lambda: ada.client.post("/v1/import", content=file, headers=headers), 200) < STILL
    assert stood_still(watched, lambda: ada.client.get("/v1/export"), 200) < STILL
