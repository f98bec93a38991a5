"""Any number of rows from a seed: the same sizes and seed make the same rows, on every machine.

Each user's rows of each table come from a generator of random numbers of their own, so they can be made in any order.
Only `random()` and `getrandbits()` are called, which stay the same from one Python to the next. Numbers of rows are
skewed as in life: a user's share falls with the rank, as 1 / (rank + 5), and most conversations are short while a few
are very long. Times are microseconds since 1970 and lie before EPOCH, so that nothing happens in the future.
"""

import bisect
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from random import Random
from typing import NamedTuple

import msgspec

from service.commands.demo import words
from service.commands.demo.words import Json, Piece

SECOND = 1_000_000
DAY = 86_400 * SECOND
EPOCH = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * SECOND
"""The end of the data: users joined in the last year but one before it, everything else is of the last."""
LONGEST_CONVERSATION = 2_000
SYSTEM, USER, AI, COMMAND, RESPONSE, ERROR = range(6)
KINDS = (
    ("system", "text"),
    ("user", "text"),
    ("ai", "text"),
    ("ai", "command"),
    ("system", "response"),
    ("system", "error"),
)
"""sender_type and message_type. A tool's output is neither the user's nor the model's word."""
_TURNS = (
    (USER, AI),
    (USER, AI),
    (USER, AI),
    (USER, COMMAND, RESPONSE, AI),
    (USER, COMMAND, ERROR, COMMAND, RESPONSE, AI),
)


class Size(msgspec.Struct, frozen=True):
    """How many rows to make. ``messages`` and ``todos`` are totals, shared out among the users."""

    users: int
    todos: int
    messages: int
    seed: int = 0


class User(NamedTuple):
    """A user; everybody has the same password."""

    id: int
    email: str
    username: str
    full_name: str
    created_at: int


class Todo(NamedTuple):
    """A todo. No due date on a completed one: writing one in the past is refused."""

    id: int
    number: int
    title: Piece
    description: Piece | None
    status: str
    priority: str
    due_date: int | None
    assigned_to: int | None
    completed_at: int | None
    metadata: Json
    created_at: int
    updated_at: int


class Conversation(NamedTuple):
    """A conversation and when its messages come: `message_count` of them, about `gap` apart."""

    id: int
    title: Piece | None
    metadata: Json
    message_count: int
    created_at: int
    gap: int

    def time_of(self, position: int) -> int:
        """When the message at this position was added: later than the one before, and not at even intervals."""
        return self.created_at + (position - 1) * self.gap + position * 31 % 64 * self.gap // 128

    @property
    def updated_at(self) -> int:
        return self.time_of(self.message_count)


class Message(NamedTuple):
    """A message; `kind` is a place in KINDS."""

    conversation_id: int
    position: int
    id: int
    kind: int
    content: Piece
    metadata: Json
    created_at: int


class Link(NamedTuple):
    """A link between a todo and a conversation that began before it."""

    id: int
    todo_id: int
    conversation_id: int
    relationship_type: str
    created_at: int


def uuid7(time: int, bits: int) -> int:
    """UUID version 7 as the database makes it: the time to a quarter of a microsecond, then 62 random bits."""
    ticks = time * 512 // 125
    return ticks >> 12 << 80 | 0x7 << 76 | (ticks & 0xFFF) << 64 | 0b10 << 62 | bits


