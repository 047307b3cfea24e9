"""Random histories of content: nodes and external orchestrators write parts, processes die, hints and answers get lost,
clients come and go. Every transcript is the part's bytes, each byte once.

Every run tries the same ones. Others: RUNWIRE_INVARIANTS_SEED=<n>; more: RUNWIRE_BYTES_EXAMPLES=<n>, as `make
invariants` does.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

import pytest
import structlog
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from invariants.bytes_clients import Follower, Viewer
from invariants.bytes_model import BytesModel, PartModel
from invariants.bytes_world import PAIR, BytesWorld
from invariants.bytes_writers import SCRIBE, Hand, again, end, fail
from postgres import cloned_database
from runwire.append import Change
from runwire.content.part import PartState
from runwire.content.parts import Read
from runwire.content.spool import INLINE_MAX
from runwire.errors import DatabaseUnavailable, PartMoved, PartRefused, RunwireError, StorageUnavailable
from runwire.model.event import RUN_FINISHED, RUN_STARTED, Source, debug_trace
from runwire.model.run import RunState
from runwire.orchestrate import StartRequest
from runwire.orchestrate.node_parts import NodePart
from waiting import eventually

T = TypeVar("T")

SEED = int(os.environ.get("RUNWIRE_INVARIANTS_SEED", "20261201"))
EXAMPLES = int(os.environ.get("RUNWIRE_BYTES_EXAMPLES", "8"))
PHASES = [Phase.generate] if os.environ.get("RUNWIRE_BYTES_SHRINK") == "0" else list(Phase)
"""A mutant only has to be found. Nobody reads its history."""
STEPS = 40
RUNS_MAX = 5
VIEWERS_MAX = 8

which = st.integers(0, 11)
place = st.sampled_from(PAIR)
names = st.sampled_from(["answer", "notes"])
media = st.sampled_from(["text/plain", "text/markdown", "application/octet-stream"])
CHUNKS: Final = {
    "word": b"word ",
    "wide characters": "Grüße, 世界 ".encode(),
    "half a character": "世".encode()[:2],  # the rest may come, or never
    "no text": b"\xff\x00\xfe",
    "lines": b"line\r\nline\n\n",
    "a row": b"k" * 1500,
    "more than a step": b"wide " * 9000,
}
chunks = st.lists(st.sampled_from(list(CHUNKS)), min_size=1, max_size=4)
asked_for = st.sampled_from([None, None, frozenset({"answer"}), frozenset({"notes"})])

TRUTH = """
SELECT p.run_id, p.n, p.name, p.attempt, p.state::text AS state, p.size, p.artifact, p.opened_seq, p.ended_seq,
       (SELECT string_agg(c.bytes, '' ORDER BY c.at)
        FROM (SELECT part_id, at, bytes FROM part_chunks
              UNION ALL SELECT part_id, row_at, tail FROM parts WHERE tail <> '') AS c
        WHERE c.part_id = p.part_id) AS rows,
       a.sha256 = sha256(coalesce(b.data, '')) AS inline, a.size AS artifact_size, a.erased_at IS NOT NULL AS erased,
       b.data, r.last_seq
