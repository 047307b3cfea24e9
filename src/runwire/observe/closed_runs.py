"""A run that failed, by the code it failed with: why, and what helps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_START_AGAIN: Final = "then start the run again: a closed run stays as it is."

_ADVICE: Final[Mapping[str, tuple[str, str]]] = {
    "exception": (
        "a node raised an exception",
        "Read the log line node_failed of this run, which names file and line; mend the node, " + _START_AGAIN,
    ),
    "timeout": (
        "a node took longer than its timeout_s",
        "Find what it waited for in its trace or its log lines; give it more time or mend it, " + _START_AGAIN,
    ),
    "cancelled": (
        "a node raised CancelledError by itself",
        "Let the node handle the cancellation of what it awaits, " + _START_AGAIN,
    ),
    "invalid_input": (
        "its stored input or state does not fit the agent's state class as it is now",
        "Deploy a state class that reads what was stored, or start the run again with an input that fits.",
    ),
    "unknown_node": (
        "the agent has no more the node that was next",
        "Keep a removed node until no run is about to enter it, " + _START_AGAIN,
    ),
    "bad_state": (
        "a node left a state that does not come back from JSON as it was",
        "Keep to what JSON can hold in the state, " + _START_AGAIN,
    ),
    "state_too_large": (
        "a node left a state with more bytes than RUNWIRE_STATE_MAX_BYTES",
        "Keep large data elsewhere and its address in the state, or raise the limit, " + _START_AGAIN,
    ),
    "bad_exit": (
        "a node returned what it does not declare",
        "Declare the exit, or return one that is declared, " + _START_AGAIN,
    ),
    "bad_wait": (
        "a node waits for a signal that nobody can send, or until a time that is none",
        "Give the signal a name that the API takes, and declare a wait with a schema, " + _START_AGAIN,
    ),
    "bad_signal": (
        "a signal's data does not fit the schema of its wait any more",
        "Keep schemas open for what was sent before a deploy, " + _START_AGAIN,
    ),
    "too_many_traces": (
        "a node traces faster than its traces can be stored",
        "Trace less, " + _START_AGAIN,
    ),
    "content_unavailable": (
        "a node stored content above 256 KiB, and the content store failed or is not set up",
        "Mend the content store, as the runbook says under ArtifactStoreFailing, " + _START_AGAIN,
    ),
    "artifact_too_large": (
        "a node stored an artifact with more bytes than RUNWIRE_ARTIFACT_MAX_BYTES",
        "Store less in one artifact, or raise the limit, " + _START_AGAIN,
    ),
    "too_many_artifacts": (
        "it has as many artifacts as RUNWIRE_ARTIFACTS_PER_RUN_MAX allows",
        "Store fewer, or raise the limit, " + _START_AGAIN,
    ),
    "content_quota_exceeded": (
        "its tenant has as many bytes of content as RUNWIRE_CONTENT_TENANT_MAX_BYTES allows",
        "Erase content, or raise the limit, " + _START_AGAIN,
    ),
    "bad_result": (
        "a node gave a result that no JSON can hold",
        "Keep to what JSON can hold in the result, " + _START_AGAIN,
    ),
    "storage_refused": (
        "the database refuses to store a step of it",
        "Read the log line append_failed of this run, put right what it names, " + _START_AGAIN,
    ),
    "worker_lost": (
        "worker after worker died with it",
        "Find what ends the process (out of memory, a crash in native code, os._exit), mend it, " + _START_AGAIN,
    ),
    "lease_lost": (
        "its external orchestrator did not renew the lease in time",
        "See whether the orchestrator lives and appends often enough for its leaseSeconds, " + _START_AGAIN,
    ),
}


def why_failed(code: str | None, *, last_error: str | None) -> tuple[str, str]:
    """The cause and the next step. A code of the node's own is told as it is; `last_error` is the last `error:*`."""
    if code is not None and code in _ADVICE:
        return _ADVICE[code]
    cause = f"a node gave it up with {code!r}" if code else "no reason is stored"
    at = f" ({last_error})" if last_error else ""
    return cause, f"The code is the agent's own{at}: look in its source for what it stands for, {_START_AGAIN}"
