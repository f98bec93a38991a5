"""However much a user has: an answer is bounded, and so is what it takes of the process's time and memory."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import msgspec
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http.paging import ANSWER_BYTES
from service.problems import html_escaped, html_safe, may_add
from tests.conftest import Server, User, user_factory
from tests.support.memory import most_memory
from tests.support.watched import Watched

LARGE_TEXT = "\N{GRINNING FACE}" * 10_000
"""As much as a message holds: 40 kB on the wire."""
MARKUP = "<" * 10_000
"""60 kB on the wire, where it is written as \\u003c."""
CONVERSATIONS = 6
MESSAGES = 50
STILL = 0.05
"""Seconds that the event loop may stand still."""
MEMORY = 250 * 1024
"""KiB that a process may take, whatever one client asks for."""


@pytest.fixture(scope="module")
def watched(start_module_server: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Watched:
    return Watched(start_module_server, tmp_path_factory.mktemp("watched"))


@pytest.fixture(scope="module")
def service(watched: Watched) -> Server:
    return watched.server


@pytest.fixture(scope="module")
def ada(service: Server) -> Iterator[User]:
    """A user with conversations full of the largest messages."""
    with user_factory(service) as make:
        ada = make()
        ada.client.timeout = httpx.Timeout(60)
        for number in range(CONVERSATIONS):
            text = MARKUP if number % 2 else LARGE_TEXT
            messages = [{"sender_type": "user", "content": text}] * MESSAGES
            answer = ada.client.post("/v1/turns", json={"messages": messages})
            assert answer.status_code == 201
        yield ada


def walk(client: httpx.Client, path: str, **parameters: Any) -> list[list[Any]]:
    """The items of every page, each of which is bounded, and no smaller than it has to be."""
    pages: list[list[Any]] = []
    while True:
        answer = client.get(path, params=parameters)
        assert answer.status_code == 200
        page = answer.json()
        largest = max((len(str(item)) * 6 for item in page["items"]), default=0)
        assert len(answer.content) <= max(ANSWER_BYTES * 1.01, largest)
        pages.append(page["items"])
        if page["next_cursor"] is None or not page["items"]:
            return pages
        assert len(answer.content) > ANSWER_BYTES / 8
        parameters["cursor"] = page["next_cursor"]


@pytest.mark.parametrize("escape", [{}, {"escape": "html"}])
def test_pages_of_large_messages_end_early_and_lead_on(ada: User, escape: dict[str, str]) -> None:
    conversations = ada.client.get("/v1/conversations").json()["items"]
    assert len(conversations) == CONVERSATIONS
    for conversation in conversations[:2]:
        pages = walk(ada.client, f"/v1/conversations/{conversation['id']}/messages", limit=200, **escape)
        assert [message["position"] for page in pages for message in page] == list(range(1, MESSAGES + 1))


@pytest.mark.parametrize("messages", [1, 20, 50])
def test_pages_of_conversations_with_large_messages_end_early_and_lead_on(ada: User, messages: int) -> None:
    pages = walk(ada.client, "/v1/conversations", limit=200, messages=messages)
    found = [item for page in pages for item in page]
    assert len({item["id"] for item in found}) == len(found) == CONVERSATIONS
    assert all(len(item["messages"]) == messages for item in found)
    assert (len(pages) > 1) == (messages > 1)


@pytest.mark.parametrize("path", ["/v1/audit", "/v1/changes"])
def test_pages_of_large_entries_end_early_and_lead_on(ada: User, path: str) -> None:
    # Once more as large, from one text to another.
    for conversation in ada.client.get("/v1/conversations").json()["items"][:2]:
        items = ada.client.get(f"/v1/conversations/{conversation['id']}/messages", params={"limit": 20}).json()["items"]
        for item in items:
            at = f"/v1/conversations/{conversation['id']}/messages/{item['id']}"
            assert ada.client.patch(at, json={"content": LARGE_TEXT[:-1]}).status_code == 200
    pages = walk(ada.client, path, limit=200)
    found = [item["id"] for page in pages for item in page]
    assert len(set(found)) == len(found) >= CONVERSATIONS * MESSAGES
    assert len(pages) > 2


@given(st.text("<>&'\"\\\n a\u00e9"))
def test_what_escaping_may_add_is_never_counted_too_small(text: str) -> None:
    body = msgspec.json.encode({text: text})
    assert may_add(body) >= max(len(html_safe(body)), len(html_escaped(body))) - len(body)


def test_the_largest_answers_keep_nobody_waiting_and_take_little_memory(watched: Watched, ada: User) -> None:
    """Five at a time, as many as one user's share of the connections."""
    (conversation, *_) = ada.client.get("/v1/conversations").json()["items"]
    paths = [
        "/v1/conversations?limit=200&messages=50",
        f"/v1/conversations/{conversation['id']}/messages?limit=200&escape=html",
        f"/v1/conversations/{conversation['id']}/context?messages=200",
        "/v1/audit?limit=200",
        "/v1/changes?limit=200&escape=html",
    ]

    def ask() -> None:
        with ThreadPoolExecutor(5) as others:
            assert {answer.status_code for answer in others.map(ada.client.get, paths * 2)} == {200}

    longest = [max(watched.stalls(ask), default=0.0) for _ in range(3)]
    assert most_memory(watched.server.pid) < MEMORY
    assert min(longest) < STILL, longest


