"""The application: the one visible list of every handler, and every hook of Litestar's that they share.

What a decorator says of its handler besides Litestar's own words, the handler has as ``opt``, and the hooks read it:

- ``scope``: what a key must allow, ``read``, ``write`` or ``account``; or ``public``: nobody is asked for a token
- ``query``: the struct that `Request.filters` makes of the query string
- ``body_types``: the media types of a body that goes into a file, and is no ``data``
- ``if_match``: it heeds If-Match; ``location``: where what it answers is; ``creates``: it may answer 201 as well
- ``problems``: the codes that it may answer with besides those of all handlers; ``errors``: in whose shape
- ``seconds``: how long its transaction may take; ``proves_keys``: a key is looked up before anything else
- ``resource_metadata``: where a 401 says who issues tokens; ``document``: it needs the OpenAPI document
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from service import (
    audit,
    conversations,
    exports,
    health,
    imports,
    keys,
    links,
    mcp,
    messages,
    openai,
    openai_shapes,
    search,
    sign_in,
    tasks,
    todo_lists,
    todos,
    turns,
    users,
)
from service.db.caller import Caller
from service.db.database import Database
from service.db.migration_files import known_ids
from service.http.bulk import Bulk
from service.http.docs import documentation, make_document
from service.http.envelope import STRANGERS_AT_ONCE, USERS_AT_ONCE, Envelope
from service.http.metrics import Metrics
from service.http.openapi import OpenAPI
from service.http.quota import Quota
from service.http.request import BODIES_BYTES, BODY_BYTES, Request
from service.http.response import Answer, Response, problem_answer
from service.identity.authentication import Authenticator
from service.identity.issuers import Issuer
from service.identity.passwords import Passwords
from service.identity.tokens import Tokens
from service.problems import Problem, StartupError
from service.settings import Settings

if TYPE_CHECKING:
    from service.telemetry import Telemetry

HANDLERS: list[HTTPRouteHandler] = [
    health.get_live, health.get_ready, health.get_metrics,
    sign_in.logout_everywhere,
    users.get_me, users.update_me, users.delete_me, users.list_users,
    keys.list_keys, keys.create_key, keys.get_key, keys.delete_key,
    todo_lists.list_todos,
    todos.create_todo, todos.batch_todos, todos.get_todo, todos.update_todo, todos.delete_todo,
    conversations.list_todo_conversations, conversations.list_conversations, conversations.create_conversation,
    conversations.ensure_conversation, conversations.get_conversation, conversations.update_conversation,
    conversations.delete_conversation,
    todo_lists.list_conversation_todos,
    messages.list_messages, messages.create_message, messages.rewind_messages, messages.get_message,
    messages.update_message, messages.delete_message, messages.get_context, turns.create_turn,
    turns.create_first_turn,
    search.search_messages,
    links.list_links, links.create_link, links.get_link, links.update_link, links.delete_link,
    audit.list_audit, audit.list_changes, audit.revert_change,
    exports.get_export,
    imports.create_import,
    tasks.list_tasks, tasks.create_task, tasks.get_task, tasks.update_task, tasks.delete_task,
    tasks.complete_task,
]  # fmt: skip
PROTOCOL_HANDLERS: list[HTTPRouteHandler] = [
    mcp.call_mcp,
    mcp.get_resource_metadata,
    openai.create_openai_conversation,
    openai.get_openai_conversation,
    openai.update_openai_conversation,
    openai.delete_openai_conversation,
    openai.create_openai_items,
    openai.list_openai_items,
    openai.get_openai_item,
    openai.delete_openai_item,
]
"""In shapes that others have laid down: they aren't part of the OpenAPI document."""
LOCAL_HANDLERS: list[HTTPRouteHandler] = [
    sign_in.register,
    sign_in.create_token,
    sign_in.refresh_token,
    sign_in.change_password,
]
"""There only where people sign in here, and not at an outside issuer alone."""


