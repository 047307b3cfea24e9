"""Writes bytes to parts. All parts of a process share a statement in each tick (group commit).

A tick follows the one before by `linger_s` at least: a part that was quiet is written at once, and a busy one gathers
its writes. The statement checks the fence of each part's run, so a worker that lost its lease writes nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import compress
from typing import Final, NamedTuple, Self

from runwire.clock import monotonic, wait_until_set
from runwire.content.part import Part, PartState
from runwire.content.part_metrics import PartMetrics
from runwire.content.part_quota import PartQuota
from runwire.content.settings import DEFAULTS
from runwire.db import Database, Row, load_sql
from runwire.duties import Duty
from runwire.errors import ContentQuotaExceeded, DatabaseFailed, FenceStale, PartMoved, PartRefused, RunwireError
from runwire.telemetry.asyncpg_spans import suppressed
from runwire.telemetry.logs import LogEvent, get_logger

_SQL: Final = load_sql("runwire.content", "parts.sql")
BUFFER_MAX: Final = 65_536
"""Bytes of one part that may wait for a tick. A writer with more waits."""
TICK_BYTES_MAX: Final = 4 * 1024 * 1024
"""Bytes of one statement. It takes the others with the next."""
PLANS: Final = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
}
"""Settings of the writer's session."""
_WRITABLE: Final = ("pending", "started")
"""States of a run whose parts take bytes."""
_log = get_logger()


class Written(NamedTuple):
    """Bytes that were committed: `data` begins at offset `at` of the part."""

    run_id: str
    n: int
    attempt: int
    at: int
    data: bytes
    written_us: int


class OpenPart:
    """One attempt of a part, for the one who writes it. `write` buffers, `flush` waits for the commit.

    The next call after a refusal raises it: PartRefused, or ContentQuotaExceeded of a tenant that has no more room.
    """

    def __init__(
        self,
        writer: PartWriter,
        *,
        run_id: str,
        n: int,
        name: str,
        attempt: int,
        part_id: int,
        fence: int,
        tenant: str = "",
        size: int = 0,
    ) -> None:
        self.tenant = tenant
        self.run_id = run_id
        self.n = n
        self.name = name
        self.attempt = attempt
        self.part_id = part_id
        self.fence = fence
        self.stored = size
        """Bytes that are committed."""
        self.pending = bytearray()
        self.error: RunwireError | None = None
        self._writer = writer
        self._progress: asyncio.Future[None] | None = None

    @property
    def size(self) -> int:
        """Bytes that were written, stored or not."""
        return self.stored + len(self.pending)

    async def write(self, data: bytes) -> None:
        """Takes the bytes. Waits while too many wait already. Raises a refusal."""
        self._raise()
        if not data:
            return
        self.pending += data
        self._writer.ask(self)
        while len(self.pending) > BUFFER_MAX:
            await self._progressed()

    async def flush(self) -> None:
        """Returns when every byte that was written is committed. Raises a refusal."""
        self._raise()
        while self.pending:
            self._writer.ask(self, at_once=True)
            await self._progressed()

    def close(self) -> None:
        """Drops what is not stored. The part takes nothing more."""
        self.fail(PartRefused(self.run_id, n=self.n))
        self._writer.forget(self)

    def advance(self, count: int) -> None:
        """So many bytes are stored. For the writer."""
        del self.pending[:count]
        self.stored += count
        self._tell()

    def fail(self, error: RunwireError) -> None:
        """Nothing more is stored. For the writer."""
        self.error = self.error or error
        self.pending.clear()
        self._tell()

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error

    async def _progressed(self) -> None:
        if self._progress is None:
            self._progress = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._progress)
        self._raise()

    def _tell(self) -> None:
        progress, self._progress = self._progress, None
        if progress is not None and not progress.done():
            progress.set_result(None)


