"""Frames that no client should send, by kind, and what becomes of a connection that sends one (RFC 6455, 5 and 7)."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from random import Random
from typing import NamedTuple

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
LIMIT = 1 << 16  # bytes of a message


class Bad(NamedTuple):
    """`ends`: the connection must be closed by it; else hang up, whatever it does."""

    kind: str
    data: bytes
    ends: bool = False
    malformed: bool = True


def frame(
    opcode: int,
    payload: bytes,
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = b"mask",
    length: int | None = None,
) -> bytes:
    """`length`: another than the payload's; `mask`: None for none."""
    size = len(payload) if length is None else length
    head = bytes([(fin << 7) | (rsv << 4) | opcode])
    bit = 0 if mask is None else 0x80
    if size < 126:
        head += bytes([bit | size])
    elif size < LIMIT:
        head += bytes([bit | 126]) + struct.pack(">H", size)
    else:
        head += bytes([bit | 127]) + struct.pack(">Q", size)
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def opcode(random: Random) -> Bad:
    return Bad("opcode", frame(random.choice([3, 4, 5, 6, 7, 11, 12, 13, 14, 15]), _some(random)))


def reserved(random: Random) -> Bad:
    return Bad("reserved bits", frame(random.choice([TEXT, BINARY, PING]), _some(random), rsv=random.randint(1, 7)))


def unmasked(random: Random) -> Bad:
    """Tornado takes it: who masks nothing deceives only the proxies between us."""
    return Bad("unmasked", frame(random.choice([BINARY, PING]), _some(random, 60), mask=None))


def too_short(random: Random) -> Bad:
    payload = _some(random)
    return Bad("ends early", frame(TEXT, payload, length=len(payload) + random.randint(1, 100_000)))


def too_long(random: Random) -> Bad:
    return Bad("behind the end", frame(PING, b"x" * 9, length=random.randint(0, 8)))


def huge(random: Random) -> Bad:
    return Bad(
        "too large", frame(BINARY, b"", length=random.choice([LIMIT + 1, 1 << 31, 1 << 40, (1 << 63) - 1])), True
    )


def negative(random: Random) -> Bad:
    return Bad("a length with its first bit set", frame(TEXT, b"", length=(1 << 63) + random.getrandbits(40)), True)


def roundabout(random: Random) -> Bad:
    """A short length written long, which the RFC forbids and nobody minds."""
    payload = b"{}"
    head = bytes([0x80 | TEXT]) + random.choice([b"\xfe" + struct.pack(">H", 2), b"\xff" + struct.pack(">Q", 2)])
    return Bad("a roundabout length", head + bytes(4) + payload)


def unfinished(random: Random) -> Bad:
    parts = [frame(TEXT, _some(random), fin=False)] + [
        frame(0, _some(random), fin=False) for _ in range(random.randint(0, 5))
    ]
    return Bad("fragments without end", b"".join(parts))


def swollen(_: Random) -> Bad:
    """Fragments that are too large together."""
    return Bad("large in pieces", frame(TEXT, b"x", fin=False) + frame(0, bytes(1024), fin=False) * 70, True)


def orphan(random: Random) -> Bad:
    return Bad("a continuation of nothing", frame(0, _some(random), fin=bool(random.getrandbits(1))), True)


def interrupted(random: Random) -> Bad:
    return Bad("a message within another", frame(TEXT, b"{", fin=False) + frame(TEXT, _some(random)), True)


def big_control(random: Random) -> Bad:
    return Bad(
        "a large control frame", frame(random.choice([CLOSE, PING, PONG]), bytes(random.randint(126, 400))), True
    )


def split_control(random: Random) -> Bad:
    return Bad("a control frame in pieces", frame(random.choice([CLOSE, PING, PONG]), b"x", fin=False), True)


def no_text(random: Random) -> Bad:
    payload = random.choice([b"\xff", b'{"type":"\xc3\x28"}', b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"abc\xe2\x82"])
    return Bad("text that is not UTF-8", frame(TEXT, payload), True)


def farewell(random: Random) -> Bad:
    code = random.choice([0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535])
    return Bad("an illegal close code", frame(CLOSE, struct.pack(">H", code) + _some(random, 50)), True)


def odd_farewell(random: Random) -> Bad:
    payload = random.choice([b"", b"\x03", b"\x03\xe8\xff\xfe", struct.pack(">H", 1000)])
    return Bad("an odd close", frame(CLOSE, payload), True)


def noise(random: Random) -> Bad:
    return Bad("noise", random.randbytes(random.randint(1, 200)))


def fine(random: Random) -> Bad:
    """What is a frame, with a message that may be none."""
    channel, number = random.choice(["memory/rooms", "a/b", "?"]), random.getrandbits(9)
    subscribe = {"type": "subscribe", "id": number, "channel": channel}
    unsubscribe = {"type": "unsubscribe", "id": number}
    said: object = random.choice([{"type": "ping"}, subscribe, unsubscribe, {"type": "shout"}, [], None, 1e300])
    return Bad("fine", frame(TEXT, json.dumps(said).encode()), malformed=False)


def pong(random: Random) -> Bad:
    return Bad("a control frame", frame(random.choice([PING, PONG]), _some(random, 125)), malformed=False)


def not_json(random: Random) -> Bad:
    nested = b'{"type":' + b"[" * random.choice([10, 5000])
    payload = random.choice([b"", b"{", b"\x00", b"NaN", nested, _some(random, 100).hex().encode()])
    return Bad("not JSON", frame(TEXT, payload), malformed=False)


def binary(random: Random) -> Bad:
    return Bad("binary on a text protocol", frame(BINARY, random.randbytes(random.randint(0, 300))), malformed=False)


Kind = Callable[[Random], Bad]
MALFORMED: list[Kind] = [unmasked, roundabout]  # and yet the connection goes on
FATAL: list[Kind] = [
    opcode,
    reserved,
    too_short,
    too_long,
    huge,
    negative,
    unfinished,
    swollen,
    orphan,
    interrupted,
    big_control,
    split_control,
    no_text,
    farewell,
    odd_farewell,
    noise,
]
FINE: list[Kind] = [fine, pong, not_json, binary]


def _some(random: Random, most: int = 300) -> bytes:
    return random.randbytes(random.randint(0, most))
