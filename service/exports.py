"""Export: a user's todos, conversations, messages and links as lines of JSON, from one snapshot, made while it is sent.

A header, the todos by number, each conversation followed by its messages by position, the links by id, and an end that
counts them. No line but the header names the user: the file fits an account made anew. Every field is always there. No
number is above LARGEST, and no row was made or changed later than the clock says, give or take CLOCK_DIFFERENCE.
"""

from collections.abc import AsyncGenerator, Iterable, Iterator
from datetime import timedelta
from typing import Annotated
from uuid import UUID

import msgspec
from litestar import get
from msgspec import Meta

from service import users
from service.db.caller import Caller
from service.db.queries import Many, Maybe
from service.http.bulk import Bulk
from service.http.fields import (
    CONTENT_LENGTH,
    Description,
    ExternalId,
    MessageType,
    Metadata,
    Priority,
    RelationshipType,
    SenderType,
    Status,
    Time,
    Title,
)
from service.http.request import Request
from service.http.response import LINES, Pieces
from service.problems import html_safe, unbroken

FORMAT = 1
CLOCK_DIFFERENCE = timedelta(minutes=1)
"""How far the clocks of where a file was made and where it is brought in may be apart: a row from the future would date
what follows it there, too."""
LINE_BYTES = 8 * 1024 * 1024
"""The longest line: a message with an item of 1 MiB, all of it escaped, has three quarters of it."""

LARGEST = 1_000_000_000
"""The greatest version, number, position or count that a line may say: the columns go on to 2**31 - 1, so that a row
which was brought in can still be changed, and numbers and positions given, for longer than anybody will."""
Format = Annotated[int, Meta(ge=FORMAT, le=FORMAT)]
Ordinal = Annotated[int, Meta(ge=1, le=LARGEST)]
Count = Annotated[int, Meta(ge=0, le=LARGEST)]
Assignee = Annotated[str, Meta(pattern=r"^(me|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$(?!\n)")]
"""The user whose file it is, or another one's id."""


class Line(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, tag_field="type"):
    """One line; ``type`` comes first and says which."""


class ExportHeader(Line, frozen=True, gc=False, tag="export"):
    """The first line: the format, whose export it is, and the highest number that any of their todos ever had."""

    format: Format
    email: str | None
    last_number: Count


class TodoLine(Line, frozen=True, gc=False, tag="todo"):
    """A todo."""

    id: UUID
    number: Ordinal
    title: Title
    description: Description | None
    status: Status
    priority: Priority
    due_date: Time | None
    assigned_to: Assignee | None
    completed_at: Time | None
    metadata: Metadata
    created_at: Time
    updated_at: Time
    version: Ordinal


class ConversationLine(Line, frozen=True, gc=False, tag="conversation"):
    """A conversation; ``message_count`` messages follow, at positions up to ``last_position``."""

    id: UUID
    title: Title | None
    metadata: Metadata
    last_position: Count
    message_count: Count
    created_at: Time
    updated_at: Time
    version: Ordinal
    external_id: ExternalId | None = None


class MessageLine(Line, frozen=True, gc=False, tag="message"):
    """A message of the conversation above it. ``item`` is the text of its JSON, so that it stays as it was sent."""

    id: UUID
    conversation_id: UUID
    position: Ordinal
    sender_type: SenderType
    content: Annotated[str, Meta(max_length=CONTENT_LENGTH)]
    message_type: MessageType
    metadata: Metadata
    created_at: Time
    updated_at: Time
    version: Ordinal
    item: str | None = None
    content_truncated: bool = False


class LinkLine(Line, frozen=True, gc=False, tag="link"):
    """A link between a todo and a conversation."""

    id: UUID
    todo_id: UUID
    conversation_id: UUID
    relationship_type: RelationshipType
    created_at: Time
    updated_at: Time
    version: Ordinal


class ExportEnd(Line, frozen=True, gc=False, tag="end"):
    """The last line: how many there were. A file without it was cut off."""

    todos: Count
    conversations: Count
    messages: Count
    links: Count


Row = TodoLine | ConversationLine | MessageLine | LinkLine  # in the order in which rows need each other
AnyLine = ExportHeader | TodoLine | ConversationLine | MessageLine | LinkLine | ExportEnd

_encoder = msgspec.json.Encoder()


def encode_line(line: Line) -> bytes:
    """The line as an export writes it, without its line break."""
    return unbroken(html_safe(_encoder.encode(line)))


EXPORT_SECONDS = 600.0
"""How long an export over HTTP may take, in the client's pace: it holds a connection to the database and a snapshot."""
PAGE = 200
"""Rows that are in memory at a time: of the longest messages and metadata that is 10 MB."""

_last_number = Maybe("get_last_number", int)
_todos = Many("export_todos", TodoLine)
_conversations = Many("export_conversations", ConversationLine)
_messages = Many("export_messages", MessageLine)
_links = Many("export_links", LinkLine)


@get("/v1/export", media_type=LINES, seconds=EXPORT_SECONDS, scope="read")
async def get_export(request: Request) -> Pieces:
    """All todos, conversations, messages and links of the user, as lines of JSON, each an object with a `type`.

    The first is of type `export`; then come all `todo`s by number, every `conversation` with its `message`s behind it,
    all `link`s, and an `end` that counts them: a file without it was cut off. `POST /v1/import` takes it back.
    """
    caller = request.user
    bulk: Bulk = request.app.state.bulk
    if caller.key is not None:
        await caller.run_all([])  # which notes the key's use, as the snapshot, which only reads, can't
    pieces = bulk.export(caller.user_id, exported(caller))
    return Pieces(pieces, LINES, 'attachment; filename="todochat.ndjson"')


async def exported(caller: Caller) -> AsyncGenerator[bytes]:
    """The file, a page of lines at a time, as JSON whose ``<``, ``>`` and ``&`` are not escaped yet."""
    async with caller.transaction(snapshot=True):
        user, last_number = await caller.run(users.GET(), _last_number())
        yield _encoder.encode_lines([ExportHeader(FORMAT, user.email, last_number or 0)])
        todos = 0
        number = 0
        while page := await caller.run(_todos(after=number, limit=PAGE)):
            todos += len(page)
            number = page[-1].number
            yield _encoder.encode_lines(page)
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
                yield _encoder.encode_lines(_merged(waiting, said, current))
                current = said[-1].conversation_id
                place = (current, said[-1].position)
            if rest := list(waiting):
                yield _encoder.encode_lines(rest)
        links = 0
        after = None
        while linked := await caller.run(_links(after_id=after, limit=PAGE)):
            links += len(linked)
            after = linked[-1].id
            yield _encoder.encode_lines(linked)
        yield _encoder.encode_lines([ExportEnd(todos, conversations, messages, links)])


def _merged(waiting: Iterator[ConversationLine], said: Iterable[MessageLine], current: UUID | None) -> Iterator[Line]:
    """The messages, each behind its conversation; ``current`` is the one that went out last, if any did."""
    for message in said:
        while message.conversation_id != current:
            conversation = next(waiting)
            current = conversation.id
            yield conversation
        yield message
