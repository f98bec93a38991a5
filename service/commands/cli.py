"""The command line: `python -m service COMMAND`, or `todochat COMMAND` where the package is installed.

Settings come from the environment. Every mistake that can be expected ends with exit status 1 and one line on standard
error that says what to do. Modules are imported by the command that needs them, so that `--help` is quick.
"""

import argparse
import contextlib
import os
import secrets
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from service.settings import SECRET_MIN_BYTES, Secret, Settings, SettingsError

if TYPE_CHECKING:
    from service.commands import demo
    from service.embedded import EmbeddedPostgres

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # pyright: ignore[reportPrivateUsage]

SCHEMA_PATH = Path("sql/schema.sql")
SERVICE_LOGIN = "todochat_service"
GENERATED_PASSWORD_BYTES = 24


class CommandError(Exception):
    """The command can't be done; the message is one line that says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the process's exit status."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except SettingsError as error:
        for mistake in error.mistakes:
            _say(mistake)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `todochat users list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except _expected_errors() as error:
        _say(str(error))
    return 1


def _expected_errors() -> tuple[type[Exception], ...]:
    """Errors whose message is for the user, of the modules that the command came to import."""
    found = [(sys.modules[module], name) for module, name in _EXPECTED if module in sys.modules]
    return (CommandError, *(getattr(module, name) for module, name in found))


_EXPECTED = (
    ("service.commands.accounts", "AccountError"),
    ("service.commands.transfer", "CarryError"),
    ("service.commands.demo", "DemoError"),
    ("service.problems", "StartupError"),
    ("service.embedded", "EmbeddedPostgresError"),
    ("service.commands.logins", "LoginError"),
    ("service.commands.migrate", "MigrationError"),
    ("service.db.queries", "QueryError"),
)


def _say(line: str) -> None:
    print(f"todochat: {line}", file=sys.stderr)


# Commands


def _serve(_: argparse.Namespace) -> int:
    """Serve over HTTP; starts and migrates the embedded PostgreSQL when DATABASE_URL is unset."""
    settings = Settings.from_environ(os.environ)
    from service.serving import server

    server.listen(settings.host, settings.port).close()  # a taken port is better known before a database is started
    with contextlib.ExitStack() as stack:
        if settings.database_url is None:
            from service.embedded import development

            embedded = stack.enter_context(_embedded(settings))
            urls = development.prepare_database(embedded)
            if applied := development.migrate_database(embedded, urls):
                _say(f"applied {len(applied)} migration{'s' * (len(applied) > 1)}")
            database_url = Secret(urls.service)
            settings = msgspec.structs.replace(settings, database_url=database_url)
            if settings.local_accounts and settings.jwt_secret is None:
                settings = msgspec.structs.replace(settings, jwt_secret=_development_secret(settings.embedded_data_dir))
        return server.run(settings, on_ready=_greet if settings.local_accounts else _say_url)


def _say_url(url: str) -> None:
    _say(f"serving {url}, documentation at {url}/schema")


def _greet(url: str) -> None:
    account = '{"email": "ada@example.com", "password": "correct horse battery"}'
    _say(f"serving {url}, documentation at {url}/schema; to begin with:")
    print(f"  curl {url}/v1/auth/register -H 'Content-Type: application/json' -d '{account}'", file=sys.stderr)


def _migrate(_: argparse.Namespace) -> int:
    """Apply the pending migrations."""
    from service.commands import migrate

    with _owner_url() as url:
        applied = migrate.upgrade(url)
    for migration in applied:
        print(f"applied {migration}")
    if not applied:
        print("nothing to do: every migration is applied")
    return 0


def _rollback(options: argparse.Namespace) -> int:
    """Take the latest migrations back."""
    from service.commands import migrate

    with _owner_url() as url:
        for migration in migrate.rollback(url, options.count):
            print(f"rolled back {migration}")
    return 0


def _status(_: argparse.Namespace) -> int:
    """Say which migrations are applied; exit status 1 if one was edited or lost since."""
    from service.commands import migrate

    with _owner_url() as url:
        found = migrate.status(url)
    for migration in found:
        applied_at = f"{migration.applied_at:%Y-%m-%d %H:%M:%S} UTC" if migration.applied_at else ""
        print(f"{migration.state:8} {migration.id:50} {applied_at}".rstrip())
    return 1 if any(migration.state in ("changed", "missing") for migration in found) else 0


def _schema(options: argparse.Namespace) -> int:
    """Write what the migrations make, as SQL for reviewers; taken from an empty database on the embedded server."""
    from service.commands import migrate
    from service.embedded import development

    with _embedded(_database_settings()) as embedded, development.scratch_database(embedded) as url:
        migrate.upgrade(url)
        text = migrate.dump_schema(url, embedded.bin_dir / "pg_dump")
    path: Path = options.output
    if str(path) == "-":
        print(text, end="")
    else:
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise CommandError(f"can't write {path}: {error.strerror}") from error
        print(f"wrote {path}")
    return 0


def _create_login(options: argparse.Namespace) -> int:
    """Make the service's login, or mend it and set its password anew, and print the DATABASE_URL for it."""
    from service.commands import logins

    if options.password_file is None:
        password = secrets.token_urlsafe(GENERATED_PASSWORD_BYTES)
    else:
        try:
            file: Path = options.password_file
            text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"can't read the password from {options.password_file}: {error}") from error
        password = text.rstrip("\r\n")
    with _owner_url() as url:
        service_url = logins.create_service_login(url, options.name, password)
    if options.password_file is not None:  # whoever has it need not see it again
        service_url = service_url.replace(f":{quote(password, safe='')}@", ":PASSWORD@", 1)
    print(f"DATABASE_URL={service_url}")
    return 0


