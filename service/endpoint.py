"""Between Litestar and a handler: who asks, what they sent, and how the answer leaves. One place for every route.

A handler is a plain function; what it takes is told by its signature, and nothing else reaches it:

``caller``    who asks, and the only way to the database
``query``     a struct of the query parameters; ``data``, a struct of the body
``if_match``  the version of ``If-Match``, or None
``address``   the peer's address
a parameter of the path, by its name
any other     one of the services that ``app.py`` names, such as ``tokens``

It returns a struct, a list of structs, a Page, or None. The OpenAPI document is written from the same routes.
"""

import inspect
import json
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn, cast, get_args, get_origin
from urllib.parse import parse_qsl, urlencode
from uuid import UUID

import msgspec
from litestar import Request
from litestar.handlers import HTTPRouteHandler
from litestar.types import Receive, Scope, Send

from service.auth import Tokens
from service.db import Database
from service.errors import Problem, html_escaped, html_safe, invalid, problem_body
from service.paging import Page
from service.queries import Caller

BODY_BYTES = 1024 * 1024
"""The most a body may have; a route that takes many objects at once may allow more."""
BODY_DEPTH = 100
"""Levels of nesting; deeper JSON is refused as malformed before it is looked at."""

_PATH_NAME = re.compile(r"{(\w+)}")

Handler = Callable[..., Awaitable[Any]]


class Route:
    """One line of the list of routes in ``app.py``."""

    def __init__(
        self,
        method: str,
        path: str,
        handler: Handler,
        *,
        status: int = 200,
        public: bool = False,
        location: str = "",
        body_bytes: int = BODY_BYTES,
        problems: Sequence[str] = (),
    ) -> None:
        self.method = method
        self.path = path
        self.handler = handler
        self.name = cast("Any", handler).__name__
        self.status = status
        self.public = public
        self.location = location
        self.body_bytes = body_bytes
        self.problems = tuple(problems)
        signature = inspect.signature(handler)
        kinds = {name: parameter.annotation for name, parameter in signature.parameters.items()}
        self.returns: Any = signature.return_annotation
        self.query_type: type[msgspec.Struct] | None = kinds.pop("query", None)
        self.body_type: Any = kinds.pop("data", None)
        self.takes_if_match = kinds.pop("if_match", None) is not None
        self.takes_address = kinds.pop("address", None) is not None
        kinds.pop("caller")
        self.path_parameters: dict[str, Any] = {name: kinds.pop(name) for name in _PATH_NAME.findall(path)}
        self.services = tuple(kinds)
        self.has_etag: bool = isinstance(self.returns, type) and "version" in getattr(
            self.returns, "__struct_fields__", ()
        )


def _litestar_path(path: str) -> str:
    return path.replace("}", ":str}")


class _RouteHandler(HTTPRouteHandler):
    """A handler whose function answers with an ASGI application of its own making."""

    async def to_response(self, app: Any, data: Any, request: Any) -> Any:
        del app, request
        return data


class Answer:
    """A complete answer, as an ASGI application."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes = b"") -> None:
        self.status = status
        self.headers = headers
        self.body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


def problem_answer(problem: Problem, request_id: str, *, escape: bool = False) -> Answer:
    """The problem as ``application/problem+json``; ``escape``: with its strings HTML-escaped."""
    body = problem_body(problem, request_id, escape=escape)
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", b"%d" % len(body))]
    headers += [(name.lower().encode(), value.encode("latin-1")) for name, value in problem.headers.items()]
    return Answer(problem.status, headers, body)


class Services:
    """What the routes need; ``named`` are those that a handler may take by name."""

    def __init__(self, database: Database, tokens: Tokens, named: Mapping[str, object]) -> None:
        self.database = database
        self.tokens = tokens
        self.named = {"tokens": tokens, **named}


def litestar_handler(route: Route, services: Services) -> HTTPRouteHandler:
    """The route as Litestar knows it."""

    async def handle(request: Request[Any, Any, Any]) -> Any:
        scope = cast("dict[str, Any]", request.scope)
        state = scope["state"]
        state["route"] = route.path
        try:
            return await _serve(route, services, scope, state["request_id"], request.receive)
        except Problem as problem:
            return problem_answer(problem, state["request_id"], escape=state.get("escape", False))

    return _RouteHandler(
        _litestar_path(route.path),
        http_method=cast("Any", route.method),
        status_code=200,
        name=route.name,
        opt={"route": route},
    )(handle)


def file_handler(path: str, answer: Callable[[dict[str, Any]], Answer]) -> HTTPRouteHandler:
    """A GET route outside the API: ``answer`` gets the request's scope, and may raise Problem."""

    async def handle(request: Request[Any, Any, Any]) -> Any:
        scope = cast("dict[str, Any]", request.scope)
        scope["state"]["route"] = path
        try:
            return answer(scope)
        except Problem as problem:
            return problem_answer(problem, scope["state"]["request_id"])

    return _RouteHandler(path, http_method=cast("Any", "GET"), status_code=200, opt={"file": True})(handle)


