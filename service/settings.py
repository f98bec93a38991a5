"""Settings from the environment, read once into one frozen struct; every mistake is reported at once."""

import re
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import msgspec

SECRET_MIN_BYTES = 32
"""RFC 7518, section 3.2: an HS256 key has at least as many bits as the hash."""
LOCAL_ISSUER = "todochat"
"""The ``iss`` and ``aud`` of the tokens of local accounts."""
ISSUERS = 9
"""How many outside issuers there may be: ISSUER, and ISSUER_2 to ISSUER_9."""
DEFAULT_ALGORITHMS = ("EdDSA", "ES256", "RS256")
KEY_SET_ALGORITHMS = (*DEFAULT_ALGORITHMS, "ES384", "ES512", "RS384", "RS512", "PS256", "PS384", "PS512")
"""Asymmetric ones only: what is public must not be what signs."""


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


class IssuerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """An outside issuer of tokens: they are judged by its key set or by its secret, of which it has exactly one."""

    name: str
    """What ``iss`` must be; identities are kept under it."""
    audience: str
    jwks_url: str | None = None
    algorithms: tuple[str, ...] = DEFAULT_ALGORITHMS
    """Of a key set; a secret is for HS256."""
    secret: Secret | None = None
    secret_previous: Secret | None = None
    absent_claims: frozenset[str] = frozenset()
    """Of ``iss`` and ``aud``, those that its tokens must not have."""
    creates_users: bool = True
    token_seconds: int = 7 * 86_400
    """The longest life of a token that is accepted; a week, as many set up Better Auth (``expirationTime: "7d"``)."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the service is told from outside. Times are in seconds unless the name says otherwise.

    ``database_url`` is None when the embedded PostgreSQL is to be used, and ``jwt_secret`` only then, or without local
    accounts, may be None.
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
    local_accounts: bool = True
    issuers: tuple[IssuerSettings, ...] = ()
    metrics_token: Secret | None = None
    cors_allow_origins: tuple[str, ...] = ()
    """The origins (RFC 6454) whose pages may call the service from a browser, as browsers write them."""
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
        values["issuers"] = issuers = _issuers(environ, mistakes)
        local = values.get("local_accounts", True)
        if not local and not issuers and not mistakes:
            mistakes.append("LOCAL_ACCOUNTS is false and there is no ISSUER: nobody could sign in")
        if local and environ.get("DATABASE_URL") and not environ.get("JWT_SECRET"):
            mistakes.append(
                "JWT_SECRET is missing: set it to 32 random bytes or more, as `openssl rand -hex 32` prints them "
                "(only the embedded development database may be served without)"
            )
        if environ.get("JWT_SECRET_PREVIOUS") and environ.get("JWT_SECRET_PREVIOUS") == environ.get("JWT_SECRET"):
            mistakes.append("JWT_SECRET_PREVIOUS is the same as JWT_SECRET: leave it unset unless you rotate")
        if mistakes:
            raise SettingsError(mistakes)
        return msgspec.convert(values, cls)


def _issuers(environ: Mapping[str, str], mistakes: list[str]) -> tuple[IssuerSettings, ...]:
    """ISSUER and ISSUER_2 to ISSUER_9, each with its own variables; ``mistakes`` gets a line for each reason."""
    found: dict[str, IssuerSettings] = {}
    for number in range(1, ISSUERS + 1):
        variable = "ISSUER" if number == 1 else f"ISSUER_{number}"
        issuer = _issuer(environ, variable, mistakes)
        if issuer is None:
            continue
        if issuer.name in found:
            mistakes.append(f"{variable} is the name of another issuer too: a token is judged by one")
        if "iss" in issuer.absent_claims and any("iss" in other.absent_claims for other in found.values()):
            mistakes.append(f"{variable}_ABSENT_CLAIMS has iss, as another issuer's: a token is judged by one")
        own = {environ.get(name) for name in ("JWT_SECRET", "JWT_SECRET_PREVIOUS")}
        if any(secret and secret.value in own for secret in (issuer.secret, issuer.secret_previous)):
            mistakes.append(f"{variable}_SECRET is JWT_SECRET too: who signs for the issuer could sign in as anybody")
        found[issuer.name] = issuer
    return tuple(found.values())


def _issuer(environ: Mapping[str, str], variable: str, mistakes: list[str]) -> IssuerSettings | None:
    before = len(mistakes)
    name = environ.get(variable, "")
    values: dict[str, object] = {"name": name, "audience": name}
    given = False
    for field, read in _ISSUER_READERS.items():
        text = environ.get(f"{variable}_{field.upper()}", "")
        if text:
            given = True
            try:
                values[field] = read(text)
            except ValueError as error:
                mistakes.append(f"{variable}_{field.upper()} {error}")
    if not given and not name:
        return None
    if not name:
        mistakes.append(f"{variable} is missing: set it to the iss of the issuer's tokens")
    elif name == LOCAL_ISSUER:
        mistakes.append(f"{variable} can't be {LOCAL_ISSUER}: that is the name in the service's own tokens")
    elif len(name) > 255 or not name.isprintable():
        mistakes.append(f"{variable} must have at most 255 printable characters")
    has_url, has_secret = (bool(environ.get(f"{variable}_{field}")) for field in ("JWKS_URL", "SECRET"))
    if has_url == has_secret:
        mistakes.append(f"{variable} needs either {variable}_JWKS_URL or {variable}_SECRET")
    elif has_secret and "algorithms" in values:
        mistakes.append(f"{variable}_ALGORITHMS is for a key set: a secret is for HS256")
    elif has_url and "secret_previous" in values:
        mistakes.append(f"{variable}_SECRET_PREVIOUS is for an issuer with {variable}_SECRET")
    if "secret" in values and values["secret"] == values.get("secret_previous"):
        mistakes.append(f"{variable}_SECRET_PREVIOUS is {variable}_SECRET again: leave it unset unless you rotate")
    return msgspec.convert(values, IssuerSettings) if len(mistakes) == before else None


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


def _key_set_url(text: str) -> str:
    try:
        url = urlsplit(text)
        host, _ = url.hostname or "", url.port
    except ValueError:
        _fail("can't be read as a URL")
    if not host or url.fragment or url.username is not None or not text.isascii() or not text.isprintable():
        _fail("must look like https://host/path")
    if url.scheme != "https" and not (url.scheme == "http" and is_loopback(host)):
        _fail("must begin with https:// (http:// is for this machine only, such as http://localhost:3000)")
    return text


def is_loopback(host: str) -> bool:
    """Whether a URL's host is this machine, by its address or as ``localhost``."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
