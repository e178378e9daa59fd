"""Frames: what is encoded comes back, and nothing that arrives can do harm."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path

import msgspec
import pytest
import zmq

from qaicl.errors import BadFrame
from qaicl.inference.engine import ChatMessage, Sampling
from qaicl.wire import frames, messages

SPEC = messages.RequestSpec(
    id="r-1", trace="t-1", model="m", messages=(ChatMessage("user", "héllo"),), sampling=Sampling(seed=7)
)
SAMPLES: list[tuple[messages.Message, list[bytes]]] = [
    (messages.HealthCheck(3, "o-1", 9), []),
    (messages.Submit(SPEC, 2), []),
    (messages.Tokens("r-1", 5, 0, (messages.Token(1, "a"), messages.Token(2, "", "stop")), 4, "stop"), []),
    (messages.PartialResult("r-1", 5, 0, 2, "float32", True), [bytes(range(64))]),
    (messages.StatusReply({"nodes": [{"name": "n-1", "cpu": 0.5}], "queue": {"waiting": 0}}), []),
    (
        messages.Completed(
            messages.Outcome(
                "r", "t", "m", "split", (messages.StageRef("n", 0, 3),), 4, "stop", 7, 0.1, 2.0, 3.0,
                (messages.Failover(1, "a", "b", "closed", 1.0, 2.0),),
            )
        ),
        [],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("message", "payload"), SAMPLES, ids=lambda value: type(value).__name__)
def test_a_message_comes_back(message: messages.Message, payload: list[bytes]) -> None:
    decoded, parts = frames.decode(frames.encode(message, payload))
    assert decoded == message
    assert [bytes(part) for part in parts] == payload


def test_received_frames_share_their_memory() -> None:
    data = bytes(1 << 20)
    received = [
        zmq.Frame(bytes(part)) for part in frames.encode(messages.PartialResult("r", 1, 0, 1, "float32", True), [data])
    ]
    _, (part,) = frames.decode(received)
    assert isinstance(part, memoryview)
    assert isinstance(part.obj, zmq.Frame)


def address_space_peak() -> int:
    """Kilobytes this process has ever asked for at once, also where it never touched them."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmPeak:")[1].split()[0])


def refuse(parts: list[bytes]) -> str:
    with pytest.raises(BadFrame) as caught:
        frames.decode(parts)
    return caught.value.reason


def header(body: bytes, version: int = frames.VERSION, flags: int = 0) -> list[bytes]:
    return [bytes((version, flags)) + body]


GOOD = bytes(frames.encode(messages.HealthCheck(3, "o-1", 9))[0])[2:]


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([], "empty"),
        ([b""], "truncated"),
        ([b"\x01"], "truncated"),
        (header(GOOD, version=2), "version"),
        (header(GOOD, flags=frames.FLAG_COMPRESSED), "flags"),
        (header(GOOD[:-1]), "malformed"),
        (header(GOOD + b"\x00"), "malformed"),
        (header(b"\xc1"), "malformed"),
        (header(msgspec.msgpack.encode(["Nonsense", 1])), "kind"),
        (header(msgspec.msgpack.encode([1, 2])), "malformed"),
        (header(msgspec.msgpack.encode([])), "malformed"),
        (header(msgspec.msgpack.encode({"kind": "HealthCheck"})), "malformed"),
        (header(msgspec.msgpack.encode(["HealthCheck", "three", "o", 1])), "fields"),
        (header(msgspec.msgpack.encode(["HealthCheck"])), "fields"),
        (header(msgspec.msgpack.encode(["StatusReply", {"a": b"\xff"}])[:-1] + b"\xa1\xff"), "malformed"),
        ([*header(GOOD), b"payload"], "payload"),
        ([bytes(frames.encode(messages.PartialResult("r", 1, 0, 1, "float32", True))[0])], "payload"),
        (header(bytes(frames.MAX_HEADER_BYTES)), "oversized"),
        (header(b"\x91" * 100_000), "malformed"),
    ],
)
def test_what_is_no_message_is_refused_with_its_reason(parts: list[bytes], reason: str) -> None:
    before = frames.bad_frames[reason]
    assert refuse(parts) == reason
    assert frames.bad_frames[reason] == before + 1


@pytest.mark.parametrize("kind", ["StatusReply", "ConfigUpdate", "Heartbeat"])
@pytest.mark.parametrize("container", [b"\xdd\x7f\xff\xff\xff", b"\xdf\x7f\xff\xff\xff", b"\xdb\x7f\xff\xff\xff"])
def test_a_claimed_length_takes_no_memory(kind: str, container: bytes) -> None:
    """Four bytes that announce two thousand million elements must not be believed."""
    before = address_space_peak()
    fields = len(msgspec.structs.fields(getattr(messages, kind)))
    for position in range(1, fields + 1):
        body = bytes((0x90 + fields + 1,)) + msgspec.msgpack.encode(kind) + b"\x01" * (position - 1) + container
        refuse(header(body))
        refuse(header(bytes((0x90 + fields + 1,)) + msgspec.msgpack.encode(kind) + b"\x81\xa1a" + container))
    assert address_space_peak() - before < 100_000


def test_a_hundred_thousand_hostile_frames() -> None:
    draw = random.Random(20)
    good = [[bytes(part) for part in frames.encode(message, payload)] for message, payload in SAMPLES]
    outlines = [msgspec.msgpack.decode(parts[0][2:]) for parts in good]
    refused = decoded = 0
    before, counted = address_space_peak(), frames.bad_frames.total()
    start = time.monotonic()
    for number in range(100_000):
        parts = [bytearray(part) for part in draw.choice(good)]
        match number % 6:
            case 0:
                del parts[0][draw.randrange(len(parts[0])) :]
            case 1:
                for _ in range(draw.randint(1, 4)):
                    parts[0][draw.randrange(len(parts[0]))] = draw.randrange(256)
            case 2:
                parts = [bytearray(draw.randbytes(draw.randrange(40))) for _ in range(draw.randrange(4))]
            case 3:
                parts[0][2:] = draw.randbytes(draw.randrange(60))
            case 4:
                place = draw.randrange(2, len(parts[0]))
                marker = draw.choice((0xC4, 0xC6, 0xC7, 0xC9, 0xD9, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF))
                parts[0][place : place + 1] = bytes((marker,)) + struct.pack(">I", draw.getrandbits(31))
            case _:
                outline = list(draw.choice(outlines))
                outline[draw.randrange(len(outline))] = draw.choice(
                    (None, -1, 2**63, "x", [], {}, 1.5, [[[]]], b"\xff")
                )
                parts[0][2:] = msgspec.msgpack.encode(outline)
        try:
            frames.decode(parts)
            decoded += 1
        except BadFrame:
            refused += 1
    assert refused + decoded == 100_000
    assert refused > 70_000
    assert frames.bad_frames.total() - counted == refused
    assert address_space_peak() - before < 100_000
    assert time.monotonic() - start < 30
