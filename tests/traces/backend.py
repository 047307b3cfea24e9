"""Datadog's test agent as a trace backend: a real program that takes OTLP over HTTP and says what it got."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

from crash.fleet import free_port

VERSION: Final = "1.69.1"
CACHE: Final = Path(__file__).parents[2] / ".cache" / "ddapm-test-agent"
INSTALL_S: Final = 300
START_S: Final = 60


class NotInstalled(Exception):  # named by what happened
    pass


@dataclass(frozen=True, slots=True)
class SentSpan:
    """A span as it reached the backend. Ids are lower-case hex, times nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    kind: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any]
    links: tuple[tuple[str, str], ...]
    failed: bool
    resource: Mapping[str, Any]

    @property
    def role(self) -> str:
        """The first role of the process that sent it."""
        roles: list[str] = self.resource.get("runwire.roles") or [""]
        return roles[0]


class TraceBackend:
    """A running test agent. `endpoint` is for OTEL_EXPORTER_OTLP_ENDPOINT."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"

    def spans(self, trace_id: str | None = None) -> list[SentSpan]:
        """The spans sent since the last `clear`, of one trace or of all, in the order of their starts."""
        found = [span for request in self._get("/test/session/traces") for span in _spans_in(request)]
        return sorted(
            (span for span in found if trace_id in (None, span.trace_id)), key=lambda span: (span.start_ns, span.end_ns)
        )

    def clear(self) -> None:
        self._get("/test/session/clear")

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.endpoint + path, timeout=20) as answer:  # noqa: S310  # our own address
            body = answer.read()
        return json.loads(body) if body[:1] in (b"[", b"{") else body


def installed() -> Path:
    """The program, in an environment of its own: it pins older versions of what runwire itself needs.

    Raises NotInstalled where no package index can be reached.
    """
    program = CACHE / "bin" / "ddapm-test-agent"
    stamp = CACHE / VERSION
    CACHE.parent.mkdir(exist_ok=True)
    with FileLock(CACHE.with_suffix(".lock")):
        if not stamp.exists():
            _run([sys.executable, "-m", "venv", "--clear", str(CACHE)])
            quiet = ["--quiet", "--disable-pip-version-check", "--no-compile"]
            _run([str(CACHE / "bin" / "python"), "-m", "pip", "install", *quiet, f"ddapm-test-agent=={VERSION}"])
            stamp.touch()
    return program


@contextmanager
def backend(folder: Path) -> Iterator[TraceBackend]:
    """A test agent that logs to `folder`, and is gone afterwards."""
    program = installed()
    ports = [free_port() for _ in range(3)]
    names = ("--port", "--otlp-http-port", "--otlp-grpc-port")
    options = [word for name, port in zip(names, ports, strict=True) for word in (name, str(port))]
    log = folder / "trace-backend.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(program), "--host", "127.0.0.1", "--web-ui-port", "0", *options],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        agent = TraceBackend(ports[1])
        _wait_until_it_answers(agent, process, log)
        yield agent
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_answers(agent: TraceBackend, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            agent.clear()
        except OSError:
            said = log.read_text(errors="replace")
            assert process.poll() is None, f"the test agent ended while it started:\n{said}"
            assert time.monotonic() < deadline, f"the test agent does not answer:\n{said}"
            time.sleep(0.05)
        else:
            return


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    if done.returncode != 0:
        raise NotInstalled(f"needs ddapm-test-agent, which could not be installed: {done.stderr[-500:]}")


def _spans_in(request: Mapping[str, Any]) -> Iterator[SentSpan]:
    for of_resource in request["resource_spans"]:
        resource = _attributes(of_resource["resource"].get("attributes", []))
        for of_scope in of_resource["scope_spans"]:
            for span in of_scope["spans"]:
                yield SentSpan(
                    trace_id=_hex(span["trace_id"]),
                    span_id=_hex(span["span_id"]),
                    parent_id=_hex(span["parent_span_id"]) if span.get("parent_span_id") else None,
                    name=span["name"],
                    kind=span["kind"].removeprefix("SPAN_KIND_"),
                    start_ns=int(span["start_time_unix_nano"]),
                    end_ns=int(span["end_time_unix_nano"]),
                    attributes=_attributes(span.get("attributes", [])),
                    links=tuple((_hex(link["trace_id"]), _hex(link["span_id"])) for link in span.get("links", [])),
                    failed=span.get("status", {}).get("code") == "STATUS_CODE_ERROR",
                    resource=resource,
                )


def _attributes(given: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {one["key"]: _value(one.get("value", {})) for one in given}


def _value(given: Mapping[str, Any]) -> Any:
    if "int_value" in given:
        return int(given["int_value"])
    if "array_value" in given:
        return [_value(one) for one in given["array_value"].get("values", [])]
    return next(iter(given.values()), None)


def _hex(encoded: str) -> str:
    return base64.b64decode(encoded).hex()
