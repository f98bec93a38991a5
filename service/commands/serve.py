"""`todochat serve`."""

import contextlib
import os
import sys
from pathlib import Path

import click
import msgspec

from service.commands.shared import embedded_server, say
from service.settings import SECRET_MIN_BYTES, OperatorError, Secret, Settings


@click.command()
@click.pass_context
def serve(ctx: click.Context) -> None:
    """Serve over HTTP on HOST:PORT.

    When DATABASE_URL is unset, an embedded PostgreSQL is started and migrated: for development.
    """
    settings = Settings.from_environ(os.environ)
    from service.serving import server

    server.listen(settings.host, settings.port).close()  # a taken port is better known before a database is started
    with contextlib.ExitStack() as stack:
        if settings.database_url is None:
            from service.commands import development

            embedded = stack.enter_context(embedded_server(settings))
            urls = development.prepare_database(embedded)
            if applied := development.migrate_database(embedded, urls):
                say(f"applied {len(applied)} migration{'s' * (len(applied) > 1)}")
            settings = msgspec.structs.replace(settings, database_url=Secret(urls.service))
            if settings.local_accounts and settings.jwt_secret is None:
                settings = msgspec.structs.replace(settings, jwt_secret=_development_secret(settings.embedded_data_dir))
        from service.app import create_app

        greet = _greet if settings.local_accounts else _say_url
        status = server.run(settings, create_app(settings), on_ready=greet)
    ctx.exit(status)


def _say_url(url: str) -> None:
    say(f"serving {url}, documentation at {url}/schema")


def _greet(url: str) -> None:
    account = '{"email": "ada@example.com", "password": "correct horse battery"}'
    say(f"serving {url}, documentation at {url}/schema; to begin with:")
    print(f"  curl {url}/v1/auth/register -H 'Content-Type: application/json' -d '{account}'", file=sys.stderr)


def _development_secret(folder: Path) -> Secret:
    """The development database's own secret: made at the first start, kept in the data folder, for its owner only."""
    import secrets

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
        raise OperatorError(f"can't keep the development secret in {path}: {error}") from error
    if len(secret) < SECRET_MIN_BYTES:
        raise OperatorError(f"{path} is damaged: remove it, and everybody signs in again")
    say(f"JWT_SECRET is unset: signing with the development database's own secret, in {path}")
    return Secret(secret)
