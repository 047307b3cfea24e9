"""The other ends, clients and a collector, in processes of their own so that their CPU does not count."""

from __future__ import annotations

import http.server
import multiprocessing
import selectors
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

_SPAWN = multiprocessing.get_context("spawn")


@contextmanager
def clients() -> Iterator[str]:
    """The path of a socket whose connections are read and thrown away."""
    with _beside(_drain) as address:
        yield address


@contextmanager
def collector() -> Iterator[str]:
    """The URL of a trace collector that takes everything and keeps nothing."""
    with _beside(_collect) as address:
        yield address


@contextmanager
def _beside(serve: object) -> Iterator[str]:
    told, tell = _SPAWN.Pipe(duplex=False)
    process = _SPAWN.Process(target=serve, args=(tell,), daemon=True)  # type: ignore[arg-type]
    process.start()
    try:
        yield told.recv()
    finally:
        process.terminate()
        process.join()


def _drain(tell: Connection) -> None:
    listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
    listening.setblocking(False)
    selector = selectors.DefaultSelector()
    selector.register(listening, selectors.EVENT_READ)
    tell.send(f"127.0.0.1:{listening.getsockname()[1]}")
    buffer = bytearray(1 << 18)
    while True:
        for key, _ in selector.select():
            ready = key.fileobj
            assert isinstance(ready, socket.socket)
            if ready is listening:
                one, _ = listening.accept()
                one.setblocking(False)
                selector.register(one, selectors.EVENT_READ)
            else:
                try:
                    gone = ready.recv_into(buffer) == 0
                except ConnectionError:
                    gone = True
                if gone:
                    selector.unregister(ready)
                    ready.close()


class _Taker(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _collect(tell: Connection) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Taker)
    tell.send(f"http://127.0.0.1:{server.server_address[1]}/v1/traces")
    server.serve_forever()
