"""Turns: the stateless cycle of a chatbot: append what was said and read the context back, in one round trip."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar
from uuid import UUID

import msgspec
from litestar import post
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, Meta

from service.contexts import Context, ContextSize, ask_context, context_of
from service.db.caller import Caller
from service.db.queries import Many, Nothing, One, Statement
from service.http.fields import Title, check_title, new_id
from service.http.idempotency import idempotent
from service.http.kept_json import Paths
from service.http.request import Request
from service.messages import Message, MessageCreate, Position, insert_values
from service.problems import Problem

TURN_MESSAGES = 100
TURN_BYTES = 8 * 1024 * 1024


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """1 to 100 messages to be appended in order, all or none; and how many of the last are wanted back as context.

    With ``expected_position`` the turn is refused when the last message so far is at another position (0: no message).
    """

    kept_as_sent: ClassVar[Paths] = frozenset({("messages", "*", "item")})

    messages: Annotated[list[MessageCreate], Meta(min_length=1, max_length=TURN_MESSAGES)]
    expected_position: Position | None = None
    context: ContextSize | None = None


class FirstTurn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A turn that opens its conversation."""

    kept_as_sent: ClassVar[Paths] = frozenset({("messages", "*", "item")})

    messages: Annotated[list[MessageCreate], Meta(min_length=1, max_length=TURN_MESSAGES)]
    title: Title | None = None
    expected_position: Annotated[int, Meta(ge=0, le=0)] | None = None
    context: ContextSize | None = None

    def __post_init__(self) -> None:
        check_title(self.title)


class TurnResult(msgspec.Struct, frozen=True):
    """What was appended, without items; the context asked for (oldest first); and the position of the last message."""

    messages: list[Message]
    context: Context
    position: int

    @property
    def id(self) -> UUID:
        """The conversation, for the Location header."""
        return self.messages[0].conversation_id


_open = Nothing("open_conversation")
_expect = Nothing("expect_position")
_create = One("create_turn_message", Message)
_create_two = Many("create_two_messages", Message)


@post(
    "/v1/conversations/{conversation_id:str}/turns",
    location="/v1/conversations/{id}",
    request_max_body_size=TURN_BYTES,
    problems=("stale_position",),
    scope="write",
)
@idempotent
async def create_turn(request: Request, conversation_id: FromPath[UUID], data: JSONBody[Turn]) -> TurnResult:
    """Append a turn's messages and get the context for the next one, in one round trip."""
    if data.expected_position is None:
        # The first insert locks the conversation by itself, or finds that there is none.
        return await append(request.user, conversation_id, [], data)
    expect = _expect(conversation_id=conversation_id, expected=data.expected_position)
    return await append(request.user, conversation_id, [expect], data)


@post("/v1/turns", location="/v1/conversations/{id}", request_max_body_size=TURN_BYTES, scope="write")
@idempotent
async def create_first_turn(request: Request, data: JSONBody[FirstTurn]) -> TurnResult:
    """Open a conversation with its first turn."""
    conversation_id = new_id()
    return await append(request.user, conversation_id, [_open(id=conversation_id, title=data.title)], data)


async def append(
    caller: Caller, conversation_id: UUID, first: Sequence[Statement[None]], turn: Turn | FirstTurn
) -> TurnResult:
    """Append a turn's messages, behind other statements. Raises Problem, of a message with its place in the turn."""
    statements: list[Statement[Any]] = list(first)
    to_blame: dict[int, int] = {}
    following = 0
    for pair in _pairs(turn.messages):
        values: list[dict[str, Any]] = []
        # The database refuses nothing of a message but its metadata: the message that has some is to blame.
        to_blame[len(statements)] = following + (len(pair) == 2 and pair[1].metadata is not UNSET)
        for message in pair:
            try:
                values.append(insert_values(caller, conversation_id, message))
            except Problem as problem:
                raise problem.place("messages", following) from None
            following += 1
        if len(pair) == 1:
            statements.append(_create(**values[0]))
        else:
            second = {f"second_{name}": value for name, value in values[1].items() if name != "conversation_id"}
            statements.append(_create_two(**values[0], **second))
    if turn.context is not None and turn.context.messages:
        statements.append(ask_context(conversation_id, turn.context))
    try:
        results = await caller.run_all(statements)
    except Problem as problem:
        if problem.errors and problem.statement in to_blame:
            raise problem.place("messages", to_blame[problem.statement]) from problem.__cause__
        raise
    appended: list[Message] = []
    for place in to_blame:
        appended += results[place] if isinstance(results[place], list) else [results[place]]
    asked = turn.context if len(statements) - 1 not in to_blame else None
    context = [] if asked is None else await context_of(caller, results[-1], asked)
    return TurnResult(appended, context, appended[-1].position)


def _pairs(messages: Sequence[MessageCreate]) -> Iterator[Sequence[MessageCreate]]:
    """The messages in pairs, and one by one where both of a pair have metadata.

    One statement for two messages changes their conversation once, and that is half of what a message costs. But the
    database may refuse metadata, and the answer must say whose metadata it was.
    """
    start = 0
    while start < len(messages):
        pair = messages[start : start + 2]
        if all(message.metadata is not UNSET for message in pair):
            pair = pair[:1]
        yield pair
        start += len(pair)
