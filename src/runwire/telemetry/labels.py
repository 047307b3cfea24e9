"""Values of the labels agent and node: declared names, bounded, so that a scrape stays small."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

OPEN_LABELS: Final = frozenset({"agent", "node", "version"})
"""Labels with values that differ from one installation to the next. The others have the same values everywhere."""
EXTERNAL: Final = "external"
"""The label of undeclared agents and nodes: those of external orchestrators."""
OTHER: Final = "other"
"""The label that declared agents and nodes past `LABEL_LIMIT` share."""
LABEL_LIMIT: Final = 16
NODES_BESIDE_API: Final = 7
"""The limit for nodes in a process that also serves the API: requests have series there."""

T = TypeVar("T")


class ByName(dict[str, T]):
    """Series by a declared name; a name that was not declared finds `external`."""

    def __init__(self, series: Mapping[str, T], *, overflow: Iterable[str]) -> None:
        super().__init__(series)
        for name in overflow:
            self[name] = series[OTHER]

    def __missing__(self, name: str) -> T:
        return self[EXTERNAL]


class ByNameAndOutcome(dict[tuple[str, str], T]):
    """Series by a declared name and an outcome; a name that was not declared finds `external`."""

    def __init__(self, series: Mapping[tuple[str, str], T], *, overflow: Iterable[str]) -> None:
        super().__init__(series)
        shared = {outcome: one for (name, outcome), one in series.items() if name == OTHER}
        self.update({(name, outcome): one for name in overflow for outcome, one in shared.items()})

    def __missing__(self, key: tuple[str, str]) -> T:
        name, outcome = key
        if name == EXTERNAL:
            raise KeyError(key)
        return self[EXTERNAL, outcome]


def named_labels(names: Iterable[str], *, limit: int = LABEL_LIMIT) -> tuple[list[str], list[str]]:
    """Declared names that are values of a label, and those past the limit."""
    distinct = [name for name in dict.fromkeys(names) if name not in (EXTERNAL, OTHER)]
    return distinct[:limit], distinct[limit:]


def bounded(names: Iterable[str], *, limit: int = LABEL_LIMIT) -> tuple[list[str], list[str]]:
    """The label values to export, and the names past the limit."""
    named, overflow = named_labels(names, limit=limit)
    return [*named, *([OTHER] if overflow else []), EXTERNAL], overflow
