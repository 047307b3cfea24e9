"""`python -m pictures [record|draw] [dashboard]...`: both, and every dashboard, without a word."""

from __future__ import annotations

import asyncio
import sys

from pictures.draw import draw
from pictures.record import ROOT, record

RECORDED = ROOT / ".cache" / "pictures" / "recorded"


async def main(words: list[str]) -> None:
    if "draw" not in words:
        await record(RECORDED)
    if "record" not in words:
        for path in await draw(RECORDED, names=set(words) - {"draw"}):
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")  # noqa: T201  # its output


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
