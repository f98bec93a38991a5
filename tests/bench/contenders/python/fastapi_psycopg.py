# pyright: reportMissingImports=false
"""The contender FastAPI + psycopg: SQL by hand over psycopg's pool, each request one transaction under row security.

Written as the documentations of FastAPI and psycopg say: the pool opened by the lifespan, a connection as a
dependency, rows made into pydantic's models by a row factory, statements prepared by psycopg once they were run often.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Depends, FastAPI, HTTPException
from fastapi_common import ContextMessage, MessageCreate, Turn, UserId
from psycopg import AsyncConnection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel, Field

pool = AsyncConnectionPool(min_size=10, max_size=10, open=False)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    """The pool is there as long as the application."""
    async with pool:
        yield


app = FastAPI(lifespan=lifespan, openapi_url=None)


class TodoCreate(BaseModel):
    """A todo to be made."""

    title: str = Field(min_length=1, max_length=200)
    description: str | None = Field(default=None, max_length=1000)
    status: Literal["pending", "in_progress", "completed", "archived"] = "pending"
    priority: Literal["low", "medium", "high", "urgent"] = "medium"
    due_date: datetime | None = None
    assigned_to: UUID | None = None
    completed_at: datetime | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class Todo(BaseModel):
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
    metadata: dict[str, Any]
    version: int
    created_at: datetime
    updated_at: datetime


class Message(BaseModel):
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
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime


class TodoPage(BaseModel):
    """A page of todos."""

    items: list[Todo]


class MessagePage(BaseModel):
    """A page of messages."""

    items: list[Message]


class TurnResult(BaseModel):
    """What a turn answers."""

    messages: list[Message]
    context: list[ContextMessage]


async def transaction(user_id: UserId) -> AsyncGenerator[AsyncConnection]:
    """A connection in a transaction that row security knows the user of."""
    async with pool.connection() as connection:
        await connection.execute("SELECT set_config('app.user_id', %s, true)", (str(user_id),))
        yield connection


# Before the answer leaves, so that it is only given for what is committed.
Connection = Annotated[AsyncConnection, Depends(transaction, scope="function")]

TODO = (
    "id, number, user_id, title, description, status, completed, priority, due_date, assigned_to, completed_at,"
    " metadata, version, created_at, updated_at"
)
MESSAGE = (
    "id, conversation_id, user_id, position, sender_type, role, sender_id, content, message_type, metadata, created_at,"
    " updated_at"
)


@app.get("/v1/todos/{todo_id}")
async def get_todo(todo_id: UUID, user_id: UserId, connection: Connection) -> Todo:
    """One todo."""
    async with connection.cursor(row_factory=class_row(Todo)) as cursor:
        await cursor.execute(f"SELECT {TODO} FROM todos WHERE user_id = %s AND id = %s", (user_id, todo_id))
        todo = await cursor.fetchone()
    if todo is None:
        raise HTTPException(404, "not found")
    return todo


@app.get("/v1/todos")
async def list_todos(user_id: UserId, connection: Connection, status: str, limit: int = 50) -> TodoPage:
    """The newest of one status."""
    async with connection.cursor(row_factory=class_row(Todo)) as cursor:
        await cursor.execute(
            f"SELECT {TODO} FROM todos WHERE user_id = %s AND status = %s ORDER BY created_at DESC, id DESC LIMIT %s",
            (user_id, status, limit),
        )
        return TodoPage(items=await cursor.fetchall())


@app.post("/v1/todos", status_code=201)
async def create_todo(data: TodoCreate, user_id: UserId, connection: Connection) -> Todo:
    """A new todo."""
    values = {**data.model_dump(), "user_id": user_id, "metadata": Jsonb(data.metadata)}
    async with connection.cursor(row_factory=class_row(Todo)) as cursor:
        await cursor.execute(
            "INSERT INTO todos (user_id, title, description, status, priority, due_date, assigned_to, completed_at,"
            " metadata) VALUES (%(user_id)s, %(title)s, %(description)s, %(status)s, %(priority)s, %(due_date)s,"
            f" %(assigned_to)s, %(completed_at)s, %(metadata)s) RETURNING {TODO}",
            values,
        )
        return await cursor.fetchone()


async def append(connection: AsyncConnection, user_id: UUID, conversation_id: UUID, data: MessageCreate) -> Message:
    """Add a message to a conversation."""
    async with connection.cursor(row_factory=class_row(Message)) as cursor:
        await cursor.execute(
            "INSERT INTO messages (user_id, conversation_id, sender_type, content, message_type, metadata)"
            f" VALUES (%s, %s, %s, %s, %s, %s) RETURNING {MESSAGE}",
            (user_id, conversation_id, data.sender_type, data.content, data.message_type, Jsonb(data.metadata)),
        )
        return await cursor.fetchone()


@app.post("/v1/conversations/{conversation_id}/messages", status_code=201)
async def create_message(
    conversation_id: UUID, data: MessageCreate, user_id: UserId, connection: Connection
) -> Message:
    """A new message."""
    return await append(connection, user_id, conversation_id, data)


@app.get("/v1/conversations/{conversation_id}/messages")
async def list_messages(conversation_id: UUID, user_id: UserId, connection: Connection, limit: int = 50) -> MessagePage:
    """The last messages, newest first."""
    async with connection.cursor(row_factory=class_row(Message)) as cursor:
        await cursor.execute(
            f"SELECT {MESSAGE} FROM messages WHERE user_id = %s AND conversation_id = %s"
            " ORDER BY position DESC LIMIT %s",
            (user_id, conversation_id, limit),
        )
        return MessagePage(items=await cursor.fetchall())


@app.post("/v1/conversations/{conversation_id}/turns", status_code=201)
async def create_turn(conversation_id: UUID, data: Turn, user_id: UserId, connection: Connection) -> TurnResult:
    """Messages in order, and the last ones back."""
    messages = [await append(connection, user_id, conversation_id, each) for each in data.messages]
    async with connection.cursor(row_factory=class_row(ContextMessage)) as cursor:
        await cursor.execute(
            "SELECT role, content FROM messages WHERE user_id = %s AND conversation_id = %s"
            " ORDER BY position DESC LIMIT %s",
            (user_id, conversation_id, data.context.messages),
        )
        context = await cursor.fetchall()
    return TurnResult(messages=messages, context=context[::-1])
