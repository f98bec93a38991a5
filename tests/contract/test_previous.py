"""`.ci/previous` runs the tests of the release before on the migrations that are here; shown by made-up ones."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

INSTALL = """\
mkdir -p .venv/bin
printf '#!/bin/sh\\necho "$(cat release) tested on $TEST_MIGRATIONS: $*"\\nexit $(cat status)\\n' > .venv/bin/python
chmod +x .venv/bin/python
"""


class Repository:
    """A repository whose releases say which one runs, and on what."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / ".ci").mkdir(parents=True)
        shutil.copy(REPOSITORY / ".ci" / "previous", folder / ".ci" / "previous")
        (folder / ".ci" / "install").write_text(INSTALL)
        (folder / "status").write_text("0")
        self.git("init", "-q")

    def git(self, *arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
        program = shutil.which("git") or "git"
        subprocess.run([program, *who, *arguments], cwd=self.folder, check=True, capture_output=True)

    def commit(self, release: str, *tags: str) -> None:
        (self.folder / "release").write_text(release)
        self.git("add", "-A")
        self.git("commit", "-qm", release)
        for tag in tags:
            self.git("tag", tag)

    def run(self, folder: Path) -> "subprocess.CompletedProcess[str]":
        env = {**os.environ, "TMPDIR": str(folder), "GIT_CONFIG_GLOBAL": os.devnull}
        command = ["/bin/bash", ".ci/previous"]
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    if shutil.which("git") is None:
        pytest.skip("needs git")
    return Repository(tmp_path / "repository")


def test_without_a_release_it_says_so_in_one_line(repository: Repository, tmp_path: Path) -> None:
    repository.commit("0.9.0", "v0.9.0", "v1.0.0-rc1", "other")
    repository.commit("1.0.0", "v1.0.0")
    done = repository.run(tmp_path)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    assert done.stdout.startswith("todochat: no release before this one")


def test_the_newest_release_before_this_one_is_tested_on_these_migrations(
    repository: Repository, tmp_path: Path
) -> None:
    for release in ("1.9.0", "1.10.0", "2.0.0-rc1"):
        repository.commit(release, f"v{release}")
    repository.commit("1.11.0", "v1.11.0")
    done = repository.run(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"1.10.0 tested on {repository.folder}/migrations: -m pytest" in done.stdout
    assert done.stdout.endswith("tests/api\n")
    assert [path.name for path in tmp_path.iterdir()] == ["repository"]


def test_what_fails_there_fails_here(repository: Repository, tmp_path: Path) -> None:
    (repository.folder / "status").write_text("1")
    repository.commit("1.0.0", "v1.0.0")
    repository.commit("1.0.1")
    assert repository.run(tmp_path).returncode == 1
