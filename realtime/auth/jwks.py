"""The keys of an outside issuer: one that is configured, or a set (JWKS, RFC 7517) in a file or at a fixed address.

Only where the configuration says is looked for keys, never where a token says (`jku`, `x5u`, `jwk`). A set may hold
what is not for us: what cannot check a token by the configured algorithms is left out. An issuer that does not answer
changes nothing: the last keys stay good, as otherwise its outage would be ours.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from jwt.algorithms import get_default_algorithms
from jwt.exceptions import PyJWTError
from msgspec import Raw, Struct

from ..addresses import Address, NoAnswer
from ..config import Jwt
from ..errors import ConfigError, Unavailable
from ..tasks import Tasks
from .stamp import stamp

log = logging.getLogger("realtime.auth.jwks")

MAX_BODY = 256 << 10
CACHE = 600.0  # seconds that a set is good for
AGAIN = 300.0  # seconds between two looks for a key that the set does not have
PAUSE = 10.0  # seconds after a miss: a client that knocks must not make us knock at the issuer

ALGORITHMS = get_default_algorithms()


class Key(Struct, frozen=True):
    """`algorithms`: those of the configured ones that this key is for."""

    value: Any
    algorithms: tuple[str, ...]


class Keys(Protocol):
    async def find(self, kid: str | None) -> Key | None:
        """The key that a token names; None where there is no such key. Raises Unavailable where none is known yet."""
        ...

    async def close(self) -> None: ...


class OneKey:
    """A shared secret, or a public key in PEM. Tokens need not name it."""

    def __init__(self, text: str, algorithms: Sequence[str]) -> None:
        for name in algorithms:
            try:
                value = ALGORITHMS[name].prepare_key(text)
                problem = ALGORITHMS[name].check_key_length(value)
            except (PyJWTError, ValueError, TypeError) as error:
                raise ConfigError(f"config: auth.jwt.key is not for {name}: {error}") from None
            if problem:
                raise ConfigError(f"config: auth.jwt.key is too short for {name}: {problem}")
            if hasattr(value, "private_bytes"):
                raise ConfigError("config: auth.jwt.key is a private key: the public one is enough here")
        self._key = Key(value, tuple(algorithms))

    async def find(self, kid: str | None) -> Key | None:
        return self._key

    async def close(self) -> None: ...


class KeyFile:
    """Read again when it has changed."""

    def __init__(self, path: str, algorithms: Sequence[str]) -> None:
        self._path, self._algorithms = path, algorithms
        self._seen = stamp(path)
        try:
            self._keys = self._read()
        except (OSError, ValueError) as error:
            raise ConfigError(f"config: auth.jwt.jwks: {path}: {error}") from None
        if not self._keys:
            raise ConfigError(f"config: auth.jwt.jwks: {path} has no key for {', '.join(algorithms)}")

    async def find(self, kid: str | None) -> Key | None:
        self._look()
        return None if kid is None else self._keys.get(kid)

    async def close(self) -> None: ...

    def _look(self) -> None:
        """A file that is gone or broken says nothing: it may just be being written."""
        found = stamp(self._path)
        if found == self._seen:
            return
        self._seen = found
        try:
            self._keys = self._read()
        except (OSError, ValueError) as error:
            log.warning("the keys of the issuer cannot be read, the last ones stay good: %s: %s", self._path, error)

    def _read(self) -> Mapping[str, Key]:
        with open(self._path, "rb") as file:
            return parse(file.read(MAX_BODY), self._algorithms)


class KeyUrl:
    """Asked when the keys are old, or lack one that a token names; once for all who wait."""

    def __init__(
        self, address: Address, algorithms: Sequence[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._address, self._algorithms, self._clock = address, algorithms, clock
        self._keys: Mapping[str, Key] | None = None
        self._fetched = self._missed = self._looked = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self._down = False
        self._tasks = Tasks()

    async def find(self, kid: str | None) -> Key | None:
        if kid is None:
            return None
        if self._fetching is None and self._due(kid):
            self._fetching = self._tasks.start(self._fetch(), "keys of the issuer")
        if self._fetching is not None and (self._old() or not self._has(kid)):
            await asyncio.wait([self._fetching])
        if self._keys is None:
            raise Unavailable("the issuer of the tokens does not show its keys")
        return self._keys.get(kid)

    async def close(self) -> None:
        await self._tasks.close()

    def _due(self, kid: str) -> bool:
        now = self._clock()
        if now - self._missed < PAUSE:
            return False
        if self._old():
            return True
        if not self._has(kid) and now - self._looked >= AGAIN:
            self._looked = now
            return True
        return False

    def _old(self) -> bool:
        return self._clock() - self._fetched >= CACHE

    def _has(self, kid: str) -> bool:
        return self._keys is not None and kid in self._keys

    async def _fetch(self) -> None:
        try:
            response = await self._address.get()
            if response.code != 200:
                raise NoAnswer(f"HTTP {response.code}")
            self._keys = parse(response.body, self._algorithms)
        except (NoAnswer, ValueError) as error:
            self._missed = self._clock()
            self._say(str(error))
        else:
            self._fetched = self._clock()
            self._say(None)
        finally:
            self._fetching = None

    def _say(self, error: str | None) -> None:
        """Once an outage."""
        if error is not None and not self._down:
            log.warning("the issuer does not show its keys: %s", error)
        elif error is None and self._down:
            log.info("the issuer shows its keys again")
        self._down = error is not None


def keys_of(settings: Jwt, clock: Callable[[], float] = time.monotonic) -> Keys:
    """Raises ConfigError."""
    match settings:
        case Jwt(key=str(key), jwks=None):
            return OneKey(key, settings.algorithms)
        case Jwt(key=None, jwks=str(place)) if "://" in place:
            address = Address("auth.jwt.jwks", place, max_body=MAX_BODY, inside=True)
            return KeyUrl(address, settings.algorithms, clock)
        case Jwt(key=None, jwks=str(path)):
            return KeyFile(path, settings.algorithms)
    raise ConfigError("config: auth.jwt needs one of key and jwks")


class _Set(Struct):
    keys: list[Raw]


class _Jwk(Struct, omit_defaults=True):
    """The members that are for us, of every kind of public key; `d` is of a private one."""

    kty: str
    kid: str
    use: str = "sig"
    alg: str | None = None
    n: str | None = None
    e: str | None = None
    crv: str | None = None
    x: str | None = None
    y: str | None = None
    d: str | None = None


def parse(body: bytes, algorithms: Sequence[str]) -> Mapping[str, Key]:
    """By `kid`. Raises ValueError."""
    try:
        raws = msgspec.json.decode(body, type=_Set).keys
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"not a set of keys: {error}") from None
    found: dict[str, Key] = {}
    for raw in raws:
        try:
            jwk = msgspec.json.decode(raw, type=_Jwk)
            key = _key_of(jwk, algorithms)
        except (msgspec.MsgspecError, PyJWTError, ValueError) as error:
            log.debug("a key of the issuer is not for us: %s", error)
        else:
            if key.algorithms:
                found[jwk.kid] = key
    return found


def _key_of(jwk: _Jwk, algorithms: Sequence[str]) -> Key:
    if jwk.use != "sig" or jwk.d is not None:
        raise ValueError("not a public key for signatures")
    members = {name: value for name, value in msgspec.structs.asdict(jwk).items() if value is not None}
    value: Any = ALGORITHMS[algorithms[0]].from_jwk(members)
    meant = [name for name in algorithms if jwk.alg in (None, name)]
    return Key(value, tuple(name for name in meant if _fits(name, value)))


def _fits(name: str, value: Any) -> bool:
    try:
        return ALGORITHMS[name].check_key_length(ALGORITHMS[name].prepare_key(value)) is None
    except (PyJWTError, ValueError, TypeError):  # another curve
        return False
