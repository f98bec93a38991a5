"""The benchmark of growth: that its parts run and say what they found. How fast anything is, is no test's business."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.embedded import EmbeddedPostgres
from tests.bench.scale.results import read
from tests.conftest import REPOSITORY, reachable_folder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmark counts CPU and memory in /proc")


def scale(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.bench.scale", "--quick", *arguments, "--folder", str(folder)]
    command += ["--output", str(folder / "out")]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def home(start_postgres: Callable[..., EmbeddedPostgres]) -> Iterator[Path]:
    """A folder with a cluster for the benchmark, not running."""
    with reachable_folder() as folder:
        start_postgres(folder / "postgres")
        yield folder


def test_steady_load_tells_of_memory_and_of_what_is_vacuumed(home: Path) -> None:
    done = scale("--part", "steady", folder=home)
    assert "## 0.0005 h of steady load" in done.stdout, done.stderr
    states, growth = read(home / "out")["steady"].findings.tables
    assert int(states.rows[-1][1]) > 100
    assert [name for name, _ in growth.rows] == ["memory", "tables", "indexes", "WAL"]
