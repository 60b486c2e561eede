"""What can be set, as one frozen tree, read once: flags over environment over `realtime.toml` over defaults.

A name that nobody reads is refused, with the name that was probably meant: a misspelt variable that is silently ignored
costs its owner an evening.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from .errors import ConfigError

PREFIX = "REALTIME_"
# May also be given as the name of a file: <NAME>_FILE
SECRETS = (("database_url",), ("redis_url",), ("mongodb_uri",), ("auth", "cookie_secrets"), ("auth", "jwt", "key"))
SECRET = 32  # bytes that a secret has at least
LISTS = (("tables",), ("hosts",), ("proxies",), ("auth", "cookie_secrets"), ("auth", "jwt", "algorithms"))


class Place(Struct, frozen=True, forbid_unknown_fields=True):
    """A place whose weather is a key of `weather/current`; `key` is that key."""

    key: str
    city: str
    country: str
    lat: float
    lon: float


PLACES = (
    Place("berlin", "Berlin", "DE", 52.52, 13.41),
    Place("new-york", "New York", "US", 40.71, -74.01),
    Place("tokyo", "Tokyo", "JP", 35.69, 139.69),
)


class Weather(Struct, frozen=True, forbid_unknown_fields=True):
    uri: str = "https://api.open-meteo.com/v1/forecast"
    period: float = 900.0  # seconds between two requests
    places: tuple[Place, ...] = PLACES

    def __post_init__(self) -> None:
        if self.period < 1:
            raise ValueError(f"period must be at least 1 second (got {self.period:g})")


class History(Struct, frozen=True, forbid_unknown_fields=True):
    """How much of a channel's history the broker keeps for clients that were away."""

    events: int = 1000
    seconds: int = 3600

    def __post_init__(self) -> None:
        if self.events < 1 or self.seconds < 1:
            raise ValueError(f"events and seconds must be at least 1 (got {self.events} and {self.seconds})")


class Jwt(Struct, frozen=True, forbid_unknown_fields=True):
    """Tokens of an outside issuer (RFC 7519): of one family of algorithms, by a key or by a set of keys (JWKS)."""

    key: str | None = None  # a shared secret, or a public key in PEM
    jwks: str | None = None  # a file, or a fixed URL
    algorithms: tuple[str, ...] = ()
    audience: str | None = None
    issuer: str | None = None
    roles: str = "roles"  # the claim with the roles


class Auth(Struct, frozen=True, forbid_unknown_fields=True):
    """Who may; without it the service is open, and bound to loopback."""

    on: bool = False
    rules: str | None = None  # a file; None: the role `admin` may all
    cookie_secrets: tuple[str, ...] = ()  # the newest last, which signs; none: made once and kept in PostgreSQL
    jwt: Jwt = field(default_factory=Jwt)

    def __post_init__(self) -> None:
        for number, secret in enumerate(self.cookie_secrets, 1):
            if len(secret.encode()) < SECRET:
                raise ValueError(
                    f"auth.cookie_secrets: number {number} has {len(secret.encode())} bytes, and needs {SECRET}:"
                    " make one with `openssl rand -base64 32`"
                )


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """What one connection, user or address may ask for, and what a node bears. docs/security.md has the table.

    Rates are a second; four seconds' worth of one may come at once.
    """

    message_bytes: int = 1 << 16  # of a WebSocket
    body_bytes: int = 1 << 20  # of a value
    header_bytes: int = 1 << 14  # of a request
    idle_seconds: float = 30.0  # for a request's headers, also the next one's
    body_seconds: float = 10.0  # for a request's body
    messages: float = 50.0  # rate of a connection, pings and all
    subscribes: float = 50.0  # rate of a connection
    user_messages: float = 200.0  # rate of all connections of a user
    writes: float = 20.0  # rate of a user; of an address, where nobody says who they are
    subscriptions: int = 128  # of a connection
    user_subscriptions: int = 1000
    connections: int = 10_000  # of a node: WebSockets, streams and polls
    user_connections: int = 100
    address_connections: int = 20  # of those who do not say who they are
    snapshots: int = 8  # that a node reads of a store at once
    snapshot_items: int = 10_000
    snapshot_bytes: int = 1 << 23

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if not getattr(self, name) >= 1:
                raise ValueError(f"limits.{name} must be at least 1 (got {getattr(self, name):g})")


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    host: str = "127.0.0.1"
    port: int = 8888
    hosts: tuple[str, ...] = ()  # names by which it may be called; none: the local ones, or any where auth is on
    metrics_port: int | None = None  # on 127.0.0.1, for /metrics; None: with everything else while the service is open
    data: str | None = None  # of the embedded servers; None: where the platform keeps such things
    demo: bool = False  # sample data that moves, and simulated weather
    node: str | None = None  # this node's name, None: made from host and process
    database_url: str | None = None  # None: the embedded server
    redis_url: str | None = None
    mongodb_uri: str | None = None
    tables: tuple[str, ...] = ("entries",)  # of Postgres, each with a primary key
    weather: Weather = field(default_factory=Weather)
    history: History = field(default_factory=History)
    drain: float = 6.0  # seconds for clients to leave at a stop
    proxies: tuple[str, ...] = ()  # networks whose X-Forwarded-For and X-Forwarded-Proto are believed
    auth: Auth = field(default_factory=Auth)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be 0 (any free one) to 65535 (got {self.port})")
        if self.metrics_port is not None and not 0 <= self.metrics_port <= 65535:
            raise ValueError(f"metrics_port must be 0 (any free one) to 65535 (got {self.metrics_port})")
        if not 0 <= self.drain <= 3600:
            raise ValueError(f"drain must be 0 to 3600 seconds (got {self.drain:g})")
        for network in self.proxies:
            ip_network(network)

    @property
    def urls(self) -> dict[str, str]:
        """Of the stores whose addresses are given."""
        given = {"postgres": self.database_url, "mongo": self.mongodb_uri, "redis": self.redis_url}
        return {name: url for name, url in given.items() if url is not None}


