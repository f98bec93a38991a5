"""HTTP/1.1 on one connection: uvicorn's httptools protocol with the limits that it lacks, at less cost.

Limits are on the size, number and pace of headers, on idle connections, on clients that don't read their answer, and on
the number of connections. What breaks one, or isn't HTTP, is answered with problem details where an answer can be read.
"""

import asyncio
import fcntl
import termios
from collections.abc import Iterable
from math import inf
from typing import Any, NoReturn, cast
from urllib.parse import unquote

import httptools
import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.http.envelope import new_request_id
from service.http.metrics import OTHER_METHOD, UNMATCHED, Metrics
from service.problems import Problem, problem_body
from service.serving import logs


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one process takes from its clients. Sizes in bytes, times in seconds."""

    header_bytes: int = 32 * 1024
    """Request line and headers together."""
    header_count: int = 128
    header_seconds: float = 10.0
    """From the opening of a connection, later from a request's first byte, to the end of its headers."""
    idle_seconds: float = 75.0
    """Between the requests of a connection."""
    linger_seconds: float = 2.0
    """How long the rest of an unwanted body is read and thrown away, so that the client gets to read its answer."""
    stall_seconds: float = 30.0
    """How long a client may take no byte of its answer."""
    connections: int = 2000
    """Connections beyond this are answered 503."""
    refusals: int = 200
    """Connections beyond that many more are closed without a word."""


# Where the parser is: between two requests, in the headers of one, or in its body.
_BETWEEN, _HEADERS, _BODY = "between", "headers", "body"


