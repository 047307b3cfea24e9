"""The metrics of the canary, which it exports on a listener of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from enum import StrEnum
from itertools import product

from prometheus_client import Counter, Gauge, ProcessCollector

from runwire.canary.faults import Reason, Step
from runwire.canary.rounds import Round
from runwire.telemetry.exposition import Exposition
from runwire.telemetry.histogram import Histogram
from runwire.telemetry.metrics import LAG_BUCKETS_S


class RoundOutcome(StrEnum):
    GOOD = "good"
    BAD = "bad"


class CanaryMetrics:
    """The group of `runwire canary`."""

    def __init__(self, out: Exposition) -> None:
        self._last: Round | None = None
        self._succeeded = False
        self.step_duration: Mapping[str, Histogram] = out.histograms(
            "canary_step_seconds",
            "How long a step of the canary took from the call that begins it. Of a start: its answer, the first event,"
            " the wait. Of a signal: the next event, the end. Of a cancel: the end. Last, the log read again.",
            edges=LAG_BUCKETS_S,
            step=Step,
        )
        """By step."""
        self.failures: Mapping[tuple[str, ...], Counter] = out.counter_family(
            "canary_failures",
            "Rounds of the canary that failed, by the step that failed and the reason.",
            unit="rounds",
            labels=("step", "reason"),
            series=[(step.value, reason.value) for step, reason in product(Step, Reason)],
        )
        """By (step, reason)."""
        self.rounds: Mapping[str, Counter] = out.counters(
            "canary_rounds", "Rounds of the canary that ended.", unit="rounds", outcome=RoundOutcome
        )
        """By outcome."""
        self.failed_rounds: Gauge = out.gauge(
            "canary_failed_rounds", "Rounds of the canary that failed since the last good one.", unit="rounds"
        )
        self.up: Gauge = out.gauge(
            "canary_up", "1 when the canary's last round was good, else 0.", known=lambda: self._last is not None
        )
        self.last_success: Gauge = out.gauge(
            "canary_last_success_timestamp_seconds",
            "When the canary's last good round ended.",
            unit="seconds since the epoch",
            known=lambda: self._succeeded,
        )
        self.last_round: Gauge = out.gauge(
            "canary_last_round_timestamp_seconds",
            "When the canary's last round ended, good or bad.",
            unit="seconds since the epoch",
            known=lambda: self._last is not None,
        )
        ProcessCollector(registry=out.registry)

    def count(self, ended: Round) -> None:
        """Counts a round that has just ended."""
        self._last = ended
        for step, seconds in ended.seconds.items():
            self.step_duration[step].observe(seconds)
        self.rounds[RoundOutcome.GOOD if ended.good else RoundOutcome.BAD].inc()
        self.up.set(1 if ended.good else 0)
        self.last_round.set(time.time())
        if ended.failed is None:
            self._succeeded = True
            self.last_success.set(time.time())
            self.failed_rounds.set(0)
        else:
            self.failures[ended.failed.step, ended.failed.reason].inc()
            self.failed_rounds.inc()
