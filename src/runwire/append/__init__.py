"""Append: the only way into the event log."""

from typing import TYPE_CHECKING

from runwire.lazy import lazily

if TYPE_CHECKING:
    from runwire.append.at_rest import AtRest, CancelledAtRest
    from runwire.append.event_log import EventLog
    from runwire.append.request import Appended, Change, Checkpoint, Companion, Stored
else:
    __getattr__ = lazily(__name__)

__all__ = ["Appended", "AtRest", "CancelledAtRest", "Change", "Checkpoint", "Companion", "EventLog", "Stored"]
