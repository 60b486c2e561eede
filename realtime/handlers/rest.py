"""Items and collections as HTTP resources (RFC 9110): read, write, and read on (`live`).

A write goes to its store and nowhere else. `?wait=1` holds the answer until the write's event is in the log, so that
whoever reads any replica after the answer reads the write.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import UNSET, Raw, Struct, UnsetType
from tornado.escape import url_escape
from tornado.web import stream_request_body

from ..errors import ProtocolError, TooLarge, Unsupported
from ..protocol import ANYHOW, Condition, Event, parse_value
from ..stores.base import Written
from .base import MERGE_PATCH
from .door import Door
from .entrance import ignore_body
from .live import LONGEST_POLL, Found, LiveHandler
from .pieces import Pieces

PAGE, LONGEST_PAGE = 100, 1000
READING = ("GET", "HEAD", "OPTIONS")


class Page(Struct):
    items: dict[str, Raw]
    cursor: str | None  # where the items are the whole collection: subscribe from here
    next: str | None  # `?after=` of the next page


class Poll(Struct, omit_defaults=True):
    cursor: str
    items: dict[str, Raw] | None
    events: list[Event]
    reason: str = ""


class Receipt(Struct):
    version: str | None
    key: str | UnsetType = UNSET
    cursor: str | UnsetType | None = UNSET


@stream_request_body
class RestHandler(Pieces, LiveHandler):
    def initialize(self, door: Door) -> None:
        super().initialize(door)
        ignore_body(self.request)
        self.most = door.bounds.limits.body_bytes

    async def prepare(self) -> None:
        await super().prepare()
        length = self.request.headers.get("Content-Length", "")
        if length.isdigit() and int(length) > self.most:  # said before it is sent
            raise self._too_large(length)
        if self.request.method not in READING:
            self.door.bounds.write(self.caller)

    def value(self) -> Raw:
        if self.length > self.most:
            raise self._too_large(self.length)
        if not self.body:
            raise ProtocolError("the body is empty", hint="send the value as JSON")
        return parse_value(self.body)

    def _too_large(self, length: object) -> TooLarge:
        self.door.bounds.count("body_bytes")
        return TooLarge(f"a body of {length} bytes", hint=f"a value has at most {self.most} bytes")

    def condition(self) -> Condition:
        """If-Match and If-None-Match. (RFC 9110, 13.1)"""
        match, none_match = self.request.headers.get("If-Match"), self.request.headers.get("If-None-Match")
        if none_match is not None:
            if none_match.strip() != "*" or match is not None:
                raise ProtocolError(f"a write takes `If-None-Match: *` alone, not {none_match[:80]!r}")
            return Condition(exists=False)
        if match is None:
            return ANYHOW
        if match.strip() == "*":
            return Condition(exists=True)
        return Condition(tuple(each.strip().strip('"') for each in match.split(",")))

    async def write_item(
        self, channel: str, key: str | None, write: Callable[[], Awaitable[Written]]
    ) -> tuple[Written, Receipt]:
        """Do it, and wait for its event if asked to; the receipt is the answer's body."""
        if not self.number("wait", 0, 0, LONGEST_POLL):
            written = await write()
            return written, Receipt(written.version or None)
        written, event = await self.node.heard(self.rights, channel, key, write)
        if event is None:
            self.set_status(202 if written.version else 200)  # 202: it is written, and its event will come
            return written, Receipt(written.version or None, cursor=None)
        return written, Receipt(event.event.version, cursor=event.event.cursor)

    def poll_answer(self, cursor: str, found: Found) -> Poll:
        items = next(iter(found.items.values()), None)
        return Poll(cursor, items, list(found.events), found.reason)


