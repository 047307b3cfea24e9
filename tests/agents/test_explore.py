from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from agents.site import Reply, Site, page, redirect, serving
from agents.walk import Walked, walk
from runwire.agents.explore import MAX_RECOVERIES, Exploration, explore, summary
from runwire.agents.page_graph import MAX_KNOWN, Outcome, PageGraph
from runwire.agents.web_device import MAX_LINKS, MAX_REDIRECTS, USER_AGENT

# Two branches with a loop, links spelled in many ways, a page linked twice and one nobody links to.
MESH: Mapping[str, Reply] = {
    "/": page("/a", "b/", "/a#top", "mailto:x@example.com", "javascript:void(0)", "", "//[", title=" Home \n page "),
    "/a": page("/a/1", "./a/2", "/", "https://elsewhere.example/"),
    "/b/": page("1?x=1&y=2", "../b/./", "../a", "1?x=1&y=2#part"),
    "/a/1": page("../a/1/deep", "/a"),
    "/a/2": page("/b/1?x=1&y=2"),
    "/b/1?x=1&y=2": page("/"),
    "/a/1/deep": page("/"),
    "/nobody-links-here": page(),
}
REACHABLE = ["/", "/a", "/b/", "/a/1", "/a/2", "/b/1?x=1&y=2", "/a/1/deep"]


async def explored(site: Site, path: str = "/", **budgets: Any) -> tuple[PageGraph, Walked]:
    walked = await walk(explore, {"site": site.origin + path, **budgets})
    assert walked.failed is None
    return summary(walked.state), walked


def with_outcome(graph: PageGraph, outcome: Outcome) -> list[str]:
    return [known.path for known in graph.pages if known.outcome is outcome]


def test_the_graph_of_explore_can_run() -> None:
    explore.check()
    assert explore.nodes["Act"].exits() == ("Verify", "RecoverFromError")


async def test_every_page_is_found_and_opened_once_nearest_first() -> None:
    async with serving(MESH) as site:
        graph, walked = await explored(site)

    assert site.asked == REACHABLE
    assert site.agents == {USER_AGENT}
    assert [known.path for known in graph.pages] == REACHABLE
    assert [known.depth for known in graph.pages] == [0, 1, 1, 2, 2, 2, 3]
    assert graph.depths == {0: 1, 1: 2, 2: 3, 3: 1}
    assert graph.pages[0].title == "Home page"
    assert graph.stop_reason == "complete"
    assert walked.nodes[:3] == ["EnsureDevice", "Warmup", "OpenApp"]
    assert walked.nodes[3:11] == [
        "Perceive",
        "EnumerateActions",
        "ChooseAction",
        "Act",
        "Verify",
        "Persist",
        "DetectProgress",
        "ShouldContinue",
    ]
    assert walked.nodes[-1] == "Teardown"


async def test_edges_are_the_links_between_pages_each_once() -> None:
    async with serving(MESH) as site:
        graph, _ = await explored(site)

    named = {(graph.pages[a].path, graph.pages[b].path) for a, b in graph.edges}
    assert len(named) == len(graph.edges)
    assert named == {
        ("/", "/"),  # an empty href is a link to the page itself
        ("/", "/a"),
        ("/", "/b/"),
        ("/a", "/a/1"),
        ("/a", "/a/2"),
        ("/a", "/"),
        ("/b/", "/b/1?x=1&y=2"),
        ("/b/", "/b/"),
        ("/b/", "/a"),
        ("/a/1", "/a/1/deep"),
        ("/a/1", "/a"),
        ("/a/2", "/b/1?x=1&y=2"),
        ("/b/1?x=1&y=2", "/"),
        ("/a/1/deep", "/"),
    }


DROPPING: Mapping[str, Reply] = {f"/drop/{n}": Reply(drops=1_000) for n in range(3)}


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("node", sorted(explore.nodes))
async def test_running_a_node_twice_changes_nothing_on_the_map(node: str, in_place: bool) -> None:
    replies = {
        **MESH,
        "/a/1/deep": page("/gone", "/moved", "/away", "/robot", *(f"/leaf/{n}" for n in range(8)), *DROPPING),
        "/moved": redirect("/target"),
        "/target": page("/a"),
        "/away": redirect("https://elsewhere.example/x"),
        "/robots.txt": Reply("User-agent: *\nDisallow: /robot", content_type="text/plain"),
        **{f"/leaf/{n}": page("/") for n in range(8)},
        **DROPPING,
    }
    async with serving(replies) as site:
        once, steady = await explored(site, request_timeout_s=2)
    assert node in steady.nodes  # every node is walked at all, so that this test tests it

    async with serving(replies) as other:
        walked = await walk(
            explore, {"site": other.origin, "request_timeout_s": 2}, crash_in=node, repeat_in_place=in_place
        )
    assert walked.failed is None
    assert msgspec.structs.replace(summary(walked.state), origin=once.origin) == once
    if node not in ("OpenApp", "Act"):
        assert other.asked == site.asked


