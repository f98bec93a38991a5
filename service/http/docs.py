"""The documentation page: Swagger UI from this package, so that it works without the internet."""

from functools import lru_cache
from hashlib import sha256
from pathlib import Path

_STATIC = Path(__file__).parent / "static"

_FILES = {
    "/schema": ("index.html", "text/html; charset=utf-8"),
    "/schema/initializer.js": ("initializer.js", "text/javascript; charset=utf-8"),
    "/schema/swagger-ui-bundle.js": ("swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    "/schema/swagger-ui.css": ("swagger-ui.css", "text/css; charset=utf-8"),
    "/schema/favicon-32x32.png": ("favicon-32x32.png", "image/png"),
}

REVALIDATE = (b"cache-control", b"public, no-cache")
"""A browser keeps the files and asks with their ETag whether they are still the same."""


def docs_files() -> dict[str, tuple[str, bytes]]:
    """Path → (content type, body) of everything the page needs but the OpenAPI document."""
    return {path: (kind, (_STATIC / name).read_bytes()) for path, (name, kind) in _FILES.items()}


@lru_cache(maxsize=32)
def file_etag(body: bytes) -> bytes:
    """A strong ETag of a file's content (RFC 9110, section 8.8.3)."""
    return b'"%s"' % sha256(body).hexdigest()[:32].encode()
