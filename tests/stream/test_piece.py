"""Pieces are cut between frames, and nothing is lost, repeated or counted twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runwire.stream.piece import Piece, cut, fitting, split

TIMES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4)), max_size=6)


def frames(first: int, last: int) -> bytes:
    """The frames of these events, of some length each."""
    return b"".join(b"%d%b\n\n" % (seq, b"." * (seq % 7)) for seq in range(first, last + 1))


@given(TIMES, st.integers(0, 60))
def test_times_are_split_between_two_events(times: list[tuple[int, int]], at: int) -> None:
    each = [ts_us for many, ts_us in times for _ in range(many)]
    at = min(at, len(each))
    first, rest = split(times, at) if at else ([], list(times))
    assert [ts_us for many, ts_us in first for _ in range(many)] == each[:at]
    assert [ts_us for many, ts_us in rest for _ in range(many)] == each[at:]
    assert all(many > 0 for many, _ in (*first, *rest))


@given(st.lists(st.integers(0, 640), min_size=1, max_size=40), st.integers(640, 9000))
def test_as_many_frames_are_taken_as_fit(lengths: list[int], most_bytes: int) -> None:
    given = [b"x" * length + b"\n\n" for length in lengths]
    taken = fitting(b"".join(given), most_bytes)
    count = taken.count(b"\n\n")
    assert taken == b"".join(given[:count])
    assert count == 1 or len(taken) <= most_bytes
    assert count == len(given) or len(taken) + len(given[count]) > most_bytes
    piece = Piece.fitting(7, b"".join(given), most_bytes)
    assert (piece.first, piece.last, piece.bytes(chunked=False)) == (7, 6 + count, taken)


def test_a_frame_that_is_too_long_is_taken_all_the_same() -> None:
    long, short = b"x" * 640 + b"\n\n", b"y\n\n"
    assert fitting(long + short, 100) == long
    piece, rest = cut([Piece(1, 2, (long + short,))], 100)
    assert (piece.bytes(chunked=False), [left.bytes(chunked=False) for left in rest]) == (long, [short])


@given(st.integers(0, 50), st.lists(st.integers(1, 7), min_size=1, max_size=20), st.integers(1, 120))
def test_pending_pieces_go_out_as_whole_frames_that_fit_each_once_with_its_time(
    start: int, sizes: list[int], most_bytes: int
) -> None:
    pending, last = [], start
    for size in sizes:
        times = ((size, last),) if size % 2 else [(1, seq) for seq in range(last, last + size)]
        pending.append(Piece(last + 1, last + size, (frames(last + 1, last + size),), times))
        last += size
    expected = [ts for piece in pending for many, ts in piece.times for _ in range(many)]
    seen, at = [], start
    while pending:
        piece, pending = cut(pending, most_bytes)
        whole = piece.bytes(chunked=False)
        assert (piece.first, whole) == (at + 1, frames(at + 1, piece.last))
        assert piece.count == 1 or len(whole) <= most_bytes
        if piece.last < last:  # the next frame would not have fit
            assert len(whole) + len(frames(piece.last + 1, piece.last + 1)) > most_bytes
        assert sum(many for many, _ in piece.times) == piece.count
        seen += [ts for many, ts in piece.times for _ in range(many)]
        at = piece.last
    assert (at, seen) == (last, expected)
