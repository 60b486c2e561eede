"""How one encoded message is framed for a transport: made once for all who get the same bytes."""

from __future__ import annotations

import struct

_TEXT, _BINARY = 0x81, 0x82  # the final, and only, frame of a message


def websocket_frame(payload: bytes, *, binary: bool) -> bytes:
    """A whole message as a server sends it: unmasked, in one frame. (RFC 6455, 5.2)"""
    first, size = _BINARY if binary else _TEXT, len(payload)
    if size < 126:
        head = struct.pack("!BB", first, size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, 126, size)
    else:
        head = struct.pack("!BBQ", first, 127, size)
    return head + payload


def sse_frame(name: str, json: bytes, cursor: str = "") -> bytes:
    """One server-sent event; `json` has no raw line breaks. (WHATWG HTML, 9.2.6)"""
    place = f"id: {cursor}\n".encode() if cursor else b""
    return b"%sevent: %s\ndata: %s\n\n" % (place, name.encode(), json)
