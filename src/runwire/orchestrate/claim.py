"""A run that one worker has claimed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's claim of a run. `was` is the run's state before the claim. `age_s` counts from its start call, and
    includes `waited_s`, the time it waited for signals.

    For sampled runs, `span_id` is the span of this attempt and `earlier_span_id` that of the attempt before.
    `lost_worker_id` is the worker that died in the earlier attempt; None when it released the run. Times are epoch
    microseconds. A `parked` run has lost its maximum of workers: this worker fails it without walking it. `next_node`
    and `state` (JSON) are those of the last checkpoint, None before the first. `signal` is the one with which the run
    went on from there, with its data (JSON) and its sender's id. `timer_late_s`: its timer was due so long ago.
    """

    run_id: str
    agent: str
    input: bytes
    last_seq: int
    fence: int
    attempt: int
    traceparent: str | None
    session: str | None
    was: str
    cancel_requested: bool
    age_s: float
    waited_s: float
    worker_id: str
    span_id: str | None
    earlier_span_id: str | None
    lost_worker_id: str | None
    earlier_from_us: int | None
    earlier_until_us: int | None
    next_node: str | None
    state: bytes | None
    signal: str | None = None
    signal_data: bytes | None = None
    signal_id: str | None = None
    timer_late_s: float | None = None
    parked: bool = False

    @property
    def resumed(self) -> bool:
        """Its last owner died or handed it over before its end."""
        return self.was == "started"

    @classmethod
    def of_start(
        cls,
        run_id: str,
        *,
        agent: str,
        input_: bytes,
        traceparent: str | None,
        session: str | None,
        worker_id: str,
        span_id: str | None,
    ) -> Claim:
        """The claim of a run that was stored with its worker as its owner."""
        return cls(
            run_id=run_id,
            agent=agent,
            input=input_,
            last_seq=0,
            fence=1,
            attempt=1,
            traceparent=traceparent,
            session=session,
            was="pending",
            cancel_requested=False,
            age_s=0.0,
            waited_s=0.0,
            worker_id=worker_id,
            span_id=span_id,
            earlier_span_id=None,
            lost_worker_id=None,
            earlier_from_us=None,
            earlier_until_us=None,
            next_node=None,
            state=None,
        )
