"""How a message becomes frames, and frames a message.

A message is one header frame and, for a few kinds, payload frames. The header is two bytes, protocol version and flags,
and then the msgpack of the message struct. Bit 0 of the flags is kept for a compressed payload, which this version
never sends (see docs/wire.md for the measurement).
"""

from __future__ import annotations

import typing
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from qaicl.errors import BadFrame
from qaicl.wire.messages import AnyMessage, Message, PartialResult
from qaicl.wire.sockets import MAX_FRAME_BYTES

__all__ = ["FLAG_COMPRESSED", "MAX_HEADER_BYTES", "VERSION", "BadFrame", "bad_frames", "decode", "encode"]

VERSION = 1
FLAG_COMPRESSED = 0b1
MAX_HEADER_BYTES = 8 * 1024 * 1024
"""A prompt with all tokens so far fits many times."""
PREFIX = 2
PAYLOAD_FRAMES: dict[type[Message], int] = {PartialResult: 1}
"""How many payload frames a kind has; the others have none."""

bad_frames: Counter[str] = Counter()
"""How often ``decode`` refused, by reason, in this process."""

Part = bytes | bytearray | memoryview

_START = bytes((VERSION, 0))
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(AnyMessage)
_outline = msgspec.msgpack.Decoder(list[msgspec.Raw])
_KINDS = frozenset(kind.__name__ for kind in typing.get_args(AnyMessage))


def encode(message: Message, payload: Sequence[Part] = ()) -> list[Part]:
    """The frames of a message. Send them with ``copy=False`` and large payloads are not copied."""
    return [_START + _encoder.encode(message), *payload]


def decode(frames: Sequence[Any]) -> tuple[Message, list[Part]]:
    """The message in received frames (without the peer's identity) and its payload.

    Args:
        frames: anything with a buffer: bytes, or ``zmq.Frame`` objects, whose memory the payload then shares.

    Raises:
        BadFrame: with its reason, counted in ``bad_frames``. Nothing else, whatever the bytes are.
    """
    try:
        return _decode(frames)
    except BadFrame as error:
        bad_frames[error.reason] += 1
        raise


def _decode(frames: Sequence[Any]) -> tuple[Message, list[Part]]:
    if not frames:
        raise BadFrame("empty")
    header, payload = memoryview(frames[0]), frames[1:]
    if len(header) <= PREFIX:
        raise BadFrame("truncated", why=f"a header of {len(header)} bytes")
    if len(header) > MAX_HEADER_BYTES:
        raise BadFrame("oversized", why=f"a header of {len(header)} bytes")
    if header[0] != VERSION:
        raise BadFrame("version", why=f"protocol version {header[0]}, not {VERSION}")
    if header[1]:
        raise BadFrame("flags", why=f"flags {header[1]:#04x} are not known")
    message = _message(header[PREFIX:])
    if len(payload) != PAYLOAD_FRAMES.get(type(message), 0):
        raise BadFrame("payload", why=f"{type(message).__name__} with {len(payload)} payload frames")
    parts: list[Part] = [part if isinstance(part, bytes) else memoryview(part) for part in payload]
    if any(len(part) > MAX_FRAME_BYTES for part in parts):
        raise BadFrame("oversized", why="a payload frame above the limit")
    return message, parts


def _message(body: memoryview) -> Message:
    try:
        message: Message = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise BadFrame(_which(body), why=str(error)) from None
    except (msgspec.DecodeError, RecursionError, MemoryError, ValueError, OverflowError) as error:
        raise BadFrame("malformed", why=str(error)) from None
    return message


def _which(body: memoryview) -> str:
    """Well-formed msgpack that fits no message: is its kind unknown, or are its fields wrong?"""
    try:
        kind = msgspec.msgpack.decode(_outline.decode(body)[0], type=str)
    except (msgspec.DecodeError, RecursionError, MemoryError, ValueError, IndexError):
        return "malformed"
    return "fields" if kind in _KINDS else "kind"
