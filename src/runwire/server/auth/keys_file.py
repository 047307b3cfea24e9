"""A file that may lie on a mount that hangs. A thread of its own reads it, so that no request waits for it.

Thread ownership: the watching thread alone reads the file, and hands what it found to `took`, which swaps one
reference. Everybody else only reads that reference. The thread ends soon after its KeysFile is closed or dropped, and
never keeps a process alive.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Final, Generic, TypeVar

from runwire import clock
from runwire.errors import ConfigurationError
from runwire.telemetry.logs import LogEvent, get_logger

LOOK_S: Final = 1.0
"""Seconds between reads of the file. The content is compared, since a copy or an editor may keep size and time."""
START_S: Final = 10.0
"""Seconds that a start waits for the file."""
HUNG_S: Final = 10.0
"""Seconds after which a read that hangs is logged."""
MAX_BYTES: Final = 4 * 1024 * 1024

Record = TypeVar("Record")
_log = get_logger()


class KeysFile(Generic[Record]):
    """The records of a file as last read. An unreadable file, or one with a wrong line, leaves the last good
    records.
    """

    def __init__(self, file: Path, parse: Callable[[str], Mapping[str, Record]]) -> None:
        """`parse` raises ConfigurationError. Raises ConfigurationError when the file cannot be read at the start."""
        self.records: Mapping[str, Record] = {}
        self._problem: ConfigurationError | None = None
        self._looked_at = clock.monotonic()
        self._told = ""
        self._closed = False
        looked = threading.Event()
        watch = threading.Thread(
            target=_watch, args=(weakref.ref(self), file, parse, looked), name="keys file", daemon=True
        )
        watch.start()
        if not looked.wait(START_S):
            self.close()
            raise ConfigurationError((f"RUNWIRE_KEYS_FILE: {file} cannot be read: no answer in {START_S:g} s",))
        if self._problem is not None:
            self.close()
            raise self._problem

    def close(self) -> None:
        """The file is read no more, and a read that is under way changes and logs nothing."""
        self._closed = True

    def check_watched(self) -> None:
        """Logs once when a read of the file has not returned for long."""
        if clock.monotonic() - self._looked_at > HUNG_S:
            self._tell("TimeoutError")

    def took(self, found: Mapping[str, Record] | ConfigurationError | None) -> bool:
        """Takes the result of one read; None when nothing has changed. Called by the thread, which ends on False."""
        if self._closed:
            return False
        self._looked_at = clock.monotonic()
        first, self._problem = self._problem, found if isinstance(found, ConfigurationError) else None
        if self._problem is not None:
            if self.records or first is not None:
                self._tell(type(self._problem.__cause__ or self._problem).__name__)
            return True
        self._told = ""
        if found is not None and not isinstance(found, ConfigurationError):
            self.records = found
        return True

    def _tell(self, error_type: str) -> None:
        if self._told != error_type:
            self._told = error_type
            _log.error(LogEvent.CREDENTIALS_UNREADABLE, source="keys_file", error_type=error_type)


def begin_to_read(file: Path, *, most_bytes: int) -> Future[bytes]:
    """A future of `read_bounded`'s result, read by a daemon thread."""
    future: Future[bytes] = Future()

    def read() -> None:
        try:
            future.set_result(read_bounded(file, most_bytes=most_bytes))
        except OSError as error:
            future.set_exception(error)

    threading.Thread(target=read, name=f"read {file.name}", daemon=True).start()
    return future


def read_bounded(file: Path, *, most_bytes: int) -> bytes:
    """The file's bytes. Raises OSError, also for a longer file."""
    with file.open("rb") as opened:
        data = opened.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise OSError(f"more than {most_bytes} bytes")
    return data


def _watch(
    owner: weakref.ref[KeysFile[Record]],
    file: Path,
    parse: Callable[[str], Mapping[str, Record]],
    looked: threading.Event,
) -> None:
    seen: bytes | None = None
    while True:
        found: Mapping[str, Record] | ConfigurationError | None = None
        try:
            data = read_bounded(file, most_bytes=MAX_BYTES)
            if data != seen:
                found = parse(data.decode("utf-8"))
                seen = data
        except ConfigurationError as error:
            found = error
        except (OSError, UnicodeError) as error:
            found = ConfigurationError((f"RUNWIRE_KEYS_FILE: {file} cannot be read: {type(error).__name__}",))
            found.__cause__ = error
        ring = owner()
        if ring is None or not ring.took(found):
            return
        del ring
        looked.set()
        time.sleep(LOOK_S)
