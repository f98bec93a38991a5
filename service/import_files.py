"""The file of an import: its lines, read as strictly as any body, and what they must be beside each other."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import IO, NamedTuple, get_args

import msgspec

from service.exports import (
    CLOCK_DIFFERENCE,
    LINE_BYTES,
    AnyLine,
    ConversationLine,
    ExportEnd,
    ExportHeader,
    LinkLine,
    MessageLine,
    Row,
    TodoLine,
    encode_line,
)
from service.http.fields import check_time, check_title
from service.http.request import decode_body, read_aside
from service.http.strict_json import is_quick
from service.items import check_item, check_json
from service.problems import Problem, invalid

CHUNK_LINES = 4000
CHUNK_BYTES = 1024 * 1024
"""So much goes into the database at a time."""

BYTES_A_TURN = 16 * 1024
"""After so much was checked, others get their turn: that is a millisecond or two, and ten for the worst of lines."""

_decode = msgspec.json.Decoder(AnyLine).decode


class Line(NamedTuple):
    """A line with its number, from 1."""

    number: int
    text: bytes


def row_of(line: Line) -> Row | None:
    """The row that a line holds, if it holds one, with all its times in UTC."""
    found: AnyLine = _decode(line.text)
    if isinstance(found, ExportHeader | ExportEnd):
        return None
    moved: dict[str, datetime] = {}
    for name in _TIMES:
        value = getattr(found, name, None)
        if isinstance(value, datetime) and value.tzinfo is not UTC:
            moved[name] = value.astimezone(UTC)
    return msgspec.structs.replace(found, **moved) if moved else found


_TIMES = ("created_at", "updated_at", "due_date", "completed_at")


def chunks(file: IO[bytes]) -> Iterator[list[Line]]:
    """The lines, some at a time. Raises ``validation_failed`` for one that is too long."""
    chunk: list[Line] = []
    size = 0
    number = 0
    while text := file.readline(LINE_BYTES + 1):
        number += 1
        if len(text) > LINE_BYTES:
            raise bad_line(number, f"has more than {LINE_BYTES} bytes")
        chunk.append(Line(number, text.rstrip(b"\r\n")))
        size += len(text)
        if len(chunk) >= CHUNK_LINES or size >= CHUNK_BYTES:
            yield chunk
            chunk = []
            size = 0
    if chunk:
        yield chunk


def bad_line(number: int, reason: str) -> Problem:
    """A 422 about a line."""
    return invalid(f"line {number}", reason)


def reason_of(problem: Problem) -> str:
    """What is wrong with a line, from a problem about an object by itself."""
    if not problem.errors:
        return problem.detail.rstrip(".")
    error = problem.errors[0]
    return error.message if error.field == "body" else f"{error.field}: {error.message}"


def _read_line(line: Line) -> AnyLine:
    """The line, and the JSON that is kept inside of it, read as strictly as any body."""
    found = _decode_line(line)
    try:
        _check_json_inside(found)
    except ValueError as error:
        raise bad_line(line.number, str(error)) from None
    return found


def _decode_line(line: Line) -> AnyLine:
    """A line that looks exactly as an export writes it needs half the work of any other."""
    try:
        found = _decode(line.text)
        plain = getattr(found, "metadata", _NOTHING) == _NOTHING and b"\\u0000" not in line.text
        if plain and encode_line(found) == line.text:
            return found
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    try:
        return decode_body(line.text, AnyLine)
    except Problem as problem:
        reason = reason_of(problem) if problem.errors else "is not JSON in UTF-8"
        raise bad_line(line.number, reason) from None


_NOTHING = msgspec.Raw(b"{}")


def _check_json_inside(line: AnyLine) -> None:
    """Raises ValueError. How large metadata is, and how deep, the database says as it writes it."""
    if isinstance(line, TodoLine | ConversationLine | MessageLine) and not bytes(line.metadata).startswith(b"{"):
        raise ValueError("metadata: must be an object")
    if isinstance(line, MessageLine) and line.item is not None:
        check_item(line.item)
        check_json(line.item)


# What a file must be


async def check_file(file: IO[bytes]) -> ExportHeader:
    """Read all of the file; its header. Raises ``validation_failed`` about the first line that is wrong."""
    checker = _Checker()
    number = unseen = 0
    for chunk in chunks(file):
        for line in chunk:
            found = _read_line(line) if is_quick(line.text) else await read_aside(file, _read_line, line)
            try:
                checker.take(found)
            except ValueError as error:
                raise bad_line(line.number, str(error)) from None
            unseen += len(line.text)
            if unseen > BYTES_A_TURN:
                unseen = 0
                await asyncio.sleep(0)
        number = chunk[-1].number
    if checker.header is None or not checker.ended:
        raise bad_line(number + 1, "is missing: the file was cut off, its last line is of type end")
    return checker.header


class _Checker:
    """What the lines of a file must be beside each other."""

    def __init__(self) -> None:
        self.header: ExportHeader | None = None
        self.ended = False
        self._latest = datetime.now(UTC) + CLOCK_DIFFERENCE
        self._stage = 0
        self._counts = dict.fromkeys(get_args(Row), 0)
        self._number = 0
        self._conversation: ConversationLine | None = None
        self._position = 0
        self._messages = 0

    def take(self, line: AnyLine) -> None:
        """Raises ValueError when the line is wrong where it stands."""
        if self.ended:
            raise ValueError("stands behind the end")
        if isinstance(line, ExportHeader):
            if self.header is not None:
                raise ValueError("is a second header")
            self.header = line
            return
        if self.header is None:
            raise ValueError("type: must be export on the first line")
        stage = _STAGES[type(line)]
        if stage < self._stage:
            raise ValueError("type: the order is todo, conversation with its messages, link, end")
        self._stage = stage
        if not isinstance(line, MessageLine):
            self._close_conversation()
        if isinstance(line, ExportEnd):
            self._end(line)
            return
        self._counts[type(line)] += 1
        check_time("created_at", line.created_at)
        check_time("updated_at", line.updated_at)
        if line.updated_at < line.created_at:
            raise ValueError("updated_at: is before created_at")
        if line.updated_at > self._latest:
            raise ValueError("updated_at: can't be in the future")
        if isinstance(line, TodoLine):
            self._take_todo(line, self.header.last_number)
        elif isinstance(line, ConversationLine):
            self._take_conversation(line)
        elif isinstance(line, MessageLine):
            self._take_message(line)

    def _take_todo(self, line: TodoLine, last_number: int) -> None:
        if not self._number < line.number <= last_number:
            raise ValueError("number: must ascend, up to last_number of the first line")
        self._number = line.number
        check_title(line.title)
        check_time("due_date", line.due_date)
        check_time("completed_at", line.completed_at)
        if line.status != "archived" and (line.status == "completed") != (line.completed_at is not None):
            raise ValueError("completed_at: goes with status completed, or archived")
        if line.completed_at is not None and line.completed_at > datetime.now(UTC):
            raise ValueError("completed_at: can't be in the future")

    def _take_conversation(self, line: ConversationLine) -> None:
        check_title(line.title)
        if line.message_count > line.last_position:
            raise ValueError("last_position: is less than message_count")
        self._conversation = line
        self._position = 0
        self._messages = 0

    def _take_message(self, line: MessageLine) -> None:
        if self._conversation is None or line.conversation_id != self._conversation.id:
            raise ValueError("conversation_id: must be the one of the conversation above")
        if not self._position < line.position <= self._conversation.last_position:
            raise ValueError("position: must ascend, up to last_position of the conversation")
        if line.item is None and not line.content:
            raise ValueError("content: must have at least 1 character where there is no item")
        self._position = line.position
        self._messages += 1

    def _close_conversation(self) -> None:
        if self._conversation is not None and self._messages != self._conversation.message_count:
            raise ValueError(
                f"comes too early or too late: the conversation above has {self._conversation.message_count} "
                f"messages, and {self._messages} are there"
            )
        self._conversation = None

    def _end(self, line: ExportEnd) -> None:
        counted = ExportEnd(*self._counts.values())
        if line != counted:
            raise ValueError(f"counts other lines than are there: {encode_line(counted).decode()}")
        self.ended = True


_STAGES: dict[type[AnyLine], int] = {
    ExportHeader: 0,
    TodoLine: 1,
    ConversationLine: 2,
    MessageLine: 2,
    LinkLine: 3,
    ExportEnd: 4,
}
