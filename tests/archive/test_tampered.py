"""A writer to the archive's bucket can destroy runs, but cannot make the service show, keep or run anything else."""

from __future__ import annotations

import datetime as dt
import random
import tracemalloc
from pathlib import Path

import msgspec
import pytest

from archive.history import Archive, archive, run_of
from runwire.archive.format import Manifest, decoded_manifest
from runwire.archive.ledger import Batch, Ledger
from runwire.archive.reading import read_run
from runwire.archive.verifying import Verifier
from runwire.archive.watching import Watcher
from runwire.errors import ArchiveCorrupt, ArchiveUnavailable

MIB = 1 << 20
EPOCH = dt.datetime.fromtimestamp(0, dt.UTC)


async def the_batch(here: Archive) -> Batch:
    [batch] = await Ledger(here.database).batches()
    return batch


async def verified(here: Archive) -> None:
    await Verifier(Ledger(here.database), here.store, watcher=Watcher()).verify(await the_batch(here))


def bent(data: bytes, rng: random.Random) -> bytes:
    """With bits turned, bytes left out or put in, cut short, or with something after it."""
    at, length = rng.randrange(len(data)), rng.randrange(1, 40)
    return rng.choice(
        (
            data[:at] + bytes((data[at] ^ (1 << rng.randrange(8)),)) + data[at + 1 :],
            data[:at] + data[at + length :],
            data[:at] + rng.randbytes(length) + data[at:],
            data[:at],
            data + rng.randbytes(length),
            rng.randbytes(length),
            b"",
        )
    )


async def test_a_file_that_was_bent_is_corrupt_whatever_was_done_to_it(database: str, tmp_path: Path) -> None:
    rng = random.Random(17)
    async with archive(database, tmp_path) as here:
        for n in range(3):
            await run_of(here.database, f"r{n}", events=20 + 700 * n)
        await here.run()
        await verified(here)
        batch = await the_batch(here)
        places = await Ledger(here.database).places_of(batch)
        whole = here.data_file().read_bytes()
        for _ in range(60):
            here.data_file().write_bytes(bent(whole, rng))
            with pytest.raises(ArchiveCorrupt):
                await verified(here)
            for place in places:
                try:
                    assert len(await read_run(here.store, place)) == place.events  # it was bent elsewhere
                except (ArchiveCorrupt, ArchiveUnavailable):  # the second where the file ends too early
                    continue
        here.data_file().write_bytes(whole)
        await verified(here)


async def test_a_manifest_that_was_bent_is_corrupt_or_says_the_same(database: str, tmp_path: Path) -> None:
    rng = random.Random(17)
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "r")
        await here.run()
        file = here.folder / (await the_batch(here)).manifest_path
        whole, refused = file.read_bytes(), 0
        for _ in range(100):
            file.write_bytes(other := bent(whole, rng))
            try:
                await verified(here)
            except ArchiveCorrupt:
                refused += 1
            else:  # who wrote it and when is proven by nothing
                assert claims(other) == claims(whole)
        assert refused > 80


def claims(manifest: bytes) -> Manifest:
    nobody = {"writer": "", "written_at": EPOCH, "data": ""}
    return msgspec.structs.replace(decoded_manifest(manifest), **nobody)


@pytest.mark.parametrize("kind", ["data", "manifest"])
async def test_of_a_file_that_was_made_huge_little_is_read(database: str, tmp_path: Path, kind: str) -> None:
    async with archive(database, tmp_path) as here:
        await run_of(here.database, "r")
        await here.run()
        batch = await the_batch(here)
        file = here.folder / (batch.path if kind == "data" else batch.manifest_path)
        with file.open("ab") as grown:
            grown.truncate(400 * MIB)  # sparse
        tracemalloc.start()
        try:
            with pytest.raises(ArchiveCorrupt, match="longer than the written one"):
                await verified(here)
            assert tracemalloc.get_traced_memory()[1] < 40 * MIB
        finally:
            tracemalloc.stop()
