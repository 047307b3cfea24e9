"""Logging is a process's own; tests share one, so what one of them configured must not be there for the next."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

_LOGGER = type(structlog.get_logger())


@contextmanager
def logging_as_it_was() -> Iterator[None]:
    """Undoes, at its end, what the block has configured of logging."""
    configured, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers, root.level
    try:
        yield
    finally:
        structlog.configure(**configured)
        for name, module in tuple(sys.modules.items()):
            if name.startswith("runwire."):
                for value in vars(module).values():
                    if isinstance(value, _LOGGER):
                        # A logger that was used while the configuration was for good has kept it, by this attribute.
                        vars(value).pop("bind", None)
        root.handlers = handlers
        root.setLevel(level)