def allow(methods: Collection[str]) -> str:
    """The header ``Allow`` for a path with these methods: HEAD comes with GET, OPTIONS is always there."""
    return ", ".join(sorted({*methods, "OPTIONS", *(("HEAD",) if "GET" in methods else ())}))


def options_handler(path: str, methods: Collection[str]) -> HTTPRouteHandler:
    """OPTIONS on a path with these methods (RFC 9110, section 9.3.7)."""
    answer = Answer(204, [(b"allow", allow(methods).encode())])

    async def handle(request: Request[Any, Any, Any]) -> Any:
        cast("dict[str, Any]", request.scope)["state"]["route"] = path
        return answer

    return _RouteHandler(_litestar_path(path), http_method=cast("Any", "OPTIONS"), status_code=200)(handle)


async def _serve(route: Route, services: Services, scope: dict[str, Any], request_id: str, receive: Any) -> Answer:
    headers = _read_headers(scope["headers"])
    if route.public:
        caller = Caller(services.database, request_id)
    else:
        claims = services.tokens.read_access(headers.get(b"authorization"))
        caller = Caller(services.database, request_id, claims.user_id, claims.version)
        scope["state"]["user_id"] = claims.user_id
    if (accept := headers.get(b"accept", b"")) not in (b"", b"*/*", b"application/json"):
        _check_accept(accept)
    arguments: dict[str, Any] = {"caller": caller}
    for name in route.services:
        arguments[name] = services.named[name]
    for name, kind in route.path_parameters.items():
        arguments[name] = _path_parameter(kind, scope["path_params"][name])
    escape = False
    if (query := scope["query_string"]) or route.query_type:
        values = _query_values(query)
        if "escape" in values and route.method == "GET":
            if values.pop("escape") != ["html"]:
                raise invalid("escape", "must be html")
            escape = scope["state"]["escape"] = True
        if route.query_type:
            arguments["query"] = read_query(route.query_type, values)
        elif values:
            raise _unknown(next(iter(values)))
    if route.body_type:
        arguments["data"] = decode_body(await _read_body(headers, receive, route.body_bytes), route.body_type)
    if route.takes_if_match:
        arguments["if_match"] = _version(headers.get(b"if-match"))
    if route.takes_address:
        arguments["address"] = scope["client"][0] if scope.get("client") else ""
    result = await route.handler(**arguments)
    return _answer(route, result, scope, headers, escape)


# The answer

_encode = msgspec.json.Encoder().encode


def _answer(route: Route, result: Any, scope: Mapping[str, Any], sent: Mapping[bytes, bytes], escape: bool) -> Answer:
    if result is None:
        return Answer(204, [])
    headers: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]
    if route.has_etag:
        etag = b'"%d"' % result.version
        headers.append((b"etag", etag))
        if route.method == "GET" and (known := sent.get(b"if-none-match")) and _etag_matches(known, etag):
            return Answer(304, [(b"etag", etag)])
    body = _encode(result)
    body = html_escaped(body) if escape else html_safe(body)
    headers.append((b"content-length", b"%d" % len(body)))
    if isinstance(result, Page):
        cursor = cast("Page[Any]", result).next_cursor
        if cursor is not None:
            headers.append((b"link", _next_link(scope, cursor)))
    elif route.location:
        headers.append((b"location", route.location.format(id=result.id).encode()))
    return Answer(route.status, headers, body)


def _etag_matches(sent: bytes, etag: bytes) -> bool:
    """RFC 9110, section 13.1.2: weak comparison, any of a list, or ``*``."""
    return sent.strip() == b"*" or any(tag.strip().removeprefix(b"W/") == etag for tag in sent.split(b","))


def _next_link(scope: Mapping[str, Any], cursor: str) -> bytes:
    """RFC 8288: the same request with the next cursor."""
    pairs = [
        pair
        for pair in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if pair[0] != "cursor"
    ]
    query = urlencode([*pairs, ("cursor", cursor)])
    return f'<{scope["path"]}?{query}>; rel="next"'.encode("latin-1")


