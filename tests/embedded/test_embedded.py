"""The embedded server: each way in which a database started by a program usually hurts somebody."""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest

from service.embedded import EmbeddedPostgres, EmbeddedPostgresError
from service.embedded.server import START_SECONDS
from tests.conftest import REPOSITORY, UNSAFE_BUT_FAST, reachable_folder
from tests.support.processes import stat_of

DEADLINE_SECONDS = 20.0
OWNER = """
import sys
from pathlib import Path
from service.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), options={"fsync": "off"})
server.start()
print(server.pid, flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with reachable_folder() as found:
        yield found


@pytest.fixture(scope="module")
def made_cluster() -> Iterator[Path]:
    """A data folder to copy, which is quicker than making one for each test."""
    with reachable_folder() as found:
        with embedded(found / "made"):
            pass
        yield found / "made"


@pytest.fixture(scope="module")
def wheel_elsewhere() -> Iterator[Path]:
    """A copy of the wheel's programs at a path that shells trip over, which nobody else may enter; where they are."""
    bin_dir = EmbeddedPostgres(Path("unused")).bin_dir
    package = bin_dir.parent.parent
    unneeded = shutil.ignore_patterns("*.a", "include", "pkgconfig", "pgxs")
    with reachable_folder() as found:
        site_packages = found / "home" / "it's a site & packages"
        for part in (bin_dir.parent, package.with_name(f"{package.name}.libs")):
            shutil.copytree(part, site_packages / part.relative_to(package.parent), symlinks=True, ignore=unneeded)
        for path in (found / "home", *(found / "home").rglob("*")):
            if not path.is_symlink():  # as a venv made under umask 077 has them
                path.chmod(path.stat().st_mode & 0o700)
        yield site_packages / bin_dir.relative_to(package.parent)


@pytest.fixture
def data_dir(folder: Path, made_cluster: Path) -> Path:
    """A data folder with a cluster in it that was shut down."""
    copy = folder / "data"
    subprocess.run([shutil.which("cp") or "cp", "-a", made_cluster, copy], check=True)
    return copy


def embedded(path: Path, **options: str) -> EmbeddedPostgres:
    return EmbeddedPostgres(path, options={**UNSAFE_BUT_FAST, **options})


def ask(server: EmbeddedPostgres, query: LiteralString = "SELECT 1") -> object:
    with psycopg.connect(server.url()) as connection:
        row = connection.execute(query).fetchone()
    return row and row[0]


def owner_of(path: Path) -> dict[str, int | list[int]]:
    """For a process: run as the account of the server whose data this is, when that isn't our own."""
    found = path.stat()
    return {"user": found.st_uid, "group": found.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}


