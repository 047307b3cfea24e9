"""Observe: watches the pipeline from outside, so that it outlives the parts that it watches."""

from typing import TYPE_CHECKING

from runwire.lazy import lazily

if TYPE_CHECKING:
    from runwire.observe.audit import ArchiveAudit
    from runwire.observe.diagnosis import Diagnosis, Diagnostician
    from runwire.observe.findings import DiagnosisThresholds, Stage
    from runwire.observe.metrics import ObserverMetrics
    from runwire.observe.observer import Observer
else:
    __getattr__ = lazily(__name__)

__all__ = ["ArchiveAudit", "Diagnosis", "DiagnosisThresholds", "Diagnostician", "Observer", "ObserverMetrics", "Stage"]
