"""What a tool of MCP is, what ``tools/list`` says of it, and what a call of one answers.

Errors are answers with ``isError``, the problem's ``code``, and what to do about it.
"""

import hashlib
from collections.abc import Awaitable, Callable
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, Literal, cast

import msgspec
from msgspec import UNSET, UnsetType

from service.db.database import TRANSACTION_SECONDS
from service.db.queries import Versioned
from service.http.fields import free_any_json
from service.http.request import Request, decode_body, read_aside
from service.http.response import Answer
from service.http.strict_json import is_quick
from service.problems import Problem

TEXT_BYTES = 1024 * 1024
"""The longest result that is answered as text, too: there its quotes and backslashes are escaped once more."""
_TOO_LONG = (
    "The result is too long for a text: it is in structuredContent alone. Ask for less: a smaller limit, fewer "
    "messages, max_characters."
)


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


def _header_of(key: str) -> bytes:
    """The text as a header may say it: what isn't printable ASCII stands for itself by its digest."""
    text = key.encode()
    return text if key.isascii() and key.isprintable() else hashlib.sha256(text).hexdigest().encode()


class Asked(SimpleNamespace):
    """What the functions of handlers need to know of a request, where a tool is what is asked for."""

    def __init__(self, request: Request, tool: str, given: msgspec.Struct, *, is_quick: bool) -> None:
        name = b"idempotency-key"
        key: str | UnsetType = getattr(given, "idempotency_key", UNSET)
        header = request.sent.get(name) if key is UNSET else _header_of(key)
        sent = {} if header is None else {name: header}
        super().__init__(user=request.user, id=request.id, app=request.app, sent=sent, if_match=None)
        self._given = given
        self._is_quick = is_quick
        self._owner = request.owner
        self._query: Any = None
        self.route_handler = SimpleNamespace(status_code=200, opt={})
        self.scope: dict[str, Any] = {
            "method": "CALL",
            "path": tool,
            "state": {"is_part": True},
            "route_handler": self.route_handler,
        }

    async def body(self) -> bytes:
        """The arguments in one spelling: a model that repeats a call may well write them in another one."""
        return _spelled(self._given) if self._is_quick else await read_aside(self._owner, _spelled, self._given)

    def filters(self, _: Any) -> Any:
        return self._query

    def asking(self, query: Any) -> Any:
        self._query = query
        return self


_decoder = msgspec.json.Decoder(float_hook=Decimal)  # every number as the database keeps it
_encoder = msgspec.json.Encoder(decimal_format="number", order="sorted")


def _spelled(given: Any) -> bytes:
    """The arguments' names and values, in order; a message at a time, since all at once held every thread for 50 ms."""
    parts: list[Any] = []
    for name, value in msgspec.structs.asdict(given).items():
        if value is not UNSET:
            parts += [name, *value] if isinstance(value, list) else [name, value]
    return b"{%b}" % b"\n".join(map(_spelled_part, parts))


def _spelled_part(part: Any) -> bytes:
    if isinstance(part, msgspec.Struct):
        return _spelled(part)
    return _encoder.encode(_decoder.decode(part) if isinstance(part, msgspec.Raw) else part)


class Tool(msgspec.Struct, frozen=True):
    """A tool; ``described`` is what ``tools/list`` says of it."""

    name: str
    arguments: type[msgspec.Struct]
    run: Callable[[Any, Any], Awaitable[Any]]
    scope: str
    seconds: float
    described: dict[str, Any]


def tool(
    arguments: type[msgspec.Struct],
    returns: Any,
    *,
    reads: bool = False,
    destroys: bool = False,
    repeats: bool = False,
    seconds: float = TRANSACTION_SECONDS,
) -> Callable[[Callable[[Any, Any], Awaitable[Any]]], Tool]:
    """Make a tool of a function, whose docstring tells the model when to use it.

    ``reads``: it changes nothing; ``destroys``: something may be lost; ``repeats``: twice does what once does. Its
    transaction may take ``seconds``.
    """

    def made(run: Callable[[Any, Any], Awaitable[Any]]) -> Tool:
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
        return Tool(name, arguments, run, "read" if reads else "write", seconds, described)

    return made


def _schema(kind: Any) -> dict[str, Any]:
    """The JSON Schema of a struct, with the object itself at its root, as MCP wants it."""
    (schema,), components = free_any_json(msgspec.json.schema_components([kind], ref_template="#/$defs/{name}"))
    root = components.pop(schema["$ref"].rpartition("/")[2])
    return {**root, **({"$defs": components} if components else {})}


async def run_tool(request: Request, called: Tool, arguments: bytes) -> ToolResult:
    """Call a tool. Raises Problem only where the request itself isn't allowed: 401."""
    if request.user.key is not None:
        request.user.key.scope = called.scope
    request.user.seconds = called.seconds
    try:
        if quick := is_quick(arguments):
            given = decode_body(arguments, called.arguments)
        else:
            given = await read_aside(request.owner, decode_body, arguments, called.arguments)
        result = await called.run(Asked(request, called.name, given, is_quick=quick), given)
    except Problem as problem:
        if problem.status == 401:
            raise
        return ToolResult([TextContent(_told(problem))], is_error=True)
    body = result.body if isinstance(result, Answer) else msgspec.json.encode(_value(result))
    text = body.decode() if len(body) <= TEXT_BYTES else _TOO_LONG
    return ToolResult([TextContent(text)], msgspec.Raw(body))


def _value(result: Any) -> Any:
    """What is answered: without the version that an ETag would have told."""
    return cast("Versioned[Any]", result).value if isinstance(result, Versioned) else result


_AGAIN = "Call again in a moment, with the same idempotency_key if there was one."
_LOOK_FIRST = (
    "If you gave an idempotency_key, call again with the same one. Otherwise look first whether it was done: "
    "list_tasks and get_context show that."
)
_OTHERWISE = "The same call would be refused again: tell the user what is wrong."
_ADVICE = {
    "not_found": "This user has no such task, conversation or change: list_tasks and search show what there is.",
    "invalid_cursor": "Begin again at the first page, without a cursor.",
    "idempotency_in_progress": _AGAIN,
    "validation_failed": "Correct the arguments and call again, or do what the message says instead.",
    "forbidden": "It isn't allowed to this key or user: tell the user, and don't try again.",
    "stale_position": "Somebody wrote in between: read get_context, then append with the position told here.",
    "invalid_transition": "Set the status to one that can follow; an archived task can only become pending.",
    "version_mismatch": "It has changed since: look at it anew.",
    "link_exists": "Nothing is left to do: they are linked.",
    "idempotency_key_reused": "To repeat that call, give exactly its arguments; if you can't, look whether it is done. "
    "For another call, use another key.",
}


_ARGUMENTS = {"body": "arguments", "Idempotency-Key": "idempotency_key", "id": "change_id"}
"""What an agent calls what is called otherwise over HTTP."""


def _told(problem: Problem) -> str:
    """The problem for a model: its code, what is wrong, and what to do."""
    errors = [
        msgspec.structs.replace(error, field=_ARGUMENTS.get(error.field, error.field)) for error in problem.errors
    ]
    message = problem.detail
    if errors and message.startswith(f"{problem.errors[0].field}: "):
        message = f"{errors[0].field}: {errors[0].message}"
    usual = _LOOK_FIRST if problem.may_have_happened else _AGAIN if problem.status == 503 else _OTHERWISE
    told: dict[str, Any] = {
        "code": problem.code,
        "message": message,
        **({"errors": errors} if errors else {}),
        **problem.members,
        "advice": _ADVICE.get(problem.code, usual),
    }
    return msgspec.json.encode(told).decode()