def is_alive(pid: int) -> bool:
    try:
        state = stat_of(pid)[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def parent_of(pid: int) -> int:
    return int(stat_of(pid)[1])


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {DEADLINE_SECONDS} s: {what}")
        time.sleep(0.02)


@contextlib.contextmanager
def another_owner(data_dir: Path) -> Generator[tuple["subprocess.Popen[str]", int]]:
    """A process that started the server on the folder, and the server's process id."""
    command = [sys.executable, "-c", OWNER, str(data_dir)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
    ) as owner:
        try:
            assert owner.stdout is not None
            yield owner, int(owner.stdout.readline())
        finally:
            owner.kill()


def test_data_and_programs_may_lie_in_paths_with_spaces_and_quotes(folder: Path, wheel_elsewhere: Path) -> None:
    with EmbeddedPostgres(folder / "my $data, 'quoted'", bin_dir=wheel_elsewhere) as server:
        assert ask(server) == 1


@pytest.mark.parametrize("name", [b"\xc3\xa9", b"\xff"])
@pytest.mark.parametrize("locale", [{}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_a_data_path_may_be_of_any_bytes_in_any_locale(data_dir: Path, name: bytes, locale: dict[str, str]) -> None:
    path = data_dir.rename(data_dir.with_name(os.fsdecode(name)))
    done = subprocess.run(
        [sys.executable, "-c", OWNER, str(path)],
        cwd=REPOSITORY,
        env={**os.environ, **locale},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    with embedded(path) as server:
        assert ask(server) == 1


def test_a_very_long_data_path_still_gets_a_short_socket_path(folder: Path, data_dir: Path) -> None:
    with embedded(data_dir.rename(folder / ("long" * 50))) as server:
        assert len(str(server.socket_dir / ".s.PGSQL.5432")) < 104
        assert ask(server) == 1


def test_nobody_else_can_enter_the_folder_of_the_socket_and_there_is_no_tcp(data_dir: Path) -> None:
    with embedded(data_dir) as server:
        found = server.socket_dir.lstat()
        assert stat.S_IMODE(found.st_mode) == 0o700
        assert found.st_uid == os.geteuid()
        assert ask(server, "SHOW listen_addresses") == ""
        assert stat.S_IMODE(server.data_dir.stat().st_mode) == 0o700


@pytest.mark.root
def test_another_user_of_the_machine_reaches_neither_socket_nor_data_not_even_the_servers_own(data_dir: Path) -> None:
    with embedded(data_dir) as server:
        account = server.cluster_dir.stat().st_uid
        stranger = next(entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid not in (0, account))
        for uid in (stranger, account):
            for path in (server.socket_dir / ".s.PGSQL.5432", server.cluster_dir, Path(f"/proc/{server.pid}/cwd/base")):
                done = subprocess.run(
                    [shutil.which("ls") or "ls", path],
                    user=uid,
                    group=server.cluster_dir.stat().st_gid,
                    extra_groups=[],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode != 0, (uid, path)
                assert "Permission denied" in done.stderr


def test_the_same_data_gets_the_same_url_at_every_start(data_dir: Path) -> None:
    with embedded(data_dir) as server:
        first = server.url("some database", "some user")
    with embedded(data_dir) as server:
        assert server.url("some database", "some user") == first
    assert "some%20user@/some%20database?" in first


def test_the_server_ends_with_its_last_user_and_leaves_no_socket_behind(data_dir: Path) -> None:
    server = embedded(data_dir)
    server.start()
    pid, socket_dir = server.pid, server.socket_dir
    server.stop()
    assert not is_alive(pid)
    assert not socket_dir.exists()
    assert not (server.cluster_dir / "postmaster.pid").exists()


def test_encoding_and_order_are_the_same_on_every_machine(data_dir: Path) -> None:
    with embedded(data_dir) as server:
        assert ask(server, "SHOW server_encoding") == "UTF8"
        assert ask(server, "SHOW timezone") == "UTC"
        assert ask(
            server, "SELECT lower('ÀÉ') || array_agg(c ORDER BY c)::text FROM unnest('{ä,b,B,a}'::text[]) AS c"
        ) == ("àé{B,a,b,ä}")


def test_a_stale_pid_file_that_names_a_stranger_neither_stops_the_start_nor_kills_the_stranger(data_dir: Path) -> None:
    with embedded(data_dir) as server:
        socket_dir = server.socket_dir
    cluster = data_dir / "cluster"
    # A process that the server may signal, so that it takes it seriously.
    with subprocess.Popen([shutil.which("sleep") or "sleep", "600"], **owner_of(cluster)) as stranger:
        try:
            lines = [stranger.pid, cluster, int(time.time()), 5432, socket_dir, "", "  1 1", "ready"]
            text = "\n".join(map(str, lines)) + "\n"
            (cluster / "postmaster.pid").write_text(text)
            socket_dir.mkdir(mode=0o700)
            (socket_dir / ".s.PGSQL.5432.lock").write_text(text)
            with embedded(data_dir) as server:
                assert server.pid != stranger.pid
                assert server.socket_dir == socket_dir
                assert ask(server) == 1
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_an_empty_pid_file_left_by_a_full_disk_does_not_stop_the_start(data_dir: Path) -> None:
    (data_dir / "cluster" / "postmaster.pid").touch()
    with embedded(data_dir) as server:
        assert ask(server) == 1


def test_a_killed_server_leaves_data_that_the_next_start_recovers(data_dir: Path) -> None:
    server = embedded(data_dir, synchronous_commit="on")
    server.start()
    with psycopg.connect(server.url()) as connection:
        connection.execute("CREATE TABLE kept (n integer)")
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    with embedded(data_dir) as again:
        assert ask(again, "SELECT count(*) FROM kept") == 0


def test_a_start_waits_for_the_last_process_of_a_killed_server(data_dir: Path) -> None:
    with embedded(data_dir) as server, psycopg.connect(server.url()) as connection, ThreadPoolExecutor(1) as threads:
        backend = connection.info.backend_pid
        os.kill(backend, signal.SIGSTOP)
        os.kill(server.pid, signal.SIGKILL)
        again = embedded(data_dir)
        try:
            started = threads.submit(again.start)
            with pytest.raises(TimeoutError):
                started.result(0.5)
        finally:
            os.kill(backend, signal.SIGCONT)
        started.result(DEADLINE_SECONDS)
        assert ask(again) == 1
        again.stop()


def test_who_comes_while_the_last_user_leaves_does_not_keep_that_one_waiting(data_dir: Path) -> None:
    first, second = embedded(data_dir), embedded(data_dir)
    first.start()
    keeper = parent_of(first.pid)
    os.kill(keeper, signal.SIGSTOP)  # it is slow to see that the last user is gone
    with ThreadPoolExecutor(2) as threads:
        stopped = threads.submit(first.stop)
        with pytest.raises(TimeoutError):
            stopped.result(0.2)
        started = threads.submit(second.start)
        with contextlib.suppress(TimeoutError):
            started.result(0.2)
        os.kill(keeper, signal.SIGCONT)
        stopped.result(DEADLINE_SECONDS)
        started.result(DEADLINE_SECONDS)
        assert ask(second) == 1
        second.stop()


def test_when_its_owner_is_killed_the_server_ends_too(data_dir: Path) -> None:
    with another_owner(data_dir) as (owner, pid):
        owner.kill()
        wait_until(lambda: not is_alive(pid), "the server ends")
    assert not (data_dir / "cluster" / "postmaster.pid").exists(), "it was not shut down properly"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells only on Linux")
def test_when_its_keeper_is_killed_the_server_ends_too(data_dir: Path) -> None:
    with another_owner(data_dir) as (_, pid):
        os.kill(parent_of(pid), signal.SIGKILL)
        wait_until(lambda: not is_alive(pid), "the server ends")
    with embedded(data_dir) as server:
        assert ask(server) == 1


def test_two_users_share_a_server_and_it_outlives_the_one_who_started_it(data_dir: Path) -> None:
    with another_owner(data_dir) as (owner, pid):
        server = embedded(data_dir)
        server.start()
        assert server.pid == pid
        owner.kill()
        owner.wait()
        assert ask(server) == 1
        server.stop()
        wait_until(lambda: not is_alive(pid), "the server ends after its last user")


def test_who_started_it_may_leave_while_others_use_it(data_dir: Path) -> None:
    first, second = embedded(data_dir), embedded(data_dir)
    first.start()
    second.start()
    pid = first.pid
    first.stop()
    assert ask(second) == 1
    second.stop()
    wait_until(lambda: not is_alive(pid), "the server ends after its last user")


def test_several_first_starts_at_once_make_one_server(folder: Path) -> None:
    servers = [embedded(folder / "data") for _ in range(4)]
    try:
        with ThreadPoolExecutor(len(servers)) as threads:
            list(threads.map(EmbeddedPostgres.start, servers))
        assert len({server.pid for server in servers}) == 1
        assert [ask(server) for server in servers] == [1] * len(servers)
    finally:
        for server in servers:
            server.stop()


def test_starting_while_the_last_user_leaves_waits_for_the_end_and_starts_anew(data_dir: Path) -> None:
    for _ in range(5):
        with another_owner(data_dir) as (owner, _pid):
            owner.kill()
            with embedded(data_dir) as server:
                assert ask(server) == 1
    # The last owner may have lived a moment longer than our use: then the server ends after both.
    wait_until(lambda: not (data_dir / "cluster" / "postmaster.pid").exists(), "the server ends after its last user")


def test_a_start_waits_as_long_as_the_server_recovers(data_dir: Path) -> None:
    assert START_SECONDS >= 120
    (data_dir / "cluster" / "recovery.signal").touch()
    os.chown(data_dir / "cluster" / "recovery.signal", *(data_dir / "cluster").stat()[4:6])
    slow = {**UNSAFE_BUT_FAST, "restore_command": "sleep 0.2; false", "hot_standby": "off"}
    with pytest.raises(EmbeddedPostgresError, match=r"did not answer in 0 s: .*\(see "):
        EmbeddedPostgres(data_dir, options=slow, start_seconds=0.3).start()
    started = time.monotonic()
    with EmbeddedPostgres(data_dir, options=slow) as server:
        assert ask(server, "SELECT pg_is_in_recovery()") is False
    assert time.monotonic() - started > 0.5, "there was no recovery to wait for"
    assert "starting up" not in server.log_path.read_text(), "who waits must not fill the log with refused connections"


def test_a_server_started_by_hand_is_used_and_left_running(data_dir: Path) -> None:
    if os.geteuid() == 0:
        data_dir.chmod(0o711)  # an operator has to open root's folder, too, for an account that may run PostgreSQL
    account = owner_of(data_dir / "cluster")
    with reachable_folder() as sockets:
        if account:
            shutil.chown(sockets, account["user"], account["group"])
        command = [
            embedded(data_dir).bin_dir / "postgres",
            "-D",
            data_dir / "cluster",
            "-k",
            sockets.as_posix(),
            "-h",
            "",
        ]
        by_hand = subprocess.Popen(command, stderr=subprocess.DEVNULL, **account)
        try:
            wait_until((sockets / ".s.PGSQL.5432").exists, "the server listens")
            with embedded(data_dir) as server:
                assert server.pid == by_hand.pid
                assert ask(server) == 1
            assert by_hand.poll() is None
        finally:
            by_hand.send_signal(signal.SIGINT)
            by_hand.wait()


def test_an_interrupted_initdb_leaves_nothing_that_stops_the_next_one(folder: Path) -> None:
    half_made = folder / "data" / "cluster.new"
    half_made.mkdir(parents=True)
    (half_made / "PG_VERSION").write_text("18\n")
    (folder / "data").chmod(0o711)
    with embedded(folder / "data") as server:
        assert ask(server) == 1
        assert sorted(path.name for path in server.data_dir.glob("cluster*")) == ["cluster"]


def test_a_server_that_can_not_start_says_why_in_one_line(data_dir: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match=r"FATAL:.*no_such_setting") as raised:
        embedded(data_dir, no_such_setting="1").start()
    assert "\n" not in str(raised.value)


def test_data_of_another_version_is_refused_before_it_is_touched(data_dir: Path, postgres15: EmbeddedPostgres) -> None:
    server = EmbeddedPostgres(data_dir, bin_dir=postgres15.bin_dir)
    with pytest.raises(EmbeddedPostgresError, match="made by PostgreSQL 18, this is 15"):
        server.start()


def test_postgresql_15_starts_the_same_way(postgres15: EmbeddedPostgres) -> None:
    assert str(ask(postgres15, "SHOW server_version_num")).startswith("15")


def test_a_missing_wheel_is_said_with_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EmbeddedPostgresError, match="not installed: set DATABASE_URL, or pip install"):
        EmbeddedPostgres(folder / "data").start()


def test_a_data_folder_that_can_not_be_made_is_said_in_one_line(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(EmbeddedPostgresError, match="can't be"):
        EmbeddedPostgres(folder / "file" / "data").start()


@pytest.mark.root
def test_somebody_elses_data_folder_is_refused(folder: Path) -> None:
    (folder / "data").mkdir()
    os.chown(folder / "data", 54321, 54321)
    with pytest.raises(EmbeddedPostgresError, match="belongs to user 54321"):
        EmbeddedPostgres(folder / "data").start()


def test_a_data_folder_that_others_could_enter_is_closed_and_used_where_it_is(data_dir: Path) -> None:
    data_dir.chmod(0o755)
    with embedded(data_dir) as server:
        assert ask(server, "SHOW data_directory") == str(data_dir / "cluster")
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700


@pytest.mark.root
def test_a_socket_folder_that_somebody_else_made_first_is_not_used(data_dir: Path) -> None:
    with embedded(data_dir) as server:
        taken = server.socket_dir
    taken.mkdir(mode=0o700)
    os.chown(taken, 54321, 54321)
    try:
        with embedded(data_dir) as server:
            assert server.socket_dir != taken
            assert ask(server) == 1
    finally:
        shutil.rmtree(taken)


@pytest.mark.root
def test_roots_server_runs_as_somebody_else_where_only_root_may_go_and_widens_no_folder(wheel_elsewhere: Path) -> None:
    home = next(path for path in wheel_elsewhere.parents if path.name == "home")
    modes = {path: path.stat().st_mode for path in (home.parent, home, *home.rglob("*"), Path("/tmp"))}
    for _ in range(2):
        with EmbeddedPostgres(home / "data", bin_dir=wheel_elsewhere, options=UNSAFE_BUT_FAST) as server:
            assert ask(server) == 1
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{server.pid}/status").read_text().splitlines())
            assert "0" not in status["Uid"].split() + status["Gid"].split()
            assert int(status["CapPrm"], 16) == 1 << 1, "more than the way past files' permissions (see capability.h)"
    assert {path: path.stat().st_mode for path in modes} == modes
