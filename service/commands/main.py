"""The command line: `todochat COMMAND`, or `python -m service COMMAND` where the package is not installed.

Every command imports what it needs when it runs, so that `--help` is quick.
"""

import os
import sys
from typing import Any

import click

from service.commands.data import demo, export_account, import_account
from service.commands.database import create_login, migrate, prune, queries, rollback, schema, status
from service.commands.serve import serve
from service.commands.shared import say
from service.commands.users import users
from service.settings import OperatorError, SettingsError, describe_settings


class CommandLine(click.Group):
    """All commands; every mistake that can be expected ends with exit status 1 and a line that says what to do."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except SettingsError as error:
            for mistake in error.mistakes:
                say(mistake)
        except OperatorError as error:
            say(str(error))
        except (KeyboardInterrupt, click.Abort):
            ctx.exit(130)
        except BrokenPipeError:  # `todochat users list | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(141)
        return ctx.exit(1)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)  # in the order in which a newcomer needs them

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        with formatter.section("Settings, from the environment"):
            rows = [(name, f"{meaning} [default: {default}]") for name, default, meaning in describe_settings()]
            formatter.write_dl(rows)
        formatter.write_paragraph()
        formatter.write_text("More issuers are ISSUER_2 with ISSUER_2_JWKS_URL and so on, up to ISSUER_9.")


@click.command(
    cls=CommandLine,
    name="todochat",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
def main() -> None:
    """The backend of a todo chatbot: todos, conversations and messages over HTTP, on PostgreSQL.

    `todochat serve` is all it takes to look around: without DATABASE_URL it starts a PostgreSQL of its own.
    """


for command in (
    serve,
    demo,
    migrate,
    status,
    rollback,
    create_login,
    users,
    export_account,
    import_account,
    prune,
    queries,
    schema,
):
    main.add_command(command)
