"""Every error a client can meet: one table of codes, one exception, and what the database's errors mean.

The answers are RFC 9457 problem details; ``code`` is the stable part that clients may compare.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import msgspec
import psycopg
from msgspec import UNSET, UnsetType

from service.settings import OperatorError

RETRY_AFTER_SECONDS = 1


class StartupError(OperatorError):
    """The service can't start; the message is one line that says what to do."""


class FieldError(msgspec.Struct, frozen=True):
    """One reason of a 422: which field, and what is wrong with it."""

    field: str
    message: str


class ProblemDetails(msgspec.Struct, kw_only=True, omit_defaults=True, rename={"list_name": "list"}):
    """The body of every answer that is an error: RFC 9457 and members of ours.

    A 422 has ``errors``; what fails in a batch, ``list`` and ``index``; a ``stale_position``, the current ``position``.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[FieldError] = []
    list_name: str | UnsetType = UNSET
    index: int | UnsetType = UNSET
    position: int | UnsetType = UNSET


class Code(NamedTuple):
    """What a code stands for."""

    status: int
    title: str


CODES: dict[str, Code] = {
    "malformed_request": Code(400, "The request can't be read"),
    "unauthenticated": Code(401, "A bearer token is needed"),
    "invalid_token": Code(401, "The token is not valid"),
    "token_expired": Code(401, "The token has expired"),
    "bad_credentials": Code(401, "The e-mail address or the password is wrong"),
    "account_inactive": Code(401, "The account is not active"),
    "forbidden": Code(403, "Not allowed"),
    "not_found": Code(404, "Not found"),
    "method_not_allowed": Code(405, "Method not allowed"),
    "not_acceptable": Code(406, "Not acceptable"),
    "payload_too_large": Code(413, "The body is too large"),
    "unsupported_media_type": Code(415, "Unsupported media type"),
    "headers_too_large": Code(431, "The headers are too large"),
    "email_taken": Code(409, "The e-mail address is taken"),
    "username_taken": Code(409, "The username is taken"),
    "invalid_transition": Code(409, "The status can't change that way"),
    "active_todos_assigned": Code(409, "Open todos are assigned to the user"),
    "user_has_records": Code(409, "The user still owns records"),
    "link_exists": Code(409, "The link exists already"),
    "external_id_taken": Code(409, "Another conversation has the external_id"),
    "too_many_keys": Code(409, "A user has 20 keys at most"),
    "stale_position": Code(409, "Somebody wrote in between"),
    "idempotency_in_progress": Code(409, "The first request with this key is still running"),
    "version_mismatch": Code(412, "The object has changed since"),
    "validation_failed": Code(422, "The request is not valid"),
    "invalid_cursor": Code(422, "The cursor is not valid here"),
    "idempotency_key_reused": Code(422, "The key was used for another request"),
    "rate_limited": Code(429, "Too many attempts"),
    "overloaded": Code(503, "Too busy"),
    "database_unavailable": Code(503, "The database is not available"),
    "timeout": Code(503, "It took too long"),
    "internal": Code(500, "Internal error"),
}
"""Code → (status, title). The README's list is held against this table by a test."""
_FIELDS = {"invalid_cursor": "cursor", "idempotency_key_reused": "Idempotency-Key"}
"""What a 422 of another code than ``validation_failed`` is about."""


