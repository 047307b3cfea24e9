"""Where the servers of NATS are, as the setting `bus` says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from runwire.bus.nats_servers import nats_servers
from runwire.errors import ConfigurationError
from runwire.settings import load_settings


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("nats://a", ("nats://a",)),
        ("nats://a:4222,b:4223", ("nats://a:4222", "nats://b:4223")),
        ("nats://u:p@a:4222, b", ("nats://u:p@a:4222", "nats://u:p@b")),
        ("tls://token@a/", ("tls://token@a",)),
        ("nats://[::1]:4222", ("nats://[::1]:4222",)),
    ],
)
def test_each_server_is_a_url_of_its_own(url: str, servers: tuple[str, ...]) -> None:
    assert nats_servers(url) == servers
    assert load_settings(bus=url).bus_name == "nats"


@pytest.mark.parametrize(
    "url",
    [
        "nats",
        "nats:",
        "nats://",
        "http://a",
        "nats://a:hunter2",
        "nats://a:0",
        "nats://a,,b",
        "nats://a/x",
        "nats://a?x",
        "nats://u:hunter2@a:99999",
        "nats://u:hunter2@a,v:hunter2@b",
        "redis://u:hunter2@a",
    ],
)
def test_what_names_no_servers_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_settings(bus=url)
    (sentence,) = refused.value.problems
    assert sentence.startswith("RUNWIRE_BUS: must")
    assert "hunter2" not in sentence


def test_files_that_are_not_there_are_all_named_at_once(tmp_path: Path) -> None:
    missing = tmp_path / "none.pem"
    with pytest.raises(ConfigurationError) as refused:
        load_settings(bus="tls://a", nats_credentials=missing, nats_tls_ca=missing, nats_tls_key=missing)
    (sentence,) = refused.value.problems
    for name in ("nats_credentials", "nats_tls_ca", "nats_tls_key must be a file", "nats_tls_key needs nats_tls_cert"):
        assert name in sentence
