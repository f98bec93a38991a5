"""The command line as a process: run it to its end, and what it says when it fails."""

import subprocess
import sys

from tests.conftest import REPOSITORY, TestDatabase, service_environment


def run(*arguments: str, stdin: str = "", **env: str) -> "subprocess.CompletedProcess[str]":
    """One command of the service to its end, without any setting but ``env``."""
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


def complaint(done: "subprocess.CompletedProcess[str]") -> str:
    """The one line of a command that failed as it should."""
    assert done.returncode == 1, done
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("todochat: ")
    return lines[0]


def as_migrator(database: TestDatabase, **parts: str) -> dict[str, str]:
    return {"MIGRATION_DATABASE_URL": database.owner_url, **parts}
