"""Export: everything a user owns as lines of JSON, from one snapshot, made while it is sent."""

from collections.abc import AsyncGenerator, Iterable, Iterator
from uuid import UUID

import msgspec
from litestar import get

from service.db.caller import Caller
from service.db.queries import Many, Maybe, One
from service.http.bulk import Bulk
from service.http.request import Request
from service.http.response import LINES, Lines
from service.lines import (
    FORMAT,
    ConversationLine,
    ExportEnd,
    ExportHeader,
    Line,
    LinkLine,
    MessageLine,
    TodoLine,
)

EXPORT_SECONDS = 600.0
"""How long an export over HTTP may take, in the client's pace: it holds a connection to the database and a snapshot."""
PAGE = 200
"""Rows that are in memory at a time: of the longest messages and metadata that is 10 MB."""

_encode_lines = msgspec.json.Encoder().encode_lines


class Exporter(msgspec.Struct, frozen=True, gc=False):
    """Whose export it is."""

    email: str | None


_exporter = One("get_exporter", Exporter)
_last_number = Maybe("get_last_number", int)
_todos = Many("export_todos", TodoLine)
_conversations = Many("export_conversations", ConversationLine)
_messages = Many("export_messages", MessageLine)
_links = Many("export_links", LinkLine)


@get("/v1/export", media_type=LINES, seconds=EXPORT_SECONDS)
async def get_export(request: Request) -> Lines:
    """Everything the user owns, as lines of JSON, each an object with a `type`.

    The first is of type `export`; then come all `todo`s by number, every `conversation` with its `message`s behind it,
    all `link`s, and an `end` that counts them: a file without it was cut off. `POST /v1/import` takes it back.
    """
    caller = request.user
    bulk: Bulk = request.app.state.bulk
    return Lines(bulk.export(caller.user_id, exported(caller)), 'attachment; filename="todochat.ndjson"')


async def exported(caller: Caller) -> AsyncGenerator[bytes]:
    """The file, a page of lines at a time, as JSON whose ``<``, ``>`` and ``&`` are not escaped yet."""
    async with caller.transaction(snapshot=True):
        exporter, last_number = await caller.run(_exporter(), _last_number())
        yield _encode_lines([ExportHeader(FORMAT, exporter.email, last_number or 0)])
        todos = 0
        number = 0
        while page := await caller.run(_todos(after=number, limit=PAGE)):
            todos += len(page)
            number = page[-1].number
            yield _encode_lines(page)
        conversations = 0
        messages = 0
        after: UUID | None = None
        while found := await caller.run(_conversations(after_id=after, limit=PAGE)):
            conversations += len(found)
            waiting = iter(found)
            place = (found[0].id, 0)
            current: UUID | None = None
            after = found[-1].id
            while said := await caller.run(_messages(after_id=place[0], after=place[1], last_id=after, limit=PAGE)):
                messages += len(said)
                # A conversation goes out ahead of its first message, with those before it that have none.
                yield _encode_lines(_merged(waiting, said, current))
                current = said[-1].conversation_id
                place = (current, said[-1].position)
            if rest := list(waiting):
                yield _encode_lines(rest)
        links = 0
        after = None
        while linked := await caller.run(_links(after_id=after, limit=PAGE)):
            links += len(linked)
            after = linked[-1].id
            yield _encode_lines(linked)
        yield _encode_lines([ExportEnd(todos, conversations, messages, links)])


def _merged(waiting: Iterator[ConversationLine], said: Iterable[MessageLine], current: UUID | None) -> Iterator[Line]:
    """The messages, each behind its conversation; ``current`` is the one that went out last, if any did."""
    for message in said:
        while message.conversation_id != current:
            conversation = next(waiting)
            current = conversation.id
            yield conversation
        yield message
