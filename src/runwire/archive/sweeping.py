"""Deletes the files of attempts that came to nothing: their archiver was killed before it could.

Each attempt to write a batch has a path of its own. Only one attempt is recorded. Another one that still runs, because
its archiver does not know yet that it lost its lock, can record nothing, so its files may go at any time. They are
looked for below the days of batches that were proven lately, on each round of the archiver.
"""

from __future__ import annotations

from typing import Final

from runwire.archive.ledger import Ledger, day_folder
from runwire.archive.store import ColdStore
from runwire.telemetry.logs import LogEvent, get_logger

LATELY_DAYS: Final = 7

_log = get_logger()


async def sweep(ledger: Ledger, store: ColdStore) -> int:
    """Deletes leftovers of batches that are proven, and returns how many. Raises ArchiveUnavailable.

    Files of batches that the ledger does not know stay: they may be of another database, or of a time after the moment
    that this database was restored to.
    """
    swept = 0
    for day, kept in (await ledger.proven(within_days=LATELY_DAYS)).items():
        paths = [path async for path in store.paths(day_folder(day))]
        for path in paths:
            batch = kept.get(path.rpartition("/")[2].partition(".")[0])
            if batch is not None and path not in (batch.path, batch.manifest_path):
                await store.delete(path)
                swept += 1
    if swept:
        _log.info(LogEvent.ARCHIVE_SWEPT, files=swept)
    return swept
