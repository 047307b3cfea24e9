"""Each dashboard has its picture, and who reads the documentation sees it. Whether it is up to date, eyes tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.pages import DOCS, ROOT, images, pages
from runwire.server.docs import DocsSite

PICTURES = DOCS / "img"
DASHBOARDS = sorted(path.stem for path in (ROOT / "dashboards").glob("*.json"))
PAGES = [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages()]
PNG = b"\x89PNG\r\n\x1a\n"


def shown_on(page: Path) -> set[Path]:
    return {(page.parent / source).resolve() for source, _ in images(page)}


@pytest.mark.parametrize("page", PAGES)
def test_pictures_on_a_page_are_there_and_say_what_they_show(page: Path) -> None:
    for source, said in images(page):
        assert (page.parent / source).is_file(), source
        assert said, source


def test_every_dashboard_has_a_picture_and_every_picture_is_shown() -> None:
    assert len(DASHBOARDS) == 5
    there = set(PICTURES.iterdir())
    assert {PICTURES / f"{name}.png" for name in DASHBOARDS} <= there
    assert there <= {picture for page in pages() for picture in shown_on(page)}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_picture_is_as_wide_as_a_screen_and_small_enough_to_ship(name: str) -> None:
    picture = (PICTURES / f"{name}.png").read_bytes()
    assert picture.startswith(PNG)
    assert int.from_bytes(picture[16:20], "big") == 1600
    assert len(picture) < 400_000


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "operations.md"], ids=lambda page: page.name)
def test_the_readme_and_the_operations_show_all_of_them(page: Path) -> None:
    assert {PICTURES / f"{name}.png" for name in DASHBOARDS} <= shown_on(page)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_site_of_the_service_shows_them(name: str) -> None:
    site = DocsSite(DOCS)
    address = f"img/{name}.png"
    picture, page = site.content(address), site.content("operations")
    assert picture is not None
    assert (picture.media_type, picture.body) == ("image/png", (PICTURES / f"{name}.png").read_bytes())
    assert page is not None
    assert f'src="./{address}"' in page.body.decode()
