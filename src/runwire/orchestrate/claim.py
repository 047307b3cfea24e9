"""A run in the hands of one worker."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker got with its lease. `was` is the state the run was found in; `age_s` counts from its start call;
    `waited_s` of it the run waited for signals.

    Of sampled runs `span_id` is the span of this turn, `earlier_span_id` that of the turn before; `lost_worker_id` is
    who had that one and died, from and until when (epoch microseconds), None when it let go of the run.
    A `parked` run has lost as many workers as it may: it is failed, not walked.
    `next_node` and `state` (JSON) are those of the last checkpoint, None before the first.
    """

    run_id: str
    agent: str
    input: bytes
    last_seq: int
    fence: int
    attempt: int
    traceparent: str | None
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
    parked: bool = False

    @property
    def resumed(self) -> bool:
        """Its last owner died, or handed it over, in the middle."""
        return self.was == "started"

    @classmethod
    def of_start(
        cls, run_id: str, *, agent: str, input_: bytes, traceparent: str | None, worker_id: str, span_id: str | None
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
