"""Settings from the environment."""

from pathlib import Path
from typing import Any

import pytest

from service.settings import IssuerSettings, Secret, Settings, SettingsError, describe_settings

URL = "postgresql://todochat_service:hunter2@db.example.org:5432/todochat"
LOCAL_URL = "postgresql://todochat_owner:hunter2@127.0.0.1:5432/todochat"
SECRET = "an-example-secret-of-32-bytes-or-more"
NEEDED = {"DATABASE_URL": URL, "JWT_SECRET": SECRET}


def mistakes(**environ: str) -> list[str]:
    with pytest.raises(SettingsError) as refused:
        Settings.from_environ({**NEEDED, **environ})
    return refused.value.mistakes


def test_an_empty_environment_means_the_embedded_database_and_the_documented_defaults() -> None:
    assert Settings.from_environ({}) == Settings(
        database_url=None,
        migration_database_url=None,
        database_insecure=False,
        database_pool_size=10,
        database_prepared_statements=True,
        embedded_data_dir=Path(".data"),
        host="127.0.0.1",
        port=8000,
        forwarded_allow_ips=None,
        jwt_secret=None,
        jwt_secret_previous=None,
        access_token_seconds=900,
        refresh_token_seconds=2_592_000,
        local_accounts=True,
        issuers=(),
        metrics_token=None,
        cors_allow_origins=(),
        shutdown_delay_seconds=1.0,
        shutdown_grace_seconds=10.0,
        log_level="info",
    )


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("DATABASE_URL", "postgres://u@h/d?sslmode=require", Secret("postgres://u@h/d?sslmode=require")),
        ("MIGRATION_DATABASE_URL", LOCAL_URL, Secret(LOCAL_URL)),
        ("DATABASE_INSECURE", "true", True),
        ("DATABASE_POOL_SIZE", "1", 1),
        ("DATABASE_PREPARED_STATEMENTS", "false", False),
        ("DATABASE_PREPARED_STATEMENTS", "OFF", False),
        ("DATABASE_PREPARED_STATEMENTS", "1", True),
        ("EMBEDDED_DATA_DIR", "/srv/todo chat", Path("/srv/todo chat")),
        ("HOST", "0.0.0.0", "0.0.0.0"),  # noqa: S104
        ("PORT", "0", 0),
        ("PORT", "65535", 65535),
        ("FORWARDED_ALLOW_IPS", "*", "*"),
        ("FORWARDED_ALLOW_IPS", "10.0.0.1", "10.0.0.1,::ffff:10.0.0.1"),
        ("FORWARDED_ALLOW_IPS", "::1, 10.0.0.0/8,fd00::/8", "::1,10.0.0.0/8,fd00::/8,::ffff:10.0.0.0/104"),
        ("JWT_SECRET_PREVIOUS", "p" * 32, Secret("p" * 32)),
        ("ACCESS_TOKEN_SECONDS", "60", 60),
        ("REFRESH_TOKEN_SECONDS", "3600", 3600),
        ("LOCAL_ACCOUNTS", "true", True),
        ("METRICS_TOKEN", "m" * 32, Secret("m" * 32)),
        ("CORS_ALLOW_ORIGINS", "https://app.example.com", ("https://app.example.com",)),
        ("CORS_ALLOW_ORIGINS", "http://localhost:3000, http://[::1]:80", ("http://localhost:3000", "http://[::1]")),
        (
            "CORS_ALLOW_ORIGINS",
            "HTTPS://App.Example.com:443,capacitor://localhost",
            ("https://app.example.com", "capacitor://localhost"),
        ),
        ("SHUTDOWN_DELAY_SECONDS", "0", 0.0),
        ("SHUTDOWN_GRACE_SECONDS", "2.5", 2.5),
        ("SHUTDOWN_GRACE_SECONDS", ".5", 0.5),
        ("PORT", "08000", 8000),
        ("LOG_LEVEL", "DEBUG", "debug"),
        ("PORT", "", 8000),
    ],
)
def test_a_variable_sets_the_attribute_of_its_name(name: str, text: str, value: Any) -> None:
    assert getattr(Settings.from_environ({**NEEDED, name: text}), name.lower()) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("DATABASE_URL", "mysql://u:hunter2@h/d"),
        ("DATABASE_URL", "h/d"),
        ("DATABASE_URL", "postgresql://u:hunter2@h:port/d"),
        ("MIGRATION_DATABASE_URL", "sqlite:///x"),
        ("DATABASE_POOL_SIZE", "0"),
        ("DATABASE_POOL_SIZE", "1001"),
        ("DATABASE_POOL_SIZE", "ten"),
        ("DATABASE_PREPARED_STATEMENTS", "maybe"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("PORT", "80.0"),
        ("PORT", "٨٠"),
        ("FORWARDED_ALLOW_IPS", "10.0.0.1/8"),
        ("FORWARDED_ALLOW_IPS", "proxy.internal"),
        ("FORWARDED_ALLOW_IPS", "127.0.0.1;10.0.0.1"),
        ("FORWARDED_ALLOW_IPS", "127.0.0.1, *"),
        ("FORWARDED_ALLOW_IPS", "127.0.0.1,"),
        ("FORWARDED_ALLOW_IPS", "127.0.0.1:8000"),
        ("FORWARDED_ALLOW_IPS", "[::1]"),
        ("JWT_SECRET", "x" * 31),
        ("JWT_SECRET", " " * 40),
        ("JWT_SECRET", f"{'x' * 31}\n"),
        ("HOST", " "),
        ("PORT", "8_000"),
        ("PUBLIC_URL", "ftp://todos.example.com"),
        ("PUBLIC_URL", "https://user:hunter2@todos.example.com"),
        ("PUBLIC_URL", "https://todos.example.com,https://other.example.com"),
        ("JWT_SECRET_PREVIOUS", "short"),
        ("JWT_SECRET_PREVIOUS", SECRET),
        ("ACCESS_TOKEN_SECONDS", "9"),
        ("ACCESS_TOKEN_SECONDS", "1e3"),
        ("REFRESH_TOKEN_SECONDS", "0"),
        ("METRICS_TOKEN", "short"),
        ("CORS_ALLOW_ORIGINS", "*"),
        ("CORS_ALLOW_ORIGINS", "null"),
        ("CORS_ALLOW_ORIGINS", "app.example.com"),
        ("CORS_ALLOW_ORIGINS", "https://*.example.com"),
        ("CORS_ALLOW_ORIGINS", "https://app.example.com/"),
        ("CORS_ALLOW_ORIGINS", "https://app.example.com/path"),
        ("CORS_ALLOW_ORIGINS", "https://user@app.example.com"),
        ("CORS_ALLOW_ORIGINS", "https://app.example.com,"),
        ("CORS_ALLOW_ORIGINS", "https://app.example.com:port"),
        ("SHUTDOWN_DELAY_SECONDS", "-1"),
        ("SHUTDOWN_DELAY_SECONDS", "nan"),
        ("SHUTDOWN_GRACE_SECONDS", "inf"),
        ("SHUTDOWN_GRACE_SECONDS", "soon"),
        ("LOG_LEVEL", "loud"),
        ("LOCAL_ACCOUNTS", "none"),
        ("LOCAL_ACCOUNTS", "false"),
    ],
)
def test_a_mistake_is_one_line_that_names_its_variable(name: str, text: str) -> None:
    (mistake,) = mistakes(**{name: text})
    assert mistake.startswith(f"{name} ")
    assert "\n" not in mistake
    assert "hunter2" not in mistake


