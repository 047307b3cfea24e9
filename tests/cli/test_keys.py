"""`runwire keys`: a key is printed once, a hash is kept, and the command line can use the key."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from cli.command import ran, ran_beside
from runwire.assembly import Assembly
from runwire.server.auth import KeyRing
from runwire.settings import Settings


def test_a_key_and_the_line_the_service_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    result = ran(
        capsys, "keys", "create", "--scope", "runs:read", "--scope", "runs:start", "--tenant", "acme", "--name", "ci"
    )
    key, line = result.out.splitlines()
    assert result.code == 0
    assert key.split("_", 2)[2] not in line + result.err
    caller = KeyRing([line]).caller(key)
    assert (caller.tenant, sorted(caller.scopes), caller.expires_at) == ("acme", ["runs:read", "runs:start"], None)


def test_a_line_is_added_to_a_file_only_its_owner_reads(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    keys = [
        ran(capsys, "keys", "create", "--scope", "ops", "--expires-days", "1", "--file", str(file)).out.strip()
        for _ in range(2)
    ]
    assert file.stat().st_mode & 0o777 == 0o600
    with closing(KeyRing(file=file)) as ring:
        assert len({ring.caller(key).subject for key in keys}) == 2
    as_json = ran(capsys, "keys", "create", "--scope", "ops", "--json").lines[0]
    assert KeyRing([as_json["line"]]).caller(as_json["key"])


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--scope", "runs:fly"], "unknown scope runs:fly; known: runs:start"),
        (["--scope", "ops", "--tenant", "a:b"], "a tenant must be"),
        (["--scope", "ops", "--name", "two words"], "must not have spaces"),
        ([], "scope"),
        (["--scope", "ops", "--file", "/nowhere/keys"], "cannot be written"),
    ],
)
def test_what_cannot_be_a_key_is_refused_in_a_sentence(
    capsys: pytest.CaptureFixture[str], args: list[str], said: str
) -> None:
    result = ran(capsys, "keys", "create", *args)
    assert result.code == 2
    assert result.out == ""
    assert said in result.err


async def test_the_command_line_shows_its_key_and_says_what_it_lacks(
    capsys: pytest.CaptureFixture[str], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, starter = (
        ran(capsys, "keys", "create", "--json", "--scope", "runs:read", *more).lines[0]
        for more in ([], ["--scope", "runs:start"])
    )
    settings = Settings(
        database_url=database, bus="memory", port=0, admin_port=0, drain_s=2.0, keys=(reader["line"], starter["line"])
    )
    async with Assembly(settings) as service:
        nobody = await ran_beside(capsys, "run", "list", "--url", service.url)
        assert nobody.code == 1
        assert "--token or RUNWIRE_TOKEN" in nobody.err
        wrong = await ran_beside(capsys, "run", "list", "--url", service.url, "--token", "rwk_x_y")
        assert wrong.code == 1
        assert "rwk_x_y" not in wrong.err
        monkeypatch.setenv("RUNWIRE_TOKEN", reader["key"])
        assert (await ran_beside(capsys, "run", "list", "--url", service.url)).code == 0
        lacking = await ran_beside(capsys, "run", "start", "--url", service.url)
        assert lacking.code == 1
        assert "runs:start" in lacking.err
        monkeypatch.setenv("RUNWIRE_TOKEN", starter["key"])
        assert (await ran_beside(capsys, "run", "start", "--follow", "--url", service.url)).code == 0
