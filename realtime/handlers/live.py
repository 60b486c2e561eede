"""Reading that goes on: one selection or several, over long-poll, server-sent events or lines of JSON.

The three differ in how a message is written and in when the answer ends; the conversation with the node is one and the
same, and so is the cursor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import cast

import msgspec
from msgspec import Raw
from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError

from ..errors import ProtocolError, Refused, TooSlow, Unauthorized, Unavailable
from ..frames import sse_frame
from ..places import Places
from ..protocol import (
    LEAST_RATE,
    MOST_RATE,
    Event,
    Failure,
    Leave,
    Outgoing,
    Placed,
    Reset,
    Source,
    Subscribe,
    Subscribed,
    encode,
    parse_cursors,
    tag_of,
)
from ..subscription import Subscription
from .base import Handler
from .door import PORTION, Awaiting

KEEPALIVE = 15.0  # seconds of silence after which a stream says that it is still there
LONGEST_POLL, DEFAULT_POLL = 55.0, 25.0

Selection = tuple[str, str | None]  # channel, key


class LiveHandler(Handler):
    """`GET` of anything live; subclasses say what is selected."""

    conversation: Awaiting | None = None

    async def prepare(self) -> None:
        await self.admit(ticket=self.wants_stream())

    def on_connection_close(self) -> None:
        if self.conversation is not None:
            self.conversation.leave()

    def wants_stream(self) -> bool:
        lines = self.get_query_argument("stream", "") == "ndjson"
        return self.request.method == "GET" and (lines or self.wants_events())

    def wants_events(self) -> bool:
        return "text/event-stream" in self.request.headers.get("Accept", "")

    def wants_poll(self) -> bool:
        asked = {"cursor", "wait"} & self.request.query_arguments.keys()
        return self.request.method == "GET" and bool(asked)

    async def converse(self, selected: list[Selection]) -> None:
        requests = self._requests(selected)
        transport = "poll" if not self.wants_stream() else "sse" if self.wants_events() else "ndjson"
        connection = cast("HTTP1Connection", self.request.connection)
        self.door.bounds.check(self.caller)
        address = self.caller.address
        with Awaiting(self.door, transport, connection.stream, self.identity, address, self.turn) as self.conversation:
            try:
                subscriptions = [await self.door.subscribe(self.conversation, each) for each in requests]
            except Unavailable as error:
                if transport != "sse":
                    raise
                self._come_back(error)  # to EventSource another status than 200 would be the end
                return
            if transport == "poll":
                await self._poll(self.conversation, subscriptions)
            else:
                await self._stream(self.conversation, Places(requests), EVENTS if transport == "sse" else LINES)

    def _come_back(self, error: Unavailable) -> None:
        self.set_header("Content-Type", EVENTS.content_type)
        self.write(f"retry: {error.retry_after * 1000}\n\n")
        self.finish(sse_frame("error", msgspec.json.encode(error.body())))

    def _requests(self, selected: list[Selection]) -> list[Subscribe]:
        text = self.request.headers.get("Last-Event-ID", "") if self.wants_events() else ""
        text = text or self.argument("cursor") or ""
        cursors = parse_cursors(text, len(selected)) if text else None
        return [
            Subscribe(number, channel, key, str(cursors[number]) if cursors else None, max_rate=self._max_rate())
            for number, (channel, key) in enumerate(selected)
        ]

    def _max_rate(self) -> float | None:
        if self.argument("max_rate") is None:
            return None
        if not self.wants_stream():
            raise ProtocolError("max_rate is for streams: a poll has its own pace", hint="leave it out")
        return self.number("max_rate", MOST_RATE, LEAST_RATE, MOST_RATE)

    # long-poll ------------------------------------------------------------------------------------------------------

    async def _poll(self, conversation: Awaiting, subscriptions: list[Subscription]) -> None:
        """Answer at once if there is something, else when there is, or with nothing at the end of `wait`."""
        clock = asyncio.get_running_loop()
        end = clock.time() + self.number("wait", DEFAULT_POLL, 0, LONGEST_POLL)
        session, found = conversation.session, Found()
        while True:
            found.add(session.take())
            if found or found.refused or found.left or session.overflown or conversation.over or self.door.draining:
                break
            if not await conversation.news(end - clock.time()):
                break
        self.node.refresh(session)  # what passed by since need not be looked through by the next poll
        found.add(session.take())
        if conversation.expelled or found.left:
            raise Unauthorized("what you may see has changed")
        if found.refused:
            raise Refused(found.refused, hint="the subscription ended: its state could not be read anew")
        if session.overflown:
            raise TooSlow("more happened than one answer can hold", hint="ask again, without a cursor")
        if not conversation.over:
            cursor = "~".join(str(subscription.cursor) for subscription in subscriptions)
            self.answer(self.poll_answer(cursor, found))

    def poll_answer(self, cursor: str, found: Found) -> object:
        raise NotImplementedError

    # streams --------------------------------------------------------------------------------------------------------

    async def _stream(self, conversation: Awaiting, places: Places, form: Form) -> None:
        self.set_header("Content-Type", form.content_type)
        self.set_header("X-Accel-Buffering", "no")  # nginx: pass on each message as it comes
        session = conversation.session
        try:
            self.write(form.opening)
            while not (conversation.over or self.door.draining):
                for message in session.take(PORTION):
                    places.sent(message)
                    self.write(form.write(message, places))
                await self._flush(conversation)
                if not session.subscriptions:  # nothing of it may be seen any more
                    break
                if not session.waiting and not await conversation.news(KEEPALIVE):
                    self.node.refresh(session)
                    self.write(form.silence)
            self.finish(form.farewell)
        except StreamClosedError:
            pass  # the client left; there is nobody to tell

    async def _flush(self, conversation: Awaiting) -> None:
        """What has been written is all that is behind the socket: while it takes nothing, the session conflates."""
        flushing = self.flush()
        if conversation.stream.writing():
            conversation.session.stall()
        await flushing
        conversation.session.flow()


class Found:
    """What one poll answers: per selection its items, where it was shown them, and the events after that."""

    def __init__(self) -> None:
        self.items: dict[Selection, dict[str, Raw]] = {}
        self.events: list[Event] = []
        self.reason = ""
        self.refused = ""  # why a reset could not be shown
        self.left = False  # a selection may not be seen any more
        self._unfinished: Selection | None = None

    def __bool__(self) -> bool:
        return bool(self.items or self.events)

    def add(self, messages: Iterable[Outgoing]) -> None:
        for message in messages:
            match message:
                case Placed():
                    self.events.append(message.event)
                case Subscribed(items=dict(part)) | Reset(items=part):
                    self._state(message, part)
                case Failure():
                    self.refused = message.message
                case Leave():
                    self.left = True

    def _state(self, message: Subscribed | Reset, part: dict[str, Raw]) -> None:
        selection = message.channel, message.key if isinstance(message.key, str) else None
        if selection == self._unfinished:
            part = self.items[selection] | part
        elif isinstance(message, Reset):  # what was told of it before is void
            self.events = [each for each in self.events if not _selects(selection, each)]
        self.items[selection] = part
        self.reason = message.reason
        self._unfinished = selection if message.more else None


def _selects(selection: Selection, event: Event) -> bool:
    return selection[0] == event.channel and selection[1] in (None, event.key)


class Form:
    """How a stream is written."""

    def __init__(
        self,
        content_type: str,
        write: Callable[[Outgoing, Places], bytes],
        opening: bytes,
        silence: bytes,
        farewell: bytes,
    ) -> None:
        self.content_type, self.write = content_type, write
        self.opening, self.silence, self.farewell = opening, silence, farewell


def _event(message: Outgoing, places: Places) -> bytes:
    """A server-sent event; its id is the cursor of all selections, so that `Last-Event-ID` resumes them all."""
    if isinstance(message, Placed):
        return message.sse if places.single else sse_frame(message.event.op, message.json, str(places))
    complete = not getattr(message, "more", False) and not isinstance(message, Source)
    return sse_frame(tag_of(message), encode(message, "json"), str(places) if complete else "")


def _line(message: Outgoing, _: Places) -> bytes:
    return encode(message, "json") + b"\n"


EVENTS = Form("text/event-stream", _event, b"retry: 1000\n\n", b": still here\n\n", sse_frame("bye", b"{}"))
LINES = Form("application/x-ndjson", _line, b"", b"\n", b"")
