"""Settings from the environment, read once into one frozen struct; every mistake is reported at once."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import msgspec

SECRET_MIN_BYTES = 32
"""RFC 7518, section 3.2: an HS256 key has at least as many bits as the hash."""


class SettingsError(Exception):
    """The environment can't be used; ``mistakes`` holds one line for each reason."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = mistakes


class Secret:
    """A text that must not be printed: only ``.value`` shows it."""

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.value == self.value

    def __hash__(self) -> int:
        return hash(self.value)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the service is told from outside. Times are in seconds unless the name says otherwise.

    ``database_url`` is None when the embedded PostgreSQL is to be used, and ``jwt_secret`` only then may be None.
    """

    database_url: Secret | None = None
    migration_database_url: Secret | None = None
    database_pool_size: int = 10
    database_prepared_statements: bool = True
    embedded_data_dir: Path = Path(".data")
    host: str = "127.0.0.1"
    port: int = 8000
    forwarded_allow_ips: str | None = None
    jwt_secret: Secret | None = None
    jwt_secret_previous: Secret | None = None
    access_token_seconds: int = 900
    refresh_token_seconds: int = 30 * 86_400
    metrics_token: Secret | None = None
    shutdown_delay_seconds: float = 1.0
    shutdown_grace_seconds: float = 10.0
    log_level: str = "info"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the variables named like the fields, in upper case; an empty one counts as unset.

        Raises SettingsError with every mistake found, none of which repeats a secret.
        """
        values: dict[str, object] = {}
        mistakes: list[str] = []
        for name, read in _READERS.items():
            text = environ.get(name.upper(), "")
            if not text:
                continue
            try:
                values[name] = read(text)
            except ValueError as error:
                mistakes.append(f"{name.upper()} {error}")
        if environ.get("DATABASE_URL") and not environ.get("JWT_SECRET"):
            mistakes.append(
                "JWT_SECRET is missing: set it to 32 random bytes or more, as `openssl rand -hex 32` prints them "
                "(only the embedded development database may be served without)"
            )
        if environ.get("JWT_SECRET_PREVIOUS") and environ.get("JWT_SECRET_PREVIOUS") == environ.get("JWT_SECRET"):
            mistakes.append("JWT_SECRET_PREVIOUS is the same as JWT_SECRET: leave it unset unless you rotate")
        if mistakes:
            raise SettingsError(mistakes)
        return msgspec.convert(values, cls)


def _fail(message: str) -> NoReturn:
    raise ValueError(message)


def _database_url(text: str) -> Secret:
    if not text.startswith(("postgresql://", "postgres://")):
        _fail("must look like postgresql://user:password@host:5432/database")
    try:
        _ = urlsplit(text).port
    except ValueError:
        _fail("can't be read as a URL: write characters such as @ : / in the password as %40 %3A %2F")
    return Secret(text)


def _secret(text: str) -> Secret:
    if len(text.encode()) < SECRET_MIN_BYTES:
        _fail(f"is shorter than {SECRET_MIN_BYTES} bytes: make one with `openssl rand -hex 32`")
    return Secret(text)


def _integer(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            _fail(f"must be a whole number from {low} to {high}, not {text!r}")
        return int(text)

    return read


def _seconds(high: int) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= high:
            _fail(f"must be a number of seconds from 0 to {high}, not {text!r}")
        return value

    return read


def _switch(text: str) -> bool:
    if text.lower() in ("true", "on", "yes", "1"):
        return True
    if text.lower() in ("false", "off", "no", "0"):
        return False
    _fail(f"must be true or false, not {text!r}")


def _level(text: str) -> str:
    if text.lower() not in ("debug", "info", "warning", "error"):
        _fail(f"must be debug, info, warning or error, not {text!r}")
    return text.lower()


_READERS: dict[str, Callable[[str], object]] = {
    "database_url": _database_url,
    "migration_database_url": _database_url,
    "database_pool_size": _integer(1, 1000),
    "database_prepared_statements": _switch,
    "embedded_data_dir": Path,
    "host": str,
    "port": _integer(0, 65_535),
    "forwarded_allow_ips": str,
    "jwt_secret": _secret,
    "jwt_secret_previous": _secret,
    "access_token_seconds": _integer(10, 86_400),
    "refresh_token_seconds": _integer(60, 365 * 86_400),
    "metrics_token": _secret,
    "shutdown_delay_seconds": _seconds(300),
    "shutdown_grace_seconds": _seconds(300),
    "log_level": _level,
}
