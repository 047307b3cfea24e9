"""The alerts for Grafana's own alerting: the file is what Grafana reads, and asks what Prometheus' rules ask."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import yaml
from msgspec import Meta

from runwire.ops.packs import GRAFANA

ROOT: Final = Path(__file__).parents[2]
FILE: Final = ROOT / GRAFANA / "rules.yaml"

Duration = Annotated[str, Meta(pattern=r"^\d+(ms|s|m|h|d)$")]
Text = Annotated[str, Meta(min_length=1)]


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """The keys of Grafana's `pkg/services/provisioning/alerting/rules_types.go`; Grafana itself ignores others."""


class Range(Strict, rename={"from_": "from"}):
    from_: Annotated[int, Meta(gt=0)]
    to: Literal[0]


class Query(Strict, rename="camel"):
    ref_id: Text
    datasource_uid: Text
    model: dict[str, Any]
    relative_time_range: Range | None = None
    query_type: str = ""


class Rule(Strict, rename={"for_": "for", "no_data": "noDataState", "error": "execErrState", "paused": "isPaused"}):
    uid: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,40}$")]
    title: Annotated[str, Meta(min_length=1, max_length=190)]
    condition: Text
    data: Annotated[list[Query], Meta(min_length=2)]
    no_data: Literal["OK", "NoData", "Alerting", "KeepLast"]
    error: Literal["OK", "Error", "Alerting", "KeepLast"]
    for_: Duration
    labels: dict[str, str]
    annotations: dict[str, str]
    paused: bool


class Group(Strict, rename="camel"):
    org_id: Annotated[int, Meta(ge=1)]
    name: Text
    folder: Text
    interval: Annotated[str, Meta(pattern=r"^\d*0s$")]
    rules: Annotated[list[Rule], Meta(min_length=1)]


class File(Strict, rename="camel"):
    api_version: Literal[1]
    groups: list[Group]


def rules() -> list[Rule]:
    return [rule for group in msgspec.convert(yaml.safe_load(FILE.read_text()), File).groups for rule in group.rules]


def test_grafana_knows_every_key_and_no_two_rules_are_one() -> None:
    read = rules()
    assert len({rule.uid for rule in read}) == len(read)
    assert len({rule.title for rule in read}) == len(read)


def test_a_rule_asks_what_the_rule_of_prometheus_asks() -> None:
    groups = yaml.safe_load((ROOT / "alerts" / "alert-rules.yaml").read_text())["groups"]
    alerts = [rule for group in groups for rule in group["rules"]]
    for rule, alert in zip(rules(), alerts, strict=True):
        query, fires = rule.data
        assert query.model["expr"] == alert["expr"]
        assert query.model["instant"] is True
        assert query.datasource_uid == "prometheus"
        assert (rule.for_, rule.labels) == (alert.get("for", "0s"), alert["labels"])
        assert rule.title.split(" ")[0] == alert["alert"]
        assert rule.condition == fires.ref_id == fires.model["refId"]
        assert fires.model["expression"] == query.ref_id == query.model["refId"]


def test_messages_have_the_number_and_nothing_that_grafana_fills_in_from_its_environment() -> None:
    """Grafana's `$value` is a text, and `${...}` in an annotation is a variable of its environment."""
    for rule in rules():
        told = " ".join(rule.annotations.values())
        assert not re.search(r"\$value\b", told), rule.title
        assert "${" not in told, rule.title
        assert set(re.findall(r"\$values\.(\w+)", told)) <= {query.ref_id for query in rule.data}
