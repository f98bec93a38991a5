"""The ceiling of HTTP: a bare Litestar handler for each operation, which answers fixed bytes. No token, no database.

ANSWERS names a JSON file: the body of each operation's answer, as text.
"""

import json
import os
from pathlib import Path
from typing import Any

from litestar import Litestar, Request, Response, get, post

BODIES: dict[str, bytes] = {
    name: body.encode() for name, body in json.loads(Path(os.environ["ANSWERS"]).read_text()).items()
}


def _answer(name: str, status: int = 200) -> Response[bytes]:
    return Response(BODIES[name], media_type="application/json", status_code=status)


@get("/v1/todos/{id:str}")
async def get_todo() -> Response[bytes]:
    return _answer("get")


@get("/v1/todos")
async def list_todos() -> Response[bytes]:
    return _answer("list")


@post("/v1/todos")
async def create_todo(request: Request[Any, Any, Any]) -> Response[bytes]:
    await request.body()
    return _answer("create", 201)


@post("/v1/conversations/{id:str}/messages")
async def create_message(request: Request[Any, Any, Any]) -> Response[bytes]:
    await request.body()
    return _answer("append", 201)


@get("/v1/conversations/{id:str}/messages")
async def list_messages() -> Response[bytes]:
    return _answer("last")


@post("/v1/conversations/{id:str}/turns")
async def create_turn(request: Request[Any, Any, Any]) -> Response[bytes]:
    await request.body()
    return _answer("turn", 201)


app = Litestar(
    [get_todo, list_todos, create_todo, create_message, list_messages, create_turn],
    openapi_config=None,
    logging_config=None,
)