class World:
    """All rows of a size, by user: users are numbered from 0."""

    def __init__(self, size: Size) -> None:
        self.size = size
        random = self._random("users", 0)
        step = (
            365 * DAY // size.users
        )  # ids in order of the number: what is written in that order, fills its indexes so
        joined = [EPOCH - 730 * DAY + step * index for index in range(size.users)]
        self.user_ids = [uuid7(time, random.getrandbits(62)) for time in joined]
        self._joined = joined
        # Who is in which place, for todos and messages alike: sorted by random keys.
        keys = [random.random() for _ in range(size.users)]
        ranks = [0] * size.users
        for rank, index in enumerate(sorted(range(size.users), key=keys.__getitem__)):
            ranks[index] = rank
        self.busiest = ranks.index(0)
        self.todo_counts = _shares(size.todos, ranks)
        self.message_counts = _shares(size.messages, ranks)

    def user(self, index: int) -> User:
        name = f"seed{self.size.seed}-user{index + 1:05}"
        first = words.FIRST_NAMES[index % len(words.FIRST_NAMES)]
        last = words.LAST_NAMES[index // len(words.FIRST_NAMES) % len(words.LAST_NAMES)]
        return User(self.user_ids[index], f"{name}@demo.example", name, f"{first} {last}", self._joined[index])

    def todos(self, index: int) -> Iterator[Todo]:
        random = self._random("todos", index)
        pick = random.random
        for number, (todo_id, created_at) in enumerate(self._todo_keys(index), start=1):
            state, due_date, completed_at = pick(), None, None
            done_at = created_at + int(pick() * (EPOCH - created_at))
            if state < 0.4:
                status, completed_at = "completed", done_at
            elif state < 0.5:
                status, completed_at = "archived", done_at if state < 0.45 else None
            else:
                status = "pending" if state < 0.85 else "in_progress"
            if status != "completed" and pick() < 0.6:
                due_date = created_at - created_at % DAY + int(pick() * 60) * DAY + 17 * 3_600 * SECOND
            rank = pick()
            yield Todo(
                id=todo_id,
                number=number,
                title=words.TITLES[int(pick() * len(words.TITLES))],
                description=words.DESCRIPTIONS[int(pick() * len(words.DESCRIPTIONS))] if pick() < 0.4 else None,
                status=status,
                priority="medium" if rank < 0.55 else "low" if rank < 0.7 else "high" if rank < 0.92 else "urgent",
                due_date=due_date,
                assigned_to=self.user_ids[int(pick() * self.size.users)] if pick() < 0.03 else None,
                completed_at=completed_at,
                metadata=words.TODO_METADATA[int(pick() * len(words.TODO_METADATA))] if pick() < 0.15 else words.EMPTY,
                created_at=created_at,
                updated_at=created_at if status == "pending" else done_at,
            )

    def conversations(self, index: int) -> list[Conversation]:
        random = self._random("conversations", index)
        pick = random.random
        left, counts = self.message_counts[index], list[int]()
        while left:
            counts.append(min(left, int(4 / (1 - pick())), LONGEST_CONVERSATION))
            left -= counts[-1]
        # A month before the end, so that the longest, at a minute a message, ends before it too.
        starts = sorted(EPOCH - 30 * DAY - int(pick() * 335 * DAY) for _ in counts)
        return [
            Conversation(
                id=uuid7(start, random.getrandbits(62)),
                title=words.CONVERSATION_TITLES[int(pick() * len(words.CONVERSATION_TITLES))] if pick() < 0.9 else None,
                metadata=words.CONVERSATION_METADATA[int(pick() * 2)] if pick() < 0.3 else words.EMPTY,
                message_count=count,
                created_at=start,
                gap=5 * SECOND + int(pick() * 55 * SECOND),
            )
            for start, count in zip(starts, counts, strict=True)
        ]

    def messages(self, index: int, conversations: list[Conversation]) -> Iterator[Message]:
        """The messages of these conversations, which are all the user's: by conversation, then by position."""
        random = self._random("messages", index)
        pick, bits = random.random, random.getrandbits
        for conversation in conversations:
            call = words.CALLS[0]
            for position, kind in zip(range(1, conversation.message_count + 1), _kinds(random), strict=False):
                metadata = words.EMPTY
                if kind == USER:
                    content = words.USER_TEXTS[int(pick() * len(words.USER_TEXTS))]
                elif kind == AI:
                    content = words.AI_TEXTS[int(pick() * len(words.AI_TEXTS))]
                elif kind == COMMAND:
                    call = words.CALLS[int(pick() * len(words.CALLS))]
                    content, metadata = call.command, call.command_metadata
                elif kind == SYSTEM:
                    content = words.SYSTEM_TEXT
                else:
                    content = call.response if kind == RESPONSE else call.error
                    metadata = call.outcome_metadata
                time = conversation.time_of(position)
                yield Message(conversation.id, position, uuid7(time, bits(62)), kind, content, metadata, time)

    def links(self, index: int, conversations: list[Conversation]) -> Iterator[Link]:
        random = self._random("links", index)
        starts = [conversation.created_at for conversation in conversations]
        for todo_id, created_at in self._todo_keys(index):
            if random.random() >= 0.1:
                continue
            before = bisect.bisect_right(starts, created_at)
            if not before:
                continue
            draw = random.random()
            kind = "creation" if draw < 0.6 else "update" if draw < 0.8 else "discussion"
            conversation = conversations[before - 1]
            yield Link(uuid7(created_at, random.getrandbits(62)), todo_id, conversation.id, kind, created_at)

    def _todo_keys(self, index: int) -> list[tuple[int, int]]:
        """Ids and times of the user's todos, oldest first."""
        random = self._random("todo keys", index)
        times = sorted(EPOCH - DAY - int(random.random() * 364 * DAY) for _ in range(self.todo_counts[index]))
        return [(uuid7(time, random.getrandbits(62)), time) for time in times]

    def _random(self, table: str, index: int) -> Random:
        return Random(f"{self.size.seed} {table} {index}")  # noqa: S311 - the same numbers every time are the point


def _kinds(random: Random) -> Iterator[int]:
    """What follows what in a conversation, without an end."""
    if random.random() < 0.3:
        yield SYSTEM
    while True:
        yield from _TURNS[int(random.random() * len(_TURNS))]


def _shares(total: int, ranks: list[int]) -> list[int]:
    """The total shared out by rank, to the last row. Whole numbers only: every machine divides them alike."""
    weights = [10**12 // (rank + 5) for rank in ranks]
    whole = sum(weights)
    ends = [0, *(total * part // whole for part in itertools.accumulate(weights))]
    return [end - start for start, end in itertools.pairwise(ends)]