FROM parts AS p JOIN runs AS r USING (run_id) LEFT JOIN artifacts AS a ON a.run_id = p.run_id AND a.n = p.artifact
LEFT JOIN content_blobs AS b ON b.tenant = a.tenant AND b.sha256 = a.sha256
ORDER BY p.run_id, p.n
"""


class Bytes(RuleBasedStateMachine):
    """Drives `world`. `runs` says what it must hold."""

    world: ClassVar[BytesWorld]
    loop: ClassVar[asyncio.AbstractEventLoop]

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[BytesModel] = []
        self.owners: dict[str, int | None] = {}
        """Of each walked run the process that walks it; None while nobody does."""
        self.ghosts: list[tuple[Hand, int]] = []
        """Hands in nodes of walks that lost their run, with the process."""
        self.writes = 0

    def do(self, work: Awaitable[T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 60))

    @initialize(by=place)
    def begin(self, by: int) -> None:
        """A run of each kind with an open part and a viewer: every rule has something to do from the first step on."""
        self.do(self.world.begin())
        self.start_external_run()
        self.start_walked_run(by=by)
        for number in PAIR:
            self.open_part(which=number, name="answer", media_type="text/plain", by=number)
            self.do(self.world.publish())
            self.a_viewer_comes(which=number, asks=None, to=number)

    def teardown(self) -> None:
        try:
            self.do(self._all_is_well_in_the_end())
        finally:
            self.do(self.world.end())

    # ------------------------------------------------------------------ runs

    @precondition(lambda self: len(self.runs) < RUNS_MAX)
    @rule()
    def start_external_run(self) -> None:
        run = BytesModel(f"e{self.world.examples}-{len(self.runs)}", external=True)
        self.runs.append(run)
        self.do(self.world.control.start(StartRequest(agent="x", run_id=run.run_id, external=True, lease_s=3600)))
        self.do(
            self.world.writes[0].log.append(
                run.run_id, [RUN_STARTED], fence=1, source=Source.API, change=Change(RunState.STARTED)
            )
        )

    @precondition(lambda self: len(self.runs) < RUNS_MAX and None not in self.owners.values())
    @rule(by=place)
    def start_walked_run(self, by: int) -> None:
        run = BytesModel(f"e{self.world.examples}-{len(self.runs)}", external=False)
        self.runs.append(run)
        self.do(self.world.control.start(StartRequest(agent=SCRIBE, run_id=run.run_id)))
        self.do(self.world.claim(by, [run.run_id]))
        self.owners[run.run_id] = by

    @precondition(lambda self: self._external())
    @rule(which=which, by=place)
    def an_external_run_ends(self, which: int, by: int) -> None:
        """Parts that it left open are abandoned by that."""
        run = _pick(self._external(), which)
        self.do(
            self.world.writes[by].log.append(
                run.run_id, [RUN_FINISHED], fence=1, source=Source.API, change=Change(RunState.FINISHED)
            )
        )
        run.end(failed=True)
        run.over = True

    @precondition(lambda self: self._writable())
    @rule(which=which, by=place)
    def an_event_is_traced(self, which: int, by: int) -> None:
        run = _pick(self._writable(), which)
        event = debug_trace("step.done")
        if run.external:
            self.do(self.world.writes[by].log.append(run.run_id, [event], fence=1, source=Source.API))
        else:
            self.do(self._hand(run).do(_traced))

    # ------------------------------------------------------------------ parts

    @precondition(lambda self: self._writable())
    @rule(which=which, name=names, media_type=media, by=place)
    def open_part(self, which: int, name: str, media_type: str, by: int) -> None:
        run = _pick(self._writable(), which)
        part = run.open(name, media_type)
        opening: Awaitable[Any]
        if run.external:
            opening = self.world.writes[by].external.open(run.run_id, name, media_type, fence=1)
        else:
            opening = self._hand(run).do(lambda hand: hand.open(name, media_type))
        if part is None:
            with pytest.raises(PartRefused):
                self.do(opening)
            return
        opened = self.do(opening)
        assert (opened.n, opened.attempt) == (part.n, len(part.attempts))

    @precondition(lambda self: self._parts())
    @rule(which=which, data=chunks, loses=st.sampled_from([0, 0, 0, 1]), by=place)
    def write(self, which: int, data: list[str], loses: int, by: int) -> None:
        """Answers may get lost after the commit: a repeat stores nothing twice."""
        run, part = _pick(self._parts(), which)
        for number, piece in enumerate(data):
            last = number == len(data) - 1
            self._write(run, part, self._new(CHUNKS[piece]), loses=loses if last else 0, flush=last and by == 0, by=by)
        self.do(self.world.quiet())

    @precondition(lambda self: self._parts())
    @rule(which=which, by=place)
    def write_more_than_postgresql_keeps(self, which: int, by: int) -> None:
        run, part = _pick(self._parts(), which)
        self._write(run, part, self._new(b"0123456789abcdef" * (INLINE_MAX // 16 + 1)), loses=0, flush=True, by=by)

    @precondition(lambda self: self._parts())
    @rule(which=which, by=place, loses=st.booleans())
    def a_part_is_complete(self, which: int, by: int, loses: bool) -> None:
        """An external part is sealed at once, one of a node with the end of the node."""
        run, part = _pick(self._parts(), which)
        if run.external:
            self.do(self._sealed(run, part, by=by, loses=loses))
            part.state = PartState.SEALED
            part.newest.durable = len(part.newest.written)
            return
        hand = self._hand(run)
        if part.n in hand.parts:
            block, _ = hand.parts.pop(part.n)
            self.do(hand.do(lambda _hand: block.__aexit__(None, None, None)))
            part.newest.durable = len(part.newest.written)
            part.complete = True

    @precondition(lambda self: self._walked())
    @rule(which=which, exit_=st.sampled_from([again, again, end]), loses=st.sampled_from([0, 0, 1]))
    def a_node_ends(self, which: int, exit_: Callable[[Hand], Awaitable[None]], loses: int) -> None:
        run = _pick(self._walked(), which)
        owner = self._owner(run)
        self.world.writes[owner].database.answers_to_lose["append"] = loses
        entered = len(self.world.hands[run.run_id])
        self.do(self._hand(run).do(exit_))
        if exit_ is end:
            self.do(eventually(self.world.writes[owner].walks[run.run_id].done, within_s=20))
            run.over = True
            self.owners.pop(run.run_id)
        else:
            self.do(self.world.entered(run.run_id, entered))
        run.end()

    @precondition(lambda self: self._walked())
    @rule(which=which)
    def a_node_fails_and_is_tried_again(self, which: int) -> None:
        run = _pick(self._walked(), which)
        entered = len(self.world.hands[run.run_id])
        self.do(self._hand(run).do(fail))
        self.do(self.world.entered(run.run_id, entered))
        run.end(failed=True)

    @precondition(lambda self: any(run.opened() for run in self._walked()))
    @rule(which=which, data=chunks)
    def a_node_fails_and_writes_its_part_again(self, which: int, data: list[str]) -> None:
        """Viewers have some of an attempt that is void."""
        run = _pick([run for run in self._walked() if run.opened()], which)
        part = run.opened()[0]
        self.a_node_fails_and_is_tried_again(which=self._walked().index(run))
        by = self._writable().index(run)
        self.open_part(which=by, name=part.name, media_type=part.newest.media_type, by=0)
        self.do(self.world.publish())
        self.write(which=self._parts().index((run, part)), data=data, loses=0, by=0)

    @precondition(lambda self: any(run.external for run, _ in self._parts()))
    @rule(which=which)
    def the_news_of_one_write_are_lost(self, which: int) -> None:
        """Viewers hear of the next one, which begins further on than what they have."""
        found = _pick([(run, part) for run, part in self._parts() if run.external], which)
        self.do(self.world.publish())
        self.world.hints_lost = True
        for by in (1, 0):
            self.write(which=self._parts().index(found), data=["word"], loses=0, by=by)
        self.world.hints_lost = False

    # ------------------------------------------------------------------ processes die and freeze

    @rule(by=place)
    def a_writer_is_killed(self, by: int) -> None:
        """Bytes that were not stored are gone with it, and its runs wait for another worker."""
        left = [run_id for run_id, owner in self.owners.items() if owner == by]
        self.do(self.world.restart_writer(by))
        self.do(self.world.end_leases(left))
        self.owners.update(dict.fromkeys(left))
        self.ghosts = [(hand, owner) for hand, owner in self.ghosts if owner != by]

    @precondition(lambda self: None in self.owners.values())
    @rule(by=place)
    def runs_are_taken_up(self, by: int) -> None:
        self._claim(by, [run_id for run_id, owner in self.owners.items() if owner is None])

    @precondition(lambda self: self._walked() and None not in self.owners.values())
    @rule(which=which, written=st.binary(max_size=20))
    def a_run_is_taken_from_a_frozen_worker(self, which: int, written: bytes) -> None:
        """The old worker writes until the last moment; it does not know yet."""
        run = _pick(self._walked(), which)
        owner, hand = self._owner(run), self._hand(run)
        for part in run.opened():
            if part.n in hand.parts and written:
                self._write(run, part, written, loses=0, flush=False, by=owner)
        self.do(self.world.end_leases([run.run_id]))
        self._claim(1 - owner, [run.run_id])
        self.ghosts.append((hand, owner))

    @precondition(lambda self: self.ghosts)
    @rule(which=which, how=st.sampled_from(["write", "open", "end"]))
    def a_worker_that_lost_its_run_goes_on(self, which: int, how: str) -> None:
        """Nothing that it writes is stored."""
        ghost = hand, _ = _pick(self.ghosts, which)
        if how == "write":
            for _, part in hand.parts.values():
                with pytest.raises(RunwireError):
                    self.do(hand.do(partial(_late, part)))
        elif how == "open":
            with pytest.raises(RunwireError):
                self.do(hand.do(lambda hand: hand.open("late", "text/plain")))
        self.ghosts.remove(ghost)
        self.do(hand.do(again))

    @rule(to=place)
    def an_api_is_killed(self, to: int) -> None:
        self.do(self.world.restart_shows(to))

    @rule(crashes=st.sampled_from([False, False, True]), sweep=st.booleans())
    def publish(self, crashes: bool, sweep: bool) -> None:
        async def published() -> None:
            self.world.bus.crash_after_taking = crashes
            await self.world.publish(sweep=sweep)
            self.world.bus.crash_after_taking = False
            await self.world.quiet()

        self.do(published())

    # ------------------------------------------------------------------ news and clients

    @rule(reader=place, count=st.integers(1, 3), hints=st.booleans())
    def news_get_lost(self, reader: int, count: int, hints: bool) -> None:
        self.world.shows[reader].reader.losses = count
        self.world.hints_lost = hints

    @precondition(lambda self: len(self.world.viewers) < VIEWERS_MAX)
    @rule(which=which, asks=asked_for, to=place)
    def a_viewer_comes(self, which: int, asks: frozenset[str] | None, to: int) -> None:
        viewer = Viewer(_pick(self.runs, which).run_id, names=asks, on_defect=self.world.violation)
        self.world.viewers.append(viewer)
        self._connect(viewer, to)

    @precondition(lambda self: self._viewers(connected=True))
    @rule(which=which, arrived=st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    def a_viewer_drops(self, which: int, arrived: float) -> None:
        self.do(_pick(self._viewers(connected=True), which).drop(arrived=arrived))

    @precondition(lambda self: self._viewers(connected=False))
    @rule(which=which, to=place)
    def a_viewer_comes_back(self, which: int, to: int) -> None:
        self._connect(_pick(self._viewers(connected=False), which), to)

    @precondition(lambda self: self._viewers(connected=True))
    @rule(which=which)
    def a_viewer_gets_nothing_for_a_while(self, which: int) -> None:
        _pick(self._viewers(connected=True), which).held = True

    @precondition(lambda self: any(run.parts for run in self.runs))
    @rule(which=which, n=which, to=place)
    def a_follower_comes(self, which: int, n: int, to: int) -> None:
        run = _pick([run for run in self.runs if run.parts], which)
        follower = Follower(run.run_id, n % len(run.parts) + 1)
        self.world.followers.append(follower)
        self._follow(follower, to)

    @precondition(lambda self: self.world.followers)
    @rule(which=which, to=place)
    def a_follower_goes_on(self, which: int, to: int) -> None:
        self._follow(_pick(self.world.followers, which), to)

    # ------------------------------------------------------------------ what becomes of content

    @rule()
    def content_is_collected(self) -> None:
        self.do(self.world.plane.collector(grace_s=3600.0).collect())

    @precondition(lambda self: any(run.over for run in self.runs))
    @rule(which=which)
    def content_moves_to_the_object_store(self, which: int) -> None:
        """As that of a run whose log was archived."""
        run = _pick([run for run in self.runs if run.over], which)
        self.do(self._moved(run))

    @precondition(lambda self: any(run.over and not run.erased for run in self.runs))
    @rule(which=which)
    def the_time_of_content_is_over(self, which: int) -> None:
        run = _pick([run for run in self.runs if run.over and not run.erased], which)
        self.do(self._expired(run))
        run.erased = True

    # ------------------------------------------------------------------ what must hold after every step

    @invariant()
    def nobody_saw_anything_wrong(self) -> None:
        assert not self.world.defects, "\n".join(self.world.defects)

    @invariant()
    def viewers_show_what_was_written(self) -> None:
        by_id = {run.run_id: run for run in self.runs}
        for viewer in self.world.viewers:
            run = by_id[viewer.transcript.run_id]
            for n, shown in viewer.transcript.parts.items():
                if shown.attempt:
                    assert run.expected(n, shown.attempt).startswith(bytes(shown.data)), (run.run_id, n)
            for n, data in viewer.transcript.sealed.items():
                asked = viewer.names is None or run.parts[n].name in viewer.names
                if asked and not run.erased:
                    assert data == bytes(run.parts[n].newest.written), (run.run_id, n)

    @invariant()
    def the_database_holds_what_the_model_holds(self) -> None:
        rows = self.do(self.world.database.fetch(TRUTH))
        found = {(row["run_id"], row["n"]): row for row in rows}
        assert set(found) == {(run.run_id, n) for run in self.runs for n in run.parts}
        for run in self.runs:
            for n, part in run.parts.items():
                row = found[run.run_id, n]
                left_open = row["state"] == "open" and (run.over or self.owners.get(run.run_id, 0) is None)
                assert (row["name"], row["attempt"]) == (part.name, len(part.attempts))
                assert left_open or row["state"] == part.state.value, (run.run_id, n)
                self._check_bytes(run, part, row)

    def _check_bytes(self, run: BytesModel, part: PartModel, row: Any) -> None:
        newest = part.newest
        assert newest.durable <= row["size"] <= len(newest.written)
        if part.state is PartState.SEALED:
            assert row["size"] == len(newest.written)
            assert row["artifact"] is not None
            assert (row["rows"], row["artifact_size"]) == (None, row["size"])
            assert row["data"] in (None, bytes(newest.written))
            assert row["erased"] == run.erased
        elif not run.erased:
            assert (row["rows"] or b"") == bytes(newest.written[: row["size"]])

    async def _all_is_well_in_the_end(self) -> None:
        """Faults are over: every viewer and follower has every byte, and nothing dangles or is left over."""
        world = self.world
        world.hints_lost = False
        for process in world.shows:
            process.reader.losses = 0
        await self._finish_everything()
        await world.publish()
        for viewer in world.viewers:
            viewer.flow()
            if not viewer.connected and not viewer.over:
                viewer.connect(world.shows[0])
        for process in world.shows:
            process.feed.look_everywhere()
        await eventually(lambda: world.defects or all(viewer.over for viewer in world.viewers), within_s=20)
        self.nobody_saw_anything_wrong()
        await world.quiet()
        self.nobody_saw_anything_wrong()
        self.viewers_show_what_was_written()
        truth = {(row["run_id"], row["n"]): row for row in await world.database.fetch(TRUTH)}
        for run in self.runs:
            for n in run.parts:
                world.followers.append(Follower(run.run_id, n))
        for viewer in world.viewers:
            self._check_viewer(viewer, truth)
        for follower in world.followers:
            row = truth[follower.run_id, follower.n]
            if not row["erased"]:
                await follower.read(world.shows[0])
                assert follower.closed
                assert (follower.attempt, len(follower.data)) == (row["attempt"], row["size"])
        await world.plane.collector().collect()
        await world.plane.check(collected=True)

    def _check_viewer(self, viewer: Viewer, truth: dict[tuple[str, int], Any]) -> None:
        transcript = viewer.transcript
        run = next(run for run in self.runs if run.run_id == transcript.run_id)
        for n, part in run.parts.items():
            row = truth[run.run_id, n]
            if (viewer.names is None or part.name in viewer.names) and not run.erased:
                shown = transcript.parts[n]
                assert shown.opened == row["attempt"]
                assert bytes(shown.data) == bytes(part.newest.written[: row["size"]]), (run.run_id, n)

    # ------------------------------------------------------------------ how it is done

    def _new(self, data: bytes) -> bytes:
        """The bytes with a number before them: no two writes are the same, so none can stand in for another."""
        self.writes += 1
        return b"%d " % self.writes + data

    def _external(self) -> list[BytesModel]:
        return [run for run in self.runs if run.external and not run.over]

    def _walked(self) -> list[BytesModel]:
        return [run for run in self.runs if self.owners.get(run.run_id) is not None]

    def _writable(self) -> list[BytesModel]:
        return [run for run in self.runs if run in self._external() or run in self._walked()]

    def _parts(self) -> list[tuple[BytesModel, PartModel]]:
        """Those that take bytes."""
        return [(run, part) for run in self._writable() for part in run.opened() if not part.complete]

    def _viewers(self, *, connected: bool) -> list[Viewer]:
        return [viewer for viewer in self.world.viewers if viewer.connected == connected and not viewer.over]

    def _hand(self, run: BytesModel) -> Hand:
        return self.world.hands[run.run_id][-1]

    def _owner(self, run: BytesModel) -> int:
        owner = self.owners[run.run_id]
        assert owner is not None
        return owner

    def _claim(self, by: int, run_ids: Sequence[str]) -> None:
        """A process that gets a run back lets go of what it still did there itself."""
        self.do(self.world.claim(by, run_ids))
        for run in self.runs:
            if run.run_id in run_ids:
                self.owners[run.run_id] = by
                run.end(failed=True)
        self.ghosts = [(h, at) for h, at in self.ghosts if at != by or h.context.run_id not in run_ids]

    def _write(self, run: BytesModel, part: PartModel, data: bytes, *, loses: int, flush: bool, by: int) -> None:
        attempt = part.newest
        if run.external:
            self.do(self._append(run, part, data, loses=loses, by=by))
            attempt.written += data
            attempt.durable = len(attempt.written)
            return
        hand = self._hand(run)
        _, opened = hand.parts[part.n]
        self.world.writes[self._owner(run)].database.answers_to_lose["parts"] = loses
        self.do(hand.do(lambda _hand: opened.write(data)))
        attempt.written += data
        if flush or loses:
            self.do(opened.bytes.flush())
            attempt.durable = len(attempt.written)
            assert opened.bytes.stored == len(attempt.written)

    async def _append(self, run: BytesModel, part: PartModel, data: bytes, *, loses: int, by: int) -> None:
        """As an orchestrator does that repeats what was not answered, by offset."""
        process, at = self.world.writes[by], len(part.newest.written)
        found = await self._read(run, part)
        process.database.answers_to_lose["pool"] = loses
        if loses:
            with pytest.raises(DatabaseUnavailable):
                await process.external.append(found.part, data, fence=1, at=at)
            with pytest.raises(PartMoved) as moved:
                await process.external.append(found.part, data, fence=1, at=at)
            assert moved.value.size == at + len(data)
            return
        assert (await process.external.append(found.part, data, fence=1, at=at)).size == at + len(data)

    async def _sealed(self, run: BytesModel, part: PartModel, *, by: int, loses: bool) -> None:
        process = self.world.writes[by]
        found = (await self._read(run, part)).part
        process.database.answers_to_lose["append"] = loses
        if loses:
            with pytest.raises(StorageUnavailable):
                await process.external.seal(found, fence=1)
            with pytest.raises(PartRefused):
                await process.external.seal(found, fence=1)
            return
        await process.external.seal(found, fence=1)

    async def _read(self, run: BytesModel, part: PartModel) -> Read:
        return await self.world.shows[0].parts.read(run.run_id, part.n, offset=0, limit=0)

    def _connect(self, viewer: Viewer, to: int) -> None:
        async def connected() -> None:
            viewer.connect(self.world.shows[to])
            await self.world.quiet()

        self.do(connected())

    def _follow(self, follower: Follower, to: int) -> None:
        run = next(run for run in self.runs if run.run_id == follower.run_id)
        if not run.erased:
            self.do(follower.read(self.world.shows[to]))
            assert run.expected(follower.n, follower.attempt).startswith(follower.data)

    async def _moved(self, run: BytesModel) -> None:
        database = self.world.database
        await database.execute(
            "INSERT INTO archive_batches (batch_id, run_day, state, path, format, sha256, verified_at, dropped_at)"
            " SELECT $1, run_day, 'dropped', 'p', 'f', '', now(), now() FROM runs WHERE run_id = $1"
            " ON CONFLICT DO NOTHING",
            run.run_id,
        )
        await database.execute(
            "INSERT INTO archived_runs VALUES ($1, $1, 0, '{1}', 3, sha256('x'), 1, 'api') ON CONFLICT DO NOTHING",
            run.run_id,
        )
        await self.world.plane.collector(grace_s=3600.0).collect()

    async def _expired(self, run: BytesModel) -> None:
        aged = "UPDATE {} SET {} = now() - interval '9 days' WHERE run_id = $1"
        for table, column in (("artifacts", "created_at"), ("runs", "finished_at")):
            await self.world.database.execute(aged.format(table, column), run.run_id)
        await self.world.plane.collector(grace_s=3600.0, keep_days=7).collect()

    async def _finish_everything(self) -> None:
        left = [run_id for run_id, owner in self.owners.items() if owner is None]
        if left:
            await self.world.claim(0, left)
        for run in self.runs:
            if run.over:
                continue
            if run.external:
                change = Change(RunState.FINISHED)
                log = self.world.writes[1].log
                await log.append(run.run_id, [RUN_FINISHED], fence=1, source=Source.API, change=change)
            else:
                owner = 0 if run.run_id in left else self._owner(run)
                if run.run_id in left:
                    run.end(failed=True)
                await self._hand(run).do(end)
                await eventually(self.world.writes[owner].walks[run.run_id].done, within_s=20)
            run.end()
            run.over = True


async def _traced(hand: Hand) -> None:
    hand.context.trace("step.done")


async def _late(part: NodePart, _hand: Hand) -> None:
    await part.write("late")
    await part.bytes.flush()


def _pick(among: Sequence[T], which: int) -> T:
    return among[which % len(among)]


@pytest.fixture
def quiet() -> None:
    """Without log lines: there would be thousands."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


@pytest.mark.timeout(max(300, 20 * EXAMPLES))
@pytest.mark.usefixtures("quiet")
def test_every_history_of_content_shows_each_byte_once(postgres_dsn: str, tmp_path: Path) -> None:
    print(f"RUNWIRE_INVARIANTS_SEED={SEED}")  # noqa: T201  # pytest shows it with a failure
    with asyncio.Runner() as runner:
        database = cloned_database(postgres_dsn)
        dsn = runner.run(database.__aenter__())
        try:
            world = BytesWorld(dsn, tmp_path)
            runner.run(world.__aenter__())
            try:
                machine = seed(SEED)(type("BytesMachine", (Bytes,), {"world": world, "loop": runner.get_loop()}))
                run_state_machine_as_test(
                    machine,
                    settings=settings(
                        max_examples=EXAMPLES,
                        stateful_step_count=STEPS,
                        phases=PHASES,
                        deadline=None,
                        database=None,
                        print_blob=True,
                        suppress_health_check=list(HealthCheck),
                    ),
                )
            finally:
                runner.run(world.__aexit__(None, None, None))
        finally:
            runner.run(database.__aexit__(None, None, None))
