"""Starts, joins and stops the embedded server.

It listens on a Unix socket in a folder that nobody but its owner (and root) can enter, so it trusts whoever connects;
it has no TCP port. Three locks in the data folder, which the kernel takes from a process that ends, order everything:

- `start.lock`: held by whoever starts, joins or leaves, so that only one does at a time.
- `users.lock`: shared by all users. Its exclusive lock is granted to the keeper when the last one is gone.
- `server.lock`: inherited by the keeper, the server and its backends. Free means: no process has the data open.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from io import BufferedWriter
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psycopg

from service.embedded.programs import ENVIRONMENT, EmbeddedPostgresError, cluster_version, major_version, wheel_bin_dir

SUPERUSER = "postgres"
PORT = 5432  # only part of the socket's name: .s.PGSQL.5432
SOCKET_PARENT = Path("/tmp")  # noqa: S108 - the owner of what is found there is checked
NOBODY = (65534, 65534)  # the user and group nobody of every Linux
LOG_BYTES = 5_000_000
FULL_BYTES = 1024 * 1024
"""A disk with less room than this is full."""
START_SECONDS = 120.0
STOP_SECONDS = 90.0  # longer than the keeper takes at most
POLL_SECONDS = 0.005


class EmbeddedPostgres:
    """A PostgreSQL server whose files are all in ``data_dir``: a folder of its own, made when missing.

    ``bin_dir`` is where `initdb` and `postgres` are (default: the newest ones of the wheel); ``options`` are server
    settings by name. A start may take ``start_seconds`` while the server's process lives: recovery can be long.

    Several processes, or several of these objects, may use one folder: the first starts the server, the others join it,
    and the last to stop or die ends it. Root's server runs as another account, with root's access to files (Linux).
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        bin_dir: Path | None = None,
        options: Mapping[str, str] | None = None,
        start_seconds: float = START_SECONDS,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.cluster_dir = self.data_dir / "cluster"
        """PostgreSQL's own data directory."""
        self.log_path = self.data_dir / "server.log"
        """What the server writes about itself."""
        self._given_bin_dir = bin_dir
        self._options = dict(options or {})
        self._start_seconds = start_seconds
        self._socket_dir: Path | None = None
        self._users_lock: BufferedWriter | None = None

    @functools.cached_property
    def bin_dir(self) -> Path:
        """PostgreSQL's programs, psql and pg_dump among them."""
        return self._given_bin_dir or wheel_bin_dir(self.cluster_dir)

    @property
    def socket_dir(self) -> Path:
        """The private folder of the Unix socket: the same at every start of the same data."""
        if self._socket_dir is None:
            raise EmbeddedPostgresError("the embedded PostgreSQL is not started")
        return self._socket_dir

    @property
    def pid(self) -> int:
        """The process id of the server."""
        pid = self._pid_file()[0]
        if not pid:
            raise EmbeddedPostgresError("the embedded PostgreSQL is not running")
        return int(pid)

    def url(self, dbname: str = "postgres", user: str = SUPERUSER) -> str:
        """A connection URL. It holds no secret: the folder of the socket is what protects the server."""
        return f"postgresql://{quote(user)}@/{quote(dbname)}?host={quote(str(self.socket_dir))}&port={PORT}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server, or join the one that runs on ``data_dir``, and return when it answers.

        Raises EmbeddedPostgresError when it can't be had.
        """
        if self._users_lock is not None:
            return
        try:
            self._make_data_dir()
            with self._open("start.lock") as start_lock:
                fcntl.flock(start_lock, fcntl.LOCK_EX)
                self._users_lock = self._open("users.lock")
                fcntl.flock(self._users_lock, fcntl.LOCK_SH)  # waits while a keeper stops the server before this one
                self._join_or_launch()
        except BaseException as error:
            self._release()
            if isinstance(error, OSError):
                reason = f"{error.filename}: {error.strerror}" if error.filename else error
                raise EmbeddedPostgresError(
                    f"the database folder can't be used ({reason}): set EMBEDDED_DATA_DIR to a folder of your own"
                ) from None
            raise

    def stop(self) -> None:
        """Stop using the server; when nobody else uses it, return after its end."""
        if self._users_lock is None:
            return
        with self._open("start.lock") as start_lock, self._open("server.lock") as server_lock:
            fcntl.flock(start_lock, fcntl.LOCK_EX)
            self._release()
            if not self._has_other_users():
                deadline = time.monotonic() + STOP_SECONDS
                while not _try_lock(server_lock, fcntl.LOCK_EX) and time.monotonic() < deadline:
                    time.sleep(POLL_SECONDS)

    def _release(self) -> None:
        if self._users_lock is not None:
            self._users_lock.close()
            self._users_lock = None

    def _has_other_users(self) -> bool:
        """Whether anybody but the keeper holds the users' lock; nobody can join while we hold the start lock."""
        with self._open("users.lock") as lock:
            # Exclusive refused: other users, or the keeper, which stops the server. Shared refused too: the keeper.
            return not _try_lock(lock, fcntl.LOCK_EX) and _try_lock(lock, fcntl.LOCK_SH)

    def _open(self, name: str) -> BufferedWriter:
        return (self.data_dir / name).open("ab")

    def _make_data_dir(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        uid = self.data_dir.stat().st_uid
        if uid != os.geteuid():
            owner = next((entry.pw_name for entry in pwd.getpwall() if entry.pw_uid == uid), f"user {uid}")
            raise EmbeddedPostgresError(f"{self.data_dir} belongs to {owner}: remove it, or run this as {owner}")

    def _join_or_launch(self) -> None:
        deadline = time.monotonic() + self._start_seconds
        start_of_log: int | None = None
        while True:
            with self._open("server.lock") as server_lock:
                if not _try_lock(server_lock, fcntl.LOCK_EX) or self._is_run_by_hand():
                    if self._answers():
                        return
                elif start_of_log is None:
                    start_of_log = self._launch(server_lock.fileno())
                else:
                    raise self._error("did not start", start_of_log)
            if time.monotonic() > deadline:
                raise self._error(f"did not answer in {self._start_seconds:.0f} s", start_of_log or 0)
            time.sleep(POLL_SECONDS)

    def _pid_file(self) -> list[str]:
        """The 8 lines of postmaster.pid, which PostgreSQL writes one after the other; empty where they are missing."""
        try:
            lines = os.fsdecode((self.cluster_dir / "postmaster.pid").read_bytes()).splitlines()
        except FileNotFoundError:
            lines = []
        return [line.strip() for line in lines] + [""] * (8 - len(lines))

    def _answers(self) -> bool:
        """Whether the server that wrote postmaster.pid accepts connections."""
        lines = self._pid_file()
        if lines[7] != "ready" or not lines[4]:
            return False
        self._socket_dir = Path(lines[4])
        try:
            psycopg.connect(self.url(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _is_run_by_hand(self) -> bool:
        """Whether postmaster.pid names a live server that no keeper started: somebody ran pg_ctl on this data.

        After a crash it may name any process by now. A server's working directory is its data directory.
        """
        pid = self._pid_file()[0]
        if not re.fullmatch(r"[1-9]\d{0,9}", pid):
            return False
        if sys.platform == "linux":
            try:
                return Path(f"/proc/{pid}/cwd").samefile(self.cluster_dir)
            except OSError:  # gone, or another user's, who can't be the owner of this data
                return False
        command = ["ps", "-o", "comm=", "-p", pid]
        return "postgres" in subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def _launch(self, server_lock: int) -> int:
        """Start a keeper, which holds ``server_lock`` from now on; where in the log its words begin."""
        bin_dir, ours, made_by = self.bin_dir, major_version(self.bin_dir), cluster_version(self.cluster_dir)
        if made_by not in {None, ours}:
            raise EmbeddedPostgresError(
                f"{self.data_dir} was made by PostgreSQL {made_by}, this is {ours}: move that folder away to begin anew"
            )
        self.data_dir.chmod(0o700)
        # Nobody has this data open, but PostgreSQL would take whatever process the file names for a server.
        (self.cluster_dir / "postmaster.pid").unlink(missing_ok=True)
        # The keeper moves a new cluster into place when it is complete: an interrupted initdb leaves nothing half-made.
        new = self.data_dir / "cluster.new"
        shutil.rmtree(new, ignore_errors=True)
        account, socket_dir = as_account(self.cluster_dir), _make_socket_dir(self.cluster_dir)
        initdb = [f"{bin_dir}/initdb", "-D", f"{new}", "-U", SUPERUSER, "--auth=trust", "--encoding=UTF8", "--locale=C"]
        # The same order and letter cases on every machine.
        initdb += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if ours >= 17 else ["--lc-ctype=C.UTF-8"]
        postgres = [f"{bin_dir}/postgres", "-D", f"{self.cluster_dir}", "-h", "", "-k", f"{socket_dir}"]
        order = {
            "initdb": account + initdb if made_by is None else None,
            "postgres": account + postgres + [f"--{name}={value}" for name, value in self._options.items()],
            "environment": ENVIRONMENT,
            "socket_dir": str(socket_dir),
            "server_lock": server_lock,
        }
        if self.log_path.exists() and self.log_path.stat().st_size > LOG_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("keeper.py")), json.dumps(order)]
        with self._open("server.log") as log:
            start_of_log = log.tell()
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.data_dir,
                pass_fds=(server_lock,),
                check=False,
            )
        return start_of_log

    def _error(self, what: str, start_of_log: int) -> EmbeddedPostgresError:
        """With the line of the log that says most."""
        self.log_path.touch()  # a server started by hand writes elsewhere
        lines = self.log_path.read_bytes()[start_of_log:].decode(errors="replace").strip().splitlines()
        reasons = [line for line in lines if re.search(r"FATAL|PANIC|[Ee]rror", line)]
        is_full = shutil.disk_usage(self.data_dir).free < FULL_BYTES
        why = (reasons[:1] or lines[-1:] or ["no space is left there" if is_full else "its log is empty"])[0].strip()
        return EmbeddedPostgresError(f"the embedded PostgreSQL {what}: {why} (see {self.log_path})")


