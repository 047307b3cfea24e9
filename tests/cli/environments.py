"""Environments as platforms make them: every variable of OpenTelemetry's, and a user that nothing knows."""

from __future__ import annotations

from types import ModuleType
from typing import Final

from opentelemetry import environment_variables as of_api
from opentelemetry.sdk import environment_variables as of_sdk

NOBODY: Final = 1_000_680_000
"""A uid as OpenShift gives it: in no passwd, with the group root."""


def _names(module: ModuleType) -> set[str]:
    return {value for value in vars(module).values() if isinstance(value, str) and value.startswith("OTEL_")}


NAMES: Final = sorted(_names(of_api) | _names(of_sdk) | {"OTEL_PYTHON_CONTEXT", "OTEL_SEMCONV_STABILITY_OPT_IN"})


def as_nobody() -> list[str]:
    """The wrapper that runs a command with that uid, and no more rights."""
    return ["setpriv", f"--reuid={NOBODY}", "--regid=0", "--clear-groups", "--no-new-privs"]
