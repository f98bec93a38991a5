"""`todochat serve`."""

import contextlib
import gc
import os
import sys
from typing import TYPE_CHECKING

import click

from service.commands import development
from service.commands.shared import say
from service.serving import server
from service.serving.sockets import given_sockets, listen
from service.settings import OperatorError, Settings

if TYPE_CHECKING:
    from service.telemetry import Telemetry


@click.command()
@click.pass_context
def serve(ctx: click.Context) -> None:
    """Serve over HTTP on HOST:PORT.

    Where systemd gives it sockets (LISTEN_FDS), it listens on those instead. When DATABASE_URL is unset, an embedded
    PostgreSQL is started and migrated: for development. Ctrl-C or SIGTERM ends it after the requests that are running.
    `todochat --help` lists the settings.
    """
    gc.freeze()  # what was imported stays: to look for garbage in it took a seventh of the start
    settings = Settings.from_environ(os.environ)
    if settings.migration_database_url and not settings.database_url:
        raise OperatorError(
            "DATABASE_URL is missing: set it to that of the service's login, as `todochat create-login` prints it "
            "(MIGRATION_DATABASE_URL is for the other commands; without either, an embedded database is served)"
        )
    shared = given_sockets()
    if not shared:
        listen(settings.host, settings.port).close()  # a taken port is better known before a database is started
    with contextlib.nullcontext(settings) if settings.database_url else development.served(settings) as complete:
        from service.app import create_app  # takes longest to import, so whoever made a mistake is told before

        greets = complete.log_level in {"debug", "info"} and not shared
        on_ready = (_greet if complete.local_accounts else _say_url) if greets else None
        telemetry = _telemetry()
        app = create_app(complete, telemetry, shares_port=bool(shared))
        status = server.run(complete, app, shared=shared, on_ready=on_ready)
        if telemetry:
            telemetry.close()
    ctx.exit(status)


def _telemetry() -> "Telemetry | None":
    """What OTEL_* configures; None, and nothing imported, where they name no collector of spans, or no exporter."""
    names = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    found = [name for name in names if os.environ.get(name)]
    exporter = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if not found or exporter == "none":
        return None
    if exporter != "otlp":
        raise OperatorError("OTEL_TRACES_EXPORTER must be otlp or none: no other one comes with todochat")
    protocols = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")  # the first that is set holds
    protocol = next((name for name in protocols if os.environ.get(name)), None)
    if protocol and os.environ[protocol] != "http/protobuf":
        raise OperatorError(f"{protocol} must be http/protobuf: spans are sent so, to port 4318 mostly")
    try:
        from service.telemetry import Telemetry, configured_provider

        return Telemetry(configured_provider())
    except ImportError:
        say(f"{found[0]} is set, but nothing is traced: run `.venv/bin/pip install -e '.[telemetry]'`")
        return None
    except ValueError as error:
        raise OperatorError(f"a variable of OTEL_* has a wrong value: {error}") from error


def _say_url(url: str) -> None:
    say(f"serving {url}, documentation at {url}/schema")


def _greet(url: str) -> None:
    account = '{"email": "ada@example.com", "password": "correct horse battery"}'
    say(f"serving {url}, documentation at {url}/schema; to begin with:")
    print(f"  curl {url}/v1/auth/register -H 'Content-Type: application/json' -d '{account}'", file=sys.stderr)
