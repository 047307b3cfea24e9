from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire.stream.piece import BrokenSequence
from runwire.stream.ring import Ring

PLENTY = 10**6


def frames(first: int, last: int) -> bytes:
    """The frames of these events, of some length each."""
    return b"".join(b"%d%b\n\n" % (seq, b"." * (seq % 7)) for seq in range(first, last + 1))


def filled(capacity: int, *last_seqs: int, tail: int = 0) -> Ring:
    """A ring that got its events in pieces that end at these seqs."""
    ring = Ring(capacity, tail=tail)
    for last in last_seqs:
        ring.extend(ring.tail + 1, last, frames(ring.tail + 1, last))
    return ring


def test_a_ring_refuses_what_does_not_follow_its_tail() -> None:
    ring = Ring(8, tail=5)
    for first in (4, 5, 7):
        with pytest.raises(BrokenSequence):
            ring.extend(first, first, frames(first, first))
    assert (ring.tail, len(ring)) == (5, 0)


def test_a_slice_is_joined_once_for_all_who_write_it() -> None:
    piece = filled(8, 1, 3, 4).slice(1, upto=4, most_bytes=PLENTY)
    assert piece.bytes(chunked=False) == frames(2, 4)
    assert piece.bytes(chunked=False) is piece.bytes(chunked=False)
    assert piece.bytes(chunked=True) is piece.bytes(chunked=True)


def test_a_slice_of_what_the_ring_let_go_is_refused() -> None:
    ring = filled(2, 4)
    with pytest.raises(BrokenSequence):
        ring.slice(1, upto=4, most_bytes=PLENTY)
    with pytest.raises(BrokenSequence):
        ring.slice(0, upto=4, most_bytes=PLENTY)  # where the newest piece once began


def test_a_slice_of_nothing_is_empty() -> None:
    for ring in (Ring(4, tail=3), filled(4, 2, 3)):
        piece = ring.slice(3, upto=3, most_bytes=PLENTY)
        assert (piece.first, piece.last, piece.bytes(chunked=False)) == (4, 3, b"")


def test_older_frames_are_taken_as_far_as_there_is_room() -> None:
    ring = filled(4, 12, tail=10)
    ring.prepend(1, 10, frames(1, 10))
    assert ring.slice(8, upto=12, most_bytes=PLENTY).bytes(chunked=False) == frames(9, 12)
    assert not ring.reaches(7)
    ring.prepend(1, 8, frames(1, 8))
    assert len(ring) == 4


def test_older_frames_that_do_not_touch_the_ring_are_left() -> None:
    ring = Ring(4, tail=10)
    ring.prepend(5, 8, frames(5, 8))
    assert len(ring) == 0


def test_a_frame_that_is_too_long_is_taken_all_the_same() -> None:
    long, short = b"x" * 640 + b"\n\n", b"y\n\n"
    ring = Ring(8)
    ring.extend(1, 1, short)
    ring.extend(2, 3, long + short)
    assert ring.slice(0, upto=3, most_bytes=100).bytes(chunked=False) == short
    assert ring.slice(1, upto=3, most_bytes=100).bytes(chunked=False) == long


@given(
    st.integers(1, 9),
    st.integers(0, 50),
    st.lists(st.integers(1, 7), min_size=1, max_size=20),
    st.integers(1, 120),
    st.data(),
)
def test_every_slice_is_dense_and_fits_and_a_ring_never_keeps_more_than_its_capacity(
    capacity: int, start: int, sizes: list[int], most_bytes: int, data: st.DataObject
) -> None:
    ring = Ring(capacity, tail=start)
    for size in sizes:
        most = len(ring) + size
        ring.extend(ring.tail + 1, ring.tail + size, frames(ring.tail + 1, ring.tail + size))
        assert min(most, capacity - capacity // 8) <= len(ring) <= capacity
        if data.draw(st.booleans()):
            first = data.draw(st.integers(1, ring.before + 1))
            ring.prepend(first, ring.before, frames(first, ring.before))
        everything = ring.slice(ring.before, upto=ring.tail, most_bytes=PLENTY).bytes(chunked=False)
        assert everything == frames(ring.before + 1, ring.tail)
        assert not ring.reaches(ring.before - 1)
        after = data.draw(st.integers(ring.before, ring.tail))
        upto = data.draw(st.integers(after, ring.tail))
        piece = ring.slice(after, upto=upto, most_bytes=most_bytes)
        whole = piece.bytes(chunked=False)
        assert whole == frames(after + 1, piece.last)
        assert piece.first == after + 1
        if piece.last < upto:  # the next would not have fit
            assert len(whole) + len(frames(piece.last + 1, piece.last + 1)) > most_bytes
            assert piece.last > after
        assert piece.last <= after + 1 or len(whole) <= most_bytes
