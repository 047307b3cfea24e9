"""Publish: the only writer to the bus."""

from typing import TYPE_CHECKING

from runwire.lazy import lazily

if TYPE_CHECKING:
    from runwire.publish.publisher import Publisher
    from runwire.publish.shards import Shards
    from runwire.publish.worker import PublishWorker
else:
    __getattr__ = lazily(__name__)

__all__ = ["PublishWorker", "Publisher", "Shards"]
