"""One conversation of a client with a node, over each of the transports; all four are one story in docs/protocol.md.

A conversation goes on until it is cancelled, which is how a client leaves, or until it has Ended in some way; it is
never told apart how, as a client has to come back in the same way after all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import NoReturn
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Raw, Struct

from ..protocol import (
    Codec,
    Event,
    Failure,
    Ping,
    ServerMessage,
    Source,
    Subscribe,
    Subscribed,
    decode_message,
    tag_of,
    to_msgpack,
)
from .checker import Observer, Polled
from .connection import Answer, Defect, Ended, WebSocket, connected
from .eventstream import EventStream, Sent

SECOND, DEAD = (
    1.0,
    3,
)  # a WebSocket that is silent for so long is asked for a sign of life; so often in a row, it is dead
HEAD = 10.0  # seconds that a node may take to answer a subscribe over HTTP
SILENCE = 20.0  # seconds after which a stream, which says something every 15 s, is dead
WAIT = 2  # seconds that a poll waits

# What a node may say in a fault; all else that it refuses with is a mistake of its own, or of ours.
PASSING = {"store_down", "broker_down", "unavailable", "draining", "too_slow", "refused", "unknown_channel"}


class Conversation:
    """Of one client, with one node; `observers` take what it hears, one of them each selection."""

    def __init__(
        self,
        transport: str,
        address: str,
        observers: Sequence[Observer],
        *,
        politely: bool = True,
        reading: asyncio.Event | None = None,
        buffer: int = 0,
    ) -> None:
        """`politely`: how it leaves. `reading`: it takes nothing (WebSocket only) before this is set. `buffer`: bytes
        that may wait on its side to be read (0: as usual)."""
        self.transport, self.address, self.observers = transport, address, observers
        self.politely, self.reading, self.buffer = politely, reading, buffer
        self.messages = 0
        self._answers = 0

    async def go_on(self) -> NoReturn:
        """Until it is cancelled. Raises Ended, or Defect."""
        try:
            await TRANSPORTS[self.transport](self)
            raise Ended("said good-bye")
        finally:
            for observer in self.observers:
                observer.broken()

    @property
    def cursor(self) -> str:
        return "~".join(observer.cursor or "" for observer in self.observers)

    @property
    def answered(self) -> bool:
        return self._answers >= len(self.observers)

    def ask(self) -> str:
        """All are asked for at once, from this joined cursor; where one has none, all begin anew."""
        if any(observer.cursor is None for observer in self.observers):
            for observer in self.observers:
                observer.replica.cursor = None
        for observer in self.observers:
            self.asked(observer)
        return self.cursor.strip("~")

    def asked(self, observer: Observer) -> None:
        observer.asked(f"{self.transport} {self.address}")

    def hear(self, message: ServerMessage) -> None:
        if isinstance(message, Failure):
            raise _refusal(message.code, message.message)
        self.messages += 1
        self._answers += isinstance(message, Subscribed) and not message.more
        for observer in self.observers:
            observer.hear(message)

    def target(self, **query: str) -> str:
        """Where over HTTP all that is observed is found."""
        names = [_name(observer) for observer in self.observers]
        if len(names) > 1:
            return f"/v1/live?{urlencode({'subscribe': names, **query}, doseq=True)}"
        store, collection, *key = names[0].split("/", 2)
        return "/".join(["/v1", store, collection, *(quote(each, safe="") for each in key)]) + f"?{urlencode(query)}"


def _name(observer: Observer) -> str:
    return observer.channel if observer.key is None else f"{observer.channel}/{observer.key}"


# WebSocket ----------------------------------------------------------------------------------------------------------


async def websocket(talk: Conversation, codec: Codec) -> None:
    """Each selection is a subscription of its own, with its own mode."""
    async with connected(talk.address, politely=talk.politely, buffer=talk.buffer) as connection:
        socket = await connection.upgrade("/v1/ws", f"realtime.v1.{codec}")
        try:
            for number, each in enumerate(talk.observers):
                talk.asked(each)
                _say(socket, Subscribe(number, each.channel, each.key, each.cursor, each.mode), codec)
            if talk.reading is not None:
                await talk.reading.wait()
            await _listen(talk, socket, codec)
        except asyncio.CancelledError:
            if talk.politely:
                await socket.goodbye()
            raise


async def _listen(talk: Conversation, socket: WebSocket, codec: Codec) -> None:
    silent = 0
    while silent < DEAD:
        try:
            async with asyncio.timeout(SECOND):
                received = await socket.receive()
        except TimeoutError:
            silent += 1
            _say(socket, Ping(), codec)
            continue
        silent = 0
        for payload, binary in received:
            if binary != (codec == "msgpack"):
                raise Defect(f"a frame of the wrong kind for {codec}: {payload[:80]!r}")
            talk.hear(decode_message(payload, codec))
    raise Ended("no sign of life")


def _say(socket: WebSocket, request: Subscribe | Ping, codec: Codec) -> None:
    text = msgspec.json.encode(request)
    socket.send(to_msgpack(text) if codec == "msgpack" else text, binary=codec == "msgpack")


# streams ------------------------------------------------------------------------------------------------------------


async def server_sent_events(talk: Conversation) -> None:
    place = talk.ask()
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": place} if place else {})
    async with connected(talk.address, politely=talk.politely) as connection:
        answer = await connection.get(talk.target(), headers, HEAD)
        await _check(answer)
        stream = EventStream(place)
        while chunk := await answer.read(SILENCE):
            for sent in stream.feed(chunk):
                _take(talk, sent, place)
                place = sent.id


def _take(talk: Conversation, sent: Sent, before: str) -> None:
    """An event; its id must be where all selections are behind it, or else the one before."""
    if sent.name == "bye":
        raise Ended("said good-bye")
    if sent.name == "error":
        error = msgspec.json.decode(sent.data, type=_Error)
        raise _refusal(error.code, error.message)
    message = decode_message(sent.data, "json")
    if sent.name != (message.op if isinstance(message, Event) else tag_of(message)):
        raise Defect(f"an event that is called {sent.name!r}: {sent.data[:80]}")
    talk.hear(message)
    complete = talk.answered and not isinstance(message, Source) and not getattr(message, "more", False)
    if sent.id != (expected := talk.cursor if complete else before):
        talk.observers[0].blame("I3", f"the id behind {sent.name} is {sent.id!r}, not {expected!r}")


async def lines(talk: Conversation) -> None:
    place = talk.ask()
    query = {"stream": "ndjson"} | ({"cursor": place} if place else {})
    async with connected(talk.address, politely=talk.politely) as connection:
        answer = await connection.get(talk.target(**query), {}, HEAD)
        await _check(answer)
        rest = b""
        while chunk := await answer.read(SILENCE):
            *complete, rest = (rest + chunk).split(b"\n")
            for line in filter(None, complete):
                talk.hear(decode_message(line, "json"))


# long-poll ----------------------------------------------------------------------------------------------------------


class _Poll(Struct):
    cursor: str
    items: dict[str, Raw] | None  # of several selections: by selection
    events: list[Event]
    reason: str = ""


async def polls(talk: Conversation) -> NoReturn:
    """Again and again, each on a connection of its own."""
    while True:
        place = talk.ask()
        query = {"wait": str(WAIT)} | ({"cursor": place} if place else {})
        async with connected(talk.address, politely=talk.politely) as connection:
            answer = await connection.get(talk.target(**query), {}, WAIT + HEAD)
            await _check(answer)
            body = await answer.whole(HEAD)
        talk.messages += 1
        _share(talk.observers, msgspec.json.decode(body, type=_Poll))


def _share(observers: Sequence[Observer], poll: _Poll) -> None:
    """To each its own part of the answer."""
    for observer, cursor in zip(observers, poll.cursor.split("~"), strict=True):
        items = poll.items
        if items is not None and len(observers) > 1:
            mine = items.get(_name(observer))
            items = None if mine is None else msgspec.json.decode(mine, type=dict[str, Raw])
        events = [each for each in poll.events if each.channel == observer.channel and observer.key in (None, each.key)]
        observer.polled(Polled(cursor, items, events, poll.reason))


# refusals -----------------------------------------------------------------------------------------------------------


class _Error(Struct):
    code: str
    message: str


class _Refusal(Struct):
    error: _Error


async def _check(answer: Answer) -> None:
    """Raises what another status than 200 means."""
    if answer.status == 200:
        return
    body = await answer.whole(HEAD)
    try:
        error = msgspec.json.decode(body, type=_Refusal).error
    except msgspec.DecodeError:  # of somebody between the node and us
        error = _Error(
            "unavailable" if answer.status >= 500 else f"status {answer.status}", body[:80].decode("latin-1")
        )
    raise _refusal(error.code, error.message)


def _refusal(code: str, message: str) -> Exception:
    return (Ended if code in PASSING else Defect)(f"{code}: {message}")


TRANSPORTS: Mapping[str, Callable[[Conversation], Awaitable[None]]] = {
    "ws-json": partial(websocket, codec="json"),
    "ws-msgpack": partial(websocket, codec="msgpack"),
    "sse": server_sent_events,
    "ndjson": lines,
    "poll": polls,
}
