"""The application: everything put together, and the one list of every route."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NoReturn, cast

import msgspec
from litestar import Litestar, Request
from litestar.config.cors import CORSConfig
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException

from service import audit, conversations, health, imports, links, messages, sign_in, tasks, todos, users
from service import exports as export
from service.commands.migrate import known_ids
from service.db import Database
from service.http.answers import LINES, Answer
from service.http.bulk import Bulk
from service.http.docs import REVALIDATE, docs_files, file_etag
from service.http.edge import App, Draining, Edge, StartupError
from service.http.endpoint import Route, Services, Shortcut, allow, file_handler, litestar_handler, options_handler
from service.http.metrics import CONTENT_TYPE, Metrics, may_read_metrics
from service.http.openapi import openapi_document
from service.identity.identities import Identities
from service.identity.issuers import Issuer
from service.identity.passwords import Passwords
from service.identity.tokens import Tokens
from service.problems import Problem
from service.settings import Settings

ROUTES: Sequence[Route] = (
    Route("GET", "/health/live", health.get_live, public=True),
    Route("GET", "/health/ready", health.get_ready, public=True),
    # Sign-in
    Route(
        "POST",
        "/v1/auth/register",
        sign_in.register,
        public=True,
        local=True,
        status=201,
        location="/v1/users/me",
        problems=("email_taken", "username_taken"),
    ),
    Route(
        "POST",
        "/v1/auth/token",
        sign_in.create_token,
        public=True,
        local=True,
        problems=("bad_credentials", "account_inactive", "rate_limited"),
    ),
    Route(
        "POST",
        "/v1/auth/refresh",
        sign_in.refresh_token,
        public=True,
        local=True,
        problems=("invalid_token", "token_expired", "account_inactive"),
    ),
    Route("POST", "/v1/auth/logout-everywhere", sign_in.logout_everywhere),
    # Users
    Route(
        "PUT",
        "/v1/users/me/password",
        sign_in.change_password,
        local=True,
        problems=("bad_credentials", "rate_limited"),
    ),
    Route("GET", "/v1/users/me", users.get_me),
    Route("PATCH", "/v1/users/me", users.update_me, problems=("username_taken", "active_todos_assigned")),
    Route("DELETE", "/v1/users/me", users.delete_me, problems=("user_has_records",)),
    Route("GET", "/v1/users", users.list_users),
    # Todos
    Route("GET", "/v1/todos", todos.list_todos),
    Route(
        "POST",
        "/v1/todos",
        todos.create_todo,
        status=201,
        location="/v1/todos/{id}",
        problems=("not_found",),
    ),
    Route(
        "POST",
        "/v1/todos/batch",
        todos.batch_todos,
        body_bytes=todos.BATCH_BYTES,
        problems=("not_found", "forbidden", "invalid_transition"),
    ),
    Route("GET", "/v1/todos/{todo_id}", todos.get_todo),
    Route("PATCH", "/v1/todos/{todo_id}", todos.update_todo, problems=("forbidden", "invalid_transition")),
    Route("DELETE", "/v1/todos/{todo_id}", todos.delete_todo, problems=("forbidden",)),
    Route("GET", "/v1/todos/{todo_id}/conversations", conversations.list_todo_conversations),
    # Conversations and messages
    Route("GET", "/v1/conversations", conversations.list_conversations),
    Route(
        "POST",
        "/v1/conversations",
        conversations.create_conversation,
        status=201,
        location="/v1/conversations/{id}",
    ),
    Route("GET", "/v1/conversations/{conversation_id}", conversations.get_conversation),
    Route("PATCH", "/v1/conversations/{conversation_id}", conversations.update_conversation),
    Route("DELETE", "/v1/conversations/{conversation_id}", conversations.delete_conversation),
    Route("GET", "/v1/conversations/{conversation_id}/todos", todos.list_conversation_todos),
    Route("GET", "/v1/conversations/{conversation_id}/messages", messages.list_messages),
    Route(
        "POST",
        "/v1/conversations/{conversation_id}/messages",
        messages.create_message,
        status=201,
        location="/v1/conversations/{conversation_id}/messages/{id}",
    ),
    Route("DELETE", "/v1/conversations/{conversation_id}/messages", messages.rewind_messages),
    Route("GET", "/v1/conversations/{conversation_id}/messages/{message_id}", messages.get_message),
    Route("PATCH", "/v1/conversations/{conversation_id}/messages/{message_id}", messages.update_message),
    Route("DELETE", "/v1/conversations/{conversation_id}/messages/{message_id}", messages.delete_message),
    Route("GET", "/v1/conversations/{conversation_id}/context", messages.get_context),
    Route(
        "POST",
        "/v1/conversations/{conversation_id}/turns",
        messages.create_turn,
        status=201,
        location="/v1/conversations/{id}",
        body_bytes=messages.TURN_BYTES,
        problems=("stale_position",),
    ),
    Route(
        "POST",
        "/v1/turns",
        messages.create_first_turn,
        status=201,
        location="/v1/conversations/{id}",
        body_bytes=messages.TURN_BYTES,
    ),
    # Links
    Route("GET", "/v1/links", links.list_links),
    Route(
        "POST",
        "/v1/links",
        links.create_link,
        status=201,
        location="/v1/links/{id}",
        problems=("not_found", "link_exists"),
    ),
    Route("GET", "/v1/links/{link_id}", links.get_link),
    Route("PATCH", "/v1/links/{link_id}", links.update_link, problems=("link_exists",)),
    Route("DELETE", "/v1/links/{link_id}", links.delete_link),
    # The audit trail
    Route("GET", "/v1/audit", audit.list_audit),
    Route("GET", "/v1/changes", audit.list_changes),
    Route(
        "POST",
        "/v1/changes/{change_id}/revert",
        audit.revert_change,
        seconds=audit.REVERT_SECONDS,
        problems=("version_mismatch", "username_taken", "link_exists"),
    ),
    # Export and import
    Route("GET", "/v1/export", export.get_export, seconds=export.EXPORT_SECONDS),
    Route(
        "POST",
        "/v1/import",
        imports.create_import,
        body_bytes=imports.IMPORT_BYTES,
        body_types=(LINES, "application/jsonl", "application/json"),
        seconds=imports.IMPORT_SECONDS,
    ),
    # Tasks: specification A's face of the todos
    Route("GET", "/api/{user_id}/tasks", tasks.list_tasks, problems=("forbidden",)),
    Route(
        "POST",
        "/api/{user_id}/tasks",
        tasks.create_task,
        status=201,
        location="/api/{user_id}/tasks/{id}",
        problems=("forbidden",),
    ),
    Route("GET", "/api/{user_id}/tasks/{task_id}", tasks.get_task, problems=("forbidden",)),
    Route("PUT", "/api/{user_id}/tasks/{task_id}", tasks.replace_task, problems=("forbidden", "invalid_transition")),
    Route("DELETE", "/api/{user_id}/tasks/{task_id}", tasks.delete_task, problems=("forbidden",)),
    Route(
        "PATCH",
        "/api/{user_id}/tasks/{task_id}/complete",
        tasks.complete_task,
        problems=("forbidden", "invalid_transition"),
    ),
)


def create_app(settings: Settings) -> Edge:
    """The ASGI application; its lifespan connects to the database and refuses a login that isn't safe to serve with.

    ``settings`` must name a database, and a secret unless there are no local accounts.
    """
    if settings.database_url is None or (settings.local_accounts and settings.jwt_secret is None):
        raise StartupError("DATABASE_URL and JWT_SECRET are needed")
    metrics = Metrics()
    draining = Draining()
    database = Database(settings, metrics.observe_query)
    metrics.pool = database.stats
    passwords = Passwords()
    tokens = _tokens(settings)
    issuers = [Issuer(issuer) for issuer in settings.issuers]
    key_sets = [issuer.key_set for issuer in issuers if issuer.key_set is not None]
    readiness = health.Readiness(draining, known_ids())
    bulk = Bulk(settings.database_pool_size)
    services = Services(
        database,
        Identities(database, tokens, issuers),
        bulk,
        {"tokens": tokens, "passwords": passwords, "readiness": readiness},
    )
    routes = [route for route in ROUTES if settings.local_accounts or not route.local]

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncGenerator[None]:
        await database.open()
        try:
            try:
                await database.ping()
                await health.refuse_unsafe_login(database)
            except Problem as problem:
                raise StartupError(
                    f"the database can't be used ({problem.detail.rstrip('.')}): check DATABASE_URL, and that it runs"
                ) from problem
            yield
        finally:
            passwords.close()
            for key_set in key_sets:
                await key_set.close()
            await database.close()

    def read_metrics(scope: dict[str, Any]) -> Answer:
        client = scope.get("client")
        is_access = tokens.is_access if tokens else _is_no_token
        if not may_read_metrics(settings.metrics_token, client and client[0], scope["headers"], is_access):
            raise Problem("unauthenticated", "Send Authorization: Bearer and METRICS_TOKEN, or an access token.")
        return Answer(200, [(b"content-type", CONTENT_TYPE.encode())], metrics.render())

    document = msgspec.json.encode(openapi_document(routes))
    files = {**docs_files(), "/schema/openapi.json": ("application/json", document)}
    methods: dict[str, set[str]] = {path: {"GET"} for path in ("/metrics", *files)}
    for route in routes:
        methods.setdefault(route.path, set()).add(route.method)
    litestar = Litestar(
        route_handlers=[
            # Before the others of their path, or Litestar adds its own, which knows the first method only.
            *(options_handler(path, found) for path, found in methods.items()),
            *(litestar_handler(route, services) for route in routes),
            file_handler("/metrics", read_metrics),
            *(file_handler(path, _file(kind, body)) for path, (kind, body) in files.items()),
        ],
        lifespan=[lifespan],
        cors_config=_cors(settings),
        openapi_config=None,
        exception_handlers={Exception: _raise_problem},
        logging_config=None,
        debug=False,
    )
    return Edge(cast(App, Shortcut(routes, services, litestar)), settings, metrics, draining)


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
            "X-Request-ID",
        ],
        expose_headers=["ETag", "Link", "Location", "Retry-After", "X-Request-ID", "Idempotency-Replayed"],
        max_age=7200,  # seconds; Chromium keeps a preflight's answer for no longer
    )


def _is_no_token(_: str) -> bool:
    return False


def _file(kind: str, body: bytes) -> Any:
    headers = [
        (b"content-type", kind.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"etag", file_etag(body)),
        REVALIDATE,
    ]

    def answer(scope: dict[str, Any]) -> Answer:
        if dict(scope["headers"]).get(b"if-none-match") == file_etag(body):
            return Answer(304, headers[2:])
        return Answer(200, headers, body)

    return answer


def _raise_problem(_: Request[Any, Any, Any], error: Exception) -> NoReturn:
    """What no route answers goes on to the edge: routing's refusals as problems, the rest to be logged there."""
    if isinstance(error, NotFoundException):
        raise Problem("not_found") from None
    if isinstance(error, MethodNotAllowedException):
        allowed = set((error.headers or {}).get("allow", "").split(", "))
        raise Problem("method_not_allowed", headers={"Allow": allow(allowed)}) from None
    if isinstance(error, HTTPException) and error.status_code < 500:
        raise Problem("malformed_request", "The request can't be read.") from None
    raise error
