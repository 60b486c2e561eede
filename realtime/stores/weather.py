"""The weather now in some places: a store that nobody here writes to, read from a provider once in a while.

Only `changes`, which the feed's holder runs, asks the provider; its answers go to the keeper first and are told then,
so that every node can show them. What has not changed is no change. A provider that fails breaks nothing: the last
values stay, and say that they are stale after two periods without an answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from datetime import UTC, datetime
from itertools import count, islice
from typing import Any, NoReturn

import msgspec
from msgspec import UNSET, Raw
from tornado.ioloop import PeriodicCallback

from ..config import PLACES, Place
from ..errors import ReadOnly, StoreDown, UnknownChannel
from ..protocol import Change, Condition
from ..tasks import delays
from .base import Batch, Lost, Snapshot, Written
from .keeper import Item, Keeper, Kept
from .open_meteo import Current, Missed, OpenMeteo
from .weather_codes import words
from .weather_simulated import Simulated

log = logging.getLogger("realtime.weather")

CURRENT = "current"  # the one collection
PATIENCE = 2  # periods without an answer before a value is stale
BOOKKEEPING = {"observed_at"}  # fields whose change alone is no news


class WeatherStore:
    """`period`: seconds between two requests; `simulated`: by a formula instead of a provider."""

    read_only = True

    def __init__(
        self,
        places: Sequence[Place] = PLACES,
        *,
        keeper: Keeper,
        uri: str = "https://api.open-meteo.com/v1/forecast",
        period: float = 900.0,
        simulated: bool = False,
        name: str = "weather",
    ) -> None:
        self.name = name
        self._places = {place.key: place for place in places}
        self._keeper, self._period = keeper, period
        self._source = Simulated(places, period) if simulated else OpenMeteo(uri, places)
        self._error: str | None = None  # why the last request on this node gave nothing

    async def open(self) -> None: ...

    async def close(self) -> None:
        await self._keeper.close()

    # reading ----------------------------------------------------------------------------------------------------------

    async def collections(self) -> Mapping[str, Mapping[str, object]]:
        """Down is only what has nothing to show: old values are shown as stale."""
        kept = await self._keeper.load()
        if self._error is not None and not kept.items:
            raise StoreDown(f"{self._source.provider} has not answered yet: {self._error}")
        error = {} if self._error is None else {"error": self._error}
        return {CURRENT: {"key": ["place"], "provider": self._source.provider, **error}}

    async def snapshot(
        self, collection: str, keys: Sequence[str] | None = None, *, after: str | None = None, limit: int | None = None
    ) -> Snapshot:
        """Sorted by key; of the places that are configured, those that were observed."""
        self._check(collection)
        kept = await self._keeper.load()
        shown = [key for key in sorted(self._places) if key in kept.items and key > (after or "")]
        wanted = shown if keys is None else [key for key in shown if key in keys]
        page = list(islice(wanted, limit))
        items = {key: Raw(kept.items[key].value) for key in page}
        return Snapshot(items, kept.version, page[-1] if page and len(page) < len(wanted) else None)

    def contains(self, fence: str, version: str) -> bool:
        return version <= fence

    def sentence(self, value: Raw) -> str:
        """`Currently 7.4 degrees and overcast in Berlin, DE`"""
        now: dict[str, Any] = msgspec.json.decode(value)
        degrees = None if now["temperature_c"] is None else f"{now['temperature_c']:g} degrees"
        known = " and ".join(part for part in (degrees, now["condition"]) if part) or "unknown weather"
        return f"Currently {known} in {now['city']}, {now['country']}"

    # writing ----------------------------------------------------------------------------------------------------------

    async def put(self, collection: str, key: str | None, value: Raw, condition: Condition) -> Written:
        self._refuse(collection)

    async def patch(self, collection: str, key: str, value: Raw, condition: Condition) -> Written:
        self._refuse(collection)

    async def delete(self, collection: str, key: str, condition: Condition) -> Written:
        self._refuse(collection)

    def _refuse(self, collection: str) -> NoReturn:
        self._check(collection)
        raise ReadOnly(f"{self.name}/{collection} is what {self._source.provider} observes: it cannot be written")

    def _check(self, collection: str) -> None:
        if collection != CURRENT:
            raise UnknownChannel(
                f"no collection {collection!r} in {self.name}", hint=f"its one collection is {CURRENT}"
            )

    # changes ----------------------------------------------------------------------------------------------------------

    async def changes(self, mark: str | None) -> AsyncGenerator[Batch | Lost, None]:
        kept = await self._keeper.load()
        if mark is None or mark > kept.version:
            yield Lost("first start" if mark is None else "what was kept is gone", kept.version)
        elif missed := [_told(key, item) for key, item in kept.items.items() if item.version > mark]:
            yield Batch(sorted(missed, key=_version), kept.version)
        if gone := [key for key in kept.items if key not in self._places]:
            versions = _versions(kept.version)
            removed = [Change(CURRENT, key, "delete", UNSET, next(versions), time.time()) for key in gone]
            yield Batch(removed, removed[-1].version)
            kept = await self._keep(kept, removed[-1].version, dict.fromkeys(gone))
        with self._ticks() as tick:
            async with aclosing(self._observations(tick)) as observations:
                async for found in observations:
                    if items := self._news(kept, found):
                        version = max(item.version for item in items.values())
                        kept = await self._keep(kept, version, items)
                        yield Batch([_told(key, item) for key, item in items.items()], version)

    async def _keep(self, kept: Kept, version: str, items: Mapping[str, Item | None]) -> Kept:
        if not await self._keeper.save(kept.version, version, items):
            raise StoreDown(f"{self.name}: another node observes the weather by now")
        return await self._keeper.load()

    @contextmanager
    def _ticks(self) -> Iterator[asyncio.Event]:
        """Set once a period, a little off, so that many servers do not ask in the same second."""
        tick = asyncio.Event()
        callback = Periodic(tick.set, self._period * 1000, jitter=0.1)
        callback.start()
        try:
            yield tick
        finally:
            callback.stop()

    async def _observations(self, tick: asyncio.Event) -> AsyncGenerator[list[Current] | None, None]:
        """What the provider says: at once, then each period, after a miss when it may. None: too long nothing."""
        answered, again, pauses = time.monotonic(), 0.0, self._pauses()
        while True:
            if time.monotonic() >= again:
                try:
                    found = await self._source.observe()
                except Missed as miss:
                    self._say(str(miss))
                    again = time.monotonic() + max(next(pauses), miss.retry_after)
                else:
                    self._say(None)
                    answered, again, pauses = time.monotonic(), 0.0, self._pauses()
                    yield found
            if self._error is not None and time.monotonic() - answered > PATIENCE * self._period:
                yield None
            await _wait(tick, again - time.monotonic())

    def _pauses(self) -> Iterator[float]:
        return delays(self._period / 60, self._period)

    def _say(self, error: str | None) -> None:
        """Once an outage."""
        if error is not None and self._error is None:
            log.warning("%s gave no weather: %s", self._source.provider, error)
        elif error is None and self._error is not None:
            log.info("%s gives the weather again", self._source.provider)
        self._error = error

    def _news(self, kept: Kept, found: Sequence[Current] | None) -> dict[str, Item]:
        """What differs from what is kept; None found: that it has become stale."""
        old = {key: msgspec.json.decode(item.value) for key, item in kept.items.items()}
        if found is None:
            new = {key: {**value, "stale": True} for key, value in old.items()}
        else:
            places = zip(self._places.values(), found, strict=True)
            new = {place.key: self._value(place, current) for place, current in places}
        versions = _versions(kept.version)
        return {
            key: Item(next(versions), msgspec.json.encode(value))
            for key, value in new.items()
            if _news_of(value) != _news_of(old.get(key, {}))
        }

    def _value(self, place: Place, current: Current) -> dict[str, object]:
        return {
            "city": place.city,
            "country": place.country,
            "lat": place.lat,
            "lon": place.lon,
            "temperature_c": current.temperature_2m,
            "feels_like_c": current.apparent_temperature,
            "humidity_pct": current.relative_humidity_2m,
            "wind_ms": current.wind_speed_10m,
            "wind_deg": current.wind_direction_10m,
            "condition": words(current.weather_code),
            "code": current.weather_code,
            "is_day": None if current.is_day is None else bool(current.is_day),
            "observed_at": datetime.fromtimestamp(current.time, UTC).isoformat(),
            "provider": self._source.provider,
            "stale": False,
        }


class Periodic(PeriodicCallback):
    """Each time counted from now: Tornado's goes by the wall clock, and pauses for as long as that is set back."""

    def _update_next(self, current_time: float) -> None:
        self._next_timeout = current_time
        super()._update_next(current_time)


async def _wait(tick: asyncio.Event, seconds: float) -> None:
    """For the next tick, or not so long where `seconds` are left."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds if seconds > 0 else None):
            await tick.wait()
    tick.clear()


def _news_of(value: Mapping[str, object]) -> dict[str, object]:
    return {name: field for name, field in value.items() if name not in BOOKKEEPING}


def _told(key: str, item: Item) -> Change:
    """`time` is that of the version: when it was kept."""
    return Change(CURRENT, key, "put", Raw(item.value), item.version, _milliseconds(item.version) / 1000)


def _versions(last: str) -> Iterator[str]:
    """Of one moment: the clock's, but always behind the last one."""
    moment = max(int(time.time() * 1000), _milliseconds(last) + 1)
    return (f"{moment:012x}.{index:04x}" for index in count())


def _milliseconds(version: str) -> int:
    return int(version.partition(".")[0], 16)


def _version(change: Change) -> str:
    return change.version
