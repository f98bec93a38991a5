# pyright: reportMissingImports=false, reportMissingTypeStubs=false
# ruff: noqa: TID251 - SQLAlchemy is what is measured here
"""The contender FastAPI + SQLModel: async, on asyncpg, with a pool, each request one transaction under row security.

Written as its documentation says, with what helps: uvloop and httptools, generated columns read back by RETURNING
instead of a refresh, response models serialized once, no relationship loaded that isn't asked for.
"""

import os
import uuid
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from fastapi_common import ContextMessage, MessageCreate, Turn, UserId
from pydantic import BaseModel, ConfigDict
from sqlalchemy import Column, DateTime, FetchedValue, Text, Uuid, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlmodel import Field, SQLModel, select
from sqlmodel.ext.asyncio.session import AsyncSession

engine = create_async_engine(
    f"postgresql+asyncpg://{os.environ['PGUSER']}@/{os.environ['PGDATABASE']}?host={os.environ['PGHOST']}",
    pool_size=10,
    max_overflow=0,
    pool_timeout=30,
    pool_recycle=3600,
)
new_session = async_sessionmaker(engine, class_=AsyncSession, expire_on_commit=False)
app = FastAPI(openapi_url=None)


class TodoBase(SQLModel):
    """What a caller may say."""

    title: str = Field(min_length=1, max_length=200)
    description: str | None = Field(default=None, max_length=1000)
    status: str = "pending"
    priority: str = "medium"
    due_date: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))
    assigned_to: uuid.UUID | None = None
    completed_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))


class Todo(TodoBase, table=True):
    """A row of todos."""

    __tablename__ = "todos"

    user_id: uuid.UUID = Field(primary_key=True)
    id: uuid.UUID | None = Field(default=None, sa_column=Column(Uuid, FetchedValue(), primary_key=True))
    number: int | None = Field(default=None, sa_column_kwargs={"server_default": FetchedValue()})
    completed: bool | None = Field(default=None, sa_column_kwargs={"server_default": FetchedValue()})
    metadata_: dict[str, Any] = Field(default_factory=dict, sa_column=Column("metadata", JSONB, nullable=False))
    version: int | None = Field(default=None, sa_column_kwargs={"server_default": FetchedValue()})
    created_at: datetime | None = Field(
        default=None, sa_column=Column(DateTime(timezone=True), server_default=FetchedValue())
    )
    updated_at: datetime | None = Field(
        default=None, sa_column=Column(DateTime(timezone=True), server_default=FetchedValue())
    )


class Message(SQLModel, table=True):
    """A row of messages."""

    __tablename__ = "messages"

    user_id: uuid.UUID = Field(primary_key=True)
    id: uuid.UUID | None = Field(default=None, sa_column=Column(Uuid, FetchedValue(), primary_key=True))
    conversation_id: uuid.UUID
    position: int | None = Field(default=None, sa_column_kwargs={"server_default": FetchedValue()})
    sender_type: str
    role: str | None = Field(default=None, sa_column_kwargs={"server_default": FetchedValue()})
    sender_id: uuid.UUID | None = Field(default=None, sa_column=Column(Uuid, FetchedValue()))
    content: str = Field(sa_column=Column(Text, nullable=False))
    message_type: str = "text"
    metadata_: dict[str, Any] = Field(default_factory=dict, sa_column=Column("metadata", JSONB, nullable=False))
    created_at: datetime | None = Field(
        default=None, sa_column=Column(DateTime(timezone=True), server_default=FetchedValue())
    )
    updated_at: datetime | None = Field(
        default=None, sa_column=Column(DateTime(timezone=True), server_default=FetchedValue())
    )


class Read(BaseModel):
    """How a row leaves."""

    model_config = ConfigDict(from_attributes=True)


class TodoRead(Read):
    """A todo as it is answered."""

    id: uuid.UUID
    number: int
    user_id: uuid.UUID
    title: str
    description: str | None
    status: str
    completed: bool
    priority: str
    due_date: datetime | None
    assigned_to: uuid.UUID | None
    completed_at: datetime | None
    metadata: dict[str, Any] = Field(alias="metadata_", serialization_alias="metadata")
    version: int
    created_at: datetime
    updated_at: datetime


