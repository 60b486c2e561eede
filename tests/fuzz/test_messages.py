"""Every message that a client can send, and many that it should not: each is answered, and nothing is left of it.

Messages are made of the fields that there are, then damaged: a field left out, of another type, or unknown; and at last
a byte here and there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import msgpack
import pytest
import requests
import websockets.sync.client
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from websockets.sync.client import ClientConnection
from websockets.typing import Subprotocol

from realtime import errors
from realtime.protocol import CHANNEL, CURSOR, Codec, Failure, Subscribed, decode_message
from tests.fuzz.node import Running, running

SEED = int(os.environ.get("SEED", "5"))
CODES = {each.code for each in vars(errors).values() if isinstance(each, type) and hasattr(each, "code")}
UNASKED = {"welcome", "event", "reset", "cursor", "source"}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats()
anything = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
ids = st.integers(0, 3) | st.text("ab", min_size=1, max_size=2) | st.just("x" * 128)
channels = st.sampled_from(["memory/rooms", "memory/none", "oracle/rooms"]) | st.from_regex(CHANNEL, fullmatch=True)
keys = st.none() | st.sampled_from(["attic", "cellar"]) | texts
cursors = st.none() | st.sampled_from(["v1.x.0", "v1.x.9999999999999999", "v1..", "v1"]) | st.from_regex(CURSOR)
modes, rates = st.none() | st.sampled_from(["latest", "all"]), st.none() | st.floats() | st.just(2)


def message(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"type": st.just(kind), **fields})


good = st.one_of(
    message("ping"),
    message("unsubscribe", id=ids),
    message("auth", token=texts),
    message("subscribe", id=ids, channel=channels),
    message("subscribe", id=ids, channel=channels, key=keys, cursor=cursors, mode=modes, max_rate=rates),
    message("subscribe", id=ids, channel=st.just("memory/rooms"), key=keys, max_rate=st.just(2)),
)


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    said = draw(good)
    match draw(st.integers(0, 5)):
        case 0:
            del said[draw(st.sampled_from([*said]))]
        case 1 | 2:
            said[draw(st.sampled_from([*said]))] = draw(anything)
        case 3:
            said[draw(texts)] = draw(anything)
        case 4:
            return draw(anything)
        case _:
            return [said]
    return said


messages = good | damaged()


def pack(said: Any) -> bytes:
    packed: bytes = msgpack.packb(said)
    return packed


@st.composite
def bytes_damaged(draw: st.DrawFn, encode: Callable[[Any], bytes]) -> bytes:
    data = bytearray(encode(draw(messages)))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        data[place : place + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)


def to_json(said: Any) -> bytes:
    return json.dumps(said).encode()


odd = [b"", b"[" * 10_000, b'{"type":"subscribe","id":' + b"9" * 5_000 + b',"channel":"memory/rooms"}']
odd += [b'{"type":"subscribe","id":1,"channel":"memory/rooms","max_rate":1e999}', b'{"type":"ping","type":"auth"}']
odd += [b'{"type":"unsubscribe","id":1e400}', b"\xef\xbb\xbf{}", b'{"type":"unsubscribe","id":"\\ud800"}']
odd_packed = [msgpack.packb(msgpack.Timestamp(1, 1)), msgpack.packb({"type": b"ping"}), msgpack.packb({1: 2}), b"\xc1"]
odd_packed += [msgpack.packb({"type": "unsubscribe", "id": msgpack.ExtType(5, b"x")}), b"\xdf\xff\xff\xff\xff"]
odd_packed += [b"\x91" * 10_000, b"\xdd\x7f\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xa2\xff\xfe", b""]

Sent = bytes | str


def one_of_these(large: list[bytes]) -> st.SearchStrategy[bytes]:
    """`sampled_from` would write all of them into its name."""
    return st.integers(0, len(large) - 1).map(lambda number: large[number])


as_text = (messages.map(to_json) | bytes_damaged(to_json) | one_of_these(odd)).map(
    lambda data: data.decode(errors="replace")
)
as_bytes = messages.map(pack) | bytes_damaged(pack) | one_of_these(odd_packed)
FRAMES: dict[Codec, st.SearchStrategy[Sent]] = {
    "json": st.one_of(as_text, as_text, as_text, as_bytes),
    "msgpack": st.one_of(as_bytes, as_bytes, as_bytes, as_text),
}


@contextmanager
def connected(node: Running, codec: Codec) -> Iterator[ClientConnection]:
    url = f"ws://127.0.0.1:{node.port}/v1/ws"
    with websockets.sync.client.connect(url, subprotocols=[Subprotocol(f"realtime.v1.{codec}")]) as connection:
        assert decode_message(connection.recv(5), codec)
        yield connection


def answer(connection: ClientConnection, codec: Codec) -> Any:
    """The next message that does not come by itself; TimeoutError where there is none."""
    while True:
        frame = connection.recv(5)
        plain = json.loads(frame) if codec == "json" else msgpack.unpackb(frame)
        said = decode_message(frame, codec)
        if plain["type"] not in UNASKED and not getattr(said, "more", False):
            return said


def check(sent: Sent, said: Any) -> None:
    if isinstance(said, Failure):
        assert said.code in CODES - {"internal"}, (sent, said)
        assert len(said.message) < 600, (sent, said)
        assert "Traceback" not in said.message
    if isinstance(said, Subscribed):
        assert CHANNEL.fullmatch(said.channel)


def converse(node: Running, codec: Codec, frames: list[Sent], *, hasty: bool) -> None:
    """One by one, or all of it and gone."""
    with connected(node, codec) as connection:
        for frame in frames:
            connection.send(frame)
            if not hasty:
                check(frame, answer(connection, codec))
        if not hasty:
            connection.send('{"type":"ping"}' if codec == "json" else msgpack.packb({"type": "ping"}))
            assert type(answer(connection, codec)).__name__ == "Pong"


def fuzz(codec: Codec, examples: int) -> None:
    print(f"seed {SEED}")
    with running() as node:
        before = node.holds()
        requests.put(f"{node.base}/v1/memory/rooms/attic", json={"temp": 20}, timeout=5).raise_for_status()

        @seed(SEED)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @given(st.lists(FRAMES[codec], min_size=1, max_size=8), st.booleans())
        def every_message_is_answered(frames: list[Sent], hasty: bool) -> None:
            converse(node, codec, frames, hasty=hasty)

        every_message_is_answered()
        node.settles(before)


# the node, in its thread, draws lots, too
quiet = pytest.mark.filterwarnings("ignore:Do not use the .random. module")
CODECS: list[Literal["json", "msgpack"]] = ["json", "msgpack"]


@quiet
@pytest.mark.parametrize("codec", CODECS)
def test_every_message_is_answered_and_leaves_nothing(codec: Codec) -> None:
    fuzz(codec, 150)


@quiet
@pytest.mark.long
@pytest.mark.timeout(900)
@quiet
@pytest.mark.parametrize("codec", CODECS)
def test_thousands_of_messages(codec: Codec) -> None:
    fuzz(codec, 4_000)
