"""The pages of an explored site, their links, and the result of each visit. Pure, compact JSON."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

MAX_KNOWN: Final = 2_000
"""Addresses a graph holds at most; later ones are left out and `capped` says so. Bounds the checkpoints."""


class Outcome(StrEnum):
    """The result of visiting an address."""

    KNOWN = ""
    """Linked, not opened (yet)."""
    PAGE = "page"
    CUT = "cut"
    """A page longer than the budget: only its first bytes were read."""
    FILE = "file"
    """Not HTML."""
    REDIRECT = "redirect"
    OFF_SITE = "offSite"
    """Redirects to another origin, where nobody followed."""
    BROKEN = "broken"
    """An HTTP error, or a redirect that leads nowhere."""
    LOST = "lost"
    """The connection dropped or timed out, retries included."""
    DENIED = "denied"
    """robots.txt asks not to."""


_NO_ANSWER: Final = (Outcome.BROKEN, Outcome.LOST)


class Sighting(msgspec.Struct, omit_defaults=True):
    """The result of one request: enough to judge and record it, never the body. Links are paths of the origin."""

    status: int = 0
    html: bool = False
    cut: bool = False
    title: str = ""
    location: str | None = None
    links: list[str] = []
    outcome: Outcome = Outcome.KNOWN


class Page(msgspec.Struct, array_like=True, omit_defaults=True):
    """An address of the site. `path` has the query, `depth` is clicks from the start, `links` are indexes."""

    path: str
    depth: int
    outcome: Outcome = Outcome.KNOWN
    status: int = 0
    title: str = ""
    links: list[int] = []
    hops: int = 0
    """Redirects in a row that led here."""
    off_site: str = ""
    """Where a redirect to another origin points."""


class Graph(msgspec.Struct, omit_defaults=True):
    """Pages in the order they were first seen; page 0 is the start."""

    pages: list[Page] = []
    capped: bool = False

    def record(self, at: int, seen: Sighting) -> None:
        """Writes what opening page `at` brought, and its links. The same again changes nothing."""
        page = self.pages[at]
        page.outcome, page.status, page.title = seen.outcome, seen.status, seen.title
        if seen.outcome is Outcome.OFF_SITE:
            page.off_site = seen.location or ""
        page.links = self._indexes_of(seen.links)
        if seen.outcome is Outcome.REDIRECT:
            for index in page.links:
                target = self.pages[index]
                if target.outcome is Outcome.KNOWN:
                    target.hops = max(target.hops, page.hops + 1)

    def settle_depths(self) -> None:
        """Sets every page's depth to its shortest way from the start, which `record` leaves open.

        A redirect is not a click.
        """
        depths = {0: 0} if self.pages else {}
        layer, depth = list(depths), 0
        while layer:
            for at in layer:  # grows while it is walked: what a redirect leads to lies on the same layer
                page = self.pages[at]
                if page.outcome is Outcome.REDIRECT:
                    layer += [to for to in page.links if to not in depths]
                    depths |= dict.fromkeys(page.links, depth) | depths
            depth += 1
            layer = list(dict.fromkeys(to for at in layer for to in self.pages[at].links if to not in depths))
            depths |= dict.fromkeys(layer, depth)
        for at, settled in depths.items():
            self.pages[at].depth = settled

    def opened(self) -> int:
        """How many addresses were opened, whatever came of it."""
        return sum(page.outcome not in (Outcome.KNOWN, Outcome.DENIED) for page in self.pages)

    def _indexes_of(self, paths: list[str]) -> list[int]:
        known = {page.path: index for index, page in enumerate(self.pages)}
        for path in paths:
            if path not in known and len(self.pages) < MAX_KNOWN:
                known[path] = len(self.pages)
                self.pages.append(Page(path, depth=0))
        links = [known[path] for path in paths if path in known]
        self.capped = self.capped or len(links) < len(paths)
        return links


class PageGraph(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an exploration, for reading and rendering."""

    origin: str
    pages: tuple[Page, ...]
    """Every known address; the start is first. Those opened as pages have outcome `page` or `cut`."""
    edges: tuple[tuple[int, int], ...]
    """(from, to) as indexes of `pages`; redirects included."""
    broken: tuple[int, ...]
    redirects: tuple[tuple[str, str], ...]
    """(path, path) within the site, (path, URL) where one leaves it."""
    depths: dict[int, int]
    """How many opened addresses lie how many clicks from the start."""
    capped: bool
    policy_switches: int
    restarts: int
    recoveries: int
    stop_reason: str
    """`complete`, `pages`, `seconds`, `errors`, or empty while the run goes on."""


def drawn(
    graph: Graph, *, origin: str, policy_switches: int, restarts: int, recoveries: int, stop_reason: str
) -> PageGraph:
    """`graph` for readers, its depths settled, with what the run that drew it went through."""
    graph.settle_depths()
    opened = [page for page in graph.pages if page.outcome not in (Outcome.KNOWN, Outcome.DENIED)]
    depths: dict[int, int] = {}
    for page in sorted(opened, key=lambda page: page.depth):
        depths[page.depth] = depths.get(page.depth, 0) + 1
    redirects = [
        (page.path, page.off_site or graph.pages[page.links[0]].path)
        for page in opened
        if page.off_site or (page.outcome is Outcome.REDIRECT and page.links)
    ]
    return PageGraph(
        origin=origin,
        pages=tuple(graph.pages),
        edges=tuple((at, to) for at, page in enumerate(graph.pages) for to in page.links),
        broken=tuple(at for at, page in enumerate(graph.pages) if page.outcome in _NO_ANSWER),
        redirects=tuple(redirects),
        depths=depths,
        capped=graph.capped,
        policy_switches=policy_switches,
        restarts=restarts,
        recoveries=recoveries,
        stop_reason=stop_reason,
    )