class MessageRead(Read):
    """A message as it is answered."""

    id: uuid.UUID
    conversation_id: uuid.UUID
    user_id: uuid.UUID
    position: int
    sender_type: str
    role: str
    sender_id: uuid.UUID | None
    content: str
    message_type: str
    metadata: dict[str, Any] = Field(alias="metadata_", serialization_alias="metadata")
    created_at: datetime
    updated_at: datetime


class TodoCreate(TodoBase):
    """A todo to be made."""

    metadata: dict[str, Any] = Field(default_factory=dict)


class TodoPage(BaseModel):
    """A page of todos."""

    items: list[TodoRead]


class MessagePage(BaseModel):
    """A page of messages."""

    items: list[MessageRead]


class TurnRead(BaseModel):
    """What a turn answers."""

    messages: list[MessageRead]
    context: list[ContextMessage]


_CONTEXT = text("SELECT set_config('app.user_id', :user_id, true)")


async def transaction(user_id: UserId) -> AsyncIterator[AsyncSession]:
    """A session in a transaction that row security knows the user of."""
    async with new_session() as session, session.begin():
        await session.execute(_CONTEXT, {"user_id": str(user_id)})
        yield session


# Before the answer leaves, so that it is only given for what is committed.
Session = Annotated[AsyncSession, Depends(transaction, scope="function")]


@app.get("/v1/todos/{todo_id}", response_model=TodoRead)
async def get_todo(todo_id: uuid.UUID, user_id: UserId, session: Session) -> Any:
    """One todo."""
    todo = (await session.exec(select(Todo).where(Todo.user_id == user_id, Todo.id == todo_id))).first()
    if todo is None:
        raise HTTPException(404, "not found")
    return todo


@app.get("/v1/todos", response_model=TodoPage)
async def list_todos(user_id: UserId, session: Session, status: str, limit: int = 50) -> Any:
    """The newest of one status."""
    query = (
        select(Todo)
        .where(Todo.user_id == user_id, Todo.status == status)
        .order_by(Todo.created_at.desc(), Todo.id.desc())  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
        .limit(limit)
    )
    return {"items": (await session.exec(query)).all()}


@app.post("/v1/todos", response_model=TodoRead, status_code=201)
async def create_todo(data: TodoCreate, user_id: UserId, session: Session) -> Any:
    """A new todo."""
    values = data.model_dump(exclude={"metadata"})
    todo = Todo(**values, metadata_=data.metadata, user_id=user_id)
    session.add(todo)
    await session.flush()
    return todo


def _message(data: MessageCreate, user_id: uuid.UUID, conversation_id: uuid.UUID) -> Message:
    values = data.model_dump(exclude={"metadata"})
    return Message(**values, metadata_=data.metadata, user_id=user_id, conversation_id=conversation_id)


@app.post("/v1/conversations/{conversation_id}/messages", response_model=MessageRead, status_code=201)
async def create_message(conversation_id: uuid.UUID, data: MessageCreate, user_id: UserId, session: Session) -> Any:
    """A new message."""
    message = _message(data, user_id, conversation_id)
    session.add(message)
    await session.flush()
    return message


def _last(user_id: uuid.UUID, conversation_id: uuid.UUID, count: int) -> Any:
    return (
        select(Message)
        .where(Message.user_id == user_id, Message.conversation_id == conversation_id)
        .order_by(Message.position.desc())  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
        .limit(count)
    )


@app.get("/v1/conversations/{conversation_id}/messages", response_model=MessagePage)
async def list_messages(conversation_id: uuid.UUID, user_id: UserId, session: Session, limit: int = 50) -> Any:
    """The last messages, newest first."""
    return {"items": (await session.exec(_last(user_id, conversation_id, limit))).all()}


@app.post("/v1/conversations/{conversation_id}/turns", response_model=TurnRead, status_code=201)
async def create_turn(conversation_id: uuid.UUID, data: Turn, user_id: UserId, session: Session) -> Any:
    """Messages in order, and the last ones back."""
    messages = [_message(each, user_id, conversation_id) for each in data.messages]
    for message in messages:
        session.add(message)
        await session.flush()
    query = (
        select(Message.role, Message.content)
        .where(Message.user_id == user_id, Message.conversation_id == conversation_id)
        .order_by(Message.position.desc())  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
        .limit(data.context.messages)
    )
    context = (await session.exec(query)).all()
    return {"messages": messages, "context": context[::-1]}
