"""Outside issuers: their settings, which one judges a token, and what it makes of it."""

import asyncio
import re
import secrets
import subprocess
import sys
import time
from typing import Any

import jwt
import pytest

from service.identity.issuers import Issuer, Subject
from service.identity.tokens import CLOCK_SKEW_SECONDS, TOKEN_BYTES, parse_token
from service.problems import Problem
from service.settings import IssuerSettings, Secret, Settings, SettingsError
from tests.conftest import REPOSITORY, service_environment
from tests.support.jwks_server import Key, claims, encoded, jwks_server, sign

NAME = "https://accounts.example.com"
KEYS = f"{NAME}/api/auth/jwks"
SECRET, OTHER = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
NEEDED = {"DATABASE_URL": "postgresql://u@h/d", "JWT_SECRET": "x" * 32}


# Settings


def issuers(**environ: str) -> tuple[IssuerSettings, ...]:
    return Settings.from_environ({**NEEDED, **environ}).issuers


def mistakes(**environ: str) -> list[str]:
    with pytest.raises(SettingsError) as refused:
        Settings.from_environ({**NEEDED, **environ})
    return refused.value.mistakes


def test_two_settings_are_enough() -> None:
    assert issuers(ISSUER=NAME, ISSUER_JWKS_URL=KEYS) == (
        IssuerSettings(
            name=NAME,
            audience=NAME,
            jwks_url=KEYS,
            algorithms=("EdDSA", "ES256", "RS256"),
            secret=None,
            secret_previous=None,
            absent_claims=frozenset(),
            creates_users=True,
            token_seconds=604_800,
        ),
    )


def test_each_issuer_has_settings_of_its_own() -> None:
    found = issuers(
        ISSUER=NAME,
        ISSUER_JWKS_URL=KEYS,
        ISSUER_AUDIENCE="todos",
        ISSUER_ALGORITHMS="RS256, PS256",
        ISSUER_CREATES_USERS="false",
        ISSUER_2="chat",
        ISSUER_2_SECRET=SECRET,
        ISSUER_2_SECRET_PREVIOUS=OTHER,
        ISSUER_2_ABSENT_CLAIMS="iss,aud",
        ISSUER_2_TOKEN_SECONDS="3600",
        ISSUER_9="last",
        ISSUER_9_JWKS_URL="http://localhost:3000/jwks",
    )
    assert found == (
        IssuerSettings(name=NAME, audience="todos", jwks_url=KEYS, algorithms=("RS256", "PS256"), creates_users=False),
        IssuerSettings(
            name="chat",
            audience="chat",
            secret=Secret(SECRET),
            secret_previous=Secret(OTHER),
            absent_claims=frozenset({"iss", "aud"}),
            token_seconds=3_600,
        ),
        IssuerSettings(name="last", audience="last", jwks_url="http://localhost:3000/jwks"),
    )
    assert SECRET not in repr(found)
    assert OTHER not in repr(found)


@pytest.mark.parametrize(
    "url",
    ["https://h/k", "https://h:8443/k?a=b", "http://localhost/k", "http://127.8.9.1:3000/k", "http://[::1]:3000/k"],
)
def test_a_key_set_comes_by_https_or_from_this_machine(url: str) -> None:
    assert issuers(ISSUER=NAME, ISSUER_JWKS_URL=url)[0].jwks_url == url


