"""The duties of a process. Each lasts as long as its role, and has one name in readiness and logs."""

from __future__ import annotations

from enum import StrEnum


class Part(StrEnum):
    """The owner of the duty: a role, or the whole process. The label of the metric, which has few."""

    API = "api"
    WORKER = "worker"
    PUBLISHER = "publisher"
    OBSERVER = "observer"
    ARCHIVER = "archiver"
    COLLECTOR = "collector"
    PROCESS = "process"


class Duty(StrEnum):
    """Duties. A process has those of its roles, and those common to every process."""

    STREAM = "stream"
    CLAIM = "claim"
    RENEW_LEASES = "renew_leases"
    REAP = "reap"
    WATCH = "watch"
    PUBLISH = "publish"
    SWEEP = "sweep"
    LEASE_SHARDS = "lease_shards"
    OBSERVE = "observe"
    ARCHIVE = "archive"
    COLLECT = "collect"
    APPEND = "append"
    WRITE_PARTS = "write_parts"
    CONNECT = "connect"
    LISTEN = "listen"
    HEAR = "hear"
    NOTIFY = "notify"
    BUS = "bus"
    MAKE_PARTITIONS = "make_partitions"
    PROBE_LOOP = "probe_loop"
    READ_CLOCK = "read_clock"

    @property
    def part(self) -> Part:
        return _PARTS.get(self, Part.PROCESS)

    @property
    def needed(self) -> bool:
        """Whether callers wait for it: a process that cannot do it should get no traffic."""
        return self not in _BESIDE


_PARTS = {
    Duty.STREAM: Part.API,
    Duty.CLAIM: Part.WORKER,
    Duty.RENEW_LEASES: Part.WORKER,
    Duty.REAP: Part.WORKER,
    Duty.WATCH: Part.WORKER,
    Duty.PUBLISH: Part.PUBLISHER,
    Duty.SWEEP: Part.PUBLISHER,
    Duty.LEASE_SHARDS: Part.PUBLISHER,
    Duty.OBSERVE: Part.OBSERVER,
    Duty.ARCHIVE: Part.ARCHIVER,
    Duty.COLLECT: Part.COLLECTOR,
}
_BESIDE = frozenset(
    {
        Duty.OBSERVE,
        Duty.ARCHIVE,
        Duty.COLLECT,
        Duty.HEAR,
        Duty.MAKE_PARTITIONS,
        Duty.PROBE_LOOP,
        Duty.READ_CLOCK,
    }
)
