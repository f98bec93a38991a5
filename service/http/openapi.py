"""The OpenAPI 3.1 document, written from the list of routes and the structs that decode and encode.

msgspec writes the schemas, so the document says what the decoder does and can't fall behind it.
"""

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any, get_origin
from uuid import UUID

import msgspec

from service.http.answers import Lines
from service.http.endpoint import Route
from service.http.idempotency import KEY_LENGTH
from service.http.paging import Page
from service.problems import CODES, ProblemDetails

_REF = "#/components/schemas/{name}"
_VERSION = "1.0.0"

_ALWAYS = ("not_acceptable", "headers_too_large", "overloaded", "database_unavailable", "timeout", "internal")
_SIGNED_IN = ("unauthenticated", "invalid_token", "token_expired", "account_inactive")
_WITH_BODY = ("malformed_request", "payload_too_large", "unsupported_media_type", "validation_failed")

_HEADERS = {"X-Request-ID": {"schema": {"type": "string"}, "description": "The request's, if it sent a sane one."}}
_ETAG: dict[str, Any] = {"type": "string", "examples": ['"1"']}
# White space around a header's value is no part of it (RFC 9110, section 5.5): no key begins or ends with it.
_KEY: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": KEY_LENGTH,
    "pattern": "^[!-~]([ -~]*[!-~])?$",
    "examples": ["018f4fd2-7a3c-7000-8000-5a1d2c3b4e5f"],
}
_FILES = {
    "/metrics": "What Prometheus reads.",
    "/schema": "The documentation as a page.",
    "/schema/openapi.json": "This document.",
}

_DESCRIPTION = """\
The memory of a todo chatbot: users, todos, conversations and messages, each user's for that user alone.

{sign_in} and send it as `Authorization: Bearer …`. Errors are problem details (RFC 9457);
their `code` is stable. Every answer carries `X-Request-ID`. Strings come back as they were sent; on the wire `<`, `>`
and `&` are written as JSON escapes, and `?escape=html` on any GET answers them HTML-escaped.
"""
_LOCAL_SIGN_IN = "Get a token from `POST /v1/auth/token`"
_OUTSIDE_SIGN_IN = "Get a token where you sign in"


def openapi_document(routes: Sequence[Route]) -> dict[str, Any]:
    """The document for these routes."""
    is_local = any(route.local for route in routes)
    description = _DESCRIPTION.format(sign_in=_LOCAL_SIGN_IN if is_local else _OUTSIDE_SIGN_IN)
    types = [ProblemDetails]
    for route in routes:
        types += [kind for kind in (route.body_type, route.returns) if kind is not None and kind is not Lines]
        if route.query_type:
            types += [field.type for field in msgspec.structs.fields(route.query_type)]
        types += route.path_parameters.values()
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    schema_of = {_key(kind): _tidy(schema) for kind, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema_of)
    for path, kind in (
        ("/metrics", "text/plain"),
        ("/schema", "text/html"),
        ("/schema/openapi.json", "application/json"),
    ):
        paths[path] = {"get": _file_operation(path, kind)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "todochat", "version": _VERSION, "description": description, "license": {"name": "MIT"}},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": {name: _tidy(schema) for name, schema in components.items()},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _key(kind: Any) -> str:
    return repr(kind)


