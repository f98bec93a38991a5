"""The one way into a transaction: what goes over the wire, what is kept, what is given up, and what never leaks."""

import asyncio
import contextlib
import itertools
import linecache
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import msgspec
import psycopg
import pytest
import uvloop
from psycopg.conninfo import conninfo_to_dict

from service.db import pool
from service.db.database import Database
from service.db.loading import TYPES as _TYPES
from service.db.pool import Loan
from service.db.results import Result
from service.db.statements import SESSION, Context, Prepared, Step
from service.problems import Problem
from service.serving.log import JsonFormatter
from service.settings import Secret, Settings
from tests.conftest import TestDatabase
from tests.support.load import wait_for
from tests.support.ports import free_port
from tests.support.proxy import Proxy

T = TypeVar("T")

_names = itertools.count(1)


def step(text: str, *values: tuple[str, Any], writes: bool = False, named: bool = True) -> Step:
    """A statement with its parameters as (type, value)."""
    name = f"test_{next(_names)}".encode() if named else b""
    types = tuple(_TYPES[kind][0] for kind, _ in values)
    encoded = [None if value is None else _TYPES[kind][1](value) for kind, value in values]
    return Prepared(name, text.encode(), types, reads_only=not writes), encoded


NOBODY = Context(None, "test")
BACKEND = step("SELECT pg_backend_pid()")


def run(url: str, use: Callable[[Database], Awaitable[T]], *, size: int = 1, loop: Any = None, **settings: Any) -> T:
    """What ``use`` returns, given a database whose connections are all open."""

    async def opened() -> T:
        found = Database(Settings(database_url=Secret(url), database_pool_size=size, **settings), lambda *_: None)
        await found.open()
        try:
            await whole(found, size)
            return await use(found)
        finally:
            await found.close()

    with asyncio.Runner(loop_factory=loop or uvloop.new_event_loop) as runner:
        return runner.run(opened())


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(0.005)


async def whole(found: Database, size: int) -> None:
    """All connections are open, and nobody uses or awaits one."""
    await eventually(lambda: found.stats() == {"in_use": 0, "waiting": 0, "size": size})


async def value(found: Database, what: Step, context: Context = NOBODY) -> Any:
    (result,) = await found.transact(context, [what])
    return result.rows[0][0]


@pytest.fixture(scope="module")
def shared(make_module_database: Callable[[], TestDatabase]) -> TestDatabase:
    """A database with a table of numbers that the service may read and write."""
    found = make_module_database()
    with psycopg.connect(found.superuser_url) as admin:
        admin.execute("CREATE TABLE numbers (number integer NOT NULL CHECK (number >= 0))")
        admin.execute("GRANT ALL ON numbers TO todochat_app")
        admin.execute("CREATE SEQUENCE collisions")
        admin.execute("GRANT USAGE ON collisions TO todochat_app")
        admin.execute(
            "CREATE FUNCTION collide(times integer, state text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN"
            " IF nextval('collisions') <= times THEN RAISE EXCEPTION 'collision' USING ERRCODE = state; END IF; END $$"
        )
    return found


@pytest.fixture
def admin(shared: TestDatabase) -> "Iterator[psycopg.Connection[Any]]":
    with psycopg.connect(shared.superuser_url, autocommit=True) as connection:
        connection.execute("TRUNCATE numbers")
        connection.execute("ALTER SEQUENCE collisions RESTART")
        yield connection


@pytest.fixture
def proxy(shared: TestDatabase) -> Iterator[Proxy]:
    folder = conninfo_to_dict(shared.superuser_url)["host"]
    with Proxy(Path(str(folder)) / ".s.PGSQL.5432") as found:
        yield found


def stored(admin: "psycopg.Connection[Any]") -> list[int]:
    return [number for (number,) in admin.execute("SELECT number FROM numbers ORDER BY number").fetchall()]


def insert(number: int) -> Step:
    return step("INSERT INTO numbers VALUES ($1)", ("integer", number), writes=True)


# Over the wire


@pytest.mark.parametrize("writes", [False, True])
def test_a_transaction_is_one_round_trip(shared: TestDatabase, proxy: Proxy, writes: bool) -> None:
    steps = [BACKEND, insert(1) if writes else step("SELECT 1"), step("SELECT 2")]

    async def use(found: Database) -> None:
        context = Context(uuid4(), "test")
        await found.transact(context, steps)
        proxy.reset_counts()
        await found.transact(context, steps)
        # BEGIN, the user, on a write the request, three statements, COMMIT
        assert (proxy.writes, proxy.syncs, proxy.statements, proxy.prepares) == (1, 1, 7 if writes else 6, 0)
        proxy.reset_counts()
        await found.transact(context, steps, lambda _: None)
        assert (proxy.writes, proxy.syncs) == (2, 2)
        proxy.reset_counts()
        for _ in range(20):
            await found.transact(context, steps)
        assert (proxy.writes, proxy.syncs) == (20, 20)

    run(proxy.url(shared.service_url), use)


