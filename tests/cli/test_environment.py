"""The service serves in whatever environment a platform gives it, or says in one sentence which part it cannot use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.command import bare_environment
from cli.environments import NAMES, as_nobody
from cli.test_standard_streams import serving
from runwire.cli.environment import ignore_unusable

BOGUS = "bogus,=;\xe9"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "abc"),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "-1"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "1e3"),
        ("OTEL_BSP_SCHEDULE_DELAY", "soon"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_PROPAGATORS", "tracecontext,bogus"),
        ("OTEL_PYTHON_METER_PROVIDER", "bogus"),
        ("OTEL_PYTHON_METER_PROVIDER", "none"),
        ("OTEL_PYTHON_METER_PROVIDER", "sdk_meter_provider,default_meter_provider"),
        ("OTEL_PYTHON_TRACER_PROVIDER", ""),
        ("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "bogus"),
        ("PROMETHEUS_MULTIPROC_DIR", "/nope"),
        ("prometheus_multiproc_dir", "/nope"),
    ],
)
def test_a_variable_that_a_library_would_end_the_process_for_is_taken_out(name: str, value: str) -> None:
    environ = {name: value, "PATH": "/bin"}
    assert ignore_unusable(environ) == (name,)
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "128"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", ""),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10000"),
        ("OTEL_PROPAGATORS", "tracecontext, baggage"),
        ("OTEL_PROPAGATORS", "none"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=b"),
        ("PROMETHEUS_DISABLE_CREATED_SERIES", "True"),
    ],
)
def test_others_are_left(name: str, value: str) -> None:
    environ = {name: value}
    assert ignore_unusable(environ) == ()
    assert environ == {name: value}


@pytest.mark.crash
@pytest.mark.parametrize("telemetry", ["true", "false"])
async def test_it_serves_whatever_the_variables_of_opentelemetry_say(database: str, telemetry: str) -> None:
    bogus = dict.fromkeys(NAMES, BOGUS)
    async with serving(database, environment={"RUNWIRE_TELEMETRY": telemetry, **bogus}) as served:
        await served.finishes_a_run()
        await served.drains()


@pytest.mark.crash
@pytest.mark.parametrize(
    "environment",
    [
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        {"OTEL_RESOURCE_ATTRIBUTES": "=,a,b=%ZZ", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        {"OTEL_EXPORTER_OTLP_HEADERS": "a b=c\n,=", "OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4318"},
        {"PROMETHEUS_MULTIPROC_DIR": "/nope", "PROMETHEUS_DISABLE_CREATED_SERIES": "?"},
        {"TZ": "Mars/Olympus", "LANG": "tlh_QO.KOI8-R", "LC_ALL": "tlh_QO.KOI8-R"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"},
        {"PYTHONOPTIMIZE": "2", "PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1"},
        {"PYTHONDEVMODE": "1", "PYTHONASYNCIODEBUG": "1", "PYTHONTRACEMALLOC": "1"},
        {"PYTHONWARNINGS": "error", "PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1"},
        {"HOME": "/proc/nothing", "XDG_DATA_HOME": "relative", "TMPDIR": "/nope"},
        {"HOME": "", "USER": "", "LOGNAME": "", "HOSTNAME": ""},
        {"RUNWIRE_SERVICE_HOST": "10.0.0.1", "RUNWIRE_PORT_8080_TCP_ADDR": "10.0.0.1"},
    ],
    ids=",".join,
)
async def test_it_serves_in_odd_environments(database: str, environment: dict[str, str]) -> None:
    async with serving(database, environment=environment) as served:
        await served.finishes_a_run()
        await served.drains()


@pytest.mark.crash
@pytest.mark.parametrize(
    "first",
    [
        "umask 077",
        "cd /proc/self",
        'cd "$(mktemp -d)" && rmdir "$PWD"',
        "unset HOME",
    ],
)
async def test_it_serves_from_odd_places(database: str, first: str) -> None:
    async with serving(database, first=first) as served:
        await served.finishes_a_run()
        await served.drains()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_a_user_without_a_home_is_asked_where_the_data_is_to_be(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without a name alone it serves: tests/db/test_embedded.py."""
    folder = tmp_path_factory.mktemp("nobody")
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o777 if parent == folder else 0o711)
    environment = {
        name: value
        for name, value in bare_environment().items()
        # Coverage could not write its file either, and would say so.
        if name not in ("HOME", "XDG_DATA_HOME") and not name.startswith("COVERAGE_")
    }
    ended = subprocess.run(
        [*as_nobody(), sys.executable, "-m", "runwire", "serve", "--port", "0", "--admin-port", "0"],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "data_dir" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert [path for path in Path(folder).iterdir() if path.name == "~"] == []
