"""Receivers of Alertmanager by setting: what is rendered is taken by Alertmanager, and no secret is in it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.command import ran
from runwire.errors import ConfigurationError
from runwire.ops.receivers import KINDS, NAMES, receivers_of

ROOT = Path(__file__).parents[2]
needs_amtool = pytest.mark.skipif(shutil.which("amtool") is None, reason="needs amtool")


def rendered(folder: Path, capsys: pytest.CaptureFixture[str], *receivers: str) -> dict[str, Any]:
    options = [word for one in receivers for word in ("--receiver", one)]
    result = ran(capsys, "ops", "render", "--root", str(ROOT), "--out", str(folder), *options)
    assert result.code == 0, result.err
    read: dict[str, Any] = yaml.safe_load((folder / "alerts" / "alertmanager.yaml").read_text())
    return read


def accepted(path: Path, document: dict[str, Any]) -> None:
    """amtool 0.25 does not know `url_file`, which came with 0.26: it checks the same entry with a URL."""
    text = re.sub(r"url_file: /run/secrets/webhook", "url: https://hooks.example/x", yaml.safe_dump(document))
    path.write_text(text)
    checked = subprocess.run(["amtool", "check-config", path], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@needs_amtool
@pytest.mark.parametrize("name", NAMES)
def test_alertmanager_takes_every_kind_for_every_name(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = rendered(tmp_path, capsys, *(f"{name}={kind}:/run/secrets/{kind}" for kind in KINDS))
    (receiver,) = [one for one in document["receivers"] if one["name"] == name]
    assert set(receiver) == {"name", *(f"{kind}_configs" for kind in KINDS)}
    assert {value for kind in KINDS for value in receiver[f"{kind}_configs"][0].values() if "/run/" in str(value)} == {
        f"/run/secrets/{kind}" for kind in KINDS
    }
    others = [one for one in document["receivers"] if one["name"] != name]
    assert [list(one) for one in others] == [["name", "webhook_configs"]] * 2
    accepted(tmp_path / "checked.yaml", document)


@needs_amtool
def test_one_name_may_have_several_receivers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = rendered(
        tmp_path, capsys, "page=pagerduty:/k/a", "page=pagerduty:/k/b", "page=slack:/k/c#on-call", "ticket=slack:/k/c"
    )
    page, ticket, _ = document["receivers"]
    assert [one["routing_key_file"] for one in page["pagerduty_configs"]] == ["/k/a", "/k/b"]
    assert page["slack_configs"][0]["channel"] == "#on-call"
    assert "channel" not in ticket["slack_configs"][0]
    accepted(tmp_path / "checked.yaml", document)


@pytest.mark.parametrize(
    "text",
    ["pagerduty:/k", "page=mail:/k", "pager=slack:/k", "page=slack:", "page=slack:/k#", "page=pagerduty:R0UT1NGKEY"],
)
def test_a_receiver_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        receivers_of(["page=slack:/k", text])
    assert f"--receiver: {text.partition(':')[0]}:... is not" in str(refused.value)
    assert "R0UT1NGKEY" not in str(refused.value)


def test_the_tree_keeps_its_own_receivers(capsys: pytest.CaptureFixture[str]) -> None:
    result = ran(capsys, "ops", "render", "--check", "--root", str(ROOT), "--receiver", "page=slack:/k")
    assert result.code != 0
    assert "--receiver: name a folder with --out" in result.err
