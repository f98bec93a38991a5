"""Several processes behind one port, by systemd units as operators are given them: restarts lose nothing."""

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from service.serving import server as serving
from service.settings import Settings
from tests.conftest import PASSWORD, PLAIN_HTTP, REPOSITORY, Server, TestDatabase, user_factory
from tests.support.commands import as_migrator, complaint, run
from tests.support.load import Ask, Stream, wait_for
from tests.support.operations import section
from tests.support.small_server import command, environment
from tests.support.systemd import ENVIRONMENT_FILE, HERE, PROGRAM, Systemd, settings_of, told_units

INSTANCES = ("9001", "9002")


@pytest.fixture
def systemd(tmp_path: Path, make_database: Callable[[], TestDatabase]) -> Iterator[tuple[Systemd, TestDatabase]]:
    """Nothing runs yet."""
    database = make_database()
    settings = {
        "DATABASE_URL": database.service_url,
        "DATABASE_POOL_SIZE": "5",
        "JWT_SECRET": secrets.token_hex(32),
        "SHUTDOWN_DELAY_SECONDS": "0",
    }
    with Systemd(tmp_path, settings) as played:
        yield played, database


def as_server(played: Systemd, database: TestDatabase) -> Server:
    """For what the other tests ask of a service."""
    process = played.processes[INSTANCES[0]]
    return Server(played.url(), database, process.log_path, played.environment, process.started)


# The units


def test_systemd_takes_the_units_as_they_stand_there(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("needs systemd-analyze: apt-get install systemd")
    environment_file = tmp_path / "todochat.env"
    environment_file.touch()
    units = told_units()
    assert sorted(units) == ["todochat.socket", "todochat@.service", "todochat@.socket"]
    for name, text in units.items():
        there = text.replace(PROGRAM, f'"{HERE}"').replace(ENVIRONMENT_FILE, str(environment_file))
        (tmp_path / name).write_text(there)
    paths = [str(tmp_path / name) for name in ("todochat.socket", "todochat@9001.socket", "todochat@9001.service")]
    done = subprocess.run(
        [program, "verify", "--man=no", "--recursive-errors=yes", *paths],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )
    # What this machine's other units lack is not ours.
    ours = [line for line in done.stderr.splitlines() if "todochat" in line or str(tmp_path) in line]
    assert ours == []


def test_systemd_waits_as_long_as_an_orderly_end_may_take() -> None:
    settings = Settings()
    longest = settings.shutdown_delay_seconds + settings.shutdown_grace_seconds + 1 + serving.CLOSE_SECONDS
    assert float(settings_of(told_units()["todochat@.service"])["TimeoutStopSec"]) > longest


def test_a_database_that_is_away_never_makes_systemd_give_up() -> None:
    """Its own limit is 5 starts in 10 s; a service that it gave up on would take its sockets along."""
    assert float(settings_of(told_units()["todochat@.service"])["RestartSec"]) * 4 > 10


# Restarts


def test_a_rolling_restart_under_load_loses_no_request(systemd: tuple[Systemd, TestDatabase]) -> None:
    played, database = systemd
    # So long a busy machine may take to let a client know that its connection closes with the next answer.
    played.environment["SHUTDOWN_DELAY_SECONDS"] = "2"
    for instance in INSTANCES:
        played.start(instance)
    server = as_server(played, database)
    with user_factory(server) as new_user:
        users = [new_user() for _ in range(8)]
        asks = [Ask("GET", "/v1/todos", user.token) for user in users]
        asks += [Ask("POST", "/v1/todos", user.token, {"title": "milk"}) for user in users]
        close = {"Connection": "close"}
        asks += [Ask(ask.method, ask.path, ask.token, ask.body, close) for ask in asks]
        with Stream(played.url(), asks, pause=0.005) as stream:
            played.wait_until_all_answer()
            played.roll(played.wait_until_all_answer)
        assert set(stream.statuses()) == {200, 201}
        created = sum(answer.status == 201 for _, answer in stream.answers)
        found = [user.client.get("/v1/users/me") for user in users]
        assert {answer.status_code for answer in found} == {200}
    for instance in INSTANCES:
        played.stop(instance)
    assert len(played.all) == 4
    assert sum(process.requests() for process in played.all) == len(stream.answers) + len(found)
    assert created > 100


def test_requests_that_come_while_no_process_runs_wait_for_the_next_one(systemd: tuple[Systemd, TestDatabase]) -> None:
    played, _ = systemd
    played.start(INSTANCES[0])
    played.stop(INSTANCES[0])
    host, port = played.url().removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as waiting:
        waiting.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        played.start(INSTANCES[0])
        assert waiting.recv(100).startswith(b"HTTP/1.1 200 ")


def test_a_process_of_a_newer_release_does_not_start_before_the_migrations(
    systemd: tuple[Systemd, TestDatabase],
) -> None:
    played, database = systemd
    played.start(INSTANCES[0])
    with psycopg.connect(database.owner_url) as connection:
        connection.execute("DELETE FROM _yoyo_migration WHERE migration_id = '0012_check_assignees_at_commit'")
    with pytest.raises(
        AssertionError, match="1 migration is pending: 0012_check_assignees_at_commit: run `todochat migrate` first"
    ):
        played.start(INSTANCES[1])
    assert httpx.get(f"{played.url()}/health/live", verify=PLAIN_HTTP).status_code == 200


def test_the_port_of_one_process_shows_its_own_metrics(systemd: tuple[Systemd, TestDatabase]) -> None:
    played, _ = systemd
    for instance in INSTANCES:
        played.start(instance)
    own = [played.url(f"todochat@{instance}.socket") for instance in INSTANCES]
    for _ in range(5):
        assert httpx.get(f"{own[1]}/health/ready", verify=PLAIN_HTTP).status_code == 200

    def ready(url: str) -> float:
        text = httpx.get(f"{url}/metrics", verify=PLAIN_HTTP).text
        counts = re.findall(r'^todochat_requests_total\{.*"/health/ready".*\} (\S+)$', text, re.MULTILINE)
        return sum(map(float, counts))

    assert [ready(url) for url in own] == [0, 5]


def test_a_process_that_stops_leaves_new_connections_to_the_others_at_once(tmp_path: Path) -> None:
    """It goes on serving those that it has, for SHUTDOWN_DELAY_SECONDS, and its readiness is nobody else's."""
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        small_process(tmp_path / "log", listener) as process,
        socket.create_connection(listener.getsockname(), timeout=20) as known,
    ):
        known.sendall(request)
        assert known.recv(65536).startswith(b"HTTP/1.1 200 ")
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: "draining" in (tmp_path / "log").read_text())
        with socket.create_connection(listener.getsockname(), timeout=20) as newcomer:
            newcomer.sendall(request)
            known.sendall(request)
            assert b"connection: close" in known.recv(65536)
            assert process.wait(10) == 0
            with small_process(tmp_path / "log of the next", listener):
                answer = newcomer.recv(65536)
                assert answer.startswith(b"HTTP/1.1 200 ")
                assert b"connection: close" not in answer


