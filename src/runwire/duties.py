"""The duties of a process: each goes on for as long as its role does, by one name in readiness, metrics and logs."""

from __future__ import annotations

from enum import StrEnum


class Duty(StrEnum):
    """The label `duty`. A process has those of its roles."""

    APPEND = "append"
    PUBLISH = "publish"
    SWEEP = "sweep"
    LEASE_SHARDS = "lease_shards"
    CLAIM = "claim"
    RENEW_LEASES = "renew_leases"
    REAP = "reap"
    STREAM = "stream"
    CONNECT = "connect"
    LISTEN = "listen"
    NOTIFY = "notify"
    BUS = "bus"
    OBSERVE = "observe"
    ARCHIVE = "archive"
    MAKE_PARTITIONS = "make_partitions"
    PROBE_LOOP = "probe_loop"

    @property
    def needed(self) -> bool:
        """Whether somebody waits for it: a process that cannot do it should get no traffic."""
        return self not in _BESIDE


_BESIDE = frozenset({Duty.OBSERVE, Duty.ARCHIVE, Duty.MAKE_PARTITIONS, Duty.PROBE_LOOP})
