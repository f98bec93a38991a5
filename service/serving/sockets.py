"""The sockets that the service listens on: one of its own, or those that systemd gives it."""

import ctypes
import errno
import os
import socket
import struct
import sys
from contextlib import suppress

from service.problems import StartupError

BACKLOG = 2048
"""Connections the kernel may hold for us; net.core.somaxconn caps it."""
UNSENT_BYTES = 128 * 1024
"""How much of an answer the kernel may hold for a connection before it is on its way."""
_FIRST_GIVEN = 3
"""The file descriptor of the first socket that systemd gives."""
_SO_ATTACH_FILTER = 26
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load the byte of TCP's flags
    (0x45, 0, 1, 0x02),  # is SYN among them?
    (0x06, 0, 0, 0),  # then drop the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # else let it pass
)
"""A program of the kernel's packet filter: code, jump if true, jump if false, operand."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises StartupError with what to do when the address can't be had."""
    try:
        (family, _, _, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise StartupError(f"HOST={host} can't be used: {getattr(error, 'strerror', None) or error}") from error
    try:
        # As other programs do, `::` also listens to IPv4.
        dual = family == socket.AF_INET6
        listener = socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=dual)
    except OSError as error:
        reasons = {
            errno.EADDRINUSE: f"port {port} is taken: set PORT=… or stop the other program",
            errno.EACCES: f"port {port} is reserved for the system's administrator: set PORT to 1024 or more",
            errno.EADDRNOTAVAIL: f"HOST={host} is not an address of this machine",
        }
        reason = reasons.get(error.errno or 0, f"can't listen on {host}, port {port}: {error.strerror}")
        raise StartupError(reason) from error
    return listener


def given_sockets() -> list[socket.socket]:
    """The listening sockets that systemd gave this process: none, unless it was started so (sd_listen_fds(3)).

    They stay open elsewhere when this process closes them. Raises StartupError for one that can't be served on.
    """
    pid, count = os.environ.get("LISTEN_PID", ""), os.environ.get("LISTEN_FDS", "")
    if not pid or not count.isdecimal():
        return []
    if pid != str(os.getpid()):
        print(f"todochat: LISTEN_FDS is for process {pid}, not for this one: HOST and PORT hold", file=sys.stderr)
        return []
    return [_given_socket(descriptor) for descriptor in range(_FIRST_GIVEN, _FIRST_GIVEN + int(count))]


def _given_socket(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        found = socket.socket(fileno=descriptor)
        is_tcp = found.family in {socket.AF_INET, socket.AF_INET6} and found.type == socket.SOCK_STREAM
        if is_tcp and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return found
    except OSError:
        pass
    raise StartupError(
        f"file descriptor {descriptor} of LISTEN_FDS is no listening TCP socket: set ListenStream= to a port or an "
        "address with one, and Accept=no, in the socket's unit"
    )


def set_options(listener: socket.socket) -> None:
    """For its connections: what a client doesn't read waits here, where it is counted.

    In the kernel it would be up to 4 MiB a connection.
    """
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    listener.setblocking(False)


def drop_newcomers(listener: socket.socket) -> bool:
    """Have the kernel drop every SYN from now on, while handshakes that have begun go on to their end; whether it does.

    Closing a listener resets every connection in its queue, and each whose handshake isn't over, with the request that
    its client has sent. Whoever comes after this tries again within a second, and then meets a closed port before
    having sent anything. Other systems than Linux have no such filter, and newer kernels keep it from ordinary users
    (seen: 6.18.44).
    """
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_SYN)
    program = ctypes.create_string_buffer(code, len(code))
    option = struct.pack("HP", len(_DROP_SYN), ctypes.addressof(program))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, option)
    except OSError:
        return False
    return True


def take_last(listener: socket.socket) -> list[socket.socket]:
    """Whoever waits at a listener in the moment in which it is closed, which this does."""
    taken: list[socket.socket] = []
    with suppress(OSError):  # nobody is there any more, or no more files may be opened
        for _ in range(BACKLOG):
            taken.append(listener.accept()[0])  # noqa: PERF401 - what was taken before that is kept
    listener.close()
    return taken
