"""Nothing is lost and nothing is hidden: the trail against what really happened, under work of every kind."""

import asyncio
import contextlib
import dataclasses
import random
import re
import secrets
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import product
from typing import Any, Self, get_args
from uuid import UUID, uuid4

import httpx
import msgspec
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from service.audit import AuditFilters, list_audit, list_changes
from service.db.caller import Caller
from service.db.database import Database
from service.db.queries import Statement
from service.embedded import EmbeddedPostgres
from service.http.paging import Page, PageQuery, encode_cursor
from service.settings import Secret, Settings
from service.todo_lists import Order
from tests.conftest import PLAIN_HTTP, REPOSITORY, Server, TestDatabase, User, _server_factory, user_factory
from tests.support.asking import asking
from tests.support.load import Ask, at_once
from tests.support.plans import Recorder, buffers
from tests.support.problems import problem
from tests.support.row_changes import RowChange, RowChanges, row_changes
from tests.support.workload import ACTIONS, BY_HAND, EVERY_ROUTE, MAY_FAIL, Workload
from tests.support.worlds import snapshot

Connection = psycopg.Connection[Any]
Entry = dict[str, Any]
Place = tuple[str, str, str]

TABLES = ("users", "identities", "todos", "conversations", "messages", "todo_conversation_links")
"""Every table that is audited, in the order in which rows can be made."""
ACCOUNT = ("users", "identities")
"""What an export leaves out."""
NEVER_TOLD = {"password_hash", "tokens_valid_from"}
DERIVED = {"last_position", "message_count", "updated_at"}
"""What follows from a conversation's messages, and is no change of its own."""
CHILDREN = {
    "messages": {"conversation_id": "conversations"},
    "todo_conversation_links": {"todo_id": "todos", "conversation_id": "conversations"},
}
"""The tables whose rows go with others, and the columns that name those."""
decode = msgspec.json.Decoder(float_hook=Decimal).decode
"""JSON with its numbers as they stand there."""
_encode = msgspec.json.Encoder(decimal_format="number").encode


def get(client: httpx.Client, path: str, **parameters: Any) -> Any:
    found = client.get(path, params=parameters)
    assert found.status_code == 200, found.text
    return decode(found.content)


def follow(client: httpx.Client, cursor: str | None = None, limit: int = 200) -> tuple[list[Entry], str | None]:
    """What the feed has after the cursor, and the cursor to go on from."""
    entries: list[Entry] = []
    while True:
        page = get(client, "/v1/changes", limit=limit, **({"cursor": cursor} if cursor else {}))
        entries += page["items"]
        cursor = page["next_cursor"] or cursor
        if not page["items"]:
            return entries, cursor


def paged(client: httpx.Client, path: str, **parameters: Any) -> list[Any]:
    """A list, read one by one."""
    page = get(client, path, limit=1, **parameters)
    found = page["items"]
    while page["next_cursor"]:
        page = get(client, path, limit=1, cursor=page["next_cursor"], **parameters)
        found += page["items"]
    return found


def audit_list(client: httpx.Client, **filters: Any) -> list[Entry]:
    """The audit list, all its pages."""
    entries: list[Entry] = []
    cursor: dict[str, str] = {}
    while True:
        page = get(client, "/v1/audit", limit=200, **filters, **cursor)
        entries += page["items"]
        if page["next_cursor"] is None:
            return entries
        cursor = {"cursor": page["next_cursor"]}


# What happened


@dataclasses.dataclass(frozen=True)
class Types:
    """The types of the columns that the trail tells of, generated ones left out."""

    columns: dict[str, dict[str, str]]

    @classmethod
    def read(cls, connection: Connection) -> "Types":
        columns: dict[str, dict[str, str]] = {table: {} for table in TABLES}
        for table, column, kind in connection.execute(
            "SELECT attrelid::regclass::text, attname, coalesce(nullif(typbasetype, 0), t.oid)::regtype::text"
            " FROM pg_attribute JOIN pg_type t ON t.oid = atttypid WHERE attrelid = ANY(%s::regclass[])"
            " AND attnum > 0 AND NOT attisdropped AND attgenerated = ''",
            (list(TABLES),),
        ):
            if table != "conversations" or column not in DERIVED:
                columns[table][column] = kind
        return cls(columns)

    def plain(self, table: str, column: str, text: str | None) -> Any:
        """A value that PostgreSQL wrote as text."""
        if text is None:
            return None
        match self.columns[table][column]:
            case "timestamp with time zone":
                return datetime.fromisoformat(text)
            case "jsonb":
                return decode(text.encode())
            case "integer":
                return int(text)
            case "boolean":
                return text == "t"
            case _:
                return text

    def told(self, table: str, column: str, value: Any) -> Any:
        """The same value where the trail tells it, in JSON."""
        if value is not None and self.columns[table][column] == "timestamp with time zone":
            return datetime.fromisoformat(value)
        return value

    def changes(self, change: RowChange) -> dict[str, list[Any]]:
        """What an entry of this change must say."""
        found = {}
        for column in self.columns[change.table]:
            sides = [
                None if row is None else self.plain(change.table, column, row[column])
                for row in (change.before, change.after)
            ]
            if column not in NEVER_TOLD and (change.before is None or change.after is None or sides[0] != sides[1]):
                found[column] = sides
        return found

    def told_changes(self, entry: Entry) -> dict[str, list[Any]]:
        table = entry["table"]
        return {
            column: [self.told(table, column, value) for value in sides] for column, sides in entry["changes"].items()
        }


def is_told(change: RowChange) -> bool:
    """Not one that leaves every column as it was, nor what only follows from messages."""
    if change.before is None or change.after is None:
        return True
    changed = {column for column, value in change.before.items() if change.after[column] != value}
    return bool(changed - (DERIVED | {"updated_hour"} if change.table == "conversations" else set()))


def place(change: RowChange) -> Place:
    """Whose row it is, and which."""
    owner = change.row["id" if change.table == "users" else "user_id"]
    return str(owner), change.table, str(change.row["id"])


def entry_place(entry: Entry) -> Place:
    return entry["user_id"], entry["table"], entry["row_id"]


@dataclasses.dataclass
class Follower:
    """A client that polls the feed while others write."""

    client: httpx.Client
    limit: int
    entries: list[Entry] = dataclasses.field(default_factory=list)
    cursor: str | None = None

    async def follow(self) -> None:
        while True:
            await asyncio.to_thread(self.poll)
            await asyncio.sleep(0.01)

    def poll(self) -> None:
        found = {"cursor": self.cursor} if self.cursor else {}
        page = get(self.client, "/v1/changes", limit=self.limit, **found)
        assert len(page["items"]) <= self.limit
        self.entries += page["items"]
        self.cursor = page["next_cursor"] or self.cursor


