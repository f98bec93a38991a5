"""Random work by several users at once: over every route, and beside the service by hand, in transactions that dawdle.

What it does is up to the seed; how it interleaves is up to the machine.
"""

import asyncio
import contextlib
import dataclasses
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import httpx
import psycopg
from psycopg import sql

from service.identity.tokens import TokenPair, Tokens
from tests.conftest import PASSWORD, Server, User
from tests.support.load import Answer, Ask, _Client
from tests.support.routes import ROUTES

PIECES = [
    "milk",
    "<b>&amp;</b>",
    'a "quoted" \\ word',
    "élan vital",
    "\U0001f9ea e\u0301",
    "\u2028 \u200d",
    "عربى",
    "\t\r\n",
    "'; --",
]
STATUSES = ["pending", "in_progress", "completed", "archived"]
DATES = ["2031-01-31T18:00:00+05:45", "2020-02-29T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z", None]
NUMBERS = "[1.10, 12345678901234567890123, 1e300, -0.000001, 0.1000000000000000000001]"
LOSES_TOKEN = {
    ("POST", "/v1/auth/logout-everywhere"),
    ("PUT", "/v1/users/me/password"),
    ("PATCH", "/v1/users/me"),
}
"""Done by users with a single worker, who gets a new token afterwards."""
FINE = {200, 201, 204, 304, 403, 404, 409, 412, 422, 503}

Key = tuple[str, str]


def route_key(method: str, path: str) -> Key:
    """A route, whatever the parameters of its path are called."""
    return method, re.sub(r"{\w+}", "{}", path)


EVERY_ROUTE = {route_key(route.method, route.path) for route in ROUTES}


