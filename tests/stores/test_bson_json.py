"""Each row of docs/types-mongo.md, there and back, and what is refused."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bson
import pytest
from bson.datetime_ms import DatetimeMS
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from realtime.errors import Refused
from realtime.protocol import merge_patch
from realtime.stores.bson_json import CODEC, id_of, key_of, order_of, to_document, to_json

OID = "65f1c0ffee65f1c0ffee65f1"
ROWS: dict[str, tuple[Any, str]] = {
    "double": (1.5, "1.5"),
    "double, not finite": (float("inf"), '{"$numberDouble":"Infinity"}'),
    "string": ("é", '"é"'),
    "object": ({"a": {"b": 1}}, '{"a":{"b":1}}'),
    "array": ([1, "x", None], '[1,"x",null]'),
    "binary": (b"abc", '{"$binary":{"base64":"YWJj","subType":"00"}}'),
    "UUID": (bson.Binary(bytes(16), 4), '{"$binary":{"base64":"AAAAAAAAAAAAAAAAAAAAAA==","subType":"04"}}'),
    "ObjectId": (bson.ObjectId(OID), f'{{"$oid":"{OID}"}}'),
    "boolean": (True, "true"),
    "date, 1970 to 9999": (datetime(2026, 1, 2, 3, 4, 5, 678000, UTC), '{"$date":"2026-01-02T03:04:05.678Z"}'),
    "date, any other": (DatetimeMS(-1), '{"$date":{"$numberLong":"-1"}}'),
    "null": (None, "null"),
    "regular expression": (bson.Regex("a", "i"), '{"$regularExpression":{"pattern":"a","options":"i"}}'),
    "DBRef": (bson.DBRef("c", 1), '{"$ref":"c","$id":1}'),
    "code": (bson.Code("x"), '{"$code":"x"}'),
    "code with scope": (bson.Code("x", {"a": 1}), '{"$code":"x","$scope":{"a":1}}'),
    "int": (7, "7"),
    "timestamp": (bson.Timestamp(1, 2), '{"$timestamp":{"t":1,"i":2}}'),
    "long": (2**40, "1099511627776"),
    "decimal": (bson.Decimal128("1.50"), '{"$numberDecimal":"1.50"}'),
    "min key": (bson.MinKey(), '{"$minKey":1}'),
    "max key": (bson.MaxKey(), '{"$maxKey":1}'),
}


def stored(value: object) -> dict[str, Any]:
    return bson.decode(bson.encode({"v": value}, codec_options=CODEC), codec_options=CODEC)


@pytest.mark.parametrize("row", ROWS)
def test_a_type_there_and_back(row: str) -> None:
    value, text = ROWS[row]
    document = stored(value)
    assert bytes(to_json(document)).decode() == f'{{"v":{text}}}'
    assert bson.encode(to_document(to_json(document)), codec_options=CODEC) == bson.encode(
        document, codec_options=CODEC
    )


def test_the_document_says_the_same() -> None:
    text = (Path(__file__).parents[2] / "docs" / "types-mongo.md").read_text()
    lines = text.partition("## Keys")[0].splitlines()
    table = {cells[1].strip(): cells[2].strip(" `") for line in lines if len(cells := line.split("|")) == 5}
    for row, (_, text) in ROWS.items():
        assert table[row] == text


def test_a_small_long_becomes_an_int_unless_it_says_so() -> None:
    document = stored(bson.Int64(5))
    assert bytes(to_json(document)) == b'{"v":5}'
    assert type(to_document(Raw(b'{"v":{"$numberLong":"5"}}'))["v"]) is bson.Int64


def test_the_id_is_the_key_and_not_the_value() -> None:
    assert bytes(to_json({"_id": 1, "a": {"_id": 2}})) == b'{"a":{"_id":2}}'


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "1",
        f'{{"$oid":"{OID}"}}',
        '{"_id":1}',
        '{"$set":{"a":1}}',
        '{"a":{"$gt":1}}',
        '{"a":[{"$where":"1"}]}',
        '{"a":{"$date":"yesterday"}}',
        '{"a":{"$date":"2026-01-02T03:04:05Z","b":1}}',
        '{"a":{"$oid":"xyz"}}',
        '{"a":{"$numberDecimal":"x"}}',
        '{"a":{"$numberLong":"99999999999999999999"}}',
        '{"a":{"$binary":{"base64":"!!!!","subType":"00"}}}',
        '{"a":{"$binary":"AA"}}',
        '{"a":{"$regularExpression":{"pattern":"\\u0000","options":""}}}',
        '{"a":{"$code":"x","$scope":{"$x":1}}}',
        '{"a":{"$ref":"c","$id":1,"$x":{}}}',
        '{"a":{"$timestamp":{"t":-1,"i":2}}}',
        '{"a\\u0000b":1}',
        '{"a":{"b\\u0000":1}}',
        '{"a":99999999999999999999}',
    ],
)
def test_what_no_document_can_be_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        to_document(Raw(text.encode()))


@given(st.recursive(st.none() | st.text(max_size=5), lambda inner: st.dictionaries(st.text("$ab_", max_size=4), inner)))
def test_no_json_breaks_it(value: object) -> None:
    try:
        document = to_document(Raw(json.dumps({"a": value}).encode()))
    except Refused:
        return
    assert not operators(document)


def operators(value: object) -> bool:
    return isinstance(value, dict) and any(name.startswith("$") or operators(value[name]) for name in value)


def test_a_date_is_replaced_and_not_merged() -> None:
    document = stored(datetime(2026, 1, 2, tzinfo=UTC))
    patch = to_document(Raw(b'{"v":{"$date":"2026-03-04T00:00:00Z"}}'))
    assert bytes(to_json(merge_patch(document, patch))) == b'{"v":{"$date":"2026-03-04T00:00:00Z"}}'


KEYS: list[tuple[object, str | None]] = [
    ("a b", "a b"),
    ("", '""'),
    (42, "42"),
    (-1, "-1"),
    (0, "0"),
    (7.0, "7"),
    (2**63 - 1, str(2**63 - 1)),
    ("42", '"42"'),
    ("042", "042"),
    ("-0", "-0"),
    (str(2**63), str(2**63)),
    (bson.ObjectId(OID), OID),
    (OID, f'"{OID}"'),
    (OID.upper(), OID.upper()),
    ('"x', '"\\"x"'),
    (1.5, None),
    (True, None),
    (None, None),
    ({"a": 1}, None),
    (bson.Decimal128("1"), None),
]


@pytest.mark.parametrize(("identity", "key"), KEYS)
def test_keys(identity: object, key: str | None) -> None:
    assert key_of(identity) == key
    if key is not None:
        assert id_of(key) == identity


@given(st.text() | st.integers(-(2**63), 2**63 - 1) | st.binary(min_size=12, max_size=12).map(bson.ObjectId))
def test_every_id_has_one_key(identity: object) -> None:
    key = key_of(identity)
    assert key is not None
    assert id_of(key) == identity


@given(st.text('"\\0a1f-', max_size=24))
def test_every_key_has_at_most_one_id(key: str) -> None:
    identity = id_of(key)
    assert identity is None or key_of(identity) == key


def test_ids_sort_as_on_the_server() -> None:
    ids: list[Any] = [-3, 2, 10, "", "B", "a", "é", bson.ObjectId("0" * 24), bson.ObjectId(OID)]
    shuffled = random.Random(1).sample(ids, len(ids))
    assert sorted(shuffled, key=order_of) == ids
