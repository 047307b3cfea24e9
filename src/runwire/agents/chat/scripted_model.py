"""A model without a model: it answers from a script, the same words for the same conversation, with a little cheer."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from runwire.agents.chat.cities import CITIES, City
from runwire.agents.chat.conversation import Call, Message
from runwire.agents.chat.tools import Tool

_WORD: Final = re.compile(r"\s*\S+\s*")
_CITY: Final = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in CITIES), re.IGNORECASE)
_ABOUT: Final = re.compile(r"\b(crash|kill|durable|reload|resume|lost|work|works|how|runwire)\b", re.IGNORECASE)
_STORY: Final = re.compile(r"\b(story|tale|poem|long)\b", re.IGNORECASE)

HELLO: Final = """\
Hello! I am a **scripted** model: no network, no bill, and no opinion on anything but cities. Try one of these:

- *Plan a weekend in Lisbon.* I measure the way, then I ask before I save anything.
- *How do you survive a crash?* I explain what you are looking at.
- *Tell me a long story.* Good for the buttons Stop and Reload.
"""
ABOUT: Final = """\
You are talking to a **run**. Your message started it, and this conversation is its *session*.

- A worker writes my words into a *part*, and PostgreSQL has each of them before you do.
- Your browser follows with a plain `EventSource`. Reload now, in the middle of this sentence: it resumes at the byte \
where it was.
- Kill the worker, and another one takes the run over. It begins this answer again, and your page drops the first \
half. You never see a word twice.
- Events have no payload. Our words travel beside the log, never in it.

So go ahead: press reload, open a second tab, pull the plug. I have time.
"""
STORY: Final = """\
Once upon a time there was a lighthouse that answered questions. Ships asked, and it blinked, one word at a time.

One night, in the middle of a word, the lamp went out. The keeper had gone for bread. The captains held their breath. \
Half a word is a dangerous thing at sea: it may be the half of *rock* or the half of *welcome*.

But the lighthouse kept a book. Each blink was written down before it was shown. When the second keeper came up the \
stairs, out of breath and out of bread, she opened the book, read the question again, and told the ships: *forget the \
half, here is the whole.* Then she blinked the answer from its beginning.

It was *welcome*. It had been *welcome* all along.

The ships came in one by one, each with the same word, none with the word and a half. In the harbour they compared \
what they had read. It was the same to the letter, and so they stopped comparing and had soup.

The first keeper returned in the morning with the bread. Nobody had missed him. He thought about that for a while, and \
then he found it was the nicest thing that anybody had ever built.
"""
_OPENINGS: Final = ("Good choice.", "Oh, lovely.", "My favourite, this week.", "Pack light.")


@dataclass(frozen=True, slots=True)
class ScriptedModel:
    """Says a word every `pace_s` seconds."""

    pace_s: float = 0.0

    async def reply(
        self, messages: Sequence[Message], *, tools: Mapping[str, Tool[Any]]
    ) -> AsyncGenerator[str | Call, None]:
        """Words, then perhaps one call."""
        text, call = _scene(messages)
        for word in _WORD.findall(text):
            await asyncio.sleep(self.pace_s)
            yield word
        if call is not None and call.tool in tools:
            yield call


def _scene(messages: Sequence[Message]) -> tuple[str, Call | None]:
    """The next words of the conversation, and the call that follows them."""
    asked = next((message.text for message in reversed(messages) if message.role == "user"), "")
    last = messages[-1]
    origin, destination = _route(asked)
    if last.role == "tool":
        result = _fields(last.text)
        if "km" in result and destination is not None:
            return _plan(origin, destination, km=result["km"])
        return _farewell(result), None
    if destination is not None:
        opening = _OPENINGS[zlib.crc32(asked.encode()) % len(_OPENINGS)]
        arguments = {"origin": origin.name, "destination": destination.name}
        return f"{opening} Let me measure the way to {destination.name} first.", _call("distance", arguments)
    if _STORY.search(asked):
        return STORY, None
    return (ABOUT if _ABOUT.search(asked) else HELLO), None


def _route(asked: str) -> tuple[City, City | None]:
    """Where a journey begins and ends: the first and the last city of the message, or the one, from a usual place."""
    named = [CITIES[found.lower()] for found in _CITY.findall(asked)]
    if not named:
        return CITIES["berlin"], None
    if named[0] is not named[-1]:
        return named[0], named[-1]
    return CITIES["vienna" if named[-1] is CITIES["berlin"] else "berlin"], named[-1]


def _plan(origin: City, city: City, *, km: int) -> tuple[str, Call]:
    way = "a train with a window seat" if km < 900 else "a night train, or a short flight" if km < 3500 else "a flight"
    plan = (
        f"- **Friday:** {way} from {origin.name}, {km:,} km as the crow flies. The crow packs light, too.\n"
        f"- **Saturday:** in the morning, {city.morning}. Nothing after lunch: that is the point of a weekend.\n"
        f"- **Sunday:** sleep, then {city.evening}. Go home with one souvenir at most.\n"
    )
    said = f"{city.name} is {km:,} km away. Here is a plan:\n\n{plan}\nShall I save it for you?"
    return said, _call("save_note", {"title": f"A weekend in {city.name}", "text": plan})


def _farewell(result: Mapping[str, Any]) -> str:
    comment = str(result.get("comment", "")).strip()
    heard = f" I heard you: *{comment}*" if comment else ""
    match result.get("decision"):
        case "approve":
            return f"Saved. The file is above, and it stays with this conversation.{heard} Have a good journey!"
        case "reject":
            return f"Then I leave it as it is, and nothing was saved.{heard} Ask again whenever you like."
        case "timeout":
            return "Nobody answered for an hour, so I saved nothing."
    return "That did not work, I am afraid. Shall we try another city?"


def _fields(text: str) -> dict[str, Any]:
    found = msgspec.json.decode(text)
    return found if isinstance(found, dict) else {}


def _call(tool: str, arguments: Mapping[str, str]) -> Call:
    return Call(tool, msgspec.json.encode(arguments).decode())
