"""Calls about the parts of a run: what there is, and the bytes of one."""

from __future__ import annotations

from runwire.client.calls import Call
from runwire.client.connection import ClientConnection, Run, fence_of, id_of, path_of
from runwire.client.part import PartStream
from runwire.client.part_writer import PartWriter
from runwire.client.results import PartInfo, PartList
from runwire.client.stream import IDLE_S
from runwire.model.part_offset import PART_BEGINNING


class PartCalls(ClientConnection):
    """The part of a client that reads and writes parts."""

    async def parts(self, run: Run) -> tuple[PartInfo, ...]:
        """The run's parts by number. Raises RunNotFound."""
        return (await self._on_run("GET", run, "/parts", PartList)).parts

    def part(
        self,
        run: Run,
        n: int,
        *,
        offset: str = PART_BEGINNING,
        live: bool = True,
        idle_s: float = IDLE_S,
        patience_s: float | None = None,
    ) -> PartStream:
        """The bytes of a part from its beginning, or after `offset`, each once: await them all, or iterate; see
        PartStream.

        `offset` is that of an earlier PartStream, or `now` for what comes from now on. With `live=False` it ends with
        what there is now. The rest is as for `stream`.
        """
        run_id = id_of(run)
        view = Call("GET", path_of(run_id), run_id=run_id)
        return self._followed(
            PartStream(self._caller, view, n=n, offset=offset, live=live, idle_s=idle_s, patience_s=patience_s)
        )

    def write_part(
        self, run: Run, name: str, *, media_type: str = "text/plain", fence: int | None = None
    ) -> PartWriter:
        """A part of an external run, to be written inside `async with`; see PartWriter.

        `fence` may be left out when `run` is what `start` returned.
        """
        return PartWriter(self._caller, run_id=id_of(run), fence=fence_of(run, fence), name=name, media_type=media_type)