@dataclasses.dataclass(frozen=True)
class Upload(Ask):
    """A request whose body is a file."""

    raw: bytes = b""

    def encode(self) -> bytes:
        lines = [
            f"{self.method} {self.path} HTTP/1.1",
            "Host: test",
            f"Authorization: Bearer {self.token}",
            "Content-Type: application/x-ndjson",
            f"Content-Length: {len(self.raw)}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.raw


@dataclasses.dataclass
class Account:
    """What the workers of a user know of what is theirs; much of it is gone by now."""

    user: User
    alone: bool
    token: str
    email: str
    password: str = PASSWORD
    export: bytes = b""
    todos: list[str] = dataclasses.field(default_factory=list)
    numbers: list[int] = dataclasses.field(default_factory=list)
    conversations: list[str] = dataclasses.field(default_factory=list)
    messages: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    links: list[str] = dataclasses.field(default_factory=list)
    keys: list[str] = dataclasses.field(default_factory=list)
    assigned: list[str] = dataclasses.field(default_factory=list)
    """Todos of anybody's that this user may change the status of."""
    entries: list[str] = dataclasses.field(default_factory=list)


Action = Callable[["Worker"], Ask]
ACTIONS: dict[Key, Action] = {}


def action(method: str, path: str) -> Callable[[Action], Action]:
    def register(made: Action) -> Action:
        ACTIONS[method, path] = made
        return made

    return register


class Worker:
    """One client of one user."""

    def __init__(self, name: str, run: "Workload", account: Account, seed: str) -> None:
        self.name = name
        self.run = run
        self.account = account
        self.random = random.Random(seed)
        self.sent = 0

    # What to send

    def one_of(self, known: Sequence[Any], missing: Any = "00000000-0000-7000-8000-000000000000") -> Any:
        return self.random.choice(known[-12:]) if known else missing

    def todo(self) -> Any:
        if self.random.random() < 0.2:
            return self.one_of(self.account.numbers, 1)
        if self.random.random() < 0.2:
            return self.one_of(self.random.choice(self.run.accounts).todos)
        return self.one_of(self.account.todos)

    def text(self, pieces: int = 4) -> str:
        return "x " + " ".join(self.random.choices(PIECES, k=self.random.randint(1, pieces)))

    def some(self, **choices: Callable[[], Any]) -> dict[str, Any]:
        """Some of these fields, at least one."""
        names = self.random.sample(sorted(choices), self.random.randint(1, len(choices)))
        return {name: choices[name]() for name in names}

    def metadata(self) -> dict[str, Any]:
        return {self.text(2): [None, True, self.random.randint(-5, 10**12), {"deep": [self.text()]}]}

    def assignee(self) -> str | None:
        return self.random.choice([None, *(str(account.user.id) for account in self.run.accounts if not account.alone)])

    def todo_fields(self) -> dict[str, Any]:
        return self.some(
            description=lambda: self.random.choice([None, self.text(20)]),
            status=lambda: self.random.choice(STATUSES),
            priority=lambda: self.random.choice(["low", "medium", "high", "urgent"]),
            due_date=lambda: self.random.choice(DATES),
            assigned_to=self.assignee,
            metadata=self.metadata,
        )

    def message(self) -> dict[str, Any]:
        made = {"sender_type": self.random.choice(["user", "ai", "system"]), "content": self.text(60)}
        if self.random.random() < 0.5:
            made |= {"message_type": self.random.choice(["text", "command", "response", "error"])}
            made |= {"metadata": self.metadata()}
        return made

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Ask:
        """A version to match, or a key, now and then."""
        if method in ("PATCH", "DELETE") and self.random.random() < 0.2:
            headers["If-Match"] = f'"{self.random.randint(1, 3)}"'
        if method == "POST" and not path.startswith("/v1/auth/") and self.random.random() < 0.2:
            headers["Idempotency-Key"] = f"{self.name} {self.random.randint(1, 5)}"
        return Ask(method, path, self.account.token, body, headers)

    # Sending it

    async def step(self, client: _Client, key: Key) -> None:
        await self.do(client, key, ACTIONS[key](self))

    async def do(self, client: _Client, key: Key, ask: Ask) -> Answer:
        self.sent += 1
        request_id = f"{self.name}-{self.sent}"
        ask = dataclasses.replace(ask, headers={**ask.headers, "X-Request-ID": request_id})
        if key == ("GET", "/v1/export"):  # streamed, in chunks
            got = await asyncio.to_thread(self.account.user.client.get, ask.path, headers=ask.headers)
            self.account.export = got.content
            answer = Answer(got.status_code, None, None, None, 0, 0)
        else:
            answer = await client.send(ask)
        self.run.outcomes[key, answer.status] += 1
        self.run.askers[request_id] = self.account.user.id
        expected = FINE | ({401} if self.account.alone else set())
        assert answer.status in expected, (ask, answer)
        if answer.status < 300:
            self.learn(key, ask, answer)
        if self.account.alone and key in LOSES_TOKEN:
            self.account.token = self.run.new_tokens(self.account.user.id).access_token
        return answer

    def learn(self, key: Key, ask: Ask, answer: Answer) -> None:
        account, body = self.account, answer.body
        match key:
            case "POST", "/v1/todos":
                account.todos.append(body["id"])
                account.numbers.append(body["number"])
                self.run.note_assignee(body)
            case "PATCH", "/v1/todos/{}":
                self.run.note_assignee(body)
            case "POST", "/v1/todos/batch":
                account.todos += [todo["id"] for todo in body["create"]]
            case "POST", "/api/{}/tasks":
                account.numbers.append(body["id"])
            case "POST", "/v1/conversations":
                account.conversations.append(body["id"])
            case "POST", "/v1/conversations/{}/messages":
                account.messages.append((body["conversation_id"], body["id"]))
            case "POST", "/v1/turns" | "/v1/conversations/{}/turns":
                account.conversations.append(body["messages"][0]["conversation_id"])
                account.messages += [(message["conversation_id"], message["id"]) for message in body["messages"]]
            case "POST", "/v1/links":
                account.links.append(body["id"])
            case "POST", "/v1/keys":
                account.keys.append(body["id"])
            case "GET", "/v1/links":
                account.links += [link["id"] for link in body["items"]]
            case "GET", "/v1/audit":
                account.entries += [entry["id"] for entry in reversed(body["items"]) if entry["action"] != "insert"]
            case "PUT", "/v1/users/me/password":
                account.password = ask.body["new_password"]
            case _:
                pass

    async def work(self, steps: int) -> None:
        """Each route once, in any order, and then what comes."""
        keys = sorted(key for key in ACTIONS if key in EVERY_ROUTE and (self.account.alone or key not in LOSES_TOKEN))
        fast = [key for key in keys if not key[1].startswith(("/v1/auth/", "/health/")) and "password" not in key[1]]
        first = [("POST", "/v1/todos"), ("POST", "/v1/turns"), ("POST", "/v1/turns"), ("POST", "/v1/links")]
        weights = [1 if method == "GET" else 3 for method, _ in fast]
        chosen = [*first, *self.random.sample(keys, len(keys)), *self.random.choices(fast, weights, k=steps)]
        client = _Client(self.run.server.url)
        try:
            for key in chosen:
                await self.step(client, key)
        finally:
            await client.close()

    async def hand_over(self, other: "Worker") -> None:
        """A todo that another one makes a change to, which is undone."""
        client = _Client(self.run.server.url)
        try:
            body = {"title": "to be done by another", "assigned_to": str(other.account.user.id)}
            made = await self.do(client, ("POST", "/v1/todos"), Ask("POST", "/v1/todos", self.account.token, body))
            path = f"/v1/todos/{made.body['id']}"
            change = Ask("PATCH", path, other.account.token, {"status": "in_progress"})
            await other.do(client, ("PATCH", "/v1/todos/{}"), change)
            await self.step(client, ("GET", "/v1/audit"))
            path = f"/v1/changes/{self.account.entries[-1]}/revert"
            await self.do(client, ("POST", "/v1/changes/{}/revert"), Ask("POST", path, self.account.token))
        finally:
            await client.close()

    async def make_up(self) -> None:
        """What nobody had any success with in the crowd, with something fresh to try it on."""
        client = _Client(self.run.server.url)
        account = self.account
        try:
            for key in sorted(ACTIONS.keys() - MAY_FAIL):
                for _ in range(20):
                    if self.run.took_effect(key):
                        break
                    for known in (account.todos, account.numbers, account.conversations, account.messages):
                        known.clear()
                    made = await self.do(
                        client, ("POST", "/v1/todos"), Ask("POST", "/v1/todos", account.token, {"title": "fresh"})
                    )
                    said = {"messages": [{"sender_type": "ai", "content": "fresh"}] * 3}
                    await self.do(client, ("POST", "/v1/turns"), Ask("POST", "/v1/turns", account.token, said))
                    link = {"todo_id": made.body["id"], "conversation_id": account.conversations[-1]}
                    account.links.clear()
                    await self.do(client, ("POST", "/v1/links"), Ask("POST", "/v1/links", account.token, link))
                    await self.step(client, key)
        finally:
            await client.close()


MAY_FAIL = {
    ("POST", "/v1/auth/register"),  # registering is what a user begins with
    ("DELETE", "/v1/users/me"),  # refused to whoever has records, and these have
}
"""The routes that need not take effect for the work to be complete."""


class Workload:
    """``accounts`` and what came of their requests; ``askers`` says whose request an id was."""

    def __init__(self, server: Server, new_user: Callable[..., User], admin: "psycopg.Connection[Any]") -> None:
        self.server = server
        self.admin = admin
        self.tokens = Tokens(server.env["JWT_SECRET"], None, 900, 3600)
        self.accounts: list[Account] = []
        self.outcomes: Counter[tuple[Key, int]] = Counter()
        self.askers: dict[str, UUID] = {}
        for alone in (False, False, True):
            user = new_user()
            self.accounts.append(Account(user, alone, user.token, user.email))

    def took_effect(self, key: Key) -> bool:
        return any(made == key and status < 300 and count for (made, status), count in self.outcomes.items())

    def note_assignee(self, todo: dict[str, Any]) -> None:
        for account in self.accounts:
            if str(account.user.id) == todo["assigned_to"]:
                account.assigned.append(todo["id"])

    def new_tokens(self, user_id: UUID) -> TokenPair:
        """For a user who may just have given theirs up, or deactivated the account: it is active again."""
        self.admin.execute("UPDATE users SET is_active = true WHERE id = %s AND NOT is_active", (user_id,))
        found = self.admin.execute("SELECT token_version FROM users WHERE id = %s", (user_id,)).fetchone()
        assert found
        return self.tokens.issue(user_id, found[0])

    def run(self, seed: str, steps: int, transactions: int, beside: Sequence[Callable[[], Any]] = ()) -> None:
        """Two workers and two hands in the database for each user, one worker for who is alone; and more ``beside``."""

        async def all_of_it() -> None:
            async with asyncio.TaskGroup() as group:
                for place, account in enumerate(self.accounts):
                    for number in range(1 if account.alone else 2):
                        name = f"worker-{place}-{number}"
                        group.create_task(Worker(name, self, account, f"{seed} {name}").work(steps))
                    for number in range(2):
                        name = f"hand-{place}-{number}"
                        hand = Hand(name, self.server.database.service_url, account.user.id, f"{seed} {name}")
                        group.create_task(hand.work(transactions))
                others = [asyncio.create_task(task()) for task in beside]
            one, two = self.accounts[:2]
            await Worker("last-0", self, one, seed).hand_over(Worker("last-1", self, two, seed))
            await Worker("last-2", self, self.accounts[-1], seed).make_up()
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        try:
            asyncio.run(all_of_it())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None


# The routes


@action("GET", "/health/live")
def _(worker: Worker) -> Ask:
    return worker.send("GET", "/health/live")


@action("GET", "/health/ready")
def _(worker: Worker) -> Ask:
    return worker.send("GET", "/health/ready")


@action("POST", "/v1/auth/register")
def _(worker: Worker) -> Ask:
    taken = {"email": worker.account.email, "password": "too short"}
    return Ask("POST", "/v1/auth/register", None, taken)


@action("POST", "/v1/auth/token")
def _(worker: Worker) -> Ask:
    account = worker.account
    return Ask("POST", "/v1/auth/token", None, {"email": account.email, "password": account.password})


@action("POST", "/v1/auth/refresh")
def _(worker: Worker) -> Ask:
    found = worker.run.new_tokens(worker.account.user.id)
    return Ask("POST", "/v1/auth/refresh", None, {"refresh_token": found.refresh_token})


@action("POST", "/v1/auth/logout-everywhere")
def _(worker: Worker) -> Ask:
    return worker.send("POST", "/v1/auth/logout-everywhere")


@action("PUT", "/v1/users/me/password")
def _(worker: Worker) -> Ask:
    new = f"{PASSWORD} {worker.sent}"
    return worker.send(
        "PUT", "/v1/users/me/password", {"current_password": worker.account.password, "new_password": new}
    )


@action("GET", "/v1/users/me")
def _(worker: Worker) -> Ask:
    return worker.send("GET", "/v1/users/me")


@action("PATCH", "/v1/users/me")
def _(worker: Worker) -> Ask:
    name = worker.random.choice([None, f"name-{worker.name}-{worker.random.randint(1, 3)}"])
    change = worker.some(username=lambda: name, full_name=worker.text, is_active=lambda: False)
    return worker.send("PATCH", "/v1/users/me", change)


@action("DELETE", "/v1/users/me")
def _(worker: Worker) -> Ask:
    return worker.send("DELETE", "/v1/users/me")  # refused: there is a todo, always


@action("GET", "/v1/users")
def _(worker: Worker) -> Ask:
    return worker.send("GET", "/v1/users?username=somebody")


@action("GET", "/v1/todos")
def _(worker: Worker) -> Ask:
    return worker.send("GET", f"/v1/todos?scope={worker.random.choice(['owned', 'assigned', 'all'])}&limit=5")


@action("POST", "/v1/todos")
def _(worker: Worker) -> Ask:
    body = {"title": worker.text(), **worker.todo_fields()}
    if worker.random.random() < 0.3:
        body["conversation_id"] = worker.one_of(worker.account.conversations)
    if worker.random.random() < 0.3:
        body["assigned_to"] = worker.assignee()
    return worker.send("POST", "/v1/todos", body)


@action("POST", "/v1/todos/batch")
def _(worker: Worker) -> Ask:
    random = worker.random
    create = [{"title": worker.text()} for _ in range(random.randint(1, 3))]
    update = [{"id": worker.one_of(worker.account.todos), **worker.todo_fields()} for _ in range(random.randint(0, 2))]
    delete = [worker.one_of(worker.account.todos) for _ in range(random.randint(0, 1))]
    return worker.send("POST", "/v1/todos/batch", {"create": create, "update": update, "delete": delete})


@action("GET", "/v1/todos/{}")
def _(worker: Worker) -> Ask:
    return worker.send("GET", f"/v1/todos/{worker.todo()}")


@action("PATCH", "/v1/todos/{}")
def _(worker: Worker) -> Ask:
    body = {"title": worker.text(), **worker.todo_fields()} if worker.random.random() < 0.5 else worker.todo_fields()
    if worker.account.assigned and worker.random.random() < 0.4:
        status = worker.random.choice(STATUSES)
        return worker.send("PATCH", f"/v1/todos/{worker.one_of(worker.account.assigned)}", {"status": status})
    if worker.random.random() < 0.2:
        body["conversation_id"] = worker.one_of(worker.account.conversations)
    return worker.send("PATCH", f"/v1/todos/{worker.todo()}", body)


@action("DELETE", "/v1/todos/{}")
def _(worker: Worker) -> Ask:
    return worker.send("DELETE", f"/v1/todos/{worker.todo()}")


@action("GET", "/v1/todos/{}/conversations")
def _(worker: Worker) -> Ask:
    return worker.send("GET", f"/v1/todos/{worker.todo()}/conversations")


@action("GET", "/v1/conversations")
def _(worker: Worker) -> Ask:
    return worker.send("GET", "/v1/conversations?messages=2&limit=3")


@action("POST", "/v1/conversations")
def _(worker: Worker) -> Ask:
    return worker.send("POST", "/v1/conversations", worker.some(title=worker.text, metadata=worker.metadata))


@action("GET", "/v1/conversations/{}")
def _(worker: Worker) -> Ask:
    return worker.send("GET", f"/v1/conversations/{worker.one_of(worker.account.conversations)}")


@action("PATCH", "/v1/conversations/{}")
def _(worker: Worker) -> Ask:
    change = worker.some(title=lambda: worker.random.choice([None, worker.text()]), metadata=worker.metadata)
    return worker.send("PATCH", f"/v1/conversations/{worker.one_of(worker.account.conversations)}", change)


@action("DELETE", "/v1/conversations/{}")
def _(worker: Worker) -> Ask:
    return worker.send("DELETE", f"/v1/conversations/{worker.one_of(worker.account.conversations)}")


@action("GET", "/v1/conversations/{}/todos")
def _(worker: Worker) -> Ask:
    return worker.send("GET", f"/v1/conversations/{worker.one_of(worker.account.conversations)}/todos")


@action("GET", "/v1/conversations/{}/messages")
def _(worker: Worker) -> Ask:
    return worker.send("GET", f"/v1/conversations/{worker.one_of(worker.account.conversations)}/messages?limit=3")


@action("POST", "/v1/conversations/{}/messages")
def _(worker: Worker) -> Ask:
    path = f"/v1/conversations/{worker.one_of(worker.account.conversations)}/messages"
    return worker.send("POST", path, worker.message())


@action("DELETE", "/v1/conversations/{}/messages")
def _(worker: Worker) -> Ask:
    place = worker.random.randint(2, 6)
    path = f"/v1/conversations/{worker.one_of(worker.account.conversations)}/messages?from_position={place}"
    return worker.send("DELETE", path)


def _message_path(worker: Worker) -> str:
    conversation, message = worker.one_of(worker.account.messages, ("not-an-id", "not-an-id"))
    return f"/v1/conversations/{conversation}/messages/{message}"


@action("GET", "/v1/conversations/{}/messages/{}")
def _(worker: Worker) -> Ask:
    return worker.send("GET", _message_path(worker))


@action("PATCH", "/v1/conversations/{}/messages/{}")
def _(worker: Worker) -> Ask:
    change = worker.some(content=worker.text, message_type=lambda: "error", metadata=worker.metadata)
    return worker.send("PATCH", _message_path(worker), change)


@action("DELETE", "/v1/conversations/{}/messages/{}")
def _(worker: Worker) -> Ask:
    return worker.send("DELETE", _message_path(worker))


@action("GET", "/v1/conversations/{}/context")
def _(worker: Worker) -> Ask:
    return worker.send("GET", f"/v1/conversations/{worker.one_of(worker.account.conversations)}/context?messages=3")


def _turn(worker: Worker) -> dict[str, Any]:
    return {"messages": [worker.message() for _ in range(worker.random.randint(1, 4))], "context": {"messages": 2}}


@action("POST", "/v1/conversations/{}/turns")
def _(worker: Worker) -> Ask:
    body = _turn(worker)
    if worker.random.random() < 0.3:
        body["expected_position"] = worker.random.randint(0, 6)
    return worker.send("POST", f"/v1/conversations/{worker.one_of(worker.account.conversations)}/turns", body)


@action("POST", "/v1/turns")
def _(worker: Worker) -> Ask:
    return worker.send("POST", "/v1/turns", {**_turn(worker), "title": worker.text()})


@action("PUT", "/v1/conversations/by-external-id/{}")
def _(worker: Worker) -> Ask:
    name = f"chat-{worker.random.randint(1, 5)}"
    return worker.send("PUT", f"/v1/conversations/by-external-id/{name}", {"title": worker.text()})


@action("GET", "/v1/messages")
def _(worker: Worker) -> Ask:
    return worker.send("GET", "/v1/messages?q=milk")


@action("GET", "/v1/keys")
def _(worker: Worker) -> Ask:
    return worker.send("GET", "/v1/keys")


@action("POST", "/v1/keys")
def _(worker: Worker) -> Ask:
    return worker.send("POST", "/v1/keys", {"name": worker.text(), "scope": worker.random.choice(["read", "write"])})


@action("GET", "/v1/keys/{}")
def _(worker: Worker) -> Ask:
    return worker.send("GET", f"/v1/keys/{worker.one_of(worker.account.keys)}")


@action("DELETE", "/v1/keys/{}")
def _(worker: Worker) -> Ask:
    return Ask("DELETE", f"/v1/keys/{worker.one_of(worker.account.keys)}", worker.account.token)


@action("GET", "/v1/links")
def _(worker: Worker) -> Ask:
    return worker.send("GET", "/v1/links?limit=5")


@action("POST", "/v1/links")
def _(worker: Worker) -> Ask:
    account = worker.account
    body = {"todo_id": worker.one_of(account.todos), "conversation_id": worker.one_of(account.conversations)}
    kind = worker.random.choice(["discussion", "update", "creation"])
    return worker.send("POST", "/v1/links", {**body, "relationship_type": kind})


@action("GET", "/v1/links/{}")
def _(worker: Worker) -> Ask:
    return worker.send("GET", f"/v1/links/{worker.one_of(worker.account.links)}")


@action("PATCH", "/v1/links/{}")
def _(worker: Worker) -> Ask:
    change = {"relationship_type": worker.random.choice(["discussion", "update", "creation"])}
    return worker.send("PATCH", f"/v1/links/{worker.one_of(worker.account.links)}", change)


@action("DELETE", "/v1/links/{}")
def _(worker: Worker) -> Ask:
    return worker.send("DELETE", f"/v1/links/{worker.one_of(worker.account.links)}")


@action("GET", "/v1/audit")
def _(worker: Worker) -> Ask:
    return worker.send("GET", f"/v1/audit?limit={worker.random.randint(1, 50)}")


@action("GET", "/v1/changes")
def _(worker: Worker) -> Ask:
    return worker.send("GET", f"/v1/changes?limit={worker.random.randint(1, 50)}")


@action("POST", "/v1/changes/{}/revert")
def _(worker: Worker) -> Ask:
    return worker.send("POST", f"/v1/changes/{worker.one_of(worker.account.entries)}/revert")


@action("GET", "/v1/export")
def _(worker: Worker) -> Ask:
    return worker.send("GET", "/v1/export")


@action("POST", "/v1/import")
def _(worker: Worker) -> Ask:
    """What was exported a while ago: some of it has been deleted since, and comes back."""
    return Upload("POST", "/v1/import", worker.account.token, raw=worker.account.export)


def _tasks(worker: Worker, number: int | None = None, end: str = "") -> str:
    return f"/api/{worker.account.user.id}/tasks" + ("" if number is None else f"/{number}{end}")


@action("GET", "/api/{}/tasks")
def _(worker: Worker) -> Ask:
    return worker.send("GET", _tasks(worker))


@action("POST", "/api/{}/tasks")
def _(worker: Worker) -> Ask:
    return worker.send("POST", _tasks(worker), {"title": worker.text(), "description": worker.text()})


@action("GET", "/api/{}/tasks/{}")
def _(worker: Worker) -> Ask:
    return worker.send("GET", _tasks(worker, worker.one_of(worker.account.numbers, 1)))


@action("PUT", "/api/{}/tasks/{}")
def _(worker: Worker) -> Ask:
    body = {"title": worker.text(), "description": worker.text(), "completed": worker.random.random() < 0.5}
    return worker.send("PUT", _tasks(worker, worker.one_of(worker.account.numbers, 1)), body)


@action("DELETE", "/api/{}/tasks/{}")
def _(worker: Worker) -> Ask:
    return worker.send("DELETE", _tasks(worker, worker.one_of(worker.account.numbers, 1)))


@action("PATCH", "/api/{}/tasks/{}/complete")
def _(worker: Worker) -> Ask:
    body = worker.random.choice([None, {"completed": True}, {"completed": False}])
    return worker.send("PATCH", _tasks(worker, worker.one_of(worker.account.numbers, 1), "/complete"), body)


# By hand, as the service's login

_ME = "nullif(current_setting('app.user_id'), '')::uuid"


def _some(table: str, count: int = 1) -> str:
    """Any rows of one's own; the salt is the statement's only parameter."""
    return f"(SELECT id FROM {table} WHERE user_id = {_ME} ORDER BY md5(id::text || %(salt)s) LIMIT {count})"


BY_HAND = {
    "several todos": "INSERT INTO todos (user_id, title, status, metadata) SELECT"
    f" {_ME}, 'by hand ' || n, (ARRAY['pending', 'completed'])[1 + n %% 2], '{{\"n\": {NUMBERS}}}'"
    " FROM generate_series(1, 3) AS n",
    "a title": f"UPDATE todos SET title = left(title, 20) || %(salt)s WHERE user_id = {_ME} AND id = {_some('todos')}",
    "several statuses": "UPDATE todos SET status = CASE status WHEN 'archived' THEN 'pending' ELSE 'archived' END"
    f" WHERE user_id = {_ME} AND id IN {_some('todos', 3)}",
    "a todo gone": f"DELETE FROM todos WHERE user_id = {_ME} AND id = {_some('todos')}",
    "nothing new": "UPDATE todos SET title = title, metadata = metadata, due_date = due_date"
    f" WHERE user_id = {_ME} AND id IN {_some('todos', 3)}",
    "nothing new of a message": f"UPDATE messages SET content = content WHERE user_id = {_ME}"
    f" AND id IN {_some('messages', 3)}",
    "an upsert": f"INSERT INTO todos (user_id, id, title) SELECT {_ME}, id, 'x' FROM todos WHERE user_id = {_ME}"
    f" AND id = {_some('todos')} ON CONFLICT (user_id, id) DO UPDATE SET title = excluded.title || %(salt)s",
    "a merge": f"MERGE INTO todos AS t USING (SELECT {_ME} AS user_id, id FROM (SELECT {_some('todos')} AS id UNION"
    " SELECT uuid7()) AS ids WHERE id IS NOT NULL) AS s ON t.user_id = s.user_id AND t.id = s.id"
    " WHEN MATCHED THEN UPDATE SET description = %(salt)s"
    " WHEN NOT MATCHED THEN INSERT (user_id, id, title) VALUES (s.user_id, s.id, 'merged')",
    "a link of another type": "WITH gone AS (DELETE FROM todo_conversation_links WHERE"
    f" user_id = {_ME} AND id = {_some('todo_conversation_links')} RETURNING *) INSERT INTO todo_conversation_links"
    " (user_id, todo_id, conversation_id, relationship_type) SELECT user_id, todo_id, conversation_id,"
    " CASE relationship_type WHEN 'update' THEN 'creation' ELSE 'update' END FROM gone ON CONFLICT DO NOTHING",
    "messages, one of them dated back": "INSERT INTO messages (user_id, conversation_id, sender_type, content,"
    f" created_at) SELECT {_ME}, c.id, 'ai', 'by hand', NULLIF(now() - n * interval '1 day', now())"
    f" FROM generate_series(0, 1) AS n, {_some('conversations')} AS c",
    "an older message": "INSERT INTO messages (user_id, conversation_id, sender_type, content, created_at)"
    f" SELECT {_ME}, c.id, 'user', 'older', now() - interval '1 hour' FROM {_some('conversations')} AS c",
    "contents": "UPDATE messages SET content = left(content, 50) || %(salt)s, message_type = 'response'"
    f" WHERE user_id = {_ME} AND id IN {_some('messages', 2)}",
    "messages gone": f"DELETE FROM messages WHERE user_id = {_ME} AND id IN {_some('messages', 2)}",
    "a conversation gone": f"DELETE FROM conversations WHERE user_id = {_ME} AND id = {_some('conversations')}",
    "a conversation": f"INSERT INTO conversations (user_id, title) VALUES ({_ME}, %(salt)s)",
    "a name": f"UPDATE users SET full_name = %(salt)s WHERE id = {_ME}",
    "twins of two tables": f"INSERT INTO todos (user_id, id, title) SELECT {_ME}, id, 'twin' FROM conversations"
    f" WHERE user_id = {_ME} AND id = {_some('conversations')} ON CONFLICT DO NOTHING",
    "one's own twin": f"INSERT INTO todos (user_id, id, title) VALUES ({_ME}, {_ME}, 'I') ON CONFLICT DO NOTHING",
    "a todo once more": f"INSERT INTO todos (user_id, id, title) SELECT {_ME}, row_id, 'again' FROM audit_log WHERE"
    f" user_id = {_ME} AND table_name = 'todos' AND action = 'delete' ORDER BY md5(row_id::text || %(salt)s) LIMIT 1"
    " ON CONFLICT DO NOTHING",
    "the least id": f"INSERT INTO conversations (user_id, id, title) VALUES ({_ME}, '{UUID(int=0)}', 'least')"
    " ON CONFLICT DO NOTHING",
    "the least ids": "INSERT INTO todo_conversation_links (user_id, id, todo_id, conversation_id) SELECT"
    f" {_ME}, '{UUID(int=0)}', t.id, c.id FROM {_some('todos')} AS t, {_some('conversations')} AS c"
    " ON CONFLICT DO NOTHING",
    "an outside account": f"INSERT INTO identities (user_id, issuer, subject) VALUES ({_ME}, 'i', {_ME} || %(salt)s)",
    "an outside account gone": f"DELETE FROM identities WHERE user_id = {_ME} AND id = {_some('identities')}",
}
SETTINGS = [
    "SET LOCAL TimeZone = 'Asia/Kathmandu'",
    "SET LOCAL DateStyle = 'SQL, DMY'",
    "SET LOCAL TimeZone = 'America/St_Johns'",
    "SET LOCAL app.restoring = 'on'",
    "SET LOCAL search_path = pg_temp, public",
]


class Hand:
    """Somebody at the database with the service's login, who thinks between statements."""

    def __init__(self, name: str, url: str, user_id: UUID, seed: str) -> None:
        self.name = name
        self.url = url
        self.user_id = user_id
        self.random = random.Random(seed)

    async def work(self, transactions: int) -> None:
        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as connection:
            await connection.execute("SET lock_timeout = '50ms'")  # before anybody could be in a deadlock
            await connection.execute("SET idle_in_transaction_session_timeout = 0")  # a busy machine is no fault
            for number in range(transactions):
                await self.transaction(connection, number)
                await asyncio.sleep(self.random.random() * 0.01)

    async def transaction(self, connection: "psycopg.AsyncConnection[Any]", number: int) -> None:
        with contextlib.suppress(psycopg.errors.LockNotAvailable, psycopg.IntegrityError):  # somebody was faster
            async with connection.transaction(force_rollback=self.random.random() < 0.2):
                await connection.execute(sql.SQL("SET LOCAL app.user_id = {}").format(str(self.user_id)))
                await connection.execute(sql.SQL("SET LOCAL app.request_id = {}").format(f"{self.name}-{number}"))
                if self.random.random() < 0.5:
                    await connection.execute(self.random.choice(SETTINGS).encode())
                for _ in range(self.random.randint(1, 5)):
                    await self.statement(connection)
                    await asyncio.sleep(self.random.random() * 0.03)

    async def statement(self, connection: "psycopg.AsyncConnection[Any]") -> None:
        text = BY_HAND[self.random.choice(list(BY_HAND))]
        if self.random.random() < 0.3:  # in a savepoint, which may be taken back
            async with connection.transaction(force_rollback=self.random.random() < 0.5):
                await connection.execute(text.encode(), {"salt": str(self.random.random())})
        else:
            await connection.execute(text.encode(), {"salt": str(self.random.random())})


def ask_all(client: httpx.Client, path: str, **parameters: Any) -> list[Any]:
    """The items of all pages."""
    items: list[Any] = []
    cursor: str | None = None
    while True:
        found = client.get(path, params={**parameters, **({"cursor": cursor} if cursor else {})})
        assert found.status_code == 200, found.text
        page = json.loads(found.content)
        items += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return items
