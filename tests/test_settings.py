"""Settings come from flags and the environment; what cannot work is refused, every problem at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from runwire.errors import ConfigurationError
from runwire.orchestrate.settings import OrchestrateSettings
from runwire.server.addresses import is_loopback
from runwire.server.settings import ServerSettings
from runwire.settings import Role, Settings, load_settings
from runwire.settings_group import SettingsGroup, group_of

PG = "postgresql://u@h/db"
PIPELINE = (Role.API, Role.WORKER, Role.PUBLISHER)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("RUNWIRE_") or name == "DATABASE_URL":
            monkeypatch.delenv(name)


def problems(**flags: object) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as refused:
        load_settings(**flags)
    return refused.value.problems


def test_without_anything_said_every_role_runs_on_loopback_with_a_database_of_its_own() -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.admin_host, settings.admin_port) == (
        "127.0.0.1",
        8080,
        "127.0.0.1",
        9464,
    )
    assert settings.roles == tuple(Role)
    assert (settings.database_url, settings.bus_name) == (None, "memory")


def test_flags_win_over_the_environment_and_none_means_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWIRE_PORT", "1111")
    monkeypatch.setenv("RUNWIRE_HOST", "::1")
    settings = load_settings(port=2222, host=None)
    assert (settings.port, settings.host) == (2222, "::1")


# ------------------------------------------------------------------ what is refused


def test_every_wrong_variable_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {
        "RUNWIRE_PORT": "eighty",
        "RUNWIRE_ADMIN_PORT": "70000",
        "RUNWIRE_ROLES": "api,wroker",
        "RUNWIRE_BUS": "rabbit",
        "RUNWIRE_LEASE_S": "0",
        "RUNWIRE_LOG_LEVEL": "loud",
        "RUNWIRE_TELEMETRY": "perhaps",
        "RUNWIRE_AGENTS": "no_colon",
        "RUNWIRE_SSE_HEARTBEAT_S": "",
    }
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    told = problems()
    del wrong["RUNWIRE_SSE_HEARTBEAT_S"]  # empty means not said
    assert sorted(sentence.partition(":")[0] for sentence in told) == sorted(wrong)


def test_what_does_not_fit_together_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told = problems(lease_s=5.0, lease_heartbeat_s=5.0, bus="memory", roles=(Role.API,), port=9000, admin_port=9000)
    assert len(told) == 1
    for word in ("lease_heartbeat_s", "memory bus", "admin_port"):
        assert word in told[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", -1),
        ("port", 65_536),
        ("port", "http"),
        ("host", 3),
        ("lease_s", "long"),
        ("lease_s", -1.0),
        ("drain_s", -0.1),
        ("db_pool_size", 1),
        ("roles", ()),
        ("roles", "api;worker"),
        ("roles", ("api", "boss")),
        ("agents", ("module",)),
        ("agents", (":object",)),
        ("agents", ("module:",)),
        ("trace_sample_ratio", 1.01),
        ("log_format", "xml"),
        ("bus", "nats"),
        ("data_dir", 7),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_the_name_of_its_variable(name: str, value: object) -> None:
    assert {sentence.partition(":")[0] for sentence in problems(**{name: value})} == {f"RUNWIRE_{name.upper()}"}


@pytest.mark.parametrize("name", ["lease_s", "drain_s", "worker_poll_s", "sse_heartbeat_s", "db_timeout_s"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_durations_are_numbers_one_can_wait_for(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"RUNWIRE_{name.upper()}", value)
    assert [sentence.partition(":")[0] for sentence in problems()] == [f"RUNWIRE_{name.upper()}"]


def test_a_problem_never_shows_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:hunter2@h/db")
    monkeypatch.setenv("RUNWIRE_PORT", "x")
    assert "hunter2" not in " ".join(problems())


def test_settings_do_not_change_once_made() -> None:
    with pytest.raises(ValidationError):
        load_settings().port = 1  # type: ignore[misc]  # that it cannot be done is what is tested


# ------------------------------------------------------------------ where the data is


def test_database_url_stands_in_for_the_longer_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", PG)
    assert load_settings().database_url == PG
    monkeypatch.setenv("RUNWIRE_DATABASE_URL", PG + "2")
    assert load_settings().database_url == PG + "2"


@pytest.mark.parametrize("name", ["DATABASE_URL", "RUNWIRE_DATABASE_URL"])
def test_the_flag_wins_over_either_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, PG + "-environment")
    assert load_settings(database_url=PG).database_url == PG
    assert Settings(database_url=PG).database_url == PG


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWIRE_DATABASE_URL", "")
    monkeypatch.setenv("RUNWIRE_BUS", "")
    monkeypatch.setenv("RUNWIRE_PORT", "")
    settings = load_settings()
    assert (settings.database_url, settings.bus_name, settings.port) == (None, "memory", 8080)
    monkeypatch.setenv("DATABASE_URL", PG)
    assert load_settings().database_url == PG


def test_the_data_directory_may_be_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWIRE_DATA_DIR", str(tmp_path))
    assert load_settings().data_dir == tmp_path


# ------------------------------------------------------------------ the bus


@pytest.mark.parametrize(
    ("flags", "bus"),
    [
        ({}, "memory"),
        ({"roles": PIPELINE}, "memory"),
        ({"database_url": PG}, "postgres"),
        ({"roles": (Role.API,)}, "postgres"),
        ({"database_url": PG, "bus": "memory"}, "memory"),
        ({"bus": "postgres"}, "postgres"),
    ],
)
def test_the_bus_is_memory_only_where_one_process_is_all_there_is(flags: dict[str, object], bus: str) -> None:
    assert load_settings(**flags).bus_name == bus


@pytest.mark.parametrize("role", PIPELINE)
def test_the_memory_bus_with_a_part_missing_is_refused(role: Role) -> None:
    told = problems(bus="memory", roles=tuple(other for other in Role if other is not role))
    assert "memory bus" in told[0]
    assert "bus to postgres" in told[0]


# ------------------------------------------------------------------ lists


def test_roles_and_agents_come_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWIRE_ROLES", " api, worker ,")
    monkeypatch.setenv("RUNWIRE_AGENTS", "shop.agents:triage, shop.agents:refund")
    settings = load_settings()
    assert settings.roles == (Role.API, Role.WORKER)
    assert settings.agents == ("shop.agents:triage", "shop.agents:refund")


def test_roles_and_agents_come_as_flags() -> None:
    settings = load_settings(roles=["publisher", Role.WORKER], agents=["a:b", "c:d.e"])
    assert settings.roles == (Role.PUBLISHER, Role.WORKER)
    assert settings.agents == ("a:b", "c:d.e")


def test_every_setting_says_what_it_is_for() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


# ------------------------------------------------------------------ security

SECRET = "s3cr3t-" * 8
TOKENS: dict[str, Any] = {"jwt_secret": SECRET, "jwt_issuer": "i", "jwt_audience": "a"}


def test_no_secret_is_shown_by_anything_that_shows_settings() -> None:
    settings = Settings(
        database_url=f"postgresql://u:{SECRET}@h/db",
        keys=(f"id sha256:{SECRET}",),
        ticket_secret=SECRET,
        admin_token=SECRET,
        **TOKENS,
    )
    for shown in (repr(settings), str(settings), f"{settings}", repr(settings.jwt_secret)):
        assert SECRET not in shown
    assert "postgresql://u:***@h/db" in repr(settings)
    for problem in problems(jwt_secret="short", ticket_secret="short", admin_token="short"):  # noqa: S106
        assert "short" not in problem


def test_authentication_is_on_once_there_is_something_to_authenticate_by() -> None:
    assert not Settings().authenticates
    assert not Settings(auth="none").authenticates
    for given in (TOKENS, {"keys": ("x",)}, {"keys_file": "/keys"}):
        assert Settings(**given).authenticates


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"auth": "required"}, "keys, keys_file, jwt_jwks or jwt_secret"),
        ({"auth": "none", **TOKENS}, "set one or the other"),
        ({"jwt_secret": SECRET}, "jwt_issuer and jwt_audience"),
        ({"jwt_secret": SECRET, "jwt_issuer": "i"}, "jwt_issuer and jwt_audience"),
        ({"jwt_jwks": "http://issuer.example/jwks"}, "https"),
        ({**TOKENS, "jwt_algorithms": "RS256"}, "RS256 needs jwt_jwks"),
        ({**TOKENS, "jwt_algorithms": "none"}, "RS256"),
        ({"jwt_jwks": "f", "jwt_algorithms": "HS256"}, "HS256 needs jwt_secret"),
        ({"jwt_secret": "short"}, "32 bytes"),
        ({"admin_token": "short"}, "16 bytes"),
        ({**TOKENS, "tenants": False, "jwt_tenant_claim": "t"}, "tenants is off"),
        ({"tls_cert": "/c"}, "go together"),
        ({"admin_tls": True}, "tls_cert and tls_key"),
        ({"cors_origins": "https://a.example/path"}, "scheme://host[:port]"),
        ({"cors_origins": "a.example"}, "scheme://host[:port]"),
        ({"explore_allow": "10.0.0.1/8"}, "host bits"),
        ({"explore_allow": "intranet"}, "IPv4 or IPv6"),
    ],
)
def test_security_that_contradicts_itself_is_refused(flags: dict[str, object], said: str) -> None:
    assert any(said in problem for problem in problems(**flags))


def test_what_explorations_may_reach_by_default_is_this_machine_only_while_it_serves_nobody_else() -> None:
    loopback = ("127.0.0.0/8", "::1/128")
    assert Settings().explore_networks == loopback
    assert Settings(host="0.0.0.0").explore_networks == ()  # noqa: S104  # not bound
    assert Settings(**TOKENS).explore_networks == ()
    assert Settings(roles=(Role.WORKER,), bus="postgres").explore_networks == ()
    assert Settings(host="0.0.0.0", explore_allow="10.1.0.0/16").explore_networks == ("10.1.0.0/16",)  # noqa: S104


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("Localhost", True),
        ("0.0.0.0", False),  # noqa: S104  # not bound
        ("::", False),
        ("10.0.0.1", False),
        ("127.1", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_only_this_machines_own_addresses_are_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("name", "field", "default"),
    [
        ("RUNWIRE_PORT", "port", 8080),
        ("RUNWIRE_ADMIN_PORT", "admin_port", 9464),
        ("RUNWIRE_REUSE_PORT", "reuse_port", False),
    ],
)
@pytest.mark.parametrize("link", ["tcp://10.0.0.1:8080", "udp://10.0.0.1:53", "tcp://[fd00::1]:8080"])
def test_what_kubernetes_sets_beside_a_service_of_our_name_is_no_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, field: str, default: object, link: str
) -> None:
    service = name.removesuffix("_PORT")
    for rest in ("_SERVICE_HOST", "_SERVICE_PORT", "_SERVICE_PORT_HTTP", "_PORT_8080_TCP", "_PORT_8080_TCP_ADDR"):
        monkeypatch.setenv(service + rest, link)
    monkeypatch.setenv(name, link)
    assert getattr(load_settings(), field) == default


def test_a_port_that_is_neither_a_number_nor_a_link_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWIRE_PORT", "http://10.0.0.1")
    with pytest.raises(ConfigurationError, match="RUNWIRE_PORT"):
        load_settings()


# ------------------------------------------------------------------ groups


def groups() -> list[type[SettingsGroup]]:
    return [kind for kind in Settings.__mro__ if issubclass(kind, SettingsGroup) and kind is not SettingsGroup][1:]


def test_every_setting_belongs_to_one_stage() -> None:
    owned = [name for group in groups() for name in group.__annotations__ if name in group.model_fields]
    assert sorted(owned) == sorted(Settings.model_fields)


def test_a_stage_s_group_stands_alone_with_the_same_defaults() -> None:
    whole = load_settings(worker_id="w", data_dir=Path("/d"))
    for group in groups():
        alone = group()
        for name in group.model_fields.keys() - {"worker_id", "data_dir"}:
            assert getattr(alone, name) == getattr(whole, name), name


def test_a_group_refuses_values_that_do_not_fit_together() -> None:
    with pytest.raises(ValidationError, match="lease_heartbeat_s must be shorter than lease_s"):
        OrchestrateSettings(lease_s=5.0, lease_heartbeat_s=5.0)


def test_a_process_has_the_groups_of_its_settings_only() -> None:
    settings = load_settings()
    assert group_of(settings, OrchestrateSettings) is settings
    with pytest.raises(LookupError, match="OrchestrateSettings"):
        group_of(ServerSettings(), OrchestrateSettings)
