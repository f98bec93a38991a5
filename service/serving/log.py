"""The log: JSON lines on standard output, made of the standard ``logging`` module's records.

A module has ``log = logging.getLogger(__name__)``; an event is ``log.warning("event_name", extra={"field": value})``.
The fields follow the event's name in the line, in their order. Fields never hold a secret, a body or a query string.
A record may bring ``fields`` instead, a dictionary that is written as it is: the line of a request does, because
looking through all of a record's attributes costs as much as the rest of its line.

Records of libraries become events named ``library``, from WARNING on only: what they report below that, the line of
the request says better.

What a line costs, each the best of five times 30,000 lines in one run: 5 us for a request's record with ``fields`` that
is given to ``Logger.handle``, 10 us for ``Logger.info`` with ``extra``, 7 us with structlog, 11 us with
python-json-logger. Gathered records are made into lines together, which is cheaper than one between two requests.
"""

import logging
import os
import select
from functools import lru_cache
from time import gmtime, strftime
from typing import Any

import msgspec

PIECE_BYTES = select.PIPE_BUF
"""What a pipe that polls as writable takes whole, so that a write can't block."""

GATHERED = 16

_NOT_FIELDS = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})

_LEVELS = ("debug", "debug", "info", "warning", "error")

_encode = msgspec.json.Encoder().encode


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time (RFC 3339, UTC, milliseconds), level, event, then the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        given = vars(record)
        seconds = record.created
        line: dict[str, Any] = {
            "time": f"{_second(int(seconds))}.{int(seconds % 1 * 1000):03d}Z",
            "level": _LEVELS[min(record.levelno // 10, 4)],
            "event": record.msg,
        }
        if "fields" in given:
            line |= given["fields"]
        elif record.name.startswith("service."):
            line |= {name: value for name, value in given.items() if name not in _NOT_FIELDS}
        else:
            line |= {"event": "library", "logger": record.name, "message": record.getMessage()}
        if record.exc_info and (error := record.exc_info[1]):
            line["exception"] = f"{type(error).__name__}: {error}"
            line["traceback"] = self.formatException(record.exc_info)
        try:
            return _encode(line).decode()
        except (TypeError, ValueError):  # lone surrogates, or a type that JSON has no form for
            return _encode({name: ascii(value) for name, value in line.items()}).decode()


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(seconds))


class PipeHandler(logging.Handler):
    """Writes lines to a file descriptor and never waits for its reader.

    Records below ERROR are gathered: they leave with the next tick of the server, or when there are GATHERED. Lines
    that a full or closed pipe doesn't take are dropped and counted in ``dropped``; a ``log_lines_dropped`` event tells
    the number as soon as the reader goes on. What was taken in part is completed before anything else.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.dropped = 0
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._told = 0
        self._records: list[logging.LogRecord] = []
        self._rest = b""

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)
        if record.levelno >= logging.ERROR or len(self._records) >= GATHERED:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered. The server's ticks do, and ``logging`` itself when the process ends."""
        self.acquire()
        try:
            records, self._records = self._records, []
            self._rest = self._write(self._rest)
            if not records:
                return
            told = self.dropped
            if told > self._told:
                event = {"name": __name__, "levelno": logging.WARNING, "msg": "log_lines_dropped"}
                records.insert(0, logging.makeLogRecord({**event, "fields": {"count": told - self._told}}))
            data = b"".join(self._line(record) for record in records)
            left = data if self._rest else self._write(data)
            if len(left) == len(data):
                self.dropped += len(records) - (told > self._told)
            else:
                self._told = told
                self._rest = left
        finally:
            self.release()

    def _line(self, record: logging.LogRecord) -> bytes:
        try:
            return self.format(record).encode() + b"\n"
        except Exception:  # noqa: BLE001 - a mistake in a log call stops nobody, as with every handler
            self.handleError(record)
            return b""

    def _write(self, data: bytes) -> bytes:
        """Write what is taken without waiting, whole lines at a time where they are short enough; what is left."""
        try:
            while data and any(state & select.POLLOUT for _, state in self._poll.poll(0)):
                end = data.rfind(b"\n", 0, PIECE_BYTES) + 1 or PIECE_BYTES
                data = data[os.write(self._fd, data[:end]) :]
        except OSError:  # closed: there is nobody left to tell
            pass
        return data


def configure(level: str) -> PipeHandler:
    """Send all records to standard output: the service's from ``level`` on (debug, info, warning, error)."""
    handler = PipeHandler(1)
    handler.setFormatter(JsonFormatter())
    threshold = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.WARNING), force=True)
    logging.getLogger("service").setLevel(threshold)
    logging.captureWarnings(capture=True)
    # No line tells them, and looking them up is a tenth of what a record costs.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    return handler
