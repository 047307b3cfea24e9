from __future__ import annotations

import pytest

from runwire.model.event import StoredEvent, WireEncoder
from runwire.stream import sse
from runwire.stream.limits import FRAME_MAX


def test_a_stream_starts_with_the_pause_and_the_clients_own_cursor() -> None:
    assert sse.prelude(41, retry_ms=2000) == b"retry: 2000\n\nid: 41\n\n"


def test_an_event_is_one_id_and_one_data_line() -> None:
    assert sse.event_frame(3, '{"seq":3}') == b'id: 3\ndata: {"seq":3}\n\n'


def test_the_end_has_no_id_so_the_last_event_id_stays() -> None:
    frame = sse.end_frame("run-1", state="finished", last_seq=13)
    assert frame == b'event: end\ndata: {"runId":"run-1","state":"finished","lastSeq":13}\n\n'


def test_a_heartbeat_is_a_comment_without_id() -> None:
    assert sse.HEARTBEAT.startswith(b":")
    assert sse.HEARTBEAT.endswith(b"\n\n")
    assert b"id" not in sse.HEARTBEAT


def test_a_resumable_end_says_why_and_when_to_come_back() -> None:
    assert sse.resumable_end("drain", retry_ms=3456) == b": drain\nretry: 3456\n\n"


@pytest.mark.parametrize(("streams", "latest"), [(1, 2500), (5000, 5500), (10**6, 30_500)])
def test_streams_that_end_together_come_back_spread_over_time(streams: int, latest: int) -> None:
    pauses = [sse.jittered_retry_ms(2000, streams=streams) for _ in range(2000)]
    assert min(pauses) >= 500
    assert latest * 0.9 < max(pauses) <= latest
    assert len(set(pauses)) > 500


def test_a_chunk_has_its_length_in_hexadecimal() -> None:
    assert sse.chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"


def test_no_frame_is_longer_than_the_bound_that_buffers_are_reckoned_with() -> None:
    longest = StoredEvent(2**63 - 1, 2**63 - 1, "DebugTrace", None, "f" * 256)
    frame = sse.event_frame(longest.seq, WireEncoder("r" * 128).json(longest))
    assert len(frame) <= FRAME_MAX
