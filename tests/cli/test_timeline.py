"""The timeline reads well whatever a run goes through."""

from __future__ import annotations

from rich.text import Text

from runwire.cli.output import duration
from runwire.cli.timeline import Timeline
from runwire.model.event import Event, EventType, Source


def lines(*events: tuple[int, EventType, str | None], started_ms: int | None = None) -> list[str]:
    timeline = Timeline(started_ms=started_ms)
    shown = []
    for seq, (ts, kind, label) in enumerate(events, start=1):
        name, fn = (None, label) if kind is EventType.DEBUG_TRACE else (label, None)
        event = Event("r1", seq, ts, kind, 1, Source.OUTBOX, name, fn)
        shown += [" ".join(Text.from_markup(line).plain.split()) for line in timeline.take(event)]
    return shown


def test_a_node_is_one_line_with_its_start_its_duration_and_its_traces() -> None:
    assert lines(
        (1000, EventType.RUN_STARTED, None),
        (1010, EventType.NODE_STARTED, "OpenApp"),
        (1020, EventType.DEBUG_TRACE, "openApp.page"),
        (2510, EventType.NODE_FINISHED, "OpenApp"),
        (2600, EventType.RUN_FINISHED, None),
    ) == [
        "0.000 s run started",
        "0.010 s OpenApp 1.50 s openApp.page",
        "1.600 s run ended after 1.60 s",
    ]


def test_a_node_that_fails_is_unfinished_and_says_why() -> None:
    assert lines(
        (0, EventType.NODE_STARTED, "Ping"),
        (9, EventType.DEBUG_TRACE, "error:timeout:ping"),
        (9, EventType.RUN_FINISHED, None),
        started_ms=0,
    ) == ["0.000 s Ping unfinished error:timeout:ping", "0.009 s run ended after 9 ms"]


def test_a_node_entered_again_after_a_crash_shows_both_times() -> None:
    assert lines(
        (0, EventType.NODE_STARTED, "Ping"),
        (5, EventType.NODE_STARTED, "Ping"),
        (9, EventType.NODE_FINISHED, "Ping"),
    ) == ["0.000 s Ping unfinished", "0.005 s Ping 4 ms"]


def test_a_trace_between_nodes_has_a_line_of_its_own() -> None:
    assert lines((7, EventType.DEBUG_TRACE, "cancelRequested"), started_ms=0) == ["0.007 s cancelRequested"]


def test_durations_have_the_unit_a_reader_wants() -> None:
    assert [duration(ms) for ms in (0, 999, 1000, 59_994, 200_000)] == [
        "0 ms",
        "999 ms",
        "1.00 s",
        "59.99 s",
        "3 min 20 s",
    ]
