"""PostgreSQL refuses to run as root: root's server runs as an unprivileged account, in folders that account can reach.

No existing folder's permissions are widened for that. What lies out of reach is kept in a folder of our own instead.
"""

import contextlib
import hashlib
import os
import pwd
import stat
from pathlib import Path
from typing import NamedTuple

from service.settings import OperatorError

PRIVATE_PARENTS = ("/var/tmp", "/var/lib")  # noqa: S108 - the owner of what is found there is checked
"""Where a private folder may be: reachable for every account, and kept over a reboot."""


class EmbeddedPostgresError(OperatorError):
    """The server can't be had; the message is one line that says why and what to do."""


class Account(NamedTuple):
    """The unprivileged account that runs root's server."""

    uid: int
    gid: int


def server_account(*cluster_dirs: Path) -> Account | None:
    """Who runs the server: None for ourselves, unless we are root. Whoever owns one of the clusters, keeps it."""
    if os.geteuid() != 0:
        return None
    for cluster_dir in cluster_dirs:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found = cluster_dir.stat()
            if found.st_uid != 0:
                return Account(found.st_uid, found.st_gid)
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid)
    raise EmbeddedPostgresError("PostgreSQL does not run as root, and there is no account postgres or nobody to run it")


def can_reach(path: Path, account: Account) -> bool:
    """Whether the account may enter every folder above ``path`` and read what is there, by the permission bits.

    What does not exist yet is no obstacle: it will be made for the account.
    """
    path = path.resolve()
    for place in (path, *path.parents):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found = place.stat()
            shift = 6 if found.st_uid == account.uid else 3 if found.st_gid == account.gid else 0
            needed = 0b101 if place == path and not stat.S_ISDIR(found.st_mode) else 0b001
            if found.st_mode >> shift & needed != needed:
                return False
    return True


def make_own_dir(path: Path, account: Account | None) -> Path:
    """Make a folder for our files, closed to others; ``account`` may pass through it. Somebody else's is refused."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {os.geteuid(), account.uid if account else None}:
            owner = _user_name(found.st_uid)
            raise EmbeddedPostgresError(f"{path} belongs to {owner}: remove it, or run this as {owner}")
        if account is not None and found.st_uid == 0:  # also one that another start has made a moment ago
            os.chown(path, -1, account.gid)
            path.chmod(0o710)
    except PermissionError:
        owner = _user_name(path.parent.stat().st_uid)
        raise EmbeddedPostgresError(f"{path} can't be made: {path.parent} belongs to {owner}") from None
    except OSError as error:
        raise EmbeddedPostgresError(f"{path} can't be made: {error.strerror}") from None
    return path


def private_dir(place: Path) -> Path:
    """Where to keep what the server can't reach at ``place``: always the same folder, which may not exist yet."""
    # Where programs can't be run (a noexec mount), a copy of them is no use.
    found = [parent for parent in PRIVATE_PARENTS if Path(parent).is_dir()]
    runnable = [parent for parent in found if not os.statvfs(parent).f_flag & os.ST_NOEXEC]
    return Path((runnable or PRIVATE_PARENTS)[0]) / f"todochat-{short_hash(str(place.resolve()))}"


def make_private_dir(path: Path, account: Account) -> Path:
    """Make that folder, root's own, and let the account pass through it."""
    make_own_dir(path, None)
    os.chown(path, -1, account.gid)
    path.chmod(0o710)
    return path


def short_hash(text: str) -> str:
    """A name for a text, the same on every run."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