class PartWriter:
    """The writer of a process. Enter it to start; leave it to stop, without waiting for what is not stored.

    `on_written` is called after each commit of bytes, `on_ended` with the run after parts of it ended.
    """

    def __init__(
        self,
        database: Database,
        *,
        metrics: PartMetrics,
        tenant_bytes: int = DEFAULTS.content_tenant_max_bytes,
        linger_s: float = DEFAULTS.part_linger_ms / 1000,
        on_written: Callable[[Sequence[Written]], None] = lambda _written: None,
        on_ended: Callable[[str], None] = lambda _run_id: None,
    ) -> None:
        self._quota = PartQuota(at_most=tenant_bytes)
        self._session = database.session("parts", settings=PLANS)
        self._attempts = database.attempts(Duty.WRITE_PARTS, longest_s=1.0)
        self.metrics = metrics
        self._linger_s = linger_s
        self._on_written = on_written
        self._on_ended = on_ended
        self._database = database
        self._dirty: dict[OpenPart, None] = {}
        self._open: set[OpenPart] = set()
        self._wake = asyncio.Event()
        self._at_once = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="part writer")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._session.aclose()

    def open(
        self, run_id: str, n: int, *, name: str, attempt: int, part_id: int, fence: int, tenant: str = "", size: int = 0
    ) -> OpenPart:
        """The part, for the holder of `fence`. It must exist. `close` it. Only with its tenant, it has a limit."""
        part = OpenPart(
            self,
            run_id=run_id,
            n=n,
            name=name,
            attempt=attempt,
            part_id=part_id,
            fence=fence,
            tenant=tenant,
            size=size,
        )
        self._open.add(part)
        self.metrics.open.set(len(self._open))
        return part

    def ask(self, part: OpenPart, *, at_once: bool = False) -> None:
        """Has the part written by the next tick. For OpenPart."""
        self._dirty[part] = None
        self._wake.set()
        if at_once:
            self._at_once.set()

    def forget(self, part: OpenPart) -> None:
        """The part takes no more bytes. For OpenPart."""
        self._dirty.pop(part, None)
        self._open.discard(part)
        self.metrics.open.set(len(self._open))

    def ended(self, run_id: str, states: Iterable[PartState]) -> None:
        """Parts of the run have ended so, and that is committed."""
        for state in states:
            self.metrics.ended[state.value].inc()
        self._on_ended(run_id)

    async def write_once(self, part: Part, data: bytes, *, fence: int, at: int | None) -> int:
        """Stores the bytes by themselves and returns the part's new size. With `at`, the part must end there. Renews
        the lease of an external run that has less than half of it left.

        Raises ContentQuotaExceeded, PartRefused, PartMoved, FenceStale and DatabaseUnavailable.
        """
        if at is None or at >= part.size:  # no repeat
            await self._quota.ask(self._database.fetch, {part.tenant: len(data)})
            if not self._quota.take(part.tenant, len(data)):
                raise ContentQuotaExceeded(part.run_id, self._quota.at_most)
        rows = await self._database.fetch(_SQL["write"], [0], [part.part_id], [fence], [at], [data])
        for _, begun_at, written_us, ages in rows:
            self._tell([Written(part.run_id, part.n, part.attempt, begun_at, data, written_us)])
            size: int = begun_at + len(data)
            if ages:
                with contextlib.suppress(DatabaseFailed):  # the bytes are stored, and the next write renews it
                    await self._database.execute(_SQL["renew"], part.run_id, fence)
            return size
        now = await self._database.fetchrow(_SQL["refused"], [part.part_id])
        if now is not None and now["fence"] != fence:
            raise FenceStale(part.run_id, held=fence, last_seq=now["last_seq"])
        if now is None or now["state"] != "open" or at is None or now["run_state"] not in _WRITABLE:
            raise PartRefused(part.run_id, n=part.n)
        raise PartMoved(part.run_id, n=part.n, size=now["size"])

    async def flush(self) -> int:
        """One step: stores what waits, as far as one statement takes it. Returns the number of parts.

        Raises DatabaseFailed; what was not stored waits for the next step.
        """
        parts, pieces = self._take()
        if self._quota.at_most and parts:
            parts, pieces = await self._with_room(parts, pieces)
        if not parts:
            return 0
        rows = await self._session.fetch(
            _SQL["write"],
            range(len(parts)),
            [part.part_id for part in parts],
            [part.fence for part in parts],
            [part.stored for part in parts],
            pieces,
        )
        written: list[Written] = []
        for i, at, written_us, _ in rows:
            part, data = parts[i], pieces[i]
            written.append(Written(part.run_id, part.n, part.attempt, at, data, written_us))
        self._tell(written)
        stored = {row[0] for row in rows}
        for i in stored:
            self._advance(parts[i], len(pieces[i]))
        if refused := [parts[i] for i in range(len(parts)) if i not in stored]:
            await self._explain(refused)
        return len(parts)

    def _take(self) -> tuple[list[OpenPart], list[bytes]]:
        parts: list[OpenPart] = []
        pieces: list[bytes] = []
        room = TICK_BYTES_MAX
        for part in tuple(self._dirty):
            if room <= 0:
                break
            del self._dirty[part]
            if part.pending:
                piece = bytes(part.pending[:room])
                room -= len(piece)
                parts.append(part)
                pieces.append(piece)
                self._dirty[part] = None  # until it is stored
        # In the order of their ids, so that two writers never wait for each other.
        order = sorted(range(len(parts)), key=lambda i: parts[i].part_id)
        return [parts[i] for i in order], [pieces[i] for i in order]

    async def _with_room(self, parts: list[OpenPart], pieces: list[bytes]) -> tuple[list[OpenPart], list[bytes]]:
        """Those whose tenants have room for them. The others take nothing more."""
        wanted = Counter[str]()
        for part, piece in zip(parts, pieces, strict=True):
            wanted[part.tenant] += len(piece)
        await self._quota.ask(self._session.fetch, wanted)
        fitting = [self._quota.take(part.tenant, len(piece)) for part, piece in zip(parts, pieces, strict=True)]
        for part in [part for part, fits in zip(parts, fitting, strict=True) if not fits]:
            part.fail(ContentQuotaExceeded(part.run_id, self._quota.at_most))
            self._dirty.pop(part, None)
        return list(compress(parts, fitting)), list(compress(pieces, fitting))

    def _advance(self, part: OpenPart, count: int) -> None:
        if part.error is None:
            part.advance(count)
        if not part.pending:
            self._dirty.pop(part, None)

    def _tell(self, written: Sequence[Written]) -> None:
        if written:
            self.metrics.bytes.inc(sum([len(each.data) for each in written]))
            self._on_written(written)

    async def _explain(self, parts: Sequence[OpenPart]) -> None:
        """Says why parts were refused. One that has more than its writer knows took a write whose answer was lost."""
        rows = await self._session.fetch(_SQL["refused"], [part.part_id for part in parts])
        now = {row["part_id"]: row for row in rows}
        for part in parts:
            row = now.get(part.part_id)
            if row is not None and _holds(part, row):
                lost = row["size"] - part.stored
                if 0 < lost <= len(part.pending):
                    data = bytes(part.pending[:lost])
                    self._tell([Written(part.run_id, part.n, part.attempt, part.stored, data, row["written_us"])])
                    self._advance(part, lost)
                    continue
            part.fail(PartRefused(part.run_id, n=part.n))
            self._dirty.pop(part, None)

    async def _run(self) -> None:
        with suppressed():
            ticked_at = float("-inf")
            while True:
                await self._wake.wait()
                left_s = ticked_at + self._linger_s - monotonic()
                if left_s > 0 and not self._at_once.is_set():
                    await wait_until_set(self._at_once, within_s=left_s)
                self._wake.clear()
                self._at_once.clear()
                ticked_at = monotonic()
                try:
                    with self._attempts:
                        await self.flush()
                except Exception as error:  # noqa: BLE001  # a defect costs a tick, and not the writer
                    _log.error(LogEvent.TASK_FAILED, task="part writer", exc_info=error)
                    await asyncio.sleep(self._linger_s)
                if self._attempts.failures:
                    await asyncio.sleep(self._attempts.pause_s)
                if self._dirty:
                    self._wake.set()


def _holds(part: OpenPart, row: Row) -> bool:
    return row["state"] == "open" and row["fence"] == part.fence and row["run_state"] in _WRITABLE
