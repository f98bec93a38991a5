"""The log: what a line says, and what becomes of lines that nobody takes."""

import json
import logging
import os
from collections.abc import Iterator
from datetime import date
from typing import Any
from uuid import UUID

import pytest

from service.http.envelope import RequestRecord
from service.serving.log import GATHERED, JsonFormatter, PipeHandler


def line(name: str, level: int, message: str, *args: object, **attributes: object) -> dict[str, Any]:
    record = logging.getLogger(name).makeRecord(name, level, __file__, 1, message, args, None, extra=attributes)
    return json.loads(JsonFormatter().format(record))


def test_an_event_is_a_line_with_its_fields_in_their_order() -> None:
    found = line("service.db.pool", logging.WARNING, "database_unreachable", reason="x", connections=3, day=date.max)
    assert list(found) == ["time", "level", "event", "reason", "connections", "day"]
    assert list(found.values())[1:] == ["warning", "database_unreachable", "x", 3, "9999-12-31"]


@pytest.mark.parametrize(
    ("level", "name"), [(10, "debug"), (20, "info"), (30, "warning"), (40, "error"), (50, "error"), (5, "debug")]
)
def test_levels_are_four(level: int, name: str) -> None:
    assert line("service.x", level, "x")["level"] == name


def test_the_line_of_a_request_is_its_fields() -> None:
    record = RequestRecord(logging.INFO, {"request_id": "a", "user_id": UUID(int=1), "status": 200})
    found = json.loads(JsonFormatter().format(record))
    assert list(found) == ["time", "level", "event", "request_id", "user_id", "status"]
    assert found["user_id"] == str(UUID(int=1))
    assert logging.Formatter("%(levelname)s %(name)s %(message)s").format(record) == "INFO service.request request"


def test_a_record_of_a_library_is_a_line_with_its_message() -> None:
    found = line("psycopg.pool", logging.WARNING, "%s failed", "connecting", private="not a field")
    assert list(found) == ["time", "level", "event", "logger", "message"]
    assert list(found.values())[1:] == ["warning", "library", "psycopg.pool", "connecting failed"]


def test_an_exception_is_told_in_one_line() -> None:
    error = LookupError("nothing there")
    given = {"name": "service.x", "levelno": logging.ERROR, "msg": "x", "exc_info": (LookupError, error, None)}
    text = JsonFormatter().format(logging.makeLogRecord(given))
    assert json.loads(text)["exception"] == "LookupError: nothing there"
    assert "LookupError: nothing there" in json.loads(text)["traceback"]
    assert "\n" not in text


def test_what_json_has_no_form_for_is_told_in_ascii() -> None:
    assert line("service.x", logging.INFO, "x", text="\ud800", thing=...)["text"] == "'\\ud800'"


class Pipe:
    """A handler whose lines go into a pipe."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.handler = PipeHandler(self.writer)
        self.handler.setFormatter(JsonFormatter())
        self.sent = 0

    def send(self, number: int, text: str = "", level: int = logging.INFO) -> None:
        for _ in range(number):
            fields = {"number": self.sent, "text": text}
            self.handler.handle(logging.makeLogRecord({"name": "service.x", "levelno": level, "fields": fields}))
            self.sent += 1

    def read(self) -> bytes:
        pieces: list[bytes] = []
        try:
            while piece := os.read(self.reader, 1 << 20):
                pieces.append(piece)
        except BlockingIOError:
            pass
        return b"".join(pieces)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.handler.close()
    os.close(made.writer)


def test_lines_are_gathered_until_they_are_many_or_urgent_or_asked_for(pipe: Pipe) -> None:
    pipe.send(GATHERED - 1)
    assert pipe.read() == b""
    pipe.send(1)
    assert pipe.read().count(b"\n") == GATHERED
    pipe.send(2)
    pipe.send(1, level=logging.ERROR)
    assert pipe.read().count(b"\n") == 3
    pipe.send(1)
    pipe.handler.flush()
    assert pipe.read().count(b"\n") == 1


@pytest.mark.parametrize("size", [10, 3000, 50_000])
def test_a_full_pipe_loses_whole_lines_which_are_counted(pipe: Pipe, size: int) -> None:
    received = b""
    for number in (50_000 // size * 4, 1, 40, 20):
        pipe.send(number, "x" * size, logging.ERROR)
        received += pipe.read()
    pipe.send(1, level=logging.ERROR)
    received += pipe.read()
    lines = [json.loads(each) for each in received.decode().splitlines()]
    told = [each["count"] for each in lines if each["event"] == "log_lines_dropped"]
    assert sum(told) == pipe.handler.dropped > 0
    assert len(lines) - len(told) + pipe.handler.dropped == pipe.sent
    assert [each["number"] for each in lines if "number" in each][-1] == pipe.sent - 1


def test_a_closed_pipe_stops_nobody(pipe: Pipe) -> None:
    os.close(pipe.reader)
    pipe.send(100, level=logging.ERROR)
    assert pipe.handler.dropped == 100
