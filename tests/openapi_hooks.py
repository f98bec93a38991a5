"""What schemathesis loads: who its requests come from. What may end its caller's session gets users of its own."""

import os
from typing import Any
from uuid import UUID

import httpx
import schemathesis

from service.auth import Tokens

URL, SECRET = "TODOCHAT_TEST_URL", "TODOCHAT_TEST_SECRET"
"""Variables that say where the service is and what it signs tokens with."""

DESTRUCTIVE = ("update_me", "delete_me", "logout_everywhere", "change_password")
USUAL, VICTIM = "usual", "victim"


class _Users:
    """A signed-in user for each purpose; the next one is registered when the session of the last has ended."""

    def __init__(self) -> None:
        self._client = httpx.Client(base_url=os.environ[URL], timeout=10)
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


if URL in os.environ:
    _users = _Users()

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
