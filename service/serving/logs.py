"""Structured logs: JSON lines on standard output, one a request, never with a body, a token or a query string.

Lines of requests are gathered for up to 20 ms and leave in one write; everything else is written at once. A reader
that stops reading never stops the service: what a full or closed pipe doesn't take is dropped, and counted.
"""

import atexit
import logging
import os
import select
import threading
import traceback
from asyncio import TimerHandle, get_running_loop
from time import gmtime, strftime, time
from typing import Any
from uuid import UUID

import msgspec

GATHER_SECONDS = 0.02
CHUNK_BYTES = 4096
"""PIPE_BUF of Linux: what a pipe that polls as writable takes whole, so that a write can't block."""

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

_encode = msgspec.json.Encoder().encode


class RequestLine(msgspec.Struct, gc=False):
    """The line of a finished request. ``status`` 499 means that the client left before the answer was complete."""

    time: str
    level: str
    event: str
    request_id: str
    method: str
    route: str
    status: int
    duration_ms: float
    user_id: UUID | None
    bytes_in: int
    bytes_out: int
    remote: str | None


class Lines:
    """Writes whole lines to a file descriptor and never waits for its reader."""

    def __init__(self, fd: int) -> None:
        self.dropped = 0
        self.threshold = LEVELS["info"]
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._lock = threading.RLock()
        self._gathered: list[bytes] = []
        self._size = 0
        self._timer: TimerHandle | None = None
        self._reported = 0
        self._torn = False

    def write(self, line: bytes) -> None:
        """Write now, after what was gathered before. From any thread."""
        with self._lock:
            self._gathered.append(line)
            self.flush()

    def gather(self, line: bytes) -> None:
        """Write soon. Only from the event loop's thread, while the loop runs."""
        if self._size + len(line) > CHUNK_BYTES:
            self.flush()  # what is there fits one write; with this line it would take two
        self._gathered.append(line)
        self._size += len(line)
        if self._timer is None:
            self._timer = get_running_loop().call_later(GATHER_SECONDS, self.flush)

    def flush(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            lines, self._gathered, self._size = self._gathered, [], 0
            if self.dropped > self._reported:
                reported, self._reported = self._reported, self.dropped
                lines.insert(0, _line("warning", "log_lines_dropped", {"count": self.dropped - reported}))
            for chunk, count in _chunks(lines):
                self._put(chunk, count)

    def _put(self, chunk: bytes, lines: int) -> None:
        """Write one or more whole lines, or count them as dropped."""
        if self._torn:
            chunk = b"\n" + chunk
        view = memoryview(chunk)
        try:
            while view:
                if not any(state & select.POLLOUT for _, state in self._poll.poll(0)):
                    break
                view = view[os.write(self._fd, view[:CHUNK_BYTES]) :]
        except OSError:  # closed: there is nobody left to tell
            pass
        if view:
            self.dropped += lines
            self._torn = self._torn or len(view) < len(chunk)
        else:
            self._torn = False


def _chunks(lines: list[bytes]) -> list[tuple[bytes, int]]:
    """Join lines into writes of at most CHUNK_BYTES; a longer line stands alone."""
    chunks: list[tuple[bytes, int]] = []
    start = size = 0
    for end, line in enumerate(lines):
        if size and size + len(line) > CHUNK_BYTES:
            chunks.append((b"".join(lines[start:end]), end - start))
            start, size = end, 0
        size += len(line)
    if size:
        chunks.append((b"".join(lines[start:]), len(lines) - start))
    return chunks


out = Lines(1)
atexit.register(out.flush)


def set_level(level: str) -> None:
    """Set the lowest level to log: debug, info, warning or error."""
    out.threshold = LEVELS[level]


def take_over_libraries() -> None:
    """Write the log records and warnings of libraries as lines of ours.

    They are heard from WARNING on only: what they report below that, the request line says better.
    """
    root = logging.getLogger()
    root.handlers = [_Handler()]
    root.setLevel(max(out.threshold, logging.WARNING))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "psycopg.pool", "litestar"):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    logging.captureWarnings(True)


class _Clock:
    """Writes the time, and the part of it that stays for a second only once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def __call__(self) -> str:
        now = time()
        second = int(now)
        if second != self._second:
            self._text = strftime("%Y-%m-%dT%H:%M:%S.", gmtime(second))
            self._second = second
        return f"{self._text}{int((now - second) * 1000):03d}Z"


timestamp = _Clock()
"""The time now, RFC 3339 in UTC to the millisecond."""


def request(
    request_id: str,
    method: str,
    route: str,
    status: int,
    seconds: float,
    user_id: UUID | None,
    bytes_in: int,
    bytes_out: int,
    remote: str | None,
) -> None:
    """Log a finished request: status 500 as an error, other 5xx as a warning."""
    level = "info" if status < 500 else "error" if status == 500 else "warning"
    if LEVELS[level] < out.threshold:
        return
    duration = int(seconds * 1e5) / 100
    out.gather(
        _encode(
            RequestLine(
                timestamp(),
                level,
                "request",
                request_id,
                method,
                route,
                status,
                duration,
                user_id,
                bytes_in,
                bytes_out,
                remote,
            )
        )
        + b"\n"
    )


def log(level: str, event: str, **fields: Any) -> None:
    """Log something else than a request. ``event`` is a stable name; values are for reading, never secrets."""
    if LEVELS[level] >= out.threshold:
        out.write(_line(level, event, fields))


def log_exception(event: str, error: BaseException, **fields: Any) -> None:
    """Log an exception in full, its traceback in one field."""
    fields["exception"] = f"{type(error).__name__}: {error}"
    fields["traceback"] = "".join(traceback.format_exception(error))
    log("error", event, **fields)


def _line(level: str, event: str, fields: dict[str, Any]) -> bytes:
    line = {"time": timestamp(), "level": level, "event": event, **fields}
    try:
        return _encode(line) + b"\n"
    except (TypeError, ValueError):  # lone surrogates, or a type that JSON has no form for
        return _encode({name: ascii(value) for name, value in line.items()}) + b"\n"


class _Handler(logging.Handler):
    """Turns a library's log record into one of our lines."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "error" if record.levelno >= 40 else "warning" if record.levelno >= 30 else "info"
        fields: dict[str, Any] = {"logger": record.name, "message": record.getMessage()}
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            log_exception("library", error, **fields)
        else:
            log(level, "library", **fields)
