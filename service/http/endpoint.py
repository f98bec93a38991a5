"""Between Litestar and a handler: who asks, what they sent, and how the answer leaves. One place for every route.

A handler is a plain function; what it takes is told by its signature, and nothing else reaches it:

``caller``    who asks, and the only way to the database
``query``     a struct of the query parameters; ``data``, a struct of the body
``if_match``  the version of ``If-Match``, or None
``address``   the peer's address
``upload``    the body as a file, of any size the route allows
a parameter of the path, by its name
any other     one of the services that ``app.py`` names, such as ``tokens``

It returns a struct, a list of structs, a Page, Lines, or None. The OpenAPI document is written from the same routes.
"""

import inspect
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, cast, get_args, get_origin
from urllib.parse import parse_qsl, quote, urlencode

import msgspec
from litestar import Request
from litestar.handlers import HTTPRouteHandler

from service.db import TRANSACTION_SECONDS, Database
from service.db.queries import Caller, Tagged
from service.http.answers import LINES, Answer, Lines, problem_answer
from service.http.bulk import Bulk
from service.http.idempotency import answer_once
from service.http.paging import Page
from service.http.reading import (
    JSON,
    check_accept,
    decode_body,
    path_reader,
    read_body,
    read_headers,
    read_pairs,
    read_query,
    read_version,
    unknown_parameter,
)
from service.http.uploads import spool_body
from service.identity.identities import Identities
from service.problems import Problem, html_escaped, html_safe, invalid

BODY_BYTES = 1024 * 1024
"""The most a body may have; a route that takes many objects at once may allow more."""

_PATH_NAME = re.compile(r"{(\w+)}")

Handler = Callable[..., Awaitable[Any]]


class Route:
    """One line of the list of routes in ``app.py``.

    A ``public`` one needs no token; a ``local`` one is there only where there are local accounts.
    """

    def __init__(
        self,
        method: str,
        path: str,
        handler: Handler,
        *,
        status: int = 200,
        public: bool = False,
        local: bool = False,
        location: str = "",
        body_bytes: int = BODY_BYTES,
        body_types: tuple[str, ...] = (JSON,),
        seconds: float = TRANSACTION_SECONDS,
        problems: Sequence[str] = (),
    ) -> None:
        self.method = method
        self.path = path
        self.handler = handler
        self.name = cast("Any", handler).__name__
        self.status = status
        self.public = public
        self.local = local
        self.takes_key = method == "POST" and not public
        self.location = location
        self.body_bytes = body_bytes
        self.body_types = body_types
        self.seconds = seconds
        self.problems = tuple(problems)
        signature = inspect.signature(handler)
        kinds = {name: parameter.annotation for name, parameter in signature.parameters.items()}
        self.returns: Any = signature.return_annotation
        self.query_type: type[msgspec.Struct] | None = kinds.pop("query", None)
        self.body_type: Any = kinds.pop("data", None)
        self.body_required = type(None) not in get_args(self.body_type)
        if not self.body_required:
            # Absent is not the same as null, which is no object.
            self.body_type = next(kind for kind in get_args(self.body_type) if kind is not type(None))
        self.takes_if_match = kinds.pop("if_match", None) is not None
        self.takes_upload = kinds.pop("upload", None) is not None
        self.takes_address = kinds.pop("address", None) is not None
        kinds.pop("caller")
        self.path_parameters: dict[str, Any] = {name: kinds.pop(name) for name in _PATH_NAME.findall(path)}
        self.path_readers = [(name, path_reader(kind)) for name, kind in self.path_parameters.items()]
        self.services = tuple(kinds)
        self.media_type = LINES if self.returns is Lines else JSON
        self.is_bulk = self.takes_upload or self.returns is Lines
        self.accepted = (b"", b"*/*", self.media_type.encode())
        self.has_etag: bool = "version" in getattr(get_origin(self.returns) or self.returns, "__struct_fields__", ())
        if get_origin(self.returns) is Tagged:
            self.returns = get_args(self.returns)[0]


def _litestar_path(path: str) -> str:
    return path.replace("}", ":str}")


class _RouteHandler(HTTPRouteHandler):
    """A handler whose function answers with an ASGI application of its own making."""

    async def to_response(self, app: Any, data: Any, request: Any) -> Any:
        del app, request
        return data


