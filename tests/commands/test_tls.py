"""A database on another machine is reached by TLS that proves who answers: PostgreSQL 15 with certificates made here.

The other machine is this one under another name: libpq looks for the name in the certificate and goes to `hostaddr`.
"""

import datetime as dt
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from service.database_url import certificate_authorities, secure_database_url
from service.embedded import EmbeddedPostgres
from service.settings import Settings, SettingsError
from tests.conftest import POSTGRES_15, TEMPLATE, UNSAFE_BUT_FAST, Server, TestDatabase, reachable_folder
from tests.support.commands import complaint, run, run_process
from tests.support.load import wait_for

HOST = "db.example.org"


# The rule, without a server


@pytest.mark.parametrize(
    ("url", "secured"),
    [
        (
            "postgresql://u:p@db.example.org/d",
            "postgresql://u:p@db.example.org/d?sslmode=verify-full&sslrootcert=%2Fca",
        ),
        ("postgresql://u@10.0.0.5:6000/d", "postgresql://u@10.0.0.5:6000/d?sslmode=verify-full&sslrootcert=%2Fca"),
        (
            "postgresql://u:%40%3Fp@db/d?connect_timeout=3",
            "postgresql://u:%40%3Fp@db/d?connect_timeout=3&sslmode=verify-full&sslrootcert=%2Fca",
        ),
        ("postgresql://db/d?sslmode=verify-ca", "postgresql://db/d?sslmode=verify-ca&sslrootcert=%2Fca"),
        ("postgresql://db/d?sslrootcert=system", "postgresql://db/d?sslrootcert=%2Fca&sslmode=verify-full"),
        ("postgresql://db/d?sslrootcert=/own.pem", "postgresql://db/d?sslrootcert=%2Fown.pem&sslmode=verify-full"),
        ("postgresql://db/d?sslmode=require&channel_binding=require", None),
        ("postgresql://db/d?sslmode=verify-full&sslrootcert=/own.pem", None),
        # Several hosts, one of them elsewhere; a name that is this machine's with an address that isn't.
        (
            "postgresql://127.0.0.1,db:5433/d",
            "postgresql:///d?host=127.0.0.1%2Cdb&port=%2C5433&sslmode=verify-full&sslrootcert=%2Fca",
        ),
        (
            "postgresql://localhost/d?hostaddr=192.0.2.1",
            "postgresql://localhost/d?hostaddr=192.0.2.1&sslmode=verify-full&sslrootcert=%2Fca",
        ),
        ("postgresql:///d?service=far", "postgresql:///d?service=far&sslmode=verify-full&sslrootcert=%2Fca"),
        # This machine
        ("postgresql://u@localhost/d", None),
        ("postgresql://u@127.8.8.8:5433/d?sslmode=disable", None),
        ("postgresql://u@[::1]/d", None),
        ("postgresql:///d", None),
        ("postgresql:///d?host=/var/run/postgresql", None),
        ("postgresql://%2Frun%2Fpg,localhost/d?hostaddr=,127.0.0.1", None),
    ],
)
def test_another_machine_is_asked_for_its_certificate_unless_the_url_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, url: str, secured: str | None
) -> None:
    monkeypatch.setattr("service.database_url.certificate_authorities", lambda: "/ca")
    monkeypatch.setenv("PGSSLMODE", "disable")
    assert secure_database_url(url) == (secured or url)
    assert secure_database_url(secured or url) == (secured or url)


@pytest.mark.parametrize("variable", ["PGHOST", "PGHOSTADDR"])
def test_a_machine_that_only_the_environment_names_is_another_one_too(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "192.0.2.1")
    assert "sslmode=verify-full" in secure_database_url("postgresql:///d")


def test_authorities_that_libpq_is_told_of_elsewhere_are_left_to_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wanted = "postgresql://db/d?sslmode=verify-full"
    (tmp_path / "root.crt").touch()
    with monkeypatch.context() as patch:
        patch.setattr("service.database_url._LIBPQ_ROOT", tmp_path / "root.crt")
        assert secure_database_url("postgresql://db/d") == wanted
    monkeypatch.setenv("PGSSLROOTCERT", "/own.pem")
    assert secure_database_url("postgresql://db/d") == wanted


@pytest.mark.parametrize("name", ["DATABASE_URL", "MIGRATION_DATABASE_URL"])
@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
def test_a_mode_that_proves_nothing_is_refused_to_another_machine_unless_told_to(name: str, mode: str) -> None:
    environ = {name: f"postgresql://u:hunter2@db/d?sslmode={mode}", "JWT_SECRET": "s" * 32}
    with pytest.raises(SettingsError) as refused:
        Settings.from_environ(environ)
    (line,) = refused.value.mistakes
    assert line.startswith(f"{name} has sslmode={mode} and leads to another machine")
    assert "hunter2" not in line
    settings = Settings.from_environ({**environ, "DATABASE_INSECURE": "true"})
    assert getattr(settings, name.lower()).value == environ[name]


