"""Server-sent events as bytes, by the rules of https://html.spec.whatwg.org/multipage/server-sent-events.html."""

from __future__ import annotations

import random
from typing import Final

HEARTBEAT: Final = b": heartbeat\n\n"
"""A comment: it keeps proxies from closing a silent stream and is never an event, so it has no id."""
RETRY_SPREAD_MAX_MS: Final = 30_000


def prelude(cursor: int, *, retry_ms: int) -> bytes:
    """What a stream starts with: how long to wait before reconnecting, and the client's own cursor back.

    A block of only an `id` dispatches no event but does set the last event id: a client that started at `fromSeq`
    and is cut off before its first event resumes there.
    """
    return b"retry: %d\n\nid: %d\n\n" % (retry_ms, cursor)


def event_frame(seq: int, json: str) -> bytes:
    """One event. `json` is one line."""
    return f"id: {seq}\ndata: {json}\n\n".encode("ascii")


def end_frame(run_id: str, *, state: str, last_seq: int) -> bytes:
    """What follows a run's terminal event: `event: end`. It has no id, so the last event id stays the last seq."""
    # A run id and a state need no escaping, by the rule of their own patterns.
    return f'event: end\ndata: {{"runId":"{run_id}","state":"{state}","lastSeq":{last_seq}}}\n\n'.encode("ascii")


def resumable_end(reason: str, *, retry_ms: int) -> bytes:
    """What a stream that could go on ends with; `reason` is a comment, for who reads along."""
    return b": %b\nretry: %d\n\n" % (reason.encode("ascii"), retry_ms)


def jittered_retry_ms(base_ms: int, *, streams: int = 1) -> int:
    """Milliseconds after which one of `streams` that end together should be back.

    They come back spread over one millisecond each, at least over `base_ms` and at most over 30 s; and the first of
    them soon, for they were sent away by a process that others stand in for.
    """
    spread_ms = min(max(base_ms, streams), max(base_ms, RETRY_SPREAD_MAX_MS))
    return base_ms // 4 + random.randrange(spread_ms + 1)  # noqa: S311  # spreads load, keeps no secret


def chunk(data: bytes) -> bytes:
    """`data` as one chunk of HTTP/1.1's chunked transfer coding (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)
