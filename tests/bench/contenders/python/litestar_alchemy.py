# pyright: reportMissingImports=false
# ruff: noqa: TID251 - SQLAlchemy is what is measured here
"""The contender Litestar + advanced-alchemy: as the documentations of both say, on asyncpg.

Litestar's JWT backend finds out who asks, a guard says so to row security in the request's session, controllers get
services by dependency injection, the plugin commits before the answer leaves. With what helps: generated columns read
back by RETURNING instead of a refresh, bodies and answers as msgspec's structs.
"""

import os
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from advanced_alchemy.extensions.litestar import (
    AsyncSessionConfig,
    EngineConfig,
    SQLAlchemyAsyncConfig,
    SQLAlchemyPlugin,
    base,
    filters,
    providers,
    repository,
    service,
)
from litestar import Controller, Litestar, Request, get, post
from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler
from litestar.security.jwt import JWTAuth, Token
from msgspec import Meta
from sqlalchemy import FetchedValue, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

alchemy = SQLAlchemyAsyncConfig(
    connection_string=(
        f"postgresql+asyncpg://{os.environ['PGUSER']}@/{os.environ['PGDATABASE']}?host={os.environ['PGHOST']}"
    ),
    before_send_handler="autocommit",
    session_config=AsyncSessionConfig(expire_on_commit=False),
    engine_config=EngineConfig(pool_size=10, max_overflow=0, pool_timeout=30, pool_recycle=3600),
)


def generated(**options: Any) -> Any:
    """A column that the database fills."""
    return mapped_column(server_default=FetchedValue(), **options)


class TodoModel(base.DefaultBase):
    """A row of todos."""

    __tablename__ = "todos"

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = generated(primary_key=True)
    number: Mapped[int] = generated()
    title: Mapped[str]
    description: Mapped[str | None]
    status: Mapped[str]
    completed: Mapped[bool] = generated()
    priority: Mapped[str]
    due_date: Mapped[datetime | None]
    assigned_to: Mapped[UUID | None]
    completed_at: Mapped[datetime | None]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB)
    version: Mapped[int] = generated()
    created_at: Mapped[datetime] = generated()
    updated_at: Mapped[datetime] = generated()


class MessageModel(base.DefaultBase):
    """A row of messages."""

    __tablename__ = "messages"

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = generated(primary_key=True)
    conversation_id: Mapped[UUID]
    position: Mapped[int] = generated()
    sender_type: Mapped[str]
    role: Mapped[str] = generated()
    sender_id: Mapped[UUID | None] = generated()
    content: Mapped[str]
    message_type: Mapped[str]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB)
    created_at: Mapped[datetime] = generated()
    updated_at: Mapped[datetime] = generated()


class TodoService(service.SQLAlchemyAsyncRepositoryService[TodoModel]):
    """Todos."""

    class Repository(repository.SQLAlchemyAsyncRepository[TodoModel]):
        """Their rows."""

        model_type = TodoModel

    repository_type = Repository


class MessageService(service.SQLAlchemyAsyncRepositoryService[MessageModel]):
    """Messages."""

    class Repository(repository.SQLAlchemyAsyncRepository[MessageModel]):
        """Their rows."""

        model_type = MessageModel

    repository_type = Repository

    async def append(self, user_id: UUID, conversation_id: UUID, data: "MessageCreate") -> MessageModel:
        """Add a message to a conversation."""
        values = {**msgspec.structs.asdict(data), "user_id": user_id, "conversation_id": conversation_id}
        return await self.create(values, auto_refresh=False)

    async def last(self, user_id: UUID, conversation_id: UUID, count: int) -> Sequence[MessageModel]:
        """The last messages, newest first."""
        return await self.get_many(
            filters.LimitOffset(limit=count, offset=0),
            filters.OrderBy("position", "desc"),
            user_id=user_id,
            conversation_id=conversation_id,
        )


class TodoCreate(msgspec.Struct):
    """A todo to be made."""

    title: Annotated[str, Meta(min_length=1, max_length=200)]
    description: Annotated[str, Meta(max_length=1000)] | None = None
    status: Literal["pending", "in_progress", "completed", "archived"] = "pending"
    priority: Literal["low", "medium", "high", "urgent"] = "medium"
    due_date: datetime | None = None
    assigned_to: UUID | None = None
    completed_at: datetime | None = None
    metadata_: dict[str, Any] = msgspec.field(default_factory=dict, name="metadata")


class Todo(msgspec.Struct):
    """A todo as it is answered."""

    id: UUID
    number: int
    user_id: UUID
    title: str
    description: str | None
    status: str
    completed: bool
    priority: str
    due_date: datetime | None
    assigned_to: UUID | None
    completed_at: datetime | None
    metadata_: dict[str, Any] = msgspec.field(name="metadata")
    version: int
    created_at: datetime
    updated_at: datetime


class MessageCreate(msgspec.Struct):
    """A message to be appended."""

    sender_type: Literal["user", "ai", "system"]
    content: Annotated[str, Meta(min_length=1, max_length=10_000)]
    message_type: Literal["text", "command", "response", "error"] = "text"
    metadata_: dict[str, Any] = msgspec.field(default_factory=dict, name="metadata")


