"""The agent `explore`: opens every page of a web site once and maps how they link. No model, no browser.

Setup     EnsureDevice -> Warmup -> OpenApp
Loop      Perceive -> EnumerateActions -> ChooseAction -> Act -> Verify -> Persist -> DetectProgress
          -> ShouldContinue -> Perceive again, perhaps by way of SwitchPolicy or RestartApp, or Teardown
Recovery  RecoverFromError, where Act goes when its connection fails for good

One request per address: Act (and OpenApp, for the start) reads a body and forgets it, so a checkpoint holds
the map and no page. A node run again, on the checkpoint it had or the one it left, comes to the same map.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from runwire import clock
from runwire.agents import robots
from runwire.agents.page_graph import Graph, Outcome, Page, PageGraph, Sighting, drawn
from runwire.agents.web_address import normalised, origin_of, same_site
from runwire.agents.web_device import MAX_REDIRECTS, judge, open_page
from runwire.errors import NodeFailed
from runwire.model.graph import END, Agent, Context

STALL_AFTER: Final = 5
"""Pages in a row that led to nothing new before the policy changes."""
STUCK_AFTER: Final = 3
"""Connections in a row that failed before the app is restarted."""
MAX_RESTARTS: Final = 2
MAX_RECOVERIES: Final = 8
"""Failed connections a run survives."""

_ACT_TIMEOUT_S: Final = 45.0  # more than the longest crawl delay and request timeout together
_OPEN_TIMEOUT_S: Final = 240.0  # more than MAX_REDIRECTS + 1 of the slowest requests allowed

_BUDGETS: Final = {"max_pages", "max_depth", "max_seconds", "max_bytes", "request_timeout_s"}

Policy = Literal["breadthFirst", "depthFirst"]


class Exploration(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A run's input (down to `request_timeout_s`) and its state. Budgets end a run; they never fail it."""

    site: str = ""
    """Where to start: an http(s) URL. The run stays on its origin."""
    max_pages: Annotated[int, Meta(ge=1, le=1000)] = 50
    """Addresses opened, whatever comes of them."""
    max_depth: Annotated[int, Meta(ge=0, le=100)] = 6
    """Clicks from the start."""
    max_seconds: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    """Wall time since the start, a crash in between included."""
    max_bytes: Annotated[int, Meta(ge=1024, le=16 * 1024 * 1024)] = 2 * 1024 * 1024
    """Bytes read of a page."""
    request_timeout_s: Annotated[float, Meta(gt=0, le=30)] = 5.0

    origin: str = ""
    robots: str = ""
    started_ms: int = 0
    graph: Graph = msgspec.field(default_factory=Graph)
    frontier: list[int] = []
    """Pages to open, in the order they became known."""
    chosen: int | None = None
    """The action that ChooseAction picked, until its result is recorded."""
    seen: Sighting | None = None
    policy: Policy = "breadthFirst"
    progress: Literal["", "stalled", "stuck"] = ""
    opened: int = 0
    grew_at: int = 0
    """How many pages were open when the map last grew, or the policy last changed."""
    lost_in_a_row: list[int] = []
    policy_switches: int = 0
    restarts: int = 0
    recoveries: int = 0
    stop_reason: str = ""

    def url(self, at: int) -> str:
        return self.origin + self.graph.pages[at].path

    async def look_at(self, url: str) -> Sighting:
        return await open_page(url, max_bytes=self.max_bytes, timeout_s=self.request_timeout_s)


explore = Agent("explore", start="EnsureDevice", state=Exploration)