async def test_pages_that_lead_nowhere_new_make_the_policy_switch() -> None:
    leaves = [f"/leaf/{n}" for n in range(7)]
    replies = {"/": page(*leaves, "/hub"), **{leaf: page("/") for leaf in leaves}, "/hub": page("/hub/1")}
    replies["/hub/1"] = page("/hub/2")
    replies["/hub/2"] = page()
    async with serving(replies) as site:
        graph, walked = await explored(site)

    # Five leaves, nearest first, led nowhere new: then the newest first, which goes down the hub's branch.
    assert site.asked == ["/", *leaves[:5], "/hub", "/hub/1", "/hub/2", "/leaf/6", "/leaf/5"]
    assert graph.policy_switches == 1
    assert "policy.depthFirst" in walked.traces
    assert walked.nodes.count("SwitchPolicy") == 1
    assert graph.stop_reason == "complete"


async def test_the_page_budget_ends_a_run_with_the_last_page_on_the_map() -> None:
    async with serving(MESH) as site:
        graph, _ = await explored(site, max_pages=3)
    assert site.asked == REACHABLE[:3]
    assert graph.stop_reason == "pages"
    assert with_outcome(graph, Outcome.KNOWN) == ["/a/1", "/a/2", "/b/1?x=1&y=2"]
    assert [known.depth for known in graph.pages[3:]] == [2, 2, 2]

    async with serving(MESH) as site:
        graph, _ = await explored(site, max_pages=len(REACHABLE))
    assert graph.stop_reason == "complete"

    async with serving(MESH) as site:
        await explored(site, max_pages=1)
    assert site.asked == ["/"]


async def test_pages_deeper_than_the_depth_budget_are_known_and_not_opened() -> None:
    async with serving(MESH) as site:
        graph, _ = await explored(site, max_depth=1)
    assert site.asked == ["/", "/a", "/b/"]
    assert graph.stop_reason == "complete"
    assert len(graph.pages) == 6


async def test_the_time_budget_ends_a_run_well() -> None:
    async with serving(MESH) as site:
        graph, walked = await explored(site, max_seconds=1e-6)
    assert site.asked == ["/", "/a"]
    assert graph.stop_reason == "seconds"
    assert walked.traces[-1] == "stop.seconds"


async def test_a_huge_page_is_read_up_to_its_budget() -> None:
    filler = "x" * 100_000
    huge = Reply(f'<title>Huge</title><a href="/first">x</a>{filler}<a href="/last">x</a>')
    async with serving({"/": page("/huge"), "/huge": huge, "/first": page(), "/last": page()}) as site:
        graph, _ = await explored(site, max_bytes=10_000)
    assert site.asked == ["/", "/huge", "/first"]
    assert with_outcome(graph, Outcome.CUT) == ["/huge"]


async def test_links_and_addresses_are_bounded_and_the_map_says_so() -> None:
    hubs = [f"/hub/{n}" for n in range(10)]
    replies = {"/": page(*hubs), **{hub: page(*(f"{hub}/{n}" for n in range(MAX_LINKS + 50))) for hub in hubs}}
    async with serving(replies) as site:
        graph, _ = await explored(site, max_pages=11)
    assert len(graph.pages[1].links) == MAX_LINKS
    assert len(graph.pages) == MAX_KNOWN
    assert graph.capped


async def test_robots_txt_is_honoured_for_this_agent_and_never_opened_as_a_page() -> None:
    robots = "User-agent: *\nDisallow: /\n\nUser-agent: runwire-explore\nDisallow: /private\nAllow: /\n"
    replies = {
        "/robots.txt": Reply(robots, content_type="text/plain"),
        "/": page("/private/x", "/public"),
        "/public": page("/private/y"),
        "/private/x": page(),
        "/private/y": page(),
    }
    async with serving(replies) as site:
        graph, walked = await explored(site)
    assert site.asked == ["/", "/public"]
    assert with_outcome(graph, Outcome.DENIED) == ["/private/x", "/private/y"]
    assert walked.traces.count("robots.denied") == 2
    assert graph.stop_reason == "complete"


async def test_robots_txt_may_lie_behind_a_redirect() -> None:
    robots = Reply("User-agent: *\nDisallow: /a", content_type="text/plain")
    async with serving({**MESH, "/robots.txt": redirect("/robots"), "/robots": robots}) as site:
        graph, _ = await explored(site)
    assert "/a" in with_outcome(graph, Outcome.DENIED)
    assert "/a" not in site.asked


