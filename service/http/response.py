"""Litestar's response class: ETag and 304, Location, Link, and JSON that is harmless in a page, for every answer.

Litestar's own Response and ASGIResponse cost a third of a small request (32 of 100 µs), so the answer is made here.
"""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from functools import lru_cache
from hashlib import sha256
from typing import Any, cast
from urllib.parse import parse_qsl, quote, urlencode

import litestar
import msgspec
from litestar.types import Receive, Scope, Send
from litestar.utils import get_enum_string_value

from service.db.queries import Versioned
from service.http.paging import Page
from service.http.request import JSON, Request
from service.problems import Problem, html_escaped, html_safe, problem_body, unbroken

log = logging.getLogger(__name__)

LINES = "application/x-ndjson"
PIECE_BYTES = 64 * 1024
"""What is handed to the connection at a time: who reads slowly is waited for in between."""

_encode = msgspec.json.Encoder().encode
_PLAIN_QUERY = re.compile(rb"[\w.~-]+=[\w.~-]*(&[\w.~-]+=[\w.~-]*)*")


class Answer(msgspec.Struct, frozen=True):
    """Status, headers (names in lower case) and body, as an ASGI application."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


class Pieces:
    """JSON that is sent while it is made, some lines or members of a list at a time.

    What goes wrong before the first piece is answered as any problem; later, the answer ends before its end.
    """

    def __init__(self, pieces: AsyncGenerator[bytes], media_type: str, disposition: str | None = None) -> None:
        self.pieces = pieces
        self.headers = [(b"content-type", media_type.encode())]
        if disposition is not None:
            self.headers.append((b"content-disposition", disposition.encode()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        state = scope["state"]
        write = html_escaped if "escape" in state else html_safe
        async with aclosing(self.pieces) as pieces:
            piece = await anext(pieces)
            await send({"type": "http.response.start", "status": 200, "headers": self.headers})
            try:
                while piece is not None and not state.get("head"):
                    for lines in _parts(piece):
                        # Escaping a MiB takes up to 60 ms, in several passes.
                        is_long = len(lines) > 4 * PIECE_BYTES
                        made = await asyncio.to_thread(_made, write, lines) if is_long else _made(write, lines)
                        await self._send(made, state.get("connection"), send)
                        await asyncio.sleep(0)
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


def _made(write: Callable[[bytes], bytes], lines: bytes) -> bytes:
    return unbroken(write(lines))


def _parts(piece: bytes) -> Iterator[bytes]:
    """The piece in whole lines, of PIECE_BYTES or a little more together where they are short."""
    start = 0
    while start < len(piece):
        end = piece.find(b"\n", start + PIECE_BYTES) + 1 or len(piece)
        yield piece[start:end]
        start = end


class Response(litestar.Response[Any]):
    """What Litestar makes of everything that a handler returns."""

    def __init__(self, content: Any, *, status_code: int = 200, media_type: Any = JSON, **_: Any) -> None:  # pyright: ignore[reportMissingSuperCall]
        self.content = content
        self.status_code = status_code
        self.media_type = media_type

    def to_asgi_response(self, app: Any, request: Any, **_: Any) -> Any:
        del app
        if isinstance(self.content, (Answer, Pieces)):
            return self.content
        if isinstance(self.content, (bytes, str)):
            return _text(request, self.content, get_enum_string_value(self.media_type))
        return answer(request, self.content, self.status_code)


def answer(request: Request, content: Any, status: int) -> Answer:
    """The answer to a request whose handler returned ``content``: a struct, a list of structs, a Page, or None."""
    if content is None:
        return Answer(204, [])
    scope = request.scope
    headers: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]
    version: int | None = getattr(content, "version", None)
    if version is not None:
        etag = b'"%d"' % version
        headers.append((b"etag", etag))
        if scope["method"] == "GET" and etag_matches(request.sent.get(b"if-none-match"), etag):
            return Answer(304, [(b"etag", etag)])
    value = cast("Versioned[Any]", content).value if isinstance(content, Versioned) else content
    body = _encode(value)
    state = scope["state"]
    if "is_part" not in state:
        body = html_escaped(body) if "escape" in state else html_safe(body)
    headers.append((b"content-length", b"%d" % len(body)))
    if isinstance(content, Page):
        cursor = cast("Page[Any]", content).next_cursor
        if cursor is not None:
            headers.append((b"link", next_link(scope, cursor)))
    elif (location := scope["route_handler"].opt.get("location")) is not None:
        names = {name: quote(str(part), safe="") for name, part in scope["path_params"].items()}
        headers.append((b"location", location.format(**names, id=value.id).encode()))
    return Answer(status, headers, body)


def _text(request: Request, content: bytes | str, media_type: str) -> Answer:
    """A file, which has an ETag, as bytes; or a text that is never the same."""
    headers = [(b"content-type", media_type.encode())]
    if isinstance(content, str):
        body = content.encode()
        return Answer(200, [*headers, (b"content-length", b"%d" % len(body))], body)
    # A browser keeps files and asks with their ETag whether they are still the same.
    kept = [(b"etag", _digest(content)), (b"cache-control", b"public, no-cache")]
    if etag_matches(request.sent.get(b"if-none-match"), kept[0][1]):
        return Answer(304, kept)
    return Answer(200, [*headers, (b"content-length", b"%d" % len(content)), *kept], content)


@lru_cache(maxsize=32)
def _digest(content: bytes) -> bytes:
    """A strong ETag of a file's content (RFC 9110, section 8.8.3)."""
    return b'"%s"' % sha256(content).hexdigest()[:32].encode()


def etag_matches(sent: bytes | None, etag: bytes) -> bool:
    """RFC 9110, section 13.1.2: weak comparison, any of a list, or ``*``."""
    if sent is None:
        return False
    return sent.strip() == b"*" or any(tag.strip().removeprefix(b"W/") == etag for tag in sent.split(b","))


def next_link(scope: Any, cursor: str) -> bytes:
    """RFC 8288: the same request with the next cursor."""
    sent: bytes = scope["query_string"]
    if _PLAIN_QUERY.fullmatch(sent):  # nothing in it that is, or has to be, encoded
        kept = [pair for pair in sent.decode().split("&") if not pair.startswith("cursor=")]
        query = "&".join([*kept, f"cursor={cursor}"])
    else:
        pairs = [pair for pair in parse_qsl(sent.decode("latin-1"), keep_blank_values=True) if pair[0] != "cursor"]
        query = urlencode([*pairs, ("cursor", cursor)])
    return f'<{scope["path"]}?{query}>; rel="next"'.encode("latin-1")


def problem_answer(problem: Problem, request_id: str, *, escape: bool = False, body: Any = None) -> Answer:
    """The problem as ``application/problem+json``; ``escape``: with its strings HTML-escaped.

    Where a protocol of others has a shape of its own for errors, ``body`` is that.
    """
    if body is None:
        text = problem_body(problem, request_id, escape=escape)
    else:
        text = html_escaped(_encode(body)) if escape else html_safe(_encode(body))
    media_type = b"application/problem+json" if body is None else JSON.encode()
    headers = [(b"content-type", media_type), (b"content-length", b"%d" % len(text))]
    headers += [(name.lower().encode(), value.encode("latin-1")) for name, value in problem.headers.items()]
    return Answer(problem.status, headers, text)
