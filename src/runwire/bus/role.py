"""The bus of a process: opens the one that the settings name."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from runwire.bus import Bus
from runwire.bus.kinds import KINDS
from runwire.bus.settings import BusSettings
from runwire.errors import ConfigurationError
from runwire.process import Context


class BusModule(Protocol):
    async def open_bus(self, context: Context) -> Bus:
        """Both sides of the bus. Its loops run until the process closes its ground phase."""


async def start(context: Context) -> None:
    """Offers the Bus that the settings name."""
    name = context.group(BusSettings).bus_name
    try:
        module = cast("BusModule", import_module(KINDS[name].module))
    except ImportError as error:
        raise ConfigurationError((f"RUNWIRE_BUS: {name} needs its client: pip install 'runwire[{name}]'",)) from error
    context.offer(Bus, await module.open_bus(context))
