"""A test's configuration of logging does not leak into other tests."""

from __future__ import annotations

import io
import logging

import structlog

from logging_state import logging_as_it_was
from runwire.orchestrate import worker
from runwire.telemetry.logs import LogEvent, configure_logging


def test_loggers_that_kept_a_configuration_for_good_are_captured_again() -> None:
    before = logging.getLogger().handlers
    with logging_as_it_was():
        configure_logging("critical", stream=io.StringIO())
        worker._log.info(LogEvent.RUN_STARTED)
    with structlog.testing.capture_logs() as lines:
        worker._log.info(LogEvent.RUN_STARTED)
    assert [line["event"] for line in lines] == ["run_started"]
    assert logging.getLogger().handlers is before
