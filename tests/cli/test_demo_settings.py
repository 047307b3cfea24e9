"""A demo needs no choices and gets in nobody's way."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from runwire.cli.demo_settings import demo_folder, demo_settings


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNWIRE_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def test_a_demo_keeps_its_data_apart_from_the_service(data_dir: Path) -> None:
    with demo_folder() as folder:
        assert folder == data_dir / "demo"
        assert folder.is_dir()


def test_a_second_demo_at_the_same_time_has_a_folder_of_its_own_that_goes_with_it(data_dir: Path) -> None:
    with demo_folder() as first, demo_folder() as second:
        assert first == data_dir / "demo"
        assert second.is_dir()
        assert second != first
    assert not second.exists()
    with demo_folder() as again:
        assert again == first


def test_a_database_of_the_user_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://somewhere/else")
    settings = demo_settings(tmp_path)
    assert (settings.database_url, settings.data_dir, settings.trace_sample_ratio) == (None, tmp_path, 1.0)


def test_a_demo_is_on_this_machine_only_and_open_whatever_the_real_service_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"HOST": "0.0.0.0", "ADMIN_HOST": "0.0.0.0", "KEYS": "a", "EXPLORE_ALLOW": "10.0.0.0/8"}.items():  # noqa: S104
        monkeypatch.setenv(f"RUNWIRE_{name}", value)
    settings = demo_settings(tmp_path)
    assert (settings.host, settings.admin_host, settings.authenticates) == ("127.0.0.1", "127.0.0.1", False)
    assert "0.0.0.0/0" in settings.explore_networks


def test_a_port_in_use_is_replaced_by_a_free_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        free = other.getsockname()[1]
        other.close()
        monkeypatch.setenv("RUNWIRE_PORT", str(taken.getsockname()[1]))
        monkeypatch.setenv("RUNWIRE_ADMIN_PORT", str(free))
        settings = demo_settings(tmp_path)
    assert (settings.port, settings.admin_port) == (0, free)
