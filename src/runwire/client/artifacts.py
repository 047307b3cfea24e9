"""Calls about the artifacts and the result of a run."""

from __future__ import annotations

from typing import Any

from runwire.client.calls import Call, decoded
from runwire.client.connection import ClientConnection, Run, fence_of, id_of, path_of
from runwire.client.content import Download
from runwire.client.results import ArtifactList
from runwire.model.content import OCTETS, Artifact


class ArtifactCalls(ClientConnection):
    """The part of a client that reads, writes and erases content."""

    async def artifacts(self, run: Run, *, name: str | None = None) -> tuple[Artifact, ...]:
        """The run's artifacts in order, erased ones among them; with `name` those of that name. Raises RunNotFound."""
        query = None if name is None else {"name": name}
        return (await self._on_run("GET", run, "/artifacts", ArtifactList, query=query)).artifacts

    def artifact(self, run: Run, n: int, *, patience_s: float | None = None) -> Download:
        """The bytes of an artifact: `await` it, or iterate over its pieces; see Download.

        A download that breaks goes on where it was. It gives up when no byte has come for `patience_s`, which is the
        client's `retry_s` by default.
        """
        return self._download(run, f"/artifacts/{n}", patience_s=patience_s)

    async def result(self, run: Run) -> Any:
        """The run's result, decoded from JSON. Raises RunNotFound, ArtifactErased, ArtifactNotFound without one."""
        return decoded(await self._download(run, "/result"), object)

    async def store_artifact(
        self,
        run: Run,
        name: str,
        data: bytes,
        *,
        media_type: str = OCTETS,
        fence: int | None = None,
    ) -> Artifact:
        """Stores an artifact of an external run. Repeated after a lost answer, it is stored once.

        `fence` may be left out when `run` is what `start` returned. Raises FenceStale, RunClosed, NotExternal,
        ArtifactTooLarge, TooManyArtifacts, ContentQuotaExceeded, ContentUnavailable.
        """
        run_id = id_of(run)
        held = fence_of(run, fence)
        call = Call(
            "POST",
            f"{path_of(run_id)}/artifacts",
            query={"name": name},
            raw=data,
            headers={"Runwire-Fence": str(held), "Content-Type": media_type},
            run_id=run_id,
            fence=held,
        )
        return await self._caller.call(call, Artifact)

    async def erase_artifact(self, run: Run, n: int) -> None:
        """Erases an artifact for good. Repeating it changes nothing. Raises RunNotFound or ArtifactNotFound."""
        await self._on_run("DELETE", run, f"/artifacts/{n}", type(None))

    async def erase_content(self, run: Run) -> None:
        """Erases all content of a run that has ended, its state and its input for good. Repeating it changes nothing.
        Raises RunNotFound, or RunStillOpen.
        """
        await self._on_run("DELETE", run, "/content", type(None))

    async def erase_part(self, run: Run, n: int) -> None:
        """Erases a part for good, and the artifact that it became. Repeating it changes nothing. Raises RunNotFound,
        PartNotFound, or PartRefused while the run writes it.
        """
        await self._on_run("DELETE", run, f"/parts/{n}/bytes", type(None))
