"""What a write costs PostgreSQL by the schema: today's beside another's, or today's without one of its parts.

The same rows, the same statements, one pipelined transaction each as the service sends it, by the service's login and
prepared. The databases take turns every hundred transactions, in one server. CPU is that of the connection's backend
alone. See README.md.
"""

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import LiteralString, NamedTuple, cast
from uuid import UUID

import psycopg
from psycopg import pq, sql

from service.commands.development import prepare_database
from service.commands.logins import SERVICE_LOGIN, create_service_login
from service.commands.migrate import upgrade
from service.db.loading import TEXTS
from service.db.migration_files import DEFAULT_DIRECTORY
from service.db.statements import SESSION
from service.embedded import EmbeddedPostgres
from tests.bench.data import SETTINGS
from tests.bench.operations import DESCRIPTION, REPLY, SAID, TITLE

USERS, TODOS, CONVERSATIONS, MESSAGES = 300, 40, 3, 20
"""Todos and conversations are each user's, messages each conversation's."""
BATCH = 100
_UUID = 2950
OPTIONS = {**SETTINGS, "fsync": "off", "full_page_writes": "off"}
"""A page's image is written once after each checkpoint, however much is written to the page: it would be noise."""

_TODO = (
    "id, number, user_id, title, description, status, completed, priority, due_date, assigned_to, completed_at,"
    " metadata, version, created_at, updated_at"
)
_MESSAGE = (
    "id, conversation_id, user_id, position, sender_type, role, sender_id, content, message_type, metadata, created_at,"
    " updated_at"
)
_WRITTEN = "INSERT INTO messages (user_id, conversation_id, sender_type, content, message_type, metadata) VALUES"
STATEMENTS = {
    "nothing": "SELECT $1::uuid, $2::uuid",
    "create": (
        "INSERT INTO todos (user_id, title, description, status, priority, due_date, assigned_to, completed_at,"
        f" metadata) VALUES ($1, '{TITLE}', '{DESCRIPTION}', 'pending', 'high', NULL, NULL, NULL, '{{}}')"
        f" RETURNING {_TODO}, $2::uuid"
    ),
    "update": (
        "UPDATE todos SET description = coalesce(description, '') || '!'"
        f" WHERE user_id = $1 AND id = $2 RETURNING {_TODO}"
    ),
    "message": f"{_WRITTEN} ($1, $2, 'user', '{SAID}', 'text', '{{}}') RETURNING {_MESSAGE}",
    "turn": (
        f"{_WRITTEN} ($1, $2, 'user', '{SAID}', 'text', '{{}}'),"
        f" ($1, $2, 'ai', '{REPLY}', 'text', '{{}}') RETURNING {_MESSAGE}"
    ),
    "delete": "DELETE FROM todos WHERE user_id = $1 AND id = $2 RETURNING id",
}
"""Each by the user and a row of theirs: columns that both schemas have."""

_FILL = f"""
INSERT INTO users (id, email) VALUES (%(user)s, %(user)s || '@example.com');
INSERT INTO todos (user_id, title, description)
SELECT %(user)s, '{TITLE} ' || n, '{DESCRIPTION}' FROM generate_series(1, {TODOS}) AS n;
INSERT INTO conversations (user_id, title) SELECT %(user)s, 'About ' || n FROM generate_series(1, {CONVERSATIONS}) AS n;
INSERT INTO messages (user_id, conversation_id, sender_type, content)
SELECT user_id, id, 'user', '{SAID}' FROM conversations, generate_series(1, {MESSAGES}) WHERE user_id = %(user)s;
"""
_SIZE = (
    "SELECT sum(pg_total_relation_size(oid))::bigint, pg_current_wal_insert_lsn() - '0/0' FROM pg_class"
    " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
)
_ROWS = {
    table: sql.SQL("SELECT user_id, id FROM {} ORDER BY md5(id::text)").format(sql.Identifier(table))
    for table in ("todos", "conversations")
}
_HOT = (
    "SELECT relname, n_tup_upd, round(100.0 * n_tup_hot_upd / n_tup_upd) FROM pg_stat_user_tables WHERE n_tup_upd > 0"
    " ORDER BY relname"
)


