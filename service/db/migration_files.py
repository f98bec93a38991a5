"""Migration files: pairs of NNNN_verb_object.sql and NNNN_verb_object.rollback.sql, read and checked.

The format is yoyo's, and its own parser reads the directives `-- depends:` and `-- transactional:` above the first
statement. What yoyo lets pass is refused here: a missing or empty rollback, two heads, a directive where yoyo ignores
it, a COMMIT in the middle.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from service.settings import OperatorError

_INSTALLED = Path(__file__).parent.parent / "migrations"  # where the wheel puts the repository's folder
DEFAULT_DIRECTORY = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[2] / "migrations"

_NAME = re.compile(r"(?P<id>\d{4}(?:_[a-z][a-z0-9]*){2,})(?:\.rollback)?\.sql")
_DIRECTIVE = re.compile(r"^\s*--\s*(?:transactional|depends)\s*:", re.MULTILINE)
# What is not SQL between two semicolons: comments, dollar-quoted bodies, strings, quoted names.
_OPAQUE = re.compile(r"""--[^\n]*|/\*.*?\*/|\$([A-Za-z_]\w*|)\$.*?\$\1\$|'(?:[^']|'')*'|"(?:[^"]|"")*\"""", re.DOTALL)
_TRANSACTION_CONTROL = re.compile(r"(BEGIN|START\s+TRANSACTION|COMMIT|ROLLBACK(?!\s+TO\b)|ABORT)\b", re.IGNORECASE)
_SET_ROLE = re.compile(r"SET\s+ROLE\s+\w+", re.IGNORECASE)
REPEATABLE = re.compile(
    r"CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+IF\s+NOT\s+EXISTS\s+(?P<created>\w+)\s+ON\s.*"
    r"|DROP\s+INDEX\s+CONCURRENTLY\s+IF\s+EXISTS\s+(?:public\.)?\w+",
    re.IGNORECASE | re.DOTALL,
)
"""The statements that may run outside a transaction: running them again after a kill does no harm."""
_DROP_TABLE = re.compile(
    r"DROP\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?P<names>[\w.,\s]+?)(?:\s+(?:CASCADE|RESTRICT))?", re.IGNORECASE
)
_ALTER_TABLE = re.compile(r"ALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?(?P<name>[\w.]+)\s", re.IGNORECASE)
_DROP_COLUMN = re.compile(r"\bDROP\s+COLUMN\s+(?:IF\s+EXISTS\s+)?(\w+)", re.IGNORECASE)
_CREATE = re.compile(
    r"^CREATE (?:OR REPLACE )?(?P<kind>TABLE|FUNCTION|DOMAIN) public\.(?P<name>\w+)(?: ?\((?P<arguments>[^()]*)\))?",
    re.MULTILINE,
)
_ARGUMENT = re.compile(r"\w+ (?P<type>.+?)(?: DEFAULT .*)?", re.DOTALL)


Operation = Literal["apply", "rollback"]


class MigrationError(OperatorError):
    """What stands in the way, in one line that says what to do; never holds a password."""


class Made(msgspec.Struct, frozen=True):
    """What migrations make in the schema public, by name: this is todochat's, and nothing else there is."""

    tables: list[str]
    functions: list[str]
    """With the types of their arguments: ``touch()`` is todochat's, and somebody's ``touch(text)`` is not."""
    domains: list[str]


