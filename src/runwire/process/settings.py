"""Settings of a whole process."""

from __future__ import annotations

import socket

from pydantic import Field

from runwire.duties import Role
from runwire.settings_group import SettingsGroup, Words


class ProcessSettings(SettingsGroup):
    """Settings of a whole process."""

    processes: int = Field(
        1, ge=1, le=256, description="Processes that `serve` runs on the API port, each with its own admin port."
    )
    roles: Words[Role] = Field(tuple(Role), min_length=1, description="Roles of this process, comma-separated.")
    worker_id: str = Field(
        default_factory=socket.gethostname,
        description="Name of this worker in leases and logs.",
        max_length=128,
    )
    drain_s: float = Field(
        10.0, ge=0, description="Seconds for which a stopping process waits for its nodes and streams."
    )
