"""The account to look around in: what Ada has to do, what she and her assistant said, and what Grace works on for her.

Everything is written as its owner would write it, under every trigger, so the audit trail tells it too. Times count
back from the moment of writing, and ids carry them: neither is the same twice.
"""

import secrets
import time
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.sql import Literal

from service.commands.demo import insert
from service.commands.demo.insert import Connection, Counts
from service.commands.demo.rows import SECOND, uuid7

HOUR = 3_600 * SECOND
DAY = 24 * HOUR


class Person(NamedTuple):
    """Somebody with an account."""

    email: str
    username: str
    full_name: str


ADA = Person("ada@demo.example", "demo-ada", "Ada Demo")
GRACE = Person("grace@demo.example", "demo-grace", "Grace Demo")


class Task(NamedTuple):
    """A todo; days count from now, the past is negative."""

    title: str
    made: float
    status: str = "pending"
    priority: str = "medium"
    due: float | None = None
    done: float | None = None
    is_shared: bool = False
    """Whether it is assigned to the other of the two."""
    description: str | None = None
    metadata: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it


ADAS = (
    Task("Renew the passport", -40, "pending", "high", -3, description="The photos are in the drawer of the desk."),
    Task("Answer the landlord about the heating", -12, "pending", "urgent", -1),
    Task("Book the dentist", -9, "pending", "medium", 5),
    Task("Read the chapter on row security", -6, "pending", "low"),
    Task("Send the invoice for the March workshop", -8, "in_progress", "high", 2, metadata={"amount_eur": 1450}),
    Task("Paint the balcony door", -20, "in_progress", "low", -6, description="Green, like the neighbours'."),
    Task("Plan three days in Lisbon", -15, "in_progress", "medium", 24, metadata={"travellers": 2}),
    Task(
        "Proofread the talk", -4, "pending", "high", 3, is_shared=True, description="Twenty slides, the last five most."
    ),
    Task("Compare offers for the new laptop", -7, "in_progress", "medium", 9, is_shared=True),
    Task("Collect the parcel", -5, "completed", "medium", None, -4, is_shared=True),
    Task("Pay the electricity bill", -30, "completed", "urgent", None, -28),
    Task("Water Mia's plants", -18, "completed", "low", None, -16),
    Task("Order a birthday cake", -11, "completed", "medium", 6, -2),
    Task("Hand in the expenses of October", -35, "in_progress", "high", -10),
    Task("Learn to juggle", -200, "archived", "low"),
    Task("Cancel the gym", -90, "archived", "medium", -60, -61),
    Task("Buy milk, bread and something nice for Sunday", -0.2, "pending", "medium", 0.5, metadata={"source": "chat"}),
)
LATE = "Hand in the expenses of October"
"""Completed after its due date, which only a change can bring about."""
GRACES = (
    Task("Check the translation of the contract", -6, "pending", "high", 4, is_shared=True),
    Task("Bring the projector back", -10, "in_progress", "low", -2, is_shared=True),
    Task("Water the tomatoes", -3, "pending", "low", 1),
)

Said = tuple[str, str, str, dict[str, Any]]
"""sender_type, message_type, content, metadata."""


def _says(text: str) -> Said:
    return ("user", "text", text, {})


def _answers(text: str) -> Said:
    return ("ai", "text", text, {"model": "assistant-small"})


def _calls(call: int, tool: str, /, **arguments: Any) -> Said:
    shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return ("ai", "command", f"{tool}({shown})", {"tool": tool, "call_id": f"call_{call}", "arguments": arguments})


def _gets(call: int, tool: str, output: str, *, kind: str = "response", **more: Any) -> Said:
    return ("system", kind, output, {"tool": tool, "call_id": f"call_{call}", **more})


class Talk(NamedTuple):
    """A conversation, and its links: the todo's title and the type."""

    title: str | None
    began: float
    said: tuple[Said, ...]
    links: tuple[tuple[str, str], ...] = ()
    metadata: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it


