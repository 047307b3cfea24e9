"""Prints the result of an exploration: the pages as a tree by clicks from the start, and the broken links."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from runwire.agents.page_graph import Outcome, Page, PageGraph

MAX_SHOWN: Final = 60
_OPENED: Final = (Outcome.PAGE, Outcome.CUT)


def print_site(out: Console, graph: PageGraph) -> None:
    """Prints the tree, then broken links and redirects, then the sums."""
    out.print(site_tree(graph))
    for at in graph.broken:
        page = graph.pages[at]
        linked = [graph.pages[source].path for source, target in graph.edges if target == at]
        came = f"HTTP {page.status}" if page.status else "no answer"
        out.print(f"[red]broken[/]    {escape(page.path)}  {came}, linked from {escape(', '.join(linked[:3]))}")
    for source, target in graph.redirects:
        out.print(f"[yellow]redirect[/]  {escape(source)} -> {escape(target)}")
    opened = sum(graph.depths.values())
    by_depth = ", ".join(f"{count} at depth {depth}" for depth, count in graph.depths.items())
    out.print(
        f"[bold]{opened} addresses opened[/] ({by_depth}) of {len(graph.pages)} known, {len(graph.edges)} links, "
        f"{len(graph.broken)} broken; stopped: {graph.stop_reason or 'not yet'}",
        soft_wrap=True,
    )


def as_objects(graph: PageGraph) -> dict[str, Any]:
    """The graph for programs: pages by field name, where checkpoints hold them as arrays."""
    pages = [msgspec.structs.asdict(page) for page in graph.pages]
    return {**msgspec.structs.asdict(graph), "pages": pages}


def site_tree(graph: PageGraph) -> Tree:
    """Each page once, below the first page by which it is reached in the fewest clicks."""
    if not graph.pages:
        return Tree("nothing was opened")
    branches = {0: Tree(f"[bold]{escape(graph.origin)}[/]{_label(graph.pages[0])}")}
    shown = 1
    left_out = 0
    for at, parent in _by_clicks(graph):
        page = graph.pages[at]
        if page.outcome is Outcome.KNOWN:
            continue
        if shown >= MAX_SHOWN or parent not in branches:
            left_out += 1
            continue
        branches[at] = branches[parent].add(_label(page))
        shown += 1
    if left_out:
        branches[0].add(f"[dim]and {left_out} more[/]")
    return branches[0]


def _by_clicks(graph: PageGraph) -> Iterator[tuple[int, int]]:
    """(page, the page it hangs from), breadth first."""
    seen = {0}
    queue = [0]
    for at in queue:  # grows while it is walked
        for to in graph.pages[at].links:
            if to not in seen:
                seen.add(to)
                queue.append(to)
                yield to, at


def _label(page: Page) -> str:
    path = escape(page.path)
    if page.outcome in _OPENED:
        return f"{path}  [dim]{escape(page.title)}[/]" if page.title else path
    return f"{path}  [yellow]{page.outcome.value}[/]" + (f" {page.status}" if page.status else "")