class Problem(Exception):
    """An error that is answered as problem details.

    ``errors`` names the fields of a 422; ``members`` are further members of ProblemDetails (such as ``position``).
    ``statement`` is the place of the statement that failed, where several were run. A 401 gets ``WWW-Authenticate`` and
    a 503 ``Retry-After`` by itself.
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        status: int | None = None,
        **members: Any,
    ) -> None:
        known = CODES[code]
        super().__init__(code, detail)
        self.code = code
        self.status = status or known.status
        self.title = known.title
        self.detail = detail or known.title + "."
        self.errors = list(errors)
        if field := _FIELDS.get(code):
            self.errors = [FieldError(field, self.detail)]
        self.members = members
        self.headers = dict(headers or {})
        self.statement: int | None = None
        self.collided = False
        """Whether another transaction was in the way and all of this one was undone: it would succeed now."""
        self.may_have_happened = False
        """Whether what was asked for may have been done all the same: see `unknown_outcome`."""
        if self.status == 401:
            self.headers.setdefault("WWW-Authenticate", _challenge(code))
        elif self.status == 503:
            self.headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))

    def place(self, list_name: str, index: int) -> Self:
        """The same problem, of one object in a list of the body: ``list``, ``index`` and the fields say which."""
        self.members.update(list_name=list_name, index=index)
        if self.errors and self.detail == f"{self.errors[0].field}: {self.errors[0].message}":
            self.detail = f"{list_name}[{index}].{self.detail}"
        self.errors = [FieldError(f"{list_name}[{index}].{error.field}", error.message) for error in self.errors]
        return self


def _challenge(code: str) -> str:
    """RFC 6750, section 3: the error is named only when a token was sent."""
    if code in ("invalid_token", "token_expired", "account_inactive"):
        return 'Bearer realm="todochat", error="invalid_token"'
    return 'Bearer realm="todochat"'


def unknown_outcome(code: str, reason: str) -> Problem:
    """The problem of a change that may have been made, or may not.

    OpenAI's SDK, which sends no Idempotency-Key, would by itself repeat a POST that was answered 503: its header
    ``X-Should-Retry`` keeps it from that.
    """
    detail = (
        f"{reason} Whether the change was made is not known: look before you repeat it. A POST that was sent with an "
        "Idempotency-Key can be repeated safely."
    )
    problem = Problem(code, detail, headers={"X-Should-Retry": "false"})
    problem.may_have_happened = True
    return problem


def invalid(field: str, message: str) -> Problem:
    """A 422 about one field."""
    return Problem("validation_failed", f"{field}: {message}", errors=[FieldError(field, message)])


_encode = msgspec.json.Encoder().encode


def html_safe(body: bytes) -> bytes:
    """The same JSON with ``<``, ``>`` and ``&`` escaped: harmless where it is pasted into a page or a script."""
    return body.replace(b"&", b"\\u0026").replace(b"<", b"\\u003c").replace(b">", b"\\u003e")


def unbroken(lines: bytes) -> bytes:
    """The same lines of JSON with what else Unicode breaks lines at escaped: NEL, U+2028 and U+2029."""
    if lines.isascii():
        return lines
    for character in ("\x85", "\u2028", "\u2029"):
        lines = lines.replace(character.encode(), b"\\u%04x" % ord(character))
    return lines


_SPELT = (
    (rb"\u0022", b"&quot;"),
    (rb"\u0026", b"&amp;"),
    (rb"\u0027", b"&#x27;"),
    (rb"\u003c", b"&lt;"),
    (rb"\u003C", b"&lt;"),
    (rb"\u003e", b"&gt;"),
    (rb"\u003E", b"&gt;"),
)


def html_escaped(body: bytes) -> bytes:
    r"""The JSON with ``& < > " '`` in its strings, the keys included, written as HTML's character references.

    So are those that what is kept as it was sent spells as ``\u003c``.
    """
    # In JSON text these stand inside strings only, but for the quotes around them.
    body = body.replace(b"&", b"&amp;").replace(b"<", b"&lt;").replace(b">", b"&gt;").replace(b"'", b"&#x27;")
    if b"\\" not in body:
        return body
    # A backslash that is escaped escapes nothing: it steps aside for NUL, which JSON text has nowhere.
    body = body.replace(rb"\\", b"\0").replace(rb"\"", b"&quot;")
    if rb"\u00" in body:
        for spelt, reference in _SPELT:
            body = body.replace(spelt, reference)
    return body.replace(b"\0", rb"\\")


def may_add(body: bytes) -> int:
    """How many bytes `html_safe` or `html_escaped` add at most, a little more than either; counted, not made."""
    marks = 0
    if b"&" in body or b"<" in body or b">" in body or b"'" in body:  # a tenth of the time of counting them
        marks = len(body) - len(body.translate(None, b"&<>'"))
    return 5 * marks + (4 * body.count(b"\\") if b"\\" in body else 0)


def problem_body(problem: Problem, request_id: str, *, escape: bool = False) -> bytes:
    """The body of the answer, ``application/problem+json``; ``escape``: with its strings HTML-escaped."""
    details = ProblemDetails(
        type=f"urn:todochat:problem:{problem.code}",
        title=problem.title,
        status=problem.status,
        detail=problem.detail,
        code=problem.code,
        request_id=request_id,
        errors=problem.errors,
        **problem.members,
    )
    body = _encode(details)
    return html_escaped(body) if escape else html_safe(body)


# What the database's refusals mean. Names are of constraints in migrations/; classes of SQLSTATE are from
# appendix A of PostgreSQL's manual, TC… are raised by this schema's own triggers and functions.

_BY_CONSTRAINT: dict[str, tuple[str, str, str]] = {
    "users_email_key": ("email_taken", "email", "is taken"),
    "users_username_key": ("username_taken", "username", "is taken"),
    "todo_conversation_links_key": ("link_exists", "", "This todo and conversation are linked that way already."),
    "conversations_external_id_key": ("external_id_taken", "", "Another conversation is called so."),
    "api_keys_slot_check": ("too_many_keys", "", "Delete one that is not used any more."),
    "todos_user_id_fkey": ("user_has_records", "", "Delete what the user owns first, or erase the user."),
    "conversations_user_id_fkey": ("user_has_records", "", "Delete what the user owns first, or erase the user."),
    "todos_assigned_to_check": ("validation_failed", "assigned_to", "is not an active user"),
    "todos_assigned_to_fkey": ("validation_failed", "assigned_to", "is not an active user"),
    "todos_due_date_check": ("validation_failed", "due_date", "can't be in the past on a completed todo"),
    "todos_completed_at_check": (
        "validation_failed",
        "completed_at",
        "must be a time that has come while status is completed, and can't be changed while it isn't",
    ),
    "metadata_check": ("validation_failed", "metadata", "must have at most 16384 bytes as the database writes it"),
    "todo_conversation_links_todo_id_fkey": ("not_found", "", ""),
    "todo_conversation_links_conversation_id_fkey": ("not_found", "", ""),
    "messages_conversation_id_fkey": ("not_found", "", ""),
    "todos_pkey": ("version_mismatch", "", "The todo is there already."),
    "todos_user_id_number_key": ("version_mismatch", "", "Another todo has the number by now."),
    "conversations_pkey": ("version_mismatch", "", "The conversation is there already."),
    "messages_pkey": ("version_mismatch", "", "Another message has the position by now."),
    "messages_user_id_id_key": ("version_mismatch", "", "The message is there already."),
    "todo_conversation_links_pkey": ("version_mismatch", "", "The link is there already."),
    "idempotency_keys_pkey": ("idempotency_in_progress", "", "The key is in use."),
}

_BY_SQLSTATE: dict[str, tuple[str, str]] = {
    "TC401": ("invalid_token", "The token was revoked."),
    "TC402": ("account_inactive", ""),
    "TC404": ("token_expired", "The key has expired."),
    "TC405": ("forbidden", "The key may not do this."),
    "TC403": ("forbidden", "An assignee may change the status and nothing else."),
    "TC410": ("active_todos_assigned", "Complete, archive or reassign the open todos first."),
    "55P03": ("timeout", "Another request holds the row. Try again."),
    "57014": ("timeout", "The database took too long. Try again."),
    "40001": ("timeout", "Another request was changing the same rows. Try again."),
    "40P01": ("timeout", "Another request was changing the same rows. Try again."),
    "53300": ("overloaded", "The database has no connection left."),
    "23503": ("user_has_records", ""),
    "23514": ("validation_failed", "breaks a rule of the table"),
    "22021": ("validation_failed", "holds a text that can't be stored"),
    "22P05": ("validation_failed", "holds a text that can't be stored"),
    "25006": ("database_unavailable", "The database accepts no changes at the moment."),
}

_UNAVAILABLE_CLASSES = ("08", "53", "57", "58")
_QUOTED_NAME = re.compile(r'"([a-z_]+?)(?:_\d+)?"\s*$')


def from_database(error: psycopg.Error) -> Problem:
    """What a client is told of a database error: by the constraint's name, else by SQLSTATE, else ``internal``.

    Citus gives no constraint name and adds a shard's number to the one in the text: it is read from there.
    """
    state = error.sqlstate or ""
    named = error.diag.constraint_name
    if named is None and state.startswith("23") and (found := _QUOTED_NAME.search(error.diag.message_primary or "")):
        named = found[1]
    if named in _BY_CONSTRAINT:
        code, field, message = _BY_CONSTRAINT[named]
        if field and code == "validation_failed":
            return invalid(field, message)
        return Problem(code, message if not field else "")
    if state == "TC411":
        position = int(error.diag.message_detail or 0)
        return Problem("stale_position", f"The last message is at position {position}.", position=position)
    if state == "TC409":
        return Problem("invalid_transition", error.diag.message_detail or "")
    if state == "23514" and named and (column := _checked_column(named)):
        return invalid(column, "is not valid")
    if state == "22003" and error.diag.source_file in ("int.c", "int8.c"):  # which is never translated
        return invalid("body", "needs a number, position, count or version that is larger than any that can be kept")
    if state == "22003":
        # jsonb's numbers have more digits than a double, but not any number of them.
        return invalid("metadata", "holds a number that is out of range")
    if state in _BY_SQLSTATE:
        code, detail = _BY_SQLSTATE[state]
        if code == "validation_failed":
            return invalid("body", detail)
        return Problem(code, detail)
    if state[:2] in _UNAVAILABLE_CLASSES or (not state and isinstance(error, psycopg.OperationalError)):
        return Problem("database_unavailable")
    return Problem("internal")


def _checked_column(constraint: str) -> str | None:
    """``title_check``, ``users_email_check`` → ``title``, ``email``: what a column's domain or table says of it."""
    column = constraint.removesuffix("_check")
    if column == constraint or column in ("moment", "ordinal"):  # domains that several columns of a table are of
        return None
    for table in ("users", "todos", "conversations", "messages", "todo_conversation_links"):
        column = column.removeprefix(table + "_")
    return column
