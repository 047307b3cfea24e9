"""The map of a site fits a terminal, whatever the site is like."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from runwire.agents.page_graph import Graph, Outcome, Page, PageGraph, drawn
from runwire.cli.site_map import MAX_SHOWN, print_site


def graph(*pages: Page) -> PageGraph:
    return drawn(
        Graph(list(pages)),
        origin="http://x",
        policy_switches=0,
        restarts=0,
        recoveries=0,
        stop_reason="complete",
    )


def printed(of: PageGraph) -> str:
    out = io.StringIO()
    print_site(Console(file=out, width=200, highlight=False), of)
    return out.getvalue()


def test_each_page_hangs_once_below_the_nearest_one_that_links_to_it() -> None:
    shown = printed(
        graph(
            Page("/", 0, Outcome.PAGE, 200, "Home", [1, 2]),
            Page("/a", 1, Outcome.PAGE, 200, "[bold]A", [2, 0]),
            Page("/b", 1, Outcome.CUT, 200),
        )
    )
    assert shown.splitlines()[:3] == ["http://x/  Home", "├── /a  [bold]A", "└── /b"]
    assert "3 addresses opened (1 at depth 0, 2 at depth 1)" in shown


def test_what_is_broken_says_how_and_from_where() -> None:
    shown = printed(
        graph(
            Page("/", 0, Outcome.PAGE, 200, "", [1, 2, 3, 4]),
            Page("/gone", 1, Outcome.BROKEN, 404),
            Page("/lost", 1, Outcome.LOST),
            Page("/later", 1),
            Page("/away", 1, Outcome.OFF_SITE, 302, off_site="http://y/"),
        )
    )
    assert "broken    /gone  HTTP 404, linked from /" in shown
    assert "broken    /lost  no answer, linked from /" in shown
    assert "redirect  /away -> http://y/" in shown
    assert "/later" not in shown


def test_a_long_site_is_cut_and_says_so() -> None:
    pages = [Page(f"/{n}", 1, Outcome.PAGE, 200) for n in range(1, MAX_SHOWN + 10)]
    assert "and 10 more" in printed(graph(Page("/", 0, Outcome.PAGE, 200, "", list(range(1, len(pages) + 1))), *pages))


@pytest.mark.parametrize("pages", [(), (Page("/", 0, Outcome.BROKEN, 500),)])
def test_a_map_of_nothing_is_no_error(pages: tuple[Page, ...]) -> None:
    assert "complete" in printed(graph(*pages))
