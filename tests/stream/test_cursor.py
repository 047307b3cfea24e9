from __future__ import annotations

import pytest

from runwire.errors import InvalidRequest
from runwire.stream import Cursor, parse_cursor


def test_no_cursor_means_the_start_of_the_log() -> None:
    assert parse_cursor(from_seq=None) == Cursor(0)


def test_a_cursor_is_the_last_seq_the_client_has() -> None:
    assert parse_cursor(from_seq="7") == Cursor(7)


def test_last_event_id_wins_over_from_seq_and_marks_a_resume() -> None:
    assert parse_cursor(from_seq="7", last_event_id="12") == Cursor(12, resumed=True)


def test_last_event_id_wins_even_over_a_from_seq_that_is_no_cursor() -> None:
    assert parse_cursor(from_seq="x", last_event_id="12") == Cursor(12, resumed=True)


def test_an_empty_last_event_id_is_none() -> None:
    assert parse_cursor(from_seq="7", last_event_id="") == Cursor(7)


def test_the_largest_bigint_is_still_a_cursor() -> None:
    assert parse_cursor(from_seq="9223372036854775807").seq == 2**63 - 1


@pytest.mark.parametrize(
    "text",
    ["", "-1", "+1", " 1", "1 ", "1.0", "1e3", "0x1", "1_000", "٣", "²", "9223372036854775808", "0" * 20, "9" * 5000],
)
def test_what_is_not_a_decimal_in_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_cursor(from_seq=text)
    assert refused.value.code == "invalid_cursor"
    assert "fromSeq" in refused.value.detail


def test_a_malformed_last_event_id_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidRequest, match="Last-Event-ID"):
        parse_cursor(from_seq="1", last_event_id="1\x00")
