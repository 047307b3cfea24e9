"""The user of the embedded server, and the detection of its processes, on Linux and elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runwire.db import embedded_child
from runwire.db.embedded_process import choose_identity, is_postmaster, servers_in
from runwire.errors import EmbeddedPostgresError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_without_proc_a_process_that_lives_is_taken_for_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert is_postmaster(os.getpid(), cluster=tmp_path)
    assert not is_postmaster(gone.pid, cluster=tmp_path)
    assert servers_in(tmp_path) == []


@needs_root
def test_as_root_a_user_that_does_not_exist_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match="no user 'no-such-user'"):
        choose_identity(tmp_path / "none", run_as="no-such-user", program=Path(sys.executable))


@needs_root
def test_elsewhere_than_on_linux_no_capability_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    identity = choose_identity(tmp_path / "none", run_as="nobody", program=Path(sys.executable))
    assert identity.capability == embedded_child.NO_CAPABILITY
    assert identity.changes_user
