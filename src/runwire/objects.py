"""Object stores by URL, as obstore opens them: a folder, S3, Google Cloud Storage or Azure."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_REMOTE: Final[dict[str, Any]] = {
    "client_options": {"timeout": timedelta(seconds=20), "connect_timeout": timedelta(seconds=5)},
    "retry_config": {"max_retries": 2, "retry_timeout": timedelta(seconds=10)},
}


def open_objects(url: str) -> tuple[ObjectStore, Path | None]:
    """The store at `url`: `file:///folder`, `s3://bucket/prefix`, `gs://...`, `az://...`, or a folder's path; and that
    folder.

    Credentials, region and endpoint come from the environment, as each provider's own tools take them. Raises obstore's
    own errors and ValueError for a URL that is none, OSError for a folder that cannot be made, ModuleNotFoundError.
    """
    from obstore.store import LocalStore, from_url

    folder = folder_of(url)
    if folder is not None:
        return LocalStore(folder, mkdir=True), folder
    return from_url(url, **_remote_options()), None


def folder_of(url: str) -> Path | None:
    """The folder a `file:` URL or a plain path names; None for anything else."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(url).absolute() if "://" not in url else None


def first_line(error: BaseException) -> str:
    """Of the message: the rest is obstore's own data, and too long for a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def flush(folder: Path, path: str) -> None:
    """Flushes the data, then each folder up to the root, so that a power cut leaves either no entry or a whole file."""
    at = folder / path
    _fsync(at)
    while at != folder:
        at = at.parent
        _fsync(at)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remote_options() -> dict[str, Any]:
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    if not endpoint.startswith("http://"):
        return _REMOTE
    return {**_REMOTE, "client_options": {**_REMOTE["client_options"], "allow_http": True}}
