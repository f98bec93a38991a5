"""The file that an export writes and an import reads: lines of JSON (NDJSON), format 1.

A header, the todos by number, each conversation followed by its messages by position, the links by id, and an end that
counts them. No line names the user: the file fits an account made anew. Every field is always there. No number is above
LARGEST, and no row was made or changed later than the clock says, give or take CLOCK_DIFFERENCE.
"""

from datetime import timedelta
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from service.http.fields import (
    Content,
    Description,
    MessageType,
    MetadataText,
    Priority,
    RelationshipType,
    SenderType,
    Status,
    Time,
    Title,
)
from service.problems import html_safe

FORMAT = 1
CLOCK_DIFFERENCE = timedelta(minutes=1)
"""How far the clocks of where a file was made and where it is brought in may be apart: a row from the future would date
what follows it there, too."""
LINE_BYTES = 512 * 1024
"""The longest line: a message of 10,000 characters and its metadata, all of it escaped, has half of it."""

LARGEST = 1_000_000_000
"""The greatest version, number, position or count that a line may say: the columns go on to 2**31 - 1, so that a row
which was brought in can still be changed, and numbers and positions given, for longer than anybody will."""
Format = Annotated[int, Meta(ge=FORMAT, le=FORMAT)]
Ordinal = Annotated[int, Meta(ge=1, le=LARGEST)]
Count = Annotated[int, Meta(ge=0, le=LARGEST)]
Assignee = Annotated[str, Meta(pattern="^(me|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$")]
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
    metadata: MetadataText
    created_at: Time
    updated_at: Time
    version: Ordinal


class ConversationLine(Line, frozen=True, gc=False, tag="conversation"):
    """A conversation; ``message_count`` messages follow, at positions up to ``last_position``."""

    id: UUID
    title: Title | None
    metadata: MetadataText
    last_position: Count
    message_count: Count
    created_at: Time
    updated_at: Time
    version: Ordinal


class MessageLine(Line, frozen=True, gc=False, tag="message"):
    """A message of the conversation above it."""

    id: UUID
    conversation_id: UUID
    position: Ordinal
    sender_type: SenderType
    content: Content
    message_type: MessageType
    metadata: MetadataText
    created_at: Time
    updated_at: Time
    version: Ordinal


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


Row = TodoLine | ConversationLine | MessageLine | LinkLine
AnyLine = ExportHeader | TodoLine | ConversationLine | MessageLine | LinkLine | ExportEnd

_encoder = msgspec.json.Encoder()


def encode_line(line: Line) -> bytes:
    """The line as an export writes it, without its line break."""
    return html_safe(_encoder.encode(line))
