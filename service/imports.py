"""Import: a file that an export made, into an account. All of it is checked first, then it goes in as a whole or not.

The file is read twice, some lines at a time, so that memory stays flat however long it is. It goes in
by chunks, each behind a savepoint: a chunk that the database refuses is taken back and tried by halves, so that every
refusal names its line.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import IO, Any, cast
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


_find_account = Maybe("find_account", UUID)
_reserve_numbers = Nothing("reserve_numbers")
_forget_plans = Nothing("forget_plans")
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
    positions, counts and versions go up to 1,000,000,000, and no row may be from the future. Whoever a todo is
    assigned to must have an account here, an active one where the todo is open: otherwise put `null` in the place of
    that id, or have them come first. The address in the first line must be nobody else's here.
    """
    caller = request.user
    bulk: Bulk = request.app.state.bulk
    with bulk.arriving.hold(caller.user_id):
        file, digest = await spool_body(request, *BODY_TYPES)
    with file, bulk.running.hold(caller.user_id):
        if b"idempotency-key" not in request.sent:
            return await caller.repeat(lambda: import_file(caller, file))
        return await answer_once(request, digest, lambda: import_file(caller, file))


async def import_file(
    caller: Caller, file: IO[bytes], progress: Callable[[int, int], None] = lambda _size, _lines: None
) -> ImportResult:
    """Import a file that can be read twice; ``progress`` is told of bytes and lines done.

    Raises ``validation_failed`` about the first line that is wrong, or about none where an assignee has left meanwhile.
    """
    file.seek(0)  # a collision may have it begin anew
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
        statements.append(_find_account(email=header.email))
    exporter = (await caller.run_all(statements))[-1]
    if header.email is not None and exporter not in (None, caller.user_id):
        raise bad_line(1, "email: is the address of another account")


class _Inserter:
    """Inserts the lines, some at a time, and counts what came in."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._lines = Counter[type[Row]]()
        self._added = Counter[type[Row]]()
        self._new: set[UUID] = set()
        """The conversations that weren't there."""

    def result(self) -> ImportResult:
        results = [Imported(self._added[kind], self._lines[kind] - self._added[kind]) for kind in _IMPORT]
        return ImportResult(*results)

    async def insert(self, chunk: Sequence[Line]) -> None:
        """Insert them all, in the order of the kinds. Raises ``validation_failed`` about the first that is refused."""
        rows = [row for line in chunk if (row := row_of(line)) is not None]
        try:
            await self._caller.run(_forget_plans(), _begin_chunk())
            added = await self._insert(rows)
            await self._caller.run(_keep_chunk())
        except Problem as problem:
            if problem.code not in _REFUSALS:
                raise
            await self._caller.run(_undo_chunk())
            self._new.difference_update(row.id for row in rows if isinstance(row, ConversationLine))
            if len(chunk) == 1:
                missing = "names a todo or a conversation that is not there"
                reason = missing if problem.code == "not_found" else reason_of(problem)
                raise bad_line(chunk[0].number, reason) from problem
            half = len(chunk) // 2
            # Both go in if what was in their way was another import of the same rows, which has been committed since.
            await self.insert(chunk[:half])
            await self.insert(chunk[half:])
        else:
            self._lines.update(map(type, rows))
            self._added.update(added)

    async def _insert(self, rows: Sequence[Row]) -> Counter[type[Row]]:
        """How many came in, of each kind."""
        added = Counter[type[Row]]()
        by_kind = {kind: [row for row in rows if type(row) is kind] for kind in _IMPORT}
        if conversations := by_kind.pop(ConversationLine):
            new = await self._caller.run(_import_conversations(rows=msgspec.json.encode(conversations)))
            self._new.update(new)
            added[ConversationLine] = len(new)
        # To a conversation that goes on, a message that comes back is a change, as any other.
        messages = cast("list[MessageLine]", by_kind[MessageLine])
        back = [row for row in messages if row.conversation_id not in self._new]
        by_kind[MessageLine] = [row for row in messages if row.conversation_id in self._new]
        some = [kind for kind, found in by_kind.items() if found]
        if some:
            # As they were read, and not as they were written: PostgreSQL takes fewer forms of a time.
            statements = [_IMPORT[kind](rows=msgspec.json.encode(by_kind[kind])) for kind in some]
            added.update(dict(zip(some, await self._caller.run_all(statements), strict=True)))
        if back:
            put_back = [END_RESTORING(), _import_messages(rows=msgspec.json.encode(back)), BEGIN_RESTORING()]
            added[MessageLine] += (await self._caller.run_all(put_back))[1]
        return added
