"""The tools of MCP: what an agent may do with a user's tasks and conversations.

Each calls the functions that HTTP's handlers are, with the arguments in the place of path, query and body, so that both
ways in keep the same rules. Errors are answers with ``isError``, the problem's ``code``, and what to do about it.
"""

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Annotated, Any, Literal, cast
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service import audit, contexts, conversations, links, messages, todo_lists, todos
from service import search as search_of_messages
from service.audit import Entry
from service.contexts import ContextSize
from service.conversations import Conversation, ConversationCreate, ConversationFilters
from service.db.queries import Versioned
from service.http.fields import Metadata, Number, RelationshipType, Search, Title, TodoRef, check_search, free_any_json
from service.http.paging import Cursor, Limit, Page
from service.http.request import Request, decode_body
from service.http.response import Answer
from service.links import Link, LinkCreate
from service.messages import Turn, TurnResult
from service.problems import Problem, html_safe
from service.search import FoundMessage, MessageSearch
from service.todo_lists import TodoFilters
from service.todos import Todo, TodoCreate, TodoPatch

TaskId = Annotated[
    TodoRef, Meta(description="The task's number, as list_tasks shows it; of a task assigned by somebody else, its id.")
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


class TaskList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which tasks."""

    status: Annotated[
        Literal["all", "pending", "completed"],
        Meta(description="`pending`: all that is not completed or archived, in progress included."),
    ] = "all"
    limit: Limit = 50
    cursor: Cursor | None = None


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

    change_id: Annotated[Number, Meta(description="Left out: the last change to any task.")] | None = None


class NewConversation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A conversation to be opened."""

    title: Title | None = None
    metadata: Metadata | UnsetType = UNSET
    idempotency_key: IdempotencyKey | UnsetType = UNSET


class NewTurn(Turn, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was said, in order."""

    conversation_id: ConversationId
    idempotency_key: IdempotencyKey | UnsetType = UNSET


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


class TextContent(msgspec.Struct, frozen=True):
    """A result as text, for whoever reads no structured one."""

    text: str
    type: Literal["text"] = "text"


class ToolResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What ``tools/call`` answers; the names are the protocol's."""

    content: list[TextContent]
    structured_content: msgspec.Raw | UnsetType = msgspec.field(name="structuredContent", default=UNSET)
    is_error: bool = msgspec.field(name="isError", default=False)
    result_type: str = msgspec.field(name="resultType", default="")


# Tools


class _Asked(SimpleNamespace):
    """What the functions of handlers need to know of a request, where a tool is what is asked for."""

    def __init__(self, request: Request, tool: str, arguments: str, key: str | UnsetType) -> None:
        sent = {} if key is UNSET else {b"idempotency-key": key.encode("utf-8", "replace")}
        super().__init__(user=request.user, id=request.id, app=request.app, sent=sent, if_match=None)
        self._arguments = arguments.encode()
        self._query: Any = None
        self.route_handler = SimpleNamespace(status_code=200, opt={})
        self.scope: dict[str, Any] = {
            "method": "CALL",
            "path": tool,
            "state": {},
            "route_handler": self.route_handler,
        }

    async def body(self) -> bytes:
        return self._arguments

    def filters(self, _: Any) -> Any:
        return self._query

    def asking(self, query: Any) -> Any:
        self._query = query
        return self


class Tool(msgspec.Struct, frozen=True):
    """A tool; ``described`` is what ``tools/list`` says of it."""

    name: str
    arguments: type[msgspec.Struct]
    run: Callable[[Any, Any], Awaitable[Any]]
    scope: str
    described: dict[str, Any]


TOOLS: dict[str, Tool] = {}


def _tool(
    arguments: type[msgspec.Struct], returns: Any, *, reads: bool = False, destroys: bool = False, repeats: bool = False
) -> Callable[[Callable[[Any, Any], Awaitable[Any]]], None]:
    """Make a tool of a function, whose docstring tells the model when to use it.

    ``reads``: it changes nothing; ``destroys``: something may be lost; ``repeats``: twice does what once does.
    """

    def register(run: Callable[[Any, Any], Awaitable[Any]]) -> None:
        name = run.__name__
        described = {
            "name": name,
            "title": name.replace("_", " ").capitalize(),
            "description": " ".join((run.__doc__ or "").split()),
            "inputSchema": _schema(arguments),
            "outputSchema": _schema(returns),
            "annotations": {
                "readOnlyHint": reads,
                "destructiveHint": destroys,
                "idempotentHint": reads or repeats,
                "openWorldHint": False,
            },
        }
        TOOLS[name] = Tool(name, arguments, run, "read" if reads else "write", described)

    return register


def _schema(kind: Any) -> dict[str, Any]:
    """The JSON Schema of a struct, with the object itself at its root, as MCP wants it."""
    (schema,), components = free_any_json(msgspec.json.schema_components([kind], ref_template="#/$defs/{name}"))
    root = components.pop(schema["$ref"].rpartition("/")[2])
    return {**root, **({"$defs": components} if components else {})}


async def run_tool(request: Request, tool: Tool, arguments: str) -> ToolResult:
    """Call a tool. Raises Problem only where the request itself isn't allowed: 401."""
    if request.user.key is not None:
        request.user.key.scope = tool.scope
    try:
        given = decode_body(arguments.encode(), tool.arguments)
        asked = _Asked(request, tool.name, arguments, getattr(given, "idempotency_key", UNSET))
        result = await tool.run(asked, given)
    except Problem as problem:
        if problem.status == 401:
            raise
        return ToolResult([TextContent(_told(problem))], is_error=True)
    body = html_safe(result.body if isinstance(result, Answer) else msgspec.json.encode(_value(result)))
    return ToolResult([TextContent(body.decode())], msgspec.Raw(body))


def _value(result: Any) -> Any:
    """What is answered: without the version that an ETag would have told."""
    return cast("Versioned[Any]", result).value if isinstance(result, Versioned) else result


_ADVICE = {
    "not_found": "This user has no such task, conversation or change: list_tasks and search show what there is.",
    "validation_failed": "Correct the arguments and call again.",
    "forbidden": "It isn't allowed to this key or user: tell the user, and don't try again.",
    "stale_position": "Somebody wrote in between: read get_context, then append with the position told here.",
    "invalid_transition": "Set the status to one that can follow; an archived task can only become pending.",
    "version_mismatch": "It has changed since: look at it anew.",
    "link_exists": "Nothing is left to do: they are linked.",
    "idempotency_key_reused": "Use another idempotency_key for another call.",
}
_AGAIN = "Call again in a moment, with the same idempotency_key if there was one."


def _told(problem: Problem) -> str:
    """The problem for a model: its code, what is wrong, and what to do."""
    told: dict[str, Any] = {
        "code": problem.code,
        "message": problem.detail,
        **({"errors": problem.errors} if problem.errors else {}),
        **problem.members,
        "advice": _ADVICE.get(problem.code, _AGAIN),
    }
    return msgspec.json.encode(told).decode()


@_tool(NewTask, Todo)
async def add_task(asked: Any, data: NewTask) -> Any:
    """Add a task to the user's list.

    Use it whenever the user wants to remember, plan or do something later. Give conversation_id to note in which
    conversation it came up. The answer's number is the task_id of the other tools.
    """
    fields = {name: getattr(data, name) for name in TodoCreate.__struct_fields__}
    return await todos.create_todo.fn(asked, TodoCreate(**fields))


@_tool(TaskList, Page[Todo], reads=True)
async def list_tasks(asked: Any, data: TaskList) -> Page[Todo]:
    """List the user's tasks, newest first: all, those that are still to be done, or the completed ones.

    Where next_cursor isn't null there are more: call again with it as cursor.
    """
    statuses: dict[str, Any] = {"all": None, "pending": ["pending", "in_progress"], "completed": ["completed"]}
    query = TodoFilters(status=statuses[data.status], limit=data.limit, cursor=data.cursor)
    return await todo_lists.list_todos.fn(asked.asking(query))


@_tool(Task, Todo, reads=True)
async def get_task(asked: Any, data: Task) -> Todo:
    """Look at one task in full: description, due date, assignee, metadata."""
    return await todos.get_todo.fn(asked, data.task_id)


@_tool(Task, Todo, repeats=True)
async def complete_task(asked: Any, data: Task) -> Todo:
    """Mark a task as completed, when the user says that it is done."""
    return await todos.update_todo.fn(asked, data.task_id, TodoPatch(status="completed"))


@_tool(Task, Deleted, destroys=True)
async def delete_task(asked: Any, data: Task) -> Deleted:
    """Delete a task for good, when the user wants it gone.

    What is merely done is completed instead. undo_change brings a deleted task back.
    """
    await todos.delete_todo.fn(asked, data.task_id)
    return Deleted(data.task_id)


@_tool(TaskChange, Todo, destroys=True, repeats=True)
async def update_task(asked: Any, data: TaskChange) -> Todo:
    """Change a task's title, description, status, priority, due date, assignee or metadata; what is left out stays."""
    fields = {name: getattr(data, name) for name in TodoPatch.__struct_fields__}
    return await todos.update_todo.fn(asked, data.task_id, TodoPatch(**fields))


@_tool(SearchFor, Found, reads=True)
async def search(asked: Any, data: SearchFor) -> Found:
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


@_tool(NewLink, Link)
async def link_task(asked: Any, data: NewLink) -> Any:
    """Note that a conversation made a task of the user's own (creation), changed it (update) or is about it."""
    async with asked.user.transaction():
        todo = await todos.get_todo.fn(asked, data.task_id)
        link = LinkCreate(todo.id, data.conversation_id, data.relationship_type)
        return await links.create_link.fn(asked, link)


@_tool(Undo, Entry, destroys=True)
async def undo_change(asked: Any, data: Undo) -> Any:
    """Undo a change of a task, or a deletion, when the user says that it was a mistake.

    It is the last one, or the one named by change_id; refused where something else has happened to the task since.
    """
    change_id = await audit.last_change(asked.user, "todos") if data.change_id is None else data.change_id
    if change_id is None:
        raise Problem("not_found", "No task has been changed yet.")
    return await audit.revert_change.fn(asked, change_id)


@_tool(NewConversation, Conversation)
async def start_conversation(asked: Any, data: NewConversation) -> Any:
    """Open a conversation that is to be remembered, once at its beginning.

    Its id is the conversation_id of the other tools.
    """
    return await conversations.create_conversation.fn(
        asked, ConversationCreate(title=data.title, metadata=data.metadata)
    )


@_tool(NewTurn, TurnResult)
async def append_turn(asked: Any, data: NewTurn) -> Any:
    """Keep what was said, in order: the user's message, your answer, and the tools you called with their outputs.

    A call has message_type command, its output response. All of it is kept, or, with an error, nothing.
    """
    return await messages.create_turn.fn(
        asked, data.conversation_id, Turn(data.messages, data.expected_position, data.context)
    )


@_tool(ContextOf, Context, reads=True)
async def get_context(asked: Any, data: ContextOf) -> Context:
    """Read back the last messages of a conversation, oldest first, before you go on with it."""
    query = ContextSize(data.messages, data.max_characters, data.format)
    return Context(await messages.get_context.fn(asked.asking(query), data.conversation_id))
