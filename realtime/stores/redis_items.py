"""How the keys of Redis are items, and their values JSON. Pure.

`SET sensors:7 22.0` is key `7` of `redis/sensors`; a name that no collection's name begins is itself a key of
`redis/default`. So every name has one place, and every place one name. Names in which a client could not ask (longer
than 200 characters, with control characters, not UTF-8) and our own (`realtime:…`) have none.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgpack
import msgspec
from msgspec import UNSET, Raw

from ..errors import ProtocolError, Refused, UnknownChannel
from ..protocol import Change, parse_value

Kind = Literal[b"none", b"string", b"hash", b"list", b"set", b"zset"]  # what Redis' TYPE says; `none`: no item
Entry = tuple[bytes, dict[bytes, bytes]]  # of the stream of changes: its id, its fields

OURS = "realtime"
DEFAULT = "default"
_COLLECTION = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_KEY = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,200}")


def check_collection(collection: str) -> None:
    """Every collection that can be named exists, if only without keys."""
    if not _COLLECTION.fullmatch(collection) or collection == OURS:
        raise UnknownChannel(f"not a collection of redis: {collection[:140]!r}")


def place_of(name: bytes) -> tuple[str, str] | None:
    """The collection and key of a name in Redis, None where it has none."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return None
    collection, colon, key = text.partition(":")
    if not colon or collection == DEFAULT or not _COLLECTION.fullmatch(collection):
        collection, key = DEFAULT, text
    return (collection, key) if collection != OURS and _KEY.fullmatch(key) else None


def name_of(collection: str, key: str) -> bytes:
    """Raises Refused where it would not be found there again."""
    text = key if collection == DEFAULT else f"{collection}:{key}"
    if not _KEY.fullmatch(key) or place_of(text.encode()) != (collection, key):
        raise Refused(f"not a key of redis/{collection}: {key[:210]!r}", hint="1 to 200 characters, none of control")
    return text.encode()


def digest_of(kind: bytes, raw: bytes) -> str:
    """Names a value as the scripts do."""
    return "" if kind == b"none" else hashlib.sha1(kind + raw, usedforsecurity=False).hexdigest()


def to_json(kind: bytes, raw: bytes) -> Raw | None:
    """The value as JSON, None where there is none. A hash is an object, a list an array, a set a sorted array, a sorted
    set an object of scores; for their members the rule of strings holds, too. `raw` is MessagePack for all but strings.
    """
    if kind == b"none":
        return None
    if kind == b"string":
        return _text_to_json(raw)
    members: list[bytes] = msgpack.unpackb(raw, raw=True)
    if kind in (b"hash", b"zset"):
        pairs = zip(members[::2], members[1::2], strict=True)
        return _encode({name.decode(errors="replace"): _text_to_json(value) for name, value in pairs})
    return _encode([_text_to_json(member) for member in (sorted(members) if kind == b"set" else members)])


def _text_to_json(text: bytes) -> Raw:
    """The JSON that it is, or else its text as a JSON string; what is not UTF-8 in it becomes U+FFFD."""
    try:
        return parse_value(text)
    except ProtocolError:
        return _encode(text.decode(errors="replace"))


def _encode(value: Any) -> Raw:
    return Raw(msgspec.json.encode(value))


def version_of(entry: bytes) -> str:
    """A stream's entry id, `<ms>-<n>`, as a text that sorts as the ids do."""
    milliseconds, _, n = entry.partition(b"-")
    return f"{int(milliseconds):012x}.{int(n):08x}"


def found_by(entries: Sequence[Entry]) -> Mapping[str, int]:
    """How many were not written by the service, by what made it look."""
    return Counter(by.decode() for _, fields in entries if (by := fields.get(b"by")))


def change_of(entry: Entry) -> Change | None:
    """None: the entry only marks a place."""
    place, fields = entry
    found = place_of(fields.get(b"name", b""))
    if found is None:
        return None
    value = to_json(fields[b"kind"], fields[b"raw"])
    op: Literal["put", "delete"] = "delete" if value is None else "put"
    time = int(place.partition(b"-")[0]) / 1000
    return Change(*found, op, UNSET if value is None else value, version_of(place), time)