_PROMPT: Said = ("system", "text", "You keep Ada's todos. Use the tools, never invent an entry, answer briefly.", {})
TALKS = (
    Talk(
        "Lisbon in three days",
        -15,
        (
            _PROMPT,
            _says("We want to spend three days in Lisbon next month. Put planning it on my list."),
            _calls(11, "create_todo", title="Plan three days in Lisbon", metadata={"travellers": 2}),
            _gets(11, "create_todo", '{"number": 7, "title": "Plan three days in Lisbon", "status": "pending"}'),
            _answers("Done, it is todo 7. Shall I note a day by which you want to be through with it?"),
            _says("Yes, 10 days before we leave. Where would you begin?"),
            _calls(12, "update_todo", number=7, due_in_days=39),
            _gets(12, "update_todo", '{"number": 7, "version": 2}', duration_ms=6),
            _answers("With the flights: they set the dates for all the rest. Then a room near Graça, then tickets for "
                     "the tram museum, which sells out."),
        ),
        (("Plan three days in Lisbon", "creation"), ("Plan three days in Lisbon", "update")),
        {"topic": "travel"},
    ),
    Talk(
        "The March invoice",
        -8,
        (
            _PROMPT,
            _says("I still have to send the invoice for the workshop in March, 1450 euros."),
            _calls(21, "create_todo", title="Send the invoice for the March workshop", priority="high"),
            _gets(21, "create_todo", '{"number": 5, "title": "Send the invoice for the March workshop"}'),
            _answers("It is todo 5, with high priority."),
            _says("I have begun with it. And the gym is cancelled, set it to done."),
            _calls(22, "update_todo", number=5, status="in_progress"),
            _gets(22, "update_todo", '{"number": 5, "status": "in_progress", "version": 2}', duration_ms=5),
            _calls(23, "update_todo", number=16, status="completed"),
            _gets(23, "update_todo", "409 invalid_transition: an archived todo can only become pending", kind="error",
                  status=409, code="invalid_transition"),
            _answers('Todo 5 is in progress. "Cancel the gym" I could not complete: it is archived already.'),
        ),
        (("Send the invoice for the March workshop", "creation"), ("Send the invoice for the March workshop", "update"),
         ("Cancel the gym", "discussion")),
    ),
    Talk(
        "What is urgent?",
        -1,
        (
            _says("What should I do first today?"),
            _calls(31, "list_todos", overdue=True, order="-priority"),
            _gets(31, "list_todos", '{"items": [{"number": 2, "title": "Answer the landlord about the heating", '
                  '"priority": "urgent"}, {"number": 1, "title": "Renew the passport", "priority": "high"}, {"number":'
                  ' 6, "title": "Paint the balcony door", "priority": "low"}]}', duration_ms=4),
            _answers("Answer the landlord: it is urgent, overdue since yesterday, and takes five minutes. Then the "
                     "passport. The balcony door can wait for a dry day."),
            _says("Thanks!"),
        ),
        (("Answer the landlord about the heating", "discussion"), ("Renew the passport", "discussion"),
         ("Paint the balcony door", "discussion")),
    ),
    Talk(
        None,
        -0.2,
        (
            _says("Remind me to buy milk, bread and something nice for Sunday."),
            _calls(41, "create_todo", title="Buy milk, bread and something nice for Sunday", due_in_hours=17),
            _gets(41, "create_todo", "503 timeout", kind="error", status=503, code="timeout", retry_after=1),
            _calls(42, "create_todo", title="Buy milk, bread and something nice for Sunday", due_in_hours=17),
            _gets(42, "create_todo", '{"number": 17, "title": "Buy milk, bread and something nice for Sunday"}',
                  duration_ms=7),
            _answers("It is on your list, due this evening."),
        ),
        (("Buy milk, bread and something nice for Sunday", "creation"),),
    ),
)  # fmt: skip

_FIND_USER = "SELECT id FROM public.users WHERE email_key = lower(%(email)s)"
_COMPLETE = """
UPDATE public.todos SET status = 'completed', completed_at = now() WHERE user_id = %(user_id)s AND title = %(title)s
"""


