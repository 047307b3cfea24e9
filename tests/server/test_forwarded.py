"""A client is one address, however the proxies before it write that."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from runwire.server.forwarded import client_address
from server.calls import RUNS, Api

PROXIES = (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))


@pytest.mark.parametrize(
    ("remote", "forwarded", "client"),
    [
        ("10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["6.6.6.6, 203.0.113.7, 10.2.3.4"], "203.0.113.7"),  # what the client claims comes first
        ("10.0.0.1", ["6.6.6.6", "203.0.113.7"], "203.0.113.7"),  # two header lines are one list
        ("203.0.113.7", ["10.0.0.9"], "203.0.113.7"),  # no proxy of ours: its header is nobody's word
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["unknown"], "unknown"),
        ("10.0.0.1", ["x" * 5000], "x" * 64),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", [" , ,", ","], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.7,, 10.0.0.2,"], "203.0.113.7"),
        ("10.0.0.1", ["203.0.113.7:50123"], "203.0.113.7"),
        ("10.0.0.1", ["203.0.113.7, 10.0.0.2:443"], "203.0.113.7"),  # a proxy with a port is that proxy
        ("10.0.0.1", ["[2001:DB9::1]"], "2001:db9::1"),
        ("10.0.0.1", ["[2001:db9::1]:50123"], "2001:db9::1"),
        ("10.0.0.1", ["2001:DB9:0:0::1"], "2001:db9::1"),
        ("10.0.0.1", ["203.0.113.7, [2001:db8::5]:443"], "203.0.113.7"),
        ("10.0.0.1", ['"[2001:db9::1]:50123"'], "2001:db9::1"),
        ("10.0.0.1", ['"203.0.113.7"'], "203.0.113.7"),
        ("10.0.0.1", ["::ffff:203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["::FFFF:CB00:7107"], "203.0.113.7"),
        ("10.0.0.1", ["[::ffff:203.0.113.7]:50123"], "203.0.113.7"),
        ("10.0.0.1", ["fe80::1%eth0"], "fe80::1"),
        ("10.0.0.1", ["\t203.0.113.7 "], "203.0.113.7"),
        ("10.0.0.1", ["Unknown"], "unknown"),
        ("::ffff:10.0.0.1", ["203.0.113.7"], "203.0.113.7"),  # a listener on `::` sees IPv4 so
        ("::ffff:203.0.113.7", ["10.0.0.9"], "203.0.113.7"),
        ("10.0.0.1", [", ".join(["6.6.6.6"] + ["10.0.0.2"] * 40)], "10.0.0.2"),
        ("2001:db8::1", ["203.0.113.7"], "203.0.113.7"),
    ],
)
def test_a_client_is_the_nearest_address_that_is_no_trusted_proxy(
    remote: str, forwarded: list[str], client: str
) -> None:
    assert client_address(remote, forwarded, PROXIES) == client


def test_without_trusted_proxies_nobody_is_believed() -> None:
    assert client_address("10.0.0.1", ["203.0.113.7"], ()) == "10.0.0.1"
    assert client_address("::ffff:10.0.0.1", ["203.0.113.7"], ()) == "10.0.0.1"


def test_trusted_networks_may_be_written_as_mapped_addresses() -> None:
    assert client_address("10.0.0.1", ["203.0.113.7"], (ip_network("::ffff:10.0.0.0/104"),)) == "203.0.113.7"


class TestBehindAProxy:
    @pytest.fixture
    def overrides(self) -> dict[str, Any]:
        return {"requests_per_s": 1.0, "trusted_proxies": "127.0.0.0/8"}

    @pytest.mark.parametrize(
        "written",
        ["203.0.113.7:{}", "[::ffff:203.0.113.7]:{}", '"203.0.113.7:{}"', ",203.0.113.7:{},", "6.6.6.{}, 8.8.8.8"],
    )
    async def test_a_client_keeps_its_limit_whatever_port_it_comes_from(self, api: Api, written: str) -> None:
        answers = [
            await api.http.get(f"{RUNS}/none", headers={"X-Forwarded-For": written.format(number)})
            for number in range(1, 21)
        ]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) >= 10


class TestBelowAPrefix:
    @pytest.fixture
    def overrides(self) -> dict[str, Any]:
        return {"path_prefix": "/runs-of-ours/", "trusted_proxies": "127.0.0.0/8"}

    @pytest.mark.parametrize(
        ("said", "prefix"),
        [
            ([], "/runs-of-ours"),
            (["/a/b"], "/a/b"),
            (["/a/"], "/a"),
            (["/"], ""),
            (["//evil.example"], "/runs-of-ours"),
            (["https://evil.example"], "/runs-of-ours"),
            (['/a"><script>'], "/runs-of-ours"),
            (["/a", "/b"], "/runs-of-ours"),
        ],
    )
    async def test_addresses_in_answers_are_those_the_client_sees(self, api: Api, said: list[str], prefix: str) -> None:
        headers = [("X-Forwarded-Prefix", one) for one in said]
        problem = (await api.http.get(f"{RUNS}/nobody", headers=headers)).json()
        assert problem["type"] == f"{prefix}/docs/problems#run_not_found"
        assert problem["instance"] == f"{prefix}{RUNS}/nobody"
        started = await api.http.post(RUNS, json={"external": True}, headers=headers)
        assert started.headers["Location"] == f"{prefix}{RUNS}/{started.json()['runId']}"
        document = (await api.http.get("/openapi.json", headers=headers)).json()
        assert document["servers"] == [{"url": prefix or "/"}]


class TestWithoutATrustedProxy:
    async def test_nobody_says_a_prefix(self, api: Api) -> None:
        problem = (await api.http.get(f"{RUNS}/nobody", headers={"X-Forwarded-Prefix": "/a"})).json()
        assert problem["type"] == "/docs/problems#run_not_found"
