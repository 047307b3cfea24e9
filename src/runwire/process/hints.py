"""News between the parts of a process, and between processes. Losing some costs latency, never an event."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, TypeAlias

By: TypeAlias = Literal["local", "notify"]
"""Where a hint comes from: this process, or another one."""
Take: TypeAlias = Callable[[Sequence[str], By], Iterable[str]]
"""Acts on the words of a hint, and returns those that other processes should hear."""


class Callbacks:
    """Callables without arguments. A call of this calls each, in the order in which they were added."""

    def __init__(self) -> None:
        self._all: list[Callable[[], None]] = []

    def add(self, callback: Callable[[], None]) -> None:
        self._all.append(callback)

    def __call__(self) -> None:
        for callback in self._all:
            callback()


class Hints:
    """Routes hints by channel: to the part of this process that takes them, and to other processes.

    A process that stands alone tells nobody else.
    """

    def __init__(self) -> None:
        self._takes: dict[str, Take] = {}
        self.tell_others: Callable[[str, Iterable[str]], None] = lambda _channel, _words: None
        """Tells other processes only."""
        self.missed = Callbacks()
        """Call it when hints may have been lost: every part that added itself looks for new work."""

    def take(self, channel: str, take: Take) -> None:
        """Gives the hints of a channel to a part of this process. There is one for each channel."""
        self._takes[channel] = take

    def tell(self, channel: str, words: Sequence[str]) -> None:
        """Tells the part of this process, and other processes what that leaves to them; without one, everything."""
        take = self._takes.get(channel)
        if others := words if take is None else take(words, "local"):
            self.tell_others(channel, others)

    def heard(self) -> dict[str, Callable[[str], None]]:
        """The receivers of hints from other processes, by channel."""
        return {channel: _receiver(take) for channel, take in self._takes.items()}


def _receiver(take: Take) -> Callable[[str], None]:
    def receive(payload: str) -> None:
        take(payload.split(), "notify")  # what is left to others, they have heard themselves

    return receive
