"""Pages of other origins than the service's, in a real browser: what they can call, and what they can read of it."""

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest

from tests.conftest import PASSWORD, PLAIN_HTTP, Server, User, user_factory
from tests.support.browser import CHROMIUM, Answer, Page, Refused, browser

EXPOSED = {"etag", "link", "location", "retry-after", "x-request-id", "idempotency-replayed"}
SAFELISTED = {"cache-control", "content-language", "content-length", "content-type", "expires", "last-modified"}
"""What any page may read where it may read an answer at all (the Fetch standard)."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Page, Page]]:
    """One of an origin that the service allows, and one of an origin that it doesn't."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    stranger = Page()
    page = Page(stranger)
    with browser(page, tmp_path_factory.mktemp("chromium")):
        yield page, stranger


@pytest.fixture(scope="module")
def page(pages: tuple[Page, Page]) -> Page:
    return pages[0]


@pytest.fixture(scope="module")
def stranger(pages: tuple[Page, Page]) -> Page:
    return pages[1]


@pytest.fixture(scope="module")
def service(page: Page, start_module_server: Callable[..., Server]) -> Server:
    return start_module_server(CORS_ALLOW_ORIGINS=f"https://app.example.com,{page.origin}")


@pytest.fixture(scope="module")
def ada(service: Server) -> Iterator[User]:
    with user_factory(service) as make:
        yield make()


@pytest.fixture
def call(service: Server, page: Page, ada: User) -> Callable[..., Answer]:
    """Call it for a request of the allowed page, with a token."""

    def send(method: str, path: str, body: Any = None, **headers: str) -> Answer:
        sent = {
            "Authorization": f"Bearer {ada.token}",
            **{name.replace("_", "-"): text for name, text in headers.items()},
        }
        return page.fetch(service.url + path, method, sent, body)

    return send


