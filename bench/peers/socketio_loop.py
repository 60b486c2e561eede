"""python-socketio on Tornado: `emit` to all."""

from __future__ import annotations

import asyncio
import json
import sys

import socketio
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application


async def main() -> None:
    _, prefix, suffix = sys.argv
    server = socketio.AsyncServer(async_mode="tornado")
    sockets = bind_sockets(0, "127.0.0.1", backlog=4096)
    HTTPServer(Application([("/socket.io/", socketio.get_tornado_handler(server))])).add_sockets(sockets)
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
            await server.emit("event", json.loads(f"{prefix}{number:07}{suffix}"))
        await asyncio.sleep(0 if burst else 0.01)


asyncio.run(main())
