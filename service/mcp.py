"""MCP: the Model Context Protocol over streamable HTTP, for agents that are given a URL and a key.

Stateless, and for clients of both eras: those of revision 2026-07-28, whose every request says in ``_meta`` which
revision it speaks, and those of 2025, which begin with ``initialize``. Every request is one POST and has one answer in
JSON: there are no sessions and no streams. What a tool does is in ``mcp_tools``.
"""

import re
from base64 import b64decode
from importlib.metadata import version
from typing import Any, ClassVar, Literal, cast
from urllib.parse import urlsplit

import msgspec
from litestar import get, post
from litestar.params import JSONBody
from msgspec import UNSET, UnsetType

from service.http.envelope import USERS_AT_ONCE
from service.http.kept_json import Path
from service.http.request import Request
from service.http.response import Answer, answer
from service.mcp_calls import run_tool
from service.mcp_tools import TOOLS
from service.problems import Problem
from service.settings import Settings, is_loopback
from service.turns import TURN_BYTES

NEWEST = "2026-07-28"
WITH_HANDSHAKE = ("2025-11-25", "2025-06-18")
"""Revisions whose clients begin with ``initialize``; a client of another one is offered the first."""
REVISIONS = (NEWEST, *WITH_HANDSHAKE)
METADATA_PATH = "/.well-known/oauth-protected-resource/mcp"
"""RFC 9728, section 3.1: the well-known name goes in front of the resource's path."""

INSTRUCTIONS = (
    "The user's tasks and conversations, kept between sessions. Tasks are named by their number (task_id), as "
    "list_tasks shows it. To remember a conversation, start_conversation once, then append_turn with what was said, "
    "and get_context to read it back."
)
_INFO = {"name": "todochat", "title": "todochat", "version": version("todochat")}
_CAPABILITIES: dict[str, dict[str, Any]] = {"tools": {}}
_CACHED = {"ttlMs": 3_600_000, "cacheScope": "public"}
"""How long, in milliseconds, a client may keep what is the same for everybody."""
_META = "io.modelcontextprotocol/"
_ANSWERS: dict[str, dict[str, Any]] = {
    "initialize": {
        "protocolVersion": WITH_HANDSHAKE[0],
        "capabilities": _CAPABILITIES,
        "serverInfo": _INFO,
        "instructions": INSTRUCTIONS,
    },
    "ping": {},
    "server/discover": {
        "supportedVersions": REVISIONS,
        "capabilities": _CAPABILITIES,
        "instructions": INSTRUCTIONS,
        "_meta": {f"{_META}serverInfo": _INFO},
        **_CACHED,
    },
    "tools/list": {"tools": [tool.described for tool in TOOLS.values()], **_CACHED},
}
"""What the methods answer that are the same for everybody."""

# JSON-RPC 2.0, section 5.1, and MCP 2026-07-28, "Error codes".
_INVALID_PARAMS = -32602
_METHOD_NOT_FOUND = -32601
_HEADER_MISMATCH = -32020
_UNSUPPORTED_REVISION = -32022


class Params(msgspec.Struct, frozen=True):
    """What of a request's ``params`` is looked at."""

    meta: Any = msgspec.field(name="_meta", default_factory=dict[str, Any])
    protocol_version: Any = msgspec.field(name="protocolVersion", default="")
    name: Any = ""
    arguments: msgspec.Raw = msgspec.Raw(b"{}")
    """What is in it, the tools read."""


class Message(msgspec.Struct, frozen=True):
    """A request, or without ``id`` a notification, of JSON-RPC 2.0."""

    kept_whole: ClassVar[Path] = ("params", "arguments")

    jsonrpc: Literal["2.0"]
    method: str
    id: str | int | UnsetType = UNSET
    params: Params | list[Any] | str | float | None = msgspec.field(default_factory=Params)


class _Refused(Exception):
    """An error of the protocol: its JSON-RPC code, and the status that goes with it in the newest revision."""

    def __init__(self, code: int, message: str, status: int = 400, **data: Any) -> None:
        super().__init__(code, message)
        self.error = {"code": code, "message": message, **({"data": data} if data else {})}
        self.status = status


@post(
    "/mcp",
    status_code=200,
    request_max_body_size=TURN_BYTES,
    scope="read",
    resource_metadata=METADATA_PATH,
    proves_keys=True,  # before it says anything, of which not all comes from the database
    include_in_schema=False,
)
async def call_mcp(request: Request, data: JSONBody[Message]) -> Answer:
    """Answer one message of a client; of a key, ``tools/call`` asks for the scope that its tool needs."""
    _check_origin(request)
    if data.method != "tools/call":
        request.scope["state"]["at_once"] = USERS_AT_ONCE  # most of these need no connection to the database
    if data.id is UNSET:  # of a notification nothing is kept, and nothing can be said
        return Answer(202, [])
    is_newest = request.sent.get(b"mcp-protocol-version") == NEWEST.encode()
    try:
        result = await _result(request, data)
    except _Refused as refused:
        request.scope["state"]["at_once"] = USERS_AT_ONCE
        body = {"jsonrpc": "2.0", "id": data.id, "error": refused.error}
        # Clients of 2025 take an error of JSON-RPC with 200, but for headers that are wrong.
        is_about_headers = refused.error["code"] in (_HEADER_MISMATCH, _UNSUPPORTED_REVISION)
        status = refused.status if is_newest or is_about_headers else 200
        return answer(request, body, status)
    if is_newest and isinstance(result, dict):
        result = {"resultType": "complete", **cast("dict[str, Any]", result)}
    elif is_newest:
        result = msgspec.structs.replace(result, result_type="complete")
    return answer(request, {"jsonrpc": "2.0", "id": data.id, "result": result}, 200)