_DOMAINS = ("title", "description", "content", "item", "metadata", "moment", "ordinal", "status", "priority")
_SEQUENCE = "CREATE SEQUENCE one START 1000000; GRANT USAGE ON SEQUENCE one TO todochat_app;"
PARTS = {
    "the audit": """
        ALTER TABLE todos DISABLE TRIGGER todos_audit, DISABLE TRIGGER todos_audit_update;
        ALTER TABLE messages DISABLE TRIGGER messages_audit""",
    "todos_validate": f"""{_SEQUENCE} ALTER TABLE todos ALTER number SET DEFAULT nextval('one'),
        DISABLE TRIGGER todos_validate""",
    "todos_validate_assignee": "DROP TRIGGER todos_validate_assignee ON todos",
    "messages_before_insert": f"""{_SEQUENCE} ALTER TABLE messages ALTER position SET DEFAULT nextval('one'),
        ALTER created_at SET DEFAULT now(), ALTER updated_at SET DEFAULT now(),
        DISABLE TRIGGER messages_before_insert""",
    "messages_after_insert": "DROP TRIGGER messages_after_insert ON messages",
    "conversations_counters": "DROP TRIGGER conversations_counters ON conversations",
    "the tables' CHECKs": """
        ALTER TABLE todos DROP CONSTRAINT todos_completed_at_check, DROP CONSTRAINT todos_times_check;
        ALTER TABLE messages DROP CONSTRAINT messages_content_check, DROP CONSTRAINT messages_times_check;
        ALTER TABLE conversations DROP CONSTRAINT conversations_counters_check""",
    "the domains' CHECKs": ";".join(f"ALTER DOMAIN {name} DROP CONSTRAINT {name}_check" for name in _DOMAINS),
    "generated columns": """
        ALTER TABLE todos ALTER updated_hour DROP EXPRESSION, ALTER updated_hour DROP NOT NULL,
        ALTER completed DROP EXPRESSION, ALTER completed SET DEFAULT false;
        ALTER TABLE conversations ALTER updated_hour DROP EXPRESSION, ALTER updated_hour DROP NOT NULL;
        ALTER TABLE messages ALTER role DROP EXPRESSION, ALTER role SET DEFAULT 'user',
        ALTER sender_id DROP EXPRESSION""",
    "foreign keys": """
        ALTER TABLE todos DROP CONSTRAINT todos_user_id_fkey, DROP CONSTRAINT todos_assigned_to_fkey;
        ALTER TABLE messages DROP CONSTRAINT messages_conversation_id_fkey;
        ALTER TABLE todo_conversation_links DROP CONSTRAINT todo_conversation_links_todo_id_fkey""",
    "row security": ";".join(
        f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY"
        for table in ("todos", "todo_counters", "conversations", "messages")
    ),
    **{
        f"the index {name}": f"DROP INDEX {name}"
        for name in (
            "todos_user_id_created_at_idx",
            "todos_user_id_updated_hour_idx",
            "todos_user_id_due_date_idx",
            "todos_user_id_priority_rank_idx",
            "todos_user_id_status_created_at_idx",
        )
    },
    "nothing (a copy)": "SELECT",
}
"""Parts of the schema, and the SQL that takes each away. What is left may be wrong; it does the rest of the work. A
clone that nothing is taken from shows how far two that are the same lie apart."""


TODAY = "today"


class Cost(NamedTuple):
    """Of one transaction: CPU in microseconds, WAL and growth of all tables with their indexes in bytes."""

    cpu: float
    wal: float
    disk: float


