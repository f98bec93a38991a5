"""Serving: the listening socket, start-up, and a shutdown that answers every request that was sent.

uvicorn's parts do the HTTP; its own server is not used, because it drops what waits in the accept queue, ends by the
signal instead of exit code 0, and prints start-up errors as tracebacks.
"""

import asyncio
import errno
import gc
import resource
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from time import time
from typing import Any, cast

import uvicorn
import uvloop
from uvicorn.server import ServerState

from service.http.envelope import App, Draining, Envelope, Message, Scope
from service.http.metrics import Metrics
from service.problems import StartupError
from service.serving import logs
from service.serving.protocol import HttpProtocol, Limits
from service.settings import Settings

BACKLOG = 2048
"""Connections the kernel may hold for us; net.core.somaxconn caps it."""
ACCEPT_ATTEMPTS = 100
STARTUP_SECONDS = 60.0
CLOSE_SECONDS = 10.0
"""How long the application's own shutdown (closing the pool) may take."""
TICK_SECONDS = 1.0


def run(
    settings: Settings,
    app: App | None = None,
    *,
    limits: Limits | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT and return the process's exit code.

    0 after an orderly end, 1 when the service can't start (one line on standard error says why), 128 + the signal's
    number when a second signal cut it short. ``on_ready`` is called with the URL once requests are answered; ``app``
    stands in for the application in tests.
    """
    logs.set_level(settings.log_level)
    logs.take_over_libraries()
    try:
        listener = listen(settings.host, settings.port)
        if app is None:
            from service.app import create_app  # the port is checked before anything slow is imported

            app = create_app(settings)
        _raise_file_limit()
        server = Server(settings, app, listener, limits or Limits(), on_ready)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(server.serve())
    except StartupError as error:
        print(f"todochat: {error}", file=sys.stderr)
        return 1
    finally:
        logs.out.flush()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises StartupError with what to do when the address can't be had."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise StartupError(f"HOST={host} can't be used: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            message = f"port {port} is taken: set PORT=… or stop the other program"
        elif error.errno == errno.EACCES:
            message = f"port {port} is reserved for the system's administrator: set PORT to 1024 or more"
        elif error.errno == errno.EADDRNOTAVAIL:
            message = f"HOST={host} is not an address of this machine"
        else:
            message = f"can't listen on {host}, port {port}: {error.strerror}"
        raise StartupError(message) from error
    listener.setblocking(False)
    return listener


class Server:
    """One process's HTTP server."""

    def __init__(
        self,
        settings: Settings,
        app: App,
        listener: socket.socket,
        limits: Limits,
        on_ready: Callable[[str], None] | None,
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._limits = limits
        self._on_ready = on_ready
        self._draining = app.draining if isinstance(app, Envelope) else Draining()
        self._metrics = app.metrics if isinstance(app, Envelope) else Metrics()
        self._lifespan = _Lifespan(app)
        self._config = uvicorn.Config(
            app,
            interface="asgi3",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=settings.forwarded_allow_ips is not None,
            forwarded_allow_ips=settings.forwarded_allow_ips,
        )
        self._state = ServerState()
        self._metrics.connections = lambda: len(self._state.connections)
        self._signals: list[int] = []
        self._arriving: set[asyncio.Task[Any]] = set()
        self._stopper: socket.socket | None = None
        self._stop = asyncio.Event()
        self._force = asyncio.Event()

    async def serve(self) -> int:
        """Start, serve, drain; returns the exit code, raises StartupError."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        await self._lifespan.start()
        self._config.load()
        ticker = loop.create_task(self._tick())
        server = await loop.create_server(self._connect, sock=self._listener, backlog=BACKLOG)
        # What start-up made stays: collections needn't look at it again, nor come as often as for a short script.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        address = self._listener.getsockname()
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        url = f"http://{host}:{address[1]}"
        logs.log("info", "serving", url=url)
        if self._on_ready:
            self._on_ready(url)
        await self._stop.wait()
        await self._drain(server)
        ticker.cancel()
        if self._force.is_set():
            logs.log("warning", "stopped_at_once", requests=len(self._state.tasks))
            return 128 + self._signals[-1]
        await self._lifespan.stop()
        logs.log("info", "stopped")
        return 0

    def _connect(self) -> HttpProtocol:
        loop = asyncio.get_running_loop()
        return HttpProtocol(self._config, self._state, self._lifespan.state, loop, self._limits, self._metrics)

    def _on_signal(self, number: int) -> None:
        self._signals.append(number)
        if self._stop.is_set():
            self._force.set()
        self._draining.active = True
        self._stop.set()

    async def _tick(self) -> None:
        """Keep the Date header (RFC 9110, section 6.6.1) and act on the connections' deadlines."""
        loop = asyncio.get_running_loop()
        limits = self._limits
        pause = min(TICK_SECONDS, limits.header_seconds / 4, limits.linger_seconds / 4, limits.idle_seconds / 4)
        while True:
            self._state.default_headers = [(b"date", formatdate(time(), usegmt=True).encode())]
            now = loop.time()
            for connection in list(self._state.connections):
                connection.sweep(now)  # type: ignore[union-attr]
            await asyncio.sleep(pause)

    async def _drain(self, server: asyncio.Server) -> None:
        settings = self._settings
        logs.log("info", "draining", signal=signal.Signals(self._signals[0]).name, requests=len(self._state.tasks))
        await self._sleep(settings.shutdown_delay_seconds)
        self._take_all_waiting()
        server.close()
        self._listener.close()
        if self._arriving:
            await asyncio.wait(self._arriving)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + settings.shutdown_grace_seconds
        while self._state.connections or self._state.tasks:
            now = loop.time()
            if now >= deadline or self._force.is_set():
                await self._cut()
                return
            for connection in list(self._state.connections):
                if connection.is_idle(now):  # type: ignore[union-attr]
                    connection.close()  # type: ignore[union-attr]
            await self._sleep(0.01)

    def _take_all_waiting(self) -> None:
        """Accept every connection made so far, and fill the queue with one of our own: nobody comes behind it.

        Closing a listener resets every connection in its accept queue, with the request its client has sent. With room
        for one, the kernel drops the SYN of whoever comes next: that client tries again within a second and then meets
        a closed port, before it has sent anything. Nothing is awaited until the listener is closed, so that the event
        loop doesn't accept the stopper.
        """
        loop = asyncio.get_running_loop()
        self._listener.listen(0)
        for _ in range(ACCEPT_ATTEMPTS):
            with suppress(BlockingIOError):
                while True:
                    connection, _ = self._listener.accept()
                    self._arriving.add(loop.create_task(loop.connect_accepted_socket(self._connect, connection)))
            self._stopper = socket.socket(self._listener.family, socket.SOCK_STREAM)
            self._stopper.setblocking(False)
            # On this machine the handshake is over when connect() returns, unless somebody else took the place.
            if self._stopper.connect_ex(self._listener.getsockname()) == 0:
                return
            self._stopper.close()

    async def _cut(self) -> None:
        """Cancel what is still running and close what is still open."""
        tasks = list(self._state.tasks)
        logs.log("warning", "requests_cut_off", requests=len(tasks), connections=len(self._state.connections))
        for task in tasks:
            task.cancel()
        if tasks and not self._force.is_set():
            await asyncio.wait(tasks, timeout=1)
        for connection in list(self._state.connections):
            connection.close()  # type: ignore[union-attr]

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but not through a second signal."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._force.wait()


class _Lifespan:
    """ASGI's lifespan protocol: start the application and, at the end, let it close what it opened."""

    def __init__(self, app: App) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._started = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises StartupError with the application's own message; anything else it raises is logged in full first."""
        self._task = asyncio.create_task(self._run())
        self._messages.put_nowait({"type": "lifespan.startup"})
        started = asyncio.create_task(self._started.wait())
        await asyncio.wait((self._task, started), timeout=STARTUP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if self._started.is_set():
            return
        started.cancel()
        if not self._task.done():
            self._task.cancel()
            raise StartupError(f"the service was not ready within {STARTUP_SECONDS:.0f} s")
        error = _innermost(self._task.exception())
        if isinstance(error, StartupError):
            raise error
        if error is not None:
            logs.log_exception("startup_failed", error)
            raise StartupError(f"the service can't start: {type(error).__name__}: {error}") from error
        raise StartupError("the application ended before it started")

    async def stop(self) -> None:
        if self._task is None or self._task.done():
            return
        self._messages.put_nowait({"type": "lifespan.shutdown"})
        _, pending = await asyncio.wait((self._task,), timeout=CLOSE_SECONDS)
        if pending:
            logs.log("error", "shutdown_incomplete", seconds=CLOSE_SECONDS)
        elif error := self._task.exception():
            logs.log_exception("shutdown_failed", error)

    async def _run(self) -> None:
        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        await self._app(scope, self._messages.get, self._send)

    async def _send(self, message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            self._started.set()


def _innermost(error: BaseException | None) -> BaseException | None:
    """The first exception inside exception groups, as task groups wrap it."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error


def _raise_file_limit() -> None:
    """Allow as many open files as the system lets us: the soft limit is often 1024, fewer than our connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
