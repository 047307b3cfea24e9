"""The files of the documentation: in the installed package, or beside the sources."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

PICTURES: Final = (".png", ".svg", ".json")
INDEX: Final = "index.md"


def docs_folder() -> Traversable | None:
    """The folder of the documents: in the installed package, or beside the sources; None where they were left out."""
    beside_sources = Path(__file__).resolve().parents[4] / "docs"
    candidates: tuple[Traversable, ...] = (files("runwire") / "docs", beside_sources)
    return next((folder for folder in candidates if folder.is_dir()), None)


class Source:
    """Documents and pictures by their path below the folder: `telemetry.md`, `img/overview.png`."""

    def __init__(self, folder: Traversable | None) -> None:
        self._files = dict(sorted(_walk(folder))) if folder is not None else {}

    def __contains__(self, name: str) -> bool:
        return name in self._files

    @property
    def documents(self) -> tuple[str, ...]:
        """The pages of all documents but the index, in alphabetical order: `telemetry`, `runbooks/run-diagnostics`."""
        return tuple(name.removesuffix(".md") for name in self._files if name.endswith(".md") and name != INDEX)

    def text(self, page: str) -> str | None:
        """The Markdown of a page, or None. The page of the index is the empty string."""
        if f"{page}.md" == INDEX:  # it has one address, the empty one
            return None
        file = self._files.get(f"{page}.md" if page else INDEX)
        return file.read_text("utf-8") if file is not None else None

    def picture(self, path: str) -> bytes | None:
        """The bytes of a picture or a data file, or None."""
        return self._files[path].read_bytes() if path.endswith(PICTURES) and path in self._files else None

    def page_of(self, link: str, *, at: str) -> str | None:
        """The page or picture that a relative link on page `at` leads to, or None when the site has no such file."""
        name = posixpath.normpath(posixpath.join(posixpath.dirname(at), link))
        if name not in self._files:
            return None
        return "" if name == INDEX else name.removesuffix(".md")


def _walk(folder: Traversable, at: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{at}{entry.name}/")
        elif entry.name.endswith((".md", *PICTURES)):
            yield at + entry.name, entry
