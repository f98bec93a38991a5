# pyright: reportMissingImports=false
"""What both contenders on FastAPI have: who asks, and the bodies of messages and turns."""

import os
import uuid
from typing import Annotated, Any, Literal

import jwt
from fastapi import Depends, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

SECRET = os.environ["JWT_SECRET"]
bearer = HTTPBearer()


async def current_user(credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]) -> uuid.UUID:
    """Who asks."""
    try:
        claims = jwt.decode(
            credentials.credentials, SECRET, algorithms=["HS256"], audience="todochat", issuer="todochat"
        )
        return uuid.UUID(claims["sub"])
    except (jwt.InvalidTokenError, ValueError) as error:
        raise HTTPException(401, "invalid token") from error


UserId = Annotated[uuid.UUID, Depends(current_user)]


class MessageCreate(BaseModel):
    """A message to be appended."""

    sender_type: Literal["user", "ai", "system"]
    content: str = Field(min_length=1, max_length=10_000)
    message_type: Literal["text", "command", "response", "error"] = "text"
    metadata: dict[str, Any] = Field(default_factory=dict)


class TurnContext(BaseModel):
    """How many of the last messages are wanted back."""

    messages: int = Field(ge=0, le=200)


class Turn(BaseModel):
    """Messages to be appended, and what is wanted back."""

    messages: list[MessageCreate] = Field(min_length=1, max_length=100)
    context: TurnContext


class ContextMessage(BaseModel):
    """A message as a model takes it."""

    model_config = ConfigDict(from_attributes=True)

    role: str
    content: str
