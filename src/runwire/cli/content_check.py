"""Whether the content store that the settings name keeps what is put there."""

from __future__ import annotations

import hashlib
from typing import Final

from runwire.clock import monotonic
from runwire.content import ContentMetrics, open_content_store
from runwire.content.settings import ContentSettings
from runwire.db.health import Finding
from runwire.errors import ConfigurationError, ContentUnavailable
from runwire.model.run import new_run_id
from runwire.telemetry.exposition import Exposition

PATIENCE_S: Final = 5.0
_REMEDY: Final = "check RUNWIRE_CONTENT_URL, the credentials, the rights to put, get and delete, and the space"


async def examine_content(settings: ContentSettings) -> list[Finding]:
    """An object is put, read back, compared and deleted. Nothing without a store."""
    if settings.content is None:
        return []
    data = b"runwire doctor"
    path = f"doctor/{new_run_id()}"
    began = monotonic()
    try:
        failures = ContentMetrics(Exposition()).store_failures
        store = open_content_store(settings.content, failures=failures, patience_s=PATIENCE_S)
        await store.put(path, data, size=len(data), sha256=hashlib.sha256(data).digest())
        await store.delete(path)
    except (ConfigurationError, ContentUnavailable) as error:
        return [Finding("content store", ok=False, seen=str(error), remedy=_REMEDY)]
    took_ms = (monotonic() - began) * 1000
    return [
        Finding("content store", ok=True, seen=f"keeps what is put there; put, read and delete took {took_ms:.1f} ms")
    ]
