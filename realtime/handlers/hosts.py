"""By which names this service may be called.

A page of another site can have its own name lead to this machine (DNS rebinding); to a browser the two are then one
site. An address in figures cannot be made to lead elsewhere, so that those are always good.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.routing import Matcher

from ..errors import WrongHost
from .base import Handler


class Hosts(Matcher):
    """`names`: besides the local ones; None: any."""

    def __init__(self, names: Iterable[str] | None) -> None:
        self._names = None if names is None else {name.lower() for name in names}

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        return {} if self._names is None or self._knows(request.host_name, self._names) else None

    def _knows(self, host: str, names: set[str]) -> bool:
        name = host.rstrip(".")
        return name == "localhost" or name.endswith(".localhost") or name in names or _is_address(name)


class Misdirected(Handler):
    """What is asked by any other name."""

    async def prepare(self) -> None:
        raise WrongHost(f"this service does not go by the name {self.request.host_name[:200]!r}")


def _is_address(host: str) -> bool:
    try:
        ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
