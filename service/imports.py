"""Import: a file that an export made, into an account. All of it is checked first, then it goes in as a whole or not.

The file is read twice, some lines at a time, so that memory stays flat however long it is. It goes in
by chunks, each behind a savepoint: a chunk that the database refuses is taken back and tried line by line, so that
every refusal names its line.
"""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import IO, Any, NamedTuple
from uuid import UUID

import msgspec
from litestar import post

from service.db.caller import Caller
from service.db.queries import BEGIN_RESTORING, WRITE_ENTRIES, Count, Maybe, Nothing, Statement
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
from service.http.bulk import Bulk, spool_body
from service.http.fields import check_time, check_title
from service.http.idempotency import answer_once
from service.http.request import Request, decode_body, read_aside
from service.http.response import LINES
from service.http.strict_json import SHORT
from service.items import check_item, check_json
from service.problems import Problem, invalid

IMPORT_BYTES = 128 * 1024 * 1024
"""The largest file over HTTP; the command line takes any."""
IMPORT_SECONDS = 120.0
"""How long the transaction of an import over HTTP may take."""
BODY_TYPES = (LINES, "application/jsonl", "application/json")
CHUNK_LINES = 500
CHUNK_BYTES = 1024 * 1024
"""So much goes into the database at a time."""

BYTES_A_TURN = 16 * 1024
"""After so much was checked, others get their turn: that is a millisecond or two, and ten for the worst of lines."""

_REFUSALS = frozenset({"validation_failed", "not_found", "link_exists", "external_id_taken", "version_mismatch"})
"""The codes with which the database says that a line is wrong, and not that it can't answer."""


class Imported(msgspec.Struct, frozen=True):
    """How many rows came in, and how many were there already."""

    imported: int
    skipped: int


class ImportResult(msgspec.Struct, frozen=True):
    """What became of the rows of a file."""

    todos: Imported
    conversations: Imported
    messages: Imported
    links: Imported


class _Numbered(NamedTuple):
    number: int
    text: bytes


_find_exporter = Maybe("find_exporter", UUID)
_reserve_numbers = Nothing("reserve_numbers")
_begin_chunk = Nothing("begin_chunk")
_keep_chunk = Nothing("keep_chunk")
_undo_chunk = Nothing("undo_chunk")
_import_todos = Count("import_todos")
_import_conversations = Count("import_conversations")
_import_messages = Count("import_messages")
_import_links = Count("import_links")

_IMPORT: dict[type[Row], Count] = {
    TodoLine: _import_todos,
    ConversationLine: _import_conversations,
    MessageLine: _import_messages,
    LinkLine: _import_links,
}
"""In the order in which rows need each other."""

_decode = msgspec.json.Decoder(AnyLine).decode


@post(
    "/v1/import",
    status_code=200,
    request_max_body_size=IMPORT_BYTES,
    seconds=IMPORT_SECONDS,
    body_types=BODY_TYPES,
    scope="write",
)
async def create_import(request: Request) -> ImportResult:
    """Bring in a file as `GET /v1/export` wrote it: ids, order, links and times are kept.

    What is there already is left as it is, so a second import of the same file changes nothing. A todo whose number
    another todo has gets the next one. All of the file goes in, or, with a 422 that names the line, nothing. Numbers,
    positions, counts and versions go up to 1,000,000,000, and no row may be from the future.
    """
    caller = request.user
    bulk: Bulk = request.app.state.bulk
    with bulk.arriving(caller.user_id):
        upload = await spool_body(request, *BODY_TYPES)
    with upload, bulk.running(caller.user_id):
        if b"idempotency-key" not in request.sent:
            return await import_file(caller, upload.file)
        return await answer_once(request, upload.digest, lambda: import_file(caller, upload.file))


async def import_file(
    caller: Caller, file: IO[bytes], progress: Callable[[int, int], None] = lambda _size, _lines: None
) -> ImportResult:
    """Import a file that can be read twice; ``progress`` is told of bytes and lines done.

    Raises ``validation_failed`` about the first line that is wrong.
    """
    header = await _check(file)
    file.seek(0)
    async with caller.transaction():
        await _begin(caller, header)
        inserter = _Inserter(caller)
        for chunk in _chunks(file):
            await inserter.insert(chunk)
            progress(sum(len(line.text) + 1 for line in chunk), len(chunk))
        await caller.run(WRITE_ENTRIES())
    return inserter.result()


async def _begin(caller: Caller, header: ExportHeader) -> None:
    statements: list[Statement[Any]] = [BEGIN_RESTORING()]
    if header.last_number:
        statements.append(_reserve_numbers(last_number=header.last_number))
    if header.email is not None:
        statements.append(_find_exporter(email=header.email))
    exporter = (await caller.run_all(statements))[-1]
    if header.email is not None and exporter not in (None, caller.user_id):
        raise _bad(1, "email: is the address of another account")


