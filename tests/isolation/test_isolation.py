"""One user never sees or changes what is another's: over HTTP, query by query, and if every query forgot its WHERE."""

import asyncio
import dataclasses
import functools
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid4, uuid5

import httpx
import msgspec
import psycopg
import pytest

import service.commands.retention  # noqa: F401 - declares the operator's queries, like service.accounts
from service.app import PROTOCOL_HANDLERS, create_app
from service.db.database import Database
from service.db.loading import TEXTS
from service.db.migration_files import known_objects
from service.db.queries import DECLARED
from service.db.results import Result
from service.db.statements import Context, Prepared
from service.identity.keys import make_key
from service.identity.passwords import make_hash
from service.identity.tokens import Tokens
from service.problems import Problem
from service.settings import Secret, Settings
from tests.conftest import PASSWORD, PLAIN_HTTP, Server, TestDatabase
from tests.support import grammar
from tests.support.routes import ROUTES, Route
from tests.support.worlds import ASSIGNED, Connection, Person, World, make_world, snapshot

STRANGERS = ("stranger", "assignee", "former_assignee")
"""Who isn't the owner. Whoever one todo is assigned to is a stranger to the others. A test asks as each of them, and
its failure says who it was."""


# Query by query


@dataclasses.dataclass(frozen=True)
class QueryCase:
    """A query aimed at the owner's rows: its parameters are the owner's, but for ``user_id``."""

    values: Callable[[World], dict[str, Any]] = lambda _: {}
    shows: frozenset[str] = frozenset()
    """What of the owner everybody may see through it."""
    reaches: bool = True
    """Whether it shows or changes anything of the owner's when the owner runs it."""
    refused: str | None = None
    """The code with which what the owner owns makes it fail, for the owner."""
    refused_to_others: str | None = None
    """The code with which it fails for anybody else."""
    caught: str | None = None
    """The code with which a key of the table stops it for others, were both the WHERE and row security gone."""


FIRST_ID, LAST_ID = UUID(int=0), UUID(int=2**128 - 1)
FIRST_TIME, LAST_TIME = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
ROW_LIMIT = 1_000_000


def todo_list(*, reaches: bool, **first: Any) -> QueryCase:
    """A list from its start, without filters."""
    filters = dict.fromkeys(
        ("status", "completed", "priority", "due_before", "due_after", "overdue", "words", "contains")
    )
    return QueryCase(lambda _: {**filters, "looked_at": ROW_LIMIT, "row_limit": ROW_LIMIT, **first}, reaches=reaches)


def nothing_set(name: str) -> dict[str, Any]:
    """The parameters of an update that changes nothing."""
    return {
        parameter: False if parameter.startswith("set_") else None
        for parameter in TEXTS[name].parameters
        if parameter != "user_id"
    }


def message_list() -> QueryCase:
    """All of the conversation's messages."""
    return QueryCase(
        lambda world: {
            "conversation_id": world.conversation,
            "sender_type": None,
            "message_type": None,
            "after": 0,
            "before": 2**31 - 1,
            "row_limit": ROW_LIMIT,
        }
    )


def link_list(end: str = "", **filters: Any) -> QueryCase:
    """All links, or those of the target or of the conversation."""

    def values(world: World) -> dict[str, Any]:
        ends = {"todo_id": world.target, "conversation_id": world.conversation}
        named = {end: ends[end]} if end else {}
        return {"relationship_type": None, "after_id": LAST_ID, "row_limit": ROW_LIMIT, **filters, **named}

    return QueryCase(values)


