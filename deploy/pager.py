"""Stands in for a pager: prints what Alertmanager sends to `/page`, `/ticket` and `/watchdog`, a line per alert.

`--check` says whether it listens: the container's healthcheck.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

PORT: Final = 9095
"""That of `links.webhook` in alerts/thresholds.yaml."""
LARGEST_BYTES: Final = 1_048_576


def lines(receiver: str, message: Mapping[str, Any]) -> Iterator[str]:
    """What a message of Alertmanager's tells: when, whom, what, and where to read on."""
    for alert in message["alerts"]:
        labels, told = alert["labels"], alert.get("annotations", {})
        resolved = alert["status"] == "resolved"
        when = alert["endsAt"] if resolved else alert["startsAt"]
        what = told.get("description") or told.get("summary", "")
        where = "" if resolved else f"  {told.get('runbook_url', '')}"
        yield f"{when[:19]}Z  {receiver:<8}  {alert['status'].upper():<8}  {labels['alertname']}: {what}{where}"


class Pager(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Says that it listens."""
        self._answer(HTTPStatus.OK)

    def do_POST(self) -> None:
        """Prints a message. What is none is refused, so that Alertmanager shows that it was not delivered."""
        size = int(self.headers.get("Content-Length") or 0)
        if size > LARGEST_BYTES:
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        try:
            told = list(lines(self.path.strip("/"), json.loads(self.rfile.read(size))))
        except (ValueError, KeyError, TypeError, AttributeError):
            self._answer(HTTPStatus.BAD_REQUEST)
            return
        sys.stdout.write("".join(f"{line}\n" for line in told))
        sys.stdout.flush()
        self._answer(HTTPStatus.OK)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Nothing: what matters is printed."""

    def _answer(self, status: HTTPStatus) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _listens(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=3)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()


def main() -> int:
    """0 when told to stop, or when `--check` finds somebody listening."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--check", action="store_true", help="only say whether one listens")
    arguments = parser.parse_args()
    if arguments.check:
        return 0 if _listens(arguments.port) else 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Only Alertmanager reaches this address: they share a network namespace.
    with ThreadingHTTPServer(("127.0.0.1", arguments.port), Pager) as server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
