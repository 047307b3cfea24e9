from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import runwire
from runwire.telemetry.logs import LogEvent, configure_logging, count_dropped_lines, get_logger
from runwire.telemetry.tracing import Tracing
from telemetry.tables import code, table

PROMPT = "the user's prompt"
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    otel = logging.getLogger("opentelemetry")
    otel_level = otel.level
    yield io.StringIO()
    otel.setLevel(otel_level)


@pytest.fixture
def lines(stream: io.StringIO) -> Lines:
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_every_event_name_has_a_row_in_the_documentation() -> None:
    assert [code(row[0]) for row in table("Logs")] == [str(event) for event in LogEvent]


def test_every_event_name_is_logged_somewhere() -> None:
    sources = "\n".join(path.read_text() for path in Path(runwire.__file__).parent.rglob("*.py"))
    unused = [
        event
        for event in LogEvent
        if not re.search(rf"LogEvent\.{event.name}\b", sources)  # by its name, or where telemetry is not available
        and f'"{event}"' not in sources.replace(f'= "{event}"', "")
    ]
    assert unused == []


def test_a_line_is_a_json_object_that_starts_with_time_level_and_event(stream: io.StringIO, lines: Lines) -> None:
    configure_logging("info", "json", stream=stream)
    get_logger().info(LogEvent.SERVER_STARTED, port=8080)
    (line,) = lines()
    assert list(line) == ["ts", "level", "event", "port"]
    assert (line["level"], line["event"], line["port"]) == ("info", "server_started", 8080)


def test_lines_below_the_level_are_not_written(stream: io.StringIO, lines: Lines) -> None:
    configure_logging("info", "json", stream=stream)
    get_logger().debug(LogEvent.EVENTS_INSERTED, runId="r", seq=1, type="RunStarted", lag_ms=0.4)
    assert lines() == []


def test_the_seed_s_metric_lines_are_there_at_debug(stream: io.StringIO, lines: Lines) -> None:
    configure_logging("debug", "json", stream=stream)
    get_logger().debug(LogEvent.EVENTS_PUBLISHED, runId="r", seq=1, type="RunStarted", lag_ms=0.4)
    (line,) = lines()
    assert line["event"] == "metric.events_published"
    assert {key: line[key] for key in ("runId", "seq", "type", "lag_ms")} == {
        "runId": "r",
        "seq": 1,
        "type": "RunStarted",
        "lag_ms": 0.4,
    }


@pytest.mark.parametrize("shape", ["json", "console"])
def test_an_exception_is_told_without_its_text_or_variables(stream: io.StringIO, shape: Any) -> None:
    configure_logging("info", shape, stream=stream)

    def node(prompt: str) -> None:
        raise KeyError(prompt)

    try:
        try:
            node(PROMPT)
        except KeyError as error:
            raise ExceptionGroup(PROMPT, [RuntimeError(PROMPT)]) from error
    except ExceptionGroup:
        get_logger().exception(LogEvent.TASK_FAILED)
    assert PROMPT not in stream.getvalue()
    assert "KeyError" in stream.getvalue()
    assert "RuntimeError" in stream.getvalue()
    assert "test_logs.py:" in stream.getvalue()


def test_a_library_s_line_has_neither_its_arguments_nor_the_exception_s_text(stream: io.StringIO, lines: Lines) -> None:
    configure_logging("info", "json", stream=stream)
    try:
        int(PROMPT)
    except ValueError:
        logging.getLogger("asyncio").exception(f"Task exception was never retrieved\nfuture: {PROMPT}")  # noqa: G004  # as asyncio does
        logging.getLogger("aiohttp.server").exception("Error handling %s", PROMPT)
    assert PROMPT not in stream.getvalue()
    first, second = lines()
    assert (first["event"], first["logger"]) == ("library", "asyncio")
    assert first["message"] == "Task exception was never retrieved"
    assert first["error"]["type"] == "builtins.ValueError"
    assert second["message"] == "Error handling %s"


def test_inside_a_span_a_line_has_its_ids(stream: io.StringIO, lines: Lines) -> None:
    configure_logging("info", "json", stream=stream)
    tracing = Tracing(InMemorySpanExporter(), dropped=lambda _: None, ratio=1.0)
    with tracing.run_request(None) as request:
        get_logger().info(LogEvent.RUN_STARTED, run_id="r")
    get_logger().info(LogEvent.RUN_FINISHED, run_id="r")
    tracing.shutdown()
    inside, outside = lines()
    assert f"00-{inside['trace_id']}-{inside['span_id']}" == request.traceparent[:52]
    assert "trace_id" not in outside


def test_a_line_that_cannot_be_written_is_counted_and_fails_nobody(stream: io.StringIO) -> None:
    dropped: list[None] = []
    configure_logging("info", "json", stream=stream, dropped=lambda: dropped.append(None))
    stream.close()
    get_logger().info(LogEvent.RUN_STARTED, run_id="r")
    assert len(dropped) == 1


def test_lines_dropped_before_anything_counts_them_are_counted_by_whoever_comes(stream: io.StringIO) -> None:
    dropped: list[None] = []
    configure_logging("info", "json", stream=stream)
    count_dropped_lines(lambda: dropped.append(None))
    stream.close()
    get_logger().info(LogEvent.RUN_STARTED, run_id="r")
    assert len(dropped) == 1


def test_what_json_cannot_say_is_named_by_its_type(stream: io.StringIO, lines: Lines) -> None:
    configure_logging("info", "json", stream=stream)
    get_logger().info(LogEvent.RUN_STARTED, state=object())
    assert lines()[0]["state"] == "object"
