"""Explorations reach public addresses, and no others however they are written, named or redirected to."""

from __future__ import annotations

import asyncio
import contextvars
import socket
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from agents.site import Reply, page, redirect, serving
from agents.walk import walk
from runwire.agents import web_device
from runwire.agents.explore import explore
from runwire.agents.web_guard import AddressRefused, CheckedResolver, allow, approve, approved_socket
from runwire.errors import NodeFailed

T = TypeVar("T")


@pytest.fixture(autouse=True)
async def nothing_is_allowed(loopback_is_allowed: None) -> None:
    allow([])


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "8.8.8.8", "2606:4700:4700::1111", "2a00:1450:4001::1", "::ffff:8.8.8.8"]
)
def test_public_addresses_may_be_reached(address: str) -> None:
    approve(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.8.8", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),  # noqa: S104  # no binding
        *("169.254.169.254", "169.254.0.1", "100.64.0.1", "100.127.255.255", "198.18.0.1", "192.0.2.1", "192.0.0.8"),
        *("198.51.100.1", "203.0.113.1", "192.88.99.1", "224.0.0.1", "239.1.2.3", "240.0.0.1", "255.255.255.255"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "::127.0.0.1", "::10.0.0.1"),
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::1", "2002:a00:1::1", "2001::1"),
        *("::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "2001:0:808:808::1"),
        *("4000::1", "1fff::1", "6000::1", "8000::1", "a000::1", "d000::1", "e000::1", "2620:4f:8000::1", "3fff::1"),
        *("100::1", "localhost", "2130706433", "0x7f.1", ""),
    ],
)
def test_no_other_address_is(address: str) -> None:
    with pytest.raises(AddressRefused):
        approve(address)


def test_what_is_allowed_is_allowed_in_every_spelling_and_nothing_more() -> None:
    allow(["10.1.0.0/16", "::1/128"])
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "::1"):
        approve(address)
    for address in ("10.2.0.1", "127.0.0.1", "::2"):
        with pytest.raises(AddressRefused):
            approve(address)


def test_a_policy_holds_for_what_was_started_under_it() -> None:
    async def look() -> bool:
        try:
            approve("127.0.0.1")
        except AddressRefused:
            return False
        return True

    async def run() -> list[bool]:
        under = contextvars.copy_context()
        under.run(allow, ["127.0.0.0/8"])
        return list(await asyncio.gather(asyncio.create_task(look()), asyncio.create_task(look(), context=under)))

    assert asyncio.run(run()) == [False, True]


class Names(AbstractResolver):
    """A resolver that answers what the test says, another answer each time it is asked."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        del family
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in found
        ]

    async def close(self) -> None:
        pass


@pytest.fixture
async def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    found = Names(["127.0.0.1"])
    monkeypatch.setattr(web_device, "CheckedResolver", lambda: CheckedResolver(found))
    return found


async def refused(work: Coroutine[Any, Any, T]) -> NodeFailed:
    with pytest.raises(NodeFailed) as failure:
        await work
    return failure.value


async def get(url: str) -> web_device.Answer:
    return await web_device.get(url, max_bytes=1000, timeout_s=5)


async def test_an_address_that_may_not_be_reached_is_not_connected_to() -> None:
    async with serving({"/": page()}) as site:
        port = site.origin.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]"):  # noqa: S104  # not bound
            failure = await refused(get(f"http://{host}:{port}/"))
            assert (failure.code, failure.retry) == ("address_refused", False), host
        assert site.asked == []


async def test_a_name_is_refused_when_any_of_its_addresses_is(names: Names) -> None:
    allow(["127.0.0.1/32"])
    async with serving({"/": Reply("hello")}) as site:
        url = f"http://site.example:{site.origin.rpartition(':')[2]}/"
        assert (await get(url)).text == "hello"
        names.answers = [["127.0.0.1", "10.0.0.1"]]
        assert (await refused(get(url))).code == "address_refused"
        assert site.asked == ["/"]


async def test_a_name_that_changes_its_address_after_it_was_checked_gains_nothing(names: Names) -> None:
    """Rebinding: the connection goes to what was checked, and a later look at the name is checked again."""
    allow(["127.0.0.1/32"])
    names.answers = [["127.0.0.1"], ["127.0.0.2"]]
    async with serving({"/": Reply("hello")}) as site:
        url = f"http://site.example:{site.origin.rpartition(':')[2]}/"
        assert (await get(url)).text == "hello"
        assert (await refused(get(url))).code == "address_refused"
        assert site.asked == ["/"]


def test_the_socket_itself_is_the_last_look() -> None:
    with pytest.raises(AddressRefused):
        approved_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 80)))


async def test_a_redirect_to_a_private_address_leads_nowhere() -> None:
    allow(["127.0.0.1/32"])
    async with serving({"/": page()}) as inner:
        elsewhere = inner.origin.replace("127.0.0.1", "127.0.0.2")
        replies = {"/robots.txt": redirect(f"{elsewhere}/robots.txt"), "/": page()}
        async with serving(replies) as site:
            walked = await walk(explore, {"site": f"{site.origin}/"})
        assert walked.failed == "address_refused"
        assert inner.asked == []


async def test_an_exploration_of_a_private_site_fails_and_says_so_without_asking_it() -> None:
    async with serving({"/": page("/a")}) as site:
        walked = await walk(explore, {"site": f"{site.origin}/"})
        assert walked.failed == "address_refused"
        assert site.asked == []
        assert site.agents == set()