"""Browsers leave them out."""


def _origins(text: str) -> tuple[str, ...]:
    """In lower case and without the scheme's own port, as the header ``Origin`` has it."""
    found: dict[str, None] = {}
    for name in text.split(","):
        origin = name.strip().lower()
        if not _ORIGIN.fullmatch(origin):
            _fail(f"must be origins such as https://app.example.com, with commas between them, not {name.strip()!r}")
        found[origin.removesuffix(_DEFAULT_PORTS.get(origin.partition("://")[0], "/"))] = None
    return tuple(found)


def _choice(allowed: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
        if not set(names) <= set(allowed):
            _fail(f"must be some of {', '.join(allowed)}, with commas between them, not {text!r}")
        return names

    return read


_ISSUER_READERS: dict[str, Callable[[str], object]] = {
    "audience": str,
    "jwks_url": _key_set_url,
    "algorithms": _choice(KEY_SET_ALGORITHMS),
    "secret": _secret,
    "secret_previous": _secret,
    "absent_claims": lambda text: frozenset(_choice(("iss", "aud"))(text)),
    "creates_users": _switch,
    "token_seconds": _integer(60, 30 * 86_400),
}

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
    "local_accounts": _switch,
    "metrics_token": _secret,
    "cors_allow_origins": _origins,
    "shutdown_delay_seconds": _seconds(300),
    "shutdown_grace_seconds": _seconds(300),
    "log_level": _level,
}