class Message(msgspec.Struct):
    """A message as it is answered."""

    id: UUID
    conversation_id: UUID
    user_id: UUID
    position: int
    sender_type: str
    role: str
    sender_id: UUID | None
    content: str
    message_type: str
    metadata_: dict[str, Any] = msgspec.field(name="metadata")
    created_at: datetime
    updated_at: datetime


class TodoPage(msgspec.Struct):
    """A page of todos."""

    items: Sequence[Todo]


class MessagePage(msgspec.Struct):
    """A page of messages."""

    items: Sequence[Message]


class TurnContext(msgspec.Struct):
    """How many of the last messages are wanted back."""

    messages: Annotated[int, Meta(ge=0, le=200)]


class Turn(msgspec.Struct):
    """Messages to be appended, and what is wanted back."""

    messages: Annotated[list[MessageCreate], Meta(min_length=1, max_length=100)]
    context: TurnContext


class ContextMessage(msgspec.Struct):
    """A message as a model takes it."""

    role: str
    content: str


class TurnResult(msgspec.Struct):
    """What a turn answers."""

    messages: Sequence[Message]
    context: Sequence[ContextMessage]


class User(msgspec.Struct):
    """Who asks."""

    id: UUID


async def retrieve_user(token: Token, _: ASGIConnection[Any, Any, Any, Any]) -> User:
    """Who a token is of."""
    return User(UUID(token.sub))


async def say_who_asks(connection: ASGIConnection[Any, User, Token, Any], _: BaseRouteHandler) -> None:
    """Let row security know the user, for the transaction that the request's session is in."""
    session = alchemy.provide_session(connection.app.state, connection.scope)
    await session.execute(
        text("SELECT set_config('app.user_id', :user_id, true)"), {"user_id": str(connection.user.id)}
    )


class TodoController(Controller):
    """Todos."""

    path = "/v1/todos"
    guards = (say_who_asks,)
    dependencies = providers.create_service_dependencies(TodoService, "todos_service")

    @get("/{todo_id:uuid}")
    async def get_todo(self, request: Request[User, Token, Any], todos_service: TodoService, todo_id: UUID) -> Todo:
        """One todo."""
        todo = await todos_service.get_one(user_id=request.user.id, id=todo_id)
        return todos_service.to_schema(todo, schema_type=Todo)

    @get()
    async def list_todos(
        self, request: Request[User, Token, Any], todos_service: TodoService, status: str, limit: int = 50
    ) -> TodoPage:
        """The newest of one status."""
        todos = await todos_service.get_many(
            filters.LimitOffset(limit=limit, offset=0),
            filters.OrderBy("created_at", "desc"),
            filters.OrderBy("id", "desc"),
            user_id=request.user.id,
            status=status,
        )
        return TodoPage(todos_service.to_schema(todos, schema_type=Todo).items)

    @post()
    async def create_todo(
        self, request: Request[User, Token, Any], todos_service: TodoService, data: TodoCreate
    ) -> Todo:
        """A new todo."""
        values = {**msgspec.structs.asdict(data), "user_id": request.user.id}
        todo = await todos_service.create(values, auto_refresh=False)
        return todos_service.to_schema(todo, schema_type=Todo)


class ConversationController(Controller):
    """The messages of conversations."""

    path = "/v1/conversations/{conversation_id:uuid}"
    guards = (say_who_asks,)
    dependencies = providers.create_service_dependencies(MessageService, "messages_service")

    @post("/messages")
    async def create_message(
        self,
        request: Request[User, Token, Any],
        messages_service: MessageService,
        conversation_id: UUID,
        data: MessageCreate,
    ) -> Message:
        """A new message."""
        message = await messages_service.append(request.user.id, conversation_id, data)
        return messages_service.to_schema(message, schema_type=Message)

    @get("/messages")
    async def list_messages(
        self,
        request: Request[User, Token, Any],
        messages_service: MessageService,
        conversation_id: UUID,
        limit: int = 50,
    ) -> MessagePage:
        """The last messages, newest first."""
        messages = await messages_service.last(request.user.id, conversation_id, limit)
        return MessagePage(messages_service.to_schema(messages, schema_type=Message).items)

    @post("/turns")
    async def create_turn(
        self, request: Request[User, Token, Any], messages_service: MessageService, conversation_id: UUID, data: Turn
    ) -> TurnResult:
        """Messages in order, and the last ones back."""
        user_id = request.user.id
        messages = [await messages_service.append(user_id, conversation_id, each) for each in data.messages]
        context = await messages_service.last(user_id, conversation_id, data.context.messages)
        return TurnResult(
            messages_service.to_schema(messages, schema_type=Message).items,
            messages_service.to_schema(context[::-1], schema_type=ContextMessage).items,
        )


jwt_auth = JWTAuth[User, Token](
    retrieve_user_handler=retrieve_user,
    token_secret=os.environ["JWT_SECRET"],
    accepted_audiences=["todochat"],
    accepted_issuers=["todochat"],
)

app = Litestar(
    [TodoController, ConversationController],
    on_app_init=[jwt_auth.on_app_init],
    plugins=[SQLAlchemyPlugin(config=alchemy)],
    openapi_config=None,
)
