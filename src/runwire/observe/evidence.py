"""The evidence of a diagnosis: what was looked at, whatever the finding."""

from __future__ import annotations

from typing import Any

from runwire.db import Row
from runwire.telemetry.traceparent import sampled_trace_id


def evidence_of(
    run: Row,
    node: Row | None,
    error: Row | None,
    *,
    parts: list[Row],
    publishers: list[Row],
    locks: list[Row],
    deaf: list[Row],
    holder: Row | None,
) -> dict[str, Any]:
    """Ages and waits in seconds, seqs, owners, sizes, the trace. Never payload."""
    return {
        "state": run["state"],
        "agent": run["agent"],
        "attempt": run["attempt"],
        "ageSeconds": _rounded(run["age_s"]),
        "lastSeq": run["last_seq"],
        "publishedSeq": run["published_seq"],
        "lastEvent": {"type": run["last_type"], "of": run["last_label"], "ageSeconds": _rounded(run["last_age_s"])},
        "unpublishedSeconds": _rounded(run["unpublished_age_s"]),
        "lease": {"owner": run["lease_owner"], "fence": run["fence"], "leftSeconds": _rounded(run["lease_left_s"])},
        "nodeInFlight": None if node is None else {"name": node["name"], "ageSeconds": _rounded(node["age_s"])},
        "blocked": None
        if run["blocked_node"] is None
        else {
            "node": run["blocked_node"],
            "at": run["blocked_at"],
            "seconds": _rounded(run["blocked_s"]),
            "ageSeconds": _rounded(run["blocked_age_s"]),
        },
        "workersLost": run["losses"],
        "nextNode": run["next_node"],
        "waitingFor": run["waiting_for"],
        "waitingSeconds": _rounded(run["waiting_s"]),
        "timerLeftSeconds": _rounded(run["timer_left_s"]),
        "signalsNotTaken": run["signals"],
        "signalledSeconds": _rounded(run["signalled_s"]),
        "openParts": [
            {
                "part": row["n"],
                "attempt": row["attempt"],
                "bytes": row["size"],
                "quietSeconds": _rounded(row["quiet_s"]),
            }
            for row in parts
        ],
        "cancelRequestedSeconds": _rounded(run["cancel_age_s"]),
        "lastError": None if error is None else error["fn"],
        "errorCode": run["error_code"],
        "traceId": sampled_trace_id(run["traceparent"]),
        "publishers": [
            {
                "id": row["publisher_id"],
                "heartbeatSeconds": _rounded(row["heartbeat_age_s"]),
                "failingWith": row["failing_code"],
            }
            for row in publishers
        ],
        "deafListeners": [dict(row) for row in deaf],
        "cursorLockedBy": None
        if holder is None
        else {
            "pid": holder["pid"],
            "of": holder["held_by"],
            "state": holder["state"],
            "seconds": _rounded(holder["held_s"]),
        },
        "locks": [{**row, "waited_s": _rounded(row["waited_s"])} for row in locks],
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(float(seconds), 3)
