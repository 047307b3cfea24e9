"""Errors of content: of artifacts, their limits, and the store that has their bytes."""

from __future__ import annotations

from runwire.errors.kinds import RUN_ID, ExitCode, Fact, Kind, RunwireError
from runwire.errors.runs import AppendError

_MAX = Fact("max", "at_most", int, "The limit.")
_N = Fact("n", "n", int, "The number of the artifact.")


class ArtifactNotFound(RunwireError):
    """The run has no such artifact; `n` is None where it was looked for by name."""

    kind = Kind("artifact_not_found", 404, "The run has no such artifact.")
    facts = (RUN_ID, _N)
    exit_code = ExitCode.NOT_FOUND

    def __init__(self, run_id: str, n: int | None = None) -> None:
        super().__init__(f"run {run_id!r} has no such artifact")
        self.run_id = run_id
        self.n = n


class ArtifactErased(RunwireError):
    """The artifact was erased, or its time is over. Its bytes are gone."""

    kind = Kind("artifact_erased", 410, "The artifact was erased. Its bytes are gone.")
    facts = (RUN_ID, _N)
    exit_code = ExitCode.NOT_FOUND

    def __init__(self, run_id: str, n: int) -> None:
        super().__init__(f"artifact {n} of run {run_id!r} was erased")
        self.run_id = run_id
        self.n = n


class ArtifactTooLarge(RunwireError):
    """The content is larger than one artifact may be. Nothing was stored."""

    kind = Kind(
        "artifact_too_large", 413, "The content is larger than an artifact may be.", counted="artifacts_refused"
    )
    facts = (_MAX,)

    def __init__(self, at_most: int) -> None:
        super().__init__(f"an artifact has at most {at_most} bytes")
        self.at_most = at_most


class ContentQuotaExceeded(RunwireError):
    """The tenant has as many bytes of content as it may have. Nothing was stored."""

    kind = Kind(
        "content_quota_exceeded", 413, "The tenant has as much content as it may have.", counted="artifacts_refused"
    )
    facts = (RUN_ID, _MAX)

    def __init__(self, run_id: str, at_most: int) -> None:
        super().__init__(f"the content of this tenant has at most {at_most} bytes")
        self.run_id = run_id
        self.at_most = at_most


class TooManyArtifacts(RunwireError):
    """The run has as many artifacts as it may have. Nothing was stored."""

    kind = Kind("too_many_artifacts", 429, "The run has as many artifacts as it may have.", counted="artifacts_refused")
    facts = (RUN_ID, _MAX)

    def __init__(self, run_id: str, at_most: int) -> None:
        super().__init__(f"run {run_id!r} has {at_most} artifacts, which is the limit")
        self.run_id = run_id
        self.at_most = at_most


class RangeNotSatisfiable(RunwireError):
    """The content has no such bytes; `size` is how many it has."""

    kind = Kind("range_not_satisfiable", 416, "The content has no such bytes.")
    facts = (Fact("size", "size", int, "Bytes of the content."),)

    def __init__(self, size: int) -> None:
        super().__init__(f"the content has {size} bytes")
        self.size = size


class ContentLost(AppendError):
    """The upload that the artifact was to be made of has been collected. Nothing was stored. Store it anew."""

    kind = Kind(
        "content_lost",
        503,
        "The upload was collected before the artifact was stored. Send it again.",
        counted="append_failures",
    )

    def __init__(self, run_id: str, detail: str = "the upload of an artifact took longer than the grace") -> None:
        super().__init__(run_id, detail)


class ContentUnavailable(RunwireError):
    """The content store does not answer, is not set up here, or gave back other bytes than were stored."""

    kind = Kind("content_unavailable", 503, "The content store does not answer, or lacks the bytes.")
    exit_code = ExitCode.UNREACHABLE