class Services:
    """What the routes need; ``named`` are those that a handler may take by name."""

    def __init__(self, database: Database, identities: Identities, bulk: Bulk, named: Mapping[str, object]) -> None:
        self.database = database
        self.identities = identities
        self.bulk = bulk
        self.named = {"bulk": bulk, **named}

    def of(self, route: Route) -> dict[str, object]:
        """Those that the route's handler takes."""
        return {name: self.named[name] for name in route.services}


def litestar_handler(route: Route, services: Services) -> HTTPRouteHandler:
    """The route as Litestar knows it."""
    named = services.of(route)

    async def handle(request: Request[Any, Any, Any]) -> Any:
        return await _answer_of(route, services, named, cast("dict[str, Any]", request.scope), request.receive)

    return _RouteHandler(
        _litestar_path(route.path),
        http_method=cast("Any", route.method),
        status_code=200,
        name=route.name,
        opt={"route": route},
    )(handle)


class Shortcut:
    """Takes the requests whose path is written as in the list of routes; Litestar answers all others.

    What Litestar does around a handler (routing that remembers paths, a request object, arguments by its own rules, a
    stack of contexts) costs a quarter of a small request and has no part in the answer. What it is needed for it still
    does: other spellings of a path, OPTIONS, methods and paths that don't exist, files, the lifespan.
    """

    def __init__(self, routes: Sequence[Route], services: Services, litestar: Any) -> None:
        self.litestar = litestar
        self._services = services
        self._root = _Node()
        for route in routes:
            node = self._root
            names: list[str] = []
            for part in route.path[1:].split("/"):
                if part.startswith("{"):
                    names.append(part[1:-1])
                    node.parameter = node.parameter or _Node()
                    node = node.parameter
                else:
                    node = node.parts.setdefault(part, _Node())
            node.routes[route.method] = (route, services.of(route), names)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and (found := self._find(scope)):
            route, named, scope["path_params"] = found
            answer = await _answer_of(route, self._services, named, scope, receive)
            await answer(scope, receive, send)
        else:
            await self.litestar(scope, receive, send)

    def _find(self, scope: Mapping[str, Any]) -> "tuple[Route, Mapping[str, Any], dict[str, str]] | None":
        node = self._root
        values: list[str] = []
        for part in scope["path"][1:].split("/"):
            following = node.parts.get(part)
            if following is None:
                following = node.parameter
                if following is None or not part:
                    return None
                values.append(part)
            node = following
        if (found := node.routes.get(scope["method"])) is None:
            return None
        for name, value in scope["headers"]:
            if name == b"host" and not _PLAIN_HOST.fullmatch(value):
                return None
        route, named, names = found
        return route, named, dict(zip(names, values, strict=True))


class _Node:
    """A place in the tree of the routes' paths."""

    __slots__ = ("parameter", "parts", "routes")

    def __init__(self) -> None:
        self.parts: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.routes: dict[str, tuple[Route, Mapping[str, Any], list[str]]] = {}


_PLAIN_HOST = re.compile(rb"[a-z0-9-]+(\.[a-z0-9-]+)*(:[0-9]+)?")
"""What Litestar is certain to take; it judges the others."""


async def _answer_of(
    route: Route, services: Services, named: Mapping[str, Any], scope: dict[str, Any], receive: Any
) -> Answer | Lines:
    state = scope["state"]
    state["route"] = route.path
    try:
        return await _serve(route, services, named, scope, state["request_id"], receive)
    except Problem as problem:
        return problem_answer(problem, state["request_id"], escape=state.get("escape", False))


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


async def _serve(
    route: Route, services: Services, named: Mapping[str, Any], scope: dict[str, Any], request_id: str, receive: Any
) -> Answer | Lines:
    headers = read_headers(scope["headers"])
    if route.public:
        caller = Caller(services.database, request_id)
    else:
        caller = await services.identities.caller(headers.get(b"authorization"), request_id)
        scope["state"]["user_id"] = caller.user_id
    if (accept := headers.get(b"accept", b"")) not in route.accepted:
        check_accept(accept, route.media_type)
    caller.seconds = route.seconds
    arguments = _arguments(route, named, scope)
    if route.is_bulk:
        return await _serve_bulk(route, services, caller, arguments, scope, headers, receive)
    body = b""
    if route.body_type:
        sent = headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
        if sent or route.body_required:
            body = await read_body(headers, receive, route.body_bytes)
        arguments["data"] = decode_body(body, route.body_type) if body or route.body_required else None
    if route.takes_if_match:
        # Behind the body: a precondition counts only for what would succeed without it (RFC 9110, section 13.2.1).
        arguments["if_match"] = read_version(headers.get(b"if-match"))
    if route.takes_key and (key := headers.get(b"idempotency-key")) is not None:

        async def make() -> Answer:
            return _answer(route, await route.handler(caller, **arguments), scope, headers)

        return await answer_once(caller, key, f"{route.method} {scope['path']}", body, make)
    return _answer(route, await route.handler(caller, **arguments), scope, headers)