# Names that platforms and the tutorial use. The prefixed name wins.
ALIASES = {
    "PORT": ("port",),
    "SERVER_PORT": ("port",),
    "DATABASE_URL": ("database_url",),
    "REDIS_URL": ("redis_url",),
    "MONGODB_URI": ("mongodb_uri",),
    "WEATHER_URI": ("weather", "uri"),
}
# The one to name when an address is meant.
VARIABLES = {"postgres": "DATABASE_URL", "redis": "REDIS_URL", "mongo": "MONGODB_URI"}
PAIR = ("REDIS_HOST", "REDIS_PORT")  # the tutorial's way to say REDIS_URL


def load(flags: Mapping[str, object], environment: Mapping[str, str], file: Path | None = None) -> Config:
    """The configuration; `flags` that are None were not given. Raises ConfigError, which names the offending name."""
    file = file or _file_of(environment)
    tree = _read(file) if file else {}
    origin = {path: f"{file}: {'.'.join(path)}" for path in _leaves(tree)}
    for path, name, value in _settings(environment):
        _set(tree, path, value)
        origin[path] = f"environment: {name}"
    for name, given in flags.items():
        if given is not None:
            tree[name] = given
            origin[(name,)] = f"flag: --{name}"
    try:
        return msgspec.convert(tree, Config, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error), origin)) from None


def names() -> list[str]:
    """Every environment variable that is read."""
    own = [_variable(path) for path in _fields(Config)]
    return [*own, *(f"{_variable(path)}_FILE" for path in SECRETS), f"{PREFIX}CONFIG", *ALIASES, *PAIR]


def _variable(path: tuple[str, ...]) -> str:
    return PREFIX + "__".join(path).upper()


def _file_of(environment: Mapping[str, str]) -> Path | None:
    if f"{PREFIX}CONFIG" in environment:
        return Path(environment[f"{PREFIX}CONFIG"])
    default = Path("realtime.toml")
    return default if default.is_file() else None


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"config: {file}: {error}") from None


def _settings(environment: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], str, object]]:
    """(path, variable, value), the weaker ones first."""
    known = set(names())
    for name in environment:
        if name not in known:
            _refuse_misspelt(name, known)
    if PAIR[0] in environment or PAIR[1] in environment:
        host, port = environment.get(PAIR[0], "localhost"), environment.get(PAIR[1], "6379")
        yield ("redis_url",), " and ".join(PAIR), f"redis://{host}:{port}"
    for alias, path in ALIASES.items():
        if alias in environment:
            yield path, alias, environment[alias]
    for path in _fields(Config):
        name = _variable(path)
        if path in SECRETS and f"{name}_FILE" in environment:
            yield path, f"{name}_FILE", _value(_secret(environment[f"{name}_FILE"]), path)
        if name in environment:
            yield path, name, _value(environment[name], path)


def _value(text: str, path: tuple[str, ...]) -> object:
    """Lists come as JSON, or as words with commas or lines between them."""
    if path in LISTS:
        return [word.strip() for word in text.replace("\n", ",").split(",") if word.strip()]
    if path == ("weather", "places"):
        try:
            return msgspec.json.decode(text)
        except ValueError as error:
            raise ConfigError(f"config: {PREFIX}WEATHER__PLACES is not JSON: {error}") from None
    return text


def _secret(file: str) -> str:
    try:
        return Path(file).read_text().strip()
    except OSError as error:
        raise ConfigError(f"config: {file}: {error.strerror}") from None


def _refuse_misspelt(name: str, known: set[str]) -> None:
    """Of all that starts like ours, and of what looks like one of the well-known names but for a slip of the hand."""
    ours = name.startswith(PREFIX)
    meant = difflib.get_close_matches(name, known if ours else {*ALIASES} - {"PORT"}, n=1, cutoff=0.6 if ours else 0.85)
    if ours or meant:
        hint = f"; did you mean {meant[0]}?" if meant else f"; {PREFIX}… names: {', '.join(sorted(known))}"
        raise ConfigError(f"config: nobody reads the environment variable {name}{hint}")


def _fields(kind: type[Struct], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for each in msgspec.structs.fields(kind):
        path = (*above, each.name)
        if isinstance(each.type, type) and issubclass(each.type, Struct):
            yield from _fields(each.type, path)
        else:
            yield path


def _leaves(tree: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*above, name))
        else:
            yield (*above, name)


def _set(tree: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


def _explain(error: str, origin: Mapping[tuple[str, ...], str]) -> str:
    """msgspec's words, with the name of the thing as its owner wrote it."""
    text, _, place = error.partition(" - at `$")
    path = tuple(part for part in place.rstrip("`").split(".") if part)
    where = next((origin[path[:end]] for end in range(len(path), 0, -1) if path[:end] in origin), ".".join(path))
    return f"config: {text}" + (f" (from {where})" if where else "")
