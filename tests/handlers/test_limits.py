"""What one connection may cost, by raw sockets, on a service that asks nobody who they are."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from resource import RLIMIT_NOFILE, getrlimit, setrlimit
from typing import Any

import pytest
import websockets
from websockets.sync.client import ClientConnection, connect

from realtime.config import Config, Limits
from realtime.handlers.bounds import Bounds
from realtime.metrics import Metrics
from realtime.serve import raise_files
from tests.fuzz.node import Running, memory, running
from tests.wait import until

FIN, RSV1, TEXT, BINARY, CONTINUED, CLOSE, PING, PONG = 0x80, 0x40, 1, 2, 0, 8, 9, 10
PUT = "PUT /v1/memory/rooms/attic HTTP/1.1\r\nHost: localhost\r\n"


@contextmanager
def limited(**limits: float) -> Iterator[Running]:
    with running(Config(port=0, drain=1, limits=Limits(**limits))) as node:  # type: ignore[arg-type]
        yield node


@pytest.fixture(scope="module")
def node() -> Iterator[Running]:
    """As it is shipped."""
    with running() as node:
        yield node


def refused(node: Running, limit: str) -> float:
    counted: float = node.service.metrics.limited.labels(limit)._value.get()
    return counted


class Raw:
    """A connection by hand."""

    def __init__(self, node: Running, said: str | bytes = b"") -> None:
        self.socket = socket.create_connection(("127.0.0.1", node.port), 10)
        self.heard = b""
        self.send(said.encode() if isinstance(said, str) else said)

    def send(self, data: bytes) -> None:
        with suppress(ConnectionError):  # closed before all of it was there
            self.socket.sendall(data)

    def hear(self, enough: Callable[[bytes], object] = lambda heard: False, seconds: float = 10) -> bytes:
        """Until it is enough, or the other end hangs up."""
        self.socket.settimeout(seconds)
        with suppress(ConnectionError):
            while not enough(self.heard):
                if not (part := self.socket.recv(1 << 16)):
                    break
                self.heard += part
        return self.heard

    def drip(self, data: bytes, pause: float = 0.1) -> float:
        """One byte after the other, until the other end hangs up: after how many seconds."""
        begin = time.monotonic()
        self.socket.settimeout(pause)
        with suppress(ConnectionError):
            for byte in data:
                self.socket.sendall(bytes([byte]))
                try:
                    if not self.socket.recv(1 << 16):
                        break
                except TimeoutError:
                    continue
        return time.monotonic() - begin

    def status(self) -> int:
        return int(self.hear(lambda heard: b"\r\n\r\n" in heard).split()[1])


def answer(node: Running, said: str | bytes) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers, error."""
    raw = Raw(node, said)
    head, _, rest = raw.hear(lambda heard: b"}}" in heard.partition(b"\r\n\r\n")[2]).partition(b"\r\n\r\n")
    raw.socket.close()
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), json.loads(rest)["error"]