def as_account(cluster_dir: Path) -> list[str]:
    """The beginning of a command that root has to run as another account, because PostgreSQL refuses root.

    The account may not enter where root's files often are (/root). It is lent root's way past the permissions of files,
    and nothing else of root's, so nothing has to be copied or opened to others. That makes the server as powerful over
    files as root: therefore only root can reach its data and its socket.
    """
    if os.geteuid() != 0:
        return []
    if sys.platform != "linux":
        raise EmbeddedPostgresError("PostgreSQL does not run as root: run this as another user")
    uid, gid = cluster_dir.stat()[4:6] if cluster_dir.exists() else NOBODY
    return [
        "setpriv",
        f"--reuid={uid}",
        f"--regid={gid}",
        "--clear-groups",
        "--securebits=+no_setuid_fixup",  # else access(2), by which PostgreSQL looks for its programs, denies them
        "--inh-caps=-all,+dac_override",
        "--ambient-caps=-all,+dac_override",
        "--pdeathsig=INT",  # as in the keeper, whose own setting a change of account undoes
    ]


def _make_socket_dir(cluster_dir: Path) -> Path:
    """The same short folder for the same data and user; a random one if somebody else took its name.

    A socket's path is limited to 107 bytes (103 on macOS), which a data folder may well exceed.
    """
    name = hashlib.sha256(os.fsencode(f"{cluster_dir.resolve()} {os.geteuid()}")).hexdigest()[:16]
    path = SOCKET_PARENT / f"todochat-{name}"
    with contextlib.suppress(OSError):
        if path.lstat().st_uid == os.geteuid():
            shutil.rmtree(path)  # what a killed server left: its lock file, too, may name any process by now
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return Path(tempfile.mkdtemp(prefix="todochat-", dir=SOCKET_PARENT))
    return path


def _try_lock(file: BufferedWriter, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
