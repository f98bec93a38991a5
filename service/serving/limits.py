"""What one process takes from its clients, and how it is shared among them."""

import logging
from collections import Counter
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from service.http.envelope import Envelope
from service.http.metrics import OTHER_METHOD, UNMATCHED
from service.http.networks import network
from service.http.origins import Headers
from service.problems import Problem
from service.serving.refusals import ReadyAnswer, Refusals, id_for

if TYPE_CHECKING:
    from service.serving.protocol import HttpProtocol

log = logging.getLogger(__name__)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one process takes from its clients. Sizes in bytes, times in seconds."""

    header_bytes: int = 32 * 1024
    """Request line and headers together."""
    header_count: int = 128
    header_seconds: float = 10.0
    """From the opening of a connection, later from a request's first byte, to the end of its headers."""
    pipelined: int = 16
    """Requests that may wait on a connection for the one before them; the next one ends it, when those are answered."""
    pipelined_headers: int = 256
    """How many headers these may have together: each takes 130 bytes of memory, however short it is."""
    small_chunks: int = 1000
    """How many chunks with next to nothing a body may bring in a row, or chunks of any size once it has its answer.

    More than CHUNK_BYTES in a chunk makes up for less in those before it.
    """
    idle_seconds: float = 75.0
    """Between the requests of a connection."""
    linger_seconds: float = 2.0
    """How long the rest of an unwanted body is read and thrown away, so that the client gets to read its answer."""
    stall_seconds: float = 30.0
    """How long a client may take to read another STALL_BYTES of its answer."""
    unread_bytes: int = 64 * 1024 * 1024
    """What all answers together may hold in memory that their clients don't read; one address may hold half of it."""
    connections: int = 2000
    """Connections beyond this are answered 503."""
    connections_per_address: int = 1600
    """The same for the connections of one address, so that one client can't take every connection."""
    refusals: int = 200
    """While so many refused connections are still open, further ones are closed without a word."""

    @property
    def shortest(self) -> float:
        """No deadline is sooner than so many seconds after it is set."""
        return min(self.header_seconds, self.idle_seconds, self.linger_seconds, self.stall_seconds)

    def refuse_head(self, url: bytes, headers: Sequence[tuple[bytes, bytes]], parser: Any) -> Problem | None:
        """What is wrong with a request's head as a whole."""
        size, hosts = len(url), 0
        for name, value in headers:
            size += len(name) + len(value) + 4
            hosts += name == b"host"
        if size > self.header_bytes or len(headers) > self.header_count:
            return self.too_large()
        if hosts > 1 or (not hosts and parser.get_http_version() != "1.0"):
            return Problem("malformed_request", "HTTP/1.1 needs one Host header (RFC 9112, section 3.2).")
        if parser.should_upgrade() and parser.get_method() == b"CONNECT":
            return Problem("malformed_request", "This is not a proxy.")
        return None

    def too_large(self) -> Problem:
        return Problem(
            "headers_too_large",
            f"Request line and headers may have {self.header_bytes:,} bytes in all, "
            f"and there may be {self.header_count} headers.",
        )

    def pipelines_too_much(self, waiting: Sequence[tuple[RequestResponseCycle, Any]], headers: int) -> bool:
        """Whether a request with so many headers is one too many behind those that wait for the one before them."""
        headers += sum(len(cast("list[Any]", cycle.scope["headers"])) for cycle, _ in waiting)
        return len(waiting) == self.pipelined or headers > self.pipelined_headers


STALL_BYTES = 64 * 1024
CHUNK_BYTES = 64
"""What a chunk of a body should hold at least: it takes 5 µs, however small it is."""


class Connections(ServerState):
    """What the connections of a process share. ``proxies`` speak for many clients: no bound per address is for them."""

    def __init__(self, limits: Limits, envelope: Envelope, proxies: Container[str] = ()) -> None:
        super().__init__()
        self.limits = limits
        self.envelope = envelope
        self.refusals = Refusals(envelope)
        self.proxies = proxies
        self.by_address: Counter[str] = Counter()
        self.refused: set[HttpProtocol] = set()
        self.unread: dict[HttpProtocol, int] = {}
        """Bytes of answers that clients didn't take yet, the longest waiting first."""

    def address(self, host: str) -> str:
        """What is counted as one client: an IPv4 address, or the IPv6 network that one customer usually gets, a /56.

        Nothing for a proxy.
        """
        if host in self.proxies:
            return ""
        return network(host) if ":" in host else host

    def take_in(self, connection: "HttpProtocol") -> bool:
        """Count a connection that has just been made; whether it is served."""
        address = connection.address
        is_served = len(self.connections) - len(self.refused) <= self.limits.connections and (
            not address or self.by_address[address] < self.limits.connections_per_address
        )
        if is_served:
            self.by_address[address] += 1
        else:
            self.refused.add(connection)
        return is_served

    def let_go(self, connection: "HttpProtocol") -> None:
        """Count a connection no more."""
        if connection in self.refused:
            self.refused.remove(connection)
            return
        self.by_address[connection.address] -= 1
        if not self.by_address[connection.address]:
            del self.by_address[connection.address]

    def refusal_headers(self, sent: Headers | None) -> list[tuple[bytes, bytes]]:
        """What a refusal says besides: the time, and to a page of another origin that it may read it."""
        return [*self.default_headers, *self.envelope.origins.headers(sent or ())]

    def refusal(self, problem: Problem, sent: Headers, client: str | None) -> bytes:
        """The answer to what isn't a request that the application could have; it is counted, and logged."""
        request_id = id_for(sent)
        self.envelope.metrics.observe_request(OTHER_METHOD, UNMATCHED, problem.status, 0.0)
        fields = {"request_id": request_id, "status": problem.status, "code": problem.code, "remote": client}
        log.warning("request_refused", extra=fields)
        return ReadyAnswer(problem).make(request_id, self.refusal_headers(sent), close=True, has_body=True)

    def look_at_unread(self, connection: "HttpProtocol", unread: int, now: float) -> None:
        """Cut a connection off whose client has not read STALL_BYTES since it was looked at last."""
        if self.unread[connection] - unread < STALL_BYTES:
            connection.abort()
        else:
            self.unread[connection] = unread
            connection.stalled_at = now + self.limits.stall_seconds

    def cut_unread(self, address: str) -> None:
        """Cut connections off, the longest waiting first, until unread answers take no more memory than they may."""
        most = self.limits.unread_bytes
        if address:
            self._cut_until(most // 2, [c for c in self.unread if c.address == address])
        self._cut_until(most, list(self.unread))

    def _cut_until(self, most: int, waiting: "list[HttpProtocol]") -> None:
        held = sum(self.unread[connection] for connection in waiting)
        for connection in waiting:
            if held <= most:
                return
            held -= self.unread[connection]
            connection.abort()