class Candidate:
    """A database with a schema and rows, and a connection of the service's login to it."""

    def __init__(self, server: EmbeddedPostgres, name: str, database: str) -> None:
        self.name = name
        self.costs: dict[str, list[Cost]] = {operation: [] for operation in STATEMENTS}
        self.monitor = psycopg.connect(server.url(database), autocommit=True)
        self.monitor.execute("SELECT pg_stat_reset()")
        self._rows = {table: self.monitor.execute(query).fetchall() for table, query in _ROWS.items()}
        # Earlier schemas had a function for the check, of two or three parameters.
        function = self.monitor.execute("SELECT pronargs FROM pg_proc WHERE proname = 'authenticate'").fetchone()
        options = " ".join(f"-c {setting}={value}" for setting, value in SESSION.items())
        service = psycopg.connect(server.url(database, SERVICE_LOGIN), options=options)
        self._stat = Path(f"/proc/{service.info.backend_pid}/schedstat")
        self._service = service
        self._pgconn = service.pgconn
        self._pgconn.enter_pipeline_mode()
        check = TEXTS["authenticate"].prepared.text.decode().replace("$2", "1").replace("$3", "NULL")
        if function:
            check = f"SELECT authenticate($1, 1{', NULL' * (function[0] - 2)})"
        self._prepare("authenticate", check, _UUID)
        for operation, text in STATEMENTS.items():
            self._prepare(operation, text, _UUID, _UUID)

    def _prepare(self, name: str, text: str, *types: int) -> None:
        self._pgconn.send_prepare(name.encode(), text.encode(), types)
        self._sync(name)

    def _sync(self, what: str) -> None:
        """Send, and read to the end. Ends the program where the server refuses something."""
        self._pgconn.pipeline_sync()
        while (result := self._pgconn.get_result()) is None or result.status != pq.ExecStatus.PIPELINE_SYNC:
            if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
                raise SystemExit(f"{self.name}, {what}: {result.error_message.decode()}")

    def batch(self, operation: str) -> None:
        """So many transactions, each on another row, as the service sends them."""
        rows = self._rows["conversations" if operation in {"message", "turn"} else "todos"]
        picked, rows[:BATCH] = rows[:BATCH], []
        if operation != "delete":
            rows += picked
        pgconn = self._pgconn
        before = self._measure()
        for number, (user, row) in enumerate(picked):
            for text in ("BEGIN", f"SET LOCAL app.user_id = '{user}'", f"SET LOCAL app.request_id = '{number:032}'"):
                pgconn.send_query_params(text.encode(), None)
            pgconn.send_query_prepared(b"authenticate", [user.bytes], [1], 1)
            pgconn.send_query_prepared(operation.encode(), [user.bytes, row.bytes], [1, 1], 1)
            pgconn.send_query_params(b"COMMIT", None)
            self._sync(operation)
        self.costs[operation].append(
            Cost(*(float(last - first) / len(picked) for first, last in zip(before, self._measure(), strict=True)))
        )

    def close(self) -> None:
        """Hang up."""
        self._service.close()
        self.monitor.close()

    def _measure(self) -> Cost:
        ((disk, wal),) = self.monitor.execute(_SIZE).fetchall()
        return Cost(int(self._stat.read_text().split()[0]) / 1000, wal, disk)

    def middle(self) -> dict[str, Cost]:
        """The cost of each operation."""
        return {operation: self.cost(operation) for operation in STATEMENTS}

    def saved(self, today: "Candidate") -> dict[str, float]:
        """Microseconds of CPU that each operation takes less than today's: the median over batches of one round."""
        return {
            operation: statistics.median(
                theirs.cpu - own.cpu for theirs, own in zip(today.costs[operation], self.costs[operation], strict=True)
            )
            for operation in STATEMENTS
        }

    def cost(self, operation: str) -> Cost:
        """The lower quartile of CPU, as what disturbs it adds to it; the means of what grows by records or pages."""
        cpu, wal, disk = zip(*self.costs[operation], strict=True)
        return Cost(statistics.quantiles(cpu, n=4)[0], statistics.mean(wal), statistics.mean(disk))


