"""The environment as other people's platforms set it: what a library of ours would end the process for is taken out.

OpenTelemetry says that a variable with a value that is not understood is warned of and ignored; its SDK raises instead,
some of it when it is imported. So this runs before any of that is.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Final

_NUMBER: Final = re.compile(r"OTEL_\w+_(LIMIT|SIZE|DELAY|INTERVAL|TIMEOUT)")
_MULTIPROCESS: Final = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")
"""prometheus_client would keep the series of our processes in its files, added up; each of ours has its own."""

_PLUGINS: Final = {
    "OTEL_PROPAGATORS": "opentelemetry_propagator",
    "OTEL_PYTHON_CONTEXT": "opentelemetry_context",
    "OTEL_PYTHON_ID_GENERATOR": "opentelemetry_id_generator",
    "OTEL_PYTHON_TRACER_PROVIDER": "opentelemetry_tracer_provider",
    "OTEL_PYTHON_METER_PROVIDER": "opentelemetry_meter_provider",
    "OTEL_PYTHON_LOGGER_PROVIDER": "opentelemetry_logger_provider",
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER": "opentelemetry_otlp_credential_provider",
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER": "opentelemetry_otlp_credential_provider",
}
"""Variables that name a plug-in, and the group of entry points where it is looked for."""
_SEVERAL: Final = "OTEL_PROPAGATORS"
"""The one that names any number, with commas between, or `none`."""


ignored: list[str] = []
"""The names of those that this process has removed."""


def ignore_unusable(environ: MutableMapping[str, str]) -> tuple[str, ...]:
    """Removes the variables that no library of ours could use, for this process and those it starts; their names."""
    unusable = tuple(sorted(name for name, value in environ.items() if not _is_usable(name, value)))
    for name in unusable:
        del environ[name]
    return unusable


def _is_usable(name: str, value: str) -> bool:
    if name in _MULTIPROCESS:
        return False
    if _NUMBER.fullmatch(name):
        return not value.strip() or _is_number(value)
    if name in _PLUGINS:
        return _are_installed(value, group=_PLUGINS[name], several=name == _SEVERAL)
    return True


def _is_number(value: str) -> bool:
    """A whole number of 0 and more, as all of them are: counts, or milliseconds."""
    return re.fullmatch(r"\s*[0-9]{1,18}\s*", value) is not None


def _are_installed(value: str, *, group: str, several: bool) -> bool:
    from importlib.metadata import entry_points

    installed = {entry.name for entry in entry_points(group=group)}
    if not several:
        return value.strip() in installed
    return all(name.strip() in installed or name.strip().lower() == "none" for name in value.split(","))
