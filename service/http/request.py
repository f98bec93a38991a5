"""Litestar's request, read strictly: what is unknown, repeated, or of another type is refused, never guessed.

Litestar itself converts leniently (``limit=1.0`` and ``limit=1&limit=2`` pass, the last of two equal keys wins), so
bodies, query strings, paths and preconditions are read here, by structs. Everything raises Problem.
"""

import re
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import ExitStack
from functools import cache, lru_cache
from typing import Any, TypeVar, get_args
from urllib.parse import unquote
from uuid import UUID

import litestar
import msgspec
from litestar.datastructures import State
from litestar.datastructures.headers import MediaTypeHeader
from litestar.exceptions import InternalServerException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.handlers import HTTPRouteHandler
from litestar.types import Empty
from litestar.utils import get_enum_string_value

from service.db.caller import Caller
from service.http import kept_json, strict_json
from service.http.networks import network
from service.http.reading import field_and_message, path_reader, read_pairs, read_query, unknown_parameter
from service.http.threads import Found, Threads
from service.problems import Problem, invalid

T = TypeVar("T", bound=msgspec.Struct)

JSON = "application/json"
BODY_BYTES = 1024 * 1024
"""The most a body may have; a handler that takes many objects at once may allow more."""
BODIES_BYTES = 64 * 1024 * 1024
"""What long bodies may take in all; one user, or one address without a user, may take half of it."""
SHORT_BODY_BYTES = 16 * 1024
"""Bodies up to this are not counted: connections are bounded, too."""
LAST_VERSION = 2_147_483_647
"""What a version of most rows goes up to."""

ACCEPT_BYTES = 1024
"""A longer ``Accept`` isn't looked at: the answer may be of any type then (RFC 9110, section 12.4.1)."""

_reader = Threads(1, "long-bodies")
"""Where long bodies are read, one at a time, so that they never hold the event loop."""
_strangers_reader = Threads(1, "strangers-bodies")
"""The same for those of requests that have proven no user, so that these keep nobody waiting who has."""


async def read_aside(owner: Hashable, read: Callable[..., Found], *arguments: object) -> Found:
    """What ``read`` makes of a long text of the owner's: a string stands for a network."""
    threads = _strangers_reader if isinstance(owner, str) else _reader
    return await threads.run(owner, read, *arguments)


