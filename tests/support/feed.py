"""Who follows the change feed: what they hear, and that it goes on on another server."""

from typing import Any

import httpx

from tests.conftest import Server, User
from tests.support.problems import problem

Entry = dict[str, Any]


def follow(client: httpx.Client, cursor: str | None = None, limit: int = 200) -> tuple[list[Entry], str]:
    """What the feed has behind the cursor, and the cursor to go on from."""
    entries: list[Entry] = []
    while True:
        answer = client.get("/v1/changes", params={"limit": limit, **({"cursor": cursor} if cursor else {})})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        entries += page["items"]
        cursor = str(page["next_cursor"])
        if not page["items"]:
            return entries, cursor


def assert_whole(heard: list[Entry], client: httpx.Client) -> None:
    """Every entry once, in ascending order, nothing missing."""
    assert [entry["id"] for entry in heard] == [*range(1, len(heard) + 1)]
    assert follow(client)[0] == heard


def assert_goes_on(successor: Server, ada: User, heard: list[Entry], cursor: str) -> None:
    """The same user on another server: the trail is the same, and the old cursor leads on."""
    with httpx.Client(base_url=successor.url, headers=ada.client.headers) as client:
        assert_whole(heard, client)
        assert follow(client, cursor) == ([], cursor)
        assert client.post("/v1/todos", json={"title": "later"}).status_code == 201
        more, last = follow(client, cursor)
        assert [(entry["id"], entry["changes"]["title"][1]) for entry in more] == [(len(heard) + 1, "later")]
        # The first one knows nothing of that: as if it were a successor that had lost the end.
        problem(ada.client.get("/v1/changes", params={"cursor": last}), 422, "invalid_cursor")
