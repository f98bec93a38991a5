"""The documentation page: Swagger UI from this package, so that it works without the internet."""

import asyncio
from pathlib import Path
from typing import Any, cast

from litestar import Litestar, Request, Router
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin

from service.problems import html_escaped, html_safe

_FOLDER = Path(__file__).parent / "static"


class StaticFile(OpenAPIRenderPlugin):
    """A file of the page, served by Litestar's OpenAPI router."""

    def __init__(self, path: str, name: str, media_type: str) -> None:
        super().__init__(path=path, media_type=media_type)  # type: ignore[arg-type]
        self._content = (_FOLDER / name).read_bytes()

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        del request, openapi_schema
        return self._content

    def receive_router(self, router: Router) -> None:
        """Drop Litestar's route for what isn't there: it answers with a page, and not with a problem as all others."""
        router.routes = [route for route in router.routes if "{" not in route.path]


class Document(JsonRenderPlugin):
    """The document, written once either way: it is the same for everybody, whose answers then share its 200 KB."""

    def __init__(self) -> None:
        super().__init__(media_type="application/json")  # type: ignore[arg-type]
        self._contents: dict[bool, bytes] = {}

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        escape = "escape" in request.scope["state"]
        if escape not in self._contents:
            content = JsonRenderPlugin.render(self, request, openapi_schema)  # pyright: ignore[reportUnknownMemberType]
            self._contents[escape] = html_escaped(content) if escape else html_safe(content)
        return self._contents[escape]


async def make_document(app: Litestar) -> None:
    """Have Litestar make the document, once and beside the event loop, which it would hold for 0.1 s."""
    if "document" not in app.state:
        # `app.openapi_schema` makes objects: to make dictionaries of them, which is done once, too, takes 0.02 s more.
        make = cast(Any, app.plugins).get("OpenAPIPlugin").provide_openapi_schema
        app.state["document"] = asyncio.create_task(asyncio.to_thread(make))
    await asyncio.shield(app.state["document"])


def documentation() -> list[OpenAPIRenderPlugin]:
    """The page at the root, the files it loads, and the document as JSON."""
    return [
        StaticFile("/", "index.html", "text/html; charset=utf-8"),
        StaticFile("/initializer.js", "initializer.js", "text/javascript; charset=utf-8"),
        StaticFile("/swagger-ui-bundle.js", "swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
        StaticFile("/swagger-ui.css", "swagger-ui.css", "text/css; charset=utf-8"),
        StaticFile("/favicon-32x32.png", "favicon-32x32.png", "image/png"),
        Document(),
    ]
