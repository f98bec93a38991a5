"""Answers, as ASGI applications."""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from litestar.types import Receive, Scope, Send

from service.problems import Problem, html_escaped, html_safe, problem_body

log = logging.getLogger(__name__)

LINES = "application/x-ndjson"
PIECE_BYTES = 64 * 1024
"""What is handed to the connection at a time: who reads slowly is waited for in between."""


class Answer(msgspec.Struct, frozen=True):
    """Status, headers (names in lower case) and body."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


class Lines:
    """Lines of JSON, each an object, sent while they are made; ``pieces`` are some lines at a time.

    What goes wrong before the first piece is answered as any problem; later, the answer ends before its last line.
    """

    def __init__(self, pieces: AsyncGenerator[bytes], disposition: str) -> None:
        self.pieces = pieces
        self.headers = [(b"content-type", LINES.encode()), (b"content-disposition", disposition.encode())]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        state = scope["state"]
        write = html_escaped if "escape" in state else html_safe
        async with aclosing(self.pieces) as pieces:
            piece = await anext(pieces)
            await send({"type": "http.response.start", "status": 200, "headers": self.headers})
            try:
                while piece is not None and not state.get("head"):
                    await self._send(write(piece), state.get("connection"), send)
                    piece = await anext(pieces, None)
            except Problem as problem:
                log.warning("answer_cut_off", extra={"request_id": state["request_id"], "code": problem.code})
                raise
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, body: bytes, connection: Any, send: Send) -> None:
        for start in range(0, len(body), PIECE_BYTES):
            if connection is not None and connection.is_lost():
                raise Problem("timeout", "The client left, or did not read on.")
            part = body[start : start + PIECE_BYTES]
            await send({"type": "http.response.body", "body": part, "more_body": True})


def problem_answer(problem: Problem, request_id: str, *, escape: bool = False) -> Answer:
    """The problem as ``application/problem+json``; ``escape``: with its strings HTML-escaped."""
    body = problem_body(problem, request_id, escape=escape)
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", b"%d" % len(body))]
    headers += [(name.lower().encode(), value.encode("latin-1")) for name, value in problem.headers.items()]
    return Answer(problem.status, headers, body)
