"""One conversation of a client with a node, over each of the transports; all four are one story in docs/protocol.md.

A conversation goes on until it is cancelled, which is how a client leaves, or until it has Ended in some way; which way
makes no difference to a client, who comes back with its cursors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import NoReturn

import msgspec
from msgspec import Raw, Struct

from ..protocol import Codec, Event, Ping, Subscribe, decode_message, tag_of, to_msgpack
from .checker import Observer, Polled
from .connection import Defect, Ended, WebSocket, connected
from .conversation import Conversation, Error, accept, name_of, refusal
from .eventstream import EventStream, Sent

SECOND = 1.0  # of silence on a WebSocket, after which a sign of life is asked for
DEAD = 3  # such seconds in a row
HEAD = 10.0  # seconds that a node may take to answer a subscribe over HTTP
SILENCE = 20.0  # seconds after which a stream, which says something every 15 s, is dead
WAIT = 2  # seconds that a poll waits


# WebSocket ----------------------------------------------------------------------------------------------------------


async def websocket(talk: Conversation, codec: Codec) -> None:
    """Each selection is a subscription of its own, with its own mode."""
    async with connected(talk.address, politely=talk.politely, narrow=talk.reading is not None) as connection:
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
        await accept(answer)
        stream = EventStream(place)
        while chunk := await answer.read(SILENCE):
            for sent in stream.feed(chunk):
                _take(talk, sent, place)
                place = sent.id


def _take(talk: Conversation, sent: Sent, before: str) -> None:
    """An event; its id must be where all selections are behind it, or the one before while one has no place yet."""
    if sent.name == "bye":
        raise Ended("said good-bye")
    if sent.name == "error":
        error = msgspec.json.decode(sent.data, type=Error)
        raise refusal(error.code, error.message)
    message = decode_message(sent.data, "json")
    if sent.name != (message.op if isinstance(message, Event) else tag_of(message)):
        raise Defect(f"an event that is called {sent.name!r}: {sent.data[:80]}")
    talk.hear(message)
    if sent.id != (expected := talk.cursor if talk.answered else before):
        talk.observers[0].blame("I3", f"the id behind {sent.name} is {sent.id!r}, not {expected!r}")


async def lines(talk: Conversation) -> None:
    place = talk.ask()
    query = {"stream": "ndjson"} | ({"cursor": place} if place else {})
    async with connected(talk.address, politely=talk.politely) as connection:
        answer = await connection.get(talk.target(**query), {}, HEAD)
        await accept(answer)
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
            await accept(answer)
            body = await answer.whole(HEAD)
        talk.answer()
        _share(talk.observers, msgspec.json.decode(body, type=_Poll))


def _share(observers: Sequence[Observer], poll: _Poll) -> None:
    """To each its own part of the answer."""
    for observer, cursor in zip(observers, poll.cursor.split("~"), strict=True):
        items = poll.items
        if items is not None and len(observers) > 1:
            mine = items.get(name_of(observer))
            items = None if mine is None else msgspec.json.decode(mine, type=dict[str, Raw])
        events = [each for each in poll.events if observer.wants(each)]
        observer.polled(Polled(cursor, items, events, poll.reason))


TRANSPORTS: Mapping[str, Callable[[Conversation], Awaitable[None]]] = {
    "ws-json": partial(websocket, codec="json"),
    "ws-msgpack": partial(websocket, codec="msgpack"),
    "sse": server_sent_events,
    "ndjson": lines,
    "poll": polls,
}


async def converse(talk: Conversation) -> NoReturn:
    """Until it is cancelled. Raises Ended, or Defect."""
    try:
        await TRANSPORTS[talk.transport](talk)
        raise Ended("said good-bye")
    finally:
        for observer in talk.observers:
            observer.broken()
