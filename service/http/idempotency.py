"""Idempotency-Key: the first answer to a POST is kept in the transaction of its effect, and given again.

After the draft of the IETF's HTTPAPI group, ``draft-ietf-httpapi-idempotency-key-header``.
"""

import hashlib
from collections.abc import Awaitable, Callable

import msgspec

from service.db.queries import Caller, Maybe, Nothing
from service.http.answers import Answer
from service.problems import Problem, invalid

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


async def answer_once(
    caller: Caller, header: bytes, operation: str, body: bytes, make: Callable[[], Awaitable[Answer]]
) -> Answer:
    """``make``'s answer, or the one kept under the key.

    ``make`` runs in the transaction that keeps its answer; when it raises, nothing is kept and the key stays free.
    Raises ``idempotency_key_reused`` for another request, ``idempotency_in_progress`` while the first still runs.
    """
    key = _read_key(header)
    request_hash = hashlib.sha256(body).digest()
    claim = _claim(key=key, operation=operation, request_hash=request_hash)
    try:
        async with caller.holding(_forget(key=key), claim) as commit:
            answer = await make()
            headers = {name.decode(): value.decode("latin-1") for name, value in answer.headers if name in KEPT_HEADERS}
            await commit(_keep(key=key, status=answer.status, headers=msgspec.json.encode(headers), body=answer.body))
        return answer
    except Problem as problem:
        if (
            problem.statement is None
            or problem.statement >= 0
            or problem.code not in ("idempotency_in_progress", "timeout")
        ):
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
    headers = [(name.encode(), value.encode("latin-1")) for name, value in kept_headers.items()]
    return Answer(kept.status, [*headers, (b"idempotency-replayed", b"true")], kept.body or b"")


def _read_key(header: bytes) -> str:
    if not (1 <= len(header) <= KEY_LENGTH and all(0x20 <= byte <= 0x7E for byte in header)):
        raise invalid("Idempotency-Key", f"must be 1 to {KEY_LENGTH} printable ASCII characters")
    return header.decode("ascii")
