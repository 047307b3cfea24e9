"""The frames of mixed streams, and the ids in them. Pure."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Final

import msgspec

from runwire.model.text import whole_characters
from runwire.stream.piece import FRAME_END

FRAME_BYTES: Final = 8192
"""Bytes of a part in one frame, so that a frame fits into a piece of any size that the settings allow."""
PART_HEAD: Final = b"event: part\n"
"""Begins a frame that is about a part. No line of another frame is the same."""
_ID: Final = b"id: "
_encoder: Final = msgspec.json.Encoder()


def event_frame(event_id: str, json: bytes) -> bytes:
    """One event. `json` is one line."""
    return b"id: %b\ndata: %b\n\n" % (event_id.encode("ascii"), json)


def reset_frame(event_id: str, n: int, attempt: int) -> bytes:
    """The beginning of another attempt: what the client has of the part is void."""
    return _part(event_id, {"part": n, "attempt": attempt, "offset": 0, "reset": True})


def content_frame(event_id: str, n: int, attempt: int, at: int, data: bytes, *, is_text: bool) -> bytes:
    """Bytes of a part from offset `at` on; as base64 unless they are text, and not only claim to be."""
    content: dict[str, object] = {"part": n, "attempt": attempt, "offset": at}
    if is_text:
        try:
            content["text"] = data.decode()
        except UnicodeDecodeError:
            is_text = False
    if not is_text:
        content["base64"] = base64.b64encode(data).decode()
    return _part(event_id, content)


def _part(event_id: str, content: dict[str, object]) -> bytes:
    return PART_HEAD + b"id: %b\ndata: %b\n\n" % (event_id.encode("ascii"), _encoder.encode(content))


def portions(data: bytes, *, is_text: bool) -> Iterator[bytes]:
    """The bytes in portions for a frame each. No character of a text is cut."""
    while len(data) > FRAME_BYTES:
        portion = data[:FRAME_BYTES]
        if is_text:
            portion = whole_characters(portion) or portion
        yield portion
        data = data[len(portion) :]
    if data:
        yield data


def ids_in(frames: bytes) -> list[str]:
    """The id of each frame."""
    return [_id_in(frame) for frame in frames.split(FRAME_END)[:-1]]


def last_id_in(frames: bytes) -> str:
    """The id of the last frame."""
    before = frames.rfind(FRAME_END, 0, -len(FRAME_END))
    return _id_in(frames[before + len(FRAME_END) if before >= 0 else 0 :])


def _id_in(frame: bytes) -> str:
    start = frame.index(_ID) + len(_ID)
    return frame[start : frame.index(b"\n", start)].decode("ascii")
