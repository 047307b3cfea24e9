"""Pages as people have them: on a phone or a wide screen, in light or dark, by keyboard, without sight."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from npm import installed
from realclients.chromium import Page

WIDE: Final = (1440, 900)
PHONE: Final = (390, 844)
_KEYS: Final = {"ArrowDown": (40, ""), "Escape": (27, ""), "Enter": (13, "\r"), "Tab": (9, "")}


async def sized(page: Page, size: tuple[int, int], *, theme: str = "light") -> None:
    width, height = size
    await page.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=size == PHONE
    )
    await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])


async def pressed(page: Page, key: str) -> None:
    code, text = _KEYS[key]
    for kind in ("keyDown", "keyUp"):
        typed = {"text": text} if text and kind == "keyDown" else {}
        await page.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **typed)


async def faults(page: Page) -> list[Any]:
    """Violations of accessibility that axe finds, and whether the page is wider than its screen."""
    axe = installed(Path(__file__).parent / "axe" / "package.json", into="axe") / "node_modules/axe-core/axe.min.js"
    await page.evaluate(axe.read_text() + "; 0")
    found: list[Any] = await page.evaluate(
        "axe.run({resultTypes: ['violations']}).then(r => r.violations.map(v => [v.id, v.nodes[0].html]))"
    )
    if not await page.evaluate("document.documentElement.scrollWidth <= innerWidth"):
        found.append("wider than its screen")
    return found
