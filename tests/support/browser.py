"""A real browser, headless, whose pages do what a test asks: ``page.fetch(url)`` is the page's own ``fetch``.

It needs no driver: a page asks the server that it came from for the next thing to do, and posts what came of it.
"""

import contextlib
import dataclasses
import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")
SECONDS = 30.0
"""How long a page may take for an answer; the first one includes the browser's start."""
_QUIET = (
    "--headless",
    "--no-sandbox",  # it can't be had as root, nor in many containers; the pages are ours
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_PAGE = b"""<!doctype html><meta charset="utf-8"><title>A page of another origin</title>%s<script>
async function perform({url, options}) {
  try {
    const answer = await fetch(url, options);
    return {status: answer.status, headers: Object.fromEntries(answer.headers), text: await answer.text()};
  } catch (error) {
    return {refused: String(error)};
  }
}
(async () => {
  for (;;) {
    const task = await (await fetch("/task")).json();
    if (task) await fetch("/result", {method: "POST", body: JSON.stringify(await perform(task))});
  }
})();
</script>"""


class Refused(Exception):
    """The browser kept the answer from the page, or did not even send the request."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the page was allowed to read."""

    status: int
    headers: dict[str, str]
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


class Page:
    """A page of an origin of its own, ``http://localhost:PORT``, with ``embedded`` ones in frames."""

    def __init__(self, *embedded: "Page") -> None:
        self._embedded = embedded
        self._tasks: queue.Queue[Any] = queue.Queue()
        self._results: queue.Queue[Any] = queue.Queue()
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/task":
                    with contextlib.suppress(queue.Empty):
                        self._answer(json.dumps(page._tasks.get(timeout=5)).encode(), "application/json")
                        return
                    self._answer(b"null", "application/json")
                else:
                    frames = "".join(f'<iframe src="{other.origin}"></iframe>' for other in page._embedded)
                    self._answer(_PAGE.replace(b"%s", frames.encode()), "text/html")

            def do_POST(self) -> None:
                page._results.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self._answer(b"", "text/plain")

            def _answer(self, body: bytes, kind: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
                pass

            def handle(self) -> None:
                with contextlib.suppress(OSError):  # the browser has ended
                    super().handle()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.origin = f"http://localhost:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def fetch(
        self, url: str, method: str = "GET", headers: dict[str, str] | None = None, body: Any = None, **options: str
    ) -> Answer:
        """What the page's ``fetch`` gives it; ``body`` is sent as JSON. Raises Refused."""
        headers = dict(headers or {})
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        text = {} if body is None else {"body": json.dumps(body)}
        self._tasks.put({"url": url, "options": {"method": method, "headers": headers, **text, **options}})
        result = self._results.get(timeout=SECONDS)
        if "refused" in result:
            raise Refused(result["refused"])
        return Answer(**result)

    def close(self) -> None:
        for page in (self, *self._embedded):
            page._server.shutdown()
            page._server.server_close()


@contextlib.contextmanager
def browser(page: Page, profile: Path) -> Iterator[None]:
    """Chromium with this page open; ``profile`` is an empty folder for what it keeps."""
    assert CHROMIUM
    with subprocess.Popen(
        [CHROMIUM, *_QUIET, f"--user-data-dir={profile}", page.origin],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
            page.close()