def upgraded(node: Running) -> Raw:
    lines = ["GET /v1/ws HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "", ""]
    raw = Raw(node, "\r\n".join(lines))
    assert raw.status() == 101
    return raw


def frame(first: int, payload: bytes = b"", size: int | None = None) -> bytes:
    """Masked with nought; `size`: what it says that it has."""
    size = len(payload) if size is None else size
    short, length = (size, b"") if size < 126 else (126, size.to_bytes(2)) if size < 65536 else (127, size.to_bytes(8))
    return bytes([first, 0x80 | short]) + length + bytes(4) + payload


def close_code(heard: bytes) -> int | None:
    """Of the last frame, if it is a good-bye."""
    at = heard.rfind(b"\x88")
    return int.from_bytes(heard[at + 2 : at + 4]) if at >= 0 else None


@contextmanager
def talking(node: Running) -> Iterator[ClientConnection]:
    with connect(f"ws://127.0.0.1:{node.port}/v1/ws", compression=None) as connection:
        connection.recv(5)  # welcome
        yield connection


def say(connection: ClientConnection, **message: object) -> None:
    connection.send(json.dumps(message))


def hear(connection: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(connection.recv(5))
    return message


# sizes --------------------------------------------------------------------------------------------------------------


def test_a_message_has_its_size_and_the_head_of_a_larger_one_is_enough(node: Running) -> None:
    with talking(node) as connection:
        connection.send('{"type":"ping"' + " " * (65_536 - 15) + "}")
        assert hear(connection) == {"type": "pong"}
    raw = upgraded(node)
    raw.send(frame(FIN | TEXT, size=70_000))
    assert close_code(raw.hear()) == 1009


def test_a_message_in_many_pieces_has_the_same_size(node: Running) -> None:
    raw = upgraded(node)
    raw.send(frame(TEXT, b"x" * 1000) + frame(CONTINUED, b"x" * 1000) * 69)
    assert close_code(raw.hear()) == 1009


def test_a_message_may_be_set_smaller() -> None:
    with limited(message_bytes=100) as node:
        raw = upgraded(node)
        raw.send(frame(FIN | TEXT, b"x" * 101))
        assert close_code(raw.hear()) == 1009


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_has_its_size_and_is_told(chunked: bool) -> None:
    with limited(body_bytes=1000) as node:
        fits, larger = json.dumps("x" * 998), json.dumps("x" * 999)
        for body, status in ((fits, 200), (larger, 413)):
            head = "Transfer-Encoding: chunked\r\n\r\n" if chunked else f"Content-Length: {len(body)}\r\n\r\n"
            text = f"{len(body):x}\r\n{body}\r\n0\r\n\r\n" if chunked else body
            raw = Raw(node, PUT + head + text)
            assert raw.status() == status
        assert b"a body of 1001 bytes" in raw.heard
        assert refused(node, "body_bytes") == 1


def test_a_body_that_nobody_asked_for_has_a_bound_too(node: Running) -> None:
    raw = Raw(node, f"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: {2 << 20}\r\n\r\n")
    raw.send(b"x" * 65536)
    assert raw.status() == 400


def test_headers_have_their_size(node: Running) -> None:
    for size, status in ((15_000, b"HTTP/1.1 200 "), (17_000, b"")):
        raw = Raw(node, f"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: {'x' * size}\r\n\r\n")
        assert raw.hear().startswith(status)
    assert raw.heard == b""


@pytest.mark.parametrize("key", ["a\0b", "a\nb", "a\x1fb", "a\x7fb", "ü" * 257])
def test_what_can_be_no_key_is_refused_on_every_way(node: Running, key: str) -> None:
    path = f"/v1/memory/rooms/{''.join(f'%{byte:02x}' for byte in key.encode())}"
    for method in ("GET", "PUT", "POST", "PATCH", "DELETE"):
        for query in ("", "?wait=1") if method != "GET" else ("", "?wait=0", "?stream=ndjson"):
            status, _, error = answer(
                node, f"{method} {path}{query} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n1"
            )
            assert (status, error["code"], error["message"][:9]) == (400, "bad_request", "not a key"), (method, query)
    with talking(node) as connection:
        say(connection, type="subscribe", id=1, channel="memory/rooms", key=key)
        assert hear(connection)["message"].startswith("not a key")


@pytest.mark.parametrize("key", ["7,8%2C9", "ключ é 😀", "ü" * 256, "{}*?[]", "a b", "\x80"])
def test_what_looks_odd_may_be_a_key(node: Running, key: str) -> None:
    path = f"/v1/memory/rooms/{''.join(f'%{byte:02x}' for byte in key.encode())}"
    assert Raw(node, f"PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n1").status() == 200
    with talking(node) as connection:
        say(connection, type="subscribe", id=1, channel="memory/rooms", key=key)
        assert hear(connection)["items"] == {key: 1}


def test_a_snapshot_has_its_size() -> None:
    with limited(snapshot_items=2, snapshot_bytes=20) as node:
        for collection, keys, value in (("many", "abc", b"1"), ("large", "ab", b'"0123456789"'), ("fine", "ab", b"1")):
            for key in keys:
                head = f"PUT /v1/memory/{collection}/{key} HTTP/1.1\r\nHost: localhost\r\n"
                assert Raw(node, f"{head}Content-Length: {len(value)}\r\n\r\n{value.decode()}").status() == 200
        with talking(node) as connection:
            for id_, said in (("many", "more than 2 items"), ("large", "more than 20 bytes")):
                say(connection, type="subscribe", id=id_, channel=f"memory/{id_}")
                assert hear(connection)["message"] == f"memory/{id_} has {said}"
            say(connection, type="subscribe", id="fine", channel="memory/fine")
            assert hear(connection)["items"] == {"a": 1, "b": 1}
        assert (refused(node, "snapshot_items"), refused(node, "snapshot_bytes")) == (1, 1)


# packed -------------------------------------------------------------------------------------------------------------


def test_compression_is_not_agreed_on(node: Running) -> None:
    with connect(f"ws://127.0.0.1:{node.port}/v1/ws", compression="deflate") as connection:
        assert connection.response is not None
        assert "Sec-WebSocket-Extensions" not in connection.response.headers


def test_a_packed_message_ends_the_connection(node: Running) -> None:
    raw = upgraded(node)
    raw.send(frame(FIN | RSV1 | TEXT, b"x" * 10))
    raw.hear()  # to its end
    assert b"error" not in raw.heard


def test_a_packed_body_is_refused_and_never_unpacked(node: Running) -> None:
    bomb = gzip.compress(bytes(200 << 20), 1)
    before = memory()
    head = f"{PUT}Content-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n"
    status, _, error = answer(node, head.encode() + bomb)
    assert (status, error["code"], error["message"]) == (415, "unsupported", "a packed body")
    assert memory() - before < 20 << 20


# times --------------------------------------------------------------------------------------------------------------


def test_headers_that_drip_are_not_waited_for() -> None:
    with limited(idle_seconds=1) as node:
        assert 0.5 < Raw(node).drip(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1000) < 3


def test_a_body_that_drips_is_not_waited_for() -> None:
    with limited(body_seconds=1) as node:
        raw = Raw(node, f"{PUT}Content-Length: 1000\r\n\r\n")
        assert 0.5 < raw.drip(b"1" * 1000) < 3


def test_a_connection_that_is_idle_is_closed_and_one_that_lasts_is_not() -> None:
    with limited(idle_seconds=1, body_seconds=1) as node, talking(node) as connection:
        idle = Raw(node, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        stream = Raw(node, "GET /v1/memory/rooms?stream=ndjson HTTP/1.1\r\nHost: localhost\r\n\r\n")
        poll = Raw(node, "GET /v1/memory/rooms/attic?wait=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        cursor = json.loads(poll.hear(lambda heard: b"}" in heard).partition(b"\r\n\r\n")[2])["cursor"]
        poll = Raw(node, f"GET /v1/memory/rooms/attic?wait=3&cursor={cursor} HTTP/1.1\r\nHost: localhost\r\n\r\n")
        idle.hear()  # to its end
        assert poll.status() == 200  # after three seconds
        put = Raw(node, f"{PUT}Content-Length: 1\r\n\r\n1")
        assert put.status() == 200
        assert b'"event"' in stream.hear(lambda heard: b'"event"' in heard)
        say(connection, type="ping")
        assert hear(connection) == {"type": "pong"}


# rates --------------------------------------------------------------------------------------------------------------


def test_who_sends_too_much_is_told_and_who_goes_on_is_shown_out() -> None:
    with limited(messages=1) as node, talking(node) as connection:
        for _ in range(4):
            say(connection, type="ping")
        say(connection, type="unsubscribe", id="mine")
        answers = [hear(connection) for _ in range(5)]
        assert [each["type"] for each in answers] == ["pong"] * 4 + ["error"]
        assert (answers[-1]["id"], answers[-1]["code"]) == ("mine", "too_many")
        with suppress(websockets.ConnectionClosed):
            for _ in range(1000):
                say(connection, type="ping")
            while True:
                assert hear(connection)["code"] == "too_many"
        assert connection.close_code == 4429
        assert refused(node, "messages") > 20


@pytest.mark.parametrize("opcode", [PING, PONG])
def test_control_frames_count(opcode: int) -> None:
    with limited(messages=1) as node:
        raw = upgraded(node)
        raw.send(frame(FIN | opcode) * 1000)
        raw.hear(lambda heard: close_code(heard) == 4429)
        assert close_code(raw.heard) == 4429


def test_what_is_malformed_counts() -> None:
    with limited(messages=1) as node:
        raw = upgraded(node)
        raw.send(frame(FIN | TEXT, b"{") * 1000)
        raw.hear(lambda heard: close_code(heard) == 4429)
        assert 4 <= raw.heard.count(b"bad_request") <= 6  # some come back meanwhile


def test_subscribes_have_a_rate_of_their_own() -> None:
    with limited(messages=1, subscribes=2) as node, talking(node) as connection:
        for id_ in range(9):
            say(connection, type="subscribe", id=id_, channel="memory/rooms", key=str(id_))
        answers = [hear(connection) for _ in range(9)]
        assert sum(each["type"] == "subscribed" for each in answers) == 8
        assert [(each["id"], each["code"]) for each in answers if each["type"] == "error"] == [(8, "too_many")]
        assert refused(node, "subscribes") == 1


def test_all_that_one_may_have_may_come_and_go_at_once(node: Running) -> None:
    with talking(node) as connection:
        for id_ in range(128):
            say(connection, type="subscribe", id=id_, channel="memory/rooms", key=str(id_))
        assert {hear(connection)["type"] for _ in range(128)} == {"subscribed"}
        say(connection, type="subscribe", id=128, channel="memory/rooms")
        assert hear(connection)["message"] == "more than 128 subscriptions on one connection"
        for id_ in range(128):
            say(connection, type="unsubscribe", id=id_)
        assert {hear(connection)["type"] for _ in range(128)} == {"unsubscribed"}


def test_subscriptions_of_a_connection_may_be_set() -> None:
    with limited(subscriptions=2) as node, talking(node) as connection:
        for id_ in range(3):
            say(connection, type="subscribe", id=id_, channel="memory/rooms", key=str(id_))
        assert sorted(hear(connection)["type"] for _ in range(3)) == ["error", "subscribed", "subscribed"]


def test_an_open_service_counts_no_writes(node: Running) -> None:
    raw = Raw(node, f"{PUT}Content-Length: 1\r\n\r\n1" * 200)
    raw.hear(lambda heard: heard.count(b"HTTP/1.1 200 ") == 200)
    assert raw.heard.count(b"HTTP/1.1 200 ") == 200


# numbers ------------------------------------------------------------------------------------------------------------

WAYS = {
    "websocket": "GET /v1/ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
    "sse": "GET /v1/memory/rooms HTTP/1.1\r\nAccept: text/event-stream\r\n",
    "ndjson": "GET /v1/memory/rooms?stream=ndjson HTTP/1.1\r\n",
    "poll": "GET /v1/memory/rooms?wait=5 HTTP/1.1\r\n",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_node_has_room_for_so_many(way: str) -> None:
    asked = f"{WAYS[way]}Host: localhost\r\n\r\n"
    with limited(connections=3) as node, ExitStack() as stack:
        first, *_ = [stack.enter_context(talking(node)) for _ in range(3)]
        for _ in range(5):
            status, headers, error = answer(node, asked)
            assert (status, error["code"]) == (503, "full")
            assert 1 <= int(headers["Retry-After"]) <= 5
        assert refused(node, "connections") == 5
        assert Raw(node, "GET /v1/memory/rooms HTTP/1.1\r\nHost: localhost\r\n\r\n").status() == 200
        first.close()
        asyncio.run(until(lambda: node.holds()["websocket"] == 2))
        assert Raw(node, asked).status() in (101, 200)


def test_connections_are_fewer_than_files_and_those_as_many_as_there_may_be() -> None:
    soft, hard = getrlimit(RLIMIT_NOFILE)
    try:
        setrlimit(RLIMIT_NOFILE, (1024, hard))
        bounds = Bounds(Config(), Metrics(), asks=False)
        assert (bounds.most, bounds.most_sockets) == (512, 768)
        raise_files()
        assert getrlimit(RLIMIT_NOFILE) == (hard, hard)
    finally:
        setrlimit(RLIMIT_NOFILE, (soft, hard))
    few = Config(limits=Limits(connections=7))
    assert Bounds(few, Metrics(), asks=False).most == 7


def test_sockets_are_fewer_than_files(node: Running) -> None:
    bounds = node.service.door.bounds
    most, bounds.most_sockets = bounds.most_sockets, 0
    try:
        said = Raw(node, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").hear()
    finally:
        bounds.most_sockets = most
    assert said == b"" or said.startswith(b"HTTP/1.1 503 ")
    assert refused(node, "sockets") == 1
