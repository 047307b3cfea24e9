"""Cursors of mixed streams come back as they went out, and no other text is one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire.content.part import OPEN_MAX
from runwire.errors import InvalidRequest
from runwire.stream import MixedCursor, parse_mixed_cursor

PLACES = st.dictionaries(st.integers(1, 10**9), st.tuples(st.integers(1, 10**6), st.integers(0, 10**15)), max_size=20)


@given(st.integers(0, 2**63 - 1), PLACES)
def test_a_cursor_comes_back_as_it_went_out(seq: int, places: dict[int, tuple[int, int]]) -> None:
    cursor = MixedCursor(seq, places)
    assert parse_mixed_cursor(cursor.text, where="id") == cursor


@pytest.mark.parametrize(
    "text", ["", "-1", "x", "1~", "1~1", "1~1.1", "1~0.1:1", "1~1.1:1,", "1~1.1:1,1.1:2", "1~1.1:-1", "1~" + "9" * 4000]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"."):
        parse_mixed_cursor(text, where="id")


def test_more_places_than_a_run_has_open_parts_are_refused() -> None:
    places = [f"{n}.1:1" for n in range(1, OPEN_MAX + 2)]
    assert len(parse_mixed_cursor("1~" + ",".join(places[:-1]), where="id").places) == OPEN_MAX
    with pytest.raises(InvalidRequest):
        parse_mixed_cursor("1~" + ",".join(places), where="id")
