"""The outermost layer of every request: its id, its log line, its metrics, every answer's headers, the last resort.

A plain ASGI application around Litestar, because Litestar's middleware stands behind its routing and sees neither 404
nor 405. Who asks and the route are in the scope, where Litestar has them; what else is known of a request on its way
stands in ``scope["state"]``:

- ``connection``: the server's; without one, as in a test, a client that left is seen only by its missing body
- ``request_id``, ``headers`` (by name, in lower case), ``head`` (HEAD is routed as GET): from here
- ``trace``: what the client sent, or the request's own span, where there is either
- ``escape``: strings are to be answered HTML-escaped
- ``held_body``: what counts a long body until the request's end
- ``is_part``: what is answered becomes part of another answer, as a tool's does, which is made harmless as a whole
- ``at_once``: the answer has to wait for its turn when so many of its kind have gone out in a moment: see `Refusals`
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from random import getrandbits
from string import ascii_letters, digits
from time import perf_counter, time
from typing import Any, ClassVar, Protocol, cast

from litestar.config.cors import CORSConfig

from service.http.metrics import UNMATCHED, Metrics
from service.http.origins import ALLOW_ORIGIN, Origins
from service.http.response import problem_answer
from service.http.traces import Trace, trace_of
from service.problems import Problem, unknown_outcome

log = logging.getLogger(__name__)
request_log = logging.getLogger("service.request")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_SECONDS = 10.0
"""How long a request may let us wait for its body in all …"""
BODY_BYTES_PER_SECOND = 16_384
"""… plus a second for each of these that came: a large body that keeps arriving at this rate is never cut off."""

STRANGERS_AT_ONCE = 64
"""How many answers to callers who have proven nothing go out at once in a moment, before they are in turns."""
USERS_AT_ONCE = 128
"""The same for users' errors, some of which need no connection to the database: no share of these bounds those."""

REQUEST_ID_MAX = 128
REQUEST_ID_CHARACTERS = (ascii_letters + digits + "._:/+=@-").encode()

CLIENT_LEFT = 499
"""nginx's status for a client that left before its answer; appears in logs and metrics only."""

CONTENT_SECURITY_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""For pages: nothing from elsewhere, and neither scripts nor styles but our files."""

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
SAFE_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
"""What every answer has, for browsers."""
NO_STORE = (b"cache-control", b"no-store")
_REVALIDATE = (b"cache-control", b"private, no-cache")
_CLOSE = (b"connection", b"close")
_POLICY = (b"content-security-policy", CONTENT_SECURITY_POLICY)


class Connection(Protocol):
    """What is needed to know of the HTTP connection under a request."""

    def is_lost(self) -> bool:
        """Whether the client has gone."""
        ...

    def has_body(self) -> bool:
        """Whether the running request's body is known to have arrived whole."""
        ...

    def has_next(self) -> bool:
        """Whether further requests were already read from it."""
        ...

    def turn_to_answer(self, at_once: int) -> Awaitable[None]:
        """Done when such an answer may go out, so that a crowd that gets them can't come again at once."""
        ...


class RequestRecord(logging.LogRecord):
    """The record of a finished request; ``fields`` are its line, in their order.

    Made without LogRecord's constructor, whose look-ups cost half as much as the rest of the line.
    """

    _COMMON: ClassVar = vars(logging.LogRecord(request_log.name, logging.INFO, "", 0, "request", None, None))

    def __init__(self, level: int, fields: dict[str, Any]) -> None:
        self.__dict__ = {
            **self._COMMON,
            "levelno": level,
            "levelname": logging.getLevelName(level),
            "created": time(),
            "fields": fields,
        }


