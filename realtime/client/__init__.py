"""The client for Python: watch, keep a copy, read and write, over one WebSocket and HTTP.

It needs `websockets`, `msgspec` and `h11`, and of the service's own modules the pure ones alone, so that it can be
imported where no server's library is. HTTP is h11 on asyncio's streams, since a request here is small and always to
the same host: httpx, aiohttp and niquests bring five to ten packages for it, and `http.client` threads that cannot be
cancelled.

    async with connect("http://127.0.0.1:8888") as live:
        async for message in live.watch("postgres/entries"):
            ...
"""

from __future__ import annotations

from ..errors import (
    BadCursor,
    Duplicate,
    Forbidden,
    NotFound,
    ProtocolError,
    ReadOnly,
    RealtimeError,
    Refused,
    TooLarge,
    TooMany,
    Unauthorized,
    Unavailable,
    UnknownChannel,
)
from .answers import Conflict
from .live import Live, connect
from .messages import Event, Item, Message, Reset, Snapshot, State, Written
from .replicas import LiveReplica
from .sync import SyncLive, SyncReplica, SyncWatch, connect_sync
from .tokens import Token
from .watch import Watch

__all__ = [
    "BadCursor",
    "Conflict",
    "Duplicate",
    "Event",
    "Forbidden",
    "Item",
    "Live",
    "LiveReplica",
    "Message",
    "NotFound",
    "ProtocolError",
    "ReadOnly",
    "RealtimeError",
    "Refused",
    "Reset",
    "Snapshot",
    "State",
    "SyncLive",
    "SyncReplica",
    "SyncWatch",
    "Token",
    "TooLarge",
    "TooMany",
    "Unauthorized",
    "Unavailable",
    "UnknownChannel",
    "Watch",
    "Written",
    "connect",
    "connect_sync",
]
