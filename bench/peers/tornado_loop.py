"""Tornado's own way: `write_message` to each connection, once a message."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application
from tornado.websocket import WebSocketClosedError, WebSocketHandler

clients: set[Socket] = set()


class Socket(WebSocketHandler):
    def open(self, *_: str, **__: str) -> None:
        self.set_nodelay(True)
        clients.add(self)

    def on_message(self, message: str | bytes) -> None:
        pass

    def on_close(self) -> None:
        clients.discard(self)


async def main() -> None:
    _, prefix, suffix = sys.argv
    sockets = bind_sockets(0, "127.0.0.1", backlog=4096)
    HTTPServer(Application([("/", Socket)])).add_sockets(sockets)
    print(sockets[0].getsockname()[1], flush=True)
    burst = number = 0

    def told() -> None:
        nonlocal burst
        line = sys.stdin.readline()
        if not line:
            sys.exit()
        burst = int(line)

    asyncio.get_running_loop().add_reader(sys.stdin, told)
    while True:
        for _ in range(burst):
            number += 1
            message = f"{prefix}{number:07}{suffix}"
            for each in clients:
                with suppress(WebSocketClosedError):
                    each.write_message(message).add_done_callback(lambda done: done.exception())
        await asyncio.sleep(0 if burst else 0.01)


asyncio.run(main())