async def test_redirects_within_the_site_are_recorded_and_their_target_is_opened_once() -> None:
    replies = {
        "/": page("/old", "/older", "/loop"),
        "/old": redirect("/new", status=301),
        "/older": redirect("old"),
        "/new": page("/new/child"),
        "/new/child": page(),
        "/loop": redirect("/loop2"),
        "/loop2": redirect("/loop"),
    }
    async with serving(replies) as site:
        graph, _ = await explored(site)
    assert set(site.counts.values()) == {1}
    assert set(graph.redirects) == {
        ("/old", "/new"),
        ("/older", "/old"),
        ("/loop", "/loop2"),
        ("/loop2", "/loop"),
    }
    depths = {known.path: known.depth for known in graph.pages}
    assert (depths["/old"], depths["/new"], depths["/new/child"]) == (1, 1, 2)  # a redirect is not a click
    assert graph.broken == ()


async def test_a_chain_of_redirects_has_an_end() -> None:
    chain = {f"/hop?{n}": redirect(f"/hop?{n + 1}") for n in range(50)}
    async with serving({"/": page("/hop?0"), **chain}) as site:
        graph, _ = await explored(site)
    assert site.asked == ["/", *(f"/hop?{n}" for n in range(MAX_REDIRECTS + 1))]
    assert [graph.pages[at].path for at in graph.broken] == [f"/hop?{MAX_REDIRECTS}"]


async def test_a_redirect_to_another_origin_is_recorded_and_not_followed() -> None:
    async with serving({"/x": page()}) as elsewhere:
        away = f"{elsewhere.origin}/x"
        async with serving({"/": page("/away"), "/away": redirect(away)}) as site:
            graph, walked = await explored(site)
    assert elsewhere.asked == []
    assert graph.redirects == (("/away", away),)
    assert with_outcome(graph, Outcome.OFF_SITE) == ["/away"]
    assert "verify.offSite" in walked.traces


async def test_http_errors_and_files_are_recorded_and_never_fatal() -> None:
    replies = {
        "/": page("/missing", "/failing", "/bare-redirect", "/report.pdf", "/fine"),
        "/failing": Reply("oops", status=500),
        "/bare-redirect": Reply(status=302),
        "/report.pdf": Reply(b"%PDF" + bytes(1000), content_type="application/pdf"),
        "/fine": page(),
    }
    async with serving(replies) as site:
        graph, walked = await explored(site)
    broken = {graph.pages[at].path: graph.pages[at].status for at in graph.broken}
    assert broken == {"/missing": 404, "/failing": 500, "/bare-redirect": 302}
    assert with_outcome(graph, Outcome.FILE) == ["/report.pdf"]
    assert with_outcome(graph, Outcome.PAGE) == ["/", "/fine"]
    assert "RecoverFromError" not in walked.nodes


async def test_a_connection_that_drops_once_is_tried_again() -> None:
    replies = {"/": page("/flaky"), "/flaky": Reply("<title>There</title>", drops=1)}
    async with serving(replies) as site:
        graph, walked = await explored(site)
    assert site.asked == ["/", "/flaky", "/flaky"]
    assert graph.pages[1].title == "There"
    assert graph.recoveries == 0
    assert "error:connection_lost:act" in walked.traces


async def test_a_page_that_never_answers_is_lost_and_the_run_goes_on() -> None:
    replies = {"/": page("/hangs", "/drops", "/fine"), "/hangs": Reply(hangs=True), "/fine": page()}
    replies["/drops"] = Reply(drops=1_000)
    async with serving(replies) as site:
        graph, walked = await explored(site, request_timeout_s=0.3)
    assert with_outcome(graph, Outcome.LOST) == ["/hangs", "/drops"]
    assert with_outcome(graph, Outcome.PAGE) == ["/", "/fine"]
    assert graph.recoveries == 2
    assert graph.restarts == 0
    assert {"error:request_timeout:act", "error:connection_lost:act", "error.recovered"} <= set(walked.traces)
    assert graph.stop_reason == "complete"


async def test_a_run_that_is_stuck_restarts_and_gives_lost_pages_another_chance() -> None:
    passing = {path: Reply("<title>Back</title>", drops=2) for path in DROPPING}
    async with serving({"/": page(*passing), **passing}) as site:
        graph, walked = await explored(site)
    assert walked.nodes.count("RestartApp") == graph.restarts == 1
    assert graph.recoveries == 3
    assert graph.broken == ()
    assert {known.title for known in graph.pages[1:]} == {"Back"}


