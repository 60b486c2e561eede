"""A whole node on memory: real sockets and real handlers, without servers. pytest-tornado brings loop and client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.web import Application

from realtime.app import Service, application
from realtime.brokers.memory import MemoryBroker
from realtime.config import Config
from realtime.stores.memory import MemoryStore
from tests.wait import until


@pytest.fixture
def service(io_loop: IOLoop) -> Iterator[Service]:
    store, broker = MemoryStore("memory"), MemoryBroker()
    service = Service(Config(port=0, drain=2), broker, [store], "node-1")

    async def start() -> None:
        await service.open()
        await until(lambda: "memory" in broker.wire.marks)

    io_loop.run_sync(start)
    yield service
    io_loop.run_sync(service.close)


@pytest.fixture
def app(service: Service) -> Application:
    """What pytest-tornado serves as `base_url`."""
    return application(service.door)


@pytest.fixture
def base_url(http_server: HTTPServer, http_port: int) -> str:
    """pytest-tornado's own does not start the server: only its client does."""
    return f"http://localhost:{http_port}"
