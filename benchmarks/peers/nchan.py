"""Nchan, a module of nginx in C: fan-out from memory. Nothing is durable, so it has no appends to compare."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.peers import Peer, Started, Throughput
from benchmarks.peers.lines import OverLines, http_post
from benchmarks.processes import found, free_port, listening, system_program

PACKAGES = "nginx libnginx-mod-nchan"
MODULES = (
    Path("/usr/lib/nginx/modules/ngx_nchan_module.so"),
    Path("/usr/share/nginx/modules/ngx_nchan_module.so"),
)
CONFIGURATION = """
load_module {module};
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile 65536;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 32768; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    tcp_nodelay on;
    nchan_shared_memory_size 512m;
    nchan_message_buffer_length 1000;
    nchan_message_timeout 60s;
    server {{
        listen 127.0.0.1:{port} backlog=8192;
        location ~ ^/pub/(.+)$ {{ nchan_publisher; nchan_channel_id $1; }}
        location ~ ^/sub/(.+)$ {{
            nchan_subscriber eventsource;
            nchan_channel_id $1;
            nchan_subscriber_first_message oldest;
        }}
    }}
}}
"""


def install() -> str | None:
    if not any(module.exists() for module in MODULES):
        return system_program("nginx", package=PACKAGES) or _without_module()
    return system_program("nginx", package=PACKAGES)


def _without_module() -> str | None:
    return None if any(module.exists() for module in MODULES) else f"Nchan is not installed: apt-get install {PACKAGES}"


class Nchan(OverLines):
    path = "/sub/%s"
    mark = "data: {"

    def __init__(self, port: int) -> None:
        self.port = self.append_port = port

    async def runs(self, prefix: str, count: int) -> None:
        """Channels are made by whoever comes first."""

    async def throughput(self, prefix: str, runs: int, *, callers: int, seconds: float) -> Throughput | None:  # noqa: ARG002
        return None

    def encode(self, run_id: str, event: str) -> bytes:
        return http_post(f"/pub/{run_id}", event, content_type="application/json")


@asynccontextmanager
async def start(folder: Path, _dsn: str) -> AsyncIterator[Started]:
    port = free_port()
    module = next(module for module in MODULES if module.exists())
    user = "user root root;" if os.geteuid() == 0 else ""  # the folder is for nobody else
    configuration = folder / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(module=module, user=user, folder=folder, port=port))
    async with listening(port, found("nginx"), "-p", folder, "-c", configuration, log=folder / "nginx.log"):
        yield Nchan(port)


PEER = Peer(
    "Nchan",
    "nginx 1.22 with libnginx-mod-nchan 1.3.6 of Debian 12, one worker, access log off, EventSource subscribers, "
    "messages in memory: nothing is durable",
    install,
    start,
)