# The headers


def _read_headers(pairs: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers by name; one that is repeated becomes a list (RFC 9110, section 5.3)."""
    headers = dict(pairs)
    if len(headers) != len(pairs):
        for name in headers:
            headers[name] = b", ".join(value for other, value in pairs if other == name)
    return headers


_RANGES = ("*/*", "application/*", "application/json")


def _check_accept(accept: bytes) -> None:
    """RFC 9110, section 12.5.1: of the ranges that match, the most specific one decides."""
    best = 0
    accepted = False
    for item in accept.decode("latin-1").lower().split(","):
        media_range, *parameters = [part.strip() for part in item.split(";")]
        if media_range in _RANGES and (specific := _RANGES.index(media_range) + 1) >= best:
            refused = any(re.fullmatch(r"q\s*=\s*0(\.0*)?", parameter) for parameter in parameters)
            accepted = not refused or (accepted and specific == best)
            best = specific
    if not accepted:
        raise Problem("not_acceptable", "Answers are application/json.")


def _version(if_match: bytes | None) -> int | None:
    """The version that ``If-Match`` names, None for any. Raises ``version_mismatch`` for what no version can be."""
    if if_match is None or if_match.strip() == b"*":
        return None
    text = if_match.strip()
    if found := re.fullmatch(rb'"([1-9][0-9]{0,8})"', text):
        return int(found[1])
    raise Problem("version_mismatch", 'If-Match takes one ETag as it was answered, such as "3".')


# The query string


def _unknown(name: str) -> Problem:
    return invalid(name[:100], "is not a known parameter")


def _query_values(query: bytes) -> dict[str, list[str]]:
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=200)
    except ValueError:
        raise Problem("malformed_request", "The query string can't be read.") from None
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return values


@lru_cache(maxsize=256)
def _query_fields(kind: type[msgspec.Struct]) -> dict[str, tuple[str, Callable[[str], Any] | None]]:
    """For each parameter of the struct: ``one`` or ``many``, and how its text is read before msgspec checks it."""
    fields: dict[str, tuple[str, Callable[[str], Any] | None]] = {}
    for field in msgspec.structs.fields(kind):
        kinds = _flatten(field.type)
        many = any(get_origin(item) is list for item in kinds)
        read = _read_boolean if bool in kinds else _read_integer if int in kinds else None
        fields[field.encode_name] = ("many" if many else "one", read)
    return fields


def _flatten(kind: Any) -> list[Any]:
    """The types a union or an Annotated is made of."""
    if hasattr(kind, "__metadata__"):
        return _flatten(kind.__origin__)
    if get_origin(kind) is not list and (parts := get_args(kind)) and not isinstance(parts[0], str):
        return [item for part in parts for item in _flatten(part)]
    return [kind]


def _read_boolean(text: str) -> Any:
    return {"true": True, "false": False}.get(text, text)


def _read_integer(text: str) -> Any:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else text


def read_query(kind: type[msgspec.Struct], values: Mapping[str, list[str]]) -> Any:
    """The struct of the query parameters. Raises ``validation_failed`` for an unknown, repeated or wrong one."""
    fields = _query_fields(kind)
    plain: dict[str, Any] = {}
    for name, texts in values.items():
        if name not in fields:
            raise _unknown(name)
        many, read = fields[name]
        if many == "many":
            plain[name] = texts
        elif len(texts) > 1:
            raise invalid(name, "is given more than once")
        else:
            plain[name] = read(texts[0]) if read else texts[0]
        if any("\0" in text for text in texts):
            raise invalid(name, "holds a NUL character")
    try:
        return msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        field, message = _field_and_message(error)
        raise invalid(field.partition("[")[0], message) from None


_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


def _path_parameter(kind: Any, text: str) -> Any:
    """A UUID, or a whole number where the route takes one. What names nothing is ``not_found``, whatever its form."""
    if kind is str:
        return text
    kinds = _flatten(kind)
    if int in kinds and re.fullmatch("[1-9][0-9]{0,17}", text, re.ASCII):
        return int(text)
    if UUID in kinds and _UUID.fullmatch(text):
        return UUID(text)
    raise Problem("not_found")


# The body


async def _read_body(headers: Mapping[bytes, bytes], receive: Any, limit: int) -> bytes:
    media_type, _, parameters = headers.get(b"content-type", b"").lower().partition(b";")
    charset = parameters.replace(b" ", b"").replace(b'"', b"")
    if media_type.strip() != b"application/json" or charset not in (b"", b"charset=utf-8"):
        raise Problem("unsupported_media_type", "Send Content-Type: application/json, in UTF-8.")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Problem("unsupported_media_type", "Send the body without Content-Encoding.")
    too_large = Problem("payload_too_large", f"The body may have {limit} bytes.")
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > limit:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem("malformed_request", "The body ended early.")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise too_large
        chunks.append(chunk)
        if not message.get("more_body"):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


@lru_cache(maxsize=256)
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def decode_body(body: bytes, kind: Any) -> Any:
    """The struct of a body, by RFC 8259 and no more.

    Raises ``malformed_request`` for what isn't JSON in UTF-8, or nested too deep; ``validation_failed`` for a duplicate
    key, NUL, half a surrogate pair, a number that isn't finite, and whatever the struct refuses.
    """
    try:
        _check_tree(_parse(body.decode("utf-8")), "", 0)
        return _decoder(kind).decode(body)
    except msgspec.ValidationError as error:
        raise _invalid_body(*_field_and_message(error)) from None
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise Problem("malformed_request", "The body must be JSON in UTF-8.") from None


def _invalid_body(field: str, message: str) -> Problem:
    """A 422; where the fault is in one object of a list, such as ``update[3].title``, ``list`` and ``index`` say so."""
    problem = invalid(field or "body", message)
    if found := re.match(r"(\w+)\[(\d+)\]", field):
        problem.members.update(list_name=found[1], index=int(found[2]))
    return problem


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise invalid(_shown(twice), "is given more than once")
    return found


def _shown(name: str) -> str:
    """As much of a client's name for something as can be put into an answer."""
    return name[:100].encode("utf-8", "replace").decode()


def _not_json(constant: str) -> NoReturn:
    raise ValueError(constant)


_parse = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_not_json).decode


