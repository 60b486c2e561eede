"""Where connections and requests come in, before any handler is chosen: what is not to be answered ends here."""

from __future__ import annotations

from typing import Any, cast

from tornado.http1connection import HTTP1Connection
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.iostream import IOStream
from tornado.web import Application, stream_request_body

from ..errors import RealtimeError
from .bounds import Bounds
from .door import Door
from .pieces import Pieces

FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
MOST_IGNORED = 100 << 20  # bytes of a body that are read to answer that it is too large


class Web(Application):
    def __init__(self, door: Door, handlers: list[Any], **settings: Any) -> None:
        self._door = door
        super().__init__(handlers, **settings)

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        error = self._door.bounds.look(request)
        if error is None:
            return super().find_handler(request, **kwargs)
        return self.get_handler_delegate(request, TurnedAway, {"door": self._door, "error": error})


@stream_request_body
class TurnedAway(Pieces):
    """Answered without a look at the body."""

    def initialize(self, door: Door, error: RealtimeError) -> None:  # type: ignore[override]
        super().initialize(door)
        self._error = error

    async def prepare(self) -> None:
        raise self._error


class Server(HTTPServer):
    """Tornado's, with the limits of the configuration. Headers have to come within the idle time, drop by drop or not.

    A socket that has no file left for it cannot even be refused: so some are kept for that.
    """

    # Tornado makes servers by a way of its own, in which `initialize` is the constructor.
    def initialize(self, application: Application, bounds: Bounds) -> None:  # type: ignore[override]
        self._bounds, limits = bounds, bounds.limits
        super().initialize(
            application,
            max_header_size=limits.header_bytes,
            max_body_size=limits.body_bytes,
            idle_connection_timeout=limits.idle_seconds,
            body_timeout=limits.body_seconds,
        )

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        if len(self._connections) + self._bounds.websockets < self._bounds.most_sockets:
            super().handle_stream(stream, address)
            return
        self._bounds.count("sockets")
        stream.write(FULL)
        stream.close()


def ignore_body(request: HTTPServerRequest) -> None:
    """Of a request whose body is taken piece by piece, how much there may be: it is not kept."""
    cast("HTTP1Connection", request.connection).set_max_body_size(MOST_IGNORED)
