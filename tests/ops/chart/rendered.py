"""Renders the chart with sets of values, and checks what comes out against the schemas of Kubernetes.

Run by an interpreter of its own. Standard input: {"chart": path, "sets": {name: {"release": name, "values": ...}}}.
Standard output, by name of the set: {"objects": [...], "problems": [...]} or {"refused": why}.
"""

from __future__ import annotations

import functools
import json
import sys
from typing import Any, Final

import helm_python
import jsonschema
import kubernetes_validate.utils as kubernetes
import yaml

VERSIONS: Final = ("1.30", "1.37")
OPERATORS: Final = ("monitoring.coreos.com/", "keda.sh/")


def main() -> None:
    asked = json.load(sys.stdin)
    with helm_python.Chart.load(asked["chart"]) as chart:
        json.dump({name: _rendered(chart, **of) for name, of in asked["sets"].items()}, sys.stdout)


def _rendered(chart: helm_python.Chart, *, release: str, values: dict[str, Any]) -> dict[str, Any]:
    try:
        chart.validate_schema(chart.merge_values(values))
        manifests = chart.render(values, name=release, namespace="agents")
    except helm_python.HelmError as error:
        return {"refused": str(error)}
    texts = (text for path, text in sorted(manifests.items()) if path.endswith(".yaml"))
    objects = [one for text in texts for one in yaml.load_all(text, Loader=yaml.CSafeLoader) if one]
    return {"objects": objects, "problems": [problem for one in objects for problem in _problems(one)]}


def _problems(one: dict[str, Any]) -> list[str]:
    if one["apiVersion"].startswith(OPERATORS):
        return []
    return [
        f"{version} {one['kind']} {one['metadata']['name']}: {error.json_path}: {error.message}"
        for version in VERSIONS
        for error in _validator(version, one["kind"], one["apiVersion"]).iter_errors(one)
    ]


@functools.cache
def _validator(version: str, kind: str, api_version: str) -> Any:
    """As kubernetes_validate.validate() makes it; that one reads 2 MB of definitions for each object."""
    full = next(one for one in kubernetes.all_versions() if kubernetes.major_minor(one) == version)
    folder = f"kubernetes-json-schema/v{full}-local-strict"
    group, _, short = api_version.rpartition("/")
    file = "-".join(filter(None, (kind.lower(), group.split(".")[0], short)))
    schema = kubernetes.schema_contents(f"{folder}/{file}.json", version)
    resource = kubernetes.Resource.from_contents(schema)
    return jsonschema.Draft202012Validator(schema, registry=resource @ _definitions(folder, version))


@functools.cache
def _definitions(folder: str, version: str) -> Any:
    contents = kubernetes.schema_contents(f"{folder}/_definitions.json", version)
    return kubernetes.Resource.from_contents(contents) @ kubernetes.Registry()


if __name__ == "__main__":
    main()
