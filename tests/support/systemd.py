"""systemd's part in serving with several processes, played by a test, with the units that operators are given.

Here no systemd runs as process 1. What is played is little, and taken from the units: it opens the sockets of
ListenStream=, starts ExecStart= with those of Sockets= and with EnvironmentFile=, waits for READY=1, and stops a
process by SIGTERM and within TimeoutStopSec=.
"""

import contextlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from tests.conftest import service_environment
from tests.support.load import wait_for
from tests.support.operations import section
from tests.support.ports import free_port

PROGRAM = "/opt/todochat/.venv/bin/todochat"
ENVIRONMENT_FILE = "/etc/todochat.env"
HERE = Path(sys.prefix) / "bin" / "todochat"
START_SECONDS = 30.0

_EXEC = """
import fcntl, os, sys
held = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1].split(",")]
for place, fd in enumerate(held):
    os.dup2(fd, 3 + place)
    os.close(fd)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(held)))
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Between fork and exec: the sockets from file descriptor 3 on, and whom they are for."""


def told_units() -> dict[str, str]:
    """The text of each unit by its name, as operators are told it."""
    (block,) = re.findall(r"^```ini\n(.*?)^```$", section("Several processes"), re.DOTALL | re.MULTILINE)
    parts = re.split(r"^# ([\w@.]+).*\n", block, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def settings_of(unit: str) -> dict[str, str]:
    """The settings of a unit, of all of its sections; one that is given twice would have to be read otherwise."""
    pairs = re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


class Process:
    """One instance of the template unit, such as todochat@9001."""

    def __init__(self, started: "subprocess.Popen[bytes]", log_path: Path) -> None:
        self.started = started
        self.log_path = log_path
        self._requests = 0
        self._read = 0

    def requests(self) -> int:
        """How many it has answered, by its log, which is read on from where it ended before."""
        with self.log_path.open("rb") as log:
            log.seek(self._read)
            lines = log.read().rpartition(b"\n")[0]
        self._read += len(lines)
        self._requests += lines.count(b'"event":"request"')
        return self._requests


class Systemd:
    """``environment`` is what is in EnvironmentFile=; set it anew before a restart, as an operator does."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.units = told_units()
        self.service = settings_of(self.units["todochat@.service"])
        self.environment = dict(environment)
        self.processes: dict[str, Process] = {}
        self.all: list[Process] = []
        self._folder = folder
        self._sockets: dict[str, socket.socket] = {}
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.all:
            with contextlib.suppress(ProcessLookupError):
                process.started.kill()
                process.started.wait()
        self._held.close()

    def url(self, unit: str = "todochat.socket") -> str:
        """Where the socket of that unit listens: on a free port in place of its own."""
        if unit not in self._sockets:
            name, instance = re.sub(r"@\w+", "@", unit), unit.partition("@")[2].partition(".")[0]
            host, _, _ = settings_of(self.units[name])["ListenStream"].replace("%i", instance).rpartition(":")
            found = self._held.enter_context(socket.create_server((host, free_port()), backlog=4096))
            self._sockets[unit] = found
        host, port = self._sockets[unit].getsockname()
        return f"http://{host}:{port}"

    def start(self, instance: str) -> Process:
        """Return when the process says that it is ready, as `systemctl start` does with Type=notify."""
        assert self.service["Type"] == "notify"
        names = self.service["Sockets"].replace("%i", instance).split()
        for name in names:
            self.url(name)
        descriptors = [self._sockets[name].fileno() for name in names]
        assert self.service["EnvironmentFile"] == ENVIRONMENT_FILE
        command = shlex.split(self.service["ExecStart"].replace(PROGRAM, f'"{HERE}"'))
        notify_path = self._folder / "notify"
        log_path = self._folder / f"todochat@{instance}-{len(self.all)}.log"
        with contextlib.ExitStack() as stack:
            notify = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            notify_path.unlink(missing_ok=True)
            notify.bind(str(notify_path))
            notify.settimeout(0.1)
            log = stack.enter_context(log_path.open("wb"))
            started = subprocess.Popen(
                [sys.executable, "-c", _EXEC, ",".join(map(str, descriptors)), *command],
                cwd="/",
                env=service_environment(**self.environment, NOTIFY_SOCKET=str(notify_path)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=descriptors,
            )
            process = Process(started, log_path)
            self.all.append(process)
            deadline = time.monotonic() + START_SECONDS
            said = b""
            while not said:
                with contextlib.suppress(TimeoutError):
                    said = notify.recv(100)
                ended = started.poll() is not None or time.monotonic() > deadline
                assert said or not ended, f"{instance} is not ready: {log_path.read_text()}"
            assert said == b"READY=1"
        self.processes[instance] = process
        return process

    def stop(self, instance: str) -> None:
        """It must end by itself within TimeoutStopSec, and well."""
        process = self.processes.pop(instance)
        process.started.send_signal(signal.SIGTERM)
        assert process.started.wait(float(self.service["TimeoutStopSec"])) == 0

    def restart(self, instance: str) -> None:
        self.stop(instance)
        self.start(instance)

    def roll(self, meanwhile: Callable[[], Any] = lambda: None) -> None:
        """Restart all, one after the other, and call ``meanwhile`` after each."""
        for instance in sorted(self.processes):
            self.restart(instance)
            meanwhile()

    def wait_until_all_answer(self) -> None:
        """Until each process has answered 20 requests more."""
        before = {name: process.requests() for name, process in self.processes.items()}
        wait_for(lambda: all(process.requests() >= before[name] + 20 for name, process in self.processes.items()), 30)