def test_a_proxy_that_can_not_be_one_is_named() -> None:
    (mistake,) = mistakes(FORWARDED_ALLOW_IPS="127.0.0.1, proxy.internal")
    assert mistake.endswith("networks such as 10.0.0.0/8, with commas between them, not 'proxy.internal'")


def test_every_mistake_is_reported_at_once() -> None:
    environ = {"DATABASE_URL": "x", "PORT": "x", "LOG_LEVEL": "x", "JWT_SECRET": "x", "DATABASE_POOL_SIZE": "x"}
    found = mistakes(**environ)
    assert sorted(mistake.split()[0] for mistake in found) == sorted(environ)


def test_a_database_of_ones_own_needs_a_secret() -> None:
    with pytest.raises(SettingsError, match="JWT_SECRET is missing"):
        Settings.from_environ({"DATABASE_URL": URL})


def test_secrets_show_in_no_representation() -> None:
    environ = {**NEEDED, "MIGRATION_DATABASE_URL": URL, "JWT_SECRET_PREVIOUS": "p" * 32, "METRICS_TOKEN": "m" * 32}
    settings = Settings.from_environ(environ)
    for shown in (repr(settings), str(settings), f"{settings.jwt_secret}", f"{settings.jwt_secret!r}"):
        for secret in ("hunter2", SECRET, "p" * 32, "m" * 32):
            assert secret not in shown
    assert settings.jwt_secret is not None
    assert settings.jwt_secret.value == SECRET


def test_settings_never_change() -> None:
    with pytest.raises(AttributeError):
        Settings.from_environ({}).port = 1  # type: ignore[misc]


def test_every_setting_can_be_set_from_the_environment() -> None:
    own = {field.upper() for field in Settings.__struct_fields__ if field != "issuers"}
    issuer = {f"ISSUER_{field.upper()}" for field in IssuerSettings.__struct_fields__ if field != "name"}
    assert {name for name, _, _ in describe_settings()} == own | issuer | {"ISSUER"}


def test_every_setting_is_described_in_one_line_with_its_default() -> None:
    described = {name: (default, meaning) for name, default, meaning in describe_settings()}
    assert all(default and meaning and "\n" not in meaning for default, meaning in described.values())
    defaults = {name: default for name, (default, _) in described.items()}
    for name, default in {"PORT": "8000", "REFRESH_TOKEN_SECONDS": "2592000", "SHUTDOWN_DELAY_SECONDS": "1"}.items():
        assert defaults[name] == default
    assert (defaults["DATABASE_INSECURE"], defaults["LOCAL_ACCOUNTS"]) == ("false", "true")
    assert (defaults["DATABASE_URL"], defaults["METRICS_TOKEN"]) == ("the embedded PostgreSQL", "none")
    assert (defaults["EMBEDDED_DATA_DIR"], defaults["ISSUER_ALGORITHMS"]) == (".data", "EdDSA,ES256,RS256")