@contextlib.contextmanager
def small_process(log_path: Path, *given: socket.socket, pid: str = "$$") -> "Generator[subprocess.Popen[bytes]]":
    """The small application on sockets that the test keeps open."""
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(log_path.open("wb"))
        # The shell gives them the numbers that systemd would; `exec` keeps its process id, which is $$.
        moves = " ".join(f"{3 + place}<&{found.fileno()}" for place, found in enumerate(given))
        script = f'export LISTEN_PID={pid} LISTEN_FDS={len(given)}; exec "$@" {moves}'
        process = stack.enter_context(
            subprocess.Popen(
                ["/bin/bash", "-c", script, "bash", *command(settings={"port": 0, "shutdown_delay_seconds": 1.0})],
                env=environment(),
                stdout=log,
                stderr=log,
                pass_fds=[found.fileno() for found in given],
            )
        )
        try:
            yield process
        finally:
            process.kill()


def test_every_given_socket_is_served(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as second,
        small_process(tmp_path / "log", first, second),
    ):
        for url in (f"http://127.0.0.1:{first.getsockname()[1]}", f"http://[::1]:{second.getsockname()[1]}"):
            assert httpx.get(url, verify=PLAIN_HTTP, timeout=20).status_code == 200


def test_sockets_for_another_process_are_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with socket.create_server(("127.0.0.1", 0)) as listener, small_process(log, listener, pid="1"):
        url = wait_for(lambda: re.findall(r'"serving","url":"(.*)"', log.read_text()))[0]
        assert str(listener.getsockname()[1]) not in url
        assert httpx.get(url, verify=PLAIN_HTTP).status_code == 200
    assert "todochat: LISTEN_FDS is for process 1, not for this one: HOST and PORT hold\n" in log.read_text()


@pytest.mark.parametrize("kind", ["not listening", "of UDP", "of Unix", "closed"])
def test_a_given_socket_that_cannot_be_served_on_is_one_line(tmp_path: Path, kind: str) -> None:
    with contextlib.ExitStack() as stack:
        if kind == "of Unix":
            found = stack.enter_context(socket.socket(socket.AF_UNIX))
            found.bind(str(tmp_path / "socket"))
            found.listen()
        else:
            of = socket.SOCK_DGRAM if kind == "of UDP" else socket.SOCK_STREAM
            found = stack.enter_context(socket.socket(type=of))
        move = "3<&-" if kind == "closed" else f"3<&{found.fileno()}"
        script = f'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" {move}'
        done = subprocess.run(
            ["/bin/bash", "-c", script, "bash", sys.executable, "-m", "service", "serve"],
            cwd=REPOSITORY,
            pass_fds=[found.fileno()],
            capture_output=True,
            text=True,
            check=False,
        )
    line = complaint(done)
    assert "file descriptor 3 of LISTEN_FDS is no listening TCP socket: set ListenStream=" in line


