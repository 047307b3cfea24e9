"""`runwire archive`: finished runs into cold storage, proven there, and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from runwire.cli.options import Json, examples
from runwire.errors import ArchiveCorrupt, ConfigurationError, ExitCode, InvalidRequest, RunNotFound

if TYPE_CHECKING:
    from rich.progress import Progress

    from runwire.archive import ColdStore
    from runwire.archive.ledger import Batch
    from runwire.archive.retention import Archiver
    from runwire.archive.watching import Watcher
    from runwire.db import Database
    from runwire.settings import Settings

EPILOG: Final = examples(
    "runwire archive run --dry-run", "runwire archive run", "runwire archive list", "runwire archive verify"
)
DUE_SHOWN_MAX: Final = 1_000_000
"""Runs a dry run counts."""

DataDir = Annotated[
    Path | None,
    typer.Option(help="Data directory of the embedded PostgreSQL.", rich_help_panel="Database and archive"),
]
ArchiveUrl = Annotated[
    str | None,
    typer.Option(
        "--archive",
        metavar="URL",
        help="URL of the archive; default RUNWIRE_ARCHIVE_URL.",
        rich_help_panel="Database and archive",
    ),
]

app = typer.Typer(help="Move ended runs to cold storage, verify and restore them.", rich_markup_mode="rich")


@app.callback()
def _group() -> None:
    """Finished runs in cold storage: archive, prove, restore. The database is that of `runwire serve`."""


@app.command(
    epilog=examples(
        "runwire archive run --dry-run",
        "runwire archive run",
        "RUNWIRE_ARCHIVE_URL=s3://my-bucket/runs DATABASE_URL=postgresql://... runwire archive run --json",
    )
)
def run(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; print what would be archived.")] = False,
    after_days: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Archive runs that ended N days ago or earlier; default: the setting, 30."
        ),
    ] = None,
    as_json: Json = False,
    archive: ArchiveUrl = None,
    data_dir: DataDir = None,
) -> int:
    """Archive all runs that are due, at full speed. The role archiver does the same at intervals.

    It may be stopped, or killed, at any moment: the next one goes on from there.
    """

    async def work(here: _Here) -> int:
        from runwire.cli.output import duration, print_json, say
        from runwire.clock import monotonic

        days = after_days or here.settings.archive_after_days
        if not days:
            raise ConfigurationError(
                ("RUNWIRE_ARCHIVE_AFTER_DAYS is 0, so no run is archived; set it or pass --after-days",)
            )
        if dry_run:
            return await _show_due(here, after_days=days, as_json=as_json)
        began = monotonic()
        done: list[Any] = []
        with _bars(quiet=as_json) as bars:
            archiver = here.archiver(after_days=days, watcher=_watcher(bars))
            try:
                while (step := await archiver.step()).did.value != "nothing":
                    done.append(step)
                    if as_json:
                        print_json({"did": step.did, "what": step.what, "runs": step.runs, "events": step.events})
                    else:
                        say(f"{step.did.value:>8}  {step.what}  {step.runs} runs, {step.events} events")
            finally:
                await archiver.aclose()
        if not as_json:
            say(f"done in {duration((monotonic() - began) * 1000)}" if done else "nothing is due")
        return ExitCode.OK

    return _here(archive, data_dir, work, opens=not dry_run)


@app.command(epilog=examples("runwire archive verify", "runwire archive verify --day 2026-10-21"))
def verify(
    *,
    batch: Annotated[str | None, typer.Argument(metavar="BATCH", help="The batch to verify; default all.")] = None,
    day: Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="Only batches of this day.")] = None,
    as_json: Json = False,
    archive: ArchiveUrl = None,
    data_dir: DataDir = None,
) -> int:
    """Read batches back and prove them: checksums, counts, hash chains, and the log's rows where they still are.

    1 when a batch is not what was archived or is no longer there.
    """

    async def work(here: _Here) -> int:
        from runwire.archive import ArchiveGone
        from runwire.archive.verifying import Verifier
        from runwire.cli.output import print_json, say

        failed = 0
        with _bars(quiet=as_json) as bars:
            verifier = Verifier(here.ledger, here.store, watcher=_watcher(bars))
            for one in await _chosen(here, batch, day):
                if one.state.value == "writing":
                    continue
                said: dict[str, Any] = {"batchId": one.batch_id, "runDay": f"{one.run_day}", "ok": True}
                try:
                    found = await verifier.verify(one)
                    said |= {"runs": found.runs, "events": found.events, "bytes": found.size, "hotRuns": found.hot_runs}
                except (ArchiveCorrupt, ArchiveGone) as error:
                    failed += 1
                    said |= {"ok": False, "why": str(error)}
                if as_json:
                    print_json(said)
                else:
                    what = f"{said['runs']} runs, {said['events']} events" if said["ok"] else f"FAILED: {said['why']}"
                    say(f"{one.run_day}  {one.batch_id}  {what}")
        return ExitCode.FAILED if failed else ExitCode.OK

    return _here(archive, data_dir, work)


@app.command(
    epilog=examples(
        "runwire archive restore --run 0197a5c2-...",
        "runwire archive restore 0199... --keep-days 3",
        "runwire archive restore --day 2026-10-21",
    )
)
def restore(
    *,
    batch: Annotated[str | None, typer.Argument(metavar="BATCH", help="The batch to restore.")] = None,
    run_id: Annotated[str | None, typer.Option("--run", metavar="ID", help="Restore only this run.")] = None,
    day: Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="Restore all batches of this day.")] = None,
    keep_days: Annotated[int, typer.Option(min=1, help="Days until the restored rows are dropped again.")] = 7,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; print what would be restored.")] = False,
    as_json: Json = False,
    archive: ArchiveUrl = None,
    data_dir: DataDir = None,
) -> int:
    """Put archived runs back into PostgreSQL, each proven on the way. The archive keeps its copy.

    Reading does not need it: archived runs are served as they are.
    """
    if sum(given is not None for given in (batch, run_id, day)) != 1:
        raise InvalidRequest("nothing to restore: pass a BATCH, --run or --day")

    async def work(here: _Here) -> int:
        from runwire.archive.restoring import is_restorable
        from runwire.archive.retention import ArchiverLock
        from runwire.cli.output import print_json, say

        lock = ArchiverLock(here.database)
        with _bars(quiet=as_json) as bars:
            restorer = here.restorer(_watcher(bars))
            try:
                if not dry_run:
                    await lock.hold()
                if run_id is not None:
                    if (place := await here.ledger.place(run_id)) is None:
                        raise RunNotFound(run_id)
                    done = [(run_id, 1, place.events)]
                    if not dry_run:
                        await restorer.run(run_id, keep_days=keep_days)
                else:
                    batches = [one for one in await _chosen(here, batch, day) if is_restorable(one)]
                    done = [(one.batch_id, one.runs, one.events) for one in batches]
                    for one in [] if dry_run else batches:
                        await restorer.batch(one, keep_days=keep_days)
            finally:
                await lock.aclose()
        for what, runs, events in done:
            if as_json:
                print_json({"restored": what, "runs": runs, "events": events, "dryRun": dry_run})
            else:
                say(f"{'would restore' if dry_run else 'restored'}  {what}  {runs} runs, {events} events")
        return ExitCode.OK

    return _here(archive, data_dir, work)


@app.command("list", epilog=examples("runwire archive list", "runwire archive list --day 2026-10-21 --json"))
def list_(
    *,
    day: Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="Only batches of this day.")] = None,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> int:
    """List batches with their stage and contents."""

    async def work(here: _Here) -> int:
        from rich.table import Table

        from runwire.cli.output import console, print_json

        batches = await here.ledger.batches(day=_day(day))
        if as_json:
            print_json([_told(one) for one in batches])
            return ExitCode.OK
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("DAY", "BATCH", "STATE"):
            table.add_column(column, no_wrap=True)
        for column in ("RUNS", "EVENTS", "BYTES"):
            table.add_column(column, justify="right", no_wrap=True)
        for one in batches:
            numbers = (f"{number:,}" for number in (one.runs, one.events, one.size))
            table.add_row(f"{one.run_day}", one.batch_id, one.state.value, *numbers)
        console().print(table)
        return ExitCode.OK

    return _here(None, data_dir, work, opens=False)


# ---------------------------------------------------------------------- what the commands share


@dataclass(frozen=True)
class _Here:
    """The database and the archive a command is about."""

    settings: Settings
    database: Database
    opened: ColdStore | None

    @property
    def store(self) -> ColdStore:
        assert self.opened is not None  # noqa: S101  # commands that ask for it had it opened
        return self.opened

    @property
    def ledger(self) -> Any:
        from runwire.archive.ledger import Ledger

        return Ledger(self.database)

    def archiver(self, *, after_days: int, watcher: Watcher) -> Archiver:
        import runwire
        from runwire.archive import ArchiveMetrics
        from runwire.archive.retention import Archiver
        from runwire.telemetry.exposition import Exposition

        return Archiver(
            self.database,
            self.store,
            metrics=ArchiveMetrics(Exposition()),
            writer=f"runwire {runwire.__version__}",
            after_days=after_days,
            batch_runs=self.settings.archive_batch_runs,
            batch_events=self.settings.archive_batch_events,
            watcher=watcher,
        )

    def restorer(self, watcher: Watcher) -> Any:
        from runwire.archive.restoring import Restorer
        from runwire.db.partitions import EventPartitions

        return Restorer(self.ledger, EventPartitions(self.database), self.store, watcher=watcher)


def _here(
    archive: str | None, data_dir: Path | None, work: Callable[[_Here], Awaitable[int]], *, opens: bool = True
) -> int:
    import sys

    from runwire.settings import load_settings
    from runwire.telemetry.logs import configure_logging

    settings = load_settings(archive_url=archive, data_dir=data_dir)
    configure_logging("warning", "console", stream=sys.stderr)
    if opens and settings.archive is None:
        raise ConfigurationError(("RUNWIRE_ARCHIVE_URL must be set: a folder, s3://..., gs://..., az://...",))

    async def run_it() -> int:
        async with _opened(settings, opens=opens) as here:
            return await work(here)

    return asyncio.run(run_it())


@asynccontextmanager
async def _opened(settings: Settings, *, opens: bool) -> AsyncIterator[_Here]:
    from runwire.archive import open_store
    from runwire.cli.database import database_of
    from runwire.db import Database
    from runwire.db.migrate import migrate

    store = open_store(settings.archive) if opens and settings.archive is not None else None
    async with database_of(settings) as dsn:
        await migrate(dsn)
        async with Database(dsn, pool_size=2, timeout_s=3600.0, name="archive") as database:
            yield _Here(settings, database, store)


async def _show_due(here: _Here, *, after_days: int, as_json: bool) -> int:
    from runwire.cli.output import print_json, say

    due = await here.ledger.due(after_days=after_days, at_most=DUE_SHOWN_MAX)
    for run_day, runs, events in due:
        if as_json:
            print_json({"runDay": f"{run_day}", "runs": runs, "events": events})
        else:
            say(f"{run_day}  {runs} runs, {events} events")
    if not due and not as_json:
        say("nothing is due")
    return ExitCode.OK


async def _chosen(here: _Here, batch: str | None, day: str | None) -> list[Batch]:
    found: list[Batch] = await here.ledger.batches(batch_id=batch, day=_day(day))
    if not found and (batch is not None or day is not None):
        raise InvalidRequest(f"no batch {batch or 'of ' + str(day)}")
    return found


def _day(text: str | None) -> Any:
    import datetime as dt

    try:
        return None if text is None else dt.date.fromisoformat(text)
    except ValueError:
        raise InvalidRequest("--day must be a date like 2026-10-21") from None


def _told(batch: Batch) -> dict[str, Any]:
    return {
        "batchId": batch.batch_id,
        "runDay": f"{batch.run_day}",
        "state": batch.state.value,
        "path": batch.path,
        "runs": batch.runs,
        "events": batch.events,
        "bytes": batch.size,
        "sha256": batch.sha256.hex() if batch.sha256 else None,
        "keepUntil": batch.keep_until.isoformat() if batch.keep_until else None,
    }


def _bars(*, quiet: bool) -> Progress:
    """Progress bars on stderr, if it is a terminal. They disappear at the end."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from runwire.cli.output import console

    out = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=out, transient=True, disable=quiet or not out.is_terminal)


def _watcher(bars: Progress) -> Watcher:
    from runwire.archive.watching import Watcher as Base

    class Drawn(Base):
        """A bar for the current work."""

        def __init__(self) -> None:
            self._task: Any = None
            self._doing = ""

        def advanced(self, doing: str, *, done: int, total: int) -> None:
            if doing != self._doing or (done < total and self._task is None):
                if self._task is not None:
                    bars.remove_task(self._task)
                self._doing = doing
                self._task = bars.add_task(f"{doing} events", total=total)
            if self._task is not None:
                bars.update(self._task, completed=done, total=total)

    return Drawn()