_OPENAI_HEADERS = (
    "OpenAI-Organization",
    "OpenAI-Project",
    *(f"X-Stainless-{name}" for name in ("Arch", "Helper-Method", "Lang", "OS", "Package-Version", "Retry-Count")),
    *(f"X-Stainless-{name}" for name in ("Runtime", "Runtime-Version", "Timeout")),
)
"""What OpenAI's SDK for JavaScript sends of its own."""


def create_app(settings: Settings, telemetry: "Telemetry | None" = None, *, shares_port: bool = False) -> Envelope:
    """The ASGI application; its lifespan connects to the database and refuses a login that isn't safe to serve with.

    ``settings`` must name a database, and a secret unless there are no local accounts. With ``telemetry``, requests and
    their transactions are spans. One that ``shares_port`` with other processes doesn't start while a migration is
    pending: nobody asks there whether it is ready, and the others serve meanwhile.
    """
    if settings.database_url is None or (settings.local_accounts and settings.jwt_secret is None):
        raise StartupError("DATABASE_URL and JWT_SECRET are needed")
    metrics = Metrics()
    draining = asyncio.Event()
    migrations = known_ids()
    observe = metrics.observe_queries
    database = Database(settings, telemetry.observing(observe) if telemetry else observe)
    metrics.pool = database.stats
    tokens = _tokens(settings)
    issuers = [Issuer(issuer) for issuer in settings.issuers]
    passwords = Passwords()

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncGenerator[None]:
        await database.open()
        try:
            try:
                await database.ping()
                await health.refuse_unsafe_login(database)
                if shares_port:
                    await health.refuse_pending_migrations(database, migrations)
            except Problem as problem:
                raise StartupError(
                    f"the database can't be used ({problem.detail.rstrip('.')}): check DATABASE_URL, and that it runs"
                ) from problem
            yield
        finally:
            passwords.close()
            for issuer in issuers:
                if issuer.key_set is not None:
                    await issuer.key_set.close()
            await database.close()

    cors = _cors(settings)
    openapi = OpenAPI(version("todochat"), documentation(), has_local_accounts=settings.local_accounts)
    litestar = Litestar(
        route_handlers=[*HANDLERS, *PROTOCOL_HANDLERS, *(LOCAL_HANDLERS if settings.local_accounts else [])],
        state=State(
            {
                "settings": settings,
                "database": database,
                "authenticator": Authenticator(database, tokens, issuers),
                "tokens": tokens,
                "passwords": passwords,
                "bodies": Quota(BODIES_BYTES, refusal="Too many long bodies are being read."),
                "bulk": Bulk(settings.database_pool_size),
                "readiness": health.Readiness(draining, migrations),
                "metrics": metrics,
            }
        ),
        request_class=Request,
        response_class=Response,
        before_request=cast(Any, before_request),
        exception_handlers={Exception: cast(Any, answer_error)},
        request_max_body_size=BODY_BYTES,
        lifespan=[lifespan],
        cors_config=cors,
        openapi_config=openapi.config,
        plugins=[openapi],
        logging_config=None,
        debug=False,
    )
    if telemetry:  # Litestar's middleware stands behind its routing, and sees no request that meets no route
        litestar.asgi_handler = telemetry.around(litestar.asgi_handler)
    return Envelope(cast(Any, litestar), metrics, draining, is_full=database.is_full, cors=cors)


def _tokens(settings: Settings) -> Tokens | None:
    if not settings.local_accounts or settings.jwt_secret is None:
        return None
    return Tokens(
        settings.jwt_secret.value,
        settings.jwt_secret_previous and settings.jwt_secret_previous.value,
        settings.access_token_seconds,
        settings.refresh_token_seconds,
    )


