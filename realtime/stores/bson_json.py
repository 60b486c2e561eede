"""BSON as JSON: MongoDB Extended JSON v2, relaxed, so that what was read can be written back with its types.

Plain JSON stays plain; what JSON lacks is an object with a `$` name (`{"$oid": …}`, `{"$date": …}`), as mongosh and
mongoexport write it. Such names are only read as types: no value of a client is ever an operator. A key stands for an
`_id` of one of three types, and for one of them only. docs/types-mongo.md has the tables.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

import bson
from bson import json_util
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from bson.objectid import ObjectId
from msgspec import Raw

from ..errors import Refused

Document = dict[str, Any]
Id = str | int | ObjectId

# Dates beyond Python's years and broken UTF-8 exist in the wild; one such document must not stop a whole collection.
CODEC: CodecOptions[Document] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_AUTO, unicode_decode_error_handler="replace"
)

_JSON = json_util.JSONOptions(
    json_mode=json_util.JSONMode.RELAXED, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
_UNREADABLE = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, BSONError)

_REFERENCE = {"$ref", "$id", "$db"}  # the one type that may have other fields beside these

_OBJECT_ID = re.compile(r"[0-9a-f]{24}")
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_INT64 = range(-(2**63), 2**63)


def to_json(document: Mapping[str, Any]) -> Raw:
    """The value of an item: the document without its `_id`, which is the key."""
    value = {name: field for name, field in document.items() if name != "_id"}
    return Raw(json_util.dumps(value, json_options=_JSON, separators=(",", ":"), ensure_ascii=False).encode())


def to_document(value: Raw) -> Document:
    """What `to_json` wrote, or any JSON object. Raises Refused for all that a document cannot be."""
    try:
        document = json.loads(bytes(value), object_hook=_revive)
        if not isinstance(document, dict):
            raise Refused("a document is a JSON object")
        if "_id" in document:
            raise Refused("the key is the _id of a document: leave _id out of the value")
        bson.encode(document, codec_options=CODEC)
    except _UNREADABLE as error:
        raise Refused(f"not a document: {error}") from None
    return document


def _revive(found: Document) -> Any:
    """A JSON object as the BSON value that it stands for: itself, unless its names start with `$`."""
    wrapped = [name for name in found if name.startswith("$")]
    if not wrapped:
        return found
    if not set(wrapped) <= _REFERENCE if "$ref" in found else len(wrapped) < len(found):
        raise Refused(f"a name of a field cannot start with $: {wrapped[0]!r}")
    if isinstance(binary := found.get("$binary"), dict):
        base64.b64decode(binary["base64"], validate=True)  # the driver would leave out what it cannot read
    value = json_util.object_hook(found, _JSON)
    if isinstance(value, dict):
        raise Refused(f"not a type of Extended JSON: {wrapped[0]!r}")
    return value


def key_of(identity: object) -> str | None:
    """The key that stands for an `_id`, None for a type that has none."""
    if isinstance(identity, ObjectId):
        return str(identity)
    if isinstance(identity, str):
        return identity if _plain(identity) else json.dumps(identity, ensure_ascii=False)
    number = _integer(identity)
    return None if number is None else str(number)


def id_of(key: str) -> Id | None:
    """The `_id` that a key stands for, None where `key_of` would never write it so."""
    if _OBJECT_ID.fullmatch(key):
        return ObjectId(key)
    if _is_integer(key):
        return int(key)
    if _plain(key):
        return key
    try:
        quoted = json.loads(key)
    except ValueError:
        return None
    return quoted if isinstance(quoted, str) and key_of(quoted) == key else None


def order_of(identity: Id) -> tuple[int, Any]:
    """Sorts as the server sorts: numbers, then strings by their bytes, then ObjectIds."""
    if isinstance(identity, ObjectId):
        return 2, identity.binary
    return (1, identity.encode()) if isinstance(identity, str) else (0, identity)


def _plain(text: str) -> bool:
    """Whether a string is its own key, since it can be taken for nothing else."""
    return bool(text) and text[0] != '"' and not _OBJECT_ID.fullmatch(text) and not _is_integer(text)


def _is_integer(text: str) -> bool:
    return _INTEGER.fullmatch(text) is not None and int(text) in _INT64


def _integer(identity: object) -> int | None:
    """A whole double is the same `_id` to the server as the integer: older shells write every number so."""
    if isinstance(identity, float) and identity.is_integer():
        identity = int(identity)
    if isinstance(identity, int) and not isinstance(identity, bool) and identity in _INT64:
        return int(identity)
    return None
