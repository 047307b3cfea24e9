"""Every SQLSTATE at the statements of content, signals, timers and streams: no answer is an unknown one, and open
streams show every event and byte once. As tests/test_database_errors.py: RUNWIRE_EVERY_SQLSTATE=1, which needs
`--timeout=0`, raises every state at each statement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import httpx

from agents_with_content import ANSWER, REPORT
from content.hard_road import RUNS, Author, ManyViewer, MixedViewer, PartViewer, Road
from refusals import Refusals, nothing
from runwire.content.spool import INLINE_MAX
from test_database_errors import process, refusals_of
from waiting import eventually

TOUCHED: Final = (
    *("runwire.content.", "runwire.stream.", "runwire.orchestrate.signal", "runwire.orchestrate.external_"),
    "runwire.orchestrate.next_timer",
)
NAMES: Final = (
    *("content.room", "content.owner", "content.begin_upload", "content.uploaded", "content.refer", "content.list"),
    *("content.locate", "content.locate_newest", "content.erase", "content.drop_blob", "content.place", "content.open"),
    *("content.write", "content.end", "content.forget_bytes", "content.of_run", "content.read", "content.beyond"),
    *("stream.positions", "stream.events", "stream.many.found", "stream.many.members", "stream.many.fresh"),
    *("stream.many.store", "stream.many.load", "orchestrate.signal", "orchestrate.signals_not_taken"),
    *("orchestrate.external_signals", "orchestrate.next_timer"),
)
"""Some that must be among the refused, because the calls below need them."""


class Work:
    """Everything that clients do with content. Each of the `deeds` may be done over and over."""

    def __init__(self, road: Road, author: Author) -> None:
        self.road = road
        self.author = author
        self.mixed = MixedViewer(road, author.run_id)
        self.part = PartViewer(road, author.run_id, 1)
        self.many = ManyViewer(road, "s")
        self.runs: list[str] = []
        """Runs of an agent that writes content, waits and sleeps."""
        self._done = 0
        self.deeds: list[Callable[[], Awaitable[None]]] = [
            author.write,
            lambda: author.write_another(self._unlike() * 500),
            lambda: author.store(self._unlike()),
            lambda: author.store(self._unlike() * (INLINE_MAX // 2)),
            lambda: author.hear(f"s{self._done}"),
            self._talk,
            self._read_last,
            self.mixed.peek,
            self.part.peek,
            self.many.peek,
        ]
        self.touched: list[set[str]] = []
        """The statements of each deed."""

    async def look_at(self, way: Refusals) -> None:
        """Does each deed by itself, to know which statements it needs. Clients that watch add some of theirs."""
        self.touched.clear()
        for deed in self.deeds:
            way.seen.clear()
            await self._do(deed)
            self.touched.append(set(way.seen))

    async def touch(self, statement: str) -> None:
        """Does every deed that needs the statement, and what gives clients and workers something to do."""
        needing = [deed for deed, touched in zip(self.deeds, self.touched, strict=True) if statement in touched]
        for deed in dict.fromkeys([*needing, self.author.write, self._talk]):
            await self._do(deed)

    async def _do(self, deed: Callable[[], Awaitable[None]]) -> None:
        self._done += 1
        await deed()

    def _unlike(self) -> bytes:
        return f"{self._done} ".encode()

    async def _talk(self) -> None:
        started = await self.road.ask("POST", RUNS, json={"agent": "talk", "session": "s"})
        if started.status_code != 202:
            return
        self.runs.append(started.json()["runId"])
        if len(self.runs) % 2:
            reply = {"name": "reply", "data": {"text": "hello"}}
            await self.road.ask("POST", f"{RUNS}/{self.runs[-1]}/signal", json=reply)

    async def _read_last(self) -> None:
        for run_id in self.runs[-1:]:
            for below in ("", "/result", "/artifacts", "/artifacts/1", "/parts", "/events"):
                await self.road.ask("GET", f"{RUNS}/{run_id}{below}")

    async def keep_up(self) -> None:
        """Returns when every open stream has all that is stored. They do not need another fault to be woken by."""
        author = self.author

        def caught_up() -> bool:
            shown = self.mixed.shown.parts.get(1)
            assert shown is not None
            assert len(shown.data) >= len(author.written)
            assert len(self.part.data) >= len(author.written)
            assert len(self.many.told.get(author.run_id, ())) >= author.last_seq
            return True

        await eventually(caught_up, within_s=30)

    async def ended(self, run_id: str) -> dict[str, Any]:
        async def over() -> dict[str, Any] | None:
            view: dict[str, Any] = (await self.road.ask("GET", f"{RUNS}/{run_id}")).json()
            return view if view["outcome"] is not None and view["publishedSeq"] == view["lastSeq"] else None

        view: dict[str, Any] | None = await eventually(over, within_s=60)
        assert view is not None
        return view


async def test_each_statement_of_content_is_refused_and_every_byte_is_shown_once(database: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "content_url": str(tmp_path / "content"),
        "agents": ("agents_with_content:talk",),
        "parts_per_run_max": 10_000,
        "artifacts_per_run_max": 0,
        "roles": ("api", "worker", "publisher"),
    }
    async with process(database, **settings) as (assembly, way):
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=assembly.url, timeout=60, limits=limits) as http:
            road = Road(http)
            started = await road.ask("POST", RUNS, json={"external": True, "leaseSeconds": 3600, "session": "s"})
            author = Author(road, started.json()["runId"], started.json()["fence"])
            await author.begin()
            work = Work(road, author)
            async with asyncio.TaskGroup() as viewers:
                watching = [viewers.create_task(one.run()) for one in (work.mixed, work.part, work.many)]
                await work.look_at(way)
                await work.look_at(way)
                statements = set().union(*work.touched, {f"runwire.{name}" for name in NAMES})
                for refused in refusals_of(way, {one for one in statements if one.startswith(TOUCHED)}):
                    statement, _, state = refused.rpartition(" ")
                    before = way.refused
                    road.refuses(state)
                    await work.touch(statement)
                    if statement.removeprefix("runwire.") in NAMES:  # others may be those of a moment that has passed
                        await eventually(lambda before=before: way.refused > before, within_s=20)  # type: ignore[misc]
                    way.refuse = nothing
                    road.refuses(None)
                    await work.keep_up()
                await author.seal()
                finished = await author.append([{"type": "RunFinished"}], outcome="finished")
                assert finished.status_code == 200, finished.text
                await eventually(lambda: work.mixed.over and work.part.over, within_s=30)
                views = [await work.ended(run_id) for run_id in (author.run_id, *work.runs)]
                told = work.many.told
                await eventually(
                    lambda: all(told.get(view["runId"], [])[-1:] == [view["outcome"]] for view in views), within_s=30
                )
                for watch in watching:
                    watch.cancel()
            for view in views:
                assert work.many.told[view["runId"]] == [*range(1, view["lastSeq"] + 1), view["outcome"]]
                # An append whose value is refused will be refused again.
                assert (view["outcome"], view["errorCode"]) in (("finished", None), ("failed", "storage_refused"))
            whole = (await road.ask("GET", f"{RUNS}/{author.run_id}/parts/1")).content
            assert whole == author.written == work.part.data == work.mixed.shown.sealed[1]
            assert author.signals == list(range(1, len(author.signals) + 1))
            for view in views[1:]:
                if view["outcome"] == "finished":
                    await shows_all(road, view["runId"])


async def shows_all(road: Road, run_id: str) -> None:
    """Reads all that a run of `talk` has stored, once."""
    parts = (await road.ask("GET", f"{RUNS}/{run_id}/parts")).json()["parts"]
    assert [(part["name"], part["state"]) for part in parts] == [("answer", "sealed")]
    assert (await road.ask("GET", f"{RUNS}/{run_id}/parts/1")).content == "".join(ANSWER).encode()
    artifacts = (await road.ask("GET", f"{RUNS}/{run_id}/artifacts")).json()["artifacts"]
    assert sorted(artifact["name"] for artifact in artifacts) == ["answer", "report", "result"]
    report = next(artifact["n"] for artifact in artifacts if artifact["name"] == "report")
    stored = (await road.ask("GET", f"{RUNS}/{run_id}/artifacts/{report}")).content
    assert stored == REPORT + run_id.encode()
    assert (await road.ask("GET", f"{RUNS}/{run_id}/result")).json()["heard"] in ("", "hello")
