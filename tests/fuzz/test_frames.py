"""Malformed frames by raw socket: whatever comes, the node goes on, holds nothing of it and says nothing of itself."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from random import Random

import pytest
import websockets.sync.client

from tests.fuzz.frames import FATAL, FINE, MALFORMED, Bad, huge, swollen
from tests.fuzz.node import Running, memory, running

KEEP = 3  # frames of a connection before one that may end it
GROWTH = 24 << 20  # bytes that this process may grow by meanwhile: what Python's allocator keeps
CODES = {1000, 1002, 1003, 1007, 1009}  # which the RFC has for such mistakes; 1000 answers a good-bye
ECHOED = {"an illegal close code", "noise"}  # Tornado gives back what code a client closes with


@pytest.fixture
def node() -> Iterator[Running]:
    with running() as node:
        yield node


class Client:
    """One connection, past its handshake."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lines = ["GET /v1/ws HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"]
        lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "", ""]
        self._socket.sendall("\r\n".join(lines).encode())
        self.said = b""
        while b"\r\n\r\n" not in self.said:
            self._hear()
        assert self.said.startswith(b"HTTP/1.1 101 "), self.said
        self.said = self.said.partition(b"\r\n\r\n")[2]

    def _hear(self) -> bool:
        part = self._socket.recv(1 << 16)
        self.said += part
        return bool(part)

    def send(self, data: bytes) -> None:
        with suppress(ConnectionError):  # closed before all of it was there
            self._socket.sendall(data)

    def end(self, *, wait: bool) -> bytes:
        """All that was said to it. `wait` for the node to close, TimeoutError where it does not; or else hang up."""
        if not wait:
            with suppress(OSError):  # closed already
                self._socket.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while self._hear():
                pass
        self._socket.close()
        return self.said


def conversation(random: Random) -> list[Bad]:
    """What one connection sends: some that it survives, and one that it may not."""
    lasting = random.choices(FINE + MALFORMED * 2, k=KEEP)
    return [kind(random) for kind in [*lasting, random.choice(FATAL)]]


def heard(said: bytes) -> Iterator[tuple[int, bytes]]:
    """The node's frames: opcode and payload."""
    while len(said) >= 2:
        size, start = said[1] & 0x7F, 2
        if size == 126:
            size, start = int.from_bytes(said[2:4]), 4
        elif size == 127:
            size, start = int.from_bytes(said[2:10]), 10
        yield said[0] & 15, said[start : start + size]
        said = said[start + size :]


def check(sent: list[Bad], said: bytes) -> None:
    assert b"Traceback" not in said, sent
    assert b"internal" not in said, sent
    for opcode, payload in heard(said):
        if opcode == 1:
            json.loads(payload)
        elif opcode == 8 and payload and sent[-1].kind not in ECHOED:
            assert int.from_bytes(payload[:2]) in CODES, sent[-1]


def send(node: Running, frames: int, random: Random) -> Counter[str]:
    """So many malformed ones, and others between them; how many of which kind."""
    kinds: Counter[str] = Counter()
    while kinds.total() < frames:
        sent = conversation(random)
        client = Client(node.port)
        client.send(b"".join(each.data for each in sent))
        check(sent, client.end(wait=bool(sent[-1].ends)))
        kinds.update(each.kind for each in sent if each.malformed)
    return kinds


def flood(node: Running, frames: int, caplog: pytest.LogCaptureFixture) -> None:
    seed = int(os.environ.get("SEED", "5"))
    print(f"seed {seed}")
    random = Random(seed)
    before = node.holds()
    send(node, 1000, random)  # what is made once is made
    node.settles(before)
    size = memory()
    kinds = send(node, frames, random)
    print(dict(kinds))
    assert len(kinds) == len(FATAL) + len(MALFORMED)
    node.settles(before)
    assert memory() - size < GROWTH
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING] == []
    with websockets.sync.client.connect(f"ws://127.0.0.1:{node.port}/v1/ws") as fresh:
        assert json.loads(fresh.recv(5))["type"] == "welcome"
        fresh.send('{"type":"ping"}')
        assert json.loads(fresh.recv(5)) == {"type": "pong"}


def test_malformed_frames(node: Running, caplog: pytest.LogCaptureFixture) -> None:
    flood(node, 5_000, caplog)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_hundred_thousand_malformed_frames(node: Running, caplog: pytest.LogCaptureFixture) -> None:
    flood(node, 100_000, caplog)


@pytest.mark.parametrize("bad", [huge(Random(0)), swollen(Random(0))], ids=lambda bad: str(bad.kind))
def test_what_is_too_large_closes_with_1009(node: Running, bad: Bad) -> None:
    client = Client(node.port)
    client.send(bad.data)
    assert (8, b"\x03\xf1message too big") in list(heard(client.end(wait=True)))


def test_deflate_is_not_spoken(node: Running) -> None:
    """So that nothing small can become large here."""
    with websockets.sync.client.connect(f"ws://127.0.0.1:{node.port}/v1/ws", compression="deflate") as connection:
        assert connection.request is not None
        assert connection.response is not None
        assert "permessage-deflate" in connection.request.headers["Sec-WebSocket-Extensions"]
        assert "Sec-WebSocket-Extensions" not in connection.response.headers