def test_a_statement_is_prepared_once_on_each_connection(shared: TestDatabase, proxy: Proxy) -> None:
    what = step("SELECT pg_backend_pid(), pg_sleep(0.02)")

    async def use(found: Database) -> None:
        first = step("SELECT 1")
        await found.transact(NOBODY, [first, first])
        assert proxy.prepares == 3  # with BEGIN READ ONLY and COMMIT
        pids: set[int] = set()
        while len(pids) < 3:
            pids |= set(await asyncio.gather(*(value(found, what) for _ in range(3))))
        assert proxy.prepares == 3 + 1 + 2 * 3
        await asyncio.gather(*(value(found, what) for _ in range(9)))
        assert proxy.prepares == 10

    run(proxy.url(shared.service_url), use, size=3)


def test_without_prepared_statements_none_is_prepared_and_each_transaction_has_the_settings(
    shared: TestDatabase, proxy: Proxy
) -> None:
    show = step("SELECT " + ", ".join(f"current_setting('{name}')" for name in SESSION))

    async def use(found: Database) -> None:
        proxy.reset_counts()
        (result,) = await found.transact(NOBODY, [show])
        assert result.rows == [tuple(SESSION.values())]
        assert (proxy.writes, proxy.syncs, proxy.prepares) == (1, 1, 0)

    run(proxy.url(shared.service_url), use, database_prepared_statements=False)


def test_every_session_has_the_settings(shared: TestDatabase) -> None:
    show = step("SELECT " + ", ".join(f"current_setting('{name}')" for name in SESSION))

    async def use(found: Database) -> None:
        assert (await found.transact(NOBODY, [show]))[0].rows == [tuple(SESSION.values())]

    run(shared.service_url, use)


