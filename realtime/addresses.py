"""One address that the configuration names, asked with GET: the only way in which the service asks servers of others.

What answers is not trusted, and what a name stands for neither: no redirect is followed, a body is bounded before and
after it is unpacked, times are short. A name is resolved once, what it stands for is looked at, and that is connected
to: a name that stands for something inside (SSRF, DNS rebinding) leads nowhere. Only loopback may be asked without
TLS, and only by a name of its own.
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any
from urllib.parse import urlsplit

from tornado.httpclient import HTTPError, HTTPResponse
from tornado.netutil import DefaultLoopResolver, Resolver
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from .errors import ConfigError

CONNECT, REQUEST = 5.0, 10.0  # seconds
MAX_HEADER = 16 << 10
NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the last four bytes are an IPv4 address

IP = IPv4Address | IPv6Address


class NoAnswer(Exception):
    """Nothing came, or too much; the message says why."""


class Address:
    """`name`: of its setting. `inside`: may be in a private network, which its owner knows best.

    Raises ConfigError where the URL is not one that may be asked.
    """

    def __init__(
        self, name: str, url: str, *, max_body: int, inside: bool = False, resolver: Resolver | None = None
    ) -> None:
        self.url, self._max_body = url, max_body
        host = _host(name, url)
        self._resolver = Checked(host, inside, resolver or DefaultLoopResolver())

    async def get(self) -> HTTPResponse:
        """Whatever its status is. Raises NoAnswer."""
        client = SimpleAsyncHTTPClient(
            force_instance=True, max_header_size=MAX_HEADER, max_body_size=self._max_body, resolver=self._resolver
        )
        fetch = client.fetch(
            self.url, raise_error=False, follow_redirects=False, connect_timeout=CONNECT, request_timeout=REQUEST
        )
        fetch.add_done_callback(_seen)
        try:
            await asyncio.wait([fetch])  # and not itself, as Tornado calls it a defect if a cancelled one fails later
            return fetch.result()
        except (HTTPError, OSError, ValueError) as error:
            raise NoAnswer(f"{type(error).__name__}: {error}") from None
        finally:
            client.close()


class Checked(Resolver):
    """Of one host: the addresses that it stands for, if all of them may be connected to. Raises OSError."""

    # Tornado makes resolvers by a way of its own, in which `initialize` is the constructor.
    def initialize(self, host: str, inside: bool, resolver: Resolver) -> None:
        self._host, self._loopback, self._inside, self._resolver = host, is_loopback(host), inside, resolver

    async def resolve(
        self, host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[tuple[int, Any]]:
        if host.lower() != self._host:
            raise OSError(f"{host} is not {self._host}")
        found = await self._resolver.resolve(host, port, family)
        for _, address in found:
            self._check(_outer(ip_address(address[0].partition("%")[0])))
        return found

    def _check(self, ip: IP) -> None:
        if self._loopback:
            allowed = ip.is_loopback
        elif self._inside:
            allowed = not (ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified)
        else:
            allowed = ip.is_global and not ip.is_multicast
        if not allowed:
            raise OSError(f"{self._host} stands for {ip}, which is not asked")


def is_loopback(host: str) -> bool:
    """By its name: not what some resolver takes it for."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host(name: str, url: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"config: {name}: {error}") from None
    if not host or parts.scheme not in ("https", "http"):
        raise ConfigError(f"config: {name} is no https URL")
    if parts.scheme == "http" and not is_loopback(host):
        raise ConfigError(f"config: {name}: only loopback may be asked by http, {host} by https")
    return host


def _outer(ip: IP) -> IP:
    """What an IPv6 address that only wraps an IPv4 address leads to."""
    if isinstance(ip, IPv4Address):
        return ip
    wrapped = IPv4Address(ip.packed[-4:]) if ip in NAT64 else ip.ipv4_mapped or ip.sixtofour
    return wrapped or ip


def _seen(fetch: asyncio.Future[HTTPResponse]) -> None:
    """An error that nobody waits for any more is nobody's."""
    if not fetch.cancelled():
        fetch.exception()
