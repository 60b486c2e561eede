"""From Postgres' text output to JSON, by type: the one conversion for snapshots and for the replication stream.

Both give text, so one function makes both byte-identical, and a value's ETag does not depend on how it came to us.
The text is that of `SESSION`'s settings. docs/types-postgres.md has the table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec
from msgspec import Struct

SESSION: Final = {
    "datestyle": "ISO",
    "timezone": "UTC",
    "intervalstyle": "iso_8601",
    "bytea_output": "hex",
    "extra_float_digits": "1",
}

Convert = Callable[[str], bytes]

_encode = msgspec.json.Encoder().encode

JSON_TYPES: Final = frozenset({114, 3802})  # json, jsonb


class Type(Struct, frozen=True):
    """A type made of another one: a domain over `of`, or else an array whose elements are of type `of`."""

    of: int
    domain: bool
    delimiter: str = ","


Types = Mapping[int, Type]  # by oid; a type that is not here stands for itself


def base(oid: int, types: Types) -> int:
    """The type under a domain, under a domain …"""
    while (made := types.get(oid)) is not None and made.domain:
        oid = made.of
    return oid


def converter(oid: int, types: Types) -> Convert:
    """The function that makes a column's text, never NULL, JSON."""
    oid = base(oid, types)
    made = types.get(oid)
    if made is None:
        return _CONVERTERS.get(oid, _encode)
    element, token = converter(made.of, types), _token(made.delimiter)
    return lambda text: _array(token.finditer(text, _start(text)), element)


def _bool(text: str) -> bytes:
    return b"true" if text == "t" else b"false"


def _number(text: str) -> bytes:
    return text.encode()


def _float(text: str) -> bytes:
    return _encode(text) if text[-1] in "Ny" else text.encode()  # NaN, Infinity, -Infinity


def _json(text: str) -> bytes:
    """White space removed: a frame has no line breaks, and `json` keeps its own, which `jsonb` does not."""
    try:
        return msgspec.json.format(text.encode(), indent=-1)
    except (msgspec.DecodeError, RecursionError):  # nested beyond what anybody here could read
        return _encode(text)


def _timestamp(text: str) -> bytes:
    """ISO 8601; infinity and years before Christ have no form there and stay as they are."""
    if text.endswith(("BC", "infinity")):
        return _encode(text)
    text = text.replace(" ", "T", 1)
    return _encode(text + ":00" if text.endswith("+00") else text)


_CONVERTERS: Final[Mapping[int, Convert]] = {
    16: _bool,
    20: _number,  # int8
    21: _number,  # int2
    23: _number,  # int4
    700: _float,  # float4
    701: _float,  # float8
    114: _json,
    3802: _json,  # jsonb
    1114: _timestamp,
    1184: _timestamp,  # timestamptz
}


# arrays: `{1,NULL,"a \"b\""}`, nested, and `[0:1]={…}` where the bounds are not the usual ones ------------------------


def _token(delimiter: str) -> re.Pattern[str]:
    """Matches a brace, a delimiter, a quoted element (group 1) or a bare one (group 2)."""
    mark = re.escape(delimiter)
    return re.compile(rf'[{{}}{mark}]|"([^"\\]*(?:\\.[^"\\]*)*)"|([^{{}}"{mark}]+)', re.DOTALL)


def _start(text: str) -> int:
    """Behind the first brace."""
    return text.find("{") + 1


def _array(tokens: Iterator[re.Match[str]], element: Convert) -> bytes:
    """The array whose opening brace was just read."""
    items: list[bytes] = []
    for token in tokens:
        quoted, bare = token.groups()
        if quoted is not None:
            items.append(element(_unescaped(quoted)))
        elif bare is not None:
            items.append(b"null" if bare == "NULL" else element(bare))
        elif token[0] == "{":
            items.append(_array(tokens, element))
        elif token[0] == "}":
            break
    return b"[%s]" % b",".join(items)


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL) if "\\" in text else text
