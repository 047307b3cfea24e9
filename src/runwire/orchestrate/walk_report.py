"""Metrics, log lines and spans of one worker's walk through one run. Each is told after its commit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runwire.append import Change
from runwire.clock import monotonic
from runwire.model.graph import Node
from runwire.model.run import RunState
from runwire.orchestrate.claim import Claim
from runwire.telemetry.logs import LogEvent, get_logger
from runwire.telemetry.metrics import Metrics
from runwire.telemetry.span import Span
from runwire.telemetry.spans import Spans
from runwire.telemetry.traceparent import sampled_trace_id

_log = get_logger()


class WalkReport:
    """Tells of one walk. It knows what was told before, and when the run began."""

    def __init__(self, claim: Claim, *, metrics: Metrics, spans: Spans) -> None:
        self._claim = claim
        self._metrics = metrics
        self._spans = spans
        self._trace_id = sampled_trace_id(claim.traceparent)
        self._run_began_at = monotonic() - claim.age_s
        self._first_node = claim.last_seq == 0

    def attempt_span(self) -> Span:
        """The span of this walk. Before it, the span of a killed worker, which can no longer send its own."""
        claim = self._claim
        if claim.earlier_span_id and claim.lost_worker_id and claim.earlier_from_us and claim.earlier_until_us:
            self._spans.lost_attempt(
                claim.traceparent,
                agent=claim.agent,
                run_id=claim.run_id,
                attempt=claim.attempt - 1,
                worker_id=claim.lost_worker_id,
                session=claim.session,
                span_id=claim.earlier_span_id,
                from_us=claim.earlier_from_us,
                until_us=claim.earlier_until_us,
            )
        return self._spans.invoke_agent(
            claim.traceparent,
            agent=claim.agent,
            run_id=claim.run_id,
            attempt=claim.attempt,
            worker_id=claim.worker_id,
            session=claim.session,
            span_id=claim.span_id,
            earlier=claim.earlier_span_id,
        )

    def node_span(self, node: Node[Any], attempt: int) -> Span:
        claim = self._claim
        return self._spans.invoke_node(claim.traceparent, node=node.name, run_id=claim.run_id, attempt=attempt)

    def started(self) -> None:
        self._metrics.runs_started[self._claim.agent].inc()
        _log.info(LogEvent.RUN_STARTED, run_id=self._claim.run_id, agent=self._claim.agent)

    def resumed(self) -> None:
        claim = self._claim
        _log.info(LogEvent.RUN_RESUMED, run_id=claim.run_id, agent=claim.agent, attempt=claim.attempt)

    def waiting(self, change: Change) -> None:
        timed = {} if change.due is None else {"due": change.due}
        _log.info(LogEvent.RUN_WAITING, run_id=self._claim.run_id, signal=change.waiting_for, **timed)

    def finished(self, state: RunState, code: str | None) -> None:
        claim = self._claim
        took_s = monotonic() - self._run_began_at - claim.waited_s
        self._metrics.runs_finished[claim.agent, state.value].inc()
        self._metrics.run_duration[state.value].observe(took_s, self._trace_id)
        _log.info(
            LogEvent.RUN_FINISHED,
            run_id=claim.run_id,
            agent=claim.agent,
            outcome=state.value,
            error_code=code,
            duration_s=round(took_s, 3),
        )

    def node_started(self, node: Node[Any], attempt: int) -> None:
        _log.info(LogEvent.NODE_STARTED, **self._about(node, attempt))
        if self._first_node:
            self._first_node = False
            self._metrics.time_to_first_node.observe(monotonic() - self._run_began_at, self._trace_id)

    def node_finished(self, node: Node[Any], attempt: int, took_s: float) -> None:
        self._observe(node, "finished", took_s)
        _log.info(LogEvent.NODE_FINISHED, duration_s=round(took_s, 3), **self._about(node, attempt))

    def node_failed(self, node: Node[Any], attempt: int, took_s: float, *, code: str, facts: Mapping[str, Any]) -> None:
        _log.warning(LogEvent.NODE_FAILED, code=code, **self._about(node, attempt), **facts)
        self._observe(node, "timeout" if code == "timeout" else "failed", took_s)

    def node_cancelled(self, node: Node[Any], took_s: float) -> None:
        self._observe(node, "cancelled", took_s)

    def _observe(self, node: Node[Any], outcome: str, took_s: float) -> None:
        self._metrics.node_duration[node.name, outcome].observe(took_s, self._trace_id)

    def _about(self, node: Node[Any], attempt: int) -> dict[str, Any]:
        return {"run_id": self._claim.run_id, "node": node.name, "attempt": attempt}
