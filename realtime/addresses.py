"""One address that the configuration names, asked with GET: the only way in which the service asks others' servers.

Neither what answers is trusted nor what a name stands for: no redirect is followed, a body is bounded before and after
it is unpacked, times are short. A name is resolved once, and what was looked at is what is connected to, so that no
name leads inside (SSRF, DNS rebinding). Without TLS only loopback is asked, and only where the URL itself says so.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any
from urllib.parse import urlsplit

from tornado.httpclient import HTTPError, HTTPResponse
from tornado.iostream import UnsatisfiableReadError
from tornado.netutil import DefaultLoopResolver, Resolver
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from .errors import ConfigError

CONNECT, REQUEST = 5.0, 10.0  # seconds
MAX_HEADER = 16 << 10
NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the last four bytes are an IPv4 address

IP = IPv4Address | IPv6Address
Allowed = Callable[[IP], bool]


class NoAnswer(Exception):
    """Nothing came, or too much; the message says why."""


class Address:
    """`name`: of its setting. `inside`: may be in a private network, which its owner knows best.

    Raises ConfigError where the URL is not one that may be asked.
    """

    def __init__(
        self, name: str, url: str, *, max_body: int, inside: bool = False, resolver: Resolver | None = None
    ) -> None:
        self._url, self._max_body = url, max_body
        try:
            host = _host_of(url)
            allowed = _loopback if _means_loopback(host) else _inside if inside else _public
            if (ip := _literal(host)) and not allowed(ip):
                raise ValueError(f"{ip} is not asked")
        except ValueError as error:
            raise ConfigError(f"config: {name}: {error}") from None
        self._resolver = Checked(host, allowed, resolver or DefaultLoopResolver())

    async def get(self) -> HTTPResponse:
        """Whatever its status is. Raises NoAnswer."""
        client = SimpleAsyncHTTPClient(
            force_instance=True, max_header_size=MAX_HEADER, max_body_size=self._max_body, resolver=self._resolver
        )
        fetch = client.fetch(
            self._url, raise_error=False, follow_redirects=False, connect_timeout=CONNECT, request_timeout=REQUEST
        )
        fetch.add_done_callback(_seen)
        try:
            await asyncio.wait([fetch])  # and not itself, as Tornado calls it a defect if a cancelled one fails later
            return fetch.result()
        except (HTTPError, OSError, ValueError, UnsatisfiableReadError) as error:
            raise NoAnswer(f"{type(error).__name__}: {error}") from None
        finally:
            client.close()


class Checked(Resolver):
    """Of one host: what it stands for, if all of that may be connected to. Raises OSError."""

    # Tornado makes resolvers by a way of its own, in which `initialize` is the constructor.
    def initialize(self, host: str, allowed: Allowed, resolver: Resolver) -> None:
        self._host, self._allowed, self._resolver = host, allowed, resolver

    async def resolve(
        self, host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[tuple[int, Any]]:
        found = await self._resolver.resolve(self._host, port, family)
        for _, address in found:
            ip = _ip(address[0])
            if not self._allowed(ip):
                raise OSError(f"{self._host} stands for {ip}, which is not asked")
        return found


def _public(ip: IP) -> bool:
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


def _inside(ip: IP) -> bool:
    """But not what is on the way to it: link-local addresses have the metadata of clouds."""
    return not (ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified)


def _loopback(ip: IP) -> bool:
    return ip.is_loopback


def _host_of(url: str) -> str:
    """Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError("no https URL")
    if parts.scheme == "http" and not _means_loopback(parts.hostname):
        raise ValueError(f"only loopback may be asked by http, {parts.hostname} by https")
    return parts.hostname


def _means_loopback(host: str) -> bool:
    """By itself: not what some resolver takes it for."""
    ip = _literal(host)
    return host == "localhost" if ip is None else ip.is_loopback


def _literal(host: str) -> IP | None:
    try:
        return _ip(host)
    except ValueError:
        return None


def _ip(text: str) -> IP:
    """Where it leads, if it is an IPv6 address that only wraps an IPv4 address. Raises ValueError."""
    ip = ip_address(text)
    if isinstance(ip, IPv4Address):
        return ip
    wrapped = IPv4Address(ip.packed[-4:]) if ip in NAT64 else ip.ipv4_mapped or ip.sixtofour
    return wrapped or ip


def _seen(fetch: asyncio.Future[HTTPResponse]) -> None:
    """An error that nobody waits for any more is nobody's."""
    if not fetch.cancelled():
        fetch.exception()
