"""Settings from the environment, read once into one frozen struct; every mistake is reported at once.

The fields of `Settings` and `IssuerSettings` are the one table of all variables: each says its default, how its text is
read, and in one line what it means. `todochat --help` shows that table, by `describe_settings`.
"""

import os
import re
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn, get_type_hints
from urllib.parse import quote, urlencode, urlsplit

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

_LIBPQ_ROOT = Path(os.path.expanduser("~/.postgresql/root.crt"))  # noqa: PTH111 - Path's raises for who has no home


class OperatorError(Exception):
    """A mistake that whoever runs the service can mend: the message is one line that says how, and holds no secret."""


class SettingsError(OperatorError):
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


# How a variable's text is read. A ValueError's message follows the variable's name.


def _fail(message: str) -> NoReturn:
    raise ValueError(message)


def _database_url(text: str) -> Secret:
    parse_database_url(text)
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


def _origin(text: str) -> str:
    origins = _origins(text)
    if len(origins) != 1:
        _fail("must be one origin such as https://todos.example.com")
    return origins[0]


def _some_of(*allowed: str) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
        if not set(names) <= set(allowed):
            _fail(f"must be some of {', '.join(allowed)}, with commas between them, not {text!r}")
        return names

    return read


def is_loopback(host: str) -> bool:
    """Whether a URL's host is this machine, by its address or as ``localhost``."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


# The table


class Setting(NamedTuple):
    """What a field says of its variable: how to read it, what it means, and its default where a value can't say it."""

    read: Callable[[str], object]
    meaning: str
    default: str | None = None


class IssuerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """An outside issuer of tokens: they are judged by its key set or by its secret, of which it has exactly one."""

    name: Annotated[
        str, Setting(str, "what iss must be; its users are kept under this name, so don't change it later", "none")
    ]
    audience: Annotated[str, Setting(str, "what aud must be or contain", "the issuer")]
    jwks_url: Annotated[
        str | None, Setting(_key_set_url, "its key set: https, or http on this machine; either this or a secret")
    ] = None
    algorithms: Annotated[
        tuple[str, ...],
        Setting(
            _some_of(*KEY_SET_ALGORITHMS),
            f"what the key set is for; also {', '.join(KEY_SET_ALGORITHMS[len(DEFAULT_ALGORITHMS) :])}",
        ),
    ] = DEFAULT_ALGORITHMS
    secret: Annotated[Secret | None, Setting(_secret, "for HS256; 32 bytes or more, and not JWT_SECRET")] = None
    secret_previous: Annotated[
        Secret | None, Setting(_secret, "during a rotation: tokens signed with it are still read")
    ] = None
    absent_claims: Annotated[
        frozenset[str],
        Setting(_some_of("iss", "aud"), "iss, aud or both: its tokens have none, and one that has is refused", "none"),
    ] = frozenset()
    creates_users: Annotated[bool, Setting(_switch, "false: a subject without a row in identities is refused")] = True
    token_seconds: Annotated[
        int, Setting(_integer(60, 30 * 86_400), "the longest life of a token; one that claims more is refused")
    ] = 7 * 86_400


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the service is told from outside. Times are in seconds.

    ``database_url`` is None when the embedded PostgreSQL is to be used, and ``jwt_secret`` only then, or without local
    accounts, may be None. Both database URLs are as `secure_database_url` makes them.
    """

    database_url: Annotated[
        Secret | None,
        Setting(_database_url, "postgresql://… of the service's login", "the embedded PostgreSQL"),
    ] = None
    migration_database_url: Annotated[
        Secret | None,
        Setting(_database_url, "of the owner, for migrations and every command but serve; no pooler", "DATABASE_URL"),
    ] = None
    database_insecure: Annotated[
        bool, Setting(_switch, "true: sslmode=disable, allow and prefer may be used to reach another machine")
    ] = False
    database_pool_size: Annotated[int, Setting(_integer(1, 1000), "connections of a process")] = 10
    database_prepared_statements: Annotated[
        bool,
        Setting(_switch, "false for a transaction pooler that can't carry them (PgBouncer before 1.21)"),
    ] = True
    embedded_data_dir: Annotated[Path, Setting(Path, "where the embedded PostgreSQL keeps its data")] = Path(".data")
    host: Annotated[str, Setting(str, "the address to listen on")] = "127.0.0.1"
    port: Annotated[int, Setting(_integer(0, 65_535), "the TCP port to listen on")] = 8000
    forwarded_allow_ips: Annotated[
        str | None, Setting(str, "proxies whose X-Forwarded-For is believed, with commas between them")
    ] = None
    jwt_secret: Annotated[
        Secret | None,
        Setting(_secret, "signs tokens; 32 bytes or more", "a kept random one, with the embedded database only"),
    ] = None
    jwt_secret_previous: Annotated[
        Secret | None, Setting(_secret, "during a rotation: tokens signed with it are still read")
    ] = None
    access_token_seconds: Annotated[int, Setting(_integer(10, 86_400), "life of an access token")] = 900
    refresh_token_seconds: Annotated[int, Setting(_integer(60, 365 * 86_400), "life of a refresh token")] = 30 * 86_400
    local_accounts: Annotated[
        bool, Setting(_switch, "false: nobody signs in here, only at an outside issuer (ISSUER)")
    ] = True
    issuers: tuple[IssuerSettings, ...] = ()
    metrics_token: Annotated[
        Secret | None,
        Setting(_secret, "bearer token for GET /metrics; without it, only this machine may read it without signing in"),
    ] = None
    public_url: Annotated[
        str | None,
        Setting(
            _origin,
            "scheme and host that clients reach the service by, such as https://todos.example.com; MCP tells it",
            "http:// and the request's Host",
        ),
    ] = None
    cors_allow_origins: Annotated[
        tuple[str, ...],
        Setting(_origins, "origins whose pages may call the service from a browser, with commas between them", "none"),
    ] = ()
    shutdown_delay_seconds: Annotated[float, Setting(_seconds(300), "how long to go on accepting after SIGTERM")] = 1.0
    shutdown_grace_seconds: Annotated[float, Setting(_seconds(300), "how long running requests may then take")] = 10.0
    log_level: Annotated[str, Setting(_level, "debug, info, warning or error")] = "info"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the variables named like the fields, in upper case; an empty one counts as unset.

        Raises SettingsError with every mistake found, none of which repeats a secret.
        """
        mistakes: list[str] = []
        values = _read(cls, environ, "", mistakes)
        for name in ("database_url", "migration_database_url"):
            if isinstance(url := values.get(name), Secret):
                try:
                    secured = secure_database_url(url.value, insecure=values.get("database_insecure") is True)
                    values[name] = Secret(secured)
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


def describe_settings() -> list[tuple[str, str, str]]:
    """Every variable with its default and its meaning. ISSUER's stand for those of ISSUER_2 to ISSUER_9 too."""
    found: list[tuple[str, str, str]] = []
    for struct, prefix in ((Settings, ""), (IssuerSettings, "ISSUER_")):
        settings = _settings_of(struct)
        for field in msgspec.structs.fields(struct):
            if setting := settings.get(field.name):
                default = _shown(field.default) if setting.default is None else setting.default
                found.append((_variable(prefix, field.name), default, setting.meaning))
    return found


def _shown(default: object) -> str:
    if isinstance(default, tuple):
        return ",".join(str(part) for part in default)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(default, bool):
        return str(default).lower()
    return "none" if default is None else f"{default:g}" if isinstance(default, float) else str(default)


