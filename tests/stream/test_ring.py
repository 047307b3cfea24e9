from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire.stream.ring import BrokenSequence, Ring, fitting

PLENTY = 10**6


def frames(first: int, last: int) -> list[bytes]:
    return [b"%d " % seq for seq in range(first, last + 1)]


def test_a_ring_refuses_what_does_not_follow_its_tail() -> None:
    ring = Ring(8, tail=5)
    for first in (4, 5, 7):
        with pytest.raises(BrokenSequence):
            ring.extend(first, frames(first, first))
    assert (ring.tail, len(ring)) == (5, 0)


def test_a_slice_is_joined_once_for_all_who_write_it() -> None:
    ring = Ring(8)
    ring.extend(1, frames(1, 4))
    piece = ring.slice(1, upto=4, most_bytes=PLENTY)
    assert piece.bytes(chunked=False) == b"2 3 4 "
    assert piece.bytes(chunked=False) is piece.bytes(chunked=False)
    assert piece.bytes(chunked=True) is piece.bytes(chunked=True)


def test_a_slice_of_what_the_ring_let_go_is_refused() -> None:
    ring = Ring(2)
    ring.extend(1, frames(1, 4))
    ring.trim()
    with pytest.raises(BrokenSequence):
        ring.slice(1, upto=4, most_bytes=PLENTY)


def test_older_frames_are_taken_as_far_as_there_is_room() -> None:
    ring = Ring(4, tail=10)
    ring.extend(11, frames(11, 12))
    ring.prepend(10, frames(1, 10))
    assert ring.slice(8, upto=12, most_bytes=PLENTY).bytes(chunked=False) == b"9 10 11 12 "
    assert not ring.reaches(7)


def test_older_frames_that_do_not_touch_the_ring_are_left() -> None:
    ring = Ring(4, tail=10)
    ring.prepend(8, frames(5, 8))
    assert len(ring) == 0


def test_what_is_still_to_be_written_outlives_a_trim() -> None:
    ring = Ring(2)
    ring.extend(1, frames(1, 8))
    ring.trim(keep=5)
    assert ring.reaches(3)
    assert not ring.reaches(2)


@given(st.lists(st.integers(1, 640), min_size=1, max_size=40), st.integers(640, 9000))
def test_as_many_frames_are_taken_as_fit(lengths: list[int], most_bytes: int) -> None:
    given = [b"x" * length for length in lengths]
    taken = fitting(given, most_bytes)
    assert list(taken) == given[: len(taken)]
    assert sum(map(len, taken)) <= most_bytes
    assert len(taken) == len(given) or sum(lengths[: len(taken) + 1]) > most_bytes


def test_a_frame_that_is_too_long_is_taken_all_the_same() -> None:
    assert fitting([b"x" * 640, b"y"], 100) == [b"x" * 640]


@given(st.integers(1, 9), st.integers(0, 50), st.lists(st.integers(1, 7), max_size=20), st.data())
def test_every_slice_is_dense_and_a_ring_never_keeps_more_than_its_capacity(
    capacity: int, start: int, batches: list[int], data: st.DataObject
) -> None:
    ring = Ring(capacity, tail=start)
    for size in batches:
        ring.extend(ring.tail + 1, frames(ring.tail + 1, ring.tail + size))
        ring.trim()
        assert len(ring) <= capacity
        after = data.draw(st.integers(ring.tail - len(ring), ring.tail))
        upto = data.draw(st.integers(after, ring.tail))
        assert ring.reaches(after)
        piece = ring.slice(after, upto=upto, most_bytes=PLENTY)
        assert piece.bytes(chunked=False) == b"".join(frames(after + 1, upto))
        assert (piece.first, piece.last) == (after + 1, upto)