def headers_by_name(pairs: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by name, in lower case; one that is repeated becomes a list (RFC 9110, section 5.3)."""
    headers = dict(pairs)
    if len(headers) != len(pairs):
        for name in headers:
            headers[name] = b", ".join(value for other, value in pairs if other == name)
    return headers


def request_id_for(headers: Mapping[bytes, bytes], trace: Trace | None) -> str:
    """The id that a client sent as X-Request-ID, if it is a sane one, or else its trace's, or else a new one.

    A trace may have several requests. But the audit trail keeps this id alone, and must lead to the trace.
    """
    sent = headers.get(b"x-request-id", b"")
    if 0 < len(sent) <= REQUEST_ID_MAX and not sent.translate(None, REQUEST_ID_CHARACTERS):
        return sent.decode()
    return trace["trace_id"] if trace else f"{getrandbits(128):032x}"  # it need not be a secret


class Envelope:
    """Wraps the application. ``body_seconds`` and ``body_rate`` (bytes a second) limit how slowly a body may arrive.

    ``is_full`` tells the server whether a request would be refused for want of a place when so many others are before
    it, so that the server can refuse it for less.
    """

    def __init__(
        self,
        app: App,
        metrics: Metrics,
        draining: asyncio.Event | None = None,
        *,
        is_full: Callable[[int], bool] = lambda coming: False,  # noqa: ARG005
        cors: CORSConfig | None = None,
        body_seconds: float = BODY_SECONDS,
        body_rate: float = BODY_BYTES_PER_SECOND,
    ) -> None:
        self.metrics = metrics
        self.draining = draining or asyncio.Event()
        self.is_full = is_full
        self.origins = Origins(cors)
        self.body_seconds = body_seconds
        self.body_rate = body_rate
        self.litestar = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.litestar(scope, receive, send)
            return
        exchange = _Exchange(self, scope, receive, send)
        self.metrics.in_flight += 1
        try:
            if exchange.method == "OPTIONS":
                exchange.state["at_once"] = STRANGERS_AT_ONCE
                self.origins.check_preflight(scope["headers"])
            await self.litestar(exchange.scope, exchange.receive if exchange.has_body else receive, exchange.send)
            if not exchange.complete and not exchange.lost:
                await self._rescue(RuntimeError("the application returned without a complete answer"), exchange)
        except BaseException as error:  # noqa: BLE001 - the last resort; what must go on is raised again
            await self._rescue(error, exchange)
        finally:
            self.metrics.in_flight -= 1
            if "held_body" in exchange.state:
                exchange.state["held_body"].close()
            self._note(exchange)

    async def _rescue(self, error: BaseException, exchange: "_Exchange") -> None:
        """Answer in the application's place. Where it had begun to answer, the server closes the connection."""
        is_cut_off = exchange.status != 0 and not exchange.complete
        if is_cut_off:
            exchange.lost = exchange.lost or (exchange.connection is not None and exchange.connection.is_lost())
            if isinstance(error.__cause__, Problem):  # Litestar has wrapped it, as all that is raised behind the head
                error = error.__cause__
        if exchange.lost and isinstance(error, Exception):
            return
        if isinstance(error, Problem):
            problem = error
        elif isinstance(error, asyncio.CancelledError):
            reason = "The service is shutting down."
            is_safe = exchange.method in _SAFE_METHODS
            problem = Problem("overloaded", reason) if is_safe else unknown_outcome("overloaded", reason)
            exchange.close = True
        else:
            problem = Problem("internal", "Something went wrong here. The log tells more under the request id.")
            fields = {"request_id": exchange.request_id, "method": exchange.method, "route": exchange.route}
            log.error("unhandled_exception", exc_info=error, extra=fields)
        if is_cut_off:
            exchange.status = problem.status  # for the log and the metrics: the client was promised a whole answer
        if not exchange.status:
            escape = bool(exchange.state.get("escape"))
            answer: App = cast(Any, problem_answer(problem, exchange.request_id, escape=escape))
            await answer(exchange.scope, exchange.receive, exchange.send)
        if not isinstance(error, (Exception, asyncio.CancelledError)):
            raise error

    def _note(self, exchange: "_Exchange") -> None:
        """Count the request that has ended, and write its line."""
        seconds = perf_counter() - exchange.started
        status = CLIENT_LEFT if exchange.lost else exchange.status
        route = exchange.route
        self.metrics.observe_request(exchange.method, route, status, seconds)
        level = logging.INFO if status < 500 else logging.ERROR if status == 500 else logging.WARNING
        if request_log.isEnabledFor(level):
            client = exchange.scope["client"]
            caller = exchange.scope.get("user")
            fields = {
                "request_id": exchange.request_id,
                "method": exchange.method,
                "route": route,
                "status": status,
                "duration_ms": int(seconds * 1e5) / 100,
                "user_id": caller.proven_id if caller else None,
                "bytes_in": exchange.bytes_in,
                "bytes_out": exchange.bytes_out,
                "remote": client[0] if client else None,
            }
            if "trace" in exchange.state:
                fields |= exchange.state["trace"]
            request_log.handle(RequestRecord(level, fields))


class _Exchange:
    """One request and its answer on their way."""

    def __init__(self, envelope: Envelope, scope: Scope, receive: Receive, send: Send) -> None:
        self.started = perf_counter()
        self._envelope = envelope
        self._receive = receive
        self._send = send
        self._waiting_left = envelope.body_seconds
        self.bytes_in = 0
        self.bytes_out = 0
        self.close = False
        self.complete = False
        self.lost = False
        self.status = 0
        self.state: dict[str, Any] = scope.setdefault("state", {})
        self.connection: Connection | None = self.state.get("connection")
        headers = self.state["headers"] = headers_by_name(scope["headers"])
        self.has_body = b"content-length" in headers or b"transfer-encoding" in headers
        trace = trace_of(headers)
        if trace:
            self.state["trace"] = trace
        self.request_id = self.state["request_id"] = request_id_for(headers, trace)
        self.method: str = scope["method"]
        if self.method == "HEAD":
            self.state["head"] = True
            scope = {**scope, "method": "GET"}
        self.scope = scope

    @property
    def route(self) -> str:
        """The template of the path, as far as it is known."""
        return self.scope.get("path_template") or UNMATCHED

    async def receive(self) -> Message:
        """The next piece of the body. Only the time spent waiting for the client counts against its limit."""
        started = perf_counter()
        if self.connection is not None and self.connection.has_body():
            message = await self._receive()
        else:
            try:
                async with asyncio.timeout(self._waiting_left):
                    message = await self._receive()
            except TimeoutError:
                self.close = True
                raise Problem("timeout", "The body took too long to arrive.", status=408) from None
        if message["type"] == "http.disconnect":
            self.lost = self.lost or not self.complete
            return message
        size = len(message.get("body", b""))
        self.bytes_in += size
        self._waiting_left += size / self._envelope.body_rate - (perf_counter() - started)
        return message

    def send(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            message = self._start(message)
            if self.connection is not None and "at_once" in self.state:
                return self._send_in_turn(self.connection, message)
            return self._send(message)
        body = message.get("body", b"")
        self.bytes_out += len(body)
        if not message.get("more_body"):
            self.complete = True
            if self.connection is not None and self.connection.is_lost():
                self.lost = True
        if self.method == "HEAD":
            message = {**message, "body": b""}
            self.bytes_out = 0
        return self._send(message)

    async def _send_in_turn(self, connection: Connection, message: Message) -> None:
        await connection.turn_to_answer(self.state["at_once"])
        await self._send(message)

    def _start(self, message: Message) -> Message:
        """The answer's head with the headers that every answer has."""
        self.status = message["status"]
        headers = [*message.get("headers", ()), *SAFE_HEADERS, (b"x-request-id", self.request_id.encode())]
        sent = dict(headers)
        if b"cache-control" not in sent:
            headers.append(_REVALIDATE if b"etag" in sent else NO_STORE)
        if sent.get(b"content-type", b"").startswith(b"text/html"):
            headers.append(_POLICY)
        if ALLOW_ORIGIN not in sent:
            headers += self._envelope.origins.headers(self.scope["headers"])
        if self.close or (self._envelope.draining.is_set() and not (self.connection and self.connection.has_next())):
            headers.append(_CLOSE)
        return {"type": "http.response.start", "status": self.status, "headers": headers}
