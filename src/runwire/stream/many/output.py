"""The bytes of one client's stream of many runs, joined to writes of a bounded size."""

from __future__ import annotations

from runwire.clock import monotonic
from runwire.stream.fanout import Outlet
from runwire.stream.sse import chunk


class Output:
    """Collects frames, and writes them once they are a slice or when `flush` is called."""

    def __init__(self, *, slice_bytes: int) -> None:
        self.outlet: Outlet
        """Set it before the first write."""
        self.wrote_at = monotonic()
        self.waiting_bytes = 0
        """Bytes that are not written yet."""
        self._slice_bytes = slice_bytes
        self._waiting: list[bytes] = []

    def put(self, data: bytes) -> None:
        self._waiting.append(data)
        self.waiting_bytes += len(data)
        if self.waiting_bytes >= self._slice_bytes:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            waiting, self._waiting, self.waiting_bytes = self._waiting, [], 0
            self.write(b"".join(waiting))

    def write(self, data: bytes) -> None:
        """Writes at once, before anything that was put."""
        self.outlet.write(chunk(data) if self.outlet.chunked else data)
        self.wrote_at = monotonic()
