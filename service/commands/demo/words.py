"""The texts of generated rows: pools put together once, so that a row only picks.

Everything here is ASCII without NUL, of 1 to 1,000 characters: short enough for every column it goes into.
"""

import itertools
from typing import Any, NamedTuple

import msgspec

VERBS = (
    "Book",
    "Call about",
    "Check",
    "Draft",
    "Fix",
    "Order",
    "Pay for",
    "Plan",
    "Prepare",
    "Renew",
    "Review",
    "Send",
)
THINGS = (
    "the dentist", "the quarterly report", "new running shoes", "the train to Hamburg", "the kitchen sink",
    "the insurance", "slides for Monday", "the release notes", "flowers for Mia", "the garden hose", "the lease",
    "birthday presents", "the backup job", "the winter tyres", "an answer to the school", "the invoice of March",
    "the hiking trip", "the bookshelf", "interview questions", "the library books",
)  # fmt: skip
TAILS = ("", "", "", " before lunch", " this week", " with Sam", " (again)", ", then tell the team", " for 2 people")
FIRST_NAMES = (
    "Ada",
    "Alan",
    "Barbara",
    "Claude",
    "Donald",
    "Edsger",
    "Frances",
    "Grace",
    "Hedy",
    "Jean",
    "Ken",
    "Lynn",
)
LAST_NAMES = (
    "Ahmed",
    "Becker",
    "Castro",
    "Dubois",
    "Eriksen",
    "Fischer",
    "Garcia",
    "Haddad",
    "Ito",
    "Jensen",
    "Kim",
    "Li",
)
NOTES = (
    "Ask for a quote first; last year's was too dear.", "The key is with the neighbours.",
    "Needs two people, and a dry day.", "See the thread of last Tuesday for the numbers.",
    "The form wants the customer number, which is on the first page of the contract.",
    "Only if it costs less than 80 euros.", "Compare with what Lena wrote down.", "Not before the 15th.",
)  # fmt: skip
QUESTIONS = (
    "Add {todo} to my list, please.", "What is left for today?", "I did {todo}. Tick it off.",
    "Move {todo} to Friday, I won't make it before.", "Which of these is the most urgent?",
    "Remind me why {todo} was important.", "Make {todo} high priority and give it to Sam.",
    "Thanks!", "And tomorrow?", "Split {todo} into smaller steps and tell me where to begin.",
)  # fmt: skip
ANSWERS = (
    "Done: {todo} is on your list.", "You have three things left; the first is {todo}, which is due at noon.",
    "Ticked off. That makes five this week, two more than in the week before.",
    "I moved {todo} to Friday. Nothing else is planned for that afternoon, so there is room for it.",
    (
        "I would begin with {todo}: it has been overdue for two days, somebody waits for it, and it takes ten minutes. "
        "The others can wait until tomorrow without harm."
    ),
    "You are welcome.", "Tomorrow there is only {todo}. Shall I look for something to bring forward?",
    (
        "Here is a way to do it in steps: collect what you need, ask whoever has to agree, set half an hour aside for "
        "{todo}, and write down what is left. The first step is small enough for today."
    ),
)  # fmt: skip
PROMPT = "You are an assistant that keeps a list of todos. Use the tools to change it, and answer briefly."
TOOLS = ("create_todo", "list_todos", "update_todo", "complete_todo", "find_conversation")
FAILURES = ("422 validation_failed: due_date", "409 invalid_transition: archived", "404 not_found", "503 timeout")


class Piece:
    """A text as it goes into a JSON document, and as it goes into binary COPY: its length in four bytes, then it."""

    __slots__ = ("packed", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.packed = pack(text.encode())


class Json(Piece):
    """The text of a JSON object; jsonb's binary form begins with the number of its version, 1."""

    __slots__ = ()

    def __init__(self, value: dict[str, Any]) -> None:
        super().__init__(msgspec.json.encode(value).decode())
        self.packed = pack(b"\x01" + self.text.encode())


def pack(data: bytes) -> bytes:
    """A field of binary COPY."""
    return len(data).to_bytes(4, "big") + data


class Call(NamedTuple):
    """A tool call and what came of it."""

    command: Piece
    command_metadata: Json
    response: Piece
    error: Piece
    outcome_metadata: Json


EMPTY = Json({})
TITLES = [
    Piece(f"{verb} {thing}{tail}") for verb, thing, tail in itertools.product(VERBS, THINGS, dict.fromkeys(TAILS))
]
PLACES = [thing.removeprefix("the ").capitalize() for thing in THINGS]
CONVERSATION_TITLES = [
    Piece(f"{place}, {when}") for place in PLACES for when in ("today", "next week", "again", "ideas")
]
DESCRIPTIONS = [Piece(note) for note in NOTES] + [
    Piece(f"{one} {two}") for one, two in itertools.permutations(NOTES, 2)
]
_todos = [f"{verb.lower()} {thing}" for verb, thing in itertools.product(VERBS, THINGS)]
SYSTEM_TEXT = Piece(PROMPT)
USER_TEXTS = list({text: Piece(text) for todo in _todos for text in [q.format(todo=todo) for q in QUESTIONS]}.values())
AI_TEXTS = list({text: Piece(text) for todo in _todos for text in [a.format(todo=todo) for a in ANSWERS]}.values())
TODO_METADATA = [
    Json({"source": source, "estimate_minutes": m}) for source in ("chat", "mail", "web") for m in (5, 30, 90)
]
CONVERSATION_METADATA = [Json({"model": f"assistant-{size}", "language": "en"}) for size in ("small", "large")]


def _call(number: int, tool: str, todo: str) -> Call:
    call_id = f"call_{number:04}"
    arguments = (
        {"title": todo, "number": number % 50 + 1} if tool != "list_todos" else {"status": ["pending"], "limit": 3}
    )
    found = [{"number": n, "title": todo, "status": "pending", "priority": "medium"} for n in range(1, 2 + number % 4)]
    failure = FAILURES[number % len(FAILURES)]
    return Call(
        command=Piece(f"{tool}({msgspec.json.encode(arguments).decode()})"),
        command_metadata=Json({"tool": tool, "call_id": call_id, "arguments": arguments}),
        response=Piece(msgspec.json.encode({"items": found}).decode()),
        error=Piece(f"{tool} failed: {failure}"),
        outcome_metadata=Json({"tool": tool, "call_id": call_id, "duration_ms": 3 + number % 40}),
    )


CALLS = [_call(number, tool, todo) for number, (todo, tool) in enumerate(itertools.product(_todos, TOOLS))]