class Request(litestar.Request[Caller, Any, State]):
    """``user`` is the caller, and the only way to the database."""

    __slots__ = ("_values",)

    scope: Any  # Litestar's types name every key, and leave out our own
    receive: Any

    @property
    def id(self) -> str:
        """What ``X-Request-ID`` says, here, in the log and in the audit trail."""
        return self.scope["state"]["request_id"]

    @property
    def sent(self) -> dict[bytes, bytes]:
        """The headers by name, in lower case; one that is repeated becomes a list (RFC 9110, section 5.3)."""
        return self.scope["state"]["headers"]

    @property
    def address(self) -> str:
        """The peer's address, or what a trusted proxy says that it is."""
        client = self.scope.get("client")
        return client[0] if client else ""

    @property
    def owner(self) -> UUID | str:
        """On whom is counted what a request takes: the user or, where none is proven yet, the client's network."""
        return self.user.proven_id or network(self.address)

    @property
    def if_match(self) -> int | None:
        """The version that ``If-Match`` names, None for any. Raises ``version_mismatch`` for what no version can be."""
        return self.if_match_up_to(LAST_VERSION)

    def if_match_up_to(self, last: int) -> int | None:
        """The same where versions go up to ``last``."""
        text = self.sent.get(b"if-match", b"*").strip()
        if text == b"*":
            return None
        if (found := re.fullmatch(rb'"([1-9][0-9]{0,9})"', text)) and int(found[1]) <= last:
            return int(found[1])
        raise Problem("version_mismatch", 'If-Match takes one ETag as it was answered, such as "3".')

    @property
    def is_large(self) -> bool:
        """Whether its body is, or may be, larger than one object's."""
        length = self.sent.get(b"content-length", b"0")
        return b"transfer-encoding" in self.sent or not length.isdigit() or int(length) > BODY_BYTES

    def filters(self, kind: type[T]) -> T:
        """The query string as the struct that the handler's decorator names as ``query``."""
        return read_query(kind, self._values)

    def check(self) -> None:
        """What can be told from the head alone: ``Accept``, parameters of the path, unknown ones of the query."""
        scope = self.scope
        handler: HTTPRouteHandler = scope["route_handler"]
        accept = self.sent.get(b"accept", b"")
        if len(accept) <= ACCEPT_BYTES and not _accepts(accept, handler.media_type):
            media_type = get_enum_string_value(handler.media_type).partition(";")[0]
            raise Problem("not_acceptable", f"Answers are {media_type}.")
        if readers := _path_readers(handler):
            # A new dictionary: Litestar remembers the one it made.
            texts = _rest(scope, before) if (before := _before_rest(handler)) else scope["path_params"]
            scope["path_params"] = {name: read(texts[name]) for name, read in readers}
        values = self._values = read_pairs(query) if (query := scope["query_string"]) else {}
        if "escape" in values and scope["method"] == "GET":
            if values.pop("escape") != ["html"]:
                raise invalid("escape", "must be html")
            scope["state"]["escape"] = True
        if values and "query" not in handler.opt:
            raise unknown_parameter(next(iter(values)))

    # The body

    async def body(self) -> bytes:
        """The body, as large as the handler allows; empty where none is taken, or it may be left out and is.

        Read without Litestar's stream, which costs 30 µs more: two generators, and its own headers.
        """
        if self._body is not Empty:
            return self._body
        handler: HTTPRouteHandler = self.scope["route_handler"]
        kind, is_required = body_type(handler)
        length = self.sent.get(b"content-length", b"0")
        if kind is None or not (is_required or length != b"0" or b"transfer-encoding" in self.sent):
            self._body = b""
            return b""
        self.check_content(JSON)
        limit = handler.resolve_request_max_body_size() or BODY_BYTES
        if length.isdigit() and int(length) > limit:
            raise RequestEntityTooLarge
        body = bytearray()  # not the pieces, each of which would take 50 bytes besides: there may be a million
        held = SHORT_BODY_BYTES
        more = True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Problem("malformed_request", "The body ended early.")
            body += message["body"]
            if len(body) > limit:
                raise RequestEntityTooLarge
            while len(body) > held:
                self._hold(SHORT_BODY_BYTES)
                held += SHORT_BODY_BYTES
            more = message["more_body"]
        self._body = bytes(body)
        if not self._body and is_required:
            raise Problem("malformed_request", "The body must be JSON in UTF-8.")
        return self._body

    def _hold(self, size: int) -> None:
        """Count a piece of a long body until the end of the request. Raises ``overloaded``."""
        held: ExitStack = self.scope["state"].setdefault("held_body", ExitStack())
        held.enter_context(self.app.state.bodies.hold(self.owner, size))

    async def json(self) -> Any:
        """The struct of the body."""
        kind, _ = body_type(self.scope["route_handler"])
        body = await self.body()
        if strict_json.is_quick(body):
            return decode_body(body, kind)
        return await read_aside(self.owner, decode_body, body, kind)

    async def stream(self) -> AsyncGenerator[bytes]:
        """The body in pieces, as they come; Litestar holds it against the handler's limit."""
        try:
            async for piece in super().stream():
                yield piece
        except InternalServerException:
            raise Problem("malformed_request", "The body ended early.") from None

    def check_content(self, *media_types: str) -> None:
        """Check what the headers say of the body. Raises ``unsupported_media_type``."""
        media_type, _, parameters = self.sent.get(b"content-type", b"").decode("latin-1").lower().partition(";")
        charset = parameters.replace(" ", "").replace('"', "")
        if media_type.strip() not in media_types or charset not in ("", "charset=utf-8"):
            raise Problem("unsupported_media_type", f"Send Content-Type: {media_types[0]}, in UTF-8.")
        if self.sent.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Problem("unsupported_media_type", "Send the body without Content-Encoding.")


@cache
def body_type(handler: Any) -> tuple[Any, bool]:
    """The struct that the handler takes as ``data``, None if it takes none, and whether it must be sent."""
    field = handler.parsed_data_field
    if field is None:
        return None, False
    kind = field.annotation
    if field.is_optional:
        (kind,) = (item for item in get_args(kind) if item is not type(None))
    return kind, not field.is_optional


def path_names(handler: Any) -> list[str]:
    """The names of the parameters in the handler's path."""
    return re.findall(r"{(\w+):", next(iter(handler.paths)))