class ItemHandler(RestHandler):
    """/v1/{store}/{collection}/{key}"""

    async def get(self, store: str, collection: str, key: str) -> None:
        channel = f"{store}/{collection}"
        if self.wants_stream() or self.wants_poll():
            return await self.converse([(channel, key)])
        item = await self.node.read(self.rights, channel, key)
        if item.cursor is not None:
            self.set_header("Realtime-Cursor", str(item.cursor))
        if self.get_query_argument("format", "json") == "text":
            return self._text(self.node.sentence(channel, item.value))
        self.tag(item.value)
        if self.check_etag_header():
            self.set_status(304)
            return None
        return self.answer(item.value)

    async def put(self, store: str, collection: str, key: str) -> None:
        channel, value, condition = f"{store}/{collection}", self.value(), self.condition()
        written, receipt = await self.write_item(
            channel, key, lambda: self.node.items.put(self.rights, channel, key, value, condition)
        )
        self._receipt(written, receipt)

    async def post(self, store: str, collection: str, key: str) -> None:
        """As PUT, answered without a body: the tutorial's way."""
        channel, value, condition = f"{store}/{collection}", self.value(), self.condition()
        written, receipt = await self.write_item(
            channel, key, lambda: self.node.items.put(self.rights, channel, key, value, condition)
        )
        if self.get_status() == 202:
            return self._receipt(written, receipt)
        self.tag(written.value)
        return self.set_status(204)

    async def patch(self, store: str, collection: str, key: str) -> None:
        if "json-patch" in self.request.headers.get("Content-Type", ""):  # RFC 6902: it would become the value
            raise Unsupported("a JSON Patch", hint=f"send {MERGE_PATCH}")
        channel, value, condition = f"{store}/{collection}", self.value(), self.condition()
        written, receipt = await self.write_item(
            channel, key, lambda: self.node.items.patch(self.rights, channel, key, value, condition)
        )
        self._receipt(written, receipt)

    async def delete(self, store: str, collection: str, key: str) -> None:
        channel, condition = f"{store}/{collection}", self.condition()
        written, receipt = await self.write_item(
            channel, key, lambda: self.node.items.delete(self.rights, channel, key, condition)
        )
        self._receipt(written, receipt)

    def _receipt(self, written: Written, receipt: Receipt) -> None:
        self.tag(written.value)
        self.answer(receipt, self.get_status())

    def _text(self, sentence: str) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(sentence + "\n")


class CollectionHandler(RestHandler):
    """/v1/{store}/{collection}"""

    async def get(self, store: str, collection: str) -> None:
        channel = f"{store}/{collection}"
        if self.wants_stream() or self.wants_poll():
            return await self.converse([(channel, None)])
        limit = int(self.number("limit", PAGE, 1, LONGEST_PAGE))
        snapshot, cursor = await self.node.page(self.rights, channel, self.argument("after"), limit)
        return self.answer(Page(snapshot.items, str(cursor) if cursor else None, snapshot.next))

    async def post(self, store: str, collection: str) -> None:
        """A new item under a key that the store makes."""
        channel, value = f"{store}/{collection}", self.value()
        if self.condition():
            raise ProtocolError("a new item has nothing to match", hint="leave If-Match and If-None-Match out")
        written, receipt = await self.write_item(
            channel, None, lambda: self.node.items.put(self.rights, channel, None, value, ANYHOW)
        )
        self.tag(written.value)
        self.set_header("Location", f"/v1/{channel}/{url_escape(written.key, plus=False)}")
        receipt.key = written.key
        self.answer(receipt, 202 if self.get_status() == 202 else 201)


class ManyHandler(RestHandler):
    """/v1/live?subscribe=postgres/entries/42&subscribe=weather/current"""

    async def get(self) -> None:
        selected = [self._selection(text) for text in self._asked()]
        if not selected:
            raise ProtocolError("nothing to subscribe to", hint="?subscribe=store/collection or store/collection/key")
        if len(set(selected)) < len(selected):
            raise ProtocolError("the same selection twice")
        await self.converse(selected)

    def _asked(self) -> list[str]:
        return [text.decode(errors="replace") for text in self.request.query_arguments.get("subscribe", [])]

    def _selection(self, text: str) -> tuple[str, str | None]:
        store, _, rest = text.partition("/")
        collection, slash, key = rest.partition("/")
        return f"{store}/{collection}", key if slash else None

    def poll_answer(self, cursor: str, found: Found) -> Poll:
        """`items` by selection, as it was asked for; those that were resumed are not in it."""
        items = {channel if key is None else f"{channel}/{key}": part for (channel, key), part in found.items.items()}
        return Poll(cursor, items or None, list(found.events), found.reason)  # type: ignore[arg-type]
