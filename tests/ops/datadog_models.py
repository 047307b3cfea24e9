"""Reads monitors and dashboards with Datadog's own models, and prints where they are not what those know.

Run by an interpreter of its own. Standard input: {"Monitor": [...], "Dashboard": [...]}. Standard output: a list.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from datadog_api_client import Configuration
from datadog_api_client.exceptions import ApiTypeError, ApiValueError
from datadog_api_client.model_utils import ModelComposed, ModelNormal, validate_and_convert_types
from datadog_api_client.v1.model.dashboard import Dashboard
from datadog_api_client.v1.model.monitor import Monitor

MODELS = {"Monitor": Monitor, "Dashboard": Dashboard}


def main() -> None:
    asked = json.load(sys.stdin)
    problems = [problem for kind, bodies in asked.items() for body in bodies for problem in _problems(kind, body)]
    json.dump(problems, sys.stdout)


def _problems(kind: str, body: dict[str, Any]) -> Iterator[str]:
    name = body.get("name") or body.get("title")
    try:
        model = validate_and_convert_types(body, (MODELS[kind],), [kind], True, True, Configuration())
    except (ApiTypeError, ApiValueError) as error:
        yield f"{name}: {error}"
        return
    yield from (f"{name}: {problem}" for problem in _unknown(model, ""))


def _unknown(value: Any, where: str) -> Iterator[str]:
    """Keys that a model does not have, and values that it cannot be made of."""
    if isinstance(value, list):
        for index, one in enumerate(value):
            yield from _unknown(one, f"{where}[{index}]")
    if isinstance(value, ModelComposed):
        yield from _unknown(value.get_oneof_instance(), where)
        return
    if getattr(value, "_unparsed", False):
        yield f"{where} is not what it may be"
    if isinstance(value, ModelNormal):
        for key, one in value._data_store.items():  # noqa: SLF001  # the models have no other way to be walked
            if key not in value.openapi_types:
                yield f"{where}.{key} is not known"
            yield from _unknown(one, f"{where}.{key}")


if __name__ == "__main__":
    main()