@cache
def _path_readers(handler: Any) -> list[tuple[str, Any]]:
    """For each parameter of the path, what reads it: by the type that the handler declares."""
    fields = handler.parsed_fn_signature.parameters
    return [(name, path_reader(name, fields[name].raw)) for name in path_names(handler)]


@cache
def _before_rest(handler: Any) -> str:
    """The path before a parameter that takes the rest of it, ``{name:path}``; empty where there is none."""
    before, rest, _ = next(iter(handler.paths)).partition(":path}")
    return before.rpartition("{")[0] if rest else ""


def _rest(scope: Any, before: str) -> dict[str, str]:
    """The rest of the path as it was sent: in what the server decodes, ``%2F`` is no different from ``/``.

    Raises ``malformed_request`` for what isn't UTF-8, and ``not_found`` where a slash before it is written so.
    """
    (name,) = scope["path_params"]
    sent = re.match(rb"(?:/+[^/]+){%d}/+" % (before.count("/") - 1), scope["raw_path"])
    if not sent or re.sub("/+", "/", unquote(sent[0].decode("ascii"))) != before:
        raise Problem("not_found")
    try:
        return {name: unquote(scope["raw_path"][sent.end() :].decode("ascii"), errors="strict")}
    except ValueError:
        raise Problem("malformed_request", "The path must be UTF-8, percent-encoded.") from None


@cache
def _decoder(kind: Any) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(kind)


def decode_body(body: bytes, kind: Any) -> Any:
    """The struct of a body.

    Raises ``malformed_request`` for what isn't JSON in UTF-8, or nested too deep; ``validation_failed`` for a duplicate
    key, NUL, half a surrogate pair, a number that isn't finite, and whatever the struct refuses. Values at the paths
    that the struct names as ``kept_as_sent`` come as strings of their JSON, see `kept_json.lift`; one, however long, at
    the path that it names as ``kept_whole``, comes as msgspec.Raw.
    """
    try:
        whole: kept_json.Path | None = getattr(kind, "kept_whole", None)
        paths: kept_json.Paths = frozenset({whole}) if whole else getattr(kind, "kept_as_sent", frozenset())
        aside: str | None = None
        if not paths or not (b"\\u" in body or any(path[-1].encode() in body for path in paths)):
            strict_json.check(body)
        elif whole is None:
            body = kept_json.lift(body, paths)
        else:
            body, aside = kept_json.put_aside(body, whole)
        found = _decoder(kind).decode(body)
        if whole is not None and aside is not None:
            kept_json.put_back(found, whole, aside)
        return found
    except strict_json.RefusedJSON as error:
        raise _invalid_body(error.field, error.message) from None
    except msgspec.ValidationError as error:
        raise _invalid_body(*field_and_message(error, kind)) from None
    except strict_json.MalformedJSON as error:
        raise Problem("malformed_request", f"The body {error}.") from None
    except (ValueError, RecursionError):
        raise Problem("malformed_request", "The body must be JSON in UTF-8.") from None


def _invalid_body(field: str, message: str) -> Problem:
    """A 422; where the fault is in one object of a list, such as ``update[3].title``, ``list`` and ``index`` say so."""
    problem = invalid(field or "body", message)
    if found := re.match(r"(\w+)\[(\d+)\]", field):
        problem.members.update(list_name=found[1], index=int(found[2]))
    return problem


@lru_cache(maxsize=256)
def _accepts(accept: bytes, answered: Any) -> bool:
    """RFC 9110, section 12.5.1: of the ranges that match what is answered, the most specific one decides."""
    media_type = MediaTypeHeader(get_enum_string_value(answered).partition(";")[0])
    ranges = map(MediaTypeHeader, accept.decode("latin-1").lower().split(","))
    matching = [item for item in ranges if media_type.match(item)]
    found = [(_specificity(item), not re.fullmatch(r"0(\.0*)?", item.params.get("q", ""))) for item in matching]
    return not accept or max(found, default=((), False))[1]


def _specificity(item: MediaTypeHeader) -> tuple[bool, ...]:
    """Greater for a more specific range. Litestar's own raises OverflowError for ``q=1e999``."""
    return item.maintype != "*", item.subtype != "*", bool(item.params.keys() - {"q"})
