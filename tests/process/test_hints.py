"""Hints: to the part of this process that takes them, and what it leaves to others, to those."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runwire.process import Hints
from runwire.process.hints import By


class Told:
    """Other processes, and a part of this one that takes the words beginning with `a`."""

    def __init__(self, hints: Hints) -> None:
        self.others: list[tuple[str, list[str]]] = []
        self.taken: list[tuple[list[str], By]] = []
        hints.tell_others = lambda channel, words: self.others.append((channel, list(words)))

    def take(self, words: Sequence[str], by: By) -> Iterable[str]:
        self.taken.append((list(words), by))
        return [word for word in words if not word.startswith("a")]


def test_a_channel_that_nobody_takes_here_is_told_to_others() -> None:
    hints = Hints()
    told = Told(hints)
    hints.tell("dirty", ["a1", "b1"])
    assert (told.taken, told.others) == ([], [("dirty", ["a1", "b1"])])


def test_others_hear_what_the_part_of_this_process_leaves_to_them() -> None:
    hints = Hints()
    told = Told(hints)
    hints.take("dirty", told.take)
    hints.tell("dirty", ["a1", "b1"])
    assert (told.taken, told.others) == ([(["a1", "b1"], "local")], [("dirty", ["b1"])])


def test_others_hear_nothing_when_nothing_is_left_to_them() -> None:
    hints = Hints()
    told = Told(hints)
    hints.take("dirty", told.take)
    hints.tell("dirty", ["a1"])
    assert told.others == []


def test_a_heard_hint_is_not_told_on() -> None:
    hints = Hints()
    told = Told(hints)
    hints.take("dirty", told.take)
    hints.heard()["dirty"]("a1 b1")
    assert (told.taken, told.others) == ([(["a1", "b1"], "notify")], [])


def test_after_missed_hints_every_part_looks_for_work() -> None:
    hints = Hints()
    looked: list[str] = []
    hints.missed.add(lambda: looked.append("publisher"))
    hints.missed.add(lambda: looked.append("worker"))
    hints.missed()
    assert looked == ["publisher", "worker"]