def _check_tree(value: Any, path: str, depth: int) -> None:
    """Refuse what PostgreSQL can't store, or would store and no client could read back."""
    if isinstance(value, str):
        if "\0" in value:
            raise _invalid_body(path, "holds a NUL character")
        if not value.isascii() and _SURROGATE.search(value):
            raise _invalid_body(path, "holds half of a surrogate pair")
    elif isinstance(value, float | int) and not abs(value) < 1.8e308:
        raise _invalid_body(path, "holds a number that is not finite")
    elif depth > BODY_DEPTH:
        raise Problem("malformed_request", f"The body is nested more than {BODY_DEPTH} levels deep.")
    elif isinstance(value, dict):
        for name, item in cast("dict[str, Any]", value).items():
            _check_tree(name, path, depth + 1)
            _check_tree(item, f"{path}.{name[:100]}" if path else name[:100], depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[Any]", value)):
            _check_tree(item, f"{path}[{index}]", depth + 1)


_SURROGATE = re.compile("[\ud800-\udfff]")

_HINTS = {
    "Expected `datetime` with a timezone component": "is a time without an offset: add one, such as Z or +02:00",
    "Invalid RFC3339 encoded datetime": "must be a time by RFC 3339, such as 2026-01-31T18:00:00Z",
    "Invalid UUID": "must be a UUID",
}
_PATTERN_HINTS = (
    ("@", "must be a valid e-mail address"),
    ("[^", "must hold a character that can be seen"),
    ("", "may hold A-Z a-z 0-9 _ - and nothing else"),
)
"""By what the regular expression holds, the first that fits."""
_MESSAGE_LENGTH = 200


# What msgspec says of a missing or unknown field, and what our own checks say: "title: must have …".
_FIELD_NAMED = re.compile(r"(?:Object (contains unknown|missing required) field `(.*)`|(\w+): (.*))", re.DOTALL)


def _field_and_message(error: msgspec.ValidationError) -> tuple[str, str]:
    """What msgspec refused, with the field as a path such as ``update[3].title``; ``body`` for the whole of it."""
    message, _, where = str(error).partition(" - at `$")
    field = where.rstrip("`").lstrip(".").replace("[...]", "")
    if named := _FIELD_NAMED.fullmatch(message):
        kind, name, own, text = named.groups()
        message = text or ("is not a known field" if kind == "contains unknown" else "is required")
        name = _shown(own if name is None else name)
        return (field or "body" if own == "body" else f"{field}.{name}" if field else name), message
    if "matching regex" in message:
        message = next(hint for part, hint in _PATTERN_HINTS if part in message)
    message = _HINTS.get(message, message)
    if message.startswith(("Expected", "Invalid")):
        message = message[:1].lower() + message[1:]
    return field or "body", message[:_MESSAGE_LENGTH]