async def test_recoveries_are_bounded() -> None:
    dropping = {f"/drop/{n}": Reply(drops=1_000) for n in range(30)}
    async with serving({"/": page(*dropping), **dropping}) as site:
        graph, walked = await explored(site)
    assert walked.nodes.count("RecoverFromError") == graph.recoveries == MAX_RECOVERIES + 1
    assert graph.stop_reason == "errors"
    assert walked.nodes[-1] == "Teardown"


@pytest.mark.parametrize(
    "site",
    [
        "",
        "example.com",
        "ftp://example.com/",
        "http://",
        "http://user:pw@example.com/",
        "http://h:99999/",
        "http://[",
        1,
    ],
)
async def test_an_input_that_is_no_web_address_fails_as_bad_url(site: object) -> None:
    if not isinstance(site, str):
        with pytest.raises(msgspec.ValidationError):
            await walk(explore, {"site": site})
        return
    walked = await walk(explore, {"site": site})
    assert walked.failed == "bad_url"
    assert walked.traces[-1] == "error:bad_url:ensureDevice"


async def test_a_site_nobody_serves_fails_as_unreachable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        walked = await walk(explore, {"site": f"http://127.0.0.1:{taken.getsockname()[1]}/"})
    assert walked.failed == "unreachable"
    assert (await walk(explore, {"site": "http://runwire.invalid/"})).failed == "unreachable"


@pytest.mark.parametrize(
    ("replies", "code"),
    [
        ({"/": Reply(hangs=True)}, "unreachable"),
        ({"/robots.txt": Reply(hangs=True)}, "unreachable"),
        ({"/": Reply(drops=1_000)}, "unreachable"),
        ({"/": Reply("{}", content_type="application/json")}, "not_html"),
        ({"/": page(), "/robots.txt": Reply("User-agent: *\nDisallow: /")}, "robots_denied"),
        ({"/": page(), "/robots.txt": Reply(status=503)}, "robots_denied"),
        ({"/": redirect("/x"), "/x": page(), "/robots.txt": Reply("User-agent: *\nDisallow: /x")}, "robots_denied"),
        ({}, "start_page_error"),
        ({"/": Reply(status=500)}, "start_page_error"),
        ({"/": redirect("/")}, "start_page_error"),
        ({"/": redirect("https://elsewhere.example/")}, "start_page_error"),
    ],
)
async def test_a_start_page_that_cannot_be_explored_fails_with_its_code(
    replies: Mapping[str, Reply], code: str
) -> None:
    async with serving(replies) as site:
        walked = await walk(explore, {"site": site.origin, "request_timeout_s": 0.3})
    assert walked.failed == code
    assert walked.traces[-1].startswith(f"error:{code}:")


async def test_a_start_page_may_lie_behind_redirects_of_its_site() -> None:
    replies = {"/": redirect("/en"), "/en": redirect("/en/"), "/en/": page("/en/a", "/"), "/en/a": page()}
    async with serving(replies) as site:
        graph, _ = await explored(site)
    assert site.asked == ["/", "/en", "/en/", "/en/a"]
    assert graph.redirects == (("/", "/en"), ("/en", "/en/"))
    assert [known.depth for known in graph.pages] == [0, 0, 0, 1]


async def test_what_looks_like_progress_in_the_input_is_not_believed() -> None:
    forged: dict[str, Any] = {
        "graph": {"pages": [["/forged", 0]]},
        "frontier": [7],
        "stop_reason": "complete",
        "opened": 99,
    }
    async with serving(MESH) as site:
        graph, _ = await explored(site, **forged)
    assert [known.path for known in graph.pages] == REACHABLE


@pytest.mark.parametrize("given", [{"max_pages": 0}, {"max_page": 5}, {"request_timeout_s": 31}, {"max_depth": -1}])
def test_budgets_out_of_bounds_or_misspelled_are_refused(given: Mapping[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"site": "http://example.com/", **given}, Exploration)


async def test_nothing_of_a_page_travels_in_events_and_no_body_in_the_checkpoint() -> None:
    secret = "a-secret-word"  # noqa: S105  # a marker to look for
    replies = {
        "/": page(f"/{secret}", title=f"{secret}\x00" + "x" * 500),
        f"/{secret}": Reply(f"<p>body {secret}-body"),
    }
    async with serving(replies) as site:
        _, walked = await explored(site)
    assert secret not in repr(walked.events)
    stored = msgspec.json.encode(walked.state)
    assert f"{secret}-body".encode() not in stored
    assert b"\\u0000" not in stored
    assert len(walked.state["graph"]["pages"][0][4]) == 200
