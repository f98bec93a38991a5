"""Settings from the environment, read once into one frozen struct; every mistake is reported at once.

The fields of `Settings` and `IssuerSettings` are the one table of all variables: each says its default, how its text is
read, and in one line what it means. `todochat --help` shows that table, by `describe_settings`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast
from urllib.parse import urlsplit

import msgspec

from service import setting_readers as read
from service.database_url import is_loopback, secure_database_url
from service.setting_readers import Secret

LOCAL_ISSUER = "todochat"
"""The ``iss`` and ``aud`` of the tokens of local accounts."""
LONGEST_ACCESS_SECONDS, LONGEST_REFRESH_SECONDS = 86_400, 365 * 86_400
"""How long their tokens may live at most, whatever is set at present."""
DEFAULT_ALGORITHMS = ("EdDSA", "ES256", "RS256")
KEY_SET_ALGORITHMS = (*DEFAULT_ALGORITHMS, "ES384", "ES512", "RS384", "RS512", "PS256", "PS384", "PS512")
"""Asymmetric ones only: what is public must not be what signs."""
_ALSO_READ = "tokens signed with it are read too: in a rotation first the next secret, then the previous one"


class OperatorError(Exception):
    """A mistake that whoever runs the service can mend: the message is one line that says how, and holds no secret."""


class SettingsError(OperatorError):
    """The environment can't be used; ``mistakes`` holds one line for each reason."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = mistakes


class Setting(NamedTuple):
    """What a field says of its variable: how to read it, what it means, and its default where a value can't say it."""

    read: Callable[[str], Any]
    meaning: str
    default: str | None = None


def _key_set_url(text: str) -> str:
    try:
        url = urlsplit(text)
        host, _ = url.hostname or "", url.port
    except ValueError:
        raise ValueError("can't be read as a URL") from None
    if not host or url.fragment or url.username is not None or not text.isascii() or not text.isprintable():
        raise ValueError("must look like https://host/path")
    if url.scheme != "https" and not (url.scheme == "http" and is_loopback(host)):
        raise ValueError("must begin with https:// (http:// is for this machine only, such as http://localhost:3000)")
    return text


class IssuerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """An outside issuer of tokens: they are judged by its key set or by its secret, of which it has exactly one."""

    name: Annotated[
        str,
        Setting(read.name, "what iss must be; its users are kept under this name, so don't change it later", "none"),
    ]
    audience: Annotated[str, Setting(read.name, "what aud must be or contain", "the issuer")]
    jwks_url: Annotated[
        str | None, Setting(_key_set_url, "its key set: https, or http on this machine; either this or a secret")
    ] = None
    algorithms: Annotated[
        tuple[str, ...],
        Setting(
            read.some_of(*KEY_SET_ALGORITHMS), f"what the key set is for; also {', '.join(KEY_SET_ALGORITHMS[3:])}"
        ),
    ] = DEFAULT_ALGORITHMS
    secret: Annotated[Secret | None, Setting(read.secret, "for HS256; 32 bytes or more, and not JWT_SECRET")] = None
    secret_previous: Annotated[Secret | None, Setting(read.secret, _ALSO_READ)] = None
    absent_claims: Annotated[
        frozenset[str],
        Setting(
            read.some_of("iss", "aud"), "iss, aud or both, which its tokens lack; one that has it is refused", "none"
        ),
    ] = frozenset()
    creates_users: Annotated[bool, Setting(read.switch, "false: a subject without a row in identities is refused")] = (
        True
    )
    token_seconds: Annotated[
        int, Setting(read.whole(60, 30 * 86_400), "the longest life of a token; one that claims more is refused")
    ] = 7 * 86_400


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the service is told from outside. Times are in seconds.

    ``database_url`` is None when the embedded PostgreSQL is to be used, and ``jwt_secret`` only then, or without local
    accounts, may be None. Both database URLs are as `secure_database_url` makes them.
    """

    database_url: Annotated[
        Secret | None, Setting(read.database_url, "postgresql://… of the service's login", "the embedded PostgreSQL")
    ] = None
    migration_database_url: Annotated[
        Secret | None,
        Setting(
            read.database_url,
            "of the login that migrates, for all commands but serve; backup needs one that sees all rows; no pooler's",
            "DATABASE_URL",
        ),
    ] = None
    database_insecure: Annotated[
        bool,
        Setting(read.switch, "true: another machine's database may be reached with sslmode=disable, allow, prefer"),
    ] = False
    database_pool_size: Annotated[int, Setting(read.whole(1, 1000), "connections of a process")] = 10
    database_prepared_statements: Annotated[
        bool, Setting(read.switch, "false for a transaction pooler that can't carry them (PgBouncer before 1.21)")
    ] = True
    embedded_data_dir: Annotated[Path, Setting(Path, "where the embedded PostgreSQL keeps its data")] = Path(".data")
    host: Annotated[str, Setting(read.name, "the address to listen on")] = "127.0.0.1"
    port: Annotated[int, Setting(read.whole(0, 65_535), "the TCP port to listen on")] = 8000
    forwarded_allow_ips: Annotated[
        str | None, Setting(read.proxies, "proxies whose X-Forwarded-For is believed, with commas between them")
    ] = None
    jwt_secret: Annotated[
        Secret | None,
        Setting(read.secret, "signs tokens; 32 bytes or more", "a kept random one, with the embedded database only"),
    ] = None
    jwt_secret_previous: Annotated[Secret | None, Setting(read.secret, _ALSO_READ)] = None
    access_token_seconds: Annotated[int, Setting(read.whole(10, LONGEST_ACCESS_SECONDS), "life of an access token")] = (
        900
    )
    refresh_token_seconds: Annotated[
        int, Setting(read.whole(60, LONGEST_REFRESH_SECONDS), "life of a refresh token")
    ] = 30 * 86_400
    local_accounts: Annotated[
        bool, Setting(read.switch, "false: nobody signs in here, only at an outside issuer (ISSUER)")
    ] = True
    issuers: tuple[IssuerSettings, ...] = ()
    metrics_token: Annotated[
        Secret | None,
        Setting(
            read.secret,
            "the one token for GET /metrics; without it, this machine and a local account's access token may read it",
        ),
    ] = None
    public_url: Annotated[
        str | None,
        Setting(
            read.web_origin,
            "scheme and host that clients reach the service by, such as https://todos.example.com; MCP tells it",
            "http:// and the request's Host",
        ),
    ] = None
    cors_allow_origins: Annotated[
        tuple[str, ...],
        Setting(
            read.origins, "origins whose pages may call the service from a browser, with commas between them", "none"
        ),
    ] = ()
    shutdown_delay_seconds: Annotated[
        float,
        Setting(read.seconds, "how long to accept connections after SIGTERM; none on systemd's sockets"),
    ] = 1.0
    shutdown_grace_seconds: Annotated[float, Setting(read.seconds, "how long running requests may then take")] = 10.0
    log_level: Annotated[str, Setting(read.level, "debug, info, warning or error")] = "info"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the variables named like the fields, in upper case; an empty one counts as unset.

        Raises SettingsError with every mistake found, none of which repeats a secret.
        """
        mistakes: list[str] = []
        values = _read(cls, environ, "", mistakes)
        for name in ("database_url", "migration_database_url"):
            try:
                if name in values:
                    url: str = values[name].value
                    values[name] = Secret(secure_database_url(url, insecure=values.get("database_insecure", False)))
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
        return cls(**values)