@pytest.fixture(scope="module")
def own_server(
    make_module_database: Callable[[], TestDatabase], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The service on a database of this module's own."""
    with _server_factory(tmp_path_factory.mktemp("trail"), make_module_database) as start:
        yield start()


@pytest.fixture(scope="module")
def admin(own_server: Server) -> Iterator[Connection]:
    with psycopg.connect(own_server.database.superuser_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def types(admin: Connection) -> Types:
    return Types.read(admin)


@pytest.fixture(scope="module")
def new_own_user(own_server: Server) -> Iterator[Callable[..., User]]:
    with user_factory(own_server) as make:
        yield make


@pytest.fixture(scope="module")
def another(new_own_user: Callable[..., User]) -> User:
    """Somebody who does nothing."""
    return new_own_user()


@pytest.fixture
def log(admin: Connection) -> Iterator[RowChanges]:
    with row_changes(admin, TABLES) as changes:
        yield changes


# The trail against what happened


def recorded(connection: Connection, users: Sequence[User]) -> list[dict[str, Any]]:
    """The trails of these users as they are kept, in the order of the feed."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            "SELECT * FROM audit_log WHERE user_id = ANY(%s) ORDER BY user_id, seq", ([user.id for user in users],)
        )
        return cursor.fetchall()


def by_row(changes: Iterable[Any], key: Callable[[Any], Place]) -> dict[Place, list[Any]]:
    found: dict[Place, list[Any]] = defaultdict(list)
    for change in changes:
        found[key(change)].append(change)
    return found


def assert_counted(happened: Sequence[RowChange], kept: Sequence[dict[str, Any]]) -> None:
    """As many entries as rows changed, and those of one transaction are of one transaction."""
    real = Counter((*place(change), change.action) for change in happened if is_told(change))
    written = Counter(
        (str(entry["user_id"]), entry["table_name"], str(entry["row_id"]), entry["action"]) for entry in kept
    )
    assert written - real == Counter(), "entries of nothing"
    assert real - written == Counter(), "changes without an entry"

    rows = by_row((change for change in happened if is_told(change)), place)
    kept_rows = by_row(kept, lambda entry: (str(entry["user_id"]), entry["table_name"], str(entry["row_id"])))
    transactions = {
        (change.xid, entry["user_id"], entry["at"])
        for row, changes in rows.items()
        for change, entry in zip(changes, kept_rows[row], strict=True)
    }
    assert len(transactions) == len({(xid, user) for xid, user, _ in transactions}), "one time for each transaction"
    for seqs in by_row(kept, lambda entry: entry["user_id"]).values():
        assert [entry["seq"] for entry in seqs] == [*range(seqs[0]["seq"], seqs[0]["seq"] + len(seqs))]
        assert [entry["at"] for entry in seqs] == sorted(entry["at"] for entry in seqs)


def assert_told(types: Types, happened: Sequence[RowChange], entries: Sequence[Entry]) -> None:
    """Each row's entries tell what became of it, in that order, with what was before and after."""
    rows = by_row((change for change in happened if is_told(change)), place)
    told = by_row(entries, entry_place)
    assert told.keys() == rows.keys()
    for row, changes in rows.items():
        expected = [(change.action, types.changes(change)) for change in changes]
        assert [(entry["action"], types.told_changes(entry)) for entry in told[row]] == expected, row
    ids = [(entry["user_id"], entry["id"]) for entry in entries]
    assert len(set(ids)) == len(ids)


def assert_same(entries: Sequence[Entry], expected: Sequence[Entry]) -> None:
    """The same entries, in the same order; says which one is not."""
    assert [entry["id"] for entry in entries] == [entry["id"] for entry in expected]
    for entry, other in zip(entries, expected, strict=True):
        assert entry == other


def replay(copy: Connection, entries: Sequence[Entry]) -> None:
    """Do to an empty copy, whose foreign keys hold, what the entries say. Each must find the row as it says it was."""
    for entry in entries:
        table, changes = entry["table"], entry["changes"]
        columns = sorted(changes)
        key = {"id": entry["row_id"], **({} if table == "users" else {"user_id": entry["user_id"]})}
        parts = {
            "table": sql.Identifier(table),
            "columns": sql.SQL(", ").join(map(sql.Identifier, columns)),
            "old": sql.SQL(", ").join(sql.Identifier("b", column) for column in columns),
            "new": sql.SQL(", ").join(sql.Identifier("a", column) for column in columns),
            "now": sql.SQL(", ").join(sql.Identifier("t", column) for column in columns),
            "key": sql.SQL(" AND ").join(
                sql.SQL("{} = {}").format(sql.Identifier("t", column), sql.Literal(value))
                for column, value in key.items()
            ),
        }
        text = {
            "insert": "INSERT INTO {table} ({columns}) SELECT {new} FROM jsonb_populate_record("
            "NULL::{table}, %(after)s) a",
            "update": "UPDATE {table} AS t SET ({columns}) = (SELECT {new} FROM jsonb_populate_record("
            "NULL::{table}, %(after)s) a) FROM jsonb_populate_record(NULL::{table}, %(before)s) b"
            " WHERE {key} AND ROW({now}) IS NOT DISTINCT FROM ROW({old})",
            "delete": "DELETE FROM {table} AS t USING jsonb_populate_record(NULL::{table}, %(before)s) b"
            " WHERE {key} AND ROW({now}) IS NOT DISTINCT FROM ROW({old})",
        }[entry["action"]]
        sides = [_encode({column: changes[column][side] for column in columns}).decode() for side in (0, 1)]
        done = copy.execute(sql.SQL(text).format(**parts), {"before": sides[0], "after": sides[1]})
        if done.rowcount != 1:
            found = copy.execute(sql.SQL("SELECT to_jsonb(t) FROM {table} AS t WHERE {key}").format(**parts)).fetchall()
            # What a conversation or a todo takes along is told after it, as it happens.
            assert (entry["action"], found) == ("delete", []), f"the entry {entry} does not fit what there is: {found}"
            gone = [(parent, entry["changes"][column][0]) for column, parent in CHILDREN[table].items()]
            assert any(not exists(copy, parent, entry["user_id"], parent_id) for parent, parent_id in gone), entry


def exists(connection: Connection, table: str, user_id: str, row_id: str) -> bool:
    query = sql.SQL("SELECT FROM {} WHERE user_id = %s AND id = %s").format(sql.Identifier(table))
    return connection.execute(query, (user_id, row_id)).fetchone() is not None


def rows_of(connection: Connection, table: str, users: Sequence[User]) -> list[Any]:
    """All that these users have in a table, but their passwords."""
    owner_column = "id" if table == "users" else "user_id"
    query = sql.SQL(
        "SELECT to_jsonb(t) - 'password_hash' - 'tokens_valid_from' FROM {} t WHERE {} = ANY(%s) ORDER BY 1"
    ).format(sql.Identifier(table), sql.Identifier(owner_column))
    hidden = DERIVED | {"updated_hour"} if table == "conversations" else {"updated_hour"}
    found = connection.execute(query, ([user.id for user in users],))
    return [{name: value for name, value in row.items() if name not in hidden} for (row,) in found]


def assert_replays(
    admin: Connection, copy: TestDatabase, feeds: Sequence[Sequence[Entry]], users: Sequence[User]
) -> None:
    """The feeds make the same rows in an empty copy, which holds every rule but those of our triggers."""
    with psycopg.connect(copy.superuser_url) as connection:
        for table in TABLES:
            connection.execute(sql.SQL("ALTER TABLE {} DISABLE TRIGGER USER").format(sql.Identifier(table)))
        accounts = [entry for feed in feeds for entry in feed if entry["table"] == "users"]
        replay(connection, accounts)  # first: todos are assigned across users
        for feed in feeds:
            replay(connection, [entry for entry in feed if entry["table"] != "users"])
        for table in TABLES:
            assert rows_of(connection, table, users) == rows_of(admin, table, users)


# A story


@dataclasses.dataclass(frozen=True)
class Story:
    """What users did, what the log of the database says about it, and what those heard who followed."""

    work: Workload
    happened: list[RowChange]
    followers: list[Follower]
    feeds: list[list[Entry]]

    @property
    def users(self) -> list[User]:
        return [account.user for account in self.work.accounts]


@pytest.fixture(scope="module")
def story(own_server: Server, admin: Connection, new_own_user: Callable[..., User]) -> Story:
    with row_changes(admin, TABLES) as log:
        work = Workload(own_server, new_own_user, admin)
        followers = [Follower(account.user.client, limit) for account in work.accounts for limit in (3, 50)]
        work.run("a story", steps=60, transactions=12, beside=[follower.follow for follower in followers])
        with psycopg.connect(own_server.database.service_url) as connection:  # which may have met with nothing
            be(connection, work.accounts[0].user)
            connection.execute("SET LOCAL app.request_id = 'hand-last'")
            connection.execute(BY_HAND["an outside account"].encode(), {"salt": "to go"})
            connection.execute("DELETE FROM identities WHERE subject LIKE '%to go'")
        for account in work.accounts:
            account.user.client.headers["Authorization"] = f"Bearer {work.new_tokens(account.user.id).access_token}"
        feeds = [follow(account.user.client)[0] for account in work.accounts]
        return Story(work, log.read(), followers, feeds)


def test_every_route_is_in_the_work() -> None:
    assert set(ACTIONS) == EVERY_ROUTE


def test_every_route_that_writes_took_effect(story: Story) -> None:
    """Else what follows would show less than it seems to."""
    assert {key for key in ACTIONS if not story.work.took_effect(key)} <= MAY_FAIL
    actions = Counter((change.table, change.action) for change in story.happened)
    expected = {(table, action) for table in TABLES for action in ("insert", "update", "delete")}
    # Nobody changes an outside account or is deleted, here.
    assert expected - actions.keys() == {("identities", "update"), ("users", "delete")}
    assert any(not is_told(change) for change in story.happened)


def test_there_are_as_many_entries_as_rows_changed(story: Story, admin: Connection) -> None:
    kept = recorded(admin, story.users)
    assert len(kept) > 250  # The story is a random one: about 500. What each route must have done is asked above.
    assert_counted(story.happened, kept)


def test_the_feed_tells_what_became_of_each_row(story: Story, types: Types) -> None:
    assert_told(types, story.happened, [entry for feed in story.feeds for entry in feed])


def test_the_feed_replayed_into_an_empty_copy_gives_the_same_rows(
    story: Story, admin: Connection, make_database: Callable[[], TestDatabase]
) -> None:
    assert_replays(admin, make_database(), story.feeds, story.users)


def test_who_followed_the_feed_meanwhile_got_every_entry_once_and_in_order(story: Story) -> None:
    for place, follower in enumerate(story.followers):
        polled = len(follower.entries)
        assert polled > 20
        rest, _ = follow(follower.client, follower.cursor)
        assert_same(follower.entries + rest, story.feeds[place // 2])


def test_the_audit_list_is_the_feed_newest_first(story: Story) -> None:
    for user, feed in zip(story.users, story.feeds, strict=True):
        listed = audit_list(user.client)
        assert listed == sorted(feed, key=lambda entry: entry["id"], reverse=True)
        for name in ("table", "action", "row_id"):
            chosen = feed[len(feed) // 2][name]
            assert audit_list(user.client, **{name: chosen}) == [entry for entry in listed if entry[name] == chosen]
        times = sorted(entry["at"] for entry in feed)
        since, until = times[len(times) // 3], times[len(times) // 2]
        found = audit_list(user.client, since=since, until=until)
        assert {entry["id"] for entry in found} <= {entry["id"] for entry in listed if since <= entry["at"] <= until}
        assert {entry["id"] for entry in found} >= {entry["id"] for entry in listed if since < entry["at"] < until}


def test_each_entry_bears_who_did_it_in_which_request(story: Story) -> None:
    users = {str(user.id) for user in story.users}
    for feed in story.feeds:
        for entry in feed:
            request_id = entry["request_id"]
            if request_id is None:
                # Registered without one of our ids, or made active again by hand.
                assert entry["table"] == "users"
            elif request_id in story.work.askers:
                assert entry["actor_id"] == str(story.work.askers[request_id]), entry
            else:
                assert request_id.startswith("hand-") or entry["table"] == "users"
            assert entry["actor_id"] in users | {None}
        assert {entry["user_id"] for entry in feed} == {feed[0]["user_id"]}
    assert any(entry["actor_id"] != entry["user_id"] for feed in story.feeds for entry in feed if entry["actor_id"])


def test_what_the_feed_tells_last_is_what_the_objects_answer(story: Story) -> None:
    """In the very form of the API, whatever time zone a change was made in."""
    for user, feed in zip(story.users, story.feeds, strict=True):
        rows: dict[tuple[str, str], dict[str, Any]] = defaultdict(dict)
        for entry in feed:
            row = rows[entry["table"], entry["row_id"]]
            row.update({column: after for column, (_, after) in entry["changes"].items()})
            if entry["action"] == "delete":
                row.clear()
        paths = {"todos": "/v1/todos", "conversations": "/v1/conversations", "todo_conversation_links": "/v1/links"}
        compared = 0
        for (table, row_id), row in rows.items():
            if table in paths and row:
                answer = get(user.client, f"{paths[table]}/{row_id}")
                if table == "conversations":
                    del answer["version"]  # which moves with its messages, too
                assert {name: row[name] for name in answer if name in row} == {
                    name: value for name, value in answer.items() if name in row
                }
                compared += 1
        assert compared > 10


@pytest.mark.parametrize("path", ["/v1/changes", "/v1/audit", "/v1/export"])
def test_what_the_trail_tells_is_harmless_in_a_page(path: str, story: Story) -> None:
    parameters = {} if path == "/v1/export" else {"limit": 200}
    client = story.users[0].client
    plain = client.get(path, params=parameters).content
    assert b"\\u003cb\\u003e" in plain
    assert not set(plain) & set(b"<>&")
    escaped = client.get(path, params={**parameters, "escape": "html"}).content
    assert b"&lt;b&gt;" in escaped
    assert not set(escaped) & set(b"<>")


# Transactions that begin earlier and commit later


class Schedule:
    """Some connections of the service's login, one statement at a time, so that a seed gives the same schedule."""

    def __init__(self, server: Server, user: User, seed: str) -> None:
        self.random = random.Random(seed)
        self.user = user
        self.url = server.database.service_url
        self.stack = contextlib.ExitStack()
        self.connections: list[Connection] = []

    def __enter__(self) -> Self:
        for _ in range(5):
            connection = self.stack.enter_context(psycopg.connect(self.url))
            connection.execute("SET lock_timeout = '3ms'")
            connection.commit()
            self.connections.append(connection)
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def step(self) -> None:
        connection = self.random.choice(self.connections)
        if connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
            connection.execute(sql.SQL("SET LOCAL app.user_id = {}").format(str(self.user.id)))
            if self.random.random() < 0.5:
                connection.execute("SELECT pg_current_xact_id()")  # as old as it can be
        elif self.random.random() < 0.25:
            connection.commit()
            return
        elif self.random.random() < 0.1:
            connection.rollback()
            return
        text = BY_HAND[self.random.choice(list(BY_HAND))]
        try:
            connection.execute(text.encode(), {"salt": str(self.random.random())})
        except (psycopg.errors.LockNotAvailable, psycopg.IntegrityError):
            connection.rollback()

    def finish(self) -> None:
        self.random.shuffle(self.connections)
        for connection in self.connections:
            connection.commit()


@pytest.mark.parametrize("seed", range(3))
def test_the_feed_skips_and_repeats_nothing_however_transactions_overlap(
    seed: int,
    own_server: Server,
    admin: Connection,
    types: Types,
    log: RowChanges,
    new_own_user: Callable[..., User],
    make_database: Callable[[], TestDatabase],
) -> None:
    user = new_own_user()
    follower = Follower(user.client, 1 + 3 * seed)
    with Schedule(own_server, user, f"schedule {seed}") as schedule:
        for title in ("first", "second"):
            assert user.client.post("/v1/todos", json={"title": title}).status_code == 201
            assert user.client.post("/v1/conversations", json={"title": title}).status_code == 201
        for _ in range(200):
            schedule.step()
            if schedule.random.random() < 0.3:
                follower.poll()
        schedule.finish()
        seen = len(follower.entries)
        rest, _ = follow(user.client, follower.cursor)
        entries, _ = follow(user.client)
        happened = log.read()
    assert_same(follower.entries + rest, entries)
    assert seen > 20
    assert_counted(happened, recorded(admin, [user]))
    assert_told(types, happened, entries)
    assert_replays(admin, make_database(), [entries], [user])


def test_the_last_change_is_told_although_nothing_comes_after_it(
    own_server: Server, new_own_user: Callable[..., User]
) -> None:
    """A transaction that is older than one which was committed before its last change."""
    user = new_own_user()
    url = own_server.database.service_url
    with psycopg.connect(url) as older, psycopg.connect(url) as newer:
        for connection in (older, newer):
            connection.execute(sql.SQL("SET LOCAL app.user_id = {}").format(str(user.id)))
            connection.execute("SELECT pg_current_xact_id()")
        newer.execute("INSERT INTO conversations (user_id, title) VALUES (%s, 'newer')", (user.id,))
        newer.commit()
        at_once = [entry["table"] for entry in follow(user.client)[0]]
        assert at_once == ["users", "conversations"], "it waits for nobody"
        older.execute("INSERT INTO todos (user_id, title) VALUES (%s, 'older')", (user.id,))
        older.commit()
        told = [entry["table"] for entry in follow(user.client)[0]]
    assert told == ["users", "conversations", "todos"]


def test_an_older_transaction_that_changes_a_row_last_is_told_last(
    own_server: Server, new_own_user: Callable[..., User]
) -> None:
    user = new_own_user()
    todo = user.client.post("/v1/todos", json={"title": "0"}).json()["id"]
    url = own_server.database.service_url
    with psycopg.connect(url) as older, psycopg.connect(url) as newer:
        for connection in (older, newer):
            connection.execute(sql.SQL("SET LOCAL app.user_id = {}").format(str(user.id)))
            connection.execute("SELECT pg_current_xact_id()")
        for title, connection in (("1", newer), ("2", older)):
            connection.execute("UPDATE todos SET title = %s WHERE id = %s", (title, todo))
            connection.commit()
    titles = [entry["changes"]["title"] for entry in follow(user.client)[0] if entry["row_id"] == todo]
    assert titles == [[None, "0"], ["0", "1"], ["1", "2"]]


# What the service's login may try


REFUSED_SETTINGS = [
    "SET LOCAL session_replication_role = replica",
    "SET LOCAL ROLE todochat_owner",
    "SET LOCAL SESSION AUTHORIZATION DEFAULT; SET LOCAL ROLE postgres",
    "ALTER TABLE todos DISABLE TRIGGER todos_audit_update",
    "SET LOCAL allow_system_table_mods = on",
]
HARMLESS_SETTINGS = [
    "SET LOCAL app.restoring = 'on'",
    "SET LOCAL app.restoring = 'anything'",
    "SET LOCAL app.messages_counted = '5000'; SET LOCAL app.audit = 'off'",
    "SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED",
    "SET LOCAL search_path = pg_temp, public, pg_catalog",
    "SET LOCAL search_path = ''",
    "SET LOCAL TimeZone = 'Asia/Kathmandu'",
    "SET LOCAL DateStyle = 'SQL, DMY'; SET LOCAL IntervalStyle = 'sql_standard'",
    "SET LOCAL row_security = on",
    "SET LOCAL standard_conforming_strings = off; SET LOCAL escape_string_warning = off",
    "SET LOCAL transform_null_equals = on; SET LOCAL array_nulls = off",
    "SET LOCAL quote_all_identifiers = on; SET LOCAL extra_float_digits = -15; SET LOCAL bytea_output = 'escape'",
    "SET LOCAL client_encoding = 'LATIN1'",
    "SET LOCAL jit = on; SET LOCAL jit_above_cost = 0; SET LOCAL plan_cache_mode = force_generic_plan",
    "SET LOCAL enable_indexscan = off; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off",
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET LOCAL synchronous_commit = off",
    "SAVEPOINT before; SET LOCAL app.user_id = ''; ROLLBACK TO before",
]
SHADOWED = ("audit_log", *TABLES)


def be(connection: Connection, user: User) -> None:
    """What the service says at the beginning of a transaction."""
    connection.execute(sql.SQL("SET LOCAL app.user_id = {}").format(str(user.id)))


def touch_everything(connection: Connection, user: User) -> None:
    """Rows made, changed and deleted in every table, a cascade and a change without effect among it."""
    user_id = user.id
    connection.execute("UPDATE public.users SET full_name = coalesce(full_name, '') || 'x' WHERE id = %s", (user_id,))
    connection.execute(
        "INSERT INTO public.identities (user_id, issuer, subject) VALUES (%s, 'i', gen_random_uuid()::text)", (user_id,)
    )
    connection.execute("DELETE FROM public.identities WHERE user_id = %s", (user_id,))
    todo = connection.execute(
        "INSERT INTO public.todos (user_id, title) VALUES (%s, 'a') RETURNING id", (user_id,)
    ).fetchone()[0]
    conversation = connection.execute(
        "INSERT INTO public.conversations (user_id, title) VALUES (%s, 'a') RETURNING id", (user_id,)
    ).fetchone()[0]
    connection.execute(
        "INSERT INTO public.messages (user_id, conversation_id, sender_type, content)"
        " VALUES (%(user)s, %(id)s, 'ai', 'a'), (%(user)s, %(id)s, 'user', 'b')",
        {"user": user_id, "id": conversation},
    )
    connection.execute(
        "INSERT INTO public.todo_conversation_links (user_id, todo_id, conversation_id) VALUES (%s, %s, %s)",
        (user_id, todo, conversation),
    )
    for change in (
        "UPDATE public.todos SET title = 'b', due_date = '2030-01-01T00:00:00Z', metadata = '{\"a\": 1.10}'",
        "UPDATE public.todos SET status = 'completed', completed_at = now()",
        "UPDATE public.todos SET status = 'archived'",
        "UPDATE public.todos SET title = title",
        "UPDATE public.conversations SET title = NULL, metadata = '{\"b\": []}'",
        "UPDATE public.messages SET content = content || 'c'",
        "UPDATE public.todo_conversation_links SET relationship_type = 'update'",
    ):
        connection.execute(f"{change} WHERE user_id = %s".encode(), (user_id,))
    connection.execute("DELETE FROM public.messages WHERE user_id = %s AND position = 1", (user_id,))
    connection.execute("DELETE FROM public.conversations WHERE user_id = %s", (user_id,))
    connection.execute("DELETE FROM public.todos WHERE user_id = %s", (user_id,))


def test_no_setting_and_no_temporary_table_keeps_a_change_out_of_the_trail(
    own_server: Server, admin: Connection, types: Types, log: RowChanges, new_own_user: Callable[..., User]
) -> None:
    """Even where a DBA has given the login what it should not have: temporary tables."""
    user = new_own_user()
    login = conninfo_to_dict(own_server.database.service_url)["user"]
    names = {"database": sql.Identifier(own_server.database.name), "login": sql.Identifier(str(login))}
    admin.execute(sql.SQL("GRANT TEMPORARY ON DATABASE {database} TO {login}").format(**names))
    try:
        with psycopg.connect(own_server.database.service_url) as connection:
            for setting in REFUSED_SETTINGS:
                with pytest.raises(psycopg.Error) as caught:
                    connection.execute(setting.encode())
                assert caught.value.sqlstate in ("42501", "22023", "0LP01"), setting
                connection.rollback()
            for table in SHADOWED:
                connection.execute(f"CREATE TEMPORARY TABLE {table} (LIKE public.{table})".encode())
                connection.execute(f"GRANT ALL ON pg_temp.{table} TO PUBLIC".encode())
            connection.commit()
            for setting in HARMLESS_SETTINGS:
                connection.execute(setting.encode())
                be(connection, user)
                touch_everything(connection, user)
                connection.commit()
            for table in SHADOWED:
                assert connection.execute(f"SELECT count(*) FROM pg_temp.{table}".encode()).fetchone() == (0,)
    finally:
        admin.execute(sql.SQL("REVOKE TEMPORARY ON DATABASE {database} FROM {login}").format(**names))
    happened = log.read()
    assert len([change for change in happened if change.is_real]) > 20 * len(HARMLESS_SETTINGS)
    assert_counted(happened, recorded(admin, [user]))
    assert_told(types, happened, follow(user.client)[0])


FORGERIES = {
    "an insert": "INSERT INTO todos (user_id, title) VALUES (%(me)s, 'x') RETURNING {become}",
    "an update": "UPDATE todos SET title = 'y' WHERE user_id = %(me)s RETURNING {become}",
    "a delete": "DELETE FROM conversations WHERE user_id = %(me)s RETURNING {become}",
    "an account": "UPDATE users SET full_name = 'y' WHERE id = %(me)s RETURNING {become}",
    "a message": "INSERT INTO messages (user_id, conversation_id, sender_type, content)"
    " SELECT %(me)s, id, 'ai', 'x' FROM conversations WHERE user_id = %(me)s RETURNING {become}",
    "behind a CTE": "WITH made AS (INSERT INTO todos (user_id, title) VALUES (%(me)s, 'x') RETURNING id)"
    " SELECT {become} FROM made",
}


@pytest.mark.parametrize("as_whom", ["another", "nobody"])
@pytest.mark.parametrize("text", FORGERIES.values(), ids=FORGERIES)
def test_a_change_cannot_be_passed_off_as_somebody_else_s(
    text: str, as_whom: str, own_server: Server, admin: Connection, another: User, new_own_user: Callable[..., User]
) -> None:
    """Row security looks before RETURNING is worked out; the entry is written after it."""
    me = new_own_user()
    with psycopg.connect(own_server.database.service_url) as connection:
        be(connection, me)
        connection.execute("INSERT INTO todos (user_id, title) VALUES (%s, 'x')", (me.id,))
        connection.execute("INSERT INTO conversations (user_id, title) VALUES (%s, 'x')", (me.id,))
        connection.commit()
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            be(connection, me)
            become = "set_config('app.user_id', %(become)s, true)"
            values = {"me": me.id, "become": str(another.id) if as_whom == "another" else ""}
            connection.execute(text.format(become=become).encode(), values)
            connection.commit()
    assert {entry["actor_id"] for entry in recorded(admin, [me])} == {me.id}
    assert {entry["actor_id"] for entry in recorded(admin, [another])} == {another.id}


DIRECT = {
    "insert": "INSERT INTO audit_log SELECT * FROM audit_log",
    "insert nothing": "INSERT INTO audit_log DEFAULT VALUES",
    "update": "UPDATE audit_log SET seq = seq",
    "update another": "UPDATE audit_log SET user_id = gen_random_uuid()",
    "delete": "DELETE FROM audit_log",
    "delete by a join": "DELETE FROM audit_log USING users",
    "merge": "MERGE INTO audit_log USING users ON audit_log.user_id = users.id WHEN MATCHED THEN DELETE",
    "lock its rows": "SELECT FROM audit_log FOR UPDATE",
    "lock it": "LOCK TABLE audit_log IN SHARE ROW EXCLUSIVE MODE",
    "truncate": "TRUNCATE audit_log",
    "truncate with what hangs on it": "TRUNCATE users CASCADE",
    "copy": "COPY audit_log FROM STDIN",
    "drop": "DROP TABLE audit_log",
    "rename": "ALTER TABLE audit_log RENAME TO elsewhere",
    "row security off": "ALTER TABLE audit_log DISABLE ROW LEVEL SECURITY",
    "a rule": "CREATE RULE hidden AS ON INSERT TO audit_log DO INSTEAD NOTHING",
    "a policy": "CREATE POLICY mine ON audit_log USING (true)",
    "a default": "ALTER TABLE audit_log ALTER COLUMN user_id SET DEFAULT gen_random_uuid()",
}


def test_the_trail_can_be_read_and_nothing_else(
    own_server: Server, admin: Connection, new_own_user: Callable[..., User]
) -> None:
    user = new_own_user()
    assert user.client.post("/v1/todos", json={"title": "x"}).status_code == 201
    before = recorded(admin, [user])
    with psycopg.connect(own_server.database.service_url) as connection:
        for name, text in DIRECT.items():
            be(connection, user)
            with pytest.raises(psycopg.Error) as caught:
                connection.execute(text.encode())
            assert caught.value.sqlstate == "42501", name
            connection.rollback()
    assert recorded(admin, [user]) == before


def test_the_functions_that_reach_into_trails_serve_nobody_else(
    own_server: Server, admin: Connection, new_own_user: Callable[..., User]
) -> None:
    """Every function that the service may call and that touches the trail, or anything in the owner's name."""
    me, other = new_own_user(), new_own_user()
    assert other.client.post("/v1/todos", json={"title": "x"}).status_code == 201
    before = recorded(admin, [other])
    reaching = {
        name
        for (name,) in admin.execute(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef"
            " AND prorettype <> 'trigger'::regtype AND has_function_privilege('todochat_app', oid, 'EXECUTE')"
        )
    }
    assert reaching == {
        "find_credentials",
        "find_user_by_username",
        "take_sign_in_attempt",
        "forgive_sign_in_attempt",
        "erase_user",
        "unassign_todos",
        "resolve_identity",
    }
    with psycopg.connect(own_server.database.service_url) as connection:
        for context in (str(me.id), ""):
            connection.execute(sql.SQL("SET LOCAL app.user_id = {}").format(context))
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("SELECT erase_user(%s, NULL)", (other.id,))
            connection.rollback()
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("SELECT unassign_todos(%s, NULL, 0, false)", (other.id,))
            connection.rollback()
            with pytest.raises((psycopg.errors.UniqueViolation, psycopg.errors.InsufficientPrivilege)):
                connection.execute(
                    "SELECT resolve_identity(%s, 'https://issuer.example', %s, 1700000000, NULL, NULL, true)",
                    (other.id, str(uuid4())),
                )
            connection.rollback()
    assert recorded(admin, [other]) == before


# Carried away and brought back


def export(user: User) -> bytes:
    found = user.client.get("/v1/export")
    assert found.status_code == 200, found.text
    return found.content


def bring(user: User, content: bytes) -> dict[str, dict[str, int]]:
    found = user.client.post("/v1/import", content=content, headers={"Content-Type": "application/x-ndjson"})
    assert found.status_code == 200, found.text
    return found.json()


def total(result: dict[str, dict[str, int]], how: str) -> int:
    return sum(counts[how] for counts in result.values())


@pytest.fixture(scope="module")
def empty_server(
    make_module_database: Callable[[], TestDatabase], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The service on a database that nobody has been in."""
    with _server_factory(tmp_path_factory.mktemp("empty"), make_module_database) as start:
        yield start()


def test_what_is_exported_and_brought_into_an_empty_database_is_exported_from_there_byte_for_byte(
    story: Story, admin: Connection, empty_server: Server, types: Types
) -> None:
    exports = {account.email: export(account.user) for account in story.work.accounts}
    assert all(len(content.splitlines()) > 10 for content in exports.values())
    for account in story.work.accounts:
        owned = sum(len(rows_of(admin, table, [account.user])) for table in TABLES if table not in ACCOUNT)
        assert len(exports[account.email].splitlines()) - 2 == owned, "nothing is left out"
    with (
        psycopg.connect(empty_server.database.superuser_url, autocommit=True) as there,
        row_changes(there, TABLES) as log,
        user_factory(empty_server) as new_user,
    ):
        # Todos are assigned across users, whom the file names by their ids: they are to be found there, too.
        moved = {
            account.email: dataclasses.replace(new_user(email=account.email), email=account.email)
            for account in story.work.accounts
        }
        ids = {str(old.user.id): str(moved[old.email].id) for old in story.work.accounts}
        for email, content in exports.items():
            for old, new in ids.items():
                exports[email] = exports[email].replace(old.encode(), new.encode())
            own = next(old for old in story.work.accounts if old.email == email)
            # A row may have the id of a user, and a link then names it.
            assert str(own.user.id).encode() not in content.replace(b'id":"%s"' % str(own.user.id).encode(), b"")
        for email, content in exports.items():
            result = bring(moved[email], content)
            assert total(result, "skipped") == 0
            assert total(result, "imported") == len(content.splitlines()) - 2
        for email, content in exports.items():
            assert export(moved[email]) == content

        users = list(moved.values())
        trail = recorded(there, users)
        for email, content in exports.items():
            result = bring(moved[email], content)
            assert total(result, "imported") == 0
        assert recorded(there, users) == trail, "a second time changes nothing"
        for email, content in exports.items():
            assert export(moved[email]) == content

        happened = log.read()
        assert_counted(happened, trail)
        assert_told(types, happened, [entry for user in users for entry in follow(user.client)[0]])


def test_another_user_s_file_and_another_user_s_ids_are_refused(
    story: Story, new_own_user: Callable[..., User]
) -> None:
    """Nothing of the file is brought in, and nothing tells whether the id it names exists."""
    me, victim = new_own_user(), story.users[0]
    theirs = export(victim)
    refused = me.client.post("/v1/import", content=theirs, headers={"Content-Type": "application/x-ndjson"})
    problem(refused, 422, "validation_failed")
    assert me.client.post("/v1/todos", json={"title": "mine"}).status_code == 201
    mine = export(me)
    before = audit_list(me.client)
    lines = mine.splitlines(keepends=True)
    todo = msgspec.json.decode(lines[1])
    for change in ({"user_id": str(victim.id)}, {"created_by": str(victim.id)}, {"actor_id": str(victim.id)}):
        line = msgspec.json.encode({**todo, "id": str(uuid4()), "number": 2, **change}) + b"\n"
        forged = b"".join([lines[0], line, *lines[1:]])
        refused = me.client.post("/v1/import", content=forged, headers={"Content-Type": "application/x-ndjson"})
        problem(refused, 422, "validation_failed")
        assert "2" in refused.json()["errors"][0]["field"], refused.text
    assert export(me) == mine
    assert audit_list(me.client) == before


def test_of_two_todos_with_one_id_a_user_changes_their_own_and_not_the_one_assigned_to_them(
    new_own_user: Callable[..., User],
) -> None:
    """A file brought into a second account leaves its rows in both, with the same ids."""
    one, two = new_own_user(), new_own_user()
    todo = one.client.post("/v1/todos", json={"title": "theirs"}).json()["id"]
    bring(two, export(one).replace(one.email.encode(), two.email.encode()))
    assert one.client.patch(f"/v1/todos/{todo}", json={"assigned_to": str(two.id)}).status_code == 200
    before = one.client.get(f"/v1/todos/{todo}").json()
    for path in (f"/v1/todos/{todo}", "/v1/todos/1"):
        changed = two.client.patch(path, json={"title": "mine", "status": "in_progress", "description": path})
        assert (changed.status_code, changed.json()["user_id"]) == (200, str(two.id)), changed.text
    batch = two.client.post("/v1/todos/batch", json={"update": [{"id": todo, "status": "completed"}]})
    assert [found["user_id"] for found in batch.json()["update"]] == [str(two.id)]
    assert two.client.delete(f"/v1/todos/{todo}").status_code == 204
    assert one.client.get(f"/v1/todos/{todo}").json() == before
    assert two.client.patch(f"/v1/todos/{todo}", json={"status": "in_progress"}).json()["user_id"] == str(one.id)


def test_of_two_todos_with_one_id_that_are_assigned_to_a_user_one_is_meant_and_lists_have_both(
    new_own_user: Callable[..., User],
) -> None:
    one, two, worker = new_own_user(), new_own_user(), new_own_user()
    todo = one.client.post("/v1/todos", json={"title": "twice", "due_date": "2030-01-01T00:00:00Z"}).json()["id"]
    content = export(one)
    bring(two, content.replace(one.email.encode(), two.email.encode()))
    for boss in (two, one):
        assert boss.client.patch(f"/v1/todos/{todo}", json={"assigned_to": str(worker.id)}).status_code == 200
    first, second = sorted((one, two), key=lambda user: user.id)
    untouched = second.client.get(f"/v1/todos/{todo}").json()

    assert worker.client.get(f"/v1/todos/{todo}").json()["user_id"] == str(first.id)
    changed = worker.client.patch(f"/v1/todos/{todo}", json={"status": "in_progress"}, headers={"If-Match": '"2"'})
    assert (changed.status_code, changed.json()["user_id"]) == (200, str(first.id))
    stale = worker.client.patch(f"/v1/todos/{todo}", json={"status": "completed"}, headers={"If-Match": '"2"'})
    problem(stale, 412, "version_mismatch")
    assert second.client.get(f"/v1/todos/{todo}").json() == untouched

    bring(worker, content.replace(one.email.encode(), worker.email.encode()))
    owners = {"assigned": {str(one.id), str(two.id)}, "all": {str(one.id), str(two.id), str(worker.id)}}
    for scope, order in product(owners, get_args(get_args(Order)[0])):
        found = paged(worker.client, "/v1/todos", scope=scope, order=order)
        assert {item["user_id"] for item in found} == owners[scope], (scope, order)
        assert len(found) == len(owners[scope]), (scope, order)


# Undone


def test_what_was_deleted_and_changed_comes_back_as_it_was_by_undoing_the_feed_backwards(
    admin: Connection,
    types: Types,
    log: RowChanges,
    new_own_user: Callable[..., User],
    make_database: Callable[[], TestDatabase],
) -> None:
    user = new_own_user()
    client = user.client
    rng = random.Random("undone")
    todos = [client.post("/v1/todos", json={"title": f"todo {n}"}).json()["id"] for n in range(6)]
    conversations = []
    for number in range(4):
        said = [{"sender_type": "user", "content": f"said {place}", "metadata": {"n": place}} for place in range(5)]
        turn = client.post("/v1/turns", json={"title": f"conversation {number}", "messages": said}).json()
        conversations.append(turn["messages"][0]["conversation_id"])
        assert (
            client.delete(f"/v1/conversations/{conversations[-1]}/messages/{turn['messages'][2]['id']}").status_code
            == 204
        )
        for todo in rng.sample(todos, 3):
            body = {"todo_id": todo, "conversation_id": conversations[-1]}
            assert client.post("/v1/links", json=body).status_code == 201
    overdue = {"status": "completed", "title": "done"}
    assert client.patch(f"/v1/todos/{todos[0]}", json={"due_date": "2020-01-01T00:00:00Z"}).status_code == 200
    assert client.patch(f"/v1/todos/{todos[0]}", json=overdue).status_code == 200
    assert client.patch(f"/v1/todos/{todos[1]}", json={"status": "archived"}).status_code == 200
    before = {table: rows_of(admin, table, [user]) for table in TABLES}
    _, cursor = follow(client)

    # An update that is undone moves version and updated_at on, like every other.
    assert client.patch(f"/v1/todos/{todos[1]}", json={"status": "pending"}).status_code == 200
    assert client.patch(f"/v1/todos/{todos[2]}", json={"title": "changed", "metadata": {"a": 1}}).status_code == 200
    assert client.patch(f"/v1/conversations/{conversations[1]}", json={"title": None}).status_code == 200
    changed, cursor = follow(client, cursor)
    for entry in reversed(changed):
        assert client.post(f"/v1/changes/{entry['id']}/revert").status_code == 200
        (row,) = [row for row in rows_of(admin, entry["table"], [user]) if row["id"] == entry["row_id"]]
        (old,) = [row for row in before[entry["table"]] if row["id"] == entry["row_id"]]
        assert row["version"] == old["version"] + 2
        if entry["table"] != "conversations":
            assert row["updated_at"] > old["updated_at"]
            old |= {"updated_at": row["updated_at"]}
        assert row | {"version": old["version"]} == old
    assert len(changed) == 3

    # What is deleted comes back with all that went with it, just as it was.
    before = {table: rows_of(admin, table, [user]) for table in TABLES}
    _, cursor = follow(client, cursor)
    gone = [f"/v1/todos/{todo}" for todo in todos] + [f"/v1/conversations/{found}" for found in conversations]
    rng.shuffle(gone)
    for path in gone:
        assert client.delete(path).status_code == 204
    assert not any(rows_of(admin, table, [user]) for table in TABLES if table not in ("users", "identities"))
    undone = 0
    for entry in reversed(follow(client, cursor)[0]):
        if entry["table"] not in CHILDREN:
            answer = client.post(f"/v1/changes/{entry['id']}/revert")
            assert answer.status_code == 200, (entry, answer.text)
            undone += 1
    assert undone == len(gone)
    for table in TABLES:
        assert rows_of(admin, table, [user]) == before[table]
    entries, _ = follow(client)
    happened = log.read()
    assert_counted(happened, recorded(admin, [user]))
    assert_told(types, happened, entries)
    assert_replays(admin, make_database(), [entries], [user])


# Erased


WORDS = {
    "users": {"email", "username", "full_name"},
    "identities": {"issuer", "subject"},
    "todos": {"title", "description", "metadata"},
    "conversations": {"title", "metadata", "external_id"},
    "messages": {"content", "metadata", "item"},
    "todo_conversation_links": set[str](),
    "idempotency_keys": {"key", "operation", "headers", "body"},
    "api_keys": {"name"},
    "audit_log": {"before", "request_id"},
    "todo_counters": set[str](),
    "sign_in_attempts": set[str](),
    "ended_identities": set[str](),
}
"""The columns that can hold words somebody chose."""
CLOSED = {
    ("users", "password_hash"),  # of words, but they are not in it
    ("idempotency_keys", "request_hash"),
    ("sign_in_attempts", "key"),
    ("ended_identities", "digest"),
    ("api_keys", "digest"),
    ("api_keys", "scope"),
    ("todos", "status"),
    ("todos", "priority"),
    ("messages", "sender_type"),
    ("messages", "role"),
    ("messages", "message_type"),
    ("todo_conversation_links", "relationship_type"),
    ("audit_log", "action"),
    ("audit_log", "table_name"),
}


def dump(postgres: EmbeddedPostgres, database: TestDatabase) -> str:
    """All of a database, with bytea as the text that it may be."""
    command = [str(postgres.bin_dir / "pg_dump"), "--dbname", database.superuser_url, "--data-only"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return re.sub(r"\\\\x([0-9a-f]+)", lambda found: bytes.fromhex(found[1]).decode(errors="replace"), text)


def planted(text: str, words: Mapping[str, str]) -> set[str]:
    """Those of the words, by name, that stand somewhere in the text."""
    return {name for name, word in words.items() if word.lower() in text.lower()}


@dataclasses.dataclass(frozen=True)
class Planted:
    """A user with a word of their own in every column, in other people's trails and kept answers too."""

    user: User
    words: dict[str, str]
    helper: User
    """Assigned todos of the user's, and has assigned some to them."""


def plant(server: Server, admin: Connection, new_user: Callable[..., User]) -> Planted:
    words = {
        f"{table}.{column}": f"w{secrets.token_hex(6)}"
        for table, columns in sorted(WORDS.items())
        for column in columns
    }
    for name in ("password", "old title", "old content", "gone", "refused", "batch", "theirs"):
        words[name] = f"w{secrets.token_hex(6)}"
    helper = new_user()
    user = new_user(
        email=f"{words['users.email']}@example.com",
        username=words["users.username"],
        full_name=words["users.full_name"],
        password=words["password"],
    )

    def sent(who: User, method: str, path: str, body: Any = None, expected: int = 0, **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = who.client.request(
            method, path, json=body, headers={"X-Request-ID": words["audit_log.request_id"], **named}
        )
        assert answer.status_code in ({expected} if expected else {200, 201, 204}), answer.text
        return answer.json() if answer.content else None

    todo = sent(
        user,
        "POST",
        "/v1/todos",
        {
            "title": words["old title"],
            "description": words["todos.description"],
            "metadata": {words["todos.metadata"]: [words["todos.metadata"]]},
            "assigned_to": str(helper.id),
        },
        Idempotency_Key=words["idempotency_keys.key"],
    )
    sent(user, "PATCH", f"/v1/todos/{todo['id']}", {"title": words["todos.title"]})
    conversation = sent(
        user,
        "POST",
        "/v1/conversations",
        {
            "title": words["conversations.title"],
            "metadata": {"a": words["conversations.metadata"]},
            "external_id": words["conversations.external_id"],
        },
        Idempotency_Key=words["idempotency_keys.headers"],
    )
    said = {"sender_type": "user", "content": words["old content"], "metadata": {"a": words["messages.metadata"]}}
    said["item"] = words["messages.item"]
    messages = f"/v1/conversations/{conversation['id']}/messages"
    message = sent(user, "POST", messages, said, Idempotency_Key=words["idempotency_keys.body"])
    sent(user, "PATCH", f"{messages}/{message['id']}", {"content": words["messages.content"]})
    sent(user, "POST", "/v1/links", {"todo_id": todo["id"], "conversation_id": conversation["id"]})
    sent(user, "POST", "/v1/keys", {"name": words["api_keys.name"], "scope": "read"})
    gone = sent(user, "POST", "/v1/todos", {"title": words["gone"], "metadata": {"a": words["audit_log.before"]}})
    sent(user, "DELETE", f"/v1/todos/{gone['id']}")
    taken = {"email": user.email, "password": words["password"], "full_name": words["refused"]}
    assert httpx.post(f"{server.url}/v1/auth/register", json=taken, verify=PLAIN_HTTP).status_code == 409
    wrong = {"email": user.email, "password": words["refused"]}
    assert httpx.post(f"{server.url}/v1/auth/token", json=wrong, verify=PLAIN_HTTP).status_code == 401
    sent(user, "POST", "/v1/links", {"todo_id": todo["id"], "conversation_id": conversation["id"]}, 409)
    sent(helper, "PATCH", "/v1/users/me", {"username": words["users.username"]}, 409)

    # What is not the user's, but has to do with them.
    theirs = sent(helper, "POST", "/v1/todos", {"title": "help", "assigned_to": str(user.id)}, X_Request_ID="helpful")
    sent(user, "PATCH", f"/v1/todos/{theirs['id']}", {"status": "in_progress"})
    batch = {"update": [{"id": todo["id"], "status": "in_progress"}]}
    sent(helper, "POST", "/v1/todos/batch", batch, Idempotency_Key="helpful batch", X_Request_ID="helpful")
    passed = sent(user, "POST", "/v1/todos", {"title": words["batch"], "assigned_to": str(helper.id)})
    batch = {"update": [{"id": passed["id"], "status": "in_progress"}]}
    sent(helper, "POST", "/v1/todos/batch", batch, Idempotency_Key="another batch", X_Request_ID="helpful")
    sent(user, "PATCH", f"/v1/todos/{passed['id']}", {"assigned_to": None})
    sent(helper, "POST", "/v1/todos", {"title": "kept"}, Idempotency_Key="kept", X_Request_ID="helpful")
    admin.execute(
        "INSERT INTO identities (user_id, issuer, subject) VALUES (%s, %s, %s)",
        (user.id, words["identities.issuer"], words["identities.subject"]),
    )
    admin.execute(
        "UPDATE idempotency_keys SET operation = operation || %s,"
        " headers = headers || jsonb_build_object('x', %s::text) WHERE user_id = %s",
        (words["idempotency_keys.operation"], words["idempotency_keys.headers"], user.id),
    )
    return Planted(user, words, helper)


def test_every_column_that_can_hold_words_is_known(admin: Connection) -> None:
    found = admin.execute(
        "SELECT c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped"
        " AND pg_get_userbyid(c.relowner) = 'todochat_owner'"
        " AND coalesce((SELECT nullif(typbasetype, 0) FROM pg_type t WHERE t.oid = a.atttypid), a.atttypid)"
        " IN ('text'::regtype, 'jsonb'::regtype, 'bytea'::regtype)"
    ).fetchall()
    known = {(table, column) for table, columns in WORDS.items() for column in columns} | CLOSED
    assert set(found) == known


@pytest.mark.parametrize("how", ["over HTTP", "by the operator"])
def test_after_an_erasure_nothing_is_found_of_what_was_planted_in_every_column(
    how: str,
    own_server: Server,
    postgres: EmbeddedPostgres,
    admin: Connection,
    another: User,
    new_own_user: Callable[..., User],
) -> None:
    found = plant(own_server, admin, new_own_user)
    user, words, helper = found.user, found.words, found.helper
    before = {who.id: snapshot(admin, who.id) for who in (another, helper)}
    unseen = {"password", "refused", "theirs"}
    assert words.keys() - planted(dump(postgres, own_server.database), words) == unseen, (
        "else there is nothing to erase"
    )

    refused = user.client.delete("/v1/users/me")
    problem(refused, 409, "user_has_records")
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        admin.execute("DELETE FROM users WHERE id = %s", (user.id,))
    if how == "over HTTP":
        request_id = {"X-Request-ID": words["theirs"]}
        assert user.client.delete("/v1/users/me?erase=true", headers=request_id).status_code == 204
    else:
        env = own_server.env | {"MIGRATION_DATABASE_URL": own_server.database.owner_url}
        command = [sys.executable, "-m", "service", "users", "erase", "--yes", user.email]
        subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, check=True)

    assert planted(dump(postgres, own_server.database), words) == set()
    # A request's id is what its client chose, and is logged: it is no column of anybody's data.
    logged = {name: word for name, word in words.items() if name not in ("audit_log.request_id", "theirs")}
    assert planted(own_server.log(), logged) == set()
    assert planted(postgres.log_path.read_text(errors="replace"), words) == set()
    (entry,) = recorded(admin, [user])
    assert (entry["action"], entry["table_name"], entry["row_id"]) == ("delete", "users", user.id)
    assert (entry["before"], entry["request_id"]) == (None, None)
    for path in ("/v1/users/me", "/v1/changes", "/v1/export"):
        assert user.client.get(path).status_code == 401
    assert user.client.post("/v1/todos", json={"title": "back"}).status_code == 401

    # Other people's rows are as they were, but for the todo that was the user's to do.
    after = {who.id: snapshot(admin, who.id) for who in (another, helper)}
    assert after[another.id] == before[another.id]
    old, new = before[helper.id], after[helper.id]
    for table in old.keys() - {"todos", "audit_log", "idempotency_keys"}:
        assert new[table] == old[table], table
    (assigned,) = [row for row in old["todos"] if row["assigned_to"] == str(user.id)]
    expected = assigned | {"assigned_to": None, "version": assigned["version"] + 1}
    (unassigned,) = [row for row in new["todos"] if row["id"] == assigned["id"]]
    assert unassigned | {"updated_at": assigned["updated_at"]} == expected
    others = [row for row in old["todos"] if row != assigned]
    assert [row for row in new["todos"] if row != unassigned] == others
    kept = {row["seq"]: row for row in new["audit_log"]}
    for row in old["audit_log"]:
        wordless = row | {"request_id": None} if row["actor_id"] == str(user.id) else row
        assert kept.pop(row["seq"]) == wordless
    (told,) = kept.values()
    assert (told["action"], told["row_id"], told["request_id"]) == ("update", assigned["id"], None)
    assert (told["before"]["title"], told["before"]["assigned_to"]) == (assigned["title"], str(user.id))
    keys = {row["key"] for row in new["idempotency_keys"]}
    assert keys >= {"kept"}
    assert [row for row in old["idempotency_keys"] if row["key"] in keys] == new["idempotency_keys"]
    feed = follow(helper.client)[0]
    assert feed[-1]["changes"]["assigned_to"] == [str(user.id), None]

    # Who comes back with the same address and name finds nothing of before.
    again = new_own_user(email=user.email, username=words["users.username"])
    assert {entry["table"] for entry in follow(again.client)[0]} == {"users"}
    assert again.client.post("/v1/todos", json={"title": "new"}).json()["number"] == 1


def test_nothing_is_left_of_a_user_who_is_erased_while_others_write(
    own_server: Server, admin: Connection, new_own_user: Callable[..., User]
) -> None:
    """Whatever comes in between: no row, no entry but the one, and nobody's request fails for it."""
    helper = new_own_user()
    for turn in range(4):
        user = new_own_user()
        todos = [
            user.client.post("/v1/todos", json={"title": f"{n}", "assigned_to": str(helper.id)}).json()["id"]
            for n in range(4)
        ]
        said = {"messages": [{"sender_type": "user", "content": "said"}]}
        conversation = user.client.post("/v1/turns", json=said).json()["messages"][0]["conversation_id"]
        path = f"/v1/conversations/{conversation}"
        theirs = helper.client.post("/v1/todos", json={"title": "theirs"}).json()["id"]
        asks = [
            *(Ask("PATCH", f"/v1/todos/{todo}", helper.token, {"status": "in_progress"}) for todo in todos),
            *(Ask("PATCH", f"/v1/todos/{todo}", user.token, {"title": "late"}) for todo in todos),
            *(Ask("POST", "/v1/todos", user.token, {"title": "late"}, {"Idempotency-Key": f"{n}"}) for n in range(4)),
            *(Ask("POST", f"{path}/turns", user.token, said) for _ in range(4)),
            Ask("POST", "/v1/links", user.token, {"todo_id": todos[0], "conversation_id": conversation}),
            Ask("DELETE", f"/v1/todos/{todos[1]}", user.token),
            Ask("DELETE", path, user.token),
            # These lock a todo, and then the user whom it is assigned to; an erasure goes the other way round.
            *(Ask("PATCH", f"/v1/todos/{todo}", user.token, {"assigned_to": str(user.id)}) for todo in todos),
            Ask("PATCH", f"/v1/todos/{theirs}", helper.token, {"assigned_to": str(user.id)}),
            Ask("PATCH", "/v1/users/me", user.token, {"full_name": "late"}),
            Ask("POST", "/v1/todos", helper.token, {"title": "for them", "assigned_to": str(user.id)}),
            Ask("GET", "/v1/changes", user.token),
        ]
        random.Random(turn).shuffle(asks)
        erase = Ask("DELETE", "/v1/users/me?erase=true", user.token)
        place = [0, 5, 12, 20][turn]
        answers = at_once(own_server.url, [*asks[:place], erase, *asks[place:]])
        assert answers[place].status == 204, answers[place]
        assert {answer.status for answer in answers} <= {200, 201, 204, 401, 404, 409, 422}, answers
        left = snapshot(admin, user.id)
        (entry,) = left.pop("audit_log")
        assert (entry["action"], entry["table_name"], entry["before"]) == ("delete", "users", None)
        assert not any(left.values()), left
        held = admin.execute("SELECT count(*) FROM todos WHERE assigned_to = %s", (user.id,)).fetchone()
        assert held == (0,)


# A million entries


MILLION = 1_000_000
FILL = """
    INSERT INTO audit_log (user_id, seq, at, actor_id, action, table_name, row_id, before)
    SELECT %(user)s, n, to_timestamp(1750000000 + n / 1000.0), %(user)s,
        CASE WHEN n <= %(rows)s THEN 'insert' ELSE 'update' END,
        CASE WHEN is_talk THEN 'conversations' ELSE 'todos' END,
        CASE WHEN is_talk THEN %(conversation)s ELSE (%(todos)s::uuid[])[1 + n %% %(rows)s] END,
        CASE
            WHEN n <= %(rows)s THEN NULL
            WHEN is_talk THEN '{"title": "it was called otherwise", "version": 1}'
            ELSE '{"title": "so", "version": 1, "updated_at": "2026-01-01T00:00:00+00:00"}'::jsonb
        END
    FROM generate_series(1, %(entries)s) AS n, LATERAL (SELECT n > %(rows)s AND n %% 10 = 0) AS k (is_talk)
"""
"""As they would have been written."""


def fill(admin: Connection, entries: int) -> UUID:
    """A user with so many entries, a tenth of them of one conversation."""
    rows = entries // 200
    user = admin.execute("INSERT INTO users (email) VALUES (%s) RETURNING id", (f"{uuid4()}@example.com",)).fetchone()[
        0
    ]
    made = admin.execute(
        "INSERT INTO todos (user_id, title, number) SELECT %s, 'a todo', n FROM generate_series(1, %s) AS n"
        " RETURNING id",
        (user, rows),
    ).fetchall()
    conversation = admin.execute(
        "INSERT INTO conversations (user_id, title) VALUES (%s, 'a conversation') RETURNING id", (user,)
    ).fetchone()[0]
    todos = [todo for (todo,) in made]
    values = {"user": user, "entries": entries, "rows": rows, "conversation": conversation, "todos": todos}
    admin.execute(FILL, values)
    return user


def test_a_page_of_the_feed_and_of_the_audit_list_costs_the_same_among_a_million_entries(
    make_database: Callable[[], TestDatabase],
) -> None:
    database = make_database()
    with psycopg.connect(database.superuser_url) as admin:
        admin.execute("SET LOCAL session_replication_role = replica")  # no triggers
        admin.execute("SET LOCAL maintenance_work_mem = '512MB'")
        admin.execute("ALTER TABLE audit_log SET UNLOGGED")
        indexes = admin.execute(
            "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index"
            " WHERE indrelid = 'audit_log'::regclass AND NOT indisprimary"
        ).fetchall()
        for name, _ in indexes:
            admin.execute(f"DROP INDEX {name}".encode())
        users = [fill(admin, entries) for entries in (MILLION // 100, MILLION)]
        for _, definition in indexes:
            admin.execute(definition.encode())
        admin.commit()
        admin.autocommit = True
        admin.execute("ANALYZE audit_log, todos, conversations")

    async def ask(user: UUID) -> dict[str, list[Statement[Any]]]:
        """The statements of pages at the beginning, in the middle and at the end."""
        found: dict[str, list[Statement[Any]]] = {}
        pool = Database(Settings(database_url=Secret(database.service_url), database_pool_size=1), lambda *_: None)
        await pool.open()
        try:
            for name, pages in asked(user).items():
                recorder = Recorder(pool, user)
                for ask_page in pages:
                    page = await ask_page(recorder)
                    items = msgspec.json.decode(msgspec.json.encode(page.items))
                    assert len(items) == (0 if name == "what there is none of" else 50)
                found[name] = recorder.statements
        finally:
            await pool.close()
        return found

    def asked(user: UUID) -> dict[str, list[Callable[[Caller], Awaitable[Page[Any]]]]]:
        with psycopg.connect(database.superuser_url) as connection:
            row = connection.execute("SELECT id FROM conversations WHERE user_id = %s", (user,)).fetchone()[0]
            last = connection.execute("SELECT max(seq) FROM audit_log WHERE user_id = %s", (user,)).fetchone()[0]
            times = dict(connection.execute("SELECT seq, at FROM audit_log WHERE user_id = %s", (user,)).fetchall())
        early, half, late = 51, last // 2, last - 50

        def feed(after: int | None) -> Callable[[Caller], Awaitable[Page[Any]]]:
            cursor = after and encode_cursor("changes", (after, times[after]))
            return lambda caller: list_changes.fn(asking(caller, PageQuery(limit=50, cursor=cursor)))

        def audited(before: int | None, **filters: Any) -> Callable[[Caller], Awaitable[Page[Any]]]:
            question = AuditFilters(limit=1, **filters)
            cursor = before and encode_cursor(question, (before,))
            return lambda caller: list_audit.fn(asking(caller, AuditFilters(limit=50, cursor=cursor, **filters)))

        return {
            "the feed": [feed(place) for place in (half, late)],
            "the feed, where rows were made": [feed(None)],
            "the audit list": [audited(place) for place in (None, half)],
            "the audit list, where rows were made": [audited(early)],
            "the audit list of a table": [audited(place, table="todos") for place in (None, half)],
            "the audit list of a conversation": [audited(place, row_id=row) for place in (None,)],
            "what there is none of": [audited(place, action="delete") for place in (None, half)],
        }

    spent: list[dict[str, list[int]]] = []
    with psycopg.connect(database.service_url, autocommit=True) as connection:
        for user in users:
            statements = asyncio.run(ask(user))
            spent.append(
                {name: [buffers(connection, user, one) for one in found] for name, found in statements.items()}
            )
    few, many = spent
    for name, costs in many.items():
        for cost, other in zip(costs, few[name], strict=True):
            assert cost <= 1.1 * other + 40, (
                name,
                few,
                many,
            )  # the tree of an index may be a level higher for an entry
            # What a row was made with is found in its later entries, of which these rows have 200.
            assert cost <= 600 or "made" in name, (name, few, many)