def test_pages_of_large_items_end_early_and_take_little_memory(service: Server) -> None:
    with user_factory(service) as make:
        grace = make()
        grace.client.timeout = httpx.Timeout(60)
        conversation = grace.client.post("/v1/conversations", json={}).json()["id"]
        at = f"/v1/conversations/{conversation}/messages"
        for number in range(40):
            item = {"type": "function_call_output", "call_id": str(number), "output": "x" * 1_000_000}
            assert grace.client.post(at, json={"sender_type": "ai", "item": item}).status_code == 201
        items: dict[str, Any] = {"items": "true"}
        for path, parameters, entries in ((at, items, 40), ("/v1/audit", {}, 42), ("/v1/changes", {}, 42)):
            pages = walk(grace.client, path, limit=200, **parameters)
            assert len(pages) > 8
            assert len({item["id"] for page in pages for item in page}) == entries
    assert most_memory(service.pid) < MEMORY


@pytest.fixture(scope="module")
def heidi(service: Server) -> Iterator[User]:
    """A user with 10,000 todos: an array of 60 MB."""
    with user_factory(service) as make:
        heidi = make()
        heidi.client.timeout = httpx.Timeout(60)
        with psycopg.connect(service.database.superuser_url) as superuser:
            superuser.execute(f"SET LOCAL app.user_id = '{heidi.id}'; SET LOCAL app.restoring = 'on'")
            superuser.execute(
                "INSERT INTO todos (user_id, number, title, description)"
                " SELECT %s, number, number, %s FROM generate_series(1, 10000) AS number",
                [heidi.id, MARKUP[:1_000]],
            )
        yield heidi


def test_an_array_of_very_many_tasks_takes_little_memory(watched: Watched, heidi: User) -> None:
    """Specification A knows no pages. Two at a time."""

    def ask() -> None:
        with ThreadPoolExecutor(2) as others:
            for answer in others.map(heidi.client.get, [f"/api/{heidi.id}/tasks?sort=title"] * 2):
                assert [task["title"] for task in answer.json()] == sorted(map(str, range(1, 10_001)))

    assert max(watched.stalls(ask), default=0.0) < STILL
    assert most_memory(watched.server.pid) < MEMORY


def test_a_task_that_is_completed_or_archived_while_the_array_is_sent_is_not_in_it(heidi: User) -> None:
    """The connection holds less than a half of it: the rest is read when it is sent."""
    with heidi.client.stream("GET", f"/api/{heidi.id}/tasks?status=pending") as answer:
        pieces = answer.iter_bytes()
        first = next(pieces)
        for number, status in ((10_000, "completed"), (9_999, "archived")):
            heidi.client.patch(f"/v1/todos/{number}", json={"status": status}).raise_for_status()
        sent = msgspec.json.decode(first + b"".join(pieces))
    for number in (10_000, 9_999):
        heidi.client.patch(f"/v1/todos/{number}", json={"status": "pending"}).raise_for_status()
    assert [task["id"] for task in sent] == list(range(1, 9_999))