def make_database(server: EmbeddedPostgres, name: str, migrations: Path) -> None:
    """A database with these migrations and the rows."""
    urls = prepare_database(server, name)
    upgrade(urls.owner, migrations)
    create_service_login(urls.owner, SERVICE_LOGIN, "nobody needs this password")
    with psycopg.connect(server.url(name), autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
        for number in range(USERS):
            user = UUID(int=number + 1)
            with connection.transaction():
                connection.execute(sql.SQL("SET LOCAL app.user_id = {}").format(str(user)))
                connection.execute(_FILL, {"user": user})
        connection.execute("VACUUM ANALYZE")


def take_parts_away(server: EmbeddedPostgres, name: str, parts: Sequence[str]) -> dict[str, str]:
    """Clone a database for each of the parts, without it; the clones' names."""
    names = {part: f"{name}_{number}" for number, part in enumerate(parts)}
    with psycopg.connect(server.url(), autocommit=True) as connection:
        for part, clone in names.items():
            made = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(clone), sql.Identifier(name))
            connection.execute(made)
            with psycopg.connect(server.url(clone), autocommit=True) as changed:
                changed.execute(cast("LiteralString", PARTS[part]))
    return {f"without {part}": clone for part, clone in names.items()}


def compare(candidates: Sequence[Candidate], rounds: int) -> None:
    """Let them take turns, each operation in each round, beginning with another one each time."""
    for number in range(-1, rounds):
        for operation in STATEMENTS:
            for place in range(len(candidates)):
                candidates[(number + place) % len(candidates)].batch(operation)
        if number < 0:  # connections and plans are warm now
            for candidate in candidates:
                for costs in candidate.costs.values():
                    costs.clear()


def report(candidates: Sequence[Candidate]) -> Iterator[str]:
    """A table: the first one's figures, and what the others' are beside them."""
    yield "| | " + " | ".join(STATEMENTS) + " |"
    yield "| --- " * (len(STATEMENTS) + 1) + "|"
    for what in Cost._fields:
        for candidate in candidates:
            cells: list[str] = []
            for operation in STATEMENTS:
                value = getattr(candidate.cost(operation), what)
                base = getattr(candidates[0].cost(operation), what)
                cells.append(
                    f"{value:.0f}" + (f" ({value / base:.2f})" if candidate is not candidates[0] and base else "")
                )
            yield f"| {candidate.name}: {what}, {'µs' if what == 'cpu' else 'bytes'} | " + " | ".join(cells) + " |"
    for candidate in candidates:
        hot = ", ".join(f"{table} {share} % of {updates}" for table, updates, share in candidate.monitor.execute(_HOT))
        yield f"\nUpdates in place (HOT), {candidate.name}: {hot}."


@contextlib.contextmanager
def measured(peer: Path | None, parts: Sequence[str], rounds: int) -> Iterator[list[Candidate]]:
    """Today's schema beside that of the peer's migrations; without a peer, beside itself without each of the parts."""
    with (
        tempfile.TemporaryDirectory(prefix="todochat bench ") as folder,
        EmbeddedPostgres(Path(folder), options=OPTIONS) as server,
        contextlib.ExitStack() as stack,
    ):
        make_database(server, TODAY, DEFAULT_DIRECTORY)
        if peer:
            make_database(server, "peer", peer)
            names = {"peer": "peer", TODAY: TODAY}
        else:
            names = {TODAY: TODAY, **take_parts_away(server, TODAY, parts)}
        candidates = [Candidate(server, name, database) for name, database in names.items()]
        for candidate in candidates:
            stack.callback(candidate.close)
        compare(candidates, rounds)
        yield candidates


def main() -> None:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.schema", description=__doc__)
    parser.add_argument("peer", nargs="?", type=Path, help="migrations to compare with; none: profile today's")
    parser.add_argument("--rounds", type=int, default=20, help=f"batches of {BATCH} transactions (default: 20)")
    parser.add_argument("--part", action="append", choices=PARTS, help="take away this part only; may be repeated")
    asked = parser.parse_args()
    with measured(asked.peer, asked.part or list(PARTS), asked.rounds) as candidates:
        print("\n".join(report(candidates)))


if __name__ == "__main__":
    main()
