"""What Litestar's OpenAPI document is told besides: msgspec's schemas, the query structs, headers, and how things fail.

msgspec writes the schemas, so the document says what the decoder does and can't fall behind it. Litestar writes the
document from its handlers; this plugin of Litestar's adds what their decorators say in words of ours (see `app`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from inspect import getdoc
from typing import Annotated, Any, cast, get_args, get_origin

import msgspec
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import spec
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.params import BodyKwarg
from litestar.plugins import OpenAPISchemaPlugin, ReceiveRoutePlugin
from litestar.router import Router
from litestar.routes import BaseRoute, HTTPRoute
from litestar.typing import FieldDefinition

from service.db.queries import Versioned
from service.http.examples import example_of
from service.http.fields import free_any_json
from service.http.idempotency import KEY_LENGTH
from service.http.paging import Page
from service.http.request import JSON, body_type, path_names
from service.http.response import Pieces
from service.problems import CODES, ProblemDetails

_ALWAYS = ("not_acceptable", "headers_too_large", "overloaded", "database_unavailable", "timeout", "internal")
_SIGNED_IN = ("unauthenticated", "invalid_token", "token_expired", "account_inactive")
_WITH_BODY = ("payload_too_large", "unsupported_media_type")
_READ = ("validation_failed", "malformed_request")  # an unknown query parameter is refused everywhere

_DESCRIPTION = """\
The memory of a todo chatbot: users, todos, conversations and messages, each user's for that user alone.

