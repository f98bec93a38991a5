"""Serving: start-up, and a shutdown that answers every request that was sent.

uvicorn's server does the work. What differs: its shutdown resets connections that wait in the accept queue and those
whose request is on its way, it ends by the signal instead of exit status 0, and it tells start-up errors as tracebacks.

systemd may give the process listening sockets that it shares with others. Then connections that nobody has accepted yet
wait for one of those, or for the next process: a process that stops accepts no more of them from its signal on.
"""

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, cast

import msgspec
import uvicorn
from litestar import Litestar
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from service.http.envelope import Envelope
from service.problems import StartupError
from service.serving.limits import Connections, Limits
from service.serving.log import configure
from service.serving.protocol import HttpProtocol
from service.serving.sockets import BACKLOG, drop_newcomers, listen, set_options, take_last
from service.settings import Settings

_OTHER_FILES = 100
HANDSHAKE_SECONDS = 0.2
"""How long a connection that began before the end may take to be there."""
STARTUP_SECONDS = 60.0
CLOSE_SECONDS = 10.0
"""How long the application's own shutdown (closing the pool) may take."""

log = logging.getLogger(__name__)


def run(
    settings: Settings,
    app: Envelope,
    *,
    shared: Sequence[socket.socket] = (),
    limits: Limits | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT and return the process's exit status.

    0 after an orderly end, 1 when the service can't start (one line on standard error says why), 128 + the signal's
    number when a second signal cut it short. It listens on the ``shared`` sockets that systemd gave, or else on HOST
    and PORT. ``on_ready`` is called with each URL once requests are answered.
    """
    handler = configure(settings.log_level)
    app.metrics.log_lines_dropped = lambda: handler.dropped
    try:
        listeners = [*shared] or [listen(settings.host, settings.port)]
        for listener in listeners:
            set_options(listener)
        limits = _within_file_limit(limits or Limits(), settings.database_pool_size)
        server = Server(settings, app, limits, on_ready, shares=bool(shared))
        server.run(listeners)
    except StartupError as error:
        print(f"todochat: {error}", file=sys.stderr)
        return 1
    return 128 + server.signals[-1] if server.force_exit else 0


def _tell_systemd_ready() -> None:
    """What Type=notify waits for (sd_notify(3)): `systemctl restart` returns when requests are answered."""
    if path := os.environ.get("NOTIFY_SOCKET"):
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.connect(path.replace("@", "\0", 1) if path.startswith("@") else path)
            notify.send(b"READY=1")


class Server(uvicorn.Server):
    """One process's HTTP server."""

    server_state: Connections

    def __init__(
        self,
        settings: Settings,
        app: Envelope,
        limits: Limits,
        on_ready: Callable[[str], None] | None,
        *,
        shares: bool,
    ) -> None:
        """``shares``: its listening sockets are others' too."""
        config = uvicorn.Config(
            cast("Any", app),
            http=HttpProtocol,
            loop="uvloop",
            lifespan="off",
            ws="none",
            interface="asgi3",
            backlog=BACKLOG,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=settings.forwarded_allow_ips is not None,
            forwarded_allow_ips=settings.forwarded_allow_ips,
        )
        config.load()
        # The envelope has logged why an answer is not complete.
        logging.getLogger("uvicorn.error").addFilter(lambda record: not record.msg.startswith("ASGI callable returned"))
        super().__init__(config)
        outer: Any = cast("Any", config).loaded_app
        proxies = outer.trusted_hosts if isinstance(outer, ProxyHeadersMiddleware) else ()
        self.server_state = Connections(limits, app, proxies)
        self.signals: list[int] = []
        self._application: Litestar = cast("Any", app.litestar)
        self._begun, self._ends = asyncio.Event(), asyncio.Event()
        self._settings = settings
        self._draining = app.draining
        self._on_ready = on_ready
        self._shares = shares
        self._drained_at: float | None = None
        self._next_sweep = 0.0
        """When a deadline of a connection may have passed: to look at 2,000 takes a millisecond."""
        app.metrics.connections = lambda: len(self.server_state.connections)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note the signal. uvicorn would raise it again at the end; the second one ends everything at once."""
        del frame
        self.signals.append(sig)
        self.force_exit = self.should_exit
        self.should_exit = True
        self._draining.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Raises StartupError: the application's own, or one about anything else it raised, which is logged in full.

        uvicorn would drive the application's lifespan over ASGI, with no limit on its time, and print a traceback.
        """
        self._life = asyncio.create_task(self._live())
        begun = asyncio.create_task(self._begun.wait())
        await asyncio.wait([self._life, begun], timeout=STARTUP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if self._life.done():
            error = self._life.exception()
            while isinstance(error, BaseExceptionGroup):  # as task groups wrap it
                error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
            if isinstance(error, StartupError):
                raise error
            log.error("startup_failed", exc_info=error)
            raise StartupError(f"the service can't start: {type(error).__name__}: {error}") from error
        if not self._begun.is_set():
            raise StartupError(f"the service was not ready within {STARTUP_SECONDS:.0f} s")
        await super().startup(sockets)
        # What start-up made stays: collections needn't look at it again, nor come as often as for a short script.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        for listener in sockets or ():
            host, port, *_ = listener.getsockname()
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            log.info("serving", extra={"url": url})
            if self._on_ready:
                self._on_ready(url)
        _tell_systemd_ready()

    async def _live(self) -> None:
        """The application's lifespan, in a task of its own: what it enters is left there, however the server ends."""
        async with self._application.lifespan():
            self._begun.set()
            await self._ends.wait()

    async def on_tick(self, counter: int) -> bool:
        """Act on deadlines, ten times a second; whether to stop: SHUTDOWN_DELAY_SECONDS after the signal."""
        await super().on_tick(counter)
        if counter % 10 == 0:
            self.server_state.refusals.report()
        for handler in logging.getLogger().handlers:
            handler.flush()
        now = asyncio.get_running_loop().time()
        if now >= self._next_sweep:
            soonest = now + self.server_state.limits.shortest
            self._next_sweep = min([soonest, *(connection.sweep(now) for connection in self._connections())])
        if not self.should_exit:
            return False
        if self._drained_at is None:
            fields = {"signal": signal.Signals(self.signals[0]).name, "requests": len(self.server_state.tasks)}
            log.info("draining", extra=fields)
            self._drained_at = now + self._settings.shutdown_delay_seconds
            if self._shares:
                self._stop_accepting()
        return self.force_exit or now >= self._drained_at

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take every connection made so far, let each finish what was sent, and close the application."""
        open_to_all: list[socket.socket] = []
        if not self._shares:
            # uvloop closes its own a little later than it says: whoever came until then would be reset.
            open_to_all = [listener.dup() for listener in sockets or () if not drop_newcomers(listener)]
            await asyncio.sleep(HANDSHAKE_SECONDS)
            await asyncio.sleep(0)  # if the loop stood still meanwhile, it accepts what waits before it comes back here
        self._stop_accepting()
        for listener in open_to_all:
            await asyncio.sleep(0.01)  # then uvloop's own is closed, and this is the last
            for connection in take_last(listener):
                loop = asyncio.get_running_loop()
                await loop.connect_accepted_socket(lambda: HttpProtocol(self.config, self.server_state, {}), connection)
        await self._finish()
        if self.force_exit:
            log.warning("stopped_at_once", extra={"requests": len(self.server_state.tasks)})
            return
        self._ends.set()
        if not (await asyncio.wait([self._life], timeout=CLOSE_SECONDS))[0]:
            log.error("shutdown_incomplete", extra={"seconds": CLOSE_SECONDS})
        elif error := self._life.exception():
            log.error("shutdown_failed", exc_info=error)
        log.info("stopped")

    def _stop_accepting(self) -> None:
        """Close the listening sockets, as far as they are this process's."""
        for server in self.servers:
            server.close()

    async def _finish(self) -> None:
        """Wait for running requests and close idle connections; after SHUTDOWN_GRACE_SECONDS, cut off what is left."""
        loop = asyncio.get_running_loop()
        state = self.server_state
        deadline = loop.time() + self._settings.shutdown_grace_seconds
        while (state.connections or state.tasks) and not self.force_exit and loop.time() < deadline:
            await self.on_tick(0)
            for connection in self._connections():
                if connection.is_idle(loop.time()):
                    connection.close()
            await asyncio.sleep(0.01)
        if not (state.connections or state.tasks):
            return
        tasks = list(state.tasks)
        log.warning("requests_cut_off", extra={"requests": len(tasks), "connections": len(state.connections)})
        for task in tasks:
            task.cancel()
        if tasks and not self.force_exit:
            await asyncio.wait(tasks, timeout=1)
        for connection in self._connections():
            connection.close()

    def _connections(self) -> list[HttpProtocol]:
        return cast("list[HttpProtocol]", list(self.server_state.connections))


def _within_file_limit(limits: Limits, pool_size: int) -> Limits:
    """The limits, with fewer connections where the system allows too few open files: one client could take them all."""
    files = _raise_file_limit()
    # Each connection to the database has two; refused clients, logs, sockets and the system's own files have the rest.
    connections = max(1, files - limits.refusals - 2 * pool_size - _OTHER_FILES)
    if connections >= limits.connections:
        return limits
    log.warning("few_open_files", extra={"allowed": files, "connections": connections})
    per_address = max(1, limits.connections_per_address * connections // limits.connections)
    return msgspec.structs.replace(limits, connections=connections, connections_per_address=per_address)


def _raise_file_limit() -> int:
    """Allow as many open files as the system lets us: the soft limit is often 1024, fewer than our connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return wanted if soft == resource.RLIM_INFINITY else soft
