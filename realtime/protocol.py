"""The words on the wire, and nothing else: cursors, changes, events, messages, and how they become bytes.

Values travel as `Raw` JSON from the store to the socket, so that a number keeps its digits and nobody parses what
nobody looks at. An event is encoded once, by the feed that publishes it: the broker only adds its place at the end.
"""

from __future__ import annotations

import hashlib
import re
from json import loads
from typing import Any, Literal

import msgpack
import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from .errors import BadCursor, Conflict, ProtocolError
from .frames import sse_frame, websocket_frame

Op = Literal["put", "delete"]
OPS: tuple[Op, ...] = ("put", "delete")
Codec = Literal["json", "msgpack"]
Mode = Literal["latest", "all"]
State = Literal["live", "lagging", "down"]

MAX_DEPTH = 32
MAX_KEY = 512  # bytes of UTF-8
MAX_ID = 128  # characters of a subscription's id
LEAST_RATE, MOST_RATE = 0.01, 100.0  # of a subscription's max_rate

CURSOR = re.compile(r"v1\.([A-Za-z0-9_-]{1,40})\.([0-9]{1,16})(?:\.([A-Za-z0-9_.-]{1,4096}))?")
CHANNEL = re.compile(r"[a-z][a-z0-9_]{0,31}/[A-Za-z0-9_.-]{1,128}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Cursor(Struct, frozen=True):
    """A place in a channel: which log (`epoch`), how far (`offset`), and what a snapshot was ahead of it (`fence`).

    Written `v1.<epoch>.<offset>[.<fence>]`; opaque to clients, the same on every transport and every node. The fence
    stays in the cursor until an event beyond it was delivered: a client that drops and resumes before that would else
    be told older values again.
    """

    epoch: str
    offset: int
    fence: str = ""

    def __str__(self) -> str:
        place = f"v1.{self.epoch}.{self.offset}"
        return f"{place}.{self.fence}" if self.fence else place

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """The cursor that `str` wrote. Raises BadCursor."""
        match = CURSOR.fullmatch(text)
        if match is None:
            raise BadCursor(f"not a cursor: {text[:80]!r}")
        return cls(match[1], int(match[2]), match[3] or "")


def parse_cursors(text: str, channels: int) -> list[Cursor]:
    """Cursors of several channels, joined by `~` in the order in which the channels were asked for."""
    cursors = [Cursor.parse(part) for part in text.split("~")]
    if len(cursors) != channels:
        raise BadCursor(f"a cursor of {len(cursors)} channels, for a request of {channels}")
    return cursors


def beyond(fence: str, version: str) -> bool:
    """Whether `version`, and so every later one, lies outside `fence`, which can then be forgotten.

    Every store writes a fence as `<ceiling>[_<rest>]`: no version that sorts after the ceiling is contained.
    """
    return version > fence.partition("_")[0]


def etag(value: bytes) -> str:
    """Names a value: equal JSON, equal tag. What REST answers as ETag and compares with If-Match."""
    return hashlib.blake2b(value, digest_size=12).hexdigest()


class Change(Struct, frozen=True):
    """What a store says happened to a key; it has no place yet. `time`: seconds since 1970, of the commit."""

    collection: str
    key: str
    op: Op
    value: Raw | UnsetType
    version: str
    time: float


class Event(Struct, tag="event", tag_field="type", frozen=True):
    """A change with its place in a channel; `value` is absent for a delete."""

    channel: str
    key: str
    op: Op
    version: str
    time: float
    value: Raw | UnsetType = UNSET
    cursor: str = ""  # the last field, so that a broker can write it behind a text made before the place was known


def opening(channel: str, change: Change) -> bytes:
    """An event's JSON up to its cursor, which only the broker can give; `closing` is the rest."""
    event = Event(channel, change.key, change.op, change.version, change.time, change.value)
    text = msgspec.json.encode(event)
    try:
        _decode_event(text)
    except (msgspec.DecodeError, RecursionError):  # a store may hold what no reader of ours can read: then as text
        plain = Raw(msgspec.json.encode(bytes(change.value).decode())) if isinstance(change.value, Raw) else UNSET
        text = msgspec.json.encode(msgspec.structs.replace(event, value=plain))
    return text[:-2]


def closing(epoch: str, offset: int) -> bytes:
    return f'v1.{epoch}.{offset}"}}'.encode()


class Placed:
    """An event as this node passes it on: its JSON as the broker made it, its place, its frames on demand.

    One object serves every session of the node, so it is encoded and framed once for each codec however many listen.
    """

    __slots__ = ("_binary", "_msgpack", "_sse", "_text", "cursor", "event", "json", "size", "whole")

    def __init__(self, json: bytes, event: Event, cursor: Cursor, whole: Placed | None = None) -> None:
        """`whole`: what this shows a part of."""
        self.json, self.event, self.cursor, self.whole = json, event, cursor, whole
        self.size = len(json)
        self._msgpack: bytes | None = None
        self._text: bytes | None = None
        self._binary: bytes | None = None
        self._sse: bytes | None = None

    @classmethod
    def decode(cls, json: bytes) -> Placed:
        """From the text that the broker carries."""
        event = _decode_event(json)
        return cls(json, event, Cursor.parse(event.cursor))

    def showing(self, value: Raw) -> Placed:
        """The same event with another value, for those who do not see all of it."""
        event = msgspec.structs.replace(self.event, value=value)
        return Placed(msgspec.json.encode(event), event, self.cursor, self)

    def fenced(self, fence: str) -> Placed:
        """The same event with a fence in its cursor: a frame of its own, for one session."""
        cursor = Cursor(self.cursor.epoch, self.cursor.offset, fence)
        event = msgspec.structs.replace(self.event, cursor=str(cursor))
        return Placed(msgspec.json.encode(event), event, cursor)

    @property
    def msgpack(self) -> bytes:
        if self._msgpack is None:
            self._msgpack = to_msgpack(self.json)
        return self._msgpack

    def frame(self, codec: Codec) -> bytes:
        """A WebSocket's."""
        if codec == "json":
            if self._text is None:
                self._text = websocket_frame(self.json, binary=False)
            return self._text
        if self._binary is None:
            self._binary = websocket_frame(self.msgpack, binary=True)
        return self._binary

    @property
    def sse(self) -> bytes:
        if self._sse is None:
            self._sse = sse_frame(self.event.op, self.json, self.event.cursor)
        return self._sse


# server -> client ---------------------------------------------------------------------------------------------------


class Welcome(Struct, tag="welcome", tag_field="type"):
    node: str
    heartbeat: int  # seconds between two signs of life


class Subscribed(Struct, tag="subscribed", tag_field="type", omit_defaults=True):
    """`items` null: the cursor was honoured, events follow. `more`: further parts of the same answer follow this one.

    `reason`: a cursor was given and could not be honoured, and why.
    """

    id: int | str
    channel: str
    cursor: str
    items: dict[str, Raw] | None
    key: str | UnsetType = UNSET
    more: bool = False
    reason: str = ""


class Reset(Struct, tag="reset", tag_field="type", omit_defaults=True):
    """History broke, for `reason`: here is the state. Replaces all that was known of the selection."""

    channel: str
    cursor: str
    items: dict[str, Raw]
    reason: str
    key: str | UnsetType = UNSET
    more: bool = False


class Leave(Struct, tag="leave", tag_field="type", omit_defaults=True):
    """The client may not see this selection any more; what it knows of it is void, and the subscription has ended."""

    channel: str
    key: str | UnsetType = UNSET


class Authenticated(Struct, tag="authenticated", tag_field="type"):
    """The token holds; `expires` in seconds since 1970, null: never."""

    user: str
    expires: float | None


class AuthExpiring(Struct, tag="auth_expiring", tag_field="type"):
    """Send `auth` with a new token within so many seconds."""

    seconds: int


class Fresh(Struct, tag="cursor", tag_field="type", omit_defaults=True):
    """A newer cursor for a subscription to which nothing happened."""

    channel: str
    cursor: str
    key: str | UnsetType = UNSET


class Source(Struct, tag="source", tag_field="type"):
    """How current a store's events are; `lag` in seconds from commit to this node, as last seen."""

    store: str
    state: State
    lag: float


class Unsubscribed(Struct, tag="unsubscribed", tag_field="type"):
    id: int | str


class Pong(Struct, tag="pong", tag_field="type"):
    pass


class Failure(Struct, tag="error", tag_field="type", omit_defaults=True):
    id: int | str | None
    code: str
    message: str
    hint: str = ""


Message = (
    Welcome | Subscribed | Reset | Leave | Fresh | Source | Unsubscribed | Pong | Authenticated | AuthExpiring | Failure
)
Outgoing = Message | Placed
ServerMessage = Message | Event  # what a client decodes


# client -> server ---------------------------------------------------------------------------------------------------


class Subscribe(Struct, tag="subscribe", tag_field="type"):
    id: int | str
    channel: str
    key: str | None = None  # None: every key
    cursor: str | None = None
    mode: Mode = "latest"
    max_rate: float | None = None  # a second; of what comes faster, the newest event of each key

    def check(self) -> None:
        """Raises ProtocolError."""
        rate = self.max_rate
        if rate is not None and not LEAST_RATE <= rate <= MOST_RATE:
            least, most = f"{LEAST_RATE:g}", f"{MOST_RATE:g}"
            raise ProtocolError(f"max_rate must be {least} to {most} (a second), not {rate:g}", about=self.id)
        if rate is not None and self.mode == "all":
            raise ProtocolError(
                "max_rate leaves events out, and mode all wants all", hint="leave one of the two out", about=self.id
            )


class Unsubscribe(Struct, tag="unsubscribe", tag_field="type"):
    id: int | str


class Auth(Struct, tag="auth", tag_field="type"):
    """Who speaks from now on, by a token."""

    token: str


class Ping(Struct, tag="ping", tag_field="type"):
    pass


Request = Subscribe | Unsubscribe | Auth | Ping
REQUESTS = ("subscribe", "unsubscribe", "auth", "ping")

_decode_event = msgspec.json.Decoder(Event).decode
_server = msgspec.json.Decoder[ServerMessage](ServerMessage)


# encoding -----------------------------------------------------------------------------------------------------------


def encode(message: Outgoing, codec: Codec) -> bytes:
    """One frame, without the transport's own framing."""
    if isinstance(message, Placed):
        return message.json if codec == "json" else message.msgpack
    json = msgspec.json.encode(message)
    return json if codec == "json" else to_msgpack(json)


def frame(message: Outgoing, codec: Codec) -> bytes:
    """As a WebSocket sends it, an event once for all."""
    if isinstance(message, Placed):
        return message.frame(codec)
    return websocket_frame(encode(message, codec), binary=codec == "msgpack")


def tag_of(message: Message) -> str:
    """Its `type` on the wire."""
    return str(message.__struct_config__.tag)


def decode_message(frame: bytes | str, codec: Codec) -> ServerMessage:
    """A server's frame, as a client reads it."""
    data = frame if codec == "json" else _json_of_msgpack(_bytes(frame))
    message: ServerMessage = _server.decode(data)
    return message


def decode_request(frame: bytes | str, codec: Codec) -> Request:
    """A client's frame. Raises ProtocolError with what is wrong and where."""
    name = "JSON" if codec == "json" else "MessagePack"
    try:
        plain: Any = msgspec.json.decode(frame) if codec == "json" else _unpack(_bytes(frame))
    except (ValueError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError(f"not {name}: {error or type(error).__name__}") from None
    kind = plain.get("type") if isinstance(plain, dict) else None
    if kind not in REQUESTS:
        raise ProtocolError(f"unknown message type {_short(kind)}", hint=f"one of {', '.join(REQUESTS)}")
    try:
        request: Request = msgspec.convert(plain, Request)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"{kind}: {str(error)[:200]}", about=plain.get("id")) from None
    if isinstance(request, Subscribe | Unsubscribe) and len(str(request.id)) > MAX_ID:
        raise ProtocolError(f"an id of more than {MAX_ID} characters: {_short(request.id)}")
    if isinstance(request, Subscribe):
        request.check()
    return request


def _short(value: object) -> str:
    """Enough of it to be recognised."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def to_msgpack(json: bytes) -> bytes:
    try:
        plain = msgspec.json.decode(json)
    except msgspec.DecodeError:  # a number beyond a double, which a store may hold as JSON
        plain = loads(json)
    try:
        packed: bytes = msgpack.packb(plain)
    except (OverflowError, ValueError):
        packed = msgpack.packb(_fit(plain, MAX_DEPTH * 4))
    return packed


def _fit(value: Any, levels: int) -> Any:
    """Integers beyond 64 bits, which MessagePack does not have, as their digits; what is too deep for it as JSON."""
    match value:
        case dict() | list() if levels == 0:
            return msgspec.json.encode(value).decode()
        case dict():
            return {name: _fit(inner, levels - 1) for name, inner in value.items()}
        case list():
            return [_fit(inner, levels - 1) for inner in value]
        case int() if not -(2**63) <= value < 2**64:
            return str(value)
    return value


def _json_of_msgpack(frame: bytes) -> bytes:
    return msgspec.json.encode(_unpack(frame))


def _unpack(frame: bytes) -> Any:
    return msgpack.unpackb(frame, strict_map_key=True)


def _bytes(frame: bytes | str) -> bytes:
    if isinstance(frame, str):
        raise ProtocolError("a text frame on a binary subprotocol", hint="send MessagePack as binary frames")
    return frame


# names and values ---------------------------------------------------------------------------------------------------


def is_collection(name: str) -> bool:
    """Whether a channel can name it."""
    return CHANNEL.fullmatch(f"any/{name}") is not None


def split_channel(channel: str) -> tuple[str, str]:
    """`store/collection` in its parts. Raises ProtocolError."""
    if not CHANNEL.fullmatch(channel):
        raise ProtocolError(f"not a channel: {channel[:160]!r}", hint="a channel is store/collection")
    store, _, collection = channel.partition("/")
    return store, collection


def check_key(key: str | None) -> None:
    """Raises ProtocolError for what can be no key; whether a store has such ones is its own affair. None is none."""
    if key is not None and (_CONTROL.search(key) or len(key.encode(errors="surrogatepass")) > MAX_KEY):
        hint = f"a key has at most {MAX_KEY} bytes of UTF-8, none of control"
        raise ProtocolError(f"not a key: {key[:80]!r}", hint=hint)


def parse_value(body: bytes) -> Raw:
    """A value as a client sent it: valid JSON (RFC 8259), not too deep, white space removed. Raises ProtocolError."""
    try:
        plain = msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the body is not JSON: {error}") from None
    if _too_deep(plain):
        raise ProtocolError(f"the value is nested deeper than {MAX_DEPTH} levels")
    return Raw(msgspec.json.format(body, indent=-1))


def _too_deep(value: object) -> bool:
    """Level by level: a value may be nested deeper than our own calls can be."""
    level: list[dict[str, object] | list[object]] = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        children = (child for each in level for child in (each.values() if isinstance(each, dict) else each))
        level = [child for child in children if isinstance(child, (dict, list))]
    return bool(level)


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396, on decoded JSON."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


class Condition(Struct, frozen=True):
    """If-Match / If-None-Match of a write. Stores check it inside the write's own atomic step."""

    etags: tuple[str, ...] = ()  # the item must be one of these
    exists: bool | None = None  # True: `If-Match: *`, False: `If-None-Match: *`

    def __bool__(self) -> bool:
        return bool(self.etags) or self.exists is not None

    def check(self, key: str, current: bytes | None) -> None:
        """Raises Conflict where `current`, the item's JSON or None, is not what the writer wanted to change."""
        if self.exists is False and current is not None:
            raise Conflict(f"{key!r} exists already", current=current)
        if current is None and (self.exists or self.etags):
            raise Conflict(f"{key!r} does not exist", current=None)
        if self.etags and current is not None and etag(current) not in self.etags:
            raise Conflict(f"{key!r} was changed by somebody else: it is {etag(current)} now", current=current)


ANYHOW = Condition()