@explore.node(to="Warmup")
async def ensure_device(ctx: Context, state: Exploration) -> None:
    """Takes the input, and nothing but the input, for a fresh start."""
    ctx.trace("ensureDevice.check")
    site = normalised(state.site)
    if site is None:
        raise NodeFailed("bad_url", retry=False)
    fresh = Exploration(site=site, origin=origin_of(site), started_ms=clock.wall_us() // 1000)
    for field in set(fresh.__struct_fields__) - _BUDGETS:
        setattr(state, field, getattr(fresh, field))


@explore.node(to="OpenApp", timeout_s=_OPEN_TIMEOUT_S)
async def warmup(_ctx: Context, state: Exploration) -> None:
    """Reads what the site asks of robots."""
    await _heed_robots(state, origin_of(state.site))


@explore.node(to="Perceive", timeout_s=_OPEN_TIMEOUT_S)
async def open_app(ctx: Context, state: Exploration) -> None:
    """Opens the start page, and moves with it to https or `www.` when the site sends every visitor there."""
    url = state.site
    at = 0
    state.graph = Graph()
    for hops in range(MAX_REDIRECTS + 1):
        if not robots.allowed(state.robots, url):
            raise NodeFailed("robots_denied", retry=False)
        try:
            seen = await state.look_at(url)
        except NodeFailed as cause:
            raise _no_way_in(cause) from cause
        judge(seen, origin=state.origin, hops=hops)
        moved = seen.location if seen.outcome is Outcome.OFF_SITE else None
        if moved is not None and same_site(state.origin, origin_of(moved)):
            await _heed_robots(state, origin_of(moved))
            state.site = url = moved
            state.graph, at = Graph(), 0
            continue
        if not state.graph.pages:
            state.graph.pages.append(Page(url[len(state.origin) :], depth=0))
        state.graph.record(at, seen)
        if seen.outcome is not Outcome.REDIRECT:
            break
        at = state.graph.pages[at].links[0]
        url = state.url(at)
    ctx.trace(f"openApp.{seen.outcome}")
    if seen.outcome is Outcome.FILE:
        raise NodeFailed("not_html", retry=False)
    if seen.outcome not in (Outcome.PAGE, Outcome.CUT):
        raise NodeFailed("start_page_error", retry=False)
    state.opened = state.graph.opened()
    state.grew_at = state.opened


@explore.node(to="EnumerateActions")
async def perceive(_ctx: Context, state: Exploration) -> None:
    """Sees where everything on the map lies from the start, now that the last page's links are on it."""
    state.graph.settle_depths()


@explore.node(to="ChooseAction")
async def enumerate_actions(ctx: Context, state: Exploration) -> None:
    """Puts on the frontier every page not opened yet that is near enough and that robots.txt allows."""
    queued = set(state.frontier)
    for at, page in enumerate(state.graph.pages):
        if page.outcome is not Outcome.KNOWN or page.depth > state.max_depth or at in queued:
            continue
        if robots.allowed(state.robots, state.url(at)):
            state.frontier.append(at)
        else:
            page.outcome = Outcome.DENIED
            ctx.trace("robots.denied")


@explore.node(to=("Act", "DetectProgress"))
async def choose_action(_ctx: Context, state: Exploration) -> str:
    """Picks the nearest page or the one found last, as the policy says, while there are pages and budget."""
    if not state.frontier or state.opened >= state.max_pages:
        state.stop_reason = "pages" if state.frontier else "complete"
        return "DetectProgress"
    if state.policy == "breadthFirst":
        state.chosen = min(state.frontier, key=lambda at: state.graph.pages[at].depth)
    else:
        state.chosen = state.frontier[-1]
    return "Act"


@explore.node(to="Verify", timeout_s=_ACT_TIMEOUT_S, retries=1, on_error="RecoverFromError")
async def act(ctx: Context, state: Exploration) -> None:
    """Opens the chosen page, the one request of the loop; tried once more when the connection fails."""
    if state.chosen is None:
        return
    await asyncio.sleep(robots.crawl_delay_s(state.robots))
    state.seen = await state.look_at(state.url(state.chosen))
    ctx.trace("act.fetched")


@explore.node(to="Persist")
async def verify(ctx: Context, state: Exploration) -> None:
    """Judges what came: a page, a file, a redirect (here or elsewhere), or something broken."""
    if state.chosen is not None and state.seen is not None:
        judge(state.seen, origin=state.origin, hops=state.graph.pages[state.chosen].hops)
        ctx.trace(f"verify.{state.seen.outcome}")


@explore.node(to="DetectProgress")
async def persist(_ctx: Context, state: Exploration) -> None:
    """Draws the page and its links on the map."""
    if state.chosen is None or state.seen is None:
        return
    known = len(state.graph.pages)
    state.graph.record(state.chosen, state.seen)
    _leave(state, state.chosen)
    state.lost_in_a_row = []
    if len(state.graph.pages) > known:
        state.grew_at = state.opened


@explore.node(to="ShouldContinue")
async def detect_progress(_ctx: Context, state: Exploration) -> None:
    """Tells whether the run is stuck (connections fail) or stalled (pages lead to nothing new)."""
    if len(state.lost_in_a_row) >= STUCK_AFTER and state.restarts < MAX_RESTARTS:
        state.progress = "stuck"
    elif state.opened - state.grew_at >= STALL_AFTER and len(state.frontier) > 1:
        state.progress = "stalled"
    else:
        state.progress = ""


@explore.node(to=("Perceive", "SwitchPolicy", "RestartApp", "Teardown"))
async def should_continue(_ctx: Context, state: Exploration) -> str:
    """Goes on until ChooseAction found nothing to do or the time is spent."""
    if not state.stop_reason and clock.wall_us() // 1000 - state.started_ms >= state.max_seconds * 1000:
        state.stop_reason = "seconds"
    if state.stop_reason:
        return "Teardown"
    return {"": "Perceive", "stalled": "SwitchPolicy", "stuck": "RestartApp"}[state.progress]


@explore.node(to="Perceive")
async def switch_policy(ctx: Context, state: Exploration) -> None:
    """Looks elsewhere: from the nearest pages to the newest, or back."""
    if state.progress == "stalled":
        state.policy = "depthFirst" if state.policy == "breadthFirst" else "breadthFirst"
        state.policy_switches += 1
        state.grew_at = state.opened
        state.progress = ""
    ctx.trace(f"policy.{state.policy}")


@explore.node(to="Perceive")
async def restart_app(ctx: Context, state: Exploration) -> None:
    """Begins again from the start with what is known; the pages just lost get another chance."""
    if state.progress == "stuck":
        for at in state.lost_in_a_row:
            state.graph.pages[at].outcome = Outcome.KNOWN
        state.lost_in_a_row = []
        state.policy = "breadthFirst"
        state.restarts += 1
        state.grew_at = state.opened
        state.progress = ""
    ctx.trace("app.restarted")


@explore.node(to=("DetectProgress", "Teardown"))
async def recover_from_error(ctx: Context, state: Exploration) -> str:
    """Gives the page up for lost and goes on, a bounded number of times."""
    if state.chosen is not None:
        at = state.chosen
        state.graph.record(at, Sighting(outcome=Outcome.LOST))
        _leave(state, at)
        state.lost_in_a_row.append(at)
        state.recoveries += 1
    ctx.trace("error.recovered")
    if state.recoveries > MAX_RECOVERIES:
        state.stop_reason = "errors"
        return "Teardown"
    return "DetectProgress"


@explore.node(to=END)
async def teardown(ctx: Context, state: Exploration) -> None:
    """Leaves the finished map, and nothing that only the loop needed."""
    state.frontier, state.lost_in_a_row = [], []
    state.robots = ""
    ctx.trace(f"stop.{state.stop_reason}")


def summary(state: Mapping[str, Any]) -> PageGraph:
    """The map so far, from a run's state as JSON decodes it. Raises msgspec.ValidationError for any other."""
    run = msgspec.convert(state, Exploration)
    return drawn(
        run.graph,
        origin=run.origin,
        policy_switches=run.policy_switches,
        restarts=run.restarts,
        recoveries=run.recoveries,
        stop_reason=run.stop_reason,
    )


def _leave(state: Exploration, at: int) -> None:
    state.frontier.remove(at)
    state.chosen, state.seen = None, None
    state.opened += 1


async def _heed_robots(state: Exploration, origin: str) -> None:
    try:
        state.robots = await robots.read_robots(origin, timeout_s=state.request_timeout_s)
    except NodeFailed as cause:
        raise _no_way_in(cause) from cause
    state.origin = origin


def _no_way_in(cause: NodeFailed) -> NodeFailed:
    return NodeFailed(cause.code if cause.code == "address_refused" else "unreachable", retry=False)
