"""HTTP/1.1 on one connection: uvicorn's protocol with the limits that it lacks.

Limits are on the size, number and pace of headers, on requests that wait for the one before them, on idle connections,
on clients that don't read their answers, and on the number of connections. What breaks one, or isn't HTTP, is answered
with problem details where it can be read.

uvicorn's own cycle carries a request to the application and back: one of our own saved under 4 us of a get's 100.
"""

import asyncio
from math import inf
from typing import Any, NoReturn, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.http.metrics import UNMATCHED
from service.problems import Problem
from service.serving.limits import CHUNK_BYTES, Connections
from service.serving.refusals import Owed, overloaded, with_close
from service.serving.transport import AnswerTransport, has_arrived

# Where the parser is: between two requests, in the headers of one, or in its body.
_BETWEEN, _HEADERS, _BODY = "between", "headers", "body"


class HttpProtocol(HttpToolsProtocol):
    """One connection. Instead of timers it has deadlines, which the server's ticks look at."""

    # CPython keeps up to 30 attributes beside each other, which uvicorn's own fill; with more, each object has a whole
    # dict. Without slots a connection took 1.2 kB more, and a refusal among 1,500 connections 1 µs.
    __slots__ = (
        "_answers",
        "_deaf",
        "_has_progress",
        "_is_ended",
        "_opened",
        "_owed",
        "_phase",
        "_raw",
        "_refusal",
        "_wasted",
        "_without_progress",
        "address",
        "deadline",
        "limits",
        "stalled_at",
    )
    server_state: Connections

    def __init__(
        self,
        config: Config,
        server_state: Connections,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.limits = server_state.limits
        self.address = ""
        self.deadline = inf
        self.stalled_at = inf
        self.parser: Any
        self._raw: asyncio.Transport = self.transport
        self._phase = _BETWEEN
        self._opened = 0.0  # -inf once it has been used
        self._deaf = False
        self._is_ended = False
        self._without_progress = 0
        self._has_progress = False
        self._wasted = 0  # bytes that small chunks owe: see Limits.small_chunks
        self._refusal: Problem | None = None
        self._owed: Owed | None = None

    # What the envelope asks

    def is_lost(self) -> bool:
        """Whether the client has gone."""
        return self.transport.is_closing()

    def has_body(self) -> bool:
        """Whether the running request's body is known to have arrived whole."""
        return not (self.cycle and self.cycle.more_body)

    def has_next(self) -> bool:
        """Whether further requests were already read."""
        return bool(self.pipeline)

    def turn_to_answer(self, at_once: int) -> asyncio.Future[None]:
        """Done when an answer of the application's may go out: in turns with the server's own refusals."""
        return self.server_state.refusals.turn(self.loop, at_once)

    # What the server asks

    def sweep(self, now: float) -> float:
        """Act on a deadline that has passed; the time of the next one."""
        if now >= self.stalled_at:
            self.server_state.look_at_unread(self, self._raw.get_write_buffer_size(), now)
        if now >= self.deadline:
            self._end_late(now)
        return min(self.deadline, self.stalled_at)

    def _end_late(self, now: float) -> None:
        self.deadline = now + self.limits.linger_seconds
        if self._raw.is_closing():
            if self not in self.server_state.unread:
                self._raw.abort()
        elif self._phase is _HEADERS and not self._deaf:
            self._refuse(Problem("timeout", "The headers took too long to arrive.", status=408))
        else:
            self._raw.close()

    def is_idle(self, now: float) -> bool:
        """Whether closing the connection now loses nothing: no request is running, arriving or about to arrive."""
        if self._is_busy() or self._phase is not _BETWEEN or has_arrived(self._raw):
            return False
        return self._deaf or now - self._opened > 1

    def abort(self) -> None:
        """Close the connection now, and let go of what the client didn't take."""
        self._take_off_unread()
        self._raw.abort()

    def close(self) -> None:
        self._raw.close()

    def _is_busy(self) -> bool:
        return bool(self._owed or (self.cycle and not self.cycle.response_complete))

    def _take_off_unread(self) -> None:
        self.server_state.unread.pop(self, None)
        self.stalled_at = inf

    # asyncio's protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._raw = transport
        self._answers = AnswerTransport(transport, self._end)
        self.transport = cast("Any", self._answers)
        self._opened = self.loop.time()
        self.deadline = self._opened + self.limits.header_seconds
        state = self.server_state
        self.address = state.address(self.client[0]) if self.client else ""
        if not state.take_in(self):
            if len(state.refused) > self.limits.refusals:
                transport.abort()
            else:
                self._refuse(Problem("overloaded", "Too many connections are open."))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._take_off_unread()
        self.server_state.let_go(self)
        # No circle of references stays, so that a crowd's memory is free when it goes: the collector comes rarely.
        self.cycle = self.scope = None  # type: ignore[assignment]
        self.pipeline.clear()
        self._answers.close = self._raw.close

    def data_received(self, data: bytes) -> None:
        # A read has up to 256 KiB: what is in its headers must not pile up before anybody counts them.
        size = self.limits.header_bytes
        view = data if len(data) <= size else memoryview(data)
        for start in range(0, len(data), size):
            self._take(view[start : start + size])

    def _take(self, data: bytes | memoryview) -> None:
        if self._deaf:
            return
        self._has_progress = False
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(self._refusal or Problem("malformed_request", "This is not a valid HTTP request."))
            return
        if self._owed and self._phase is _BODY:
            self.answer_owed(close=True)  # before the rest of the body comes
        if self.headers and len(self.headers) > self.limits.header_count:  # of which there may be no end, or trailers
            self._refuse(self.limits.too_large())
        elif self._has_progress or self._phase is _BETWEEN:
            self._without_progress = 0
        else:
            self._without_progress += len(data)
            if self._without_progress > self.limits.header_bytes:
                self._refuse(self.limits.too_large())

    def pause_writing(self) -> None:
        super().pause_writing()
        self.stalled_at = self.loop.time() + self.limits.stall_seconds
        self.server_state.unread[self] = self._raw.get_write_buffer_size()
        self.server_state.cut_unread(self.address)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._take_off_unread()

    # httptools' callbacks

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["connection"] = self  # type: ignore[typeddict-item]
        self._phase = _HEADERS
        self._has_progress = True
        self._wasted = 0
        if self._opened == -inf and not self._is_busy():
            self.deadline = self.loop.time() + self.limits.header_seconds
        self._opened = -inf

    def on_headers_complete(self) -> None:
        parser, headers = self.parser, self.headers
        if problem := self.limits.refuse_head(self.url, headers, parser):
            self._fail(problem)
        if parser.should_upgrade():
            return  # see _feed
        if self._owed or (self.pipeline and self.limits.pipelines_too_much(self.pipeline, len(headers))):
            self._fail(Problem("overloaded"))
        self._has_progress = True
        self.expect_100_continue = self.expect_100_continue and parser.get_http_version() != "1.0"
        refusals = self.server_state.refusals
        if self._is_busy() or refusals.has_place(self):
            super().on_headers_complete()
            self.headers = [*headers]  # a trailer is read and ignored: it must not become one of the request's headers
        else:
            self._owed = overloaded(parser, headers, self.server_state.refusal_headers(headers))
            # What the request left lies cold when its turn comes: let go of now, a refusal costs a tenth less.
            self.scope, self.headers = cast("Any", {}), []
            refusals.answer_soon(self.loop, self.answer_owed)
        self._phase = _BODY
        self.deadline = inf

    def on_chunk_header(self) -> None:
        self._wasted += CHUNK_BYTES
        if self._wasted > self.limits.small_chunks * CHUNK_BYTES:
            self._fail(Problem("malformed_request", "The body comes in too many small chunks."))

    def on_body(self, body: bytes) -> None:
        self._has_progress = True
        if not self._owed and not self.cycle.response_complete:
            self._wasted = max(0, self._wasted - len(body))
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._has_progress = True
        self._phase = _BETWEEN
        goes_on = self.parser.should_keep_alive()  # a trailer, too, may end the connection, and with it the parser
        if self._owed and not (goes_on or self._owed.is_last):
            self.answer_owed(close=True)
        elif not self._owed:
            super().on_message_complete()
            self.cycle.keep_alive = self.cycle.keep_alive and goes_on
            if self.cycle.response_complete and not goes_on:
                self._end()
        if not self._is_busy() and not self._is_ended:
            self.deadline = self.loop.time() + self.limits.idle_seconds

    def on_response_complete(self) -> None:
        """Go on with the next request. In place of uvicorn's, which starts a timer for every request."""
        self._answers.finish()
        if self._is_ended or self._raw.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self.flow.resume_reading()
        limits, phase = self.limits, self._phase
        seconds = limits.header_seconds if phase is _HEADERS else limits.linger_seconds
        self.deadline = self.loop.time() + (limits.idle_seconds if phase is _BETWEEN else seconds)

    def _feed(self, data: bytes | memoryview) -> None:
        """Parse. A wish for another protocol is ignored (RFC 9110, section 7.8).

        The parser ends behind the headers of such a request, its body unread: another one is fed them without the wish.
        The same one would read nothing more where the connection ends with this request.
        """
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = memoryview(data)[upgrade.args[0] :]
                lines = [name + b": " + value + b"\r\n" for name, value in self.headers if name != b"upgrade"]
                method, version = self.parser.get_method(), self.parser.get_http_version().encode()
                head = b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(lines))
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
                self.parser.feed_data(head)

    def _fail(self, problem: Problem) -> NoReturn:
        """Leave the parser; ``data_received`` refuses with the problem."""
        self._refusal = problem
        raise httptools.HttpParserError

    # Ending

    def _end(self) -> None:
        """Close after an answer.

        Closing while the client still sends would reset the connection, and the answer would be lost on its way
        (RFC 9112, section 9.6): then only our side is closed, and what comes is thrown away for a while.
        """
        self._answers.finish()
        self._deaf = self._is_ended = True
        if self._phase is not _BETWEEN and self._raw.can_write_eof():
            self._raw.write_eof()
            self.flow.resume_reading()
            self.deadline = self.loop.time() + self.limits.linger_seconds
        else:
            self._raw.close()
            self.deadline = self.loop.time() + self.limits.stall_seconds

    def answer_owed(self, *, close: bool = False) -> None:
        """Refuse the request that there was no place for, and go on with the next one."""
        owed, self._owed = self._owed, None
        if owed is None or self._raw.is_closing():
            return
        answer, method, is_last = owed
        state = self.server_state
        if not is_last and (close or state.envelope.draining.is_set()):
            answer, is_last = with_close(answer), True
        self._raw.write(answer)
        state.envelope.metrics.observe_request(method, UNMATCHED, 503, 0.0)
        state.refusals.count += 1
        if is_last:
            self._end()
        elif self._phase is _BETWEEN:
            self.deadline = self.loop.time() + self.limits.idle_seconds

    def _refuse(self, problem: Problem) -> None:
        """Answer what isn't a request, and close; requests before it on the connection get their answers first."""
        self.answer_owed(close=self._phase is _BODY)
        if self._phase is _BODY and not self._is_busy() and not self._is_ended:
            self._end()  # what came is the rest of what has its answer
        if self._is_ended:
            return
        self._deaf = True
        if self._is_busy():
            self.cycle.keep_alive = False
            if self._phase is not _BODY or self.cycle.response_started or self.pipeline:
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._raw.write(self.server_state.refusal(problem, self.headers or (), self.client and self.client[0]))
        self.scope, self.headers = cast("Any", {}), []  # nobody reads them any more
        self._raw.write_eof()
        self.deadline = self.loop.time() + self.limits.linger_seconds
