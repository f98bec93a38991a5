"""Import: a file that an export made, into an account. All of it is checked first, then it goes in as a whole or not.

The file is read twice, some lines at a time, so that memory stays flat however long it is. It goes in
by chunks, each behind a savepoint: a chunk that the database refuses is taken back and tried line by line, so that
every refusal names its line.
"""

from collections.abc import Callable, Sequence
from typing import IO, Any
from uuid import UUID

import msgspec
from litestar import post

from service.db.caller import Caller
from service.db.queries import BEGIN_RESTORING, END_RESTORING, WRITE_ENTRIES, Count, Many, Maybe, Nothing, Statement
from service.exports import (
    ConversationLine,
    ExportHeader,
    LinkLine,
    MessageLine,
    Row,
    TodoLine,
)
from service.http.bulk import Bulk, spool_body
from service.http.idempotency import answer_once
from service.http.request import Request
from service.http.response import LINES
from service.import_files import Line, bad_line, check_file, chunks, reason_of, row_of
from service.problems import Problem

IMPORT_BYTES = 128 * 1024 * 1024
"""The largest file over HTTP; the command line takes any."""
IMPORT_SECONDS = 120.0
"""How long the transaction of an import over HTTP may take."""
BODY_TYPES = (LINES, "application/jsonl", "application/json")
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


_find_exporter = Maybe("find_exporter", UUID)
_reserve_numbers = Nothing("reserve_numbers")
_begin_chunk = Nothing("begin_chunk")
_keep_chunk = Nothing("keep_chunk")
_undo_chunk = Nothing("undo_chunk")
_import_todos = Count("import_todos")
_import_conversations = Many("import_conversations", UUID)
_import_messages = Count("import_messages")
_import_links = Count("import_links")

_IMPORT: dict[type[Row], Count | Many[UUID]] = {
    TodoLine: _import_todos,
    ConversationLine: _import_conversations,
    MessageLine: _import_messages,
    LinkLine: _import_links,
}
"""In the order in which rows need each other."""


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

    Raises ``validation_failed`` about the first line that is wrong, or about none where an assignee has left meanwhile.
    """
    header = await check_file(file)
    file.seek(0)
    async with caller.transaction():
        await _begin(caller, header)
        inserter = _Inserter(caller)
        for chunk in chunks(file):
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
        raise bad_line(1, "email: is the address of another account")


class _Inserter:
    """Inserts the lines, some at a time, and counts what came in."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._lines = dict.fromkeys(_IMPORT, 0)
        self._added = dict.fromkeys(_IMPORT, 0)
        self._new: set[UUID] = set()
        """The conversations that weren't there."""

    def result(self) -> ImportResult:
        results = [Imported(added, self._lines[kind] - added) for kind, added in self._added.items()]
        return ImportResult(*results)

    async def insert(self, chunk: list[Line]) -> None:
        """Insert them all, in the order of the kinds. Raises ``validation_failed`` about the first that is refused."""
        rows: dict[type[Row], list[Row]] = {kind: [] for kind in _IMPORT}
        for line in chunk:
            if (row := row_of(line)) is not None:
                rows[type(row)].append(row)
        try:
            await self._caller.run(_begin_chunk())
            await self._insert(rows)
            await self._caller.run(_keep_chunk())
        except Problem as problem:
            if problem.code not in _REFUSALS:
                raise
            await self._caller.run(_undo_chunk())
            await _find_culprit(self._caller, chunk)
            # All of them go in now: what was in their way was another import of them, which was just committed.
            raise Problem("timeout", "Another request was changing the same rows. Try again.") from problem

    async def _insert(self, rows: dict[type[Row], list[Row]]) -> None:
        if conversations := rows[ConversationLine]:
            new = await self._caller.run(_import_conversations(rows=_encode(conversations)))
            self._new.update(new)
            self._count(ConversationLine, conversations, len(new))
        messages = [row for row in rows[MessageLine] if isinstance(row, MessageLine)]
        # To a conversation that goes on, a message that comes back is a change, as any other.
        back = [row for row in messages if row.conversation_id not in self._new]
        rows = {**rows, MessageLine: [row for row in messages if row.conversation_id in self._new]}
        some = [kind for kind in rows if rows[kind] and kind is not ConversationLine]
        statements = [_import_of(kind, rows[kind]) for kind in some]
        for kind, added in zip(some, await self._caller.run_all(statements) if some else (), strict=True):
            self._count(kind, rows[kind], added)
        if back:
            put_back = [END_RESTORING(), _import_of(MessageLine, back), BEGIN_RESTORING()]
            _, added, _ = await self._caller.run_all(put_back)
            self._count(MessageLine, back, added)

    def _count(self, kind: type[Row], rows: Sequence[Row], added: int) -> None:
        self._lines[kind] += len(rows)
        self._added[kind] += added


async def _find_culprit(caller: Caller, chunk: list[Line]) -> None:
    """Insert the lines one by one, to raise for the one that the database refuses."""
    for line in chunk:
        if (row := row_of(line)) is None:
            continue
        try:
            await caller.run(_import_of(type(row), [row]))
        except Problem as problem:
            if problem.code == "not_found":
                raise bad_line(line.number, "names a todo or a conversation that is not there") from problem
            if problem.code in _REFUSALS:
                raise bad_line(line.number, reason_of(problem)) from problem
            raise


_encode = msgspec.json.Encoder().encode


def _import_of(kind: type[Row], rows: Sequence[Row]) -> Statement[Any]:
    """The rows as they were read, and not as they were written: PostgreSQL takes fewer forms of a time."""
    return _IMPORT[kind](rows=_encode(rows))
