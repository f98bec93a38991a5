"""The trace that a request is part of, as W3C Trace Context tells it in the header ``traceparent``."""

import re
from collections.abc import Mapping
from typing import TypedDict

_TRACEPARENT = re.compile(
    rb"(?:00(?=.{53}\Z)|(?!00|ff)[0-9a-f]{2})"  # the version: 00 has these four parts, a later one may have more
    rb"-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?"
)


class Trace(TypedDict):
    """What a log line says of a trace: hexadecimal digits, 32 of them and 16."""

    trace_id: str
    span_id: str
    """The span in which the line was written: the caller's, unless the request has one of its own."""


def trace_of(headers: Mapping[bytes, bytes]) -> Trace | None:
    """The caller's trace, None where the header is missing or, as the standard wants, where it is malformed."""
    sent = headers.get(b"traceparent")
    found = sent and _TRACEPARENT.fullmatch(sent)
    return Trace(trace_id=found[1].decode(), span_id=found[2].decode()) if found else None
