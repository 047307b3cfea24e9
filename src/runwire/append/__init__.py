"""Append: the only way into the event log."""

from runwire.append.at_rest import AtRest, CancelledAtRest
from runwire.append.event_log import EventLog
from runwire.append.request import Appended, Change, Checkpoint, Companion, Stored

__all__ = ["Appended", "AtRest", "CancelledAtRest", "Change", "Checkpoint", "Companion", "EventLog", "Stored"]
