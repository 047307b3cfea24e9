"""The map is complete: every part of the source is on it, and every name on it is in the source."""

from __future__ import annotations

import re

from docs.pages import DOCS, ROOT, code_spans

SOURCE = ROOT / "src" / "runwire"
MAP = DOCS / "architecture" / "map.md"
SPANS = set(code_spans(MAP))


def test_every_folder_and_module_of_the_source_is_on_the_map() -> None:
    folders = {entry.name for entry in SOURCE.iterdir() if (entry / "__init__.py").exists()}
    modules = {entry.name for entry in SOURCE.glob("*.py") if not entry.name.startswith("__")}
    assert folders | modules <= SPANS


def test_every_class_on_the_map_is_where_the_map_says() -> None:
    text = MAP.read_text()
    found = re.findall(r"`([A-Z]\w+)` in `(src/[\w/]+\.py)`", text)
    assert len(found) >= 6
    for name, path in found:
        assert re.search(rf"^class {name}\b", (ROOT / path).read_text(), re.MULTILINE), (name, path)


def test_the_guide_and_the_map_name_files_that_exist() -> None:
    for page in (MAP, ROOT / "CONTRIBUTING.md"):
        for span in code_spans(page):
            if re.fullmatch(r"(src|tests|docs|scripts|alerts)/[\w./-]+", span):
                assert (ROOT / span).exists(), span
