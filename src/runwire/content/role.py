"""Content of a process: what stores and reads it, and the collector."""

from __future__ import annotations

from runwire.content.artifacts import Artifacts, ContentLimits
from runwire.content.collecting import Collector
from runwire.content.metrics import ContentMetrics
from runwire.content.reading import ArtifactReader
from runwire.content.settings import ContentSettings
from runwire.content.store import ContentStore, open_content_store
from runwire.duties import Duty
from runwire.errors import ConfigurationError, ContentUnavailable
from runwire.process import Context


async def offer_content(context: Context) -> None:
    """Offers Artifacts, ArtifactReader and ContentMetrics, and the ContentStore where there is one.

    Raises ConfigurationError for an invalid URL at once, as for any wrong setting.
    """
    settings = context.group(ContentSettings)
    metrics = context.offer(ContentMetrics, ContentMetrics(context.metrics.out))
    store = _opened(context, metrics)
    if store is not None:
        context.offer(ContentStore, store)
    limits = ContentLimits(
        artifact_bytes=settings.artifact_max_bytes,
        artifacts_per_run=settings.artifacts_per_run_max,
        tenant_bytes=settings.content_tenant_max_bytes,
    )
    context.offer(Artifacts, Artifacts(context.database, store, metrics=metrics, limits=limits))
    context.offer(ArtifactReader, ArtifactReader(context.database, store, metrics=metrics))


async def start(context: Context) -> None:
    """Collects content until the ground closes."""
    settings = context.group(ContentSettings)
    collector = Collector(
        context.database,
        context.find(ContentStore),
        metrics=context.part(ContentMetrics),
        grace_s=settings.content_grace_s,
        keep_days=settings.content_keep_days,
        period_s=settings.content_collect_s,
    )
    context.keep(context.phases.ground, Duty.COLLECT, "collector", collector.run)


def _opened(context: Context, metrics: ContentMetrics) -> ContentStore | None:
    """None without a URL, or where the extra is missing and nobody asked for a store."""
    settings = context.group(ContentSettings)
    if settings.content is None:
        return None
    try:
        return open_content_store(
            settings.content, failures=metrics.store_failures, patience_s=settings.content_patience_s
        )
    except ContentUnavailable as error:
        if settings.content_url is not None:
            raise ConfigurationError((f"RUNWIRE_CONTENT_URL: {error}",)) from error
        return None
