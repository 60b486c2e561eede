"""Where a service is: one address, from which both a WebSocket's URL and a request's target are made."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}


class Address(NamedTuple):
    secure: bool
    host: str
    port: int
    name: str  # host and port as the Host header has them
    prefix: str  # of every path

    @classmethod
    def parse(cls, url: str) -> Address:
        """`http(s)://host:port/prefix`, or `ws(s)`. Raises ValueError."""
        parts = urlsplit(url)
        if parts.scheme not in PORTS or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError(f"not the address of a service: {url!r}; it is like https://host:port/prefix")
        port = parts.port or PORTS[parts.scheme]
        return cls(parts.scheme in ("https", "wss"), parts.hostname, port, parts.netloc, parts.path.rstrip("/"))

    @property
    def websocket(self) -> str:
        return f"{'wss' if self.secure else 'ws'}://{self.name}{self.prefix}/v1/ws"

    def __str__(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.name}{self.prefix}"