async def _serve_bulk(
    route: Route,
    services: Services,
    caller: Caller,
    arguments: dict[str, Any],
    scope: dict[str, Any],
    headers: Mapping[bytes, bytes],
    receive: Any,
) -> Answer | Lines:
    """What doesn't fit into memory: an answer of lines, or a body that goes to a file first."""
    if not route.takes_upload:
        return await route.handler(caller, **arguments)
    with services.bulk.arriving(caller.user_id):
        upload = await spool_body(headers, receive, route.body_bytes, route.body_types)

    async def make() -> Answer:
        return _answer(route, await route.handler(caller, upload=upload, **arguments), scope, headers)

    with upload, services.bulk.running(caller.user_id):
        if (key := headers.get(b"idempotency-key")) is not None:
            return await answer_once(caller, key, f"{route.method} {scope['path']}", upload.digest, make)
        return await make()


def _arguments(route: Route, named: Mapping[str, Any], scope: dict[str, Any]) -> dict[str, Any]:
    """What the handler takes besides the caller, the body and the precondition."""
    arguments: dict[str, Any] = dict(named)
    for name, read in route.path_readers:
        arguments[name] = read(scope["path_params"][name])
    if (query := scope["query_string"]) or route.query_type:
        values = read_pairs(query)
        if "escape" in values and route.method == "GET":
            if values.pop("escape") != ["html"]:
                raise invalid("escape", "must be html")
            scope["state"]["escape"] = True
        if route.query_type:
            arguments["query"] = read_query(route.query_type, values)
        elif values:
            raise unknown_parameter(next(iter(values)))
    if route.takes_address:
        arguments["address"] = scope["client"][0] if scope.get("client") else ""
    return arguments


# The answer

_encode = msgspec.json.Encoder().encode


def _answer(route: Route, result: Any, scope: Mapping[str, Any], sent: Mapping[bytes, bytes]) -> Answer:
    if result is None:
        return Answer(204, [])
    headers: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]
    value = cast("Tagged[Any]", result).value if isinstance(result, Tagged) else result
    if route.has_etag:
        etag = b'"%d"' % result.version
        headers.append((b"etag", etag))
        if route.method == "GET" and (known := sent.get(b"if-none-match")) and _etag_matches(known, etag):
            return Answer(304, [(b"etag", etag)])
    body = _encode(value)
    body = html_escaped(body) if "escape" in scope["state"] else html_safe(body)
    headers.append((b"content-length", b"%d" % len(body)))
    if isinstance(result, Page):
        cursor = cast("Page[Any]", result).next_cursor
        if cursor is not None:
            headers.append((b"link", _next_link(scope, cursor)))
    elif route.location:
        names = {name: quote(text, safe="") for name, text in scope["path_params"].items()}
        headers.append((b"location", route.location.format(**names, id=value.id).encode()))
    return Answer(route.status, headers, body)


_PLAIN_QUERY = re.compile(rb"[\w.~-]+=[\w.~-]*(&[\w.~-]+=[\w.~-]*)*")


def _etag_matches(sent: bytes, etag: bytes) -> bool:
    """RFC 9110, section 13.1.2: weak comparison, any of a list, or ``*``."""
    return sent.strip() == b"*" or any(tag.strip().removeprefix(b"W/") == etag for tag in sent.split(b","))


def _next_link(scope: Mapping[str, Any], cursor: str) -> bytes:
    """RFC 8288: the same request with the next cursor."""
    sent: bytes = scope["query_string"]
    if _PLAIN_QUERY.fullmatch(sent):  # nothing in it that is, or has to be, encoded
        kept = [pair for pair in sent.decode().split("&") if not pair.startswith("cursor=")]
        query = "&".join([*kept, f"cursor={cursor}"])
    else:
        pairs = [pair for pair in parse_qsl(sent.decode("latin-1"), keep_blank_values=True) if pair[0] != "cursor"]
        query = urlencode([*pairs, ("cursor", cursor)])
    return f'<{scope["path"]}?{query}>; rel="next"'.encode("latin-1")
