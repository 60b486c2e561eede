"""What a client is told and what it gets, in plain Python: values are what JSON makes of them."""

from __future__ import annotations

from json import loads
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from ..protocol import Op

State = Literal["idle", "connecting", "catching up", "live", "reconnecting", "closed"]


class Snapshot(Struct, frozen=True):
    """The items of the selection at one moment: what a watch without a cursor begins with."""

    channel: str
    key: str | None  # of the selection; None: every key
    items: dict[str, Any]
    cursor: str


class Reset(Struct, frozen=True):
    """History broke, for `reason`: these items replace all that was known of the selection."""

    channel: str
    key: str | None
    items: dict[str, Any]
    cursor: str
    reason: str


class Event(Struct, frozen=True):
    """Something happened to a key; `value` is None for a delete. `time`: of the commit, seconds since 1970."""

    channel: str
    key: str
    op: Op
    value: Any
    version: str
    time: float
    cursor: str


Message = Snapshot | Event | Reset


class Item(Struct, frozen=True):
    """`etag` names the value, for `if_match`; None where not all of it may be seen. `cursor`: where to watch from."""

    key: str
    value: Any
    etag: str | None
    cursor: str | None


class Written(Struct, frozen=True):
    """`version` None: the value was that already. `cursor`: of the write's event, where it was waited for and came."""

    key: str
    version: str | None
    cursor: str | None
    etag: str | None


def plain(value: Raw | bytes) -> Any:
    """What the JSON says."""
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError:  # a number beyond a double, which a store may hold as JSON
        return loads(bytes(value))