Get a token {sign_in}, or a key from `POST /v1/keys`,
and send it as `Authorization: Bearer …`. Errors are problem details (RFC 9457);
their `code` is stable: `x-problem-codes` of an operation names those that it may answer with. Every answer carries
`X-Request-ID`. Strings come back as they were sent; on the wire `<`, `>` and `&` are written as JSON escapes, and
`?escape=html` on any GET answers them HTML-escaped.
"""

_LINES: dict[str, Any] = {"type": "string", "format": "binary"}
_TEXT: dict[str, Any] = {"type": "string"}
_ETAG: dict[str, Any] = {"type": "string", "examples": ['"1"']}
# White space around a header's value is no part of it (RFC 9110, section 5.5): no key begins or ends with it.
_KEY: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": KEY_LENGTH,
    "pattern": "^[!-~]([ -~]*[!-~])?$",
    "examples": ["018f4fd2-7a3c-7000-8000-5a1d2c3b4e5f"],
}


@dataclass
class _JSONSchema(spec.Schema):
    """A schema as msgspec wrote it."""

    raw: dict[str, Any] = field(default_factory=dict[str, Any])

    def to_schema(self) -> dict[str, Any]:
        return self.raw


@dataclass
class _Operation(spec.Operation):
    """An operation that names the codes of its problems."""

    problem_codes: dict[str, list[str]] = field(
        default_factory=dict[str, list[str]], metadata={"alias": "x-problem-codes"}
    )


class OpenAPI(OpenAPISchemaPlugin, ReceiveRoutePlugin):
    """Litestar's plugin; ``config`` is for Litestar, too."""

    def __init__(
        self, version: str, render_plugins: Sequence[OpenAPIRenderPlugin], *, has_local_accounts: bool
    ) -> None:
        sign_in = "from `POST /v1/auth/token`" if has_local_accounts else "where you sign in"
        self._registry: Any = None
        self.config = OpenAPIConfig(
            title="todochat",
            version=version,
            description=_DESCRIPTION.format(sign_in=sign_in),
            license=spec.License(name="MIT"),
            security=[{"bearer": []}],
            components=spec.Components(
                responses={name: _problem_response(status) for status, name in _PROBLEM_NAMES.items()},
                security_schemes={"bearer": spec.SecurityScheme(type="http", scheme="bearer", bearer_format="JWT")},
            ),
            operation_id_creator=lambda handler, _method, _path: handler.handler_name,
            render_plugins=render_plugins,
            openapi_router=Router(
                "/schema", route_handlers=[], opt={"public": True, "document": True}, include_in_schema=False
            ),
        )

    # Litestar's hooks

    def is_plugin_supported_field(self, field_definition: FieldDefinition) -> bool:
        kind = field_definition.annotation
        return isinstance(kind, type) or get_origin(kind) in (list, Page, Versioned)

    def to_openapi_schema(self, field_definition: FieldDefinition, schema_creator: Any) -> spec.Schema:
        self._registry = schema_creator.schema_registry
        self._schema(ProblemDetails)  # which the shared responses refer to
        return _JSONSchema(raw=self._schema(field_definition.annotation))

    def receive_route(self, route: BaseRoute) -> None:
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                handler.operation_class = partial(self._operation, handler)  # type: ignore[assignment]

    # Schemas

    def _schema(self, kind: Any) -> dict[str, Any]:
        """The schema of a type; what it refers to goes into the document's components."""
        if kind is Pieces:
            return dict(_LINES)
        if get_origin(kind) is Versioned:
            (kind,) = get_args(kind)
        (schema,), components = free_any_json(
            msgspec.json.schema_components([kind], ref_template="#/components/schemas/{name}")
        )
        for name, component in components.items():
            component.pop("title", None)
            _tell_defaults(component)
            self._add(_component_name(name), component)
        return self._tidy(schema)

    def _add(self, name: str, schema: dict[str, Any]) -> None:
        named = FieldDefinition.from_annotation(Annotated[dict[str, Any], BodyKwarg(schema_component_key=name)])
        component: spec.Schema = self._registry.get_schema_for_field_definition(named)
        if component == spec.Schema():
            component.title = name  # so that a struct that refers to itself is not gone through for ever
            for key, value in self._tidy(schema).items():
                setattr(component, re.sub("([A-Z])", r"_\1", key).lower(), value)
            component.title = None

    def _tidy(self, part: Any) -> Any:
        """The schema with our components' names; a closed set that has a name, its title, becomes one of them."""
        if isinstance(part, list):
            return [self._tidy(item) for item in cast("list[Any]", part)]
        if not isinstance(part, dict):
            return part
        schema = cast("dict[str, Any]", part)
        if "enum" in schema:
            schema.setdefault("type", "string")
            if name := schema.pop("title", None):
                more = {key: schema.pop(key) for key in ("default", "description") if key in schema}
                self._add(name, schema)
                return {"$ref": f"#/components/schemas/{name}", **more}
        if "$ref" in schema:
            prefix, _, name = schema["$ref"].rpartition("/")
            return {**schema, "$ref": f"{prefix}/{_component_name(name)}"}
        return {key: self._tidy(value) if key != "examples" else value for key, value in schema.items()}

    # Operations

    def _operation(self, handler: HTTPRouteHandler, **fields: Any) -> spec.Operation:
        summary, _, rest = (getdoc(handler.fn) or handler.handler_name).partition("\n")
        fields |= {
            "summary": summary,
            "description": " ".join(rest.split()) or None,
            "tags": [_tag(handler)],
            "security": [] if "public" in handler.opt else None,
            "parameters": self._parameters(handler),
        }
        kind, is_required = body_type(handler)
        if body_types := handler.opt.get("body_types"):
            lines = spec.OpenAPIMediaType(schema=_JSONSchema(raw=dict(_LINES)))
            text = f"Also taken: {', '.join(body_types[1:])}."
            fields["request_body"] = spec.RequestBody(description=text, required=True, content={body_types[0]: lines})
        elif kind is not None:
            content = spec.OpenAPIMediaType(schema=_JSONSchema(raw=self._schema(kind)))
            content.examples = {"usual": spec.Example(value=example_of(kind))}
            fields["request_body"] = spec.RequestBody(required=is_required, content={JSON: content})
        codes = _codes(handler, has_body=fields["request_body"] is not None)
        responses = _success(handler, fields["responses"][str(handler.status_code)])
        fields["responses"] = {**responses, **_problem_references(codes)}
        if "unauthenticated" in handler.opt.get("problems", ()):
            fields["security"] = [{}, {"bearer": []}]
        return _Operation(problem_codes=_by_status(codes), **fields)

    def _parameters(self, handler: HTTPRouteHandler) -> list[spec.Parameter]:
        found: list[spec.Parameter] = []
        for name in path_names(handler):
            schema = self._schema(handler.parsed_fn_signature.parameters[name].raw)
            found.append(spec.Parameter(name, "path", required=True, schema=_JSONSchema(raw=schema)))
        if (kind := handler.opt.get("query")) is not None:
            found += [self._query_parameter(item) for item in msgspec.structs.fields(kind)]
        if "GET" in handler.http_methods:
            escape = _JSONSchema(raw=self._tidy({"enum": ["html"], "title": "Escape"}))
            text = "`html`: strings are answered HTML-escaped."
            found.append(spec.Parameter("escape", "query", description=text, schema=escape))
            if _has_etag(handler):
                text = "An ETag as it was answered: 304 while nothing has changed."
                found.append(_header("If-None-Match", text, _ETAG))
        if _takes_key(handler):
            text = "Have the first answer given again instead of doing it twice; kept for 24 hours."
            found.append(_header("Idempotency-Key", text, _KEY))
        if "if_match" in handler.opt:
            text = "An ETag as it was answered: 412 when the object has moved on."
            found.append(_header("If-Match", text, _ETAG))
        return found

    def _query_parameter(self, item: Any) -> spec.Parameter:
        schema = _without_null(self._schema(item.type))
        description = schema.pop("description", None)
        if not item.required and item.default not in (None, msgspec.NODEFAULT):
            schema["default"] = item.default
        return spec.Parameter(
            item.encode_name, "query", description=description, required=item.required, schema=_JSONSchema(raw=schema)
        )


def _tell_defaults(schema: dict[str, Any]) -> None:
    """Say in words what a property is when it is left out: generators take one with a ``default`` for always there."""
    for field_schema in schema.get("properties", {}).values():
        default = field_schema.pop("default", None)
        if default is not None and default not in ([], {}):
            text = f"`{default}` when it is left out."
            field_schema["description"] = " ".join([*filter(None, [field_schema.get("description")]), text])


