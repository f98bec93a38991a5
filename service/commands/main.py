"""The command line: `todochat COMMAND`, or `python -m service COMMAND` where the package is not installed.

A command's module is imported when the command is used, so that `todochat --help` is quick.
"""

import gc
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import click

from service.commands.shared import say
from service.settings import OperatorError, SettingsError, describe_settings

if TYPE_CHECKING:
    from io import TextIOWrapper

COMMANDS = {
    "serve": ("serve.serve", "Serve over HTTP on HOST:PORT."),
    "demo": ("demo.demo", "Add demo data, once, and say whom to sign in as."),
    "migrate": ("database.migrate", "Apply the pending migrations."),
    "status": ("database.status", "Say which migrations are applied."),
    "rollback": ("database.rollback", "Take the latest migrations back; it asks first."),
    "create-login": (
        "logins.create_login",
        "Make the service's login, or give it a new password; it asks first where the login is in use.",
    ),
    "users": ("accounts.users", "List, activate, deactivate or erase accounts."),
    "export": ("transfer.export_account", "Write everything that an account owns, as lines of JSON."),
    "import": ("transfer.import_account", "Bring a file that an export wrote into an account."),
    "prune": ("retention.prune_rows", "Remove old audit entries and idempotency keys, and conversations if told so."),
    "backup": ("backup.backup", "Write the whole database into a file, while it is served."),
    "restore": ("backup.restore", "Make a database of a file that `todochat backup` wrote."),
    "queries": ("database.queries", "Print the named queries."),
}
"""Where each command stands, and the first sentence of its help; in the order in which a newcomer needs them."""


class CommandLine(click.Group):
    """All commands. A mistake that can be expected ends in one line that says what to do, and exit status 1.

    A command line that can't be understood ends with 2, Ctrl-C with 130, a reader that has gone with 141.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name][0].partition(".")
        # What modules make stays: looking for garbage in it takes a tenth of the time that importing them does.
        gc.disable()
        try:
            return getattr(import_module(f"service.commands.{module}"), function)
        finally:
            gc.enable()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_, sentence) in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        formatter.write_paragraph()
        formatter.write_text("`todochat COMMAND --help` says more about a command.")
        with formatter.section("Settings, from the environment"):
            rows = [(name, f"{meaning} [default: {default}]") for name, default, meaning in describe_settings()]
            formatter.write_dl(rows)
        formatter.write_paragraph()
        formatter.write_text("More issuers are ISSUER_2 with ISSUER_2_JWKS_URL and so on, up to ISSUER_9.")

    def main(self, *args: Any, **kwargs: Any) -> Any:
        _mend_standard_streams()
        return super().main(*args, **kwargs)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _mistakes_in_one_line():  # `todochat --help` is all done here
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _mistakes_in_one_line():
            result = super().invoke(ctx)
            print(end="", flush=True)
            return result


@contextmanager
def _mistakes_in_one_line() -> Generator[None]:
    """End with the line and the exit status that a mistake has."""
    status = 1
    try:
        yield
        return
    except click.exceptions.NoArgsIsHelpError:  # `todochat users` shows the help of users
        raise
    except click.UsageError as error:
        see = f" (see `{error.ctx.command_path} --help`)" if error.ctx else ""
        say(f"{error.format_message().rstrip('.')}{see}")
        status = 2
    except SettingsError as error:
        for mistake in error.mistakes:
            say(mistake)
    except OperatorError as error:
        say(str(error))
    except (KeyboardInterrupt, click.Abort):
        status = 130
    except OSError as error:  # standard output is on a full disk, or its reader has gone: `todochat queries | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            status = 141
        else:
            say(f"{error.filename}: {error.strerror}" if error.filename else f"can't go on: {error.strerror or error}")
    raise click.exceptions.Exit(status)


def _mend_standard_streams() -> None:
    """Have every one: what was closed (``<&-``) can't be read or written. What can't be encoded is shown escaped."""
    sys.stdin = sys.stdin or os.fdopen(os.open(os.devnull, os.O_WRONLY))
    sys.stdout = sys.stdout or os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
    sys.stderr = sys.stderr or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if sys.stdout.errors == "strict":
        cast("TextIOWrapper", sys.stdout).reconfigure(errors="backslashreplace")


@click.command(
    cls=CommandLine,
    name="todochat",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
def main() -> None:
    """The memory of a todo chatbot: todos, conversations and messages over HTTP, kept in PostgreSQL.

    `todochat serve` is all it takes to look around: without DATABASE_URL it starts a PostgreSQL of its own, whose data
    it keeps in EMBEDDED_DATA_DIR. The other commands work on the same database: the one of MIGRATION_DATABASE_URL, else
    of DATABASE_URL, else that one.
    """