def _list_users(_: argparse.Namespace) -> int:
    """List the accounts, oldest first."""
    from service.commands import accounts

    with _owner_url() as url:
        for account in accounts.list_accounts(url):
            state = "active" if account.is_active else "inactive"
            names = f"{account.email or '-'}  {account.username or ''}".rstrip()
            print(f"{account.created_at:%Y-%m-%d}  {state:8}  {account.id}  {names}")
    return 0


def _set_active(options: argparse.Namespace) -> int:
    """Activate or deactivate the account of an e-mail address or id."""
    from service.commands import accounts

    with _owner_url() as url:
        accounts.set_active(url, options.account, is_active=options.is_active)
    print(f"{options.account} is {'active' if options.is_active else 'inactive'}")
    return 0


def _erase_user(options: argparse.Namespace) -> int:
    """Erase an account for good, with everything its user owns and their audit trail."""
    from service.commands import accounts

    with _owner_url() as url:
        accounts.erase(url, options.account)
    print(f"{options.account} is erased")
    return 0


def _prune(options: argparse.Namespace) -> int:
    """Remove audit entries and idempotency keys past their age, in small batches; fit for cron."""
    from service.commands import retention

    with _owner_url() as url:
        pruned = retention.prune(url, audit_days=options.audit_days, batch=options.batch, dry_run=options.dry_run)
    print(
        f"{'would remove' if options.dry_run else 'removed'} {pruned.entries:,} from audit_log "
        f"(older than {options.audit_days} days, of {pruned.users:,} user{'s' * (pruned.users != 1)}), "
        f"{pruned.keys:,} from idempotency_keys (older than 24 hours)"
    )
    if pruned.held:
        _say(f"passed over what other transactions held, {pruned.held:,} times: the next run finds it again")
    return 0


def _rebase(_: argparse.Namespace) -> int:
    """After a dump was restored into another cluster: put the audit trail in the order of this one's transactions."""
    from service.commands import rebase

    with _owner_url() as url:
        print(f"moved {rebase.rebase(url):,} audit entries")
    return 0


def _export(options: argparse.Namespace) -> int:
    """Write everything that the user of an e-mail address owns to a file, as lines of JSON."""
    from service.commands import transfer as carry
    from service.commands.progress import Stage

    output: Path = options.output
    with _owner_url() as url, Stage("export") as stage:

        def progress(_: int, lines: int) -> None:
            stage.update(None, lines)

        if str(output) == "-":
            carry.export_into(url, options.account, sys.stdout.buffer, progress)
            sys.stdout.buffer.flush()
        else:
            carry.export_to(url, options.account, output, progress)
    return 0


