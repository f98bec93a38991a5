"""Starts, joins and stops the embedded server.

It listens on a Unix socket in a folder that nobody but its owner (and root) can enter, so it trusts whoever connects;
it has no TCP port. It runs as long as any process uses it, and no longer, however those processes end (see keeper).
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psycopg

from service.embedded.account import (
    Account,
    EmbeddedPostgresError,
    can_reach,
    make_own_dir,
    make_private_dir,
    private_dir,
    server_account,
)
from service.embedded.cluster import PORT, SUPERUSER, is_server_of, make_cluster, make_socket_dir, read_pid_file
from service.embedded.programs import ENVIRONMENT, can_run, cluster_version, copy_programs, major_version, wheel_bin_dir

LOG_BYTES = 5_000_000
START_SECONDS = 120.0
STOP_SECONDS = 90.0  # longer than the keeper takes at most


class EmbeddedPostgres:
    """A PostgreSQL server whose files are all in ``data_dir``: a folder of its own, made when missing.

    ``bin_dir`` is where `initdb` and `postgres` are (default: the newest ones of the wheel); ``options`` are server
    settings by name. A start may take ``start_seconds`` while the server's process lives: recovery can be long.

    Several processes, or several of these objects, may use one folder: the first starts the server, the others join it,
    and the last to stop or die ends it. After a start, ``notices`` has a line if something was put elsewhere, because
    root's server could not reach it.
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
        self.notices: list[str] = []
        self._bin_dir = bin_dir
        self._options = dict(options or {})
        self._start_seconds = start_seconds
        self._socket_dir: Path | None = None
        self._users_lock: int | None = None
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def bin_dir(self) -> Path:
        """PostgreSQL's programs, psql and pg_dump among them: once started, those that the server runs from."""
        if self._bin_dir is None:
            self._bin_dir = wheel_bin_dir(self.cluster_dir)
        return self._bin_dir

    @property
    def cluster_dir(self) -> Path:
        """PostgreSQL's own data directory."""
        return self.data_dir / "cluster"

    @property
    def log_path(self) -> Path:
        """What the server writes about itself."""
        return self.data_dir / "server.log"

    @property
    def socket_dir(self) -> Path:
        """The private folder of the Unix socket: the same at every start of the same data."""
        if self._socket_dir is None:
            raise EmbeddedPostgresError("the embedded PostgreSQL is not started")
        return self._socket_dir

    @property
    def pid(self) -> int:
        """The process id of the server."""
        pid, _ = read_pid_file(self.cluster_dir)
        if pid is None:
            raise EmbeddedPostgresError("the embedded PostgreSQL is not running")
        return pid

    def url(self, dbname: str = "postgres", user: str = SUPERUSER) -> str:
        """A connection URL. It holds no secret: the folder of the socket is what protects the server."""
        return _url(self.socket_dir, dbname, user)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server, or join the one that runs on ``data_dir``, and return when it answers.

        Raises EmbeddedPostgresError when it can't be had.
        """
        if self._users_lock is not None:
            return
        deadline = time.monotonic() + self._start_seconds
        bin_dir, account = self.bin_dir, None
        try:
            self.data_dir.parent.mkdir(parents=True, exist_ok=True)
            if os.geteuid() == 0:
                bin_dir, account = self._move_into_reach(bin_dir)
                self._bin_dir = bin_dir
            make_own_dir(self.data_dir, account)
            with self._starting_alone(deadline):
                self._users_lock = _lock_file(self.data_dir / "users.lock")
                while not _try_lock(self._users_lock, fcntl.LOCK_SH):  # its keeper stops a server: wait for the end
                    self._wait_a_little(deadline, "the server before it is still stopping")
                if not self._join(deadline):
                    self._start_server(account, bin_dir, deadline)
        except BaseException as error:
            self._release()
            if self._keeper is not None:
                self._keeper.wait()
            if isinstance(error, OSError):
                reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error
                raise EmbeddedPostgresError(f"the database folder can't be used: {reason}") from None
            raise

    def stop(self) -> None:
        """Stop using the server; when nobody else uses it, return after its end."""
        if self._users_lock is None:
            return
        deadline = time.monotonic() + STOP_SECONDS
        with self._starting_alone(time.monotonic() + self._start_seconds):
            self._release()
            if self._has_other_users():
                if self._keeper is not None:  # to be reaped whenever it ends
                    threading.Thread(target=self._keeper.wait, daemon=True).start()
                return
            while self._has_server() and time.monotonic() < deadline:
                time.sleep(0.005)
            if self._keeper is not None:
                self._keeper.wait()

    def _release(self) -> None:
        if self._users_lock is not None:
            os.close(self._users_lock)
            self._users_lock = None

    def _has_other_users(self) -> bool:
        """Whether a process other than the keeper holds the users' lock; none can join while we start alone."""
        lock = _lock_file(self.data_dir / "users.lock")
        try:
            # Exclusive refused: other users, or the keeper stopping the server. Shared refused too: the keeper.
            return not _try_lock(lock, fcntl.LOCK_EX) and _try_lock(lock, fcntl.LOCK_SH)
        finally:
            os.close(lock)

    @contextlib.contextmanager
    def _starting_alone(self, deadline: float) -> Generator[None]:
        lock = _lock_file(self.data_dir / "start.lock")
        try:
            while not _try_lock(lock, fcntl.LOCK_EX):
                self._wait_a_little(deadline, "another process is still starting it")
            yield
        finally:
            os.close(lock)

    def _wait_a_little(self, deadline: float, why: str) -> None:
        if time.monotonic() > deadline:
            seconds = f"{self._start_seconds:.0f} s"
            raise EmbeddedPostgresError(
                f"the embedded PostgreSQL did not answer in {seconds}: {why} (see {self.log_path})"
            )
        time.sleep(0.02)

    def _move_into_reach(self, bin_dir: Path) -> tuple[Path, Account | None]:
        """As root: pick the server's account, and use a private folder for what it can't reach."""
        private = private_dir(self.data_dir)
        elsewhere = private / "postgres"
        account = server_account(self.cluster_dir, elsewhere / "cluster")
        if account is None:
            return bin_dir, None
        moved: list[str] = []
        if elsewhere.exists() or not can_reach(self.data_dir.parent, account):
            make_private_dir(private, account)
            self.data_dir = elsewhere
            moved.append(f"the database is kept in {private}")
        if not can_run(bin_dir, account):
            home = make_private_dir(private_dir(bin_dir), account)
            bin_dir = copy_programs(bin_dir, home)
            moved.append(f"PostgreSQL's programs are copied to {home}")
        if moved:
            self.notices = [f"{', '.join(moved)}: its server can't be root, and others can't enter here"]
        return bin_dir, account

    def _join(self, deadline: float) -> bool:
        """Join the server that runs on this folder, if one does; wait for one that still starts, recovers or ends."""
        while True:
            pid, socket_dir = read_pid_file(self.cluster_dir)
            if not self._has_server() and (pid is None or not is_server_of(pid, self.cluster_dir, socket_dir)):
                # No process has this data open. A pid file left by a crash may name any process by now, and PostgreSQL
                # would refuse to start because of it.
                (self.cluster_dir / "postmaster.pid").unlink(missing_ok=True)
                return False
            if socket_dir is not None and self._answers(socket_dir):
                self._socket_dir = socket_dir
                return True
            self._wait_a_little(deadline, "a running server does not answer on its socket")

    def _has_server(self) -> bool:
        """Whether a server started by a keeper lives: it and its backends inherited this lock."""
        lock = _lock_file(self.data_dir / "server.lock")
        try:
            return not _try_lock(lock, fcntl.LOCK_EX)
        finally:
            os.close(lock)

    def _answers(self, socket_dir: Path) -> bool:
        """Whether a server of this very folder accepts connections there."""
        try:
            with psycopg.connect(_url(socket_dir, "postgres", SUPERUSER), connect_timeout=5) as connection:
                row = connection.execute("SHOW data_directory").fetchone()
        except psycopg.OperationalError:
            return False
        return row is not None and self.cluster_dir.samefile(row[0])

    def _start_server(self, account: Account | None, bin_dir: Path, deadline: float) -> None:
        made_by = cluster_version(self.cluster_dir)
        if made_by is None:
            make_cluster(self.cluster_dir, bin_dir, account)
        elif made_by != (ours := major_version(bin_dir)):
            raise EmbeddedPostgresError(
                f"{self.data_dir} was made by PostgreSQL {made_by}, this is {ours}: move that folder away to begin anew"
            )
        socket_dir = make_socket_dir(self.cluster_dir, account)
        settings = {
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": str(socket_dir),
            "timezone": "UTC",
            "log_timezone": "UTC",
            **self._options,
        }
        command = [str(bin_dir / "postgres"), "-D", str(self.cluster_dir)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        start_of_log = self._run_keeper(command, socket_dir, account)
        while not self._answers(socket_dir):
            if self._keeper is None or self._keeper.poll() is not None:
                why = self._log_excerpt(start_of_log)
                raise EmbeddedPostgresError(f"the embedded PostgreSQL did not start: {why} (see {self.log_path})")
            self._wait_a_little(deadline, self._log_excerpt(start_of_log))
        self._socket_dir = socket_dir

    def _run_keeper(self, command: list[str], socket_dir: Path, account: Account | None) -> int:
        """Start the server's parent; where in the log its words begin."""
        order = {
            "command": command,
            "environment": ENVIRONMENT,
            "uid": account.uid if account else None,
            "gid": account.gid if account else None,
            "users_lock": str(self.data_dir / "users.lock"),
            "server_lock": str(self.data_dir / "server.lock"),
            "socket_dir": str(socket_dir),
        }
        if self.log_path.exists() and self.log_path.stat().st_size > LOG_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        log = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(__file__).with_name("keeper.py")), json.dumps(order)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,  # Ctrl-C is for the service: it drains, then the server goes
            )
            return os.fstat(log).st_size
        finally:
            os.close(log)

    def _log_excerpt(self, start: int) -> str:
        """The line of the log since ``start`` that says most."""
        with self.log_path.open("rb") as log:
            log.seek(start)
            lines = log.read(LOG_BYTES).decode(errors="replace").strip().splitlines()
        reasons = [line for line in lines if re.search(r"FATAL|PANIC|Error", line) and "starting up" not in line]
        return (reasons[:1] or lines[-1:] or ["its log is empty"])[0].strip()


def _url(socket_dir: Path, dbname: str, user: str) -> str:
    return f"postgresql://{quote(user)}@/{quote(dbname)}?host={quote(str(socket_dir))}&port={PORT}"


def _lock_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def _try_lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
