"""Who is at the other end of a connection: what a request says of that is believed only where it may be.

Anybody can write X-Forwarded-For. So it is read from the right, as far as each hop is a proxy that the configuration
names (RFC 7239, 8.1), and not at all where the connection comes from somewhere else. Tornado's `xheaders` believes all.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from tornado.httputil import HTTPServerRequest

IP = IPv4Address | IPv6Address
PREFIX = 64  # bits of an IPv6 address that one customer has


class Proxies:
    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ip_network(each) for each in networks]

    def unwrap(self, request: HTTPServerRequest) -> None:
        """Have the request's `remote_ip` and `protocol` be those of who sent it first."""
        peer = _ip(request.remote_ip)
        if peer is None or not self._has(peer):
            return
        scheme = request.headers.get("X-Forwarded-Proto", "").rpartition(",")[2].strip().lower()
        if scheme in ("http", "https"):
            request.protocol = scheme
        for text in reversed(request.headers.get("X-Forwarded-For", "").split(",")):
            hop = _ip(text.strip())
            if hop is None:
                break
            peer = hop
            if not self._has(hop):
                break
        request.remote_ip = str(peer)

    def _has(self, ip: IP) -> bool:
        return any(ip in network for network in self._networks)


def counted(address: str) -> str:
    """What one customer of a network has: of IPv6 a whole prefix."""
    ip = _ip(address)
    return str(ip_network((ip, PREFIX), strict=False)) if isinstance(ip, IPv6Address) else str(ip or address)


def _ip(text: str | None) -> IP | None:
    """IPv4 that came over IPv6 is IPv4."""
    try:
        ip = ip_address(text or "")
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip
