"""The tools of MCP: what an agent may do with a user's tasks and conversations.

Each calls the functions that HTTP's handlers are, with the arguments in the place of path, query and body, so that both
ways in keep the same rules.
"""

from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service import audit, contexts, conversations, links, messages, todo_lists, todos, turns
from service import search as search_of_messages
from service.audit import Entry
from service.contexts import ContextSize
from service.conversations import Conversation, ConversationCreate, ConversationFilters, NamedConversation
from service.http.fields import (
    CONTENT_LENGTH,
    Number,
    RelationshipType,
    Search,
    SentTodoRef,
    TodoRef,
    check_search,
    todo_ref,
)
from service.http.idempotency import idempotent
from service.http.paging import Page, PageQuery
from service.links import Link
from service.mcp_calls import Asked, tool
from service.search import FoundMessage, MessageSearch
from service.todo_lists import TodoFilters
from service.todos import Todo, TodoCreate, TodoPatch
from service.turns import Turn, TurnResult

TaskId = Annotated[
    SentTodoRef,
    Meta(description="The task's number, as list_tasks shows it; of a task assigned by somebody else, its id."),
]
ConversationId = Annotated[UUID, Meta(description="As start_conversation answered it.")]
IdempotencyKey = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=255,
        description="Any text of your own. When no answer came, call again with the same text and the same arguments: "
        "it is done once.",
    ),
]


# Arguments


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which task."""

    task_id: TaskId


class NewTask(TodoCreate, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A task to be made."""

    idempotency_key: IdempotencyKey | UnsetType = UNSET


