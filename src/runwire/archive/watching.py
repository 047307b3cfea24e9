"""Watchers of the archiver's work: progress bars, logs, tests that stop it at every point where a machine could."""

from __future__ import annotations

from enum import StrEnum


class Milestone(StrEnum):
    """The progress that is now durable, or known (`free`: nothing keeps the day). A process that dies after any of
    these leaves work that the next one goes on with.
    """

    BEGUN = "begun"
    DATA_STORED = "data_stored"
    MANIFEST_STORED = "manifest_stored"
    WRITTEN = "written"
    READ_BACK = "read_back"
    VERIFIED = "verified"
    SHRUNK = "shrunk"
    FREE = "free"
    DETACHED = "detached"
    ATTACHED_AGAIN = "attached_again"
    TABLE_DROPPED = "table_dropped"
    DROPPED = "dropped"
    PARTITION_MADE = "partition_made"
    PUT_BACK = "put_back"
    RESTORED = "restored"


class Watcher:
    """A watcher that does nothing; override the methods of interest."""

    def reached(self, milestone: Milestone, what: str) -> None:
        """`what` is a batch's id, or a day."""

    def advanced(self, doing: str, *, done: int, total: int) -> None:
        """Events of a batch that were written, verified or restored so far."""

    async def breathe(self, worked_s: float) -> None:
        """Called between two pieces of work with the duration of the last one. Wait here to leave the machine to
        others.
        """
