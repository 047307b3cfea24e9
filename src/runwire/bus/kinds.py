"""Which buses there are. A new one is a module of this folder with `open_bus`, and its line here."""

from __future__ import annotations

from importlib import import_module
from typing import Final, Protocol, cast

from runwire.bus import Bus
from runwire.bus.settings import BusSettings
from runwire.errors import ConfigurationError
from runwire.process import Context

KINDS: Final = {
    "memory": "runwire.bus.memory",
    "postgres": "runwire.bus.postgres",
    "nats": "runwire.bus.nats",
}
"""The module of each bus. It is imported when it is used: the client of NATS is an extra."""


class BusModule(Protocol):
    async def open_bus(self, context: Context) -> Bus:
        """Both sides of the bus. Its loops run until the process closes its ground phase."""


async def start(context: Context) -> None:
    """Offers the Bus that the settings name."""
    name = context.group(BusSettings).bus_name
    try:
        module = cast("BusModule", import_module(KINDS[name]))
    except ImportError as error:
        raise ConfigurationError((f"RUNWIRE_BUS: {name} needs its client: pip install 'runwire[{name}]'",)) from error
    context.offer(Bus, await module.open_bus(context))
