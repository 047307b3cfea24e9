"""Content: what users see of a run, beside its payload-free log. Artifacts are finished pieces of it.

    artifacts = Artifacts(database, store, metrics=ContentMetrics(out), limits=ContentLimits())
    prepared = await artifacts.prepare(run_id, "report.pdf", data, media_type="application/pdf")
    # an append stores the event `artifact:report.pdf:<n>` and, in its transaction, the artifact's row
    await log.append(run_id, [prepared.event], ..., companion=prepared.store)
    artifact = prepared.made()

A process may die at any point in between. No artifact then names bytes that are missing, which a foreign key and a
verified upload ensure, and the collector deletes bytes that no artifact names.
"""

from typing import TYPE_CHECKING

from runwire.lazy import lazily

if TYPE_CHECKING:
    from runwire.content.artifacts import Artifacts, ContentLimits, NewArtifact
    from runwire.content.collecting import Collector
    from runwire.content.metrics import ContentMetrics
    from runwire.content.reading import ArtifactReader, Located
    from runwire.content.store import ContentStore, open_content_store
else:
    __getattr__ = lazily(__name__)

__all__ = [
    "ArtifactReader",
    "Artifacts",
    "Collector",
    "ContentLimits",
    "ContentMetrics",
    "ContentStore",
    "Located",
    "NewArtifact",
    "open_content_store",
]
