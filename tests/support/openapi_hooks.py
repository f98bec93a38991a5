"""What schemathesis loads: who its requests come from, and which objects they are about.

What may end its caller's session gets users of its own. Of the valid ids that are generated, every other one is put in
the place of: a random one leads nowhere.
"""

import collections
import copy
import json
import os
import secrets
from typing import Any
from uuid import UUID

import httpx

from service.identity.tokens import Tokens

URL, SECRET = "TODOCHAT_TEST_URL", "TODOCHAT_TEST_SECRET"
"""Variables that say where the service is and what it signs tokens with."""

DESTRUCTIVE = ("update_me", "delete_me", "logout_everywhere", "change_password")
REVERT = "POST /v1/changes/{change_id}/revert"
BATCH = "POST /v1/todos/batch"
GOOD_BATCH = {"create": [{"title": "x"}], "update": [{"id": "", "priority": "high"}], "delete": [""]}
IMPORT = "POST /v1/import"
GOOD_IMPORT = [
    {"type": "export", "format": 1, "email": None, "last_number": 0},
    {"type": "end", "todos": 0, "conversations": 0, "messages": 0, "links": 0},
]
KEY = "Idempotency-Key"
LINES = ("application/x-ndjson", "application/jsonl")
USUAL, VICTIM = "usual", "victim"
PREPARATION = "preparation"
"""The request id of what is sent from here, and not by schemathesis."""


class _Users:
    """A signed-in user for each purpose; the next one is registered when the session of the last has ended."""

    def __init__(self) -> None:
        self._client = httpx.Client(base_url=os.environ[URL], timeout=10, headers={"X-Request-ID": PREPARATION})
        self._tokens = Tokens(os.environ[SECRET], None, 900, 3600)
        self._found: dict[str, str] = {}
        self._count = 0

    def token(self, purpose: str) -> str:
        found = self._found.get(purpose)
        if found is None or (purpose == VICTIM and self._has_ended(found)):
            found = self._found[purpose] = self._register(purpose)
        return found

    def _has_ended(self, token: str) -> bool:
        return self._client.get("/v1/users/me", headers={"Authorization": f"Bearer {token}"}).status_code == 401

    def _register(self, purpose: str) -> str:
        self._count += 1
        body = {"email": f"{purpose}{self._count}@openapi.example", "password": "correct horse battery staple"}
        made = self._client.post("/v1/auth/register", json=body).raise_for_status()
        return self._tokens.issue(UUID(made.json()["id"]), 1).access_token


class _Objects:
    """Ids of objects of the usual user's, by the names of the parameters and fields that take them."""

    def __init__(self, users: _Users) -> None:
        self._users = users
        self._client = httpx.Client(base_url=os.environ[URL], timeout=10, headers={"X-Request-ID": PREPARATION})
        self._found: dict[str, str] = {}

    def ids(self) -> dict[str, str]:
        self._found = self._found or self._make()
        return self._found

    def forget(self) -> None:
        """After something that may have deleted one of them."""
        self._found = {}

    def _make(self) -> dict[str, str]:
        todo = self._post("/v1/todos", title="Buy milk")
        conversation = self._post("/v1/conversations", title="Groceries")
        messages = f"/v1/conversations/{conversation['id']}/messages"
        ends = {"todo_id": todo["id"], "conversation_id": conversation["id"]}
        return {
            **ends,
            "change_id": self._change(self._post("/v1/conversations", title="Drink")["id"]),
            "message_id": self._post(messages, sender_type="ai", content="Milk?")["id"],
            "link_id": self._post("/v1/links", **ends, relationship_type="creation")["id"],
            "user_id": todo["user_id"],
            "task_id": str(todo["number"]),
        }

    def _change(self, conversation: str) -> str:
        """An update that nothing comes after: no other request names this conversation."""
        self._send("PATCH", f"/v1/conversations/{conversation}", title="Food")
        return self._send("GET", f"/v1/audit?limit=1&row_id={conversation}")["items"][0]["id"]

    def _post(self, path: str, **body: str) -> Any:
        return self._send("POST", path, **body)

    def _send(self, method: str, path: str, **body: str) -> Any:
        headers = {"Authorization": f"Bearer {self._users.token(USUAL)}"}
        return self._client.request(method, path, json=body or None, headers=headers).raise_for_status().json()


