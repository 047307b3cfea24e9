"""The registry of archive stores. A new store is a module of this folder, and a line in STORES for its URLs."""

from __future__ import annotations

from importlib import import_module
from typing import Final, Protocol, cast

from runwire.archive.format import zstd
from runwire.archive.store import ColdStore
from runwire.errors import ArchiveUnavailable

_OBJECTS: Final = "runwire.archive.object_store"

STORES: Final[dict[str, str]] = {
    "file": _OBJECTS,
    "s3": _OBJECTS,
    "gs": _OBJECTS,
    "az": _OBJECTS,
}
"""The module of each URL scheme. It is imported when it is used: its library is an extra. A path is a `file`."""


class StoreModule(Protocol):
    def check_installed(self) -> None:
        """Raises ModuleNotFoundError unless what the store needs is installed."""

    def open_store(self, url: str) -> ColdStore:
        """Raises ConfigurationError when the URL is none, ArchiveUnavailable when the store cannot be opened now."""


def open_store(url: str) -> ColdStore:
    """The archive at `url`: `file:///folder`, `s3://bucket/prefix`, `gs://...`, `az://...`; or a folder's path.

    Raises ConfigurationError when the URL is none, ArchiveUnavailable when the extra is not installed.
    """
    return installed(url).open_store(url)


def installed(url: str) -> StoreModule:
    """The module for archives at `url`. Raises ArchiveUnavailable, naming the extra, unless it can be used."""
    scheme = url.partition("://")[0] if "://" in url else "file"
    try:
        zstd()
        module = cast("StoreModule", import_module(STORES.get(scheme, _OBJECTS)))
        module.check_installed()
    except ModuleNotFoundError as error:
        raise ArchiveUnavailable(f'{error.name} is not installed: pip install "runwire[archive]"') from error
    return module
