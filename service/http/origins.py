"""Pages of other origins, where Litestar's own CORS leaves a gap: its refusals, and answers that are not Litestar's."""

from collections.abc import Iterable

from litestar.config.cors import CORSConfig
from litestar.constants import DEFAULT_ALLOWED_CORS_HEADERS

from service.problems import Problem

Headers = Iterable[tuple[bytes, bytes]]

ALLOW_ORIGIN = b"access-control-allow-origin"


class Origins:
    """What pages of other origins may do. The terms are those of the Fetch standard, "CORS protocol"."""

    def __init__(self, config: CORSConfig | None) -> None:
        self._config = config
        named = [*config.allow_headers, *DEFAULT_ALLOWED_CORS_HEADERS] if config else []
        self._allowed_headers = {name.lower() for name in named}
        self._exposed = ", ".join(config.expose_headers).encode() if config else b""

    def headers(self, sent: Headers) -> list[tuple[bytes, bytes]]:
        """What lets the page that sent a request with these headers read the answer."""
        if self._config is None:
            return []
        origin = dict(sent).get(b"origin", b"")
        if not self._config.is_origin_allowed(origin.decode("latin-1")):
            return []
        return [(ALLOW_ORIGIN, origin), (b"vary", b"Origin"), (b"access-control-expose-headers", self._exposed)]

    def check_preflight(self, sent: Headers) -> None:
        """Refuse with a problem what Litestar would refuse with a line of text. Raises ``malformed_request``."""
        headers = {name: value.decode("latin-1") for name, value in sent}
        origin = headers.get(b"origin")
        if self._config is None or not origin:
            return
        method = headers.get(b"access-control-request-method", "")
        names = [name.strip().lower() for name in headers.get(b"access-control-request-headers", "").split(",")]
        if not self._config.is_origin_allowed(origin):
            raise Problem("malformed_request", "Pages of this origin may not call the service: see CORS_ALLOW_ORIGINS.")
        if method and method not in self._config.allow_methods:
            raise Problem("malformed_request", "Pages of other origins may not use this method.")
        if not self._allowed_headers.issuperset(filter(None, names)):
            raise Problem("malformed_request", "Pages of other origins may not send one of these headers.")