def _cors(settings: Settings) -> CORSConfig | None:
    """What pages of other origins may send and read; None where there are none."""
    if not settings.cors_allow_origins:
        return None
    return CORSConfig(
        allow_origins=list(settings.cors_allow_origins),
        allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=[
            "Authorization",
            "Content-Type",
            "Idempotency-Key",
            "If-Match",
            "If-None-Match",
            "MCP-Protocol-Version",
            "Mcp-Method",
            "Mcp-Name",
            "traceparent",
            "tracestate",
            "X-Request-ID",
            *_OPENAI_HEADERS,
        ],
        expose_headers=["ETag", "Link", "Location", "Retry-After", "X-Request-ID", "Idempotency-Replayed"],
        max_age=7200,  # seconds; Chromium keeps a preflight's answer for no longer
    )


async def before_request(request: Request) -> Response | None:
    """Find out who asks, and refuse what the head of the request already tells."""
    scope = request.scope
    state = scope["state"]
    if scope["method"] == "OPTIONS":
        # Litestar's own answer knows the methods of one handler of the path only.
        routes = [route for route in request.app.routes if route.path_format == scope["path_template"]]
        methods = [method for route in routes if isinstance(route, HTTPRoute) for method in route.methods]
        return Response(Answer(204, [(b"allow", _allow(methods).encode())]))
    app = scope["litestar_app"].state
    options = scope["route_handler"].opt
    if "public" in options:
        caller = Caller(app.database, state["request_id"])
        state["at_once"] = STRANGERS_AT_ONCE
        if "document" in options:
            await make_document(scope["litestar_app"])
    else:
        authorization = state["headers"].get(b"authorization")
        caller = await app.authenticator.caller(authorization, state["request_id"], options["scope"], request.address)
    if "seconds" in options:
        caller.seconds = options["seconds"]
    scope["user"] = caller
    request.check()
    is_key = caller.key is not None
    # Only the database can prove a key: before its body takes up memory, and where not every answer needs the database.
    # Before a body goes to a file, it says of any caller whether the account is still there.
    is_unproven = is_key and caller.proven_id is None and "proves_keys" in options
    if is_unproven or (is_key and request.is_large) or "body_types" in options:
        await caller.run_all([])
    return None


def answer_error(request: Request, error: Exception) -> Response:
    """Every error as a problem (RFC 9457); what nobody expects goes on, to be logged and answered with 500."""
    if isinstance(error, Problem):
        problem = error
    elif isinstance(error, NotFoundException):
        problem = Problem("not_found")
    elif isinstance(error, MethodNotAllowedException):
        methods = (error.headers or {}).get("allow", "").split(", ")
        problem = Problem("method_not_allowed", headers={"Allow": _allow(methods)})
    elif isinstance(error, RequestEntityTooLarge):
        limit = request.route_handler.resolve_request_max_body_size()
        problem = Problem("payload_too_large", f"The body may have {limit} bytes.")
    elif isinstance(error, HTTPException) and error.status_code < 500:
        problem = Problem("malformed_request", "The request can't be read.")
    else:
        raise error
    handler = request.scope.get("route_handler")  # none where no route has the method
    options: dict[str, Any] = {} if handler is None else handler.opt
    if problem.code == "overloaded":
        request.scope["state"]["at_once"] = 0  # see Envelope
    else:
        is_stranger = "user" not in request.scope or request.user.proven_id is None
        request.scope["state"]["at_once"] = STRANGERS_AT_ONCE if is_stranger else USERS_AT_ONCE
    if problem.status == 401 and "user" in request.scope:
        request.user.forget_key()
    if problem.status == 401 and (path := options.get("resource_metadata")):
        # RFC 9728, section 5.1: where it says who issues tokens for it.
        problem.headers["WWW-Authenticate"] += f', resource_metadata="{mcp.base_url(request)}{path}"'
    body = openai_shapes.error_body(problem) if "errors" in options else None
    return Response(problem_answer(problem, request.id, escape="escape" in request.scope["state"], body=body))


def _allow(methods: Iterable[str]) -> str:
    """The header ``Allow`` (RFC 9110, section 10.2.1): HEAD comes with GET."""
    return ", ".join(sorted({*methods, "OPTIONS", *(("HEAD",) if "GET" in methods else ())}))