FIELDS = {
    "todo_id": "todo_id",
    "conversation_id": "conversation_id",
    "assigned_to": "user_id",
    "sender_id": "user_id",
    "id": "todo_id",  # in the updates of a batch
}
"""What the fields of a body name that are ids."""


def _fill(body: Any, ids: dict[str, str]) -> None:
    """Put real ids into a body, and into the objects of its lists. ``delete`` of a batch is a list of ids itself."""
    if not isinstance(body, dict):
        return
    for name, value in body.items():
        if name in FIELDS and value is not None:
            body[name] = ids[FIELDS[name]]
        elif name == "external_id" and value is not None:
            body[name] = secrets.token_hex(8)  # each can be given once
        elif name == "delete" and value:
            body[name] = [ids["todo_id"]]
        elif isinstance(value, list):
            for item in value:
                _fill(item, ids)


if URL in os.environ:
    import schemathesis
    from schemathesis.core.parameters import ParameterLocation

    _users = _Users()
    _objects = _Objects(_users)
    _calls: collections.Counter[str] = collections.Counter()

    @schemathesis.serializer(*LINES)
    def lines(context: Any, value: Any) -> bytes:
        """Each object of a list is a line."""
        del context
        if isinstance(value, str | bytes):
            return value if isinstance(value, bytes) else value.encode("utf-8", "replace")
        return b"".join(json.dumps(line).encode() + b"\n" for line in (value if isinstance(value, list) else [value]))

    @schemathesis.hook
    def before_call(context: Any, case: Any, kwargs: Any) -> None:
        """Name real objects in every other request of an operation, where the generated ids are of the right form."""
        del kwargs
        label = context.operation.label
        _calls[label] += 1
        if (
            case.headers
            and KEY in case.headers
            and case.meta
            and not case.meta.is_negative_at(ParameterLocation.HEADER)
        ):
            case.headers[KEY] = secrets.token_hex(8)  # the example's would be another request's
        if _calls[label] % 2 or case.meta is None:
            return
        if case.path_parameters and not case.meta.is_negative_at(ParameterLocation.PATH):
            ids = _objects.ids()
            for name in case.path_parameters.keys() & ids.keys():
                case.path_parameters[name] = ids[name]
        if label == IMPORT and case.media_type in LINES:  # a generated one has no end that counts its lines
            places = (ParameterLocation.BODY, ParameterLocation.HEADER, ParameterLocation.QUERY)
            if not any(case.meta.is_negative_at(place) for place in places):
                case.body = "".join(json.dumps(line) + "\n" for line in GOOD_IMPORT)
        elif not case.meta.is_negative_at(ParameterLocation.BODY):
            if label == BATCH and _calls[label] % 4 == 0 and isinstance(case.body, dict):
                # Of many generated operations one nearly always breaks a rule that binds several fields.
                case.body = copy.deepcopy(GOOD_BATCH)
            _fill(case.body, _objects.ids())
        if case.method == "DELETE" or label == BATCH:
            _objects.forget()

    @schemathesis.hook
    def after_call(context: Any, case: Any, response: Any) -> None:
        """What is gone is made anew, and a change that was undone can't be undone again."""
        del case
        if response.status_code == 404 or context.operation.label == REVERT:
            _objects.forget()

    @schemathesis.auth(refresh_interval=None)
    class Session:
        """Authorizes every request; schemathesis itself tries them without and with a wrong token, too."""

        def get(self, case: Any, context: Any) -> str:
            del context
            operation_id = case.operation.definition.raw.get("operationId")
            return _users.token(VICTIM if operation_id in DESTRUCTIVE else USUAL)

        def set(self, case: Any, data: str, context: Any) -> None:
            del context
            case.headers["Authorization"] = f"Bearer {data}"
