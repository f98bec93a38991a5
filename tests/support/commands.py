"""The command line, run to its end, and what it says when it fails."""

import contextlib
import os
import signal
import subprocess
import sys

from click.testing import CliRunner

from service.commands.main import main
from tests.conftest import REPOSITORY, TestDatabase, service_environment

Done = subprocess.CompletedProcess[str]


def run(*arguments: str, stdin: str = "", **env: str) -> Done:
    """One command of the service to its end, without any setting but ``env``.

    It runs in this process, which spares starting one for every line that a command says. Not for `serve`, which has
    signals of its own, nor where the process itself is what is tested.
    """
    before = dict.fromkeys(os.environ)
    with contextlib.chdir(REPOSITORY):
        done = CliRunner(env={**before, **service_environment(**env)}).invoke(
            main, arguments, input=stdin, prog_name="todochat"
        )
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Done(arguments, done.exit_code, done.stdout, done.stderr)


def run_process(*arguments: str, stdin: str = "", **env: str) -> Done:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "service", *arguments]
    return subprocess.run(
        command,
        cwd=REPOSITORY,
        env=service_environment(**env),
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


def complaint(done: Done) -> str:
    """The one line of a command that failed as it should."""
    assert done.returncode == 1, done
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("todochat: ")
    return lines[0]


def as_migrator(database: TestDatabase, **parts: str) -> dict[str, str]:
    return {"MIGRATION_DATABASE_URL": database.owner_url, **parts}


def heeding(how: signal.Signals, *arguments: str) -> list[str]:
    """A command line of the service that heeds the signal, though whoever runs the tests may ignore it, as nohup does.

    Their children would, too.
    """
    heed = (
        f"import os, signal, sys; signal.signal({how:d}, signal.SIG_DFL); os.execv(sys.executable, sys.orig_argv[3:])"
    )
    return [sys.executable, "-c", heed, sys.executable, "-m", "service", *arguments]
