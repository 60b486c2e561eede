"""The words on the wire, without a loop: cursors, events, requests, values, conditions."""

from __future__ import annotations

import json
import math

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from realtime import protocol
from realtime.errors import BadCursor, Conflict, ProtocolError
from realtime.protocol import Change, Condition, Cursor, Event, Placed, Subscribe, beyond, etag

words = st.text("abcdefghijklmnopqrstuvwxyzABCDEFG0123456789", min_size=1, max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def placed(op: protocol.Op = "put", value: object = 22.0, offset: int = 4, version: str = "0a") -> Placed:
    raw = UNSET if op == "delete" else Raw(msgspec.json.encode(value))
    change = Change("sensors", "7", op, raw, version, 1.5)
    return Placed.decode(protocol.opening("redis/sensors", change) + protocol.closing("ep", offset))


@given(words, st.integers(0, 10**12), st.text("abcdef0123456789.-_", max_size=30))
def test_a_cursor_reads_what_it_wrote(epoch: str, offset: int, fence: str) -> None:
    cursor = Cursor(epoch, offset, fence)
    assert Cursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize(
    "text", ["", "v1", "v1.ep", "v1.ep.x", "v2.ep.1", "v1.ep.1.", "v1.e p.1", "v1.ep.-1", "v1.ep.1.§"]
)
def test_a_garbled_cursor_is_an_error_that_shows_it(text: str) -> None:
    with pytest.raises(BadCursor, match="not a cursor"):
        Cursor.parse(text)


def test_cursors_of_several_channels_are_counted() -> None:
    assert protocol.parse_cursors("v1.a.1~v1.b.2.f", 2) == [Cursor("a", 1), Cursor("b", 2, "f")]
    with pytest.raises(BadCursor, match="1 channels, for a request of 2"):
        protocol.parse_cursors("v1.a.1", 2)


def test_a_fence_ends_with_its_ceiling() -> None:
    assert beyond("", "00")
    assert not beyond("0005.z_1-2", "0005.000001")
    assert not beyond("0005.z_1-2", "0004.000001")
    assert beyond("0005.z_1-2", "0006.000001")


@given(json_values)
def test_an_event_is_the_same_in_json_and_msgpack(value: object) -> None:
    event = placed(value=value)
    plain = msgspec.json.decode(event.json)
    assert plain["type"] == "event"
    assert plain["cursor"] == "v1.ep.4"
    assert msgpack.unpackb(event.msgpack) == plain
    as_json = protocol.decode_message(event.json, "json")
    as_msgpack = protocol.decode_message(event.msgpack, "msgpack")
    assert isinstance(as_json, Event)
    assert isinstance(as_msgpack, Event)
    assert [msgspec.json.decode(msgspec.json.encode(each)) for each in (as_json, as_msgpack)] == [plain, plain]


def test_a_delete_has_no_value_at_all() -> None:
    assert b"value" not in placed("delete").json
    assert placed("delete").event.value is UNSET


def test_a_null_is_a_value() -> None:
    assert bytes(placed(value=None).event.value) == b"null"  # type: ignore[arg-type]


def test_a_number_that_msgpack_cannot_hold_becomes_its_digits() -> None:
    assert msgpack.unpackb(placed(value=[2**70, -(2**70), 2**63]).msgpack)["value"] == [
        str(2**70),
        str(-(2**70)),
        2**63,
    ]


def test_a_fenced_event_differs_in_its_cursor_alone() -> None:
    plain, fenced = msgspec.json.decode(placed().json), msgspec.json.decode(placed().fenced("05.z").json)
    assert fenced.pop("cursor") == "v1.ep.4.05.z"
    assert plain.pop("cursor") == "v1.ep.4"
    assert plain == fenced


def test_a_server_sent_event_is_one_line_of_data() -> None:
    lines = placed(value="two\nlines").sse.decode().split("\n")
    assert lines[0] == "id: v1.ep.4"
    assert lines[1] == "event: put"
    assert lines[2].startswith("data: {")
    assert lines[3:] == ["", ""]


def test_a_request_is_read_in_both_codecs_and_unknown_fields_are_ignored() -> None:
    message = {"type": "subscribe", "id": 1, "channel": "redis/a", "key": "7", "later": True}
    for codec, frame in (("json", msgspec.json.encode(message)), ("msgpack", msgpack.packb(message))):
        assert protocol.decode_request(frame, codec) == Subscribe(1, "redis/a", "7")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        ("{", "not JSON"),
        ("[]", "unknown message type None"),
        ('{"type":"shout"}', "unknown message type 'shout'"),
        ('{"type":"subscribe","id":1}', "missing required field `channel`"),
        ('{"type":"subscribe","id":[],"channel":"a/b"}', r"got `array` - at `\$.id`"),
        ('{"type":"subscribe","id":1,"channel":"a/b","mode":"some"}', "Invalid enum value 'some'"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(frame: str, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        protocol.decode_request(frame, "json")


@pytest.mark.parametrize(
    "request_",
    [
        {"type": "x" * 60_000},
        {"type": ["x" * 60_000]},
        {"type": "unsubscribe", "id": "x" * 60_000},
        {"type": "unsubscribe", "id": 10**4_000},
        {"type": "subscribe", "id": 1, "channel": "a/b", "mode": "x" * 60_000},
    ],
)
def test_an_error_is_not_as_large_as_what_it_is_about(request_: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        protocol.decode_request(json.dumps(request_), "json")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(("id_", "about"), [("a", "a"), (7, 7), (False, None), (1.5, None), ([], None), (None, None)])
def test_an_error_names_an_id_only_where_it_could_be_one(id_: object, about: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        protocol.decode_request(json.dumps({"type": "subscribe", "id": id_}), "json")
    assert (caught.value.about, type(caught.value.about)) == (about, type(about))


def test_an_id_has_a_longest() -> None:
    longest = protocol.Unsubscribe("x" * protocol.MAX_ID)
    assert protocol.decode_request(msgspec.json.encode(longest), "json") == longest
    longest.id += "x"  # type: ignore[operator]
    with pytest.raises(ProtocolError, match="an id of more than 128 characters"):
        protocol.decode_request(msgspec.json.encode(longest), "json")


def test_a_number_beyond_a_double_reaches_msgpack_as_infinite() -> None:
    assert msgpack.unpackb(protocol.to_msgpack(b'{"a":[1e400,-1e400,1]}')) == {"a": [math.inf, -math.inf, 1]}


@pytest.mark.parametrize("frame", [b"\xc1", b"\x81\x01\x02", b"", b"\x93\x01"])
def test_bad_msgpack_is_told_so(frame: bytes) -> None:
    with pytest.raises(ProtocolError, match="not MessagePack"):
        protocol.decode_request(frame, "msgpack")


def test_a_text_frame_on_the_binary_subprotocol_is_told_so() -> None:
    with pytest.raises(ProtocolError, match="text frame"):
        protocol.decode_request("{}", "msgpack")


@pytest.mark.parametrize(
    "channel", ["", "redis", "redis/", "/a", "Redis/a", "redis/a/b", "redis/a b", "redis/" + "a" * 129]
)
def test_what_is_no_channel_is_refused(channel: str) -> None:
    with pytest.raises(ProtocolError, match="not a channel"):
        protocol.split_channel(channel)


@given(json_values)
def test_a_value_keeps_its_meaning_and_loses_its_white_space(value: object) -> None:
    text = msgspec.json.format(msgspec.json.encode(value), indent=2)
    assert msgspec.json.decode(protocol.parse_value(text)) == msgspec.json.decode(text)


def test_a_number_keeps_its_digits() -> None:
    assert bytes(protocol.parse_value(b' {"n": 1.10, "big": 12345678901234567890123} ')) == (
        b'{"n":1.10,"big":12345678901234567890123}'
    )


@pytest.mark.parametrize(
    "body", [b"", b"{", b"nope", b"NaN", b'{"a":1}x', b"\xff", b"[" * 50 + b"]" * 50, b"[" * 100_000]
)
def test_what_is_no_value_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"not JSON|deeper than"):
        protocol.parse_value(body)


@pytest.mark.parametrize(
    ("target", "patch", "merged"),
    [  # RFC 7396, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(target: object, patch: object, merged: object) -> None:
    assert protocol.merge_patch(target, patch) == merged


def test_a_condition_holds_or_shows_the_current_value() -> None:
    current = b'{"a":1}'
    Condition((etag(b"1"), etag(current))).check("k", current)
    Condition(exists=True).check("k", current)
    Condition(exists=False).check("k", None)
    for condition, now in (
        (Condition((etag(b"1"),)), current),
        (Condition((etag(b"1"),)), None),
        (Condition(exists=True), None),
        (Condition(exists=False), current),
    ):
        with pytest.raises(Conflict) as caught:
            condition.check("k", now)
        assert caught.value.current == now
