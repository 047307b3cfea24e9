"""API keys: only hashes are kept; lines come from settings or a file that may change."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from runwire import clock
from runwire.errors import ConfigurationError, Unauthenticated
from runwire.server.auth import KeyRing, Scope, keys_file
from runwire.server.auth.keys import KeyRecord, new_key, parse_line
from server.calls import RUNS, Api
from server.conftest import LogLines
from server.test_access import bearer
from waiting import eventually

KEY, RECORD = new_key(tenant="acme", scopes=[Scope.READ], name="ci")


RingOf = Callable[[Path], KeyRing]


@pytest.fixture
def ring_of() -> Iterator[RingOf]:
    """Makes rings that are closed before their files disappear."""
    with ExitStack() as rings:
        yield lambda file: rings.enter_context(closing(KeyRing(file=file)))


class TestService:
    @pytest.fixture
    def overrides(self) -> dict[str, Any]:
        return {"keys": (RECORD.line,)}

    async def test_a_key_is_its_tenant_with_its_scopes(self, api: Api) -> None:
        assert (await api.http.get(RUNS, headers=bearer(KEY))).status_code == 200
        assert (await api.http.post(RUNS, headers=bearer(KEY))).json()["code"] == "scope_missing"
        assert (await api.http.get(RUNS)).json()["code"] == "credentials_missing"
        assert (await api.http.get(RUNS, headers=bearer("eyJhbGciOiJub25lIn0.e30."))).status_code == 401


def test_a_key_has_256_random_bits_and_its_line_holds_none_of_them() -> None:
    key, record = new_key(tenant="default", scopes=list(Scope))
    _, key_id, secret = key.split("_", 2)
    assert (key_id, len(secret)) == (record.key_id, 43)
    assert secret not in record.line
    assert parse_line(record.line) == record
    assert new_key(tenant="default", scopes=[])[0] != key


def test_a_line_cannot_be_given_another_id() -> None:
    moved = KeyRecord("aaaaaaaaaaaa", RECORD.digest, "acme", RECORD.scopes, None, "")
    with pytest.raises(Unauthenticated):
        KeyRing([moved.line]).caller(KEY.replace(RECORD.key_id, "aaaaaaaaaaaa"))


@pytest.mark.parametrize(
    "wrong",
    [KEY[:-1], KEY + "x", KEY.upper(), "rwk_", "rwk___", f"rwk_{RECORD.key_id}_", "rwk_é_é"],
    ids=["cut", "longer", "in capitals", "prefix alone", "nothing between", "no secret", "no ASCII"],
)
def test_what_is_not_the_very_key_is_refused(wrong: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        KeyRing([RECORD.line]).caller(wrong)
    assert refused.value.code == "credentials_invalid"
    assert wrong not in str(refused.value)


def test_a_key_expires() -> None:
    now = clock.wall_us() // 1_000_000
    old, old_record = new_key(tenant="a", scopes=[], expires_at=now - 1)
    new, new_record = new_key(tenant="a", scopes=[], expires_at=now + 600)
    ring = KeyRing([old_record.line, new_record.line])
    assert ring.caller(new).expires_at == now + 600
    with pytest.raises(Unauthenticated) as refused:
        ring.caller(old)
    assert refused.value.code == "credentials_expired"


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "a b",
        f"id sha256:{'0' * 63}",
        f"id sha256:{'é' * 64}",
        f"id sha256:{'0' * 64} scopes=runs:fly",
        f"id sha256:{'0' * 64} tenant=a:b",
        f"id sha256:{'0' * 64} expires=soon",
        f"id sha256:{'0' * 64} color=red",
    ],
)
def test_a_line_that_is_none_is_named_by_its_place_and_not_quoted(line: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        KeyRing(["# a comment", "", line])
    (problem,) = refused.value.problems
    assert problem.startswith("RUNWIRE_KEYS, line 3: ")
    assert line not in problem


async def test_a_file_is_read_again_when_it_changes_and_a_broken_one_keeps_the_old_keys(
    tmp_path: Path, log_lines: LogLines, ring_of: RingOf
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# whose\n{RECORD.line}\n")
    ring = ring_of(file)
    assert ring.caller(KEY).tenant == "acme"
    other, other_record = new_key(tenant="other", scopes=[])

    def known(key: str) -> bool:
        try:
            return bool(ring.caller(key))
        except Unauthenticated:
            return False

    file.write_text(other_record.line)
    await eventually(lambda: known(other))
    assert not known(KEY)  # revoked
    file.write_text("broken")
    await eventually(lambda: [line["source"] for line in log_lines if line["event"] == "credentials_unreadable"])
    assert known(other)
    log_lines.clear()


async def test_a_change_that_keeps_size_and_time_is_seen(tmp_path: Path, ring_of: RingOf) -> None:
    file = tmp_path / "keys"
    file.write_text(RECORD.line)
    before = file.stat()
    ring = ring_of(file)
    assert ring.caller(KEY).tenant == "acme"
    file.write_text(RECORD.line.replace("tenant=acme", "tenant=evil"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    await eventually(lambda: ring.caller(KEY).tenant == "evil")


async def test_a_file_that_hangs_holds_up_nobody_and_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_lines: LogLines, ring_of: RingOf
) -> None:
    file = tmp_path / "keys"
    file.write_text(RECORD.line)
    ring = ring_of(file)
    file.unlink()
    os.mkfifo(file)  # who opens it waits for a writer, as on a mount whose server is away
    monkeypatch.setattr(keys_file, "HUNG_S", 1.5)

    def told() -> bool:
        assert ring.caller(KEY).tenant == "acme"
        return any(line["event"] == "credentials_unreadable" for line in log_lines)

    await eventually(told)
    log_lines.clear()
    monkeypatch.setattr(keys_file, "START_S", 0.1)
    with pytest.raises(ConfigurationError, match="no answer"):
        KeyRing(file=file)


async def test_a_closed_ring_reads_no_more_and_its_thread_ends(tmp_path: Path, log_lines: LogLines) -> None:
    file = tmp_path / "keys"
    file.write_text(RECORD.line)
    others = {thread.ident for thread in threading.enumerate()}
    with closing(KeyRing(file=file)) as ring:
        [reads] = [thread for thread in threading.enumerate() if thread.ident not in others]
    file.unlink()
    await eventually(lambda: not reads.is_alive())
    assert ring.caller(KEY).tenant == "acme"
    assert [line for line in log_lines if line["event"] == "credentials_unreadable"] == []


def test_a_file_beyond_every_need_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"#" * (keys_file.MAX_BYTES + 1))
    with pytest.raises(ConfigurationError):
        KeyRing(file=file)


def test_a_file_that_is_not_there_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        KeyRing(file=tmp_path / "none")
