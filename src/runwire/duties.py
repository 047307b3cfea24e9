"""The roles of a process and its duties. A duty lasts as long as its role, and has one name in readiness and logs."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """A part of the pipeline that a process can run. `serve` without `--role` runs all of them."""

    API = "api"
    WORKER = "worker"
    PUBLISHER = "publisher"
    OBSERVER = "observer"
    ARCHIVER = "archiver"
    COLLECTOR = "collector"


PROCESS: Final = "process"
"""Owns the duties that every process has."""
OWNERS: Final = (*Role, PROCESS)
"""Labels of the metric, which has few."""


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
    BEAT = "beat"

    @property
    def owner(self) -> str:
        """A role, or the whole process."""
        return _ROLES.get(self, PROCESS)

    @property
    def needed(self) -> bool:
        """Whether callers wait for it: a process that cannot do it should get no traffic."""
        return self not in _BESIDE


_ROLES = {
    Duty.STREAM: Role.API,
    Duty.CLAIM: Role.WORKER,
    Duty.RENEW_LEASES: Role.WORKER,
    Duty.REAP: Role.WORKER,
    Duty.WATCH: Role.WORKER,
    Duty.PUBLISH: Role.PUBLISHER,
    Duty.SWEEP: Role.PUBLISHER,
    Duty.LEASE_SHARDS: Role.PUBLISHER,
    Duty.OBSERVE: Role.OBSERVER,
    Duty.ARCHIVE: Role.ARCHIVER,
    Duty.COLLECT: Role.COLLECTOR,
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
        Duty.BEAT,
    }
)
