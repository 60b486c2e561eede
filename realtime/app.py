"""The composition root: the one place that names concrete brokers and stores, and the order in which parts live."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from redis.asyncio.connection import parse_url
from tornado.netutil import bind_sockets
from tornado.web import Application

from .auth.guard import Guard
from .brokers.base import Broker
from .brokers.redis import RedisBroker
from .config import VARIABLES, Config
from .errors import ConfigError, StartError
from .feeds import Feed
from .handlers.accounts import AccountHandler, AccountsHandler
from .handlers.base import Handler, Missing
from .handlers.door import DEFAULTS, Door
from .handlers.entrance import Server, Web
from .handlers.health import AliveHandler, MetricsHandler, ReadyHandler, StoresHandler
from .handlers.hosts import Hosts, Misdirected
from .handlers.myself import MyselfHandler, TicketHandler
from .handlers.openapi import OpenApiHandler
from .handlers.pages import AssetHandler, PageHandler
from .handlers.rest import CollectionHandler, ItemHandler, ManyHandler
from .handlers.sign_in import SignInHandler, SignOutHandler
from .handlers.websocket import LiveSocket
from .metrics import Metrics
from .node import Node
from .refusals import refuse
from .stores.base import Store
from .stores.keeper import RedisKeeper
from .stores.mongo import MongoStore
from .stores.postgres import PostgresStore
from .stores.redis import RedisStore
from .stores.weather import WeatherStore

log = logging.getLogger("realtime.app")

DEMO_PERIOD = 2.0  # seconds between two simulated observations
QUIET = 0.2  # seconds between saying "not ready" and closing the door


def broker_of(config: Config, urls: Mapping[str, str], name: str) -> Broker:
    history = config.history
    return RedisBroker(urls["redis"], name, history=history.events, history_ttl=history.seconds)


def stores_of(config: Config, urls: Mapping[str, str]) -> list[Store]:
    """`urls`: of postgres, redis and mongo."""
    weather = config.weather
    return [
        PostgresStore(urls["postgres"], config.tables, slot=slot_of(urls["postgres"])),
        MongoStore(urls["mongo"]),
        RedisStore(urls["redis"]),
        WeatherStore(
            weather.places,
            uri=weather.uri,
            period=DEMO_PERIOD if config.demo else weather.period,
            simulated=config.demo,
            keeper=RedisKeeper(urls["redis"]),
        ),
    ]


def check(urls: Mapping[str, str]) -> None:
    """Raises ConfigError for what is no address, without its text, which may have a password."""
    readers: dict[str, Callable[[str], object]] = {"postgres": conninfo_to_dict, "redis": parse_url}
    for name in readers.keys() & urls.keys():
        try:
            readers[name](urls[name])
        except (ProgrammingError, ValueError):
            raise ConfigError(f"config: {VARIABLES[name]} is not an address of {name}") from None


def slot_of(url: str) -> str:
    """The replication slot's name: slots belong to the server, so that each database's service needs its own."""
    database = conninfo_to_dict(url).get("dbname") or "default"
    return "realtime_" + re.sub(r"[^a-z0-9_]", "_", str(database).lower())[:54]


def name_of(config: Config) -> str:
    return config.node or f"{socket.gethostname()}-{os.getpid()}"


def application(door: Door, config: Config = DEFAULTS) -> Application:
    web = _web()
    part = r"([^/]+)"
    given: dict[str, Any] = {"door": door}
    metrics = config.metrics_port is None and not config.auth.on  # here, among all else
    routes: list[Any] = [
        (r"/", PageHandler, given),
        (r"/healthz", AliveHandler, given),
        (r"/readyz", ReadyHandler, given),
        (r"/v1/stores", StoresHandler, given),
        (r"/v1/openapi\.json", OpenApiHandler, {**given, "metrics": metrics}),
        (r"/v1/me", MyselfHandler, given),
        (r"/v1/ticket", TicketHandler, given),
        (r"/v1/live", ManyHandler, given),
        (r"/v1/ws", LiveSocket, given),
        (rf"/v1/{part}/{part}", CollectionHandler, given),
        (rf"/v1/{part}/{part}/{part}", ItemHandler, given),
        (r"/static/(.*)", AssetHandler, {"path": str(web / "static")}),
    ]
    if door.guard is not None:
        own = {**given, "accounts": door.guard.accounts}
        routes += [
            (r"/sign-in", SignInHandler, own),
            (r"/sign-out", SignOutHandler, own),
            (r"/account", AccountHandler, own),
            (r"/accounts", AccountsHandler, own),
        ]
    if metrics:
        routes.append((r"/metrics", MetricsHandler, given))
    return Web(
        door,
        [(_hosts(config), [*routes, (r".*", Missing, given)]), (r".*", Misdirected, given)],
        login_url="/sign-in",
        template_path=str(web / "templates"),
        log_function=_count,
        cross_origin_protection=True,  # a page of another site writes nothing here
        websocket_max_message_size=door.bounds.limits.message_bytes,
    )


def inner_application(door: Door) -> Application:
    """For what looks after the service from the same machine (`metrics_port`)."""
    given: dict[str, Any] = {"door": door}
    routes: list[Any] = [
        (r"/healthz", AliveHandler, given),
        (r"/readyz", ReadyHandler, {**given, "inner": True}),
        (r"/metrics", MetricsHandler, given),
        (r".*", Missing, given),
    ]
    return Application([(Hosts(()), routes), (r".*", Misdirected, given)], log_function=_count)


def _hosts(config: Config) -> Hosts:
    """Where everybody is asked who they are, a borrowed name is of no use: a browser has no cookie for it."""
    return Hosts(None if config.auth.on and not config.hosts else [config.host, *config.hosts])


class Service:
    """One node: broker, stores, feeds, node and HTTP server, opened in this order and closed in the other."""

    def __init__(
        self,
        config: Config,
        broker: Broker,
        stores: Sequence[Store],
        name: str,
        sockets: Sequence[socket.socket] = (),
        urls: Mapping[str, str] | None = None,
    ) -> None:
        """`sockets`: what `listen` gave, where that was to be known before the stores; else made by `open`.

        `urls`: of what keeps the accounts (postgres) and the tickets (redis), where somebody is asked who they are.
        Raises ConfigError.
        """
        self.config, self.metrics = config, Metrics()
        self.node = Node(name, broker, stores, self.metrics, config.limits)
        self.feeds = [Feed(store, broker, self.metrics, self.node.sources.feed) for store in stores]
        self._guard: Guard | None = None
        if config.auth.on:
            keepers = urls or {}
            self._guard = Guard(config.auth, keepers["postgres"], keepers["redis"], self._changed)
        self.door = Door(self.node, self._guard, config)
        self.port = self.metrics_port = 0  # the real ones, once open
        self._broker, self._stores, self._sockets = broker, stores, list(sockets)
        self._server = Server(application(self.door, config), self.door.bounds)
        self._inner = Server(inner_application(self.door), self.door.bounds)
        self._stack = AsyncExitStack()

    @classmethod
    def of(cls, config: Config, urls: Mapping[str, str], sockets: Sequence[socket.socket] = ()) -> Service:
        name = name_of(config)
        return cls(config, broker_of(config, urls, name), stores_of(config, urls), name, sockets, urls)

    def _changed(self, user: str | None) -> None:
        self.door.review(user)

    async def open(self) -> None:
        """Raises StartError where the port is taken. Stores and broker may come up later."""
        sockets = self._sockets or listen(self.config)
        for each in sockets:
            self._stack.callback(each.close)
        if self.config.metrics_port is not None:
            self._open_inner(bound("127.0.0.1", self.config.metrics_port, "metrics_port"))
        for store in self._stores:
            await store.open()
            self._stack.push_async_callback(store.close)
        self._stack.push_async_callback(self._broker.close)
        self._stack.push_async_callback(self.node.close)
        await self.node.open()
        self.metrics.tasks.set_function(lambda: len(asyncio.all_tasks()))
        for feed in self.feeds:
            feed.open()
            self._stack.push_async_callback(feed.close)
        if self._guard is not None:
            await self._guard.open()
            self._stack.push_async_callback(self._guard.close)
        self.door.open()
        self._stack.push_async_callback(self.door.close)
        self._server.add_sockets(sockets)
        self.port = sockets[0].getsockname()[1]

    def _open_inner(self, sockets: list[socket.socket]) -> None:
        self._inner.add_sockets(sockets)
        self._stack.push_async_callback(self._inner.close_all_connections)
        self._stack.callback(self._inner.stop)
        self.metrics_port = sockets[0].getsockname()[1]

    async def drain(self) -> None:
        """Say that this node goes, let its clients go, take no more."""
        self.door.draining = True
        await asyncio.sleep(QUIET)
        self._server.stop()
        await self.door.drain(self.config.drain)
        await self._server.close_all_connections()

    async def close(self) -> None:
        self._server.stop()
        await self._server.close_all_connections()
        await self._stack.aclose()


def listen(config: Config) -> list[socket.socket]:
    """Raises ConfigError where others could reach an open service, StartError where the port is taken."""
    refuse(config)
    return bound(config.host, config.port, "--port")


def bound(host: str, port: int, setting: str) -> list[socket.socket]:
    try:
        return bind_sockets(port, host)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        hint = f"; choose another with {setting}, or 0 for any free one" if port else ""
        raise StartError(f"cannot listen on {host}:{port}: {reason}{hint}") from None


def _web() -> Path:
    """The pages: beside the code in an installed package, at the top of the repository otherwise."""
    package = Path(__file__).parent
    packed = package / "_web"
    return packed if packed.is_dir() else package.parent


def _count(handler: object) -> None:
    if isinstance(handler, Handler):
        request, status = handler.request, handler.get_status()
        method = request.method if request.method in handler.SUPPORTED_METHODS else "other"
        handler.node.metrics.requests.labels(method, str(status)).inc()
        log.debug("%s %s %d", request.method, request.path, status)
