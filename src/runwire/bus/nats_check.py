"""Whether the NATS servers that the settings name carry messages."""

from __future__ import annotations

import asyncio
from typing import Final

from runwire.bus import Published
from runwire.bus.nats import NatsBusReader, NatsBusWriter, NatsOptions
from runwire.bus.settings import BusSettings
from runwire.clock import monotonic
from runwire.db.health import Finding
from runwire.errors import BusUnavailable
from runwire.model.run import new_run_id

CONNECT_WITHIN_S: Final = 5.0
_REMEDY: Final = "start nats-server, or correct RUNWIRE_BUS, the credentials and the leave for `runwire.v1.>`"


async def examine_bus(settings: BusSettings) -> list[Finding]:
    """A message from a publisher to a subscriber, each with a connection of its own, as between two hosts."""
    options = NatsOptions.of(settings)
    writer = NatsBusWriter(options, name="runwire doctor")
    reader = NatsBusReader(options, name="runwire doctor")
    tasks = [asyncio.create_task(link.run()) for link in (writer.link, reader.link)]
    try:
        async with asyncio.timeout(CONNECT_WITHIN_S):
            for link in (writer.link, reader.link):
                await link.connected.wait()
        return [await _there_and_back(writer, reader)]
    except (TimeoutError, BusUnavailable):
        return [Finding("bus", ok=False, seen="NATS accepts or delivers no message", remedy=_REMEDY)]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _there_and_back(writer: NatsBusWriter, reader: NatsBusReader) -> Finding:
    came = asyncio.Event()
    run_id = f"doctor-{new_run_id()}"
    async with reader.subscribe(run_id, lambda _message: came.set()):
        began = monotonic()
        await writer.publish([Published(run_id, 1, 1, None)])
        await asyncio.wait_for(came.wait(), CONNECT_WITHIN_S)
        took_ms = (monotonic() - began) * 1000
    return Finding("bus", ok=True, seen=f"NATS {writer.link.server_version}, a message took {took_ms:.1f} ms")