def _import(options: argparse.Namespace) -> int:
    """Bring a file that an export wrote into the account of an e-mail address, as a whole or not at all."""
    from service.commands import transfer as carry
    from service.commands.progress import Stage

    source: Path = options.file
    with contextlib.ExitStack() as stack:
        try:
            file = sys.stdin.buffer if str(source) == "-" else stack.enter_context(source.open("rb"))
            size = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise CommandError(f"can't read {source}: {error.strerror}") from error
        url = stack.enter_context(_owner_url())
        stage = stack.enter_context(Stage("import"))
        done = 0

        def progress(sent: int, lines: int) -> None:
            nonlocal done
            done += sent
            stage.update(min(1, done / size) if size else None, lines)

        result = carry.import_from(url, options.account, file, progress)
    for name in result.__struct_fields__:
        counts = getattr(result, name)
        print(f"{name}: {counts.imported:,} imported, {counts.skipped:,} there already")
    return 0


def _queries(_: argparse.Namespace) -> int:
    """List the named queries: file, parameters, what they return, the index they ride on."""
    from service.db.queries import TEXTS

    for query in TEXTS.values():
        parameters = ", ".join(f"{name} {kind}" for name, kind in query.parameters.items())
        print(f"{query.name}({parameters}) -> {query.cardinality} {query.row}".rstrip())
        print(f"    {query.where}, index {query.index}")
        if query.purpose:
            print(f"    {query.purpose}")
    return 0


def _demo(options: argparse.Namespace) -> int:
    """Add demo data, once: an account to look around in, or as many rows as --users, --todos and --messages say."""
    from service.commands import demo

    size = _demo_size(options)
    with _filling_url() as url:
        filled = demo.fill_account(url) if size is None else demo.fill_many(url, size)
    if filled.added:
        rows = sum(filled.added.values())
        print(", ".join(f"{count:,} {table}" for table, count in filled.added.items()))
        print(f"{rows:,} rows in {filled.seconds:.1f} s, {rows / filled.seconds:,.0f} a second")
    else:
        print("it is there already: nothing was added")
    print(f"sign in as {filled.email} with the password: {demo.PASSWORD}")
    return 0


def _demo_size(options: argparse.Namespace) -> "demo.Size | None":
    """What was asked for; sizes left out follow from the others: 100 messages and 50 todos a user."""
    from service.commands import demo

    users: int | None = options.users
    todos: int | None = options.todos
    messages: int | None = options.messages
    if users is None and todos is None and messages is None:
        if options.seed is not None:
            raise CommandError("--seed goes with --users, --todos or --messages")
        return None
    if users is None:
        users = max(1, (todos or 0) // 50, (messages or 0) // 100)
    return demo.Size(
        users=users,
        todos=50 * users if todos is None else todos,
        messages=100 * users if messages is None else messages,
        seed=options.seed or 0,
    )


# What they share


def _database_settings() -> Settings:
    """The settings of the database alone: no command but `serve` needs the others, or a secret."""
    names = ("DATABASE_URL", "MIGRATION_DATABASE_URL", "EMBEDDED_DATA_DIR")
    unused_secret = {"JWT_SECRET": "-" * SECRET_MIN_BYTES}
    return Settings.from_environ({name: os.environ.get(name, "") for name in names} | unused_secret)


@contextlib.contextmanager
def _owner_url() -> Generator[str]:
    """The URL that migrates: MIGRATION_DATABASE_URL, else DATABASE_URL, else the embedded development database's."""
    settings = _database_settings()
    configured = settings.migration_database_url or settings.database_url
    if configured is not None:
        yield configured.value
        return
    from service.embedded import development

    with _embedded(settings) as embedded:
        yield development.prepare_database(embedded).owner


@contextlib.contextmanager
def _filling_url() -> Generator[str]:
    """Like `_owner_url`, but the embedded database is migrated, and its superuser's, who may copy rows in."""
    settings = _database_settings()
    if settings.migration_database_url or settings.database_url:
        with _owner_url() as url:
            yield url
        return
    from service.embedded import development

    with _embedded(settings) as embedded:
        development.migrate_database(embedded, development.prepare_database(embedded))
        yield embedded.url(development.DATABASE)


@contextlib.contextmanager
def _embedded(settings: Settings) -> "Generator[EmbeddedPostgres]":
    from service.embedded import EmbeddedPostgres

    with EmbeddedPostgres(settings.embedded_data_dir / "postgres") as server:
        yield server


def _development_secret(folder: Path) -> Secret:
    """The development database's own secret: made at the first start, kept in the data folder, for its owner only."""
    path = folder / "jwt_secret"
    draft = folder / f"jwt_secret.{os.getpid()}"
    try:
        if not path.exists():
            file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(file, "w", encoding="ascii") as out:
                out.write(secrets.token_hex(SECRET_MIN_BYTES))
            with contextlib.suppress(FileExistsError):  # of two first starts at once, one makes the secret of both
                path.hardlink_to(draft)
            draft.unlink()
        secret = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"can't keep the development secret in {path}: {error}") from error
    if len(secret) < SECRET_MIN_BYTES:
        raise CommandError(f"{path} is damaged: remove it, and everybody signs in again")
    _say(f"JWT_SECRET is unset: signing with the development database's own secret, in {path}")
    return Secret(secret)


