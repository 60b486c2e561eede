"""What a conversation of a client with a node is, whatever carries it: who takes what is heard, and where it goes on.

A node that refuses tells of the fault that is on, or else one of the two has a defect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Struct

from ..protocol import Event, Failure, ServerMessage, Subscribed
from .checker import Observer
from .connection import Answer, Defect, Ended

ERROR = 10.0  # seconds that the body of a refusal may take
# What a node may say in a fault. A table may be gone in one, and so be unknown.
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
    ) -> None:
        """`politely`: how it leaves. `reading`: until this is set it subscribes and takes nothing (WebSocket only)."""
        self.transport, self.address, self.observers = transport, address, observers
        self.politely, self.reading = politely, reading
        self.messages = 0
        self._answers = 0

    @property
    def cursor(self) -> str:
        """Of all selections, joined."""
        return "~".join(observer.cursor or "" for observer in self.observers)

    @property
    def answered(self) -> bool:
        """All selections, and so it is told what happens from now on."""
        return self._answers >= len(self.observers)

    def answer(self) -> None:
        """All selections were answered at once."""
        self.messages += 1
        self._answers = len(self.observers)

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
            raise refusal(message.code, message.message)
        if isinstance(message, Event) and not any(observer.wants(message) for observer in self.observers):
            raise Defect(f"an event that nobody asked for, of {message.key} in {message.channel}")
        self.messages += 1
        self._answers += isinstance(message, Subscribed) and not message.more
        for observer in self.observers:
            observer.hear(message)

    def target(self, **query: str) -> str:
        """Where over HTTP all that is observed is found."""
        names = [name_of(observer) for observer in self.observers]
        if len(names) > 1:
            return f"/v1/live?{urlencode({'subscribe': names, **query}, doseq=True)}"
        store, collection, *key = names[0].split("/", 2)
        return "/".join(["/v1", store, collection, *(quote(each, safe="") for each in key)]) + f"?{urlencode(query)}"


def name_of(observer: Observer) -> str:
    """Its selection, as /v1/live names it."""
    return observer.channel if observer.key is None else f"{observer.channel}/{observer.key}"


class Error(Struct):
    code: str
    message: str


class _Refusal(Struct):
    error: Error


async def accept(answer: Answer) -> None:
    """Raises what another status than 200 means: Ended, or Defect."""
    if answer.status == 200:
        return
    body = await answer.whole(ERROR)
    try:
        error = msgspec.json.decode(body, type=_Refusal).error
    except msgspec.DecodeError:  # of somebody between the node and us
        code = "unavailable" if answer.status >= 500 else f"status {answer.status}"
        error = Error(code, body[:80].decode("latin-1"))
    raise refusal(error.code, error.message)


def refusal(code: str, message: str) -> Exception:
    return (Ended if code in PASSING else Defect)(f"{code}: {message}")
