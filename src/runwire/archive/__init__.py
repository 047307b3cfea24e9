"""Archive: moves finished runs to cold storage, proves them there before they leave the log, and reads them back.

A process that archives:

    archiver = Archiver(database, open_store(url), metrics=ArchiveMetrics(out), writer="runwire 1.0")
    while (await archiver.step()).did is not Did.NOTHING: ...

Everything but `open_store` needs the extra `runwire[archive]` only once something is read or written.
"""

from typing import TYPE_CHECKING

from runwire.lazy import lazily

if TYPE_CHECKING:
    from runwire.archive.kinds import open_store
    from runwire.archive.metrics import ArchiveMetrics
    from runwire.archive.store import ArchiveGone, ColdStore
else:
    __getattr__ = lazily(__name__)

__all__ = ["ArchiveGone", "ArchiveMetrics", "ColdStore", "open_store"]
