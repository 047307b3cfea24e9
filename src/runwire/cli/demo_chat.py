"""`runwire demo chat`: a chat in the browser, on a service of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from runwire.cli.options import Json, examples

if TYPE_CHECKING:
    from runwire.settings import Settings

EPILOG: Final = (
    examples(
        "runwire demo chat",
        "runwire demo chat --open",
        "RUNWIRE_DEMO_MODEL_URL=http://127.0.0.1:11434/v1 RUNWIRE_DEMO_MODEL=llama3.2 runwire demo chat",
    )
    + "\n\nStarts the service on an embedded PostgreSQL of its own (DATABASE_URL is left alone), on ports 8080 and "
    "9464 or free ones, and prints the address of the page. Ctrl-C stops it; conversations stay for the next time. "
    "A scripted model answers, without a network. RUNWIRE_DEMO_MODEL_URL names an OpenAI-compatible API to ask "
    "instead, RUNWIRE_DEMO_MODEL the model, and RUNWIRE_DEMO_MODEL_KEY the key, if there is one."
)
AGENT: Final = "runwire.agents.chat:chat"


def demo_chat(
    *,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    data_dir: Annotated[Path | None, typer.Option(help=r"Data directory. \[default: a folder for demos]")] = None,
    as_json: Json = False,
) -> int:
    """Chat with an agent in the browser: reload, stop, approve, pull the plug."""
    from runwire.cli.demo_service import run_demo

    async def body(settings: Settings) -> int:
        return await _chat(settings, open_page=open_page, as_json=as_json)

    return run_demo(body, data_dir=data_dir, agents=(AGENT,), chat_page=True, pages=True)


async def _chat(settings: Settings, *, open_page: bool, as_json: bool) -> int:
    import asyncio
    import webbrowser

    from runwire.cli.demo_service import demo_service
    from runwire.cli.output import print_urls, say
    from runwire.cli.serve import stop_on_signals

    if not as_json:
        say("starting PostgreSQL and the service ...")
    async with demo_service(settings) as service:
        stop_on_signals(service)
        page = f"{service.url}/chat/"
        urls = {
            "chat": page,
            "console": f"{service.url}/",
            "metrics": f"{service.admin_url}/metrics",
            "logs": str(settings.data_dir / "demo.log"),
        }
        print_urls(urls, as_json=as_json)
        if not as_json:
            asked = "a scripted model" if settings.demo_model_url is None else f"the model {settings.demo_model}"
            say(f"{asked} answers at {page}; Ctrl-C stops it")
        if open_page:
            await asyncio.to_thread(webbrowser.open, page)
        await service.run_until_stopped()
    return 0