def rows(**values: Any) -> dict[str, Any]:
    """One row to be imported."""
    row = {"id": str(uuid4()), "version": 1, "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}
    return {"rows": msgspec.json.encode([{**row, **values, "metadata": {}}])}


WHOLE_TRAIL = {"first": 1, "before": 2**62}


def undo(change: str, **expected: Any) -> QueryCase:
    """What reads or undoes a change of the world's."""
    return QueryCase(lambda world: {"id": world.changes[change]}, **expected)


def for_the_operator(**values: Any) -> QueryCase:
    """Refused by the privilege on a table, which isn't the service's to write."""
    return QueryCase(lambda _: values, refused="internal", refused_to_others="internal")


SENT = {"sender_type": "user", "content": "Planted", "message_type": "text", "metadata": None}
MESSAGE = {**SENT, "item": None, "content_truncated": False}

QUERY_CASES = {
    # sign_in.sql
    "authenticate": QueryCase(lambda _: {"token_version": 1, "issued_at": None}, reaches=False),
    # A token that its issuer signed says whose it is.
    "resolve_identity": QueryCase(
        lambda world: {
            "issuer": "https://example.com",
            "subject": world.secrets["private"],
            "issued_at": 1_700_000_000,
            "email": world.owner.email,
            "full_name": None,
            "creates": True,
        },
        shows=frozenset({"owner_id"}),
    ),
    "create_user": QueryCase(
        lambda world: {
            "email": world.owner.email.upper(),
            "username": None,
            "full_name": None,
            "password_hash": "stolen",
        },
        refused="internal",  # everybody has an account by their id, which no request can choose
        refused_to_others="internal",
    ),
    # Sign-in asks for an address, and looks whether the password is the one; no route answers with what it finds.
    "find_credentials": QueryCase(
        lambda world: {"email": world.owner.email}, shows=frozenset({"owner_id", "password_hash"})
    ),
    "get_own_credentials": QueryCase(),
    "take_sign_in_attempt": QueryCase(lambda _: {"account": b"a", "networks": [b"b"]}, reaches=False),
    "forgive_sign_in_attempt": QueryCase(lambda _: {"account": b"a", "networks": [b"b"]}, reaches=False),
    "set_password": QueryCase(lambda _: {"password_hash": "stolen"}),
    "revoke_tokens": QueryCase(),
    # keys.sql
    # Whose key it is, the key says; one that isn't this user's is none.
    "authenticate_key": QueryCase(
        lambda world: {"digest": world.api_key_digest, "scope": "write"},
        reaches=False,
        refused_to_others="invalid_token",
    ),
    "touch_key": QueryCase(lambda world: {"digest": world.api_key_digest, "hour": datetime(2030, 1, 1, tzinfo=UTC)}),
    "create_key": QueryCase(
        lambda _: {"name": "Planted", "scope": "write", "digest": secrets.token_bytes(32), "expires_at": None}
    ),
    "list_keys": QueryCase(lambda _: {"before_id": LAST_ID, "limit": ROW_LIMIT}),
    "get_key": QueryCase(lambda world: {"id": world.api_key}),
    "delete_key": QueryCase(lambda world: {"id": world.api_key}),
    # users.sql
    "get_me": QueryCase(),
    "update_me": QueryCase(lambda _: {**nothing_set("update_me"), "set_full_name": True, "full_name": "Stolen"}),
    "lock_account": QueryCase(),
    "erase_me": QueryCase(lambda _: {"version": None, "records": True}),
    "unassign_todos": QueryCase(lambda _: {"version": None, "most": 1, "only_open": False}, reaches=False),
    "list_users": QueryCase(
        lambda world: {"username": world.owner.username.upper()},
        shows=frozenset({"owner_id", "username", "full_name"}),
    ),
    # todos.sql
    "get_todo": QueryCase(lambda world: {"id": world.target}),
    "get_todo_by_number": QueryCase(lambda world: {"number": world.target_number}),
    "create_todo": QueryCase(
        lambda _: {
            "id": None,
            "title": "Planted",
            "description": None,
            "status": "pending",
            "priority": "low",
            "due_date": None,
            "assigned_to": None,
            "completed_at": None,
            "metadata": None,
        }
    ),
    "update_todo": QueryCase(
        # The status alone: the trigger that keeps assignees from the rest is no part of what is tried here.
        lambda world: {**nothing_set("update_todo"), "id": world.target, "status": "in_progress"}
    ),
    "delete_todo": QueryCase(lambda world: {"id": world.target, "number": None, "version": None}),
    "lock_todos": QueryCase(lambda world: {"ids": [world.target], "numbers": [1]}),
    "list_todos_by_status": QueryCase(
        lambda _: {"status": "pending", "after": LAST_TIME, "after_id": LAST_ID, "row_limit": ROW_LIMIT}
    ),
    **{
        f"list_{todos}_by_{order}": todo_list(reaches=todos == "todos", **first)
        for todos in ("todos", "assigned_todos")  # the owner has given all theirs away, and is assigned none
        for order, first in {
            "created_at": {"after": FIRST_TIME, "after_id": FIRST_ID, "after_user": FIRST_ID},
            "created_at_desc": {"after": LAST_TIME, "after_id": LAST_ID, "after_user": LAST_ID},
            "updated_at": {"after": FIRST_TIME, "after_id": FIRST_ID, "after_user": FIRST_ID},
            "updated_at_desc": {"after": LAST_TIME, "after_id": LAST_ID, "after_user": LAST_ID},
            "due_date": {"after": FIRST_TIME, "after_id": FIRST_ID, "after_user": FIRST_ID},
            "due_date_desc": {"after": LAST_TIME, "after_id": LAST_ID, "after_user": LAST_ID},
            "no_due_date": {"after_id": FIRST_ID, "after_user": FIRST_ID},
            "no_due_date_desc": {"after_id": LAST_ID, "after_user": LAST_ID},
            "priority": {"after": 0, "after_id": FIRST_ID, "after_user": FIRST_ID},
            "priority_desc": {"after": 5, "after_id": LAST_ID, "after_user": LAST_ID},
            "number": {"after": 0, "after_id": FIRST_ID, "after_user": FIRST_ID},
            "number_desc": {"after": 2**31 - 1, "after_id": LAST_ID, "after_user": LAST_ID},
        }.items()
    },
    "find_todo": QueryCase(lambda world: {"id": world.target, "number": None}),
    "list_conversation_todos": QueryCase(
        lambda world: {"conversation_id": world.conversation, "after_id": FIRST_ID, "row_limit": ROW_LIMIT}
    ),
    # conversations.sql
    "get_conversation": QueryCase(lambda world: {"id": world.conversation}),
    "create_conversation": QueryCase(lambda _: {"id": None, "external_id": None, "title": "Planted", "metadata": None}),
    "ensure_conversation": QueryCase(lambda _: {"external_id": "chat", "title": "Planted", "metadata": None}),
    "get_conversation_by_external_id": QueryCase(lambda world: {"external_id": world.secrets["private"]}),
    "update_conversation": QueryCase(
        lambda world: {
            **nothing_set("update_conversation"),
            "id": world.conversation,
            "set_title": True,
            "title": "Stolen",
        }
    ),
    "delete_conversation": QueryCase(lambda world: {"id": world.conversation, "version": None}),
    **{
        f"list_conversations_{variant}by_{order}": QueryCase(
            lambda world, first=first, more=more: {
                "words": None,
                "contains": None,
                "looked_at": ROW_LIMIT,
                "row_limit": ROW_LIMIT,
                "after": first[0] or world.secrets["private"],
                "after_id": first[1],
                **more,
            }
        )
        for variant, more in (("", {}), ("with_messages_", {"messages": 50, "message_bytes": 1 << 20}))
        for order, first in {
            "updated_at": (FIRST_TIME, FIRST_ID),
            "updated_at_desc": (LAST_TIME, LAST_ID),
            "created_at": (FIRST_TIME, FIRST_ID),
            "created_at_desc": (LAST_TIME, LAST_ID),
            "external_id": (None, LAST_ID),
        }.items()
    },
    "list_todo_conversations": QueryCase(
        lambda world: {"id": world.target, "number": None, "after_id": FIRST_ID, "row_limit": ROW_LIMIT}
    ),
    # messages.sql
    "lock_conversation": QueryCase(lambda world: {"id": world.conversation}),
    "find_last_position": QueryCase(lambda world: {"id": world.conversation}, reaches=False),  # a number
    "open_conversation": QueryCase(lambda _: {"id": uuid4(), "title": "Planted"}),
    "expect_position": QueryCase(
        lambda world: {"conversation_id": world.conversation, "expected": 99},
        refused="stale_position",
        refused_to_others="not_found",
    ),
    "create_turn_message": QueryCase(
        lambda world: {"conversation_id": world.conversation, **MESSAGE}, refused_to_others="not_found"
    ),
    "create_two_messages": QueryCase(
        lambda world: {
            "conversation_id": world.conversation,
            **MESSAGE,
            **{f"second_{name}": value for name, value in MESSAGE.items()},
        },
        refused_to_others="not_found",
    ),
    "create_message": QueryCase(
        lambda world: {"conversation_id": world.conversation, **MESSAGE}, refused_to_others="not_found"
    ),
    "get_message": QueryCase(lambda world: {"conversation_id": world.conversation, "id": world.message}),
    "update_message": QueryCase(
        lambda world: {
            **nothing_set("update_message"),
            "conversation_id": world.conversation,
            "id": world.message,
            "content": "Stolen",
        }
    ),
    "delete_message": QueryCase(
        lambda world: {"conversation_id": world.conversation, "id": world.message, "version": None}
    ),
    "delete_messages_from": QueryCase(lambda world: {"conversation_id": world.conversation, "from_position": 1}),
    "list_messages": message_list(),
    "list_messages_desc": message_list(),
    "list_messages_with_items": message_list(),
    "list_messages_with_items_desc": message_list(),
    "list_context_items": QueryCase(lambda world: {"conversation_id": world.conversation, "messages": 200}),
    "search_messages": QueryCase(
        lambda world: {
            "words": [world.secrets["private"]],
            "before_id": LAST_ID,
            "looked_at": ROW_LIMIT,
            "row_limit": ROW_LIMIT,
        }
    ),
    "find_item": QueryCase(lambda world: {"conversation_id": world.conversation, "item_id": "msg_own"}),
    "list_context": QueryCase(lambda world: {"conversation_id": world.conversation, "messages": 200}),
    # links.sql
    "get_link": QueryCase(lambda world: {"id": world.link}),
    "create_link": QueryCase(
        lambda world: {
            "todo_id": world.target,
            "conversation_id": world.conversation,
            "relationship_type": "creation",
        },
        refused_to_others="not_found",
    ),
    "link_todo": QueryCase(
        lambda world: {
            "id": world.target,
            "number": None,
            "conversation_id": world.conversation,
            "relationship_type": "update",
        },
        caught="not_found",
    ),
    "update_link": QueryCase(lambda world: {"id": world.link, "relationship_type": "creation", "version": None}),
    "delete_link": QueryCase(lambda world: {"id": world.link, "version": None}),
    "list_links": link_list(looked_at=5000),
    "list_links_of_todo": link_list("todo_id", conversation_id=None),
    "list_links_of_conversation": link_list("conversation_id", todo_id=None),
    # audit.sql
    "get_trail": QueryCase(reaches=False),  # how many changes there were is no secret of the owner's
    "find_audit_place": QueryCase(lambda _: {"at": FIRST_TIME}, reaches=False),
    "list_audit": QueryCase(lambda _: {"table": None, "action": None, **WHOLE_TRAIL, "row_limit": ROW_LIMIT}),
    "list_audit_of_row": QueryCase(
        lambda world: {
            "row_id": world.gone_link,
            "table": None,
            "action": None,
            **WHOLE_TRAIL,
            "looked_at": ROW_LIMIT,
            "row_limit": ROW_LIMIT,
        }
    ),
    "find_audit_bound": QueryCase(
        lambda world: {"row_id": world.gone_link, **WHOLE_TRAIL, "looked_at": 1}, reaches=False
    ),
    "list_changes": QueryCase(lambda _: {"first": 0, "row_limit": ROW_LIMIT}),
    "find_last_change": QueryCase(lambda _: {"table": "todos", "looked_at": 100}, reaches=False),
    "get_change": undo("todos delete"),
    "get_last_change": QueryCase(lambda world: {"row_id": world.gone_link, "table": "todo_conversation_links"}),
    "undo_user_update": undo("users update"),
    "undo_todo_update": undo("todos update", caught="forbidden"),  # by the trigger that keeps assignees from it
    "undo_conversation_update": undo("conversations update"),
    "undo_message_update": undo("messages update"),
    "undo_link_update": undo("todo_conversation_links update"),
    "undo_todo_delete": undo("todos delete"),
    "undo_conversation_delete": undo("conversations delete"),
    "undo_message_delete": undo("messages delete", caught="not_found"),
    "undo_link_delete": undo("todo_conversation_links delete", caught="not_found"),
    # Without what they belong to.
    "restore_messages": undo("conversations delete", refused="not_found"),
    "restore_conversation_links": undo("conversations delete", refused="not_found"),
    "restore_todo_links": undo("todos delete", refused="not_found"),
    # tasks.sql
    "get_task": QueryCase(lambda world: {"number": world.target_number}),
    "create_task": QueryCase(lambda _: {"title": "Planted", "description": None, "status": "pending"}),
    "update_task": QueryCase(
        lambda world: {
            "number": world.target_number,
            "title": "Stolen",
            "set_description": False,
            "description": None,
            "completed": None,
            "version": None,
        },
        caught="forbidden",  # by the trigger that keeps assignees from the title
    ),
    "complete_task": QueryCase(lambda world: {"number": world.target_number, "completed": None, "version": None}),
    "list_task_ids_by_created": QueryCase(lambda _: {"completed": None}),
    "list_task_ids_by_title": QueryCase(lambda _: {"completed": None}),
    "list_task_ids_by_due_date": QueryCase(lambda _: {"completed": None}),
    "list_tasks": QueryCase(lambda world: {"ids": [world.target, world.assigned], "completed": None}),
    # idempotency.sql
    "forget_idempotency_key": QueryCase(lambda world: {"key": world.old_key}),
    "claim_idempotency_key": QueryCase(
        lambda world: {"key": world.key, "operation": "POST /", "request_hash": b"x" * 32},
        refused="idempotency_in_progress",
    ),
    "keep_answer": QueryCase(lambda world: {"key": world.key, "status": 200, "headers": b"{}", "body": b"stolen"}),
    "get_kept_answer": QueryCase(lambda world: {"key": world.key}),
    # restoring.sql
    "begin_restoring": QueryCase(reaches=False),
    "end_restoring": QueryCase(reaches=False),
    "wait_longer": QueryCase(reaches=False),
    "hold_assignees": QueryCase(reaches=False),
    "write_entries": QueryCase(reaches=False),
    # export.sql
    "get_last_number": QueryCase(reaches=False),  # a number is no secret of the owner's
    "export_todos": QueryCase(lambda _: {"after": 0, "limit": ROW_LIMIT}),
    "export_conversations": QueryCase(lambda _: {"after_id": FIRST_ID, "limit": ROW_LIMIT}),
    "export_messages": QueryCase(
        lambda _: {"after_id": FIRST_ID, "after": 0, "last_id": LAST_ID, "limit": ROW_LIMIT},
    ),
    "export_links": QueryCase(lambda _: {"after_id": FIRST_ID, "limit": ROW_LIMIT}),
    # imports.sql, row by row
    "reserve_numbers": QueryCase(lambda _: {"last_number": 1_000_000}),
    "forget_plans": QueryCase(reaches=False),
    "begin_chunk": QueryCase(reaches=False),
    "keep_chunk": QueryCase(refused="internal", refused_to_others="internal"),  # there is none
    "undo_chunk": QueryCase(refused="internal", refused_to_others="internal"),
    "import_todos": QueryCase(
        lambda _: rows(number=900, title="Planted", status="pending", priority="low", assigned_to="me"),
    ),
    "import_conversations": QueryCase(lambda _: rows(title="Planted", last_position=0, message_count=0)),
    "import_messages": QueryCase(
        lambda world: rows(conversation_id=str(world.conversation), position=7, **MESSAGE),
        refused_to_others="not_found",
    ),
    "import_links": QueryCase(
        lambda world: rows(
            todo_id=str(world.target), conversation_id=str(world.conversation), relationship_type="creation"
        ),
        refused_to_others="not_found",
    ),
    # health.sql
    "check_login": QueryCase(reaches=False),
    "list_misowned": QueryCase(lambda _: msgspec.structs.asdict(known_objects()), reaches=False),
    "list_applied_migrations": QueryCase(reaches=False),
    # admin.sql, as if the service ran it
    "list_accounts": QueryCase(lambda _: {"limit": ROW_LIMIT}, reaches=False),  # those behind user_id
    "find_account": QueryCase(lambda world: {"email": world.owner.email}, shows=frozenset({"owner_id"})),
    "find_account_by_id": QueryCase(),
    "update_account": QueryCase(lambda _: {"is_active": False}),
    "count_assigned": QueryCase(reaches=False),  # a number
    "erase_account": QueryCase(),
    "find_prunable_user": QueryCase(lambda _: {"older_than": LAST_TIME}, reaches=False),  # those behind user_id
    "count_prunable_entries": QueryCase(lambda _: {"older_than": LAST_TIME}, reaches=False),  # a number
    "prune_audit_log": for_the_operator(older_than=LAST_TIME, batch=1000),
    "blank_last_entry": for_the_operator(older_than=LAST_TIME),
    "count_prunable_keys": QueryCase(reaches=False),  # a number
    "prune_idempotency_keys": QueryCase(lambda _: {"batch": 1000}),
    "count_untouched_conversations": QueryCase(lambda _: {"untouched_since": LAST_TIME}, reaches=False),  # a number
    "prune_conversation": QueryCase(lambda _: {"untouched_since": LAST_TIME}),
}


def test_every_query_has_a_case():
    assert sorted(QUERY_CASES) == sorted(TEXTS) == sorted(DECLARED)


@functools.cache
def named_tables(name: str) -> set[str]:
    """The users' tables that the query names."""
    return {found.table for found in grammar.references(TEXTS[name].prepared.text.decode(), None)}


@functools.cache
def is_insert(name: str) -> bool:
    """Whether it adds rows of nothing but its parameters. What an import reads besides is only what keys are taken."""
    statement = grammar.statement(TEXTS[name].prepared.text.decode())
    source: Any = isinstance(statement, grammar.ast.InsertStmt) and statement.selectStmt
    if not source:
        return False
    tables = source.fromClause or ()
    return bool(source.valuesLists) or all(isinstance(table, grammar.ast.RangeFunction) for table in tables)


RAISING = {
    "authenticate",
    "authenticate_key",
    "expect_position",
    "keep_chunk",
    "undo_chunk",
    "erase_me",
    "erase_account",
    "unassign_todos",
}
"""What raises when it doesn't find the row that it is to look at, or the savepoint; or for somebody else's account."""


NAMELESS = {
    "find_last_position",
    "get_last_number",
    "count_assigned",
    "count_prunable_entries",
    "count_prunable_keys",
    "count_untouched_conversations",
    "get_trail",
    "find_audit_place",
    "find_audit_bound",
    "find_last_change",
    "find_prunable_user",
    "import_todos",
    "blank_last_entry",
    "prune_conversation",
}
"""What answers a number, which doesn't say whose it is, or changes what may be anybody's."""
ACROSS_USERS = {"count_prunable_keys", "prune_idempotency_keys"}
"""The operator's, which are about everybody, and say so: there is nothing to forget."""
CHECKS = {"authenticate", "authenticate_key"}
"""They show and change nothing: of whom they refuse the rules are tested, one by one."""


def forgetful(name: str) -> Prepared | None:
    """The query with every comparison with ``user_id`` taken out; None where there is none."""
    query = TEXTS[name]
    user = grammar.parameter_number(query)
    if user is None or not named_tables(name) or is_insert(name):
        return None
    text = grammar.without_user(query.prepared.text.decode(), user).encode()
    return query.prepared._replace(name=b"forgetful_" + query.prepared.name, text=text)


FORGETFUL = {name: mutant for name in TEXTS if name not in CHECKS and (mutant := forgetful(name))}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a query: its rows, or the code of its refusal, and what of the owner's they show."""

    result: Result | None
    refused: str | None
    seen: frozenset[str]
    changed: bool
    """Whether any row of the owner's is another than before."""

    @property
    def is_empty(self) -> bool:
        """Whether the query found nothing, counted 0, or put together an empty text."""
        return self.result in (([], 0), ([(0,)], 1), ([("",)], 1))


class Stage:
    """A database, reached as the service does (or whoever the URL names), and a superuser's look at it."""

    def __init__(self, runner: asyncio.Runner, url: str, superuser: Connection) -> None:
        self.superuser = superuser
        self._runner = runner
        self._world: World | None = None
        self._before: dict[str, list[Any]] | None = None
        """What the owner of the world had after the last attempt, which changed nothing."""
        self._database = Database(Settings(database_url=Secret(url), database_pool_size=2), lambda *_: None)
        runner.run(self._database.open())

    def close(self) -> None:
        self._runner.run(self._database.close())

    def world(self) -> World:
        """A world in which nobody has written anything yet."""
        self._world = self._world or make_world(self.superuser)
        return self._world

    def attempt(
        self,
        name: str,
        world: World,
        who: Person,
        *,
        mutant: Prepared | None = None,
        user_id: UUID | None = None,
    ) -> Outcome:
        """Run the query for ``who``: as it is, or a mutant of it, or with another ``user_id`` than theirs."""
        prepared, values = DECLARED[name](**QUERY_CASES[name].values(world)).step(user_id or who.id)
        step = (mutant or prepared, values)
        before = self._before or snapshot(self.superuser, world.owner.id)
        try:
            (result,) = self._runner.run(self._database.transact(Context(who.id, "test"), [step]))
            refused = None
        except Problem as problem:
            if problem.statement is None:
                raise
            result, refused = None, problem.code
        self._before = snapshot(self.superuser, world.owner.id)
        changed = self._before != before
        if changed or (result and result.affected and not step[0].reads_only):
            self._world = self._before = None
        seen = world.seen(msgspec.json.encode(result.rows).decode()) if result else set()
        return Outcome(result, refused, frozenset(seen), changed)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as found:
        yield found


def make_stage(runner: asyncio.Runner, database: TestDatabase, url: str) -> Iterator[Stage]:
    with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
        found = Stage(runner, url, superuser)
        yield found
        found.close()


@pytest.fixture(scope="module")
def stage(runner: asyncio.Runner, make_module_database: Callable[[], TestDatabase]) -> Iterator[Stage]:
    """As the service sees it: bound by row security."""
    database = make_module_database()
    yield from make_stage(runner, database, database.service_url)


@pytest.fixture(scope="module")
def unbound_stage(runner: asyncio.Runner, make_module_database: Callable[[], TestDatabase]) -> Iterator[Stage]:
    """As a superuser sees it: without row security."""
    database = make_module_database()
    yield from make_stage(runner, database, database.superuser_url)


def may_see(who: str, name: str) -> frozenset[str]:
    """What of the owner's the query may show them."""
    return QUERY_CASES[name].shows.union(ASSIGNED if who == "assignee" else ())


def assert_kept_apart(outcome: Outcome, who: str, name: str) -> None:
    assert outcome.seen <= may_see(who, name), who
    if who == "assignee" and name in ("erase_me", "erase_account"):
        return  # nobody is left whom the todo could be assigned to: the owner's row says so
    assert not outcome.changed, who
    if who != "assignee" and named_tables(name) - {"users"} and not is_insert(name):
        assert outcome.refused or outcome.is_empty, who


@pytest.mark.parametrize("name", QUERY_CASES)
def test_a_query_reaches_the_owners_rows_for_the_owner_and_for_nobody_else(name: str, stage: Stage):
    case = QUERY_CASES[name]
    for who in STRANGERS:
        world = stage.world()
        outcome = stage.attempt(name, world, getattr(world, who))
        assert_kept_apart(outcome, who, name)
        assert outcome.refused == case.refused_to_others, who
    # Were the owner's id given for theirs, row security alone would stand in the way.
    for who in STRANGERS:
        world = stage.world()
        outcome = stage.attempt(name, world, getattr(world, who), user_id=world.owner.id)
        said = f"{who}, naming the owner"
        assert outcome.seen <= may_see(who, name), said
        assert not outcome.changed, said
        assert bool(outcome.refused) == (is_insert(name) or name in RAISING or case.refused == "internal"), said
    # Last the owner: else the rest would show nothing.
    world = stage.world()
    outcome = stage.attempt(name, world, world.owner)
    assert outcome.refused == case.refused, "owner"
    assert bool(outcome.seen or outcome.changed or outcome.refused) == case.reaches, "owner"


# Were the WHERE forgotten


def test_every_query_on_a_users_table_has_a_forgetful_mutant():
    expected = {name for name in TEXTS if named_tables(name) and not is_insert(name)} - ACROSS_USERS - CHECKS
    assert set(FORGETFUL) == expected
    for name, mutant in FORGETFUL.items():
        text, user = mutant.text.decode(), grammar.parameter_number(TEXTS[name])
        bound = [found.table for found in grammar.references(text, user) if found.bound]
        statement = grammar.statement(text)
        # What an INSERT … SELECT adds still gets the caller for its owner.
        assert bound == ([statement.relation.relname] if isinstance(statement, grammar.ast.InsertStmt) else []), name


@pytest.mark.parametrize("name", FORGETFUL)
def test_row_security_alone_keeps_a_forgetful_query_from_the_owners_rows(name: str, stage: Stage, unbound_stage: Stage):
    for who in STRANGERS:
        world = stage.world()
        outcome = stage.attempt(name, world, getattr(world, who), mutant=FORGETFUL[name])
        privileged = QUERY_CASES[name].refused == "internal"
        assert outcome.refused == ("internal" if privileged else None), who
        assert_kept_apart(outcome, who, name)
    # Without row security it would reach them.
    world = unbound_stage.world()
    outcome = unbound_stage.attempt(name, world, world.stranger, mutant=FORGETFUL[name])
    case = QUERY_CASES[name]
    if "audit_log" not in named_tables(name):  # where a number of an entry is that of many users' entries
        assert outcome.refused == (case.caught or case.refused)
    assert outcome.seen or outcome.changed or outcome.refused or (name in NAMELESS and not outcome.is_empty)


# Over HTTP


@dataclasses.dataclass(frozen=True)
class RouteCase:
    """A request to a route about objects that are the owner's, or don't exist."""

    body: Callable[[World, Person, "Objects"], Any] | None = None
    """Of the world, whoever asks, and the objects."""
    query: Callable[[World], dict[str, str]] = lambda _: {}
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    shows: frozenset[str] = frozenset()
    """What of the owner everybody may see."""
    owner_status: int | None = None
    """Where the owner's answer is another than the route's usual one."""
    names: frozenset[str] = frozenset()
    """Which of the objects the body names; a path that does says so itself. ``user``: the path is the owner's."""
    stranger: tuple[int, str] = (404, "not_found")
    """Status and code for somebody else, whether what is named exists or not."""
    label: str = "plain"


@dataclasses.dataclass(frozen=True)
class Objects:
    """What a request names: ids as they stand in a path."""

    todo: str
    """The UUID or the number."""
    todo_uuid: str
    """Where a number won't do."""
    number: str
    """The todo's number, which is its task's id."""
    conversation: str
    message: str
    link: str
    key: str
    change: str
    """An update in the audit trail."""
    user: str
    """Whose tasks are asked for, where that isn't whoever asks."""

    @property
    def todo_id(self) -> str | int:
        """The todo as it stands in a body."""
        return int(self.todo) if self.todo.isdigit() else self.todo


def owned(world: World, kind: str = "id", todo: UUID | None = None) -> Objects:
    """The owner's, the target unless another todo is named."""
    return Objects(
        todo=str(todo or world.target if kind == "id" else world.target_number),
        todo_uuid=str(todo or world.target),
        number=str(world.target_number),
        conversation=str(world.conversation),
        message=str(world.message),
        link=str(world.link),
        key=str(world.api_key),
        change=str(world.changes["todos update"]),
        user=str(world.owner.id),
    )


def missing(kind: str = "id") -> Objects:
    """None that exist."""
    number = "999999999"
    ids = [str(uuid4()) for _ in range(7)]
    return Objects(ids[0] if kind == "id" else number, ids[0], number, *ids[1:])


OBJECT_OF_PARAMETER = {
    "todo_id": "todo",
    "task_id": "number",
    "conversation_id": "conversation",
    "message_id": "message",
    "link_id": "link",
    "key_id": "key",
    "change_id": "change",
}
TODO, CONVERSATION, USER = map(frozenset, (["todo"], ["conversation"], ["user"]))
ENDS = frozenset({"todo_uuid", "conversation"})


def named(route: Route, case: RouteCase) -> frozenset[str]:
    """Which of the objects the request names."""
    return case.names | {OBJECT_OF_PARAMETER[name] for name in route.path_parameters if name in OBJECT_OF_PARAMETER}


def with_owners_path(*cases: RouteCase) -> list[RouteCase]:
    """The cases, and the same under the owner's path, which is refused before anything is looked for."""
    return [
        *cases,
        *(
            dataclasses.replace(case, names=USER, stranger=(403, "forbidden"), label=f"{case.label}, the owner's path")
            for case in cases
        ),
    ]


CHANGE = {"status": "in_progress"}
SAID = {"sender_type": "user", "content": "Hello"}
STALE = {"If-Match": '"99"'}


def ends(_: World, __: Person, objects: Objects) -> dict[str, str]:
    """A link's."""
    return {"todo_id": objects.todo_uuid, "conversation_id": objects.conversation}


NDJSON = {"Content-Type": "application/x-ndjson"}


def exported(*links: dict[str, str]) -> bytes:
    """A file with these links and nothing else."""
    times = {"created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}
    lines = [
        {"type": "export", "format": 1, "email": None, "last_number": 0},
        *({"type": "link", **link, "relationship_type": "update", **times, "version": 1} for link in links),
        {"type": "end", "todos": 0, "conversations": 0, "messages": 0, "links": len(links)},
    ]
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


ROUTE_CASES: dict[tuple[str, str], list[RouteCase]] = {
    ("GET", "/health/live"): [RouteCase()],
    ("GET", "/health/ready"): [RouteCase()],
    ("POST", "/v1/auth/register"): [
        RouteCase(lambda *_: {"email": f"new-{secrets.token_hex(8)}@example.com", "password": PASSWORD})
    ],
    ("POST", "/v1/auth/token"): [RouteCase(lambda _, person, __: {"email": person.email, "password": PASSWORD})],
    ("POST", "/v1/auth/refresh"): [RouteCase(lambda _, person, __: {"refresh_token": refresh_token(person)})],
    ("POST", "/v1/auth/logout-everywhere"): [RouteCase()],
    ("PUT", "/v1/users/me/password"): [
        RouteCase(lambda *_: {"current_password": PASSWORD, "new_password": PASSWORD + "!"})
    ],
    ("GET", "/v1/users/me"): [RouteCase()],
    ("PATCH", "/v1/users/me"): [RouteCase(lambda *_: {"full_name": "Changed"})],
    ("DELETE", "/v1/users/me"): [
        RouteCase(owner_status=409),
        RouteCase(query=lambda _: {"erase": "true"}, label="erase"),
    ],
    ("GET", "/v1/users"): [
        RouteCase(
            query=lambda world: {"username": world.owner.username},
            shows=frozenset({"owner_id", "username", "full_name"}),
        )
    ],
    ("GET", "/v1/keys"): [RouteCase()],
    ("POST", "/v1/keys"): [RouteCase(lambda *_: {"name": "New", "scope": "read"})],
    ("GET", "/v1/keys/{key_id}"): [RouteCase()],
    ("DELETE", "/v1/keys/{key_id}"): [RouteCase()],
    ("GET", "/v1/todos"): [
        RouteCase(query=lambda _, scope=scope: {"scope": scope}, label=scope) for scope in ("owned", "assigned", "all")
    ],
    ("POST", "/v1/todos"): [
        RouteCase(lambda *_: {"title": "New"}),
        RouteCase(
            lambda _, __, objects: {"title": "New", "conversation_id": objects.conversation},
            names=CONVERSATION,
            label="conversation",
        ),
    ],
    ("POST", "/v1/todos/batch"): [
        RouteCase(lambda *_: {"create": [{"title": "New"}]}, label="create"),
        RouteCase(lambda _, __, objects: {"update": [{"id": objects.todo_id, **CHANGE}]}, names=TODO, label="update"),
        RouteCase(lambda _, __, objects: {"delete": [objects.todo_id]}, names=TODO, label="delete"),
        RouteCase(
            lambda _, __, objects: {"create": [{"title": "New"}], "update": [{"id": objects.todo_id, **CHANGE}]},
            names=TODO,
            label="create and update",
        ),
        RouteCase(
            lambda _, __, objects: {
                "create": [{"title": "New"}, {"title": "New", "conversation_id": objects.conversation}]
            },
            names=CONVERSATION,
            label="create with conversation",
        ),
        RouteCase(
            lambda _, __, objects: {"update": [{"id": objects.todo_id, "conversation_id": objects.conversation}]},
            names=TODO | CONVERSATION,
            label="update with conversation",
        ),
    ],
    ("GET", "/v1/todos/{todo_id}"): [
        RouteCase(),
        RouteCase(query=lambda _: {"escape": "html"}, label="escaped"),
        RouteCase(headers={"If-None-Match": "*"}, owner_status=304, label="If-None-Match"),
    ],
    ("PATCH", "/v1/todos/{todo_id}"): [
        RouteCase(lambda *_: CHANGE),
        RouteCase(lambda *_: {}, label="empty"),
        RouteCase(lambda *_: {"status": "archived", "title": "Taken"}, label="title"),
        RouteCase(lambda _, person, __: {"assigned_to": str(person.id)}, label="assign"),
        RouteCase(lambda *_: CHANGE, headers={"If-Match": "*"}, label="If-Match"),
        RouteCase(lambda *_: CHANGE, headers=STALE, owner_status=412, label="stale If-Match"),
        RouteCase(
            lambda _, __, objects: {"conversation_id": objects.conversation}, names=CONVERSATION, label="conversation"
        ),
    ],
    ("DELETE", "/v1/todos/{todo_id}"): [
        RouteCase(),
        RouteCase(headers={"If-Match": "*"}, label="If-Match"),
        RouteCase(headers=STALE, owner_status=412, label="stale If-Match"),
    ],
    ("GET", "/v1/todos/{todo_id}/conversations"): [RouteCase()],
    ("GET", "/v1/conversations"): [
        RouteCase(),
        RouteCase(query=lambda _: {"messages": "50"}, label="messages"),
        RouteCase(query=lambda world: {"external_id": world.secrets["private"]}, label="external id"),
        RouteCase(query=lambda world: {"q": world.secrets["private"][:6], "order": "created_at"}, label="words"),
    ],
    ("POST", "/v1/conversations"): [RouteCase(lambda *_: {"title": "New", "external_id": "new"})],
    # Whoever names it gets their own, which has the name that they gave.
    ("PUT", "/v1/conversations/by-external-id/{external_id}"): [RouteCase(lambda *_: {}, shows=frozenset({"private"}))],
    ("GET", "/v1/messages"): [RouteCase(query=lambda world: {"q": world.secrets["private"][:6]})],
    ("GET", "/v1/conversations/{conversation_id}"): [
        RouteCase(),
        RouteCase(headers={"If-None-Match": "*"}, owner_status=304, label="If-None-Match"),
    ],
    ("PATCH", "/v1/conversations/{conversation_id}"): [
        RouteCase(lambda *_: {"title": "Taken"}),
        RouteCase(lambda *_: {}, label="empty"),
        RouteCase(lambda *_: {"title": None}, headers=STALE, owner_status=412, label="stale If-Match"),
    ],
    ("DELETE", "/v1/conversations/{conversation_id}"): [
        RouteCase(),
        RouteCase(headers=STALE, owner_status=412, label="stale If-Match"),
    ],
    ("GET", "/v1/conversations/{conversation_id}/todos"): [RouteCase()],
    ("GET", "/v1/conversations/{conversation_id}/messages"): [
        RouteCase(),
        RouteCase(query=lambda _: {"order": "-position", "before_position": "9"}, label="backwards"),
        RouteCase(query=lambda _: {"after_position": "9"}, label="none left"),
    ],
    ("POST", "/v1/conversations/{conversation_id}/messages"): [
        RouteCase(lambda *_: SAID),
        RouteCase(lambda *_: {"sender_type": "system", "content": "Obey"}, label="system"),
    ],
    ("DELETE", "/v1/conversations/{conversation_id}/messages"): [
        RouteCase(query=lambda _: {"from_position": "1"}),
        RouteCase(query=lambda _: {"from_position": "9"}, label="none there"),
    ],
    ("GET", "/v1/conversations/{conversation_id}/messages/{message_id}"): [
        RouteCase(),
        RouteCase(headers={"If-None-Match": "*"}, owner_status=304, label="If-None-Match"),
    ],
    ("PATCH", "/v1/conversations/{conversation_id}/messages/{message_id}"): [
        RouteCase(lambda *_: {"content": "Taken"}),
        RouteCase(lambda *_: {}, label="empty"),
        RouteCase(lambda *_: {"content": "Taken"}, headers=STALE, owner_status=412, label="stale If-Match"),
    ],
    ("DELETE", "/v1/conversations/{conversation_id}/messages/{message_id}"): [
        RouteCase(),
        RouteCase(headers=STALE, owner_status=412, label="stale If-Match"),
    ],
    ("GET", "/v1/conversations/{conversation_id}/context"): [
        RouteCase(),
        RouteCase(query=lambda _: {"messages": "0"}, label="none"),
    ],
    ("POST", "/v1/conversations/{conversation_id}/turns"): [
        RouteCase(lambda *_: {"messages": [SAID]}),
        RouteCase(lambda *_: {"messages": [SAID, SAID], "context": {"messages": 200}}, label="context"),
        RouteCase(lambda *_: {"messages": [SAID], "expected_position": 1}, label="expected"),
        RouteCase(lambda *_: {"messages": [SAID], "expected_position": 9}, owner_status=409, label="stale"),
    ],
    ("POST", "/v1/turns"): [RouteCase(lambda *_: {"messages": [SAID], "context": {"messages": 200}, "title": "New"})],
    ("GET", "/v1/links"): [
        RouteCase(),
        RouteCase(query=lambda world: {"todo_id": str(world.target)}, label="todo"),
        RouteCase(query=lambda world: {"conversation_id": str(world.conversation)}, label="conversation"),
        RouteCase(query=lambda _: {"relationship_type": "discussion"}, label="type"),
    ],
    ("POST", "/v1/links"): [
        RouteCase(lambda *named: {**ends(*named), "relationship_type": "creation"}, names=ENDS),
        RouteCase(ends, names=ENDS, owner_status=409, label="existing"),
    ],
    ("GET", "/v1/links/{link_id}"): [
        RouteCase(),
        RouteCase(headers={"If-None-Match": "*"}, owner_status=304, label="If-None-Match"),
    ],
    ("PATCH", "/v1/links/{link_id}"): [
        RouteCase(lambda *_: {"relationship_type": "update"}),
        RouteCase(lambda *_: {}, label="empty"),
        RouteCase(lambda *_: {}, headers=STALE, owner_status=412, label="stale If-Match"),
    ],
    ("DELETE", "/v1/links/{link_id}"): [
        RouteCase(),
        RouteCase(headers=STALE, owner_status=412, label="stale If-Match"),
    ],
    ("GET", "/v1/audit"): [
        RouteCase(),
        RouteCase(query=lambda world: {"row_id": str(world.target)}, label="row"),
        RouteCase(query=lambda _: {"table": "todos", "action": "delete"}, label="deleted todos"),
    ],
    ("GET", "/v1/changes"): [RouteCase()],
    ("POST", "/v1/changes/{change_id}/revert"): [RouteCase()],
    ("GET", "/v1/export"): [RouteCase()],
    ("POST", "/v1/import"): [
        RouteCase(lambda *_: exported(), headers=NDJSON),
        RouteCase(
            lambda *named: exported({"id": str(uuid5(NAMESPACE_OID, named[2].todo_uuid)), **ends(*named)}),
            headers=NDJSON,
            names=ENDS,
            stranger=(422, "validation_failed"),
            label="link",
        ),
    ],
    ("GET", "/api/{user_id}/tasks"): with_owners_path(
        *(RouteCase(query=lambda _, sort=sort: {"sort": sort}, label=sort) for sort in ("created", "title", "due_date"))
    ),
    ("POST", "/api/{user_id}/tasks"): with_owners_path(RouteCase(lambda *_: {"title": "New"})),
    ("GET", "/api/{user_id}/tasks/{task_id}"): with_owners_path(
        RouteCase(),
        RouteCase(headers={"If-None-Match": "*"}, owner_status=304, label="If-None-Match"),
    ),
    ("PUT", "/api/{user_id}/tasks/{task_id}"): with_owners_path(
        RouteCase(lambda *_: {"title": "Taken", "completed": True}),
        RouteCase(lambda *_: {"title": "Taken"}, headers=STALE, owner_status=412, label="stale If-Match"),
    ),
    ("DELETE", "/api/{user_id}/tasks/{task_id}"): with_owners_path(
        RouteCase(),
        RouteCase(headers=STALE, owner_status=412, label="stale If-Match"),
    ),
    ("PATCH", "/api/{user_id}/tasks/{task_id}/complete"): with_owners_path(
        RouteCase(),
        RouteCase(lambda *_: {"completed": True}, label="set"),
        RouteCase(headers=STALE, owner_status=412, label="stale If-Match"),
    ),
}
CASES: list[Any] = [
    pytest.param(route, case, id=f"{route.method} {route.path} {case.label}")
    for route in ROUTES
    for case in ROUTE_CASES.get((route.method, route.path), [])
]
NAMING_CASES = [param for param in CASES if named(*param.values)]
OTHER_CASES = [param for param in CASES if not named(*param.values)]
REQUEST_ID = "one-for-all-requests"


def kinds(route: Route, case: RouteCase) -> tuple[str, ...]:
    """By what the objects are named: a todo is by its id and by its number."""
    return ("id", "number") if "todo" in named(route, case) else ("id",)


def test_every_route_has_a_case():
    assert sorted(ROUTE_CASES) == sorted((route.method, route.path) for route in ROUTES)
    assert all(ROUTE_CASES.values())


def test_nothing_is_served_beside_the_list_of_routes():
    app = create_app(
        Settings(database_url=Secret("postgresql://nobody@localhost/none"), jwt_secret=Secret(secrets.token_hex(32)))
    )
    listed = {(route.method, route.path) for route in ROUTES}
    # Their own tests go through them with a stranger's ids.
    listed |= {
        (method, re.sub(r"{(\w+):\w+}", r"{\1}", path))
        for handler in PROTOCOL_HANDLERS
        for method in handler.http_methods
        for path in handler.paths
    }
    litestar: Any = app.litestar
    for path in litestar.routes:
        for handler in path.route_handlers:
            (method,) = handler.http_methods
            if method == "OPTIONS":  # Litestar's own
                continue
            if path.path == "/metrics" or path.path.startswith("/schema"):
                continue
            listed.remove((method, path.path_format))
    assert listed == set()


_tokens: list[Tokens] = []


def refresh_token(person: Person) -> str:
    return _tokens[-1].issue(person.id, 1).refresh_token


class Site:
    """The running service, and a superuser's look at its database."""

    def __init__(self, server: Server, superuser: Connection, password_hash: str) -> None:
        self.superuser = superuser
        self.client = httpx.Client(base_url=server.url, timeout=10, verify=PLAIN_HTTP)
        self._password_hash = password_hash
        self._tokens = Tokens(server.env["JWT_SECRET"], None, 900, 3600)
        _tokens.append(self._tokens)

    def world(self) -> World:
        return make_world(self.superuser, self._password_hash)

    def headers(self, who: Person | None) -> dict[str, str]:
        """Nobody (None) sends no token."""
        token = who and f"Bearer {self._tokens.issue(who.id, 1).access_token}"
        return {"X-Request-ID": REQUEST_ID, **({"Authorization": token} if token else {})}

    def key_of(self, who: Person) -> str:
        """A key of theirs that may write."""
        made = make_key(who.id)
        self.superuser.execute(
            "INSERT INTO api_keys (user_id, slot, name, scope, digest) VALUES (%s, 1, 'key', 'write', %s)",
            (who.id, made.digest),
        )
        return made.text.decode()

    def send(self, who: Person, method: str, path: str, body: Any = None) -> httpx.Response:
        return self.client.request(method, path, headers=self.headers(who), json=body)

    def ask(
        self,
        route: Route,
        case: RouteCase,
        world: World,
        who: Person | None,
        objects: Objects,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """The case's request about the objects."""
        path = {parameter: getattr(objects, name) for parameter, name in OBJECT_OF_PARAMETER.items()}
        user = objects.user if "user" in case.names else str((who or world.owner).id)
        body = case.body(world, who or world.owner, objects) if case.body else None
        return self.client.request(
            route.method,
            route.path.format(**path, user_id=user, external_id=world.secrets["private"]),
            params=case.query(world),
            headers={**self.headers(who), **case.headers, **(headers or {})},
            **({"content": body} if isinstance(body, bytes) else {"json": body}),
        )


@pytest.fixture(scope="module")
def site(server: Server) -> Iterator[Site]:
    password_hash = make_hash(PASSWORD)
    with psycopg.connect(server.database.superuser_url, autocommit=True) as superuser:
        found = Site(server, superuser, password_hash)
        with found.client:
            yield found


def everything(answer: httpx.Response) -> tuple[int, list[tuple[str, str]], bytes]:
    """All that a client can tell two answers apart by, but for the time."""
    headers = sorted((name, value) for name, value in answer.headers.multi_items() if name != "date")
    return answer.status_code, headers, answer.content


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Status and code, which is empty where nothing is refused."""
    return answer.status_code, answer.json()["code"] if answer.is_error else ""


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_without_a_token_only_public_routes_answer(route: Route, site: Site):
    world = site.world()
    before = snapshot(site.superuser, world.owner.id)
    for case in ROUTE_CASES[route.method, route.path]:
        answer = site.ask(route, case, world, None, owned(world))
        if route.public:
            assert answer.status_code == route.status, case.label
            continue
        assert answer.status_code == 401, case.label
        assert answer.json()["code"] == "unauthenticated", case.label
        assert answer.headers["WWW-Authenticate"].startswith("Bearer"), case.label
        assert everything(answer) == everything(site.ask(route, case, world, None, missing())), case.label
        assert world.seen(answer.text) == set(), case.label
        assert snapshot(site.superuser, world.owner.id) == before, case.label


def assert_served(route: Route, case: RouteCase, site: Site, world: World, kind: str = "id") -> None:
    """The owner, for whom nothing has changed yet."""
    answer = site.ask(route, case, world, world.owner, owned(world, kind))
    usual = 204 if route.returns is None else route.status
    assert answer.status_code == (case.owner_status or usual), f"owner, {kind}: {answer.text}"


@pytest.mark.parametrize(("route", "case"), NAMING_CASES)
def test_the_owner_is_served_what_is_missing_to_a_stranger(route: Route, case: RouteCase, site: Site):
    """Strangers are answered as if it didn't exist: each of them by their token, and one by a key of theirs."""
    for kind in kinds(route, case):
        world = site.world()
        key = {"Authorization": f"Bearer {site.key_of(world.stranger)}"}
        by_key = (403, "forbidden") if route.handler.opt.get("scope") == "account" else case.stranger
        before = snapshot(site.superuser, world.owner.id)
        for who, headers, expected in [*((who, {}, case.stranger) for who in STRANGERS), ("stranger", key, by_key)]:
            said = f"{who}{' by key' if headers else ''}, {kind}"
            person = getattr(world, who)
            answer = site.ask(route, case, world, person, owned(world, kind), headers)
            assert refusal(answer) == expected, said
            none = missing(kind)
            # All of it missing, and one by one: a message of a conversation that is there, say.
            absent = [
                none,
                *(
                    dataclasses.replace(owned(world, kind), **{name: getattr(none, name)})
                    for name in named(route, case)
                ),
            ]
            for objects in absent:
                assert everything(answer) == everything(site.ask(route, case, world, person, objects, headers)), said
            assert snapshot(site.superuser, world.owner.id) == before, said
        assert_served(route, case, site, world, kind)


@pytest.mark.parametrize(("route", "case"), OTHER_CASES)
def test_the_owner_is_served_and_so_is_a_stranger_with_nothing_of_the_owners(route: Route, case: RouteCase, site: Site):
    world = site.world()
    before = snapshot(site.superuser, world.owner.id)
    answer = site.ask(route, case, world, world.stranger, owned(world))
    assert answer.is_success, answer.text
    assert world.seen(answer.text) == case.shows
    assert snapshot(site.superuser, world.owner.id) == before
    assert_served(route, case, site, world)


@pytest.mark.parametrize(("route", "case"), [param for param in CASES if param.values[0].takes_key])
def test_the_key_of_the_owners_request_is_a_new_one_to_a_stranger(route: Route, case: RouteCase, site: Site):
    world = site.world()
    key = {"Idempotency-Key": secrets.token_hex(8)}
    site.ask(route, case, world, world.owner, owned(world), key)
    if route.path != "/v1/auth/logout-everywhere":  # after which the owner's token is no longer good
        answer = site.ask(route, case, world, world.owner, owned(world), key)
        assert ("Idempotency-Replayed" in answer.headers) == answer.is_success
    before = snapshot(site.superuser, world.owner.id)
    answer = site.ask(route, case, world, world.stranger, owned(world), key)
    assert "Idempotency-Replayed" not in answer.headers
    assert world.seen(answer.text) == set()
    if named(route, case):
        assert refusal(answer) == case.stranger
        assert everything(answer) == everything(site.ask(route, case, world, world.stranger, missing(), key))
    else:
        assert answer.is_success
        again = site.ask(route, case, world, world.stranger, owned(world), key)
        assert again.headers.get("Idempotency-Replayed") == "true" or route.path == "/v1/auth/logout-everywhere"
    assert snapshot(site.superuser, world.owner.id) == before


# One's own and another's together


@dataclasses.dataclass(frozen=True)
class Own:
    """What somebody who isn't the owner has of their own."""

    todo: str
    conversation: str
    message: str


def make_own(site: Site, person: Person) -> Own:
    todo = site.send(person, "POST", "/v1/todos", {"title": "Own"}).json()
    turn = site.send(person, "POST", "/v1/turns", {"messages": [SAID]}).json()
    return Own(todo["id"], turn["messages"][0]["conversation_id"], turn["messages"][0]["id"])


MIXED: dict[str, Callable[[Own, Objects], tuple[str, str, Any]]] = {
    "link one's own todo": lambda own, objects: (
        "POST",
        "/v1/links",
        {"todo_id": own.todo, "conversation_id": objects.conversation},
    ),
    "link one's own conversation": lambda own, objects: (
        "POST",
        "/v1/links",
        {"todo_id": objects.todo, "conversation_id": own.conversation},
    ),
    "change one's own todo in a conversation": lambda own, objects: (
        "PATCH",
        f"/v1/todos/{own.todo}",
        {"title": "Taken", "conversation_id": objects.conversation},
    ),
    "change one's own todo in a conversation, in a batch": lambda own, objects: (
        "POST",
        "/v1/todos/batch",
        {"update": [{"id": own.todo, "title": "Taken", "conversation_id": objects.conversation}]},
    ),
    "change a todo in one's own conversation": lambda own, objects: (
        "PATCH",
        f"/v1/todos/{objects.todo}",
        {"conversation_id": own.conversation},
    ),
    "get a message in one's own conversation": lambda own, objects: (
        "GET",
        f"/v1/conversations/{own.conversation}/messages/{objects.message}",
        None,
    ),
    "change a message in one's own conversation": lambda own, objects: (
        "PATCH",
        f"/v1/conversations/{own.conversation}/messages/{objects.message}",
        {"content": "Taken"},
    ),
    "delete a message in one's own conversation": lambda own, objects: (
        "DELETE",
        f"/v1/conversations/{own.conversation}/messages/{objects.message}",
        None,
    ),
    "get one's own message in a conversation": lambda own, objects: (
        "GET",
        f"/v1/conversations/{objects.conversation}/messages/{own.message}",
        None,
    ),
}


@pytest.mark.parametrize("what", MIXED)
def test_ones_own_is_not_tied_to_what_is_anothers(what: str, site: Site):
    world = site.world()
    for who in STRANGERS:
        person = getattr(world, who)
        own = make_own(site, person)
        before, before_own = [snapshot(site.superuser, user.id) for user in (world.owner, person)]
        answer = site.send(person, *MIXED[what](own, owned(world)))
        assert refusal(answer) == (404, "not_found"), who
        assert everything(answer) == everything(site.send(person, *MIXED[what](own, missing()))), who
        assert snapshot(site.superuser, world.owner.id) == before, who
        assert snapshot(site.superuser, person.id) == before_own, who


def test_a_filter_that_names_anothers_object_finds_what_one_that_names_nothing_finds(site: Site):
    world = site.world()
    for who in STRANGERS:
        person = getattr(world, who)
        own = make_own(site, person)
        linked = site.send(person, "POST", "/v1/links", {"todo_id": own.todo, "conversation_id": own.conversation})
        assert linked.status_code == 201, who
        answers = [
            [
                everything(site.send(person, "GET", f"/v1/links?{filters}"))
                for filters in (
                    f"todo_id={objects.todo}",
                    f"conversation_id={objects.conversation}",
                    f"todo_id={objects.todo}&conversation_id={objects.conversation}",
                    f"todo_id={own.todo}&conversation_id={objects.conversation}",
                    f"todo_id={objects.todo}&conversation_id={own.conversation}",
                )
            ]
            for objects in (owned(world), missing())
        ]
        assert answers[0] == answers[1], who
        assert {(status, body) for status, _, body in answers[0]} == {(200, b'{"items":[],"next_cursor":null}')}, who


# What an assignee may


def assert_all_missing(site: Site, world: World, who: Person, todo: UUID) -> None:
    """Whatever is asked about the todo, the answer is that of a todo that doesn't exist."""
    before = snapshot(site.superuser, world.owner.id)
    for route, case in (param.values for param in CASES if {"todo", "todo_uuid"} & named(*param.values)):
        answer = site.ask(route, case, world, who, owned(world, todo=todo))
        # What a file names is wrong with its line, not missing.
        assert answer.status_code == (422 if route.path == "/v1/import" else 404)
        assert everything(answer) == everything(site.ask(route, case, world, who, missing()))
    assert snapshot(site.superuser, world.owner.id) == before


def test_an_assignee_reads_the_todo_as_its_owner_does(site: Site):
    world = site.world()
    path = f"/v1/todos/{world.assigned}"
    answer = site.send(world.assignee, "GET", path)
    assert answer.status_code == 200
    assert everything(answer) == everything(site.send(world.owner, "GET", path))
    assert world.seen(answer.text) == ASSIGNED


def test_an_assignee_finds_the_todo_among_the_assigned_ones_only(site: Site):
    world = site.world()
    seen = {
        scope: [todo["id"] for todo in site.send(world.assignee, "GET", f"/v1/todos?scope={scope}").json()["items"]]
        for scope in ("owned", "assigned", "all")
    }
    assert seen == {"owned": [], "assigned": [str(world.assigned)], "all": [str(world.assigned)]}
    assert site.send(world.assignee, "GET", f"/v1/todos/{world.assigned_number}").status_code == 404


def test_an_assignee_changes_the_status(site: Site):
    world = site.world()
    path = f"/v1/todos/{world.assigned}"
    before = site.send(world.owner, "GET", path).json()
    answer = site.send(world.assignee, "PATCH", path, {"status": "in_progress"})
    assert answer.status_code == 200
    expected = {"status": "in_progress", "completed": False, "completed_at": None, "version": before["version"] + 1}
    assert answer.json() == {**before, **expected, "updated_at": answer.json()["updated_at"]}
    again = site.send(
        world.assignee, "POST", "/v1/todos/batch", {"update": [{"id": str(world.assigned), "status": "completed"}]}
    )
    assert again.status_code == 200
    assert again.json()["update"][0]["status"] == "completed"


def test_an_assignee_changes_nothing_else(site: Site):
    world = site.world()
    before = snapshot(site.superuser, world.owner.id)
    changes: list[dict[str, Any]] = [
        {"title": "Taken"},
        {"status": "archived", "title": "Taken"},
        {"description": "Taken"},
        {"priority": "urgent"},
        {"due_date": "2100-01-01T00:00:00Z"},
        {"due_date": None},
        {"assigned_to": None},
        {"metadata": {"taken": True}},
        {"status": "completed", "completed_at": "2020-01-01T00:00:00Z"},
    ]
    for change in changes:
        one = site.send(world.assignee, "PATCH", f"/v1/todos/{world.assigned}", change)
        many = site.send(world.assignee, "POST", "/v1/todos/batch", {"update": [{"id": str(world.assigned), **change}]})
        assert [answer.status_code for answer in (one, many)] == [403, 403], change
        assert one.json()["code"] == "forbidden", change
        assert (many.json()["code"], many.json()["list"], many.json()["index"]) == ("forbidden", "update", 0), change
        assert snapshot(site.superuser, world.owner.id) == before, change


def test_an_assignee_does_not_hand_the_todo_on(site: Site):
    world = site.world()
    before = snapshot(site.superuser, world.owner.id)
    for person in (world.assignee, world.stranger):
        change = {"assigned_to": str(person.id)}
        answer = site.send(world.assignee, "PATCH", f"/v1/todos/{world.assigned}", change)
        # Naming who it is assigned to already changes nothing, and is no error.
        assert answer.status_code == (200 if person is world.assignee else 403)
    assert snapshot(site.superuser, world.owner.id) == before


def test_an_assignee_does_not_delete_the_todo(site: Site):
    world = site.world()
    before = snapshot(site.superuser, world.owner.id)
    one = site.send(world.assignee, "DELETE", f"/v1/todos/{world.assigned}")
    many = site.send(world.assignee, "POST", "/v1/todos/batch", {"delete": [str(world.assigned)]})
    assert [answer.status_code for answer in (one, many)] == [403, 403]
    assert snapshot(site.superuser, world.owner.id) == before


@pytest.mark.parametrize("successor", [None, "stranger"])
def test_who_is_no_longer_assigned_gets_the_same_answers_as_for_a_missing_todo(successor: str | None, site: Site):
    world = site.world()
    assigned_to = successor and str(getattr(world, successor).id)
    given = site.send(world.owner, "PATCH", f"/v1/todos/{world.assigned}", {"assigned_to": assigned_to})
    assert given.status_code == 200
    assert_all_missing(site, world, world.assignee, world.assigned)
    assert site.send(world.assignee, "GET", "/v1/todos?scope=all").json()["items"] == []


def test_an_assignee_sees_nothing_of_the_conversations_about_the_todo(site: Site):
    world = site.world()
    listed = site.send(world.owner, "GET", f"/v1/todos/{world.assigned}/conversations").json()["items"]
    assert [item["id"] for item in listed] == [str(world.conversation)]
    answer = site.send(world.assignee, "GET", f"/v1/todos/{world.assigned}/conversations")
    assert answer.status_code == 404
    assert everything(answer) == everything(site.send(world.assignee, "GET", f"/v1/todos/{uuid4()}/conversations"))
    for path in ("/v1/conversations", "/v1/links", f"/v1/links?todo_id={world.assigned}"):
        assert site.send(world.assignee, "GET", path).json()["items"] == []


def test_an_assignee_links_the_todo_with_no_conversation(site: Site):
    world = site.world()
    own = make_own(site, world.assignee)
    before, before_own = [snapshot(site.superuser, user.id) for user in (world.owner, world.assignee)]
    for conversation in (own.conversation, str(world.conversation), str(uuid4())):
        ends = {"todo_id": str(world.assigned), "conversation_id": conversation}
        assert site.send(world.assignee, "POST", "/v1/links", ends).status_code == 404
        change = {"status": "archived", "conversation_id": conversation}
        one = site.send(world.assignee, "PATCH", f"/v1/todos/{world.assigned}", change)
        many = site.send(world.assignee, "POST", "/v1/todos/batch", {"update": [{"id": str(world.assigned), **change}]})
        assert [answer.status_code for answer in (one, many)] == [403, 403]
    assert snapshot(site.superuser, world.owner.id) == before
    assert snapshot(site.superuser, world.assignee.id) == before_own


def test_an_assignee_has_no_task_of_the_todo(site: Site):
    world = site.world()
    own, theirs = f"/api/{world.assignee.id}/tasks", f"/api/{world.owner.id}/tasks"
    assert site.send(world.assignee, "GET", own).json() == []
    number = world.assigned_number
    answer = site.send(world.assignee, "GET", f"{own}/{number}")
    assert answer.status_code == 404
    assert everything(answer) == everything(site.send(world.assignee, "GET", f"{own}/999999999"))
    before = snapshot(site.superuser, world.owner.id)
    assert site.send(world.assignee, "PATCH", f"{own}/{number}/complete").status_code == 404
    assert site.send(world.assignee, "PATCH", f"{theirs}/{number}/complete").status_code == 403
    assert snapshot(site.superuser, world.owner.id) == before


def test_assigning_gives_the_owner_no_sight_of_the_assignees_rows(site: Site):
    world = site.world()
    created = site.send(world.assignee, "POST", "/v1/todos", {"title": "Of the assignee"}).json()
    assert created["user_id"] == str(world.assignee.id)
    assert site.send(world.owner, "GET", f"/v1/todos/{created['id']}").status_code == 404
    for scope in ("owned", "assigned", "all"):
        assert created["id"] not in site.send(world.owner, "GET", f"/v1/todos?scope={scope}").text