def _component_name(name: str) -> str:
    return re.sub(r"^Page_(\w+)_$", r"\1Page", name)


def _tag(handler: HTTPRouteHandler) -> str:
    parts = next(iter(handler.paths)).strip("/").split("/")
    return parts[1] if parts[0] == "v1" else parts[0]


def _takes_key(handler: HTTPRouteHandler) -> bool:
    return "POST" in handler.http_methods and "public" not in handler.opt


def _has_etag(handler: HTTPRouteHandler) -> bool:
    kind = handler.parsed_return_field.annotation
    return "version" in getattr(get_origin(kind) or kind, "__struct_fields__", ())


def _header(name: str, description: str, schema: dict[str, Any]) -> spec.Parameter:
    return spec.Parameter(name, "header", description=description, schema=_JSONSchema(raw=schema))


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query parameter is absent, never null."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        return {**{name: value for name, value in schema.items() if name != "anyOf"}, **choices[0]}
    return schema


# Responses

_PROBLEM_NAMES = {status: f"Problem{status}" for status in sorted({408, *(code.status for code in CODES.values())})}


def _answer_header(description: str, schema: dict[str, Any] = _TEXT) -> spec.OpenAPIHeader:
    return spec.OpenAPIHeader(schema=_JSONSchema(raw=schema), description=description)


_REQUEST_ID = _answer_header("The request's, if it sent a sane one.")


def _success(handler: HTTPRouteHandler, response: spec.OpenAPIResponse) -> dict[str, spec.OpenAPIResponse]:
    headers = {"X-Request-ID": _REQUEST_ID}
    if _takes_key(handler):
        text = "The answer is the first one to this Idempotency-Key; absent on the first itself."
        headers["Idempotency-Replayed"] = _answer_header(text, {"type": "string", "enum": ["true"]})
    answers: dict[str, spec.OpenAPIResponse] = {}
    if _has_etag(handler):
        headers["ETag"] = _answer_header("The object's version.")
        if "GET" in handler.http_methods:
            text = "Not changed since the version that If-None-Match names."
            answers["304"] = spec.OpenAPIResponse(description=text, headers=dict(headers))
    if "location" in handler.opt:
        headers["Location"] = _answer_header("Where the object is.")
    if get_origin(handler.parsed_return_field.annotation) is Page:
        headers["Link"] = _answer_header('The next page, as rel="next"; absent on the last.')
    if "creates" in handler.opt:
        answers["201"] = spec.OpenAPIResponse(description="Created.", headers=dict(headers), content=response.content)
    response.description = {201: "Created.", 204: "Done."}.get(handler.status_code, "OK.")
    response.headers = {**headers}
    return {str(handler.status_code): response, **answers}


def _codes(handler: HTTPRouteHandler, *, has_body: bool) -> list[str]:
    """Every code of a problem that the operation may answer with."""
    codes = [*_ALWAYS, *_READ, *handler.opt.get("problems", ())]
    if "public" not in handler.opt:
        codes += _SIGNED_IN
        if handler.opt["scope"] != "read":
            codes.append("forbidden")
    if has_body:
        codes += _WITH_BODY
    if "cursor" in getattr(handler.opt.get("query"), "__struct_fields__", ()):
        codes.append("invalid_cursor")
    if path_names(handler):
        codes.append("not_found")
    if _takes_key(handler):
        codes += ("idempotency_in_progress", "idempotency_key_reused")
    if "if_match" in handler.opt:
        codes.append("version_mismatch")
    return list(dict.fromkeys(codes))


def _by_status(codes: Sequence[str]) -> dict[str, list[str]]:
    found: dict[int, list[str]] = {}
    for code in codes:
        found.setdefault(CODES[code].status, []).append(code)
    if "payload_too_large" in codes:
        found[408] = ["timeout"]  # the body took too long to arrive
    return {str(status): names for status, names in sorted(found.items())}


def _problem_references(codes: Sequence[str]) -> dict[str, spec.Reference]:
    return {
        status: spec.Reference(
            ref=f"#/components/responses/{_PROBLEM_NAMES[int(status)]}",
            description="; ".join(f"`{name}`: {CODES[name].title}" for name in names),
        )
        for status, names in _by_status(codes).items()
    }


def _problem_response(status: int) -> spec.OpenAPIResponse:
    """The one response that every operation shares for a status."""
    titles = [f"`{name}`: {code.title}" for name, code in CODES.items() if code.status == status]
    headers = {"X-Request-ID": _REQUEST_ID}
    if status in (429, 503):
        headers["Retry-After"] = _answer_header("Seconds.", {"type": "integer"})
    if status == 401:
        headers["WWW-Authenticate"] = _answer_header("RFC 6750.")
    schema = _JSONSchema(raw={"$ref": f"#/components/schemas/{ProblemDetails.__name__}"})
    return spec.OpenAPIResponse(
        description="; ".join(titles) or "`timeout`: The body took too long to arrive",
        headers={**headers},
        content={"application/problem+json": spec.OpenAPIMediaType(schema=schema)},
    )