def tell(connection: Connection, password_hash: str) -> Counts:
    """Write it all as todochat_owner, in the caller's transaction; nothing when Ada is there. The rows by table."""
    if _find(connection, ADA) is not None:
        return {}
    now = time.time_ns() // 1_000
    counts: Counts = dict.fromkeys(insert.OWNED, 0)
    grace_id = _find(connection, GRACE)  # she may have outlived an Ada who was erased
    is_new = grace_id is None
    if grace_id is None:
        grace_id = _make(connection, GRACE, now, password_hash)
    ada_id = _make(connection, ADA, now, password_hash)
    counts["users"] = 1 + is_new

    connection.execute(insert.SET_USER.format(Literal(str(UUID(int=ada_id)))))
    todo_ids = _write_tasks(connection, ada_id, ADAS, grace_id, now, counts)
    connection.execute(_COMPLETE, {"user_id": UUID(int=ada_id), "title": LATE})
    for talk in TALKS:
        _write_talk(connection, ada_id, talk, todo_ids, now, counts)
    if is_new:
        connection.execute(insert.SET_USER.format(Literal(str(UUID(int=grace_id)))))
        _write_tasks(connection, grace_id, GRACES, ada_id, now, counts)
    connection.execute(insert.NO_USER)
    return counts


def _find(connection: Connection, person: Person) -> int | None:
    found = connection.execute(_FIND_USER, {"email": person.email}).fetchone()
    return found[0].int if found else None


def _make(connection: Connection, person: Person, now: int, password_hash: str) -> int:
    made = now - 210 * DAY
    user_id = _new_id(made)
    insert.insert_users(connection, [{"id": user_id, "created_at": made, **person._asdict()}], password_hash)
    return user_id


def _write_tasks(
    connection: Connection, user_id: int, tasks: tuple[Task, ...], other_id: int, now: int, counts: Counts
) -> dict[str, int]:
    def when(days: float | None) -> int | None:
        return None if days is None else now + int(days * DAY)

    todo_ids = [_new_id(now + int(task.made * DAY)) for task in tasks]
    rows = [
        {
            "id": todo_id,
            "number": number,
            "title": task.title,
            "description": task.description,
            "status": task.status,
            "priority": task.priority,
            "due_date": when(task.due),
            "assigned_to": other_id if task.is_shared else None,
            "completed_at": when(task.done),
            "metadata": task.metadata,
            "created_at": when(task.made),
            "updated_at": when(task.made if task.done is None else task.done),
        }
        for number, (task, todo_id) in enumerate(zip(tasks, todo_ids, strict=True), start=1)
    ]
    insert.insert_rows(connection, insert.INSERT_TODOS, user_id, rows)
    counts["todos"] += len(rows)
    return {task.title: todo_id for task, todo_id in zip(tasks, todo_ids, strict=True)}


def _write_talk(
    connection: Connection, user_id: int, talk: Talk, todo_ids: dict[str, int], now: int, counts: Counts
) -> None:
    began = now + int(talk.began * DAY) - HOUR  # whatever it is about was made by it
    conversation_id = _new_id(began)
    conversation = {"id": conversation_id, "title": talk.title, "metadata": talk.metadata, "created_at": began}
    messages = [
        {
            "conversation_id": conversation_id,
            "position": position,
            "id": _new_id(at),
            "sender_type": sender_type,
            "message_type": message_type,
            "content": content,
            "metadata": metadata,
            "created_at": at,
        }
        for position, (sender_type, message_type, content, metadata) in enumerate(talk.said, start=1)
        for at in [began + position * 20 * SECOND]
    ]
    links = [
        {
            "id": _new_id(began + HOUR),
            "todo_id": todo_ids[title],
            "conversation_id": conversation_id,
            "relationship_type": kind,
            "created_at": began + HOUR,
        }
        for title, kind in talk.links
    ]
    insert.insert_rows(connection, insert.INSERT_CONVERSATIONS, user_id, [conversation])
    insert.insert_rows(connection, insert.INSERT_MESSAGES, user_id, messages)
    insert.insert_rows(connection, insert.INSERT_LINKS, user_id, links)
    counts["conversations"] += 1
    counts["messages"] += len(messages)
    counts["todo_conversation_links"] += len(links)


def _new_id(time_of_row: int) -> int:
    return uuid7(time_of_row, secrets.randbits(62))
