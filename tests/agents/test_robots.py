from __future__ import annotations

import pytest

from agents.site import Reply, redirect, serving
from runwire.agents.robots import DENY_ALL, MAX_CRAWL_DELAY_S, allowed, crawl_delay_s, pack, read_robots


def test_no_rules_allow_everything() -> None:
    assert pack("") == ""
    assert allowed("", "http://example.com/x")
    assert crawl_delay_s("") == 0


def test_rules_survive_packing_and_stay_small() -> None:
    packed = pack("User-agent: *\n" + "".join(f"Disallow: /section/{n}/private\n" for n in range(2000)))
    assert not allowed(packed, "http://example.com/section/1999/private")
    assert allowed(packed, "http://example.com/section/2000/private")
    assert len(packed) < 20_000
    assert not allowed(pack(DENY_ALL), "http://example.com/")


@pytest.mark.parametrize(("asked", "kept"), [("2", 2.0), ("0.5", 0.5), ("3600", MAX_CRAWL_DELAY_S), ("x", 0.0)])
def test_a_crawl_delay_is_kept_within_reason(asked: str, kept: float) -> None:
    assert crawl_delay_s(pack(f"User-agent: runwire-explore\nCrawl-delay: {asked}\n")) == kept


@pytest.mark.parametrize(
    ("reply", "may"),
    [
        (Reply(DENY_ALL), False),
        (Reply(status=404), True),
        (Reply(status=403), True),
        (Reply(status=500), False),
        (redirect("/robots.txt"), True),  # a loop is as good as none
    ],
)
async def test_the_status_of_robots_txt_says_what_its_absence_means(reply: Reply, may: bool) -> None:
    async with serving({"/robots.txt": reply}) as site:
        rules = await read_robots(site.origin, timeout_s=2)
        assert allowed(rules, f"{site.origin}/x") is may
