"""The canary: an outside client that walks the way of a user, again and again, and says how long each step took."""

from runwire.canary.canary import Canary
from runwire.canary.faults import Reason, Step, StepFailed
from runwire.canary.listener import metrics_listener
from runwire.canary.metrics import CanaryMetrics
from runwire.canary.rounds import Round, walked

__all__ = ["Canary", "CanaryMetrics", "Reason", "Round", "Step", "StepFailed", "metrics_listener", "walked"]
