"""The data folder and the ports of a demo, so that it needs no choices and disturbs no other service."""

from __future__ import annotations

import fcntl
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from runwire.settings import Role, Settings, load_settings

# A demo is for the user of this machine: it asks for no credentials, and may explore sites at any address.
_OPEN: Final = {
    "host": "127.0.0.1",
    "admin_host": "127.0.0.1",
    "auth": "auto",
    "keys": (),
    "keys_file": None,
    "jwt_jwks": None,
    "jwt_secret": None,
    "admin_token": None,
    "tls_cert": None,
    "tls_key": None,
    "admin_tls": False,
    "explore_allow": ("0.0.0.0/0", "::/0"),
}


@contextmanager
def demo_folder(chosen: Path | None = None) -> Iterator[Path]:
    """The folder chosen, or the one of earlier demos; while another demo has that, a temporary one."""
    if chosen is not None:
        chosen.mkdir(parents=True, exist_ok=True)
        yield chosen
        return
    usual = load_settings().data_dir / "demo"
    usual.mkdir(parents=True, exist_ok=True)
    with (usual / "demo.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with tempfile.TemporaryDirectory(prefix="runwire-demo-") as temporary:
                yield Path(temporary)
        else:
            yield usual


def demo_settings(folder: Path, **chosen: Any) -> Settings:
    """Every role a short life has work for in this process, every run traced, the usual ports where they are free, and
    the settings that this demo has chosen.
    """
    usual = load_settings().model_copy(update=_OPEN)
    own = {
        "database_url": None,
        "bus": "memory",
        "roles": tuple(role for role in Role if role is not Role.ARCHIVER),
        "data_dir": folder,
        "trace_sample_ratio": 1.0,
        "port": usual.port if _is_free(usual.host, usual.port) else 0,
        "admin_port": usual.admin_port if _is_free(usual.admin_host, usual.admin_port) else 0,
    }
    return usual.model_copy(update=own | chosen)


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what the service will do
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
