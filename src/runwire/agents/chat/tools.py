"""The tools of the chat. A tool gets the arguments that a model wrote, so it trusts none of them."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec
from msgspec import Meta

from runwire.agents.chat.cities import CITIES
from runwire.agents.chat.conversation import Text
from runwire.model.graph import Context

A = TypeVar("A", bound=msgspec.Struct)

EARTH_KM: Final = 6371.0
NOTE: Final = "note.md"


@dataclass(frozen=True)
class Tool(ABC, Generic[A]):
    """An action that a model may ask for. A person approves the tools that `needs_approval`."""

    name: str
    description: str
    arguments: type[A]
    needs_approval: bool = False

    async def run(self, ctx: Context, arguments: str) -> dict[str, Any]:
        """The result, as JSON holds it. Arguments that do not fit are a result, too: the model reads it."""
        try:
            given = msgspec.json.decode(arguments, type=self.arguments)
        except msgspec.MsgspecError:
            return {"error": f"The arguments of {self.name} do not fit."}
        return await self._run(given, ctx)

    @abstractmethod
    async def _run(self, given: A, ctx: Context) -> dict[str, Any]: ...


class Between(msgspec.Struct, forbid_unknown_fields=True):
    """The arguments of `distance`."""

    origin: Annotated[str, Meta(max_length=80)]
    destination: Annotated[str, Meta(max_length=80)]


class Distance(Tool[Between]):
    async def _run(self, given: Between, ctx: Context) -> dict[str, Any]:  # noqa: ARG002  # it leaves no trace
        await asyncio.sleep(0.4)  # a service on the network, in real life
        places = [CITIES.get(name.strip().lower()) for name in (given.origin, given.destination)]
        if None in places:
            return {"error": "One of the cities is not on the map."}
        (a, b), (c, d) = ((math.radians(place.north), math.radians(place.east)) for place in places if place)
        haversine = math.sin((c - a) / 2) ** 2 + math.cos(a) * math.cos(c) * math.sin((d - b) / 2) ** 2
        return {"km": round(2 * EARTH_KM * math.asin(math.sqrt(haversine)))}


class Note(msgspec.Struct, forbid_unknown_fields=True):
    """The arguments of `save_note`."""

    title: Annotated[str, Meta(min_length=1, max_length=120)]
    text: Text


class SaveNote(Tool[Note]):
    async def _run(self, given: Note, ctx: Context) -> dict[str, Any]:
        """Stores an artifact. A node that runs again gets the same one, because its bytes are the same."""
        stored = await ctx.artifact(NOTE, f"# {given.title}\n\n{given.text}\n", media_type="text/markdown")
        return {"file": {"n": stored.n, "name": stored.name, "size": stored.size}}


TOOLS: Final[Mapping[str, Tool[Any]]] = {
    tool.name: tool
    for tool in (
        Distance("distance", "The distance in km between two cities, as the crow flies.", Between),
        SaveNote("save_note", "Saves a note as a file for the user, who approves it first.", Note, needs_approval=True),
    )
}
