"""Where a client is in many runs, and the id that says so. Pure.

The position in a run is a seq, or the seq after the last one when the client was told of the run's end. An id has the
key of a checkpoint, which holds the positions of all runs, and the steps taken since: `<key>.<steps>`. A step is the
number of a run in the checkpoint, and how far the client went in it; 1 is left out. Runs 0 to 25 are the small letters.
The others have a capital letter and another one.

    4kX9zQ2mT1a.bAe3Df      as in the checkpoint, one further in run 1, three further in 30, and one further in 187

Key 0 is the checkpoint in which a list of runs is at 0. Nothing stores it, so a stream of few runs needs no other.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Sequence
from typing import Final

from runwire.errors import InvalidRequest

ZERO: Final = 0
"""The key of the checkpoint that is not stored."""
ID_MAX: Final = 8000
"""Characters of an id. It comes back in a header, whose length is bounded."""
STEP_MAX: Final = 2**53

_LETTERS: Final = string.ascii_lowercase + string.ascii_uppercase
_DIGITS: Final = string.digits + _LETTERS
_ID: Final = re.compile(r"([0-9A-Za-z]{1,11})\.((?:(?:[a-z]|[A-Z][A-Za-z])[0-9]{0,16})*)")
_STEP: Final = re.compile(r"([a-z]|[A-Z][A-Za-z])([0-9]*)")
_SHORT: Final = 26
"""Runs that one letter names."""
RUNS_MAX: Final = _SHORT + 26 * len(_LETTERS)


class Positions:
    """The positions of a client. `known` runs, the first ones, are in the checkpoint."""

    __slots__ = ("_base", "_steps", "key", "known", "past", "roster", "rostered", "runs", "sent")

    def __init__(self, runs: Sequence[str], sent: Sequence[int], *, key: int = ZERO, past: Sequence[str] = ()) -> None:
        """`key` is of the checkpoint that holds just these. `past` are runs without a number: everything was told."""
        self.runs = list(runs)
        self.sent = list(sent)
        self.key = key
        self.roster: int | None = None
        """The checkpoint that has the list of the first of these runs, when one has it, and all of `past`."""
        self.rostered = 0
        """How many of the runs it has."""
        self.past = dict.fromkeys(past)
        self.known = len(self.runs)
        self._base = list(sent)
        self._steps: dict[int, str] = {}

    def join(self, run_id: str) -> int:
        """Adds a run at 0, and returns its number. Its id can be told after the next checkpoint."""
        self.runs.append(run_id)
        self.sent.append(0)
        return len(self.runs) - 1

    def renumber(self, numbers: Sequence[int], *, past: Iterable[str]) -> None:
        """Keeps the runs of these numbers, which are numbered by their order from here on. Ids can be told after the
        next checkpoint, which has to be the next thing.
        """
        self.runs = [self.runs[number] for number in numbers]
        self.sent = [self.sent[number] for number in numbers]
        self.past = dict.fromkeys(past)
        self.roster = None
        self.known = 0
        self._steps = {}
        self._base = list(self.sent)

    @property
    def steps(self) -> int:
        """Runs in which the client is further than in the checkpoint: an id has two or three characters for each."""
        return len(self._steps)

    def has_step(self, number: int) -> bool:
        """Whether an id mentions the run already."""
        return number in self._steps

    def step(self, number: int, *, count: int) -> list[str]:
        """Goes on by `count` in one run, and returns the ids of each step."""
        before = self.sent[number] - self._base[number]
        self._steps.pop(number, None)
        letters = _lettered(number)
        head = f"{_digits(self.key)}.{''.join(self._steps.values())}{letters}"
        self.sent[number] += count
        counts = [str(n) if n > 1 else "" for n in range(before + 1, before + count + 1)]
        self._steps[number] = letters + counts[-1]
        return [head + n for n in counts]

    @property
    def id(self) -> str:
        """Of the present positions."""
        return f"{_digits(self.key)}.{''.join(self._steps.values())}"

    def rebase(self, key: int, sent: Sequence[int]) -> None:
        """From here on ids count from this checkpoint, in which the runs were at `sent`."""
        self.key = key
        self._base = list(sent)
        self.known = len(sent)
        self._steps = {}
        for number, (now, then) in enumerate(zip(self.sent, sent, strict=False)):
            if now > then:
                self._steps[number] = _lettered(number) + (str(now - then) if now - then > 1 else "")


def parsed_id(text: str) -> tuple[int, dict[int, int]]:
    """The key and the steps of an id, by number. Raises InvalidRequest (`invalid_cursor`)."""
    found = _ID.fullmatch(text) if len(text) <= ID_MAX else None
    if found is None:
        raise _invalid()
    steps: dict[int, int] = {}
    for letters, count in _STEP.findall(found[2]):
        number = _LETTERS.index(letters[-1])
        if len(letters) > 1:
            number += _SHORT + (_LETTERS.index(letters[0]) - _SHORT) * len(_LETTERS)
        if number in steps or not 1 <= (further := int(count or 1)) <= STEP_MAX:
            raise _invalid()
        steps[number] = further
    key = 0
    for digit in found[1]:
        key = key * len(_DIGITS) + _DIGITS.index(digit)
    if key >= 2**63:
        raise _invalid()
    return key, steps


def stepped(sent: Sequence[int], steps: dict[int, int]) -> list[int]:
    """The positions after the steps. Raises InvalidRequest for a step in a run that is not there."""
    positions = list(sent)
    for number, further in steps.items():
        if number >= len(positions):
            raise _invalid()
        positions[number] += further
    return positions


def packed(positions: Sequence[int]) -> bytes:
    """Positions as bytes: seven bits in each, the lowest first, and the eighth says that more follow."""
    out = bytearray()
    for position in positions:
        left = position
        while left > 127:
            out.append(left & 127 | 128)
            left >>= 7
        out.append(left)
    return bytes(out)


def unpacked(data: bytes) -> list[int]:
    """The positions that `packed` made bytes of."""
    positions = []
    value = shift = 0
    for byte in data:
        value |= (byte & 127) << shift
        if byte & 128:
            shift += 7
        else:
            positions.append(value)
            value = shift = 0
    return positions


def _invalid() -> InvalidRequest:
    return InvalidRequest("Last-Event-ID is none of this stream", code="invalid_cursor")


def _lettered(number: int) -> str:
    if number < _SHORT:
        return _LETTERS[number]
    high, low = divmod(number - _SHORT, len(_LETTERS))
    return _LETTERS[_SHORT + high] + _LETTERS[low]


def _digits(key: int) -> str:
    text = ""
    while True:
        key, digit = divmod(key, len(_DIGITS))
        text = _DIGITS[digit] + text
        if not key:
            return text