class TestAnAllowedPage:
    def test_signs_in_and_works(self, service: Server, page: Page) -> None:
        email = f"{secrets.token_hex(6)}@example.com"
        account = {"email": email, "password": PASSWORD}
        assert page.fetch(f"{service.url}/v1/auth/register", "POST", body=account).status == 201
        pair = page.fetch(f"{service.url}/v1/auth/token", "POST", body=account).json()
        headers = {"Authorization": f"Bearer {pair['access_token']}"}
        made = page.fetch(f"{service.url}/v1/todos", "POST", headers, {"title": "Water the plants"})
        assert made.status == 201
        listed = page.fetch(f"{service.url}/v1/todos", headers=headers).json()
        assert [todo["title"] for todo in listed["items"]] == ["Water the plants"]

    def test_uses_every_method_and_every_header_of_the_contract(self, call: Callable[..., Answer]) -> None:
        key = secrets.token_hex(8)
        made = call("POST", "/v1/todos", {"title": "Buy milk"}, Idempotency_Key=key, X_Request_ID="from-the-page")
        assert (made.status, made.headers["x-request-id"]) == (201, "from-the-page")
        location, version = made.headers["location"], made.headers["etag"]
        again = call("POST", "/v1/todos", {"title": "Buy milk"}, Idempotency_Key=key)
        assert (again.headers["idempotency-replayed"], again.headers["location"]) == ("true", location)
        assert call("GET", location, If_None_Match=version).status == 304
        assert call("HEAD", location).headers["etag"] == version
        changed = call("PATCH", location, {"status": "completed"}, If_Match=version)
        assert (changed.status, changed.json()["status"]) == (200, "completed")
        number = made.json()["number"]
        replaced = call("PUT", f"/api/{made.json()['user_id']}/tasks/{number}", {"title": "Buy bread"})
        assert replaced.json()["title"] == "Buy bread"
        assert call("DELETE", location).status == 204

    def test_follows_a_list_by_its_link(self, call: Callable[..., Answer]) -> None:
        for number in range(3):
            assert call("POST", "/v1/conversations", {"title": f"Talk {number}"}).status == 201
        first = call("GET", "/v1/conversations?limit=2")
        target = first.headers["link"].partition(">")[0].removeprefix("<")
        assert len(call("GET", target).json()["items"]) >= 1

    def test_reads_the_headers_that_are_exposed_and_no_others(self, call: Callable[..., Answer], ada: User) -> None:
        made = call("POST", "/v1/todos", {"title": "Buy milk"})
        assert made.headers.keys() - SAFELISTED == {"etag", "location", "x-request-id"}
        sent = ada.client.get(made.headers["location"]).headers
        assert sent.keys() - SAFELISTED - EXPOSED >= {"x-content-type-options", "referrer-policy"}

    @pytest.mark.parametrize(
        ("method", "path", "body", "status", "code"),
        [
            ("GET", "/v1/todos/999999", None, 404, "not_found"),
            ("GET", "/v1/no-such-path", None, 404, "not_found"),
            ("DELETE", "/v1/todos", None, 405, "method_not_allowed"),
            ("POST", "/v1/todos", {"title": ""}, 422, "validation_failed"),
            ("POST", "/v1/todos", [], 422, "validation_failed"),
            ("GET", "/v1/todos?limit=0", None, 422, "validation_failed"),
        ],
    )
    def test_reads_what_went_wrong(
        self, call: Callable[..., Answer], method: str, path: str, body: Any, status: int, code: str
    ) -> None:
        answer = call(method, path, body)
        assert (answer.status, answer.json()["code"]) == (status, code)
        assert answer.headers["x-request-id"] == answer.json()["request_id"]

    def test_reads_that_a_version_is_gone(self, call: Callable[..., Answer]) -> None:
        made = call("POST", "/v1/todos", {"title": "Buy milk"})
        answer = call("PATCH", made.headers["location"], {"title": "Buy bread"}, If_Match='"7"')
        assert (answer.status, answer.json()["code"]) == (412, "version_mismatch")

    @pytest.mark.parametrize(
        ("headers", "code"),
        [({}, "unauthenticated"), ({"Authorization": "Bearer no.such.token"}, "invalid_token")],
    )
    def test_reads_that_it_has_to_sign_in(
        self, service: Server, page: Page, headers: dict[str, str], code: str
    ) -> None:
        answer = page.fetch(f"{service.url}/v1/todos", headers=headers)
        assert (answer.status, answer.json()["code"]) == (401, code)

    def test_reads_when_it_may_try_again(self, service: Server, page: Page) -> None:
        wrong = {"email": f"{secrets.token_hex(6)}@example.com", "password": "a wrong guess"}
        tried = 0
        while (answer := page.fetch(f"{service.url}/v1/auth/token", "POST", body=wrong)).status == 401 and tried < 60:
            tried += 1
        assert (answer.status, answer.json()["code"]) == (429, "rate_limited")
        assert int(answer.headers["retry-after"]) > 0

    def test_reads_the_document_and_the_health(self, service: Server, page: Page) -> None:
        assert page.fetch(f"{service.url}/schema/openapi.json").json()["openapi"].startswith("3.1")
        assert page.fetch(f"{service.url}/health/ready").status == 200

    def test_does_not_read_the_metrics(self, service: Server, page: Page, ada: User) -> None:
        """Though the browser may run beside the service, from where no token is needed."""
        assert httpx.get(f"{service.url}/metrics", verify=PLAIN_HTTP).status_code == 200
        for headers in ({}, {"Authorization": f"Bearer {ada.token}"}):
            for path in ("/metrics", "/metrics/"):
                answer = page.fetch(service.url + path, headers=headers)
                assert (answer.status, answer.json()["code"]) == (401, "unauthenticated")

    def test_sends_no_cookies(self, service: Server, page: Page) -> None:
        with pytest.raises(Refused):
            page.fetch(f"{service.url}/health/live", credentials="include")

    def test_sends_no_header_that_means_nothing_here(self, service: Server, page: Page) -> None:
        with pytest.raises(Refused):
            page.fetch(f"{service.url}/health/live", headers={"X-Forwarded-For": "192.0.2.1"})


