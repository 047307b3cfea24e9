"""Publish: the only writer to the bus."""

from runwire.publish.publisher import Publisher
from runwire.publish.shards import Shards
from runwire.publish.worker import PublishWorker

__all__ = ["PublishWorker", "Publisher", "Shards"]