def _add_account(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument("account", metavar="ACCOUNT", help="its e-mail address, or its id")
    return command


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="todochat", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, function: Callable[[argparse.Namespace], int], to: "Commands" = commands
    ) -> argparse.ArgumentParser:
        found = to.add_parser(name, help=function.__doc__, description=function.__doc__)
        found.set_defaults(command=function)
        return found

    add("serve", _serve)
    add("migrate", _migrate)
    rollback = add("rollback", _rollback)
    rollback.add_argument("--count", type=int, default=1, metavar="N", help="how many (default 1)")
    add("status", _status)
    schema = add("schema", _schema)
    schema.add_argument(
        "--output", type=Path, default=SCHEMA_PATH, metavar="FILE", help=f"default {SCHEMA_PATH}; - for standard output"
    )
    login = add("create-login", _create_login)
    login.add_argument("name", nargs="?", default=SERVICE_LOGIN, metavar="NAME", help=f"default {SERVICE_LOGIN}")
    login.add_argument(
        "--password-file",
        type=Path,
        metavar="FILE",
        help="read the password there (- is standard input) instead of making one",
    )
    users = commands.add_parser("users", help="List, activate, deactivate or erase accounts.").add_subparsers(
        required=True, metavar="ACTION"
    )
    add("list", _list_users, users)
    for name, is_active in (("activate", True), ("deactivate", False)):
        _add_account(add(name, _set_active, users)).set_defaults(is_active=is_active)
    _add_account(add("erase", _erase_user, users))
    prune = add("prune", _prune)
    prune.add_argument("--dry-run", action="store_true", help="only say how many there are")
    prune.add_argument(
        "--audit-days", type=_whole(1), default=365, metavar="N", help="keep audit entries that long (default 365)"
    )
    prune.add_argument("--batch", type=_whole(1), default=1000, metavar="N", help="rows a transaction (default 1000)")
    add("rebase", _rebase)
    export = add("export", _export)
    _add_account(export)
    export.add_argument("--output", type=Path, default=Path("-"), metavar="FILE", help="default: standard output")
    import_ = add("import", _import)
    _add_account(import_)
    import_.add_argument("file", type=Path, metavar="FILE", help="- for standard input")
    add("queries", _queries)
    sizes = add("demo", _demo)
    sizes.add_argument("--users", type=_whole(1), metavar="N", help="that many users, numbered and with one password")
    sizes.add_argument("--todos", type=_whole(0), metavar="N", help="in all (default 50 a user)")
    sizes.add_argument("--messages", type=_whole(0), metavar="N", help="in all (default 100 a user)")
    sizes.add_argument("--seed", type=_whole(0), metavar="N", help="the same seed and sizes, the same rows (default 0)")
    return parser


def _whole(low: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) < 10**9):
            raise argparse.ArgumentTypeError(f"must be a whole number from {low}, below a billion, not {text!r}")
        return int(text)

    return number