def _tidy(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without the titles that repeat its name, and with the type of every closed set."""
    schema.pop("title", None)
    for part in (schema, *schema.get("properties", {}).values(), *schema.get("anyOf", ())):
        for choice in (part, part.get("items", {}), *part.get("anyOf", ())):
            if "enum" in choice:
                choice.setdefault("type", "string")
    return schema


def _operation(route: Route, schema_of: dict[str, Any]) -> dict[str, Any]:
    summary, _, rest = (inspect.getdoc(route.handler) or route.name).partition("\n")
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": summary,
        "tags": [_tag(route)],
        "parameters": _parameters(route, schema_of),
        "responses": {**_success(route, schema_of), **_problems(route)},
    }
    if rest.strip():
        operation["description"] = " ".join(rest.split())
    if not route.public:
        operation["security"] = [{"bearer": []}]
    if route.body_type is not None:
        schema = schema_of[_key(route.body_type)]
        operation["requestBody"] = {
            "required": route.body_required,
            "content": {"application/json": {"schema": schema}},
        }
    elif route.takes_upload:
        # A schema of lines isn't anything that OpenAPI 3.1 knows.
        operation["requestBody"] = {"required": True, "content": {kind: {} for kind in route.body_types}}
    return operation


def _file_operation(path: str, kind: str) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": "get" + re.sub("[/.]", "_", path),
        "summary": _FILES[path],
        "tags": [path.split("/")[1]],
        "responses": {
            "200": {"description": "OK.", "headers": _HEADERS, "content": {kind: {}}},
            **_by_status(["headers_too_large", "internal", *(["unauthenticated"] if path == "/metrics" else [])]),
        },
    }
    if path == "/metrics":
        operation["security"] = [{}, {"bearer": []}]
    else:
        operation["responses"]["304"] = {"description": "Not changed.", "headers": _HEADERS}
    return operation


def _tag(route: Route) -> str:
    parts = route.path.strip("/").split("/")
    return parts[1] if parts[0] == "v1" else parts[0]


def _parameters(route: Route, schema_of: dict[str, Any]) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = []
    for name, kind in route.path_parameters.items():
        schema = schema_of[_key(kind)] if kind is not UUID else {"type": "string", "format": "uuid"}
        parameters.append({"name": name, "in": "path", "required": True, "schema": schema})
    if route.query_type:
        for field in msgspec.structs.fields(route.query_type):
            schema = dict(_without_null(schema_of[_key(field.type)]))
            description = schema.pop("description", None)
            if not field.required and field.default not in (None, msgspec.NODEFAULT):
                schema["default"] = field.default
            parameter = {"name": field.encode_name, "in": "query", "required": field.required, "schema": schema}
            if description:
                parameter["description"] = description
            parameters.append(parameter)
    if route.method == "GET":
        parameters.append(
            {
                "name": "escape",
                "in": "query",
                "required": False,
                "description": "`html`: strings are answered HTML-escaped.",
                "schema": {"type": "string", "enum": ["html"]},
            }
        )
    if route.has_etag and route.method == "GET":
        text = "An ETag as it was answered: 304 while the object has not changed."
        parameters.append(_header("If-None-Match", text, _ETAG))
    if route.takes_key:
        text = "Have the first answer given again instead of doing it twice; kept for 24 hours."
        parameters.append(_header("Idempotency-Key", text, _KEY))
    if route.takes_if_match:
        parameters.append(_header("If-Match", "An ETag as it was answered: 412 when the object has moved on.", _ETAG))
    return parameters


def _header(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query parameter is absent, never null."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        return {**{name: value for name, value in schema.items() if name != "anyOf"}, **choices[0]}
    return schema


def _success(route: Route, schema_of: dict[str, Any]) -> dict[str, Any]:
    headers: dict[str, Any] = {**_HEADERS}
    if route.takes_key:
        text = "The answer is the first one to this Idempotency-Key; absent on the first itself."
        headers["Idempotency-Replayed"] = {"schema": {"type": "string", "enum": ["true"]}, "description": text}
    if route.returns is None:
        return {"204": {"description": "Done.", "headers": headers}}
    answers: dict[str, Any] = {}
    if route.has_etag:
        headers["ETag"] = {"schema": {"type": "string"}, "description": "The object's version."}
        if route.method == "GET":
            answers["304"] = {
                "description": "Not changed since the version that If-None-Match names.",
                "headers": headers,
            }
    if route.location:
        headers["Location"] = {"schema": {"type": "string"}, "description": "Where the object is."}
    if get_origin(route.returns) is Page:
        text = 'The next page, as rel="next"; absent on the last.'
        headers["Link"] = {"schema": {"type": "string"}, "description": text}
    content: dict[str, Any] = {} if route.returns is Lines else {"schema": schema_of[_key(route.returns)]}
    answers[str(route.status)] = {
        "description": "Created." if route.status == 201 else "OK.",
        "headers": headers,
        "content": {route.media_type: content},
    }
    return answers


def _problems(route: Route) -> dict[str, Any]:
    """Every status with the codes it may carry."""
    codes = [*_ALWAYS, *route.problems]
    if not route.public:
        codes += _SIGNED_IN
    if route.body_type is not None or route.takes_upload:
        codes += _WITH_BODY
    # An unknown query parameter is refused on every route.
    codes += ("validation_failed", "malformed_request")
    if route.query_type and "cursor" in route.query_type.__struct_fields__:
        codes.append("invalid_cursor")
    if route.path_parameters:
        codes.append("not_found")
    if route.takes_key:
        codes += ("idempotency_in_progress", "idempotency_key_reused")
    if route.takes_if_match:
        codes.append("version_mismatch")
    return _by_status(codes)


def _by_status(codes: Iterable[str]) -> dict[str, Any]:
    by_status: dict[int, list[str]] = {}
    codes = dict.fromkeys(codes)
    if "payload_too_large" in codes:
        by_status[408] = ["timeout"]
    for code in codes:
        by_status.setdefault(CODES[code].status, []).append(code)
    return {str(status): _problem(status, names) for status, names in sorted(by_status.items())}


def _problem(status: int, codes: list[str]) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "headers": {**_HEADERS},
        "description": "; ".join(f"`{code}`: {CODES[code].title}" for code in codes),
        "content": {
            "application/problem+json": {
                "schema": {
                    "allOf": [
                        {"$ref": _REF.format(name=ProblemDetails.__name__)},
                        {"properties": {"code": {"enum": codes}}},
                    ]
                }
            }
        },
    }
    if status in (429, 503):
        answer["headers"]["Retry-After"] = {"schema": {"type": "integer"}, "description": "Seconds."}
    if status == 401:
        answer["headers"]["WWW-Authenticate"] = {"schema": {"type": "string"}}
    return answer