class _Inserter:
    """Inserts the lines, some at a time, and counts what came in."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._lines = dict.fromkeys(_IMPORT, 0)
        self._added = dict.fromkeys(_IMPORT, 0)

    def result(self) -> ImportResult:
        results = [Imported(added, self._lines[kind] - added) for kind, added in self._added.items()]
        return ImportResult(*results)

    async def insert(self, chunk: list[_Numbered]) -> None:
        """Insert them all, in the order of the kinds. Raises ``validation_failed`` about the first that is refused."""
        texts: dict[type[Row], list[bytes]] = {kind: [] for kind in _IMPORT}
        for line in chunk:
            if (kind := _kind(line)) is not None:
                texts[kind].append(line.text)
        try:
            await self._caller.run(_begin_chunk())
            await self._insert(texts)
            await self._caller.run(_keep_chunk())
        except Problem as problem:
            if problem.code not in _REFUSALS:
                raise
            await self._caller.run(_undo_chunk())
            await _find_culprit(self._caller, chunk)
            raise

    async def _insert(self, texts: dict[type[Row], list[bytes]]) -> None:
        some = [kind for kind in texts if texts[kind]]
        if not some:
            return
        added = await self._caller.run_all([_IMPORT[kind](rows=_array(texts[kind])) for kind in some])
        for kind, number in zip(some, added, strict=True):
            self._lines[kind] += len(texts[kind])
            self._added[kind] += number


async def _find_culprit(caller: Caller, chunk: list[_Numbered]) -> None:
    """Insert the lines one by one, to raise for the one that the database refuses."""
    for line in chunk:
        if (kind := _kind(line)) is None:
            continue
        try:
            await caller.run(_IMPORT[kind](rows=_array([line.text])))
        except Problem as problem:
            if problem.code == "not_found":
                raise _bad(line.number, "names a todo or a conversation that is not there") from problem
            if problem.code in _REFUSALS:
                raise _bad(line.number, _reason(problem)) from problem
            raise


def _kind(line: _Numbered) -> type[Row] | None:
    """What kind of row the line is, if it is one."""
    found: AnyLine = _decode(line.text)
    return None if isinstance(found, ExportHeader | ExportEnd) else type(found)


def _array(texts: list[bytes]) -> bytes:
    return b"[" + b",".join(texts) + b"]"


# Reading


def _chunks(file: IO[bytes]) -> Iterator[list[_Numbered]]:
    """The lines, some at a time. Raises ``validation_failed`` for one that is too long."""
    chunk: list[_Numbered] = []
    size = 0
    number = 0
    while text := file.readline(LINE_BYTES + 1):
        number += 1
        if len(text) > LINE_BYTES:
            raise _bad(number, f"has more than {LINE_BYTES} bytes")
        chunk.append(_Numbered(number, text.rstrip(b"\r\n")))
        size += len(text)
        if len(chunk) >= CHUNK_LINES or size >= CHUNK_BYTES:
            yield chunk
            chunk = []
            size = 0
    if chunk:
        yield chunk


def _bad(number: int, reason: str) -> Problem:
    return invalid(f"line {number}", reason)


def _reason(problem: Problem) -> str:
    """What is wrong with a line, from a problem about an object by itself."""
    if not problem.errors:
        return problem.detail.rstrip(".")
    error = problem.errors[0]
    return error.message if error.field == "body" else f"{error.field}: {error.message}"


def _read_line(line: _Numbered) -> AnyLine:
    """The line, read as strictly as any body; one that looks exactly as an export writes it needs half the work."""
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
        reason = _reason(problem) if problem.errors else "is not JSON in UTF-8"
        raise _bad(line.number, reason) from None


_NOTHING = msgspec.Raw(b"{}")


# What a file must be


async def _check(file: IO[bytes]) -> ExportHeader:
    """Read all of the file; its header. Raises ``validation_failed`` about the first line that is wrong."""
    checker = _Checker()
    number = unseen = 0
    for chunk in _chunks(file):
        for line in chunk:
            is_long = len(line.text) > SHORT
            found = await read_aside(_read_line, line) if is_long else _read_line(line)
            try:
                checker.take(found)
            except ValueError as error:
                raise _bad(line.number, str(error)) from None
            unseen += len(line.text)
            if unseen > BYTES_A_TURN:
                unseen = 0
                await asyncio.sleep(0)
        number = chunk[-1].number
    if checker.header is None or not checker.ended:
        raise _bad(number + 1, "is missing: the file was cut off, its last line is of type end")
    return checker.header


class _Checker:
    """What the lines of a file must be beside each other."""

    def __init__(self) -> None:
        self.header: ExportHeader | None = None
        self.ended = False
        self._latest = datetime.now(UTC) + CLOCK_DIFFERENCE
        self._stage = 0
        self._counts = dict.fromkeys(_IMPORT, 0)
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
        if line.item is not None:
            check_item(line.item)
            check_json(line.item)
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