def test_the_public_authorities_are_a_file_of_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(variable, raising=False)
    assert "BEGIN CERTIFICATE" in Path(certificate_authorities()).read_text(encoding="utf-8")


# With a server


class Authority:
    """Signs certificates for host names."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self._name, self._key, x509.BasicConstraints(ca=True, path_length=None))

    def issue(self, host: str) -> tuple[str, str]:
        """A certificate for the host and its key, in PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return self._sign(subject, key, x509.SubjectAlternativeName([x509.DNSName(host)])), private.decode()

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType) -> str:
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode()


class FarServer:
    """PostgreSQL 15 on a loopback address of its own, and what it shows as its certificate."""

    def __init__(self, server: EmbeddedPostgres, address: str, folder: Path) -> None:
        self._server = server
        self.address = address
        self.superuser_url = server.url(TEMPLATE)
        hba = server.cluster_dir / "pg_hba.conf"
        hba.write_text(f"{hba.read_text()}\nhost all all 127.0.0.0/8 trust\n")
        self.authority = Authority("the authority")
        self.root = folder / "authority.pem"
        self.root.write_text(self.authority.certificate)

    def url(self, login: str) -> str:
        return f"postgresql://{login}:not-asked-for@{HOST}/{TEMPLATE}?hostaddr={self.address}"

    def ask_for_passwords(self, login: str) -> None:
        """From now on this login needs its password."""
        hba = self._server.cluster_dir / "pg_hba.conf"
        hba.write_text(f"host all {login} 127.0.0.0/8 scram-sha-256\n{hba.read_text()}")

        def loaded_at() -> object:
            with psycopg.connect(self._server.url()) as connection:
                return connection.execute("SELECT pg_conf_load_time()").fetchone()

        before = loaded_at()
        with psycopg.connect(self._server.url()) as connection:
            connection.execute("SELECT pg_reload_conf()")
        wait_for(lambda: loaded_at() != before)

    def show(self, certificate: tuple[str, str] | None) -> None:
        """From now on show this certificate; with None, speak no TLS."""
        settings = {"ssl": "off"}
        if certificate is not None:
            name = secrets.token_hex(4)
            settings = {"ssl": "on", "ssl_cert_file": f"{name}.crt", "ssl_key_file": f"{name}.key"}
            for suffix, text in zip(("crt", "key"), certificate, strict=True):
                path = self._server.cluster_dir / f"{name}.{suffix}"
                path.touch(0o600)
                path.write_text(text)
                owner = self._server.cluster_dir.stat()
                os.chown(path, owner.st_uid, owner.st_gid)
        with psycopg.connect(self._server.url(), autocommit=True) as connection:
            for name, value in settings.items():
                connection.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
            connection.execute("SELECT pg_reload_conf()")
        name, value = settings.popitem()
        deadline = time.monotonic() + 10
        while True:  # until new connections have it
            with psycopg.connect(self._server.url()) as connection:
                if connection.execute(f"SHOW {name}".encode()).fetchone() == (value,):
                    return
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture(scope="module")
def far(start_postgres: Callable[..., EmbeddedPostgres]) -> Iterator[FarServer]:
    if not (POSTGRES_15 / "postgres").exists():
        pytest.skip("needs PostgreSQL 15: apt-get install postgresql-15")
    address = ".".join(["127", *(str(random.randint(1, 254)) for _ in range(3))])
    options = {**UNSAFE_BUT_FAST, "listen_addresses": address}
    with (
        reachable_folder() as folder,
        start_postgres(folder / "postgres", bin_dir=POSTGRES_15, options=options) as server,
    ):
        yield FarServer(server, address, folder)


WRONG: dict[str, tuple[Callable[[FarServer], tuple[str, str] | None], str]] = {
    "a certificate for another host": (
        lambda far: far.authority.issue("other.example.org"),
        f'server certificate for "other.example.org" does not match host name "{HOST}"',
    ),
    "a certificate of an authority that nobody knows": (
        lambda _: Authority("somebody").issue(HOST),
        "certificate verify failed",
    ),
    "no TLS": (lambda _: None, "server does not support SSL"),
}