class _Cycle(RequestResponseCycle):
    """One request and its answer. An answer that comes in one piece leaves in one write, its head included."""

    head = b""

    async def run_asgi(self, app: Any) -> None:
        try:
            await app(self.scope, self.receive, self.send)
        finally:
            if not self.response_complete:
                self.transport.close()

    async def send(self, message: Any) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if not self.response_started:
            self._start(message["status"], message["headers"])
            return
        if self.response_complete:
            raise RuntimeError("The answer is complete already.")
        body = message.get("body", b"")
        more = message.get("more_body", False)
        if self.scope["method"] == "HEAD":
            body = b""
            self.expected_content_length = 0
        elif self.chunked_encoding:
            piece = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            body = piece if more else piece + b"0\r\n\r\n"
        elif self.chunked_encoding is False:
            self.expected_content_length -= len(body)
        if self.expected_content_length < 0 or (self.expected_content_length and not more):
            raise RuntimeError("The answer's body is not as long as its Content-Length.")
        if self.head:
            body = self.head + body
            self.head = b""
        if body:
            self.transport.write(body)
        if not more:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self._close()
            self.on_response()

    def _close(self) -> None:
        """Close after the answer. Closing on a client that still sends would reset the connection, answer and all."""
        if self.more_body and self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Keep the head until the first piece of the body comes; names are lower-case, as ASGI wants them."""
        parts = [STATUS_LINE[status]]
        count = 1
        closes = False
        for name, value in [*self.default_headers, *headers]:
            count += 1
            parts += name, b": ", value, b"\r\n"
            if name == b"content-length":
                self.expected_content_length = int(value)
                self.chunked_encoding = False
            elif name == b"connection" and value == b"close":
                self.keep_alive = False
                closes = True
        if not self.keep_alive and not closes:
            count += 1
            parts.append(b"connection: close\r\n")
        if status in (204, 304):
            self.expected_content_length = 0
        elif self.chunked_encoding is None and self.scope["method"] != "HEAD" and self.scope["http_version"] != "1.0":
            self.chunked_encoding = True
            count += 1
            parts.append(b"transfer-encoding: chunked\r\n")
        head = b"".join(parts)
        if head.count(b"\n") != count or head.count(b"\r") != count or b"\0" in head:
            raise RuntimeError("A header of the answer holds a line break or NUL.")
        self.response_started = True
        self.waiting_for_100_continue = False
        self.head = head + b"\r\n"


class HttpProtocol(HttpToolsProtocol):
    """One connection. Instead of timers it has a deadline, which the server's sweep looks at."""

    url: bytes

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        super().__init__(config, server_state, app_state, loop)
        self.limits = limits
        self.metrics = metrics
        self.deadline = inf
        self._app = cast("Any", self.app)
        self._http: Any = self.parser
        self._phase = _BETWEEN
        self._opened = 0.0
        self._fresh = True
        self._deaf = False
        self._size = 0
        self._size_limit = limits.header_bytes
        self._fed = 0
        self._refusal: Problem | None = None

    # What the edge asks

    def is_lost(self) -> bool:
        return self.transport.is_closing()

    def has_body(self) -> bool:
        return not self.cycle.more_body

    def has_next(self) -> bool:
        return bool(self.pipeline)

    # What the server asks

    def sweep(self, now: float) -> None:
        """Act on a deadline that has passed."""
        if now < self.deadline:
            return
        self.deadline = now + self.limits.linger_seconds
        if self.transport.is_closing():
            self.transport.abort()
        elif self._phase is _HEADERS and not self._deaf:
            self._refuse(Problem("timeout", "The headers took too long to arrive.", status=408))
        else:
            self.transport.close()

    def is_idle(self, now: float) -> bool:
        """Whether closing the connection now loses nothing: no request is running, arriving or about to arrive."""
        if self._is_busy() or self._phase is not _BETWEEN or self._unread():
            return False
        return self._deaf or not self._fresh or now - self._opened > 1

    def close(self) -> None:
        self.transport.close()

    def _is_busy(self) -> bool:
        return not self._fresh and not self.cycle.response_complete

    def _unread(self) -> bool:
        sock = self.transport.get_extra_info("socket")
        try:
            return fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)) != bytes(4)
        except (OSError, ValueError):
            return False

    # asyncio's protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        number = len(self.connections)
        if number >= self.limits.connections + self.limits.refusals:
            transport.abort()
            return
        super().connection_made(transport)
        self._opened = self.loop.time()
        self.deadline = self._opened + self.limits.header_seconds
        if number >= self.limits.connections:
            self._refuse(Problem("overloaded", "Too many connections are open."))

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        continued = self._phase is _HEADERS
        try:
            self._http.feed_data(data)
            if continued and self._phase is _HEADERS:
                self._fed += len(data)
                if self._fed > self._size_limit:
                    self._refuse_headers()
        except httptools.HttpParserUpgrade:
            # The request is answered, as HTTP/1.1; what follows it may be in another protocol.
            self._end_after_running()
            return
        except httptools.HttpParserError:
            self._refuse(self._refusal or Problem("malformed_request", "This is not a valid HTTP request."))
            return
        if not continued and self._phase is _HEADERS and not self._fresh and not self._is_busy():
            self.deadline = self.loop.time() + self.limits.header_seconds

    def connection_lost(self, exc: Exception | None) -> None:
        if self._opened:
            super().connection_lost(exc)
            self._http = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self.deadline = self.loop.time() + self.limits.stall_seconds

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._is_busy():
            self.deadline = inf

    # httptools' callbacks

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["connection"] = self  # type: ignore[typeddict-item]
        self._phase = _HEADERS
        self._size = 0
        self._fed = 0

    def on_url(self, url: bytes) -> None:
        self.url += url
        self._size += len(url)
        if self._size > self._size_limit:
            self._refuse_headers()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._size += len(name) + len(value) + 4
        if self._size > self._size_limit or len(self.headers) == self.limits.header_count:
            self._refuse_headers()
        if self._phase is _HEADERS:  # a trailer is read and ignored: it must not become a header
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        scope = self.scope
        version = self._http.get_http_version()
        scope["http_version"] = version
        scope["method"] = self._http.get_method().decode("ascii")
        url: Any = cast("Any", httptools).parse_url(self.url)
        path = url.path.decode("ascii")
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""
        busy = self._is_busy()
        self._phase = _BODY
        self._fresh = False
        self.deadline = inf
        self.cycle = _Cycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self._http.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if busy:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self._app))
        else:
            self._start_asgi_task(self.cycle, self._app)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._phase = _BETWEEN
        if not self._is_busy():
            self.deadline = self.loop.time() + self.limits.idle_seconds

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        limits = self.limits
        if self.transport.is_closing():
            self.deadline = self.loop.time() + limits.stall_seconds
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self._phase is _BETWEEN:
            self.deadline = self.loop.time() + limits.idle_seconds
        elif self._phase is _HEADERS:
            self.deadline = self.loop.time() + limits.header_seconds
        else:
            self._deaf = not self.cycle.keep_alive
            self.deadline = self.loop.time() + limits.linger_seconds

    def _refuse_headers(self) -> NoReturn:
        self._refusal = Problem(
            "headers_too_large",
            f"Request line and headers may have {self.limits.header_bytes:,} bytes in all, "
            f"and there may be {self.limits.header_count} headers.",
        )
        raise httptools.HttpParserError

    # Refusing

    def _end_after_running(self) -> None:
        """Read nothing more, and close when the requests read so far are answered."""
        self._deaf = True
        if self._is_busy():
            self.cycle.keep_alive = False
        else:
            self.transport.close()

    def _refuse(self, problem: Problem) -> None:
        """Answer what isn't a request, and close; requests before it on the connection get their answers first."""
        if self._is_busy():
            broken = self._phase is _BODY
            self._end_after_running()
            if not broken or self.cycle.response_started or self.pipeline:
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._deaf = True
        request_id = new_request_id()
        body = problem_body(problem, request_id)
        headers = {
            b"content-type": b"application/problem+json",
            b"content-length": str(len(body)).encode(),
            b"cache-control": b"no-store",
            b"x-content-type-options": b"nosniff",
            b"x-request-id": request_id.encode(),
            b"connection": b"close",
            **dict(self.server_state.default_headers),
            **{name.lower().encode(): value.encode() for name, value in problem.headers.items()},
        }
        lines = [name + b": " + value + b"\r\n" for name, value in headers.items()]
        self.transport.write(b"".join([STATUS_LINE[problem.status], *lines, b"\r\n", body]))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.deadline = self.loop.time() + self.limits.linger_seconds
        self.metrics.observe_request(OTHER_METHOD, UNMATCHED, problem.status, 0.0)
        logs.log(
            "warning",
            "request_refused",
            request_id=request_id,
            status=problem.status,
            code=problem.code,
            remote=self.client[0] if self.client else None,
        )
