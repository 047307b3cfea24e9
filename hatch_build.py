"""Compiles what is written in C, where there is a compiler; without one runwire does the same by the event loop."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODULES = ("runwire.stream._frames", "runwire.stream.fanout._sockets")


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """An installation for development has it beside its source, a wheel within."""

    _scratch: str | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        self._scratch = tempfile.mkdtemp(prefix="runwire-build-")
        for module in MODULES:
            source = Path(self.root, "src", *module.split("."))
            if version == "editable":
                _compiled(source.with_suffix(".c"), source.parent)
            elif (compiled := _compiled(source.with_suffix(".c"), Path(self._scratch))) is not None:
                inside = source.relative_to(Path(self.root, "src")).parent / compiled.name
                build_data["force_include"][str(compiled)] = str(inside)
                build_data["pure_python"] = False
                build_data["infer_tag"] = True

    def finalize(self, _version: str, _build_data: dict[str, Any], _artifact_path: str) -> None:
        if self._scratch is not None:
            shutil.rmtree(self._scratch)


def _compiled(source: Path, folder: Path) -> Path | None:
    """The module, compiled into the folder; None where that cannot be done."""
    from setuptools import Distribution, Extension  # noqa: PLC0415  # a wheel may be looked at without it
    from setuptools.command.build_ext import build_ext  # noqa: PLC0415

    extension = Extension(source.stem, [str(source)], extra_compile_args=["-O2"])
    command = build_ext(Distribution({"ext_modules": [extension]}))
    command.build_lib = str(folder)
    with tempfile.TemporaryDirectory(prefix="runwire-build-") as scratch:
        command.build_temp = scratch
        command.ensure_finalized()
        try:
            command.run()
        except Exception as error:  # noqa: BLE001  # whatever it is: it is faster with it, and right without
            print(f"runwire: {source.name} is left out: {error}", file=sys.stderr)  # noqa: T201
            return None
    return Path(command.get_ext_fullpath(source.stem))
