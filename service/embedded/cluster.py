"""The server's folders: making a cluster and the socket's folder, and reading who runs on a cluster."""

import contextlib
import os
import re
import secrets
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from service.embedded.account import Account, EmbeddedPostgresError, short_hash
from service.embedded.programs import ENVIRONMENT, major_version

SUPERUSER = "postgres"
PORT = 5432  # only part of the socket's name: .s.PGSQL.5432
SOCKET_PARENT = Path("/tmp")  # noqa: S108 - the owner of what is found there is checked


def make_cluster(cluster_dir: Path, bin_dir: Path, account: Account | None) -> None:
    """Make an empty cluster aside and move it into place: an interrupted initdb leaves nothing half-made."""
    for leftover in cluster_dir.parent.glob(f"{cluster_dir.name}-*"):
        shutil.rmtree(leftover)
    if cluster_dir.exists():
        raise EmbeddedPostgresError(f"{cluster_dir} is not a PostgreSQL data directory: move it away")
    new = cluster_dir.with_name(f"{cluster_dir.name}-{secrets.token_hex(4)}")
    _make_dir_for(new, account)
    command = [str(bin_dir / "initdb"), "-D", str(new), "-U", SUPERUSER, "--auth=trust", "--no-instructions"]
    command += ["--encoding=UTF8", "--locale=C"]
    if major_version(bin_dir) >= 17:  # the same order and letter cases on every machine
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd="/",
        env=ENVIRONMENT,
        check=False,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        umask=0o077,
    )
    if done.returncode:
        shutil.rmtree(new, ignore_errors=True)
        lines = done.stderr.splitlines()
        raise EmbeddedPostgresError("; ".join([line for line in lines if "error" in line] or lines))
    new.rename(cluster_dir)


def make_socket_dir(cluster_dir: Path, account: Account | None) -> Path:
    """The same short folder for the same data and account; a random one if somebody else took its name.

    A socket's path is limited to 107 bytes (103 on macOS), which a data folder may well exceed.
    """
    uid = account.uid if account else os.geteuid()
    path = SOCKET_PARENT / f"todochat-{short_hash(f'{cluster_dir.resolve()} {uid}')}"
    with contextlib.suppress(FileExistsError):
        _make_dir_for(path, account)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or stat.S_IMODE(found.st_mode) != 0o700:
        path = Path(tempfile.mkdtemp(prefix="todochat-", dir=SOCKET_PARENT))
        if account is not None:
            os.chown(path, *account)
    return path


def _make_dir_for(path: Path, account: Account | None) -> None:
    path.mkdir(mode=0o700)
    if account is not None:
        os.chown(path, *account)


def read_pid_file(cluster_dir: Path) -> tuple[int | None, Path | None]:
    """Process id and socket folder from postmaster.pid (lines 1 and 5), as far as they are there."""
    try:
        lines = (cluster_dir / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return None, None
    pid = int(lines[0]) if lines and re.fullmatch(r"[1-9]\d{0,9}", lines[0]) else None
    return pid, Path(lines[4]) if len(lines) > 4 and lines[4] else None


def is_server_of(pid: int, cluster_dir: Path, socket_dir: Path | None) -> bool:
    """Whether process ``pid`` is a server on this data that no keeper started (somebody ran pg_ctl by hand)."""
    if Path("/proc/self/cwd").exists():
        try:  # a server's working directory is its data directory
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            return name == "postgres" and Path(f"/proc/{pid}/cwd").samefile(cluster_dir)
        except OSError:  # gone, or another user's, who can't be the owner of this data
            return False
    return socket_dir is not None and (socket_dir / f".s.PGSQL.{PORT}").is_socket()
