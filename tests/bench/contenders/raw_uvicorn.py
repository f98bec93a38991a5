"""The ceiling of the server: a plain ASGI callable that answers fixed bytes. No framework, no token, no database.

ANSWERS names a JSON file: the body of each operation's answer, as text.
"""

import json
import os
from pathlib import Path
from typing import Any

BODIES: dict[str, bytes] = {
    name: body.encode() for name, body in json.loads(Path(os.environ["ANSWERS"]).read_text()).items()
}


def _operation(method: str, path: str) -> str:
    last = path.rpartition("/")[2]
    if last == "turns":
        return "turn"
    if last == "messages":
        return "append" if method == "POST" else "last"
    if last == "todos":
        return "create" if method == "POST" else "list"
    return "get"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer every request with the body of its operation."""
    if scope["type"] != "http":
        return
    method = scope["method"]
    if method == "POST":
        while (await receive()).get("more_body"):
            pass
    body = BODIES[_operation(method, scope["path"])]
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 201 if method == "POST" else 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