TWO = {"ISSUER": NAME, "ISSUER_JWKS_URL": KEYS}


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({"ISSUER": NAME}, ["ISSUER"]),
        ({"ISSUER_JWKS_URL": KEYS}, ["ISSUER"]),
        ({"ISSUER_3_AUDIENCE": "x"}, ["ISSUER_3", "ISSUER_3"]),
        ({**TWO, "ISSUER_SECRET": SECRET}, ["ISSUER"]),
        ({**TWO, "ISSUER": "todochat"}, ["ISSUER"]),
        ({**TWO, "ISSUER": "x" * 256}, ["ISSUER"]),
        ({**TWO, "ISSUER": "a\nb"}, ["ISSUER"]),
        *(
            ({**TWO, "ISSUER_JWKS_URL": url}, ["ISSUER_JWKS_URL"])
            for url in (
                "http://accounts.example.com/jwks",
                "http://localhost.example.com/jwks",
                "http://10.0.0.1/jwks",
                "ftp://localhost/jwks",
                "file:///etc/keys",
                "https://",
                "https://user:hunter2@h/k",
                "https://h/k#fragment",
                "https://h:port/k",
                "https://h/\u00e9",
                "jwks",
            )
        ),
        *(
            ({**TWO, "ISSUER_ALGORITHMS": names}, ["ISSUER_ALGORITHMS"])
            for names in ("HS256", "none", "EdDSA,HS512", "RS256;ES256", "rs256")
        ),
        ({"ISSUER": NAME, "ISSUER_SECRET": SECRET, "ISSUER_ALGORITHMS": "RS256"}, ["ISSUER_ALGORITHMS"]),
        ({"ISSUER": NAME, "ISSUER_SECRET": "hunter2"}, ["ISSUER_SECRET"]),
        ({"ISSUER": NAME, "ISSUER_SECRET": SECRET, "ISSUER_SECRET_PREVIOUS": SECRET}, ["ISSUER_SECRET_PREVIOUS"]),
        ({"ISSUER": NAME, "ISSUER_SECRET": NEEDED["JWT_SECRET"]}, ["ISSUER_SECRET"]),
        ({"ISSUER": NAME, "ISSUER_SECRET": SECRET, "JWT_SECRET_PREVIOUS": SECRET}, ["ISSUER_SECRET"]),
        (
            {"ISSUER": NAME, "ISSUER_SECRET": SECRET, "ISSUER_SECRET_PREVIOUS": NEEDED["JWT_SECRET"]},
            ["ISSUER_SECRET_PREVIOUS"],
        ),
        ({**TWO, "ISSUER_SECRET_PREVIOUS": SECRET}, ["ISSUER_SECRET_PREVIOUS"]),
        ({**TWO, "ISSUER_ABSENT_CLAIMS": "sub"}, ["ISSUER_ABSENT_CLAIMS"]),
        ({**TWO, "ISSUER_ABSENT_CLAIMS": "aud", "ISSUER_AUDIENCE": "todos"}, ["ISSUER_AUDIENCE"]),
        ({**TWO, "ISSUER_AUDIENCE": " "}, ["ISSUER_AUDIENCE"]),
        ({**TWO, "ISSUER_1_AUDIENCE": "x"}, ["ISSUER_1_AUDIENCE"]),
        ({**TWO, "ISSUER_10": "b", "ISSUER_10_SECRET": SECRET}, ["ISSUER_10", "ISSUER_10_SECRET"]),
        ({**TWO, "ISSUER_CREATES_USERS": "perhaps"}, ["ISSUER_CREATES_USERS"]),
        ({**TWO, "ISSUER_TOKEN_SECONDS": "59"}, ["ISSUER_TOKEN_SECONDS"]),
        ({**TWO, "ISSUER_TOKEN_SECONDS": "2592001"}, ["ISSUER_TOKEN_SECONDS"]),
        ({**TWO, "ISSUER_2": NAME, "ISSUER_2_SECRET": SECRET}, ["ISSUER_2"]),
        (
            {
                **TWO,
                "ISSUER_ABSENT_CLAIMS": "iss",
                "ISSUER_2": "b",
                "ISSUER_2_SECRET": SECRET,
                "ISSUER_2_ABSENT_CLAIMS": "iss",
            },
            ["ISSUER_2_ABSENT_CLAIMS"],
        ),
        (
            {"ISSUER_JWKS_URL": "x", "ISSUER_ALGORITHMS": "x", "ISSUER_2": "b", "ISSUER_2_SECRET": "x", "PORT": "x"},
            ["PORT", "ISSUER_JWKS_URL", "ISSUER_ALGORITHMS", "ISSUER", "ISSUER_2_SECRET"],
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_its_variable(environ: dict[str, str], names: list[str]) -> None:
    found = mistakes(**environ)
    assert sorted(line.split()[0] for line in found) == sorted(names)
    assert not any("hunter2" in line or SECRET in line or "\n" in line for line in found)


def test_without_local_accounts_no_secret_is_needed_but_an_issuer_is() -> None:
    environ = {"DATABASE_URL": NEEDED["DATABASE_URL"], "LOCAL_ACCOUNTS": "false"}
    settings = Settings.from_environ({**environ, "ISSUER": NAME, "ISSUER_JWKS_URL": KEYS})
    assert (settings.jwt_secret, settings.local_accounts) == (None, False)
    with pytest.raises(SettingsError, match="LOCAL_ACCOUNTS"):
        Settings.from_environ(environ)


def test_a_service_without_a_key_set_loads_no_http_client() -> None:
    program = "import sys, service.app; sys.exit('httpx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, env=service_environment(), check=False)
    assert done.returncode == 0


# What a token is made of


def parts(token: str) -> list[str]:
    return token.split(".")


GOOD = jwt.encode(claims(NAME, "ada"), SECRET, "HS256")


HEADERS = {
    "names alg twice": b'{"alg": "none", "alg": "HS256"}',
    "is a list": b"[1]",
    "is UTF-16": '{"alg": "HS256"}'.encode("utf-16"),
    "has crit": b'{"alg": "HS256", "crit": ["exp"]}',
    "has b64": b'{"alg": "HS256", "b64": true}',
}
PAYLOADS = {
    "names sub twice": b'{"sub": "a", "sub": "b"}',
    "names something deep inside twice": b'{"sub": "a", "x": {"y": 1, "y": 1}}',
    "has what is no number": b'{"exp": NaN}',
    "has infinity": b'{"exp": Infinity}',
    "has a number of 5000 digits": b'{"exp": ' + b"9" * 5000 + b"}",
    "is a list": b"[1]",
    "is nested": b"[" * 3000,
    "has a byte order mark": b"\xef\xbb\xbf{}",
    "is not UTF-8": b'{"sub": "\xff"}',
}


def forms() -> dict[str, str]:
    """Tokens that some reader would take for the good one."""
    header, payload, signature = parts(GOOD)
    spare = signature[:-1] + chr(ord(signature[-1]) + 1)  # a bit that stands for nothing
    return {
        "empty": "",
        "two parts": f"{header}.{payload}",
        "four parts": f"{GOOD}.{signature}",
        "padded": f"{GOOD}=",
        "padded header": f"{header}==.{payload}.{signature}",
        "white space": f"{header}.{payload}.{signature[:5]} {signature[5:]}",
        "line break": f"{GOOD}\n",
        "other alphabet": f"{header}.{payload}.{'+' + signature[1:]}",
        "other spelling": f"{header}.{payload}.{spare}",
        **{f"header {name}": f"{encoded(part)}.{payload}.{signature}" for name, part in HEADERS.items()},
        **{f"payload {name}": f"{header}.{encoded(part)}.{signature}" for name, part in PAYLOADS.items()},
        "too long": jwt.encode({"x": "x" * TOKEN_BYTES}, SECRET, "HS256"),
    }


@pytest.mark.parametrize("name", forms())
def test_a_token_has_one_form(name: str) -> None:
    assert parse_token(GOOD.encode()).claims["sub"] == "ada"
    with pytest.raises(Problem, match="invalid_token"):
        parse_token(forms()[name].encode())


# What an issuer makes of it


def judge(settings: IssuerSettings, token: str) -> Subject:
    return asyncio.run(Issuer(settings).judge(parse_token(token.encode())))


def shared(**changes: Any) -> IssuerSettings:
    return IssuerSettings(**{"name": NAME, "audience": NAME, "secret": Secret(SECRET), **changes})


def signed(secret: str = SECRET, subject: object = "ada", **changes: object) -> str:
    return sign("HS256", secret.encode(), claims(NAME, subject, **changes), {"alg": "HS256"})


def refused(settings: IssuerSettings, token: str, code: str = "invalid_token") -> None:
    with pytest.raises(Problem) as problem:
        judge(settings, token)
    assert (problem.value.code, problem.value.status) == (code, 401)


def test_a_token_tells_its_subject_and_what_may_be_kept_of_them() -> None:
    now = int(time.time())
    token = signed(iat=now, exp=now + 60, email="Ada@Example.org", name="Ada \U0001f9ee")
    assert judge(shared(), token) == Subject(NAME, "ada", "Ada@Example.org", "Ada \U0001f9ee", now, now + 60, True)
    assert judge(shared(creates_users=False), token).creates_user is False


@pytest.mark.parametrize("value", ["", " ", "\u2003", "x" * 201, "a\0b", "\ud800", 5, ["Ada"], None, {"a": 1}])
def test_a_name_that_can_t_be_kept_is_left_out(value: object) -> None:
    assert judge(shared(), signed(name=value)).full_name is None


@pytest.mark.parametrize("value", ["", "x" * 256, "a\0b@example.org", "\udfff", 5, ["a@example.org"], None])
def test_an_address_that_can_t_be_kept_is_left_out(value: object) -> None:
    assert judge(shared(), signed(email=value)).email is None


@pytest.mark.parametrize("subject", ["x", "x" * 255, "auth0|5f7c", "やあ", "a b/c", "5", "'; DROP TABLE users; --"])
def test_a_subject_is_any_text(subject: str) -> None:
    assert judge(shared(), signed(subject=subject)).subject == subject


@pytest.mark.parametrize("subject", [..., None, "", "x" * 256, "a\0b", "\0", "\ud800", 5, 5.5, True, ["ada"], {"a": 1}])
def test_a_token_without_a_sound_subject_is_invalid(subject: object) -> None:
    refused(shared(), signed(subject=subject))


def test_while_a_shared_secret_is_rotated_tokens_of_both_are_good() -> None:
    rotating = shared(secret=Secret(OTHER), secret_previous=Secret(SECRET))
    for secret in (SECRET, OTHER):
        assert judge(rotating, signed(secret)).subject == "ada"
    refused(shared(secret=Secret(OTHER)), signed(SECRET))
    refused(rotating, signed(secrets.token_urlsafe(32)))


def test_claims_that_are_declared_absent_must_be_absent() -> None:
    bare = shared(absent_claims=frozenset({"iss", "aud"}))
    assert judge(bare, signed(iss=..., aud=...)).issuer == NAME
    for present in ({"iss": ...}, {"aud": ...}, {}, {"iss": None, "aud": ...}, {"iss": ..., "aud": None}):
        refused(bare, signed(**present))
    for absent in ({"iss": ...}, {"aud": ...}, {"iss": None}, {"aud": None}):
        refused(shared(), signed(**absent))


def test_the_audience_may_be_another_than_the_issuer_and_one_of_several() -> None:
    settings = shared(audience="todos")
    for audience in ("todos", ["todos"], ["x", "todos"]):
        assert judge(settings, signed(aud=audience)).subject == "ada"
    for audience in (NAME, [], ["x"], "todos ", ["todos", 5], {"todos": 1}, 5):
        refused(settings, signed(aud=audience))


NOW = "now"


@pytest.mark.parametrize(
    ("times", "code"),
    [
        ({"iat": 0, "exp": 60}, ""),
        ({"iat": 0, "exp": 604_800}, ""),
        ({"iat": CLOCK_SKEW_SECONDS - 5, "exp": 900}, ""),
        ({"nbf": CLOCK_SKEW_SECONDS - 5}, ""),
        ({"nbf": -5}, ""),
        ({"iat": 0, "exp": 604_801}, "invalid_token"),
        ({"iat": -604_400, "exp": 900}, "invalid_token"),
        ({"iat": CLOCK_SKEW_SECONDS + 5, "exp": 900}, "invalid_token"),
        ({"nbf": CLOCK_SKEW_SECONDS + 5}, "invalid_token"),
        ({"iat": 50, "exp": 40}, "invalid_token"),
        ({"iat": 50, "exp": 50}, "invalid_token"),
        ({"iat": -900, "exp": -1}, "token_expired"),
        ({"iat": -900, "exp": 0}, "token_expired"),
    ],
)
def test_a_token_holds_for_its_time_and_no_longer_than_its_issuer_may_say(times: dict[str, int], code: str) -> None:
    token = signed(**{name: int(time.time()) + seconds for name, seconds in times.items()})
    if code:
        refused(shared(), token, code)
    else:
        assert judge(shared(), token).subject == "ada"


def test_how_long_a_token_may_live_is_a_setting() -> None:
    fortnight = signed(exp=int(time.time()) + 14 * 86_400)
    refused(shared(), fortnight)
    assert judge(shared(token_seconds=14 * 86_400), fortnight).subject == "ada"


@pytest.mark.parametrize("name", ["iat", "exp", "nbf"])
@pytest.mark.parametrize("value", [None, "5", 5.0, True, -1e999, [5], 1e300])
def test_times_are_whole_seconds(name: str, value: object) -> None:
    refused(shared(), signed(**{name: value}))


@pytest.mark.parametrize("typ", [..., "JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"])
def test_the_types_of_access_tokens_are_taken(typ: object) -> None:
    header = {"alg": "HS256"} if typ is ... else {"alg": "HS256", "typ": typ}
    assert judge(shared(), sign("HS256", SECRET.encode(), claims(NAME, "ada"), header)).subject == "ada"


@pytest.mark.parametrize("typ", ["rt+jwt", "dpop+jwt", "logout+jwt", "", None, 5, ["JWT"]])
def test_other_types_are_not(typ: object) -> None:
    refused(shared(), sign("HS256", SECRET.encode(), claims(NAME, "ada"), {"alg": "HS256", "typ": typ}))


@pytest.mark.parametrize("algorithm", ["none", "HS384", "HS512", "hs256", "RS256", "EdDSA", "", None, 5, ["HS256"]])
def test_a_shared_secret_is_for_hs256_whatever_the_header_says(algorithm: object) -> None:
    refused(shared(), sign("HS256", SECRET.encode(), claims(NAME, "ada"), {"alg": algorithm}))
    refused(shared(), sign("HS256", SECRET.encode(), claims(NAME, "ada"), {}))


def by_key_set(url: str, *algorithms: str) -> IssuerSettings:
    return IssuerSettings(name=NAME, audience=NAME, jwks_url=url, algorithms=algorithms)


ALGORITHMS = ("EdDSA", "ES256", "ES384", "ES512", "RS256", "RS512", "PS256")
PAIRS = {name: Key(name, kid=name) for name in ALGORITHMS}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_of_a_key_set_is_checked_with_its_key(algorithm: str) -> None:
    with jwks_server(*PAIRS.values()) as server:
        token = PAIRS[algorithm].sign(claims(NAME, "ada"))
        assert judge(by_key_set(server.url, *ALGORITHMS), token).subject == "ada"
        tampered = [*parts(token)]
        tampered[1] = encoded(claims(NAME, "eve"))
        refused(by_key_set(server.url, *ALGORITHMS), ".".join(tampered))
        others = [name for name in ALGORITHMS if name != algorithm]
        refused(by_key_set(server.url, *others), token)
        for other in others:
            refused(by_key_set(server.url, *ALGORITHMS), PAIRS[algorithm].sign(claims(NAME, "ada"), kid=other))
            refused(by_key_set(server.url, *ALGORITHMS), PAIRS[algorithm].sign(claims(NAME, "ada"), alg=other))


def test_eddsa_may_be_called_by_the_name_of_its_curve() -> None:
    key = Key("EdDSA")
    with jwks_server(key) as server:
        for name in ("EdDSA", "Ed25519"):
            key.jwk["alg"] = name
            for alg in ("EdDSA", "Ed25519"):
                token = key.sign(claims(NAME, "ada"), alg=alg)
                assert judge(by_key_set(server.url, "EdDSA"), token).subject == "ada"
                refused(by_key_set(server.url, "ES256"), token)
        refused(by_key_set(server.url, "EdDSA"), key.sign(claims(NAME, "ada"), alg="Ed448"))


def test_a_public_key_is_no_secret_of_hs256() -> None:
    key = PAIRS["RS256"]
    with jwks_server(key) as server:
        for secret in (key.jwk["n"].encode(), repr(key.jwk).encode()):
            token = sign("HS256", secret, claims(NAME, "ada"), {"alg": "HS256", "kid": key.kid})
            refused(by_key_set(server.url, "RS256"), token)
        assert server.fetches == 0


@pytest.mark.parametrize("member", ["jwk", "jku", "x5u", "x5c"])
def test_a_key_that_the_token_brings_along_is_not_looked_at(member: str) -> None:
    forger, key = Key("EdDSA"), Key("EdDSA")
    with jwks_server(key) as server, jwks_server(forger) as elsewhere:
        brought = {"jwk": forger.jwk, "jku": elsewhere.url, "x5u": elsewhere.url, "x5c": ["AAAA"]}[member]
        refused(by_key_set(server.url, "EdDSA"), forger.sign(claims(NAME, "ada"), kid=key.kid, **{member: brought}))
        assert elsewhere.fetches == 0


@pytest.mark.parametrize("kid", [5, None, ["a"], {"a": 1}])
def test_a_key_id_is_a_text(kid: object) -> None:
    key = Key("EdDSA")
    with jwks_server(key, Key("EdDSA")) as server:
        refused(by_key_set(server.url, "EdDSA"), key.sign(claims(NAME, "ada"), kid=kid))


def test_no_secret_stands_in_an_error() -> None:
    with pytest.raises(Problem) as problem:
        judge(shared(), signed(secrets.token_urlsafe(32)))
    assert not re.search(f"{SECRET}|{OTHER}", repr(problem.value) + problem.value.detail)