class TaskChange(TodoPatch, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What of a task is to be changed: what is left out stays, null clears it."""

    task_id: TaskId


class TaskList(PageQuery, frozen=True, forbid_unknown_fields=True):
    """Which tasks."""

    status: Annotated[
        Literal["all", "pending", "completed"],
        Meta(description="`pending`: all that is not completed or archived, in progress included."),
    ] = "all"
    scope: Annotated[
        Literal["owned", "assigned"],
        Meta(
            title="TaskScope",
            description="`assigned`: tasks of others that the user is to do; name these by their id, not their number.",
        ),
    ] = "owned"


class NewLink(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be linked."""

    task_id: TaskId
    conversation_id: ConversationId
    relationship_type: RelationshipType = "discussion"


class SearchFor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to look for."""

    q: Search
    limit: Annotated[int, Meta(ge=1, le=50, description="The most of each kind.")] = 10

    def __post_init__(self) -> None:
        check_search(self.q)


class Undo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be undone."""

    change_id: (
        Annotated[Number, Meta(description="Left out: the user's own last change to any of their tasks.")] | None
    ) = None
    idempotency_key: IdempotencyKey | UnsetType = UNSET


class NewConversation(NamedConversation, frozen=True, forbid_unknown_fields=True):
    """A conversation to be opened."""

    idempotency_key: IdempotencyKey | UnsetType = UNSET


class NewTurn(Turn, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was said, in order. An item of null beside a content is none: models fill in all that there is."""

    conversation_id: ConversationId
    idempotency_key: IdempotencyKey | UnsetType = UNSET

    def __post_init__(self) -> None:
        for message in self.messages:
            if message.item == "null" and message.content:
                if len(message.content) > CONTENT_LENGTH:
                    raise ValueError(f"messages: content must have at most {CONTENT_LENGTH} characters without an item")
                msgspec.structs.force_setattr(message, "item", UNSET)


class ContextOf(ContextSize, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much of which conversation."""

    conversation_id: ConversationId


# Results


class Deleted(msgspec.Struct, frozen=True):
    """What was deleted."""

    deleted: TodoRef


class Found(msgspec.Struct, frozen=True):
    """What holds the words."""

    tasks: list[Todo]
    conversations: list[Conversation]
    messages: list[FoundMessage]


class Context(msgspec.Struct, frozen=True):
    """A conversation's last messages, oldest first."""

    context: contexts.Context


@tool(NewTask, Todo)
async def add_task(asked: Asked, data: NewTask) -> Any:
    """Add a task to the user's list.

    Use it whenever the user wants to remember, plan or do something later. Give conversation_id to note in which
    conversation it came up. The answer's number is the task_id of the other tools.
    """
    fields = {name: getattr(data, name) for name in TodoCreate.__struct_fields__}
    return await todos.create_todo.fn(asked, TodoCreate(**fields))


@tool(TaskList, Page[Todo], reads=True)
async def list_tasks(asked: Asked, data: TaskList) -> Page[Todo]:
    """List the user's tasks, newest first: all, those that are still to be done, or the completed ones.

    Where next_cursor isn't null there are more: call again with it as cursor.
    """
    statuses: dict[str, Any] = {"all": None, "pending": ["pending", "in_progress"], "completed": ["completed"]}
    status = statuses[data.status]
    query = TodoFilters(status=status, scope=data.scope, limit=data.limit, cursor=data.cursor)
    return await todo_lists.list_todos.fn(asked.asking(query))


@tool(Task, Todo, reads=True)
async def get_task(asked: Asked, data: Task) -> Todo:
    """Look at one task in full: description, due date, assignee, metadata."""
    return await todos.get_todo.fn(asked, todo_ref(data.task_id))


@tool(Task, Todo, repeats=True)
@idempotent
async def complete_task(asked: Any, data: Task) -> Todo:
    """Mark a task as completed, when the user says that it is done."""
    return await todos.update_todo.fn(asked, todo_ref(data.task_id), TodoPatch(status="completed"))


@tool(Task, Deleted, destroys=True)
@idempotent
async def delete_task(asked: Any, data: Task) -> Deleted:
    """Delete a task for good, when the user wants it gone.

    What is merely done is completed instead. undo_change brings a deleted task back.
    """
    await todos.delete_todo.fn(asked, todo_ref(data.task_id))
    return Deleted(todo_ref(data.task_id))


@tool(TaskChange, Todo, destroys=True, repeats=True)
@idempotent
async def update_task(asked: Any, data: TaskChange) -> Todo:
    """Change a task's title, description, status, priority, due date, assignee or metadata; what is left out stays."""
    fields = {name: getattr(data, name) for name in TodoPatch.__struct_fields__}
    return await todos.update_todo.fn(asked, todo_ref(data.task_id), TodoPatch(**fields))


@tool(SearchFor, Found, reads=True)
async def search(asked: Asked, data: SearchFor) -> Found:
    """Find tasks, conversations and messages that hold all of the words, newest first, when you don't know where.

    It looks at the newest 5000 tasks, 5000 conversations and 2000 messages, and each list may go on: look through tasks
    with list_tasks, through a conversation with get_context.
    """
    limit = data.limit
    async with asked.user.transaction():
        tasks = await todo_lists.list_todos.fn(asked.asking(TodoFilters(q=data.q, limit=limit)))
        query = ConversationFilters(q=data.q, limit=limit)
        talks = await conversations.list_conversations.fn(asked.asking(query))
        said = await search_of_messages.search_messages.fn(asked.asking(MessageSearch(q=data.q, limit=limit)))
    return Found(tasks.items, talks.items, said.items)


@tool(NewLink, Link)
@idempotent
async def link_task(asked: Any, data: NewLink) -> Any:
    """Note that a conversation made a task of the user's own (creation), changed it (update) or is about it."""
    todo = await todos.get_todo.fn(asked, todo_ref(data.task_id))
    link = {"conversation_id": data.conversation_id, "relationship_type": data.relationship_type}
    return await asked.user.run(links.CREATE(todo_id=todo.id, **link))


@tool(Undo, Entry, destroys=True, seconds=audit.REVERT_SECONDS)
@idempotent
async def undo_change(asked: Any, data: Undo) -> Any:
    """Undo a change of a task, or a deletion, when the user says that it was a mistake.

    It is the user's last one, or the one named by change_id; refused where something else has happened to the task
    since. Called once more, it takes back the undo of a change. A task that was added, or brought back, is deleted
    instead, and one that somebody else assigned to the user is set right by update_task.
    """
    return await audit.revert(asked.user, data.change_id, "todos")


@tool(NewConversation, Conversation)
async def start_conversation(asked: Asked, data: NewConversation) -> Any:
    """Open a conversation that is to be remembered, once at its beginning.

    Its id is the conversation_id of the other tools.
    """
    return await conversations.create_conversation.fn(
        asked, ConversationCreate(title=data.title, metadata=data.metadata)
    )


@tool(NewTurn, TurnResult)
async def append_turn(asked: Asked, data: NewTurn) -> Any:
    """Keep what was said, in order: the user's message, your answer, and the tools you called with their outputs.

    A call has message_type command, its output response. All of it is kept, or, with an error, nothing.
    """
    return await turns.create_turn.fn(asked, data.conversation_id, data)


@tool(ContextOf, Context, reads=True)
async def get_context(asked: Asked, data: ContextOf) -> Context:
    """Read back the last messages of a conversation, oldest first, before you go on with it."""
    return Context(await messages.get_context.fn(asked.asking(data), data.conversation_id))


TOOLS = {
    described.name: described
    for described in (
        *(add_task, list_tasks, get_task, complete_task, delete_task, update_task, search, link_task, undo_change),
        *(start_conversation, append_turn, get_context),
    )
}