class Migration(msgspec.Struct, frozen=True):
    """A pair of files, `id`.sql and `id`.rollback.sql, with their texts."""

    id: str
    text: str
    rollback: str
    transactional: bool
    header: str
    """The comment above the first statement: what it makes, why, what it locks, and what the rollback loses."""
    rollback_header: str
    """The comment above the rollback's first statement: what it takes back, and what is lost."""

    @property
    def purpose(self) -> str:
        """The first line of its header."""
        return self.header.partition("\n")[0].strip()

    @property
    def hash(self) -> str:
        """What yoyo calls the migration in its tables: SHA-256 of the id."""
        return hashlib.sha256(self.id.encode()).hexdigest()

    @property
    def checksum(self) -> str:
        """SHA-256 of the file to apply. Rollback files may be mended later, so they are not held to one."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def file(self, operation: Operation) -> tuple[str, str]:
        """The name and the text of the file that does it."""
        if operation == "apply":
            return f"{self.id}.sql", self.text
        return f"{self.id}.rollback.sql", self.rollback

    def dropped(self) -> list[tuple[str, str | None]]:
        """What the rollback drops with its contents: tables, and columns as (table, column)."""
        found: list[tuple[str, str | None]] = []
        for _, blank in split_statements(self.rollback):
            if match := _DROP_TABLE.fullmatch(blank):
                found += [(name.strip(), None) for name in match["names"].split(",")]
            elif match := _ALTER_TABLE.match(blank):
                found += [(match["name"], column) for column in _DROP_COLUMN.findall(blank)]
        return found


def load(directory: Path = DEFAULT_DIRECTORY) -> list[Migration]:
    """Read and check every pair of files, oldest first; raises MigrationError for the first thing wrong."""
    names = sorted(path.name for path in directory.glob("*") if path.suffix.lower() in {".sql", ".py"})
    ids = [name.removesuffix(".sql") for name in names if not name.endswith(".rollback.sql")]
    if not ids:
        raise MigrationError(f"no migrations in {directory}")
    for name in names:
        if (match := _NAME.fullmatch(name)) is None:
            raise MigrationError(f"{name}: a migration is called NNNN_verb_object.sql, in lower case")
        if match["id"] not in ids:
            raise MigrationError(f"{name}: there is no migration of that name to roll back")
    migrations: list[Migration] = []
    for previous, migration_id in zip([None, *ids], ids, strict=False):
        if previous and previous[:4] == migration_id[:4]:
            raise MigrationError(f"{previous} and {migration_id} have the same number: renumber the one not released")
        migrations.append(_read_pair(directory, migration_id, previous))
    return migrations


def _read_pair(directory: Path, migration_id: str, previous: str | None) -> Migration:
    text, directives, header = _read(directory / f"{migration_id}.sql")
    depends = directives.get("depends", "").split()
    if depends != ([previous] if previous else []):
        wanted = f"write `-- depends: {previous}` at its top" if previous else "it is the first one"
        raise MigrationError(
            f"{migration_id} depends on {' and '.join(depends) or 'nothing'}: the history is one line, {wanted}"
        )
    flag = directives.get("transactional", "true").strip().lower()
    if flag not in {"true", "false"}:
        raise MigrationError(f"{migration_id}: `-- transactional:` is true or false")
    rollback, rollback_directives, loses = _read(directory / f"{migration_id}.rollback.sql")
    # As in yoyo, the rollback runs the way its migration does; it may repeat the line for its reader.
    if rollback_directives not in ({}, {"transactional": directives.get("transactional", "true")}):
        raise MigrationError(
            f"{migration_id}.rollback.sql: only the migration's own `-- transactional:` may stand here"
        )
    for name, content in ((f"{migration_id}.sql", text), (f"{migration_id}.rollback.sql", rollback)):
        _check_statements(name, content, transactional=flag == "true")
    losses = " ".join(loses.partition("\n\n")[0].split())
    return Migration(migration_id, text, rollback, flag == "true", header, losses)


def _read(path: Path) -> tuple[str, dict[str, str], str]:
    # Here, because the service imports this module for `known_ids` and would hold 3 MiB of yoyo and sqlparse for ever.
    from yoyo.migrations import parse_metadata_from_sql_comments  # pyright: ignore[reportMissingTypeStubs]

    try:
        text = path.read_text(encoding="utf-8")  # universal newlines: a checkout's line endings are no change
    except UnicodeDecodeError as error:
        raise MigrationError(f"{path.name} is not UTF-8") from error
    except FileNotFoundError as error:
        raise MigrationError(f"{path.name} is missing: every migration says how to take it back") from error
    directives, header, _ = parse_metadata_from_sql_comments(text)
    if len(_DIRECTIVE.findall(text)) != len(directives):
        raise MigrationError(f"{path.name}: each of depends and transactional stands once, above the first statement")
    return text, directives, header


def split_statements(text: str) -> list[tuple[str, str]]:
    """The statements as they stand, each with a copy in which comments and quoted text are blanks."""
    blanked = _OPAQUE.sub(lambda match: " " * len(match[0]), text)
    ends = [match.start() for match in re.finditer(";", blanked)]
    parts = [(text[a:b], blanked[a:b].strip()) for a, b in zip([0, *(e + 1 for e in ends)], [*ends, None], strict=True)]
    return [(statement, blank) for statement, blank in parts if blank]


def _check_statements(name: str, text: str, *, transactional: bool) -> None:
    statements = [blank for _, blank in split_statements(text)]
    if not statements:
        raise MigrationError(f"{name} holds no statement")
    if transactional:
        for word in filter(None, map(_TRANSACTION_CONTROL.match, statements)):
            raise MigrationError(f"{name}: take out {word[0].upper()}, the runner makes the transaction")
        return
    last = [blank for blank in statements if not _SET_ROLE.fullmatch(blank)]
    if len(last) != 1 or len(statements) > 2 or not REPEATABLE.fullmatch(last[0]):
        raise MigrationError(
            f"{name}: without a transaction only one CREATE INDEX CONCURRENTLY IF NOT EXISTS name ON ... or "
            "DROP INDEX CONCURRENTLY IF EXISTS name may stand here, after a SET ROLE if need be"
        )


def known_ids(directory: Path = DEFAULT_DIRECTORY) -> list[str]:
    """The ids of the migrations in `directory`, oldest first, by the names of their files."""
    return sorted(path.stem for path in directory.glob("*.sql") if not path.stem.endswith(".rollback"))


def made_by(texts: Iterable[str]) -> Made:
    """What migrations with these texts make."""
    made = Made([], [], [])
    for match in (match for text in texts for match in _CREATE.finditer(text)):
        if match["kind"] == "FUNCTION":
            arguments = filter(None, map(_ARGUMENT.fullmatch, map(str.strip, match["arguments"].split(","))))
            function = f"{match['name']}({', '.join(argument['type'] for argument in arguments)})"
            if function not in made.functions:  # a later migration's CREATE OR REPLACE
                made.functions.append(function)
        else:
            (made.tables if match["kind"] == "TABLE" else made.domains).append(match["name"])
    return made


def known_objects(directory: Path = DEFAULT_DIRECTORY) -> Made:
    """What the migrations in `directory` make."""
    return made_by((directory / f"{name}.sql").read_text(encoding="utf-8") for name in known_ids(directory))
