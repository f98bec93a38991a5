"""Database URLs: taken apart as libpq does it, put together again, and made to prove who answers.

Messages of errors never repeat the URL, which may hold a password.
"""

import os
import re
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import quote, urlencode

_LIBPQ_ROOT = Path(os.path.expanduser("~/.postgresql/root.crt"))  # noqa: PTH111 - Path's raises for who has no home


def is_loopback_address(text: str) -> bool:
    """Whether it is an address of this machine alone."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def is_loopback(host: str) -> bool:
    """Whether a URL's host is this machine, by its address or as ``localhost``."""
    return host.lower() == "localhost" or is_loopback_address(host)


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
        raise ValueError(
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
        raise ValueError(
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