@pytest.mark.parametrize("count", [1, 200])
def test_more_than_the_sockets_take_at_once_goes_out_while_the_answers_come_in(
    shared: TestDatabase, proxy: Proxy, count: int
) -> None:
    # Twenty megabytes each way: whoever reads only after the last byte was written waits for ever.
    texts = [str(number % 10) * (20_000_000 // count) for number in range(count)]

    async def use(found: Database) -> None:
        before = await value(found, BACKEND)
        proxy.stall()
        steps = [step("SELECT $1", ("text", text), named=False) for text in texts]
        sending = asyncio.create_task(found.transact(NOBODY, steps, seconds=60))
        await eventually(lambda: found.stats()["in_use"] == 1)
        proxy.resume()
        assert [result.rows for result in await sending] == [[(text,)] for text in texts]
        # libpq would keep that much memory for as long as the connection lives.
        await whole(found, 1)
        assert await value(found, BACKEND) != before

    run(proxy.url(shared.service_url), use)


# Values


def jsonb(text: str) -> bytes:
    return text.encode()


ZONE = timezone(timedelta(hours=9))
EXAMPLES: dict[str, list[Any]] = {
    "uuid": [UUID(int=0), UUID(int=2**128 - 1), None],
    "text": ["", "a", "Ünïcödé 🎉 \x01\n\\'\"", "x" * 100_000, None],
    "text[]": [[], [""], ["a", 'ä,{}"\\', "NULL"], None],
    "uuid[]": [[], [UUID(int=5)], [UUID(int=1), UUID(int=2)], None],
    "bigint[]": [[], [-(2**63), 0, 2**63 - 1]],
    "smallint": [-(2**15), 0, 2**15 - 1, None],
    "integer": [-(2**31), 0, 2**31 - 1, None],
    "bigint": [-(2**63), 0, 2**63 - 1, None],
    "boolean": [True, False, None],
    "bytea": [b"", b"\0\xff", None],
    "bytea[]": [[], [b"", b"\0\xff"], None],
    "timestamptz": [
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(2026, 2, 28, 12, 0, 0, 1, tzinfo=ZONE),
        None,
    ],
    "json": [msgspec.Raw(b'{"b": 1.50,"a" : "\\u00e4"}'), msgspec.Raw(b"[]"), None],
    "jsonb": [jsonb("{}"), jsonb('{"a": [1, 2.50, "ä", null, {"b": 1e2}]}'), None],
}


@pytest.mark.parametrize("kind", list(_TYPES))
@pytest.mark.parametrize("named", [True, False])
def test_a_value_comes_back_as_it_was_sent(shared: TestDatabase, kind: str, named: bool) -> None:
    async def use(found: Database) -> None:
        for sent in EXAMPLES[kind]:
            back = await value(found, step("SELECT $1", (kind, sent), named=named))
            if kind == "jsonb" and sent is not None:
                assert await value(
                    found, step("SELECT $1::jsonb = $2::text::jsonb", (kind, sent), ("text", str(sent, "utf-8")))
                )
            else:
                assert (type(back), back) == (type(sent), sent)

    run(shared.service_url, use)


def test_jsonb_comes_back_as_the_text_that_the_database_has(shared: TestDatabase) -> None:
    async def use(found: Database) -> None:
        back = await value(found, step("""SELECT '{"b": 1.50, "a": ["<ä>", 1e3]}'::jsonb"""))
        assert bytes(back) == '{"a": ["<ä>", 1000], "b": 1.50}'.encode()

    run(shared.service_url, use)


def test_times_come_in_utc_whatever_the_session_says(shared: TestDatabase) -> None:
    async def use(found: Database) -> None:
        # Times inside of JSON come in UTC because the service sets it, others whatever is set.
        assert await value(found, step("SELECT current_setting('timezone')")) == "UTC"
        await found.transact(NOBODY, [step("SET timezone = 'Asia/Tokyo'")])
        assert await value(found, step("SELECT current_setting('timezone')")) == "Asia/Tokyo"
        back = await value(found, step("SELECT '2026-01-31T09:00:00+09'::timestamptz"))
        assert back.isoformat() == "2026-01-31T00:00:00+00:00"

    run(shared.service_url + "&options=-c%20timezone%3DAsia/Tokyo", use)


def test_infinity_is_refused_by_the_tables_and_harms_no_connection_where_it_is_met(
    shared: TestDatabase, admin: "psycopg.Connection[Any]"
) -> None:
    admin.execute("INSERT INTO users (id, email) VALUES (%s, 'infinity@example.com')", (UUID(int=1),))
    for column in ("due_date", "completed_at", "created_at", "updated_at"):
        with pytest.raises(psycopg.errors.CheckViolation):
            admin.execute(
                f"INSERT INTO todos (user_id, title, status, {column}) VALUES (%s, 'x', 'completed', 'infinity')",
                (UUID(int=1),),
            )

    async def use(found: Database) -> None:
        before = await value(found, BACKEND)
        for accept in (None, lambda _: None):
            with pytest.raises(psycopg.DataError):
                await found.transact(NOBODY, [insert(1), step("SELECT 'infinity'::timestamptz")], accept)
        assert await value(found, BACKEND) == before

    run(shared.service_url, use)
    assert stored(admin) == [1]  # with accept, the transaction was still open


# Whose transaction it is


def test_the_context_of_a_transaction_is_gone_in_the_next_one(shared: TestDatabase) -> None:
    context = step("SELECT current_setting('app.user_id', true), current_setting('app.request_id', true)", writes=True)
    fails = step("SELECT 1/0")
    me = Context(uuid4(), "it's me")

    async def ask(found: Database, who: Context) -> tuple[str, str]:
        (result,) = await found.transact(who, [context])
        return result.rows[0]

    async def use(found: Database) -> None:
        assert await ask(found, me) == (str(me.user_id), me.request_id)
        assert await ask(found, Context(None, "")) == ("", "")
        for accept in (None, lambda _: None):
            with pytest.raises(Problem) as failure:
                await found.transact(me, [context, fails], accept)
            assert failure.value.statement == 1
            assert await ask(found, Context(None, "")) == ("", "")

        def refuse(_: list[Result]) -> None:
            raise KeyError

        with pytest.raises(KeyError):
            await found.transact(me, [context], refuse)
        assert await ask(found, Context(None, "")) == ("", "")

    for named in (True, False):
        run(shared.service_url, use, database_prepared_statements=named)


# All or nothing


def test_a_refused_statement_is_named_and_nothing_is_kept(
    shared: TestDatabase, admin: "psycopg.Connection[Any]"
) -> None:
    async def use(found: Database) -> None:
        before = await value(found, BACKEND)
        for accept in (None, lambda _: pytest.fail("nothing to accept")):
            for index, bad in enumerate([insert(-1), step("SELECT 1/0"), step("SELEC"), step("SELECT FROM no_table")]):
                steps = [insert(number) for number in range(index)] + [bad, insert(9)]
                with pytest.raises(Problem) as failure:
                    await found.transact(NOBODY, steps, accept)
                assert failure.value.statement == index
        assert await value(found, BACKEND) == before
        assert await value(found, step("SELECT count(*) FROM numbers")) == 0

    run(shared.service_url, use)
    assert stored(admin) == []


def test_accept_sees_the_results_and_decides(shared: TestDatabase, admin: "psycopg.Connection[Any]") -> None:
    add = step("INSERT INTO numbers VALUES ($1), ($1 + 1) RETURNING number", ("integer", 5), writes=True)

    def refuse(results: list[Result]) -> None:
        assert results == [Result([(5,), (6,)], 2)]
        raise KeyError

    async def use(found: Database) -> None:
        before = await value(found, BACKEND)
        with pytest.raises(KeyError):
            await found.transact(NOBODY, [add], refuse)
        assert await value(found, step("SELECT count(*) FROM numbers")) == 0
        await found.transact(NOBODY, [add], lambda _: None)
        assert await value(found, BACKEND) == before

    run(shared.service_url, use)
    assert stored(admin) == [5, 6]


def test_a_statement_declared_as_reading_can_not_write(shared: TestDatabase, admin: "psycopg.Connection[Any]") -> None:
    async def use(found: Database) -> None:
        with pytest.raises(Problem) as failure:
            await found.transact(NOBODY, [step("INSERT INTO numbers VALUES (1)")])
        assert failure.value.statement == 0

    run(shared.service_url, use)
    assert stored(admin) == []


# What is tried again


@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_what_collided_is_tried_again_and_done_once(
    shared: TestDatabase, admin: "psycopg.Connection[Any]", state: str
) -> None:
    collide = step("SELECT collide(2, $1)", ("text", state), writes=True)

    async def use(found: Database) -> None:
        await found.transact(NOBODY, [insert(1), collide, insert(2)])

    run(shared.service_url, use)
    assert stored(admin) == [1, 2]


def test_what_keeps_colliding_is_given_up(shared: TestDatabase, admin: "psycopg.Connection[Any]") -> None:
    async def use(found: Database) -> None:
        with pytest.raises(Problem) as failure:
            await found.transact(NOBODY, [insert(1), step("SELECT collide(1000, '40001')", writes=True)])
        assert (failure.value.statement, failure.value.code) == (1, "timeout")

    run(shared.service_url, use)
    assert stored(admin) == []


def test_plans_that_a_migration_made_stale_are_made_anew_on_every_connection(
    shared: TestDatabase, admin: "psycopg.Connection[Any]"
) -> None:
    read = step("SELECT *, pg_sleep(0.01) FROM numbers")
    write = step("INSERT INTO numbers VALUES (7) RETURNING *", writes=True)

    async def use(found: Database) -> None:
        pids: set[int] = set()
        while len(pids) < 4:
            slow = [found.transact(NOBODY, [BACKEND, read, write, step("SELECT pg_sleep(0.01)")]) for _ in range(4)]
            pids |= {results[0].rows[0][0] for results in await asyncio.gather(*slow)}
        admin.execute("TRUNCATE numbers")
        admin.execute("ALTER TABLE numbers ADD COLUMN other text DEFAULT 'new'")
        done = await asyncio.gather(*(found.transact(NOBODY, [read, write, BACKEND]) for _ in range(8)))
        assert [results[1].rows for results in done] == [[(7, "new")]] * 8
        assert {results[2].rows[0][0] for results in done} <= pids

    try:
        run(shared.service_url, use, size=4)
        assert stored(admin) == [7] * 8
    finally:
        admin.execute("ALTER TABLE numbers DROP COLUMN IF EXISTS other")


def test_statements_that_the_server_forgot_are_prepared_again(shared: TestDatabase) -> None:
    async def use(found: Database) -> None:
        before = await value(found, BACKEND)
        await found.transact(NOBODY, [step(f"DEALLOCATE {BACKEND[0].name.decode()}", named=False)])
        assert await value(found, BACKEND) == before

    run(shared.service_url, use)


# Waiting, and its end


def slow(seconds: float) -> Step:
    return step("SELECT pg_sleep($1::text::float)", ("text", str(seconds)))


def test_the_deadline_ends_a_transaction_and_its_connection(shared: TestDatabase) -> None:
    async def use(found: Database) -> None:
        before = await value(found, BACKEND)
        with pytest.raises(Problem) as failure:
            await found.transact(NOBODY, [slow(3)], seconds=0.2)
        assert failure.value.code == "timeout"
        await whole(found, 1)
        assert await value(found, BACKEND) != before

    run(shared.service_url, use)


def test_who_waits_too_long_or_finds_too_many_waiting_is_refused(
    shared: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "WAITING_PER_CONNECTION", 5)

    async def use(found: Database) -> None:
        holding = asyncio.create_task(found.transact(NOBODY, [slow(1)]))
        await eventually(lambda: found.stats()["in_use"] == 1)
        loop = asyncio.get_running_loop()
        waiting = [
            asyncio.create_task(found.transact(NOBODY, [BACKEND], acquire_seconds=seconds))
            for seconds in (5, 0.1, 5, 0.1, 5)
        ]
        await eventually(lambda: found.stats()["waiting"] == 5)
        started = loop.time()
        with pytest.raises(Problem) as refused:
            await found.transact(NOBODY, [BACKEND])
        assert loop.time() - started < 0.05
        assert refused.value.code == "overloaded"
        for place in (1, 3):
            with pytest.raises(Problem) as refused:
                await waiting[place]
            assert (refused.value.code, refused.value.headers["Retry-After"]) == ("overloaded", "1")
        assert not holding.done()
        assert found.stats() == {"in_use": 1, "waiting": 3, "size": 1}
        for place in (0, 2, 4):
            await waiting[place]
        await whole(found, 1)

    run(shared.service_url, use)


def test_a_url_that_names_a_driver_is_connected_to(shared: TestDatabase) -> None:
    """As frameworks write it; psycopg itself refuses it, and repeats it with the password."""
    url = shared.service_url.replace("postgresql://", "postgresql+psycopg://", 1)
    database = Database(Settings(database_url=Secret(url)), lambda *_: None)

    async def use() -> None:
        await database.open()
        try:
            await database.ping()
        finally:
            await database.close()

    asyncio.run(use())


def test_the_connection_that_came_back_last_is_lent_next(shared: TestDatabase) -> None:
    async def use(found: Database) -> None:
        await eventually(lambda: found.stats()["size"] == 3)  # a new one would come after those
        quick, later = await asyncio.gather(
            found.transact(NOBODY, [BACKEND]), found.transact(NOBODY, [BACKEND, slow(0.05)])
        )
        ((quick_pid,),), ((later_pid,),) = quick[0].rows, later[0].rows
        assert quick_pid != later_pid
        assert [await value(found, BACKEND) for _ in range(6)] == [later_pid] * 6

    run(shared.service_url, use, size=3)


def test_a_user_holds_half_of_the_connections_and_everybody_is_served_in_turn(shared: TestDatabase) -> None:
    flooder, other = Context(uuid4(), "flooder"), Context(uuid4(), "other")
    ended: list[str] = []

    async def one(found: Database, who: Context, what: Step) -> None:
        await found.transact(who, [what])
        ended.append(who.request_id)

    async def use(found: Database) -> None:
        what = slow(0.05)
        flood = [asyncio.create_task(one(found, flooder, what)) for _ in range(10)]
        await eventually(lambda: found.stats()["in_use"] == 2)
        assert found.stats() == {"in_use": 2, "waiting": 8, "size": 4}
        # Two of the other's start at once, the third as soon as one of them, or of the flood, ends.
        await asyncio.gather(*(one(found, other, what) for _ in range(3)))
        assert ended.count("flooder") <= 6
        await asyncio.gather(*flood)
        await whole(found, 4)

    run(shared.service_url, use, size=4)


def test_a_cancelled_transaction_leaves_no_connection_behind_wherever_it_is(
    shared: TestDatabase, admin: "psycopg.Connection[Any]"
) -> None:
    """Three of one user on two connections (so of one share): one runs, one waits apart; each is cut at every step."""

    async def spin(turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    def refuse(_: list[Result]) -> None:
        raise KeyError

    async def use(found: Database) -> None:
        me = Context(uuid4(), "test")
        read, add, bad = step("SELECT 1"), insert(1), step("SELECT 1/0")
        cases: list[tuple[Step, Callable[[list[Result]], None] | None]] = [
            (read, None), (add, None), (add, lambda _: None), (add, refuse), (bad, None),
        ]  # fmt: skip
        for what, accept in cases:
            done = 0
            for turns in range(400):
                if done == 3:
                    break
                tasks = [asyncio.create_task(found.transact(me, [what], accept)) for _ in range(3)]
                await spin(turns)
                done = sum(task.done() for task in tasks)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                lender = found._pool
                assert (lender.loans, lender.waiting, lender.waiting_apart) == ({}, set(), 0)
                async with asyncio.timeout(5):
                    await value(found, read, me)
            else:
                pytest.fail("never got through")
        await whole(found, 2)
        # Nothing half-done: no session still in a transaction.
        idle = "SELECT count(*) FROM pg_stat_activity WHERE starts_with(state, 'idle in transaction') AND usename = %s"
        assert admin.execute(idle, ("todochat_service",)).fetchone() == (0,)

    run(shared.service_url, use, size=2)


def test_a_request_cancelled_in_the_moment_its_turn_comes_hands_the_connection_on(shared: TestDatabase) -> None:
    async def use(found: Database) -> None:
        until = asyncio.get_running_loop().time() + 5
        for user in (None, 1):
            loans = [Loan(found._pool, user) for _ in range(4)]
            await loans[0].take(until)
            waiting = [asyncio.create_task(loan.take(until)) for loan in loans[1:]]
            await eventually(lambda: found.stats()["waiting"] == 3)
            loans[0].end()
            for _ in range(5):
                await asyncio.sleep(0)
            waiting[0].cancel()
            await asyncio.gather(waiting[0], return_exceptions=True)
            loans[1].end()
            for loan, turn in zip(loans[2:], waiting[1:], strict=True):
                await turn
                loan.end()
            assert found._pool.loans == {}
            await whole(found, 1)

    run(shared.service_url, use)


def test_a_connection_given_back_while_the_pool_is_busy_waits_for_it(shared: TestDatabase) -> None:
    async def use(found: Database) -> None:
        lender = found._pool.lender
        loan = Loan(found._pool, None)
        await loan.take(asyncio.get_running_loop().time() + 5)
        async with lender._lock:
            loan.end()
            await asyncio.sleep(0.01)
            assert found.stats()["in_use"] == 1
        await whole(found, 1)
        await value(found, BACKEND)

    run(shared.service_url, use)


class Injected(BaseException):
    """Raised at one line of the lending path."""


class Injector:
    """Raises at the n-th line that our modules of lending execute."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, frame: Any, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.endswith(("db/pool.py", "db/database.py")):
            return None
        if frame.f_code.co_name in CLEANING:
            return None
        if event == "line" and "loan.end()" not in linecache.getline(frame.f_code.co_filename, frame.f_lineno):
            self.left -= 1
            if self.left == 0:
                raise Injected
        return self


CLEANING = {"end", "_put_down", "give_back", "_run", "_finish", "_resume"}
"""What gives back, like the call of `loan.end`: an exception there would be one in the handling of the exception."""


def test_an_exception_at_any_line_of_the_lending_path_loses_no_connection(shared: TestDatabase) -> None:
    async def use(found: Database) -> None:
        me = Context(uuid4(), "test")
        for at in range(1, 400):
            injector = Injector(at)
            task = asyncio.create_task(found.transact(me, [step("SELECT 1")]))
            sys.settrace(injector)
            with contextlib.suppress(BaseException):  # what was injected, or what it became
                await task
            sys.settrace(None)
            assert found._pool.waiting == set()
            if injector.left > 0:
                break
            await whole(found, 2)
            assert found._pool.loans == {}
        else:
            pytest.fail("never got through")

    run(shared.service_url, use, size=2)


# Connections come and go


def test_connections_that_the_server_closes_are_replaced_for_whoever_asks_next(
    shared: TestDatabase, admin: "psycopg.Connection[Any]"
) -> None:
    ours = "datname = current_database() AND usename = 'todochat_service' AND state = 'idle'"
    mine = f"SELECT pid FROM pg_stat_activity WHERE {ours}"

    async def use(found: Database) -> None:
        await eventually(lambda: len(admin.execute(mine).fetchall()) == 3)
        before = {pid for (pid,) in admin.execute(mine).fetchall()}
        admin.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS p (pid)", (list(before),))
        started = asyncio.get_running_loop().time()
        assert await value(found, BACKEND) not in before
        assert asyncio.get_running_loop().time() - started < 2
        await whole(found, 3)
        assert not before & {pid for (pid,) in admin.execute(mine).fetchall()}

    run(shared.service_url, use, size=3)


@pytest.mark.parametrize("writes", [False, True])
def test_connections_that_are_cut_without_a_word_fail_nobody(
    shared: TestDatabase, admin: "psycopg.Connection[Any]", proxy: Proxy, writes: bool
) -> None:
    async def use(found: Database) -> None:
        proxy.cut()  # the event loop stands still meanwhile: it hears of it when something is awaited
        await found.transact(NOBODY, [insert(1) if writes else BACKEND])
        assert stored(admin) == [1] * writes
        await whole(found, 5)

    run(proxy.url(shared.service_url), use, size=5)


async def backends(found: Database, count: int) -> set[int]:
    """The processes that serve so many connections."""
    results = await asyncio.gather(*(found.transact(NOBODY, [BACKEND, slow(0.05)]) for _ in range(count)))
    pids = {pid for ((pid,),) in (pids.rows for pids, _ in results)}
    assert len(pids) == count
    return pids


def end(admin: "psycopg.Connection[Any]", pids: set[int]) -> None:
    admin.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS p (pid)", ([*pids],))


def test_idle_connections_that_are_dead_are_not_counted_for_those_in_use(
    shared: TestDatabase, admin: "psycopg.Connection[Any]"
) -> None:
    async def use(found: Database) -> None:
        pids = await backends(found, 3)
        end(admin, pids - {await value(found, BACKEND)})
        await eventually(lambda: found.stats() == {"in_use": 0, "waiting": 0, "size": 1})
        running = asyncio.create_task(found.transact(NOBODY, [slow(0.2)]))
        await eventually(lambda: found.stats()["in_use"] == 1)
        await running

    run(shared.service_url, use, size=3)


def test_connections_that_are_gone_are_not_kept_though_nobody_counts_them(shared: TestDatabase) -> None:
    async def use(found: Database) -> None:
        large = step("SELECT length($1)", ("text", "x" * 4_000_000))  # after which a connection is replaced
        pids = {(await found.transact(NOBODY, [BACKEND, large]))[0].rows[0][0] for _ in range(5)}
        assert len(pids) == 5
        assert len(found._pool._open) <= 2  # pyright: ignore[reportPrivateUsage]

    run(shared.service_url, use)


def test_an_outage_is_over_for_good_with_a_connection_that_lived_through_it(
    shared: TestDatabase, admin: "psycopg.Connection[Any]", caplog: pytest.LogCaptureFixture
) -> None:
    def limit_connections(count: int) -> None:
        name = admin.info.dbname
        admin.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT {count}'.encode())

    async def use(found: Database) -> None:
        pids = await backends(found, 2)
        limit_connections(0)
        kept = await value(found, BACKEND)
        end(admin, pids - {kept})
        await eventually(lambda: found.stats()["size"] == 1)
        # It is busy for longer than it takes to tell an outage, while another request waits.
        await asyncio.gather(found.transact(NOBODY, [slow(1.5)]), value(found, BACKEND))
        await eventually(lambda: "database_reachable" in caplog.messages)
        end(admin, {kept})  # while nobody asks for a connection
        await eventually(lambda: found.stats()["size"] == 0)
        limit_connections(-1)
        assert await value(found, BACKEND) not in pids

    try:
        with caplog.at_level("INFO"):
            run(shared.service_url, use, size=2)
    finally:
        limit_connections(-1)
    assert caplog.messages.index("database_unreachable") < caplog.messages.index("database_reachable")


def test_a_deadline_that_leaves_the_server_no_time_costs_one_connection(shared: TestDatabase) -> None:
    async def use(found: Database) -> None:
        pids = await backends(found, 3)
        with pytest.raises(Problem, match="in time"):
            await found.transact(NOBODY, [slow(2)], seconds=0.2)
        with pytest.raises(Problem, match="in time"):
            async with found.hold(NOBODY, seconds=0.2) as held:
                await held.run([slow(2)])
        await whole(found, 3)
        assert len(pids & await backends(found, 3)) == 1

    run(shared.service_url, use, size=3)


@pytest.mark.parametrize(
    ("way", "is_unknown"),
    [
        ("one round trip", True),
        ("to be accepted", False),
        ("with its commit", True),
        ("without its commit", False),
        ("only reads", False),
    ],
)
def test_an_outcome_is_unknown_only_if_a_commit_was_on_its_way(
    shared: TestDatabase, way: str, is_unknown: bool
) -> None:
    async def late(found: Database) -> None:
        if way == "one round trip":
            await found.transact(NOBODY, [insert(1), slow(2)], seconds=0.2)
        elif way == "to be accepted":
            await found.transact(NOBODY, [insert(1), slow(2)], lambda _: None, seconds=0.2)
        elif way == "only reads":  # its user's key is noted to be used, which nobody asked for
            await found.transact(Context(None, "", [insert(1)]), [slow(2)], seconds=0.2)
        else:
            async with found.hold(NOBODY, seconds=0.2) as held:
                await held.run([insert(1), slow(2)], commit=way == "with its commit")

    async def use(found: Database) -> None:
        with pytest.raises(Problem) as failure:
            await late(found)
        assert failure.value.code == "timeout"
        assert failure.value.headers["Retry-After"] == "1"
        assert failure.value.may_have_happened == is_unknown
        assert ("Whether the change was made is not known" in failure.value.detail) == is_unknown
        assert ("Idempotency-Key" in failure.value.detail) == is_unknown

    run(shared.service_url, use, size=1)


@pytest.mark.parametrize("holds", [False, True], ids=["one round trip", "several"])
def test_a_write_on_a_server_that_only_reads_now_replaces_all_connections(shared: TestDatabase, holds: bool) -> None:
    """As after a failover, when they lead to what is a standby now."""
    only_read = step("SET SESSION default_transaction_read_only = on", named=False)

    async def write(found: Database) -> None:
        if holds:
            async with found.hold(NOBODY) as held:
                await held.run([insert(1)])
        else:
            await found.transact(NOBODY, [insert(1)])

    async def use(found: Database) -> None:
        pids = await backends(found, 3)
        await asyncio.gather(*(found.transact(NOBODY, [only_read, slow(0.05)]) for _ in range(3)))
        with pytest.raises(Problem):
            await write(found)
        await whole(found, 3)
        assert not pids & await backends(found, 3)

    run(shared.service_url, use, size=3)


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.SelectorEventLoop])
def test_a_connection_that_breaks_in_the_middle_of_an_answer_is_noticed_at_once(
    shared: TestDatabase, proxy: Proxy, loop: Callable[[], Any]
) -> None:
    async def use(found: Database) -> None:
        writing = asyncio.create_task(found.transact(NOBODY, [slow(0.2), insert(1)]))
        await eventually(lambda: found.stats()["in_use"] == 1)
        await asyncio.sleep(0)
        started = asyncio.get_running_loop().time()
        proxy.break_off()  # the event loop stands still meanwhile, so that it sees both at the same time
        with pytest.raises(Problem) as failure:
            await writing
        assert failure.value.code == "database_unavailable"
        assert asyncio.get_running_loop().time() - started < 2

    run(proxy.url(shared.service_url), use, loop=loop)


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.SelectorEventLoop])
def test_no_descriptor_stays_open_or_watched(shared: TestDatabase, proxy: Proxy, loop: Callable[[], Any]) -> None:
    def descriptors() -> set[str]:
        return {path.name for path in Path("/proc/self/fd").iterdir()}

    async def use(found: Database) -> None:
        for _ in range(5):
            reading = [asyncio.create_task(found.transact(NOBODY, [slow(0.05)])) for _ in range(4)]
            await eventually(lambda: found.stats()["in_use"] == 3)
            reading[0].cancel()
            proxy.cut()
            await asyncio.gather(*reading, return_exceptions=True)
            await whole(found, 3)
        selector = getattr(asyncio.get_running_loop(), "_selector", None)
        if selector is not None:
            watched = {str(fd) for fd in selector.get_map()}
            assert len(watched) == 3 + 1  # the loop's own one
            assert watched <= descriptors()

    run(shared.service_url, lambda found: whole(found, 1))
    before = descriptors()
    run(proxy.url(shared.service_url), use, size=3, loop=loop)
    wait_for(lambda: len(descriptors()) == len(before))  # the proxy's ends are in this process too


def test_closing_ends_what_runs_and_what_waits(shared: TestDatabase) -> None:
    async def use(found: Database) -> None:
        tasks = [asyncio.create_task(found.transact(NOBODY, [slow(3)])) for _ in range(3)]
        await eventually(lambda: found.stats() == {"in_use": 1, "waiting": 2, "size": 1})
        await found.close()
        for task in tasks:
            with pytest.raises(Problem) as ended:
                await task
            assert ended.value.code == "database_unavailable"
        with pytest.raises(Problem):
            await found.transact(NOBODY, [BACKEND])

    run(shared.service_url, use)


def test_a_database_that_is_not_there_is_unavailable_soon(caplog: pytest.LogCaptureFixture) -> None:
    async def use() -> None:
        url = f"postgresql://nobody:secret@127.0.0.1:{free_port()}/nothing"
        found = Database(Settings(database_url=Secret(url)), lambda *_: None)
        await found.open()
        try:
            started = asyncio.get_running_loop().time()
            with pytest.raises(Problem) as failure:
                await found.ping()
            assert failure.value.code == "database_unavailable"
            assert asyncio.get_running_loop().time() - started < 2
        finally:
            await found.close()

    asyncio.run(use())
    said = "\n".join(JsonFormatter().format(record) for record in caplog.records)
    assert "database_unreachable" in said
    assert "Connection refused" in said
    assert "secret" not in said
