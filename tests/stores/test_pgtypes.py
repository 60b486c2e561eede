"""Postgres' text of a value, and its JSON. The types on a real server, as the docs list them: test_postgres."""

from __future__ import annotations

import msgspec
import pytest

from realtime.stores.pgtypes import Type, base, converter

INT4, TEXT, JSON, JSONB, NUMERIC = 23, 25, 114, 3802, 1700
TYPES = {
    1007: Type(INT4, False),
    1009: Type(TEXT, False),
    3807: Type(JSONB, False),
    1020: Type(603, False, ";"),
    90: Type(INT4, True),
    91: Type(90, False),
    92: Type(91, True),
}


@pytest.mark.parametrize(
    ("oid", "text", "json"),
    [
        (16, "t", "true"),
        (16, "f", "false"),
        (20, "-9007199254740993", "-9007199254740993"),
        (701, "1e-05", "1e-05"),
        (701, "NaN", '"NaN"'),
        (701, "-Infinity", '"-Infinity"'),
        (NUMERIC, "1.10", '"1.10"'),
        (TEXT, 'a"\\\n\x01ü', '"a\\"\\\\\\n\\u0001ü"'),
        (JSON, ' {"a" : [1.10, "x y"]}\n', '{"a":[1.10,"x y"]}'),
        (1184, "2026-11-22 10:00:00.1+00", '"2026-11-22T10:00:00.1+00:00"'),
        (1184, "infinity", '"infinity"'),
        (1114, "0044-03-15 00:00:00 BC", '"0044-03-15 00:00:00 BC"'),
        (90, "7", "7"),
        (1007, "{}", "[]"),
        (1007, "{1,NULL,-3}", "[1,null,-3]"),
        (1007, "[0:1]={1,2}", "[1,2]"),
        (1007, "[0:0][5:6]={{1,2}}", "[[1,2]]"),
        (1009, '{a,"NULL",NULL,"","x,y","{}","q\\"\\\\z","line\nbreak"}',
         '["a","NULL",null,"","x,y","{}","q\\"\\\\z","line\\nbreak"]'),
        (3807, '{"{\\"a\\": 1}"}', '[{"a":1}]'),
        (1020, "{(1,1),(0,0);(2,2),(1,1)}", '["(1,1),(0,0)","(2,2),(1,1)"]'),
        (92, "{{1},{2}}", "[[1],[2]]"),
    ],
)  # fmt: skip
def test_text_to_json(oid: int, text: str, json: str) -> None:
    assert converter(oid, TYPES)(text) == json.encode()


def test_json_nested_beyond_reading_is_a_string() -> None:
    deep = "[" * 100_000 + "]" * 100_000
    assert msgspec.json.decode(converter(JSON, {})(deep)) == deep


def test_a_domain_over_an_array_is_an_array() -> None:
    assert base(92, TYPES) == 91
    assert base(TEXT, TYPES) == TEXT
