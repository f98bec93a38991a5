"""What every answer that is an error must look like (RFC 9457, and the members that the API adds)."""

from typing import Any

import httpx

from service.problems import CODES

MEMBERS = {"type", "title", "status", "detail", "code", "request_id"}
CHALLENGES = {
    "unauthenticated": 'Bearer realm="todochat"',
    "bad_credentials": 'Bearer realm="todochat"',
    "invalid_token": 'Bearer realm="todochat", error="invalid_token"',
    "token_expired": 'Bearer realm="todochat", error="invalid_token"',
    "account_inactive": 'Bearer realm="todochat", error="invalid_token"',
}
"""RFC 6750, section 3: an error is named when a token was sent."""


def problem(response: httpx.Response, status: int, code: str, *, field: str | None = None, **members: Any) -> Any:
    """Assert that the answer is this problem, with exactly the members it should have; returns its body."""
    assert response.status_code == status, f"{_sent(response.request)}: {response.text}"
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    expected = MEMBERS | ({"errors"} if status == 422 else set()) | members.keys()
    assert body.keys() == expected, body
    assert (body["status"], body["code"]) == (status, code), body
    assert CODES[code].status == status
    assert body["title"] == CODES[code].title
    assert body["type"].endswith(code)
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["detail"].strip()
    assert response.headers.get("www-authenticate") == (CHALLENGES[code] if status == 401 else None)
    assert ("retry-after" in response.headers) == (status in (429, 503))
    for error in body.get("errors", ()):
        assert error.keys() == {"field", "message"}
        assert error["message"].strip()
    if field is not None:
        assert field in [error["field"] for error in body["errors"]], body
    for name, value in members.items():
        assert body[name] == value, body
    for leak in ("Traceback", "psycopg", "SELECT ", "pg_catalog", "violates"):
        assert leak not in response.text
    return body


def _sent(request: httpx.Request) -> str:
    """The request in a line, for the message of a failed assertion."""
    content = b"" if "transfer-encoding" in request.headers else request.content[:200]
    return f"{request.method} {request.url} {content!r}"
