"""Complete answers, as ASGI applications."""

import msgspec
from litestar.types import Receive, Scope, Send

from service.errors import Problem, problem_body


class Answer(msgspec.Struct, frozen=True):
    """Status, headers (names in lower case) and body."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


def problem_answer(problem: Problem, request_id: str, *, escape: bool = False) -> Answer:
    """The problem as ``application/problem+json``; ``escape``: with its strings HTML-escaped."""
    body = problem_body(problem, request_id, escape=escape)
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", b"%d" % len(body))]
    headers += [(name.lower().encode(), value.encode("latin-1")) for name, value in problem.headers.items()]
    return Answer(problem.status, headers, body)