def test_a_server_with_the_right_certificate_is_used_by_commands_and_the_service(
    far: FarServer, start_server: Callable[..., Server]
) -> None:
    far.show(far.authority.issue(HOST))
    trusting = {"SSL_CERT_FILE": str(far.root)}
    done = run("status", MIGRATION_DATABASE_URL=far.url("todochat_admin"), **trusting)
    assert (done.returncode, done.stderr) == (0, "")
    database = TestDatabase(TEMPLATE, far.url("todochat_service"), "", "")
    server = start_server(database=database, DATABASE_POOL_SIZE="2", **trusting)
    with psycopg.connect(far.superuser_url) as connection:
        encrypted = connection.execute(
            "SELECT DISTINCT s.ssl FROM pg_stat_ssl AS s JOIN pg_stat_activity AS a USING (pid)"
            " WHERE a.usename = 'todochat_service'"
        ).fetchall()
    assert encrypted == [(True,)]
    assert server.stop() == 0


@pytest.mark.parametrize("case", WRONG)
def test_a_server_that_does_not_prove_itself_gets_nothing_from_a_command(
    far: FarServer, case: str, subtests: pytest.Subtests
) -> None:
    certificate, why = WRONG[case]
    far.show(certificate(far))
    url = far.url("todochat_admin")
    for command in (["status"], ["users", "list"], ["export", "a@example.com"]):
        with subtests.test(" ".join(command)):
            line = complaint(run(*command, MIGRATION_DATABASE_URL=url, SSL_CERT_FILE=str(far.root)))
            assert f"can't connect to {HOST}" in line
            assert why in line
            assert "not-asked-for" not in line


@pytest.mark.parametrize("case", WRONG)
def test_a_server_that_does_not_prove_itself_is_not_served_from(far: FarServer, case: str) -> None:
    certificate, why = WRONG[case]
    far.show(certificate(far))
    url = far.url("todochat_service")
    done = run_process("serve", DATABASE_URL=url, JWT_SECRET="s" * 32, PORT="0", SSL_CERT_FILE=str(far.root))
    assert done.returncode == 1
    assert why in done.stdout.replace("\\", "")
    assert "not-asked-for" not in done.stderr + done.stdout


def test_what_a_url_says_itself_is_done(far: FarServer) -> None:
    far.show(Authority("somebody").issue("other.example.org"))
    url = far.url("todochat_admin")
    assert run("status", MIGRATION_DATABASE_URL=f"{url}&sslmode=require").returncode == 0
    line = complaint(run("status", MIGRATION_DATABASE_URL=f"{url}&sslmode=disable"))
    assert line.startswith("todochat: MIGRATION_DATABASE_URL has sslmode=disable and leads to another machine")
    far.show(None)
    assert run("status", MIGRATION_DATABASE_URL=f"{url}&sslmode=disable", DATABASE_INSECURE="true").returncode == 0
    assert run("status", MIGRATION_DATABASE_URL=f"{url}&sslmode=require", DATABASE_INSECURE="true").returncode == 1


def test_create_login_prints_no_path_of_this_machine(far: FarServer) -> None:
    far.show(far.authority.issue(HOST))
    name = f"service_{secrets.token_hex(4)}"
    done = run("create-login", name, MIGRATION_DATABASE_URL=far.url("todochat_admin"), SSL_CERT_FILE=str(far.root))
    assert done.returncode == 0, done.stderr
    assert "sslmode=verify-full" in done.stdout
    assert "sslrootcert" not in done.stdout


def test_a_backup_takes_the_same_way_with_its_password(far: FarServer, tmp_path: Path) -> None:
    """By programs that have TLS: those of the wheel, which would fit otherwise, have none."""
    far.show(far.authority.issue(HOST))
    name, password = f"backup_{secrets.token_hex(4)}", "p@ss:w/ö?r&d %20"
    far.ask_for_passwords(name)
    with psycopg.connect(far.superuser_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN BYPASSRLS PASSWORD '{password}' IN ROLE pg_read_all_data")
        try:
            url = far.url(name).replace("not-asked-for", quote(password, safe=""))
            env = {"MIGRATION_DATABASE_URL": url, "SSL_CERT_FILE": str(far.root)}
            said = complaint(run("backup", str(tmp_path / "backup"), PATH=str(tmp_path), **env))
            assert "pg_dump of PostgreSQL 15 or later is needed, and there is none" in said
            done = run("backup", str(tmp_path / "backup"), PATH=str(POSTGRES_15), **env)
            assert done.returncode == 0, done.stderr
            wrong = {**env, "MIGRATION_DATABASE_URL": far.url(name)}
            said = complaint(run("backup", str(tmp_path / "other"), PATH=str(POSTGRES_15), **wrong))
            assert "password authentication failed" in said
        finally:
            connection.execute(f"DROP ROLE {name}")
