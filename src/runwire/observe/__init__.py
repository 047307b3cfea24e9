"""Observe: watches the pipeline from outside, so that it outlives the parts that it watches."""

from runwire.observe.audit import ArchiveAudit
from runwire.observe.diagnosis import Diagnosis, Diagnostician, Limits, Stage
from runwire.observe.metrics import ObserverMetrics
from runwire.observe.observer import Observer

__all__ = ["ArchiveAudit", "Diagnosis", "Diagnostician", "Limits", "Observer", "ObserverMetrics", "Stage"]