# Secrets


def rounds() -> list[str]:
    """The settings of each round of a rotation, as operators are told them."""
    return re.findall(r"^\d\. `(JWT_SECRET=.*?)`", section("Rotating secrets"), re.MULTILINE)


class People:
    """Clients who sign in, call and refresh, each request on a connection of its own, so that any process answers."""

    def __init__(self, url: str, emails: list[str]) -> None:
        self.answers: Counter[int] = Counter()
        self.refresh_tokens: list[str] = []
        self._url = url
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._live, args=(email,)) for email in emails]
        self._errors: list[Exception] = []

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()
        assert self._errors == []

    def _live(self, email: str) -> None:
        try:
            with httpx.Client(
                base_url=self._url, verify=PLAIN_HTTP, timeout=20, headers={"Connection": "close"}
            ) as client:
                while not self._end.is_set():
                    self._visit(client, email)
        except Exception as error:  # noqa: BLE001 - the test's own thread raises it
            self._errors.append(error)

    def _visit(self, client: httpx.Client, email: str) -> None:
        pair = self._ask(client, "/v1/auth/token", {"email": email, "password": PASSWORD})
        for _ in range(10):
            for _ in range(3):
                found = client.get("/v1/users/me", headers={"Authorization": f"Bearer {pair['access_token']}"})
                self.answers[found.status_code] += 1
            pair = self._ask(client, "/v1/auth/refresh", {"refresh_token": pair["refresh_token"]})
            self._end.wait(0.03)  # the processes have more to do than to serve them
        self.refresh_tokens.append(pair["refresh_token"])

    def _ask(self, client: httpx.Client, path: str, body: dict[str, str]) -> dict[str, str]:
        found = client.post(path, json=body)
        self.answers[found.status_code] += 1
        assert found.status_code == 200, f"{path}: {found.text}"
        return found.json()


def test_a_rotation_of_the_secret_as_it_is_told_refuses_no_token(
    systemd: tuple[Systemd, TestDatabase],
) -> None:
    played, database = systemd
    old, new = secrets.token_hex(32), secrets.token_hex(32)
    played.environment["JWT_SECRET"] = old
    for instance in INSTANCES:
        played.start(instance)
    assert len(rounds()) == 3
    with user_factory(as_server(played, database)) as new_user:
        first = new_user()
        people = People(played.url(), [new_user().email for _ in range(3)])
    people.start()
    try:
        for number, text in enumerate(rounds()):
            if number == 2:  # REFRESH_TOKEN_SECONDS have passed: whoever was signed in by the old secret has refreshed
                visits = len(people.refresh_tokens)
                wait_for(lambda: len(people.refresh_tokens) >= visits + 6, 60)  # noqa: B023 - called here
            for name in ("JWT_SECRET", "JWT_SECRET_PREVIOUS"):
                played.environment.pop(name, None)
            for setting in text.split():
                name, _, value = setting.partition("=")
                played.environment[name] = {"old": old, "new": new}[value]
            played.roll(played.wait_until_all_answer)
    finally:
        people.stop()
    assert set(people.answers) == {200}
    assert people.answers.total() > 200
    # It is over: what the old secret signed, which would have expired by now, is refused.
    again = httpx.get(
        f"{played.url()}/v1/users/me", headers={"Authorization": f"Bearer {first.token}"}, verify=PLAIN_HTTP
    )
    assert again.status_code == 401


def test_another_login_of_the_database_is_taken_in_turn_and_the_first_one_dropped(
    systemd: tuple[Systemd, TestDatabase],
) -> None:
    played, database = systemd
    first, second = (f"login_{secrets.token_hex(6)}" for _ in range(2))

    def url_of(login: str) -> str:
        return run("create-login", login, **as_migrator(database)).stdout.strip().removeprefix("DATABASE_URL=")

    with psycopg.connect(database.superuser_url, autocommit=True) as admin:
        try:
            played.environment["DATABASE_URL"] = url_of(first)
            for instance in INSTANCES:
                played.start(instance)
            with user_factory(as_server(played, database)) as new_user:
                ask = Ask("POST", "/v1/todos", new_user().token, {"title": "milk"}, {"Connection": "close"})
            with Stream(played.url(), [ask] * 4, pause=0.005) as stream:
                played.environment["DATABASE_URL"] = url_of(second)
                played.roll(played.wait_until_all_answer)
                admin.execute(f"DROP ROLE {first}".encode())
                played.wait_until_all_answer()
            assert set(stream.statuses()) == {201}
        finally:
            for instance in list(played.processes):
                played.stop(instance)
            admin.execute(f"DROP ROLE IF EXISTS {first}, {second}".encode())