class TestAnotherPage:
    def test_reads_nothing(self, service: Server, stranger: Page, ada: User) -> None:
        headers = {"Authorization": f"Bearer {ada.token}"}
        for path, sent in (("/health/live", {}), ("/v1/todos", {}), ("/v1/todos", headers), ("/metrics", {})):
            with pytest.raises(Refused):
                stranger.fetch(service.url + path, headers=sent)

    def test_changes_nothing(self, service: Server, stranger: Page, ada: User) -> None:
        todo = ada.client.post("/v1/todos", json={"title": "Keep me"}).json()
        headers = {"Authorization": f"Bearer {ada.token}"}
        for method, path, body in (
            ("POST", "/v1/todos", {"title": "Planted"}),
            ("PATCH", f"/v1/todos/{todo['id']}", {"title": "Changed"}),
            ("DELETE", f"/v1/todos/{todo['id']}", None),
        ):
            with pytest.raises(Refused):
                stranger.fetch(service.url + path, method, headers, body)
        assert ada.client.get(f"/v1/todos/{todo['id']}").json() == todo
        assert "Planted" not in ada.client.get("/v1/todos").text

    def test_guesses_no_passwords(self, service: Server, stranger: Page) -> None:
        """JSON needs a preflight, and what a form may send without one is no JSON."""
        url = f"{service.url}/v1/auth/token"
        guess = {"email": f"{secrets.token_hex(6)}@example.com", "password": "a wrong guess"}
        with psycopg.connect(service.database.superuser_url, autocommit=True) as connection:
            counted = connection.execute("SELECT count(*) FROM sign_in_attempts").fetchone()
            with pytest.raises(Refused):
                stranger.fetch(url, "POST", body=guess)
            sent = stranger.fetch(url, "POST", {"Content-Type": "text/plain"}, guess, mode="no-cors")
            assert sent.status == 0  # all that a page gets to know of it
            assert connection.execute("SELECT count(*) FROM sign_in_attempts").fetchone() == counted


def test_without_the_setting_no_page_of_another_origin_reads_anything(server: Server, page: Page, ada: User) -> None:
    for path in ("/health/live", "/v1/todos", "/schema/openapi.json"):
        with pytest.raises(Refused):
            page.fetch(server.url + path)
        with pytest.raises(Refused):
            page.fetch(server.url + path, headers={"Authorization": f"Bearer {ada.token}"})
    answer = httpx.get(f"{server.url}/health/live", headers={"Origin": page.origin}, verify=PLAIN_HTTP)
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.com.attacker.test",
        "https://app-example.com",
        "http://app.example.com",
        "null",
        "https://app.example.com:8443",
        "https://APP.example.com",
        "https://app.example.com/",
        "*",
    ],
)
def test_an_origin_that_only_looks_like_an_allowed_one_is_refused(service: Server, origin: str) -> None:
    """Which a browser can't be made to send."""
    for method in ("GET", "OPTIONS"):
        answer = httpx.request(
            method,
            f"{service.url}/health/live",
            headers={"Origin": origin, "Access-Control-Request-Method": "GET"},
            verify=PLAIN_HTTP,
        )
        assert "access-control-allow-origin" not in answer.headers
    allowed = httpx.get(f"{service.url}/health/live", headers={"Origin": "https://app.example.com"}, verify=PLAIN_HTTP)
    assert allowed.headers["access-control-allow-origin"] == "https://app.example.com"
    assert allowed.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in allowed.headers


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"Origin": "https://evil.example.com"}, "CORS_ALLOW_ORIGINS"),
        ({"Access-Control-Request-Method": "TRACE"}, "method"),
        ({"Access-Control-Request-Headers": "authorization, x-other"}, "headers"),
    ],
)
def test_a_refused_preflight_says_why_in_a_problem(service: Server, asked: dict[str, str], reason: str) -> None:
    headers = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "GET", **asked}
    answer = httpx.options(f"{service.url}/v1/todos", headers=headers, verify=PLAIN_HTTP)
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")
    assert reason in answer.json()["detail"]
    assert "access-control-allow-methods" not in answer.headers


def test_a_page_may_send_its_trace_and_what_openai_s_sdk_sends(service: Server) -> None:
    headers = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "GET"}
    openai = "x-stainless-lang, x-stainless-retry-count, x-stainless-runtime-version, openai-project"
    headers["Access-Control-Request-Headers"] = f"authorization, traceparent, tracestate, {openai}"
    answer = httpx.options(f"{service.url}/v1/todos", headers=headers, verify=PLAIN_HTTP)
    assert answer.status_code == 204
    allowed = answer.headers["access-control-allow-headers"].lower()
    assert "traceparent" in allowed
    assert "tracestate" in allowed
