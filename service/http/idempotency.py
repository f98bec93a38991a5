"""Idempotency-Key: the first answer to a POST is kept in the transaction of its effect, and given again.

After the draft of the IETF's HTTPAPI group, ``draft-ietf-httpapi-idempotency-key-header``.
The transaction stays open until the answer is known, so that both are committed together: a second round trip, which
requests without a key don't take.
"""

import hashlib
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

import msgspec

from service.db.queries import Maybe, Nothing
from service.http.request import Request
from service.http.response import Answer, answer
from service.problems import Problem, invalid

P = ParamSpec("P")

KEY_LENGTH = 255
KEPT_HEADERS = (b"content-type", b"content-length", b"location", b"etag", b"link")


class KeptAnswer(msgspec.Struct, frozen=True):
    """The first answer to a request, and which request that was."""

    operation: str
    request_hash: bytes
    status: int
    headers: msgspec.Raw
    body: bytes | None


_forget = Nothing("forget_idempotency_key")
_claim = Nothing("claim_idempotency_key")
_keep = Nothing("keep_answer")
_get = Maybe("get_kept_answer", KeptAnswer)


def idempotent(
    fn: Callable[Concatenate[Request, P], Awaitable[Any]],
) -> Callable[Concatenate[Request, P], Awaitable[Any]]:
    """Stands under the ``@post`` of a handler that a signed-in user calls: it heeds Idempotency-Key."""

    @wraps(fn)
    async def once(request: Request, *args: P.args, **kwargs: P.kwargs) -> Any:
        if b"idempotency-key" not in request.sent:
            return await fn(request, *args, **kwargs)
        body = await request.body()
        return await answer_once(request, hashlib.sha256(body).digest(), lambda: fn(request, *args, **kwargs))

    return once


async def answer_once(request: Request, request_hash: bytes, make: Callable[[], Awaitable[Any]]) -> Any:
    """The answer with what ``make`` returns, or the one kept under the request's key; an ``Answer`` to be returned.

    ``make`` runs in the transaction that keeps its answer; when it raises, nothing is kept and the key stays free.
    Raises ``idempotency_key_reused`` for another request, ``idempotency_in_progress`` while the first still runs.
    """
    caller = request.user
    key = _read_key(request.sent[b"idempotency-key"])
    operation = f"{request.scope['method']} {request.scope['path']}"
    claim = _claim(key=key, operation=operation, request_hash=request_hash)

    async def first() -> Answer:
        async with caller.transaction(_forget(key=key), claim):
            content = await make()
            status = request.route_handler.status_code
            made = kept_answer = answer(request, content, status)
            if hasattr(content, "to_keep"):  # there is something in it that isn't to be stored
                kept_answer = answer(request, content.to_keep(), status)
            headers = {
                name.decode(): value.decode("latin-1") for name, value in kept_answer.headers if name in KEPT_HEADERS
            }
            kept = _keep(key=key, status=made.status, headers=msgspec.json.encode(headers), body=kept_answer.body)
            await caller.commit(kept)
        return made

    try:
        return await caller.repeat(first)
    except Problem as problem:
        # Of what goes ahead the claim is the last.
        if problem.statement != -1 or problem.code not in ("idempotency_in_progress", "timeout"):
            raise
        if problem.code == "timeout":
            # The claim waited for the first request's transaction for as long as a lock may be waited for.
            raise Problem("idempotency_in_progress", "The first request with this key still runs.") from problem
    kept = await caller.run(_get(key=key))
    if kept is None:
        raise Problem("idempotency_in_progress", "The first request with this key has just ended. Try again.")
    if (kept.operation, kept.request_hash) != (operation, request_hash):
        raise Problem("idempotency_key_reused", "The key was used for a request with another path or body.")
    kept_headers = msgspec.json.decode(kept.headers, type=dict[str, str])
    sent = [(name.encode(), value.encode("latin-1")) for name, value in kept_headers.items()]
    return Answer(kept.status, [*sent, (b"idempotency-replayed", b"true")], kept.body or b"")


def _read_key(header: bytes) -> str:
    if not (1 <= len(header) <= KEY_LENGTH and all(0x20 <= byte <= 0x7E for byte in header)):
        raise invalid("Idempotency-Key", f"must be 1 to {KEY_LENGTH} printable ASCII characters")
    return header.decode("ascii")
