"""Server-sent events as bytes (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

from typing import Final

from runwire.clock import JITTER

HEARTBEAT: Final = b": heartbeat\n\n"
"""A comment: it keeps proxies from closing a silent stream. It is no event and has no id."""
RETRY_SPREAD_MAX_MS: Final = 30_000


def prelude(cursor: int, *, retry_ms: int) -> bytes:
    """The first block of a stream: how long to wait before reconnecting, and the client's own cursor back.

    A block with only an `id` dispatches no event but sets the last event id. So a client that started at `fromSeq`
    and is cut off before its first event resumes there.
    """
    return prelude_of(str(cursor), retry_ms=retry_ms)


def prelude_of(cursor: str, *, retry_ms: int) -> bytes:
    """The same for a cursor that is no seq."""
    return b"retry: %d\n\nid: %b\n\n" % (retry_ms, cursor.encode("ascii"))


def event_frame(seq: int, json: str) -> bytes:
    """One event. `json` is one line."""
    return f"id: {seq}\ndata: {json}\n\n".encode("ascii")


def end_frame(run_id: str, *, state: str, last_seq: int) -> bytes:
    """The block after a run's terminal event: `event: end`. It has no id, so the last event id stays the last seq."""
    # The patterns of run ids and states leave nothing to escape.
    return f'event: end\ndata: {{"runId":"{run_id}","state":"{state}","lastSeq":{last_seq}}}\n\n'.encode("ascii")


def ended_frame(event_id: str, run_id: str, *, state: str, last_seq: int) -> bytes:
    """The same in a stream of many runs, which goes on: with an id, so that a run's end is told once, too."""
    return f"id: {event_id}\n".encode("ascii") + end_frame(run_id, state=state, last_seq=last_seq)


def resumable_end(reason: str, *, retry_ms: int) -> bytes:
    """The last block of a stream that could go on. `reason` is a comment, for people who read the stream."""
    return b": %b\nretry: %d\n\n" % (reason.encode("ascii"), retry_ms)


def jittered_retry_ms(base_ms: int, *, streams: int = 1) -> int:
    """Milliseconds after which one of `streams` that end together should reconnect.

    The reconnects are spread over one millisecond per stream, at least over `base_ms` and at most over 30 s. The first
    come soon, because other processes can serve them.
    """
    spread_ms = min(max(base_ms, streams), max(base_ms, RETRY_SPREAD_MAX_MS))
    return base_ms // 4 + JITTER.randrange(spread_ms + 1)


def chunk(data: bytes) -> bytes:
    """`data` as one chunk of HTTP/1.1's chunked transfer coding (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)
