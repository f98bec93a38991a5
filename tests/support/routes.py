"""Every operation of the application, from the handlers that it registers: what tests go through one by one."""

import dataclasses
import re
from typing import Any, get_args, get_origin

from litestar.handlers import HTTPRouteHandler
from litestar.utils import get_enum_string_value

from service.app import HANDLERS, LOCAL_HANDLERS
from service.db.queries import Versioned
from service.http.request import BODY_BYTES


@dataclasses.dataclass(frozen=True)
class Route:
    """An operation, as its handler's decorator and signature say it."""

    handler: HTTPRouteHandler

    @property
    def name(self) -> str:
        return self.handler.handler_name

    @property
    def method(self) -> str:
        (method,) = self.handler.http_methods
        return method

    @property
    def path(self) -> str:
        """With the parameters' names, such as ``/v1/todos/{todo_id}``."""
        (path,) = self.handler.paths
        return re.sub(r"{(\w+):\w+}", r"{\1}", path)

    @property
    def status(self) -> int:
        return self.handler.status_code

    @property
    def public(self) -> bool:
        return bool((self.handler.opt or {}).get("public"))

    @property
    def local(self) -> bool:
        return self.handler in LOCAL_HANDLERS

    @property
    def location(self) -> str:
        return self.handler.opt.get("location", "")

    @property
    def problems(self) -> tuple[str, ...]:
        return self.handler.opt.get("problems", ())

    @property
    def query_type(self) -> Any:
        return self.handler.opt.get("query")

    @property
    def body_type(self) -> Any:
        """The struct of its JSON body."""
        field = self.handler.parsed_data_field
        if field is None:
            return None
        return next(item.annotation for item in field.inner_types or [field] if item.annotation is not type(None))

    @property
    def body_required(self) -> bool:
        field = self.handler.parsed_data_field
        return field is not None and not field.is_optional

    @property
    def takes_upload(self) -> bool:
        return "body_types" in self.handler.opt

    @property
    def path_parameters(self) -> dict[str, Any]:
        names = re.findall(r"{(\w+):", next(iter(self.handler.paths)))
        return {name: self.handler.parsed_fn_signature.parameters[name].raw for name in names}

    @property
    def takes_if_match(self) -> bool:
        return "if_match" in self.handler.opt

    @property
    def takes_key(self) -> bool:
        return self.method == "POST" and not self.public

    @property
    def media_type(self) -> str:
        return get_enum_string_value(self.handler.media_type)

    @property
    def body_bytes(self) -> int:
        limit = self.handler.request_max_body_size
        return limit if isinstance(limit, int) else BODY_BYTES

    @property
    def returns(self) -> Any:
        kind = self.handler.parsed_return_field.annotation
        return get_args(kind)[0] if get_origin(kind) is Versioned else None if kind is type(None) else kind

    @property
    def has_etag(self) -> bool:
        kind = self.handler.parsed_return_field.annotation
        return "version" in getattr(get_origin(kind) or kind, "__struct_fields__", ())


ROUTES = [Route(handler) for handler in (*HANDLERS, *LOCAL_HANDLERS) if handler.handler_name != "get_metrics"]