@get(METADATA_PATH, public=True, include_in_schema=False)
async def get_resource_metadata(request: Request) -> Answer:
    """RFC 9728: whose tokens are good at ``/mcp``."""
    settings: Settings = request.app.state.settings
    issuers = [issuer.name for issuer in settings.issuers if issuer.name.startswith(("https://", "http://"))]
    found: dict[str, Any] = {
        "resource": base_url(request) + "/mcp",
        "resource_name": "todochat",
        "bearer_methods_supported": ["header"],
        **({"authorization_servers": issuers} if issuers else {}),
    }
    return answer(request, found, 200)


def base_url(request: Request) -> str:
    """Where clients reach the service: ``PUBLIC_URL``, else what the request was sent to."""
    settings: Settings = request.app.state.settings
    return settings.public_url or f"http://{request.sent.get(b'host', b'localhost').decode('latin-1')}"


def _check_origin(request: Request) -> None:
    """A page may call only from origins that are allowed, our own, and this machine's own when it is called there.

    Where the browser was misled by DNS, the page's host is neither: it stands in ``Host`` as well, and isn't asked.
    """
    sent = request.sent.get(b"origin")
    if sent is None:
        return
    settings: Settings = request.app.state.settings
    origin = sent.decode("latin-1")
    if origin in settings.cors_allow_origins or origin == settings.public_url:
        return
    try:
        parts = urlsplit(origin)
        if parts.netloc == request.sent.get(b"host", b"").decode("latin-1") and is_loopback(parts.hostname or ""):
            return
    except ValueError:
        pass
    raise Problem("forbidden", "Pages of this origin may not call: CORS_ALLOW_ORIGINS names those that may.")


async def _result(request: Request, data: Message) -> Any:
    params = data.params
    if not isinstance(params, Params) or not isinstance(params.meta, dict) or not isinstance(params.name, str):
        raise _Refused(_INVALID_PARAMS, "params must be an object, its _meta an object, its name a string.")
    _check_revision(request, data, params)
    if data.method == "tools/call":
        tool = TOOLS.get(params.name)
        if tool is None:
            raise _Refused(_INVALID_PARAMS, f"params.name must be one of: {', '.join(TOOLS)}.")
        return await run_tool(request, tool, bytes(params.arguments))
    if data.method not in _ANSWERS:
        raise _Refused(_METHOD_NOT_FOUND, f"There is no method {data.method!r}.", 404)
    await request.user.run_all([])  # which proves the token
    if data.method == "initialize" and params.protocol_version in WITH_HANDSHAKE:
        return {**_ANSWERS["initialize"], "protocolVersion": params.protocol_version}
    return _ANSWERS[data.method]


def _check_revision(request: Request, data: Message, params: Params) -> None:
    """That headers and body agree on the revision, the method and the tool; clients of 2025 send at most the first."""
    sent = {name: request.sent.get(name, b"").decode("latin-1") for name in (b"mcp-protocol-version", b"mcp-method")}
    revision = sent[b"mcp-protocol-version"]
    meta = params.meta
    if revision != NEWEST and f"{_META}protocolVersion" not in meta:
        if revision and revision not in WITH_HANDSHAKE:
            raise _unsupported(revision)
        return
    asked = meta.get(f"{_META}protocolVersion", revision)
    if revision != asked:
        raise _Refused(_HEADER_MISMATCH, "MCP-Protocol-Version is not the protocolVersion in params._meta.")
    if asked in WITH_HANDSHAKE:
        return
    if asked != NEWEST:
        raise _unsupported(asked)
    missing = [name for name in ("protocolVersion", "clientCapabilities") if f"{_META}{name}" not in meta]
    if missing:
        raise _Refused(_INVALID_PARAMS, f"params._meta needs {', '.join(_META + name for name in missing)}.")
    if sent[b"mcp-method"] != data.method:
        raise _Refused(_HEADER_MISMATCH, "Mcp-Method is not the method of the body.")
    if data.method == "tools/call" and _name_header(request) != params.name:
        raise _Refused(_HEADER_MISMATCH, "Mcp-Name is not the name in params.")


def _unsupported(asked: Any) -> _Refused:
    return _Refused(_UNSUPPORTED_REVISION, "Unsupported protocol version", supported=REVISIONS, requested=asked)


def _name_header(request: Request) -> str | None:
    """The header ``Mcp-Name``: plain, or in base64 between ``=?base64?`` and ``?=``."""
    text = request.sent.get(b"mcp-name", b"").decode("latin-1")
    if not (encoded := re.fullmatch(r"=\?base64\?(.*)\?=", text)):
        return text
    try:
        return b64decode(encoded[1], validate=True).decode()
    except ValueError:
        return None