def describe_settings() -> list[tuple[str, str, str]]:
    """Every variable with its default and its meaning. ISSUER's stand for those of ISSUER_2 to ISSUER_9 too."""
    return [
        (variable, _shown(default) if setting.default is None else setting.default, setting.meaning)
        for struct, prefix in ((Settings, ""), (IssuerSettings, "ISSUER"))
        for variable, _, default, setting in _variables(struct, prefix)
    ]


def _shown(default: Any) -> str:
    if default is None or isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(cast("tuple[str, ...]", default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def _variables(struct: type[msgspec.Struct], prefix: str) -> Iterator[tuple[str, str, Any, Setting]]:
    """Each variable with its field's name and default, and what the field says of it."""
    for field in msgspec.structs.fields(struct):
        for setting in getattr(field.type, "__metadata__", ()):
            variable = "_".join(filter(None, (prefix, field.name.upper())))
            yield prefix if field.name == "name" else variable, field.name, field.default, setting


def _read(struct: type[msgspec.Struct], environ: Mapping[str, str], prefix: str, mistakes: list[str]) -> dict[str, Any]:
    """The values of the variables that are set; ``mistakes`` gets a line for each that can't be read."""
    values: dict[str, Any] = {}
    for variable, field, _, setting in _variables(struct, prefix):
        if text := environ.get(variable, ""):
            try:
                values[field] = setting.read(text)
            except ValueError as error:
                mistakes.append(f"{variable} {error}")
    return values


def _issuers(environ: Mapping[str, str], mistakes: list[str]) -> tuple[IssuerSettings, ...]:
    """ISSUER and ISSUER_2 to ISSUER_9, each with its own variables; ``mistakes`` gets a line for each reason."""
    found: dict[str, IssuerSettings] = {}
    variables = ("ISSUER", *(f"ISSUER_{number}" for number in range(2, 10)))
    for variable in environ:
        numbered = re.match(r"ISSUER_\d+(?=_|$)", variable)
        if numbered and numbered[0] not in variables and environ[variable]:
            mistakes.append(f"{variable} is not read: further issuers are ISSUER_2 to ISSUER_9")
    for variable in variables:
        issuer = _issuer(environ, variable, mistakes)
        if issuer is None:
            continue
        if issuer.name in found:
            mistakes.append(f"{variable} is the name of another issuer too: a token is judged by one")
        if "iss" in issuer.absent_claims and any("iss" in other.absent_claims for other in found.values()):
            mistakes.append(f"{variable}_ABSENT_CLAIMS has iss, as another issuer's: a token is judged by one")
        secrets = {f"{variable}_SECRET": issuer.secret, f"{variable}_SECRET_PREVIOUS": issuer.secret_previous}
        mistakes += [
            f"{its} is {own} too: who signs for the issuer could sign in as anybody"
            for its, secret in secrets.items()
            for own in ("JWT_SECRET", "JWT_SECRET_PREVIOUS")
            if secret and secret.value == environ.get(own)
        ]
        found[issuer.name] = issuer
    return tuple(found.values())


def _issuer(environ: Mapping[str, str], variable: str, mistakes: list[str]) -> IssuerSettings | None:
    before = len(mistakes)
    values = _read(IssuerSettings, environ, variable, mistakes)
    if not values and len(mistakes) == before:
        return None
    name: str = values.get("name", "")
    if "audience" in values and "aud" in values.get("absent_claims", ()):
        mistakes.append(
            f"{variable}_AUDIENCE is what aud must be, and {variable}_ABSENT_CLAIMS says that there is none"
        )
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