def _settings_of(struct: type[msgspec.Struct]) -> dict[str, Setting]:
    hints: dict[str, Any] = get_type_hints(struct, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")}


def _variable(prefix: str, field: str) -> str:
    return prefix.removesuffix("_") if prefix and field == "name" else f"{prefix}{field.upper()}"


def _read(
    struct: type[msgspec.Struct], environ: Mapping[str, str], prefix: str, mistakes: list[str]
) -> dict[str, object]:
    """The values of the variables that are set; ``mistakes`` gets a line for each that can't be read."""
    values: dict[str, object] = {}
    for name, setting in _settings_of(struct).items():
        variable = _variable(prefix, name)
        if text := environ.get(variable, ""):
            try:
                values[name] = setting.read(text)
            except ValueError as error:
                mistakes.append(f"{variable} {error}")
    return values


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
    values = _read(IssuerSettings, environ, f"{variable}_", mistakes)
    if not values and len(mistakes) == before:
        return None
    name = str(values.get("name", ""))
    values.setdefault("audience", name)
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


# Database URLs


def parse_database_url(url: str) -> dict[str, str]:
    """The parts of a database URL by libpq's names: host, port, dbname, user, sslmode and so on.

    Raises ValueError with a message that does not repeat the URL. libpq's own message would, with the password.
    """
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    scheme = re.match(r"postgres(ql)?(\+\w+)?://", url)
    try:
        parts = conninfo_to_dict(f"postgresql://{url[scheme.end() :]}") if scheme else {}
    except ProgrammingError:
        parts = {}
    parts = {name: str(value) for name, value in parts.items() if value is not None}
    if not parts or "@" in parts.get("host", "") or not re.fullmatch(r"[\d,]*", parts.get("port", "")):
        _fail(
            "can't be read: it has the form postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with special characters in "
            "the password percent-encoded (@ : / as %40 %3A %2F)"
        )
    return parts


def format_database_url(parts: Mapping[str, str]) -> str:
    """A URL of these parts. Hosts that are folders of sockets, addresses or lists stand in its query."""
    rest = {name: value for name, value in parts.items() if value}
    user, password = (quote(rest.pop(name, ""), safe="") for name in ("user", "password"))
    database = quote(rest.pop("dbname", ""), safe="")
    address = ""
    if re.fullmatch(r"[\w.-]+", rest.get("host", "")):
        address = rest.pop("host")
        if port := rest.pop("port", ""):
            address += f":{port}"
    login = f"{user}:{password}@" if password else f"{user}@" if user else ""
    query = f"?{urlencode(rest, quote_via=quote)}" if rest else ""
    return f"postgresql://{login}{address}/{database}{query}"


def secure_database_url(url: str, *, insecure: bool = False) -> str:
    """The URL, with TLS that proves who answers where the database is on another machine.

    Unix sockets and loopback addresses are this machine. To another one, ``sslmode`` is ``verify-full`` unless the URL
    says otherwise (PGSSLMODE is ignored), and what would send the password in the clear to whoever answers raises
    ValueError unless ``insecure``. Where certificates are verified and neither the URL, PGSSLROOTCERT nor libpq's own
    file names an authority, ``sslrootcert`` is the machine's file of public authorities. libpq's word for it,
    ``sslrootcert=system``, doesn't find them: the OpenSSL in psycopg's wheel looks in a folder that no machine has.
    """
    from psycopg.pq import Conninfo

    parts = parse_database_url(url)
    # What the URL leaves out, libpq takes from PGHOST, PGSERVICE and the like.
    defaults = {option.keyword.decode(): option.val.decode() for option in Conninfo.get_defaults() if option.val}
    hosts = [host for name in ("host", "hostaddr") for host in parts.get(name, defaults.get(name, "")).split(",")]
    if "service" not in parts and all(not host or host[0] == "/" or is_loopback(host) for host in hosts):
        return url
    mode = parts.get("sslmode")
    if mode in {"disable", "allow", "prefer"} and not insecure:
        _fail(
            f"has sslmode={mode} and leads to another machine: leave it out, verify-full is then used "
            "(or set DATABASE_INSECURE=true, if nobody else can reach that network)"
        )
    secured = {**parts, "sslmode": mode or "verify-full"}
    if secured["sslmode"] in {"verify-ca", "verify-full"}:
        root = parts.get("sslrootcert", defaults.get("sslrootcert"))
        if root == "system" or (root is None and not _LIBPQ_ROOT.exists()):
            secured["sslrootcert"] = certificate_authorities()
    return url if secured == parts else format_database_url(secured)


def certificate_authorities() -> str:
    """The file of public certificate authorities: this machine's, or the one in SSL_CERT_FILE; else certifi's."""
    import ssl

    import certifi

    return ssl.get_default_verify_paths().cafile or certifi.where()
