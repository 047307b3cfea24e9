"""A test's configuration of logging does not leak into other tests."""

from __future__ import annotations

import io
import logging
import sys
from types import ModuleType

import pytest
import structlog

from logging_state import logging_as_it_was
from runwire.telemetry.logs import LogEvent, configure_logging, get_logger


def test_loggers_that_kept_a_configuration_for_good_are_captured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = logging.getLogger().handlers
    module = ModuleType("runwire.of_this_test")
    log = vars(module)["log"] = get_logger()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with logging_as_it_was():
        configure_logging("critical", stream=io.StringIO())
        log.info(LogEvent.RUN_STARTED)
    with structlog.testing.capture_logs() as lines:
        log.info(LogEvent.RUN_STARTED)
    assert [line["event"] for line in lines] == ["run_started"]
    assert logging.getLogger().handlers is before
