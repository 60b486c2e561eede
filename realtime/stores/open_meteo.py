"""Open-Meteo's forecast API, no more of it than the weather now: one request for all places.

What answers is not trusted (`addresses`): whatever does not have the documented shape is a miss, not an error.
(open-meteo.com/en/docs; weather data by Open-Meteo.com, CC BY 4.0)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from tornado.httpclient import HTTPResponse
from tornado.httputil import url_concat

from ..addresses import Address, NoAnswer
from ..config import Place

MAX_BODY = 1 << 20


class Current(Struct, frozen=True):
    """One place's weather now, in Open-Meteo's names; null where it is not known. `time`: seconds since 1970."""

    time: Annotated[int, Meta(ge=0, le=2**32)]
    temperature_2m: float | None = None
    apparent_temperature: float | None = None
    relative_humidity_2m: float | None = None
    wind_speed_10m: float | None = None
    wind_direction_10m: float | None = None
    weather_code: int | None = None
    is_day: int | None = None


class _Answer(Struct):
    current: Current


class _Refusal(Struct):
    reason: str


class Missed(Exception):
    """No observation this time; the message says why. `retry_after`: seconds that the provider asked for, or 0."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class OpenMeteo:
    """Raises ConfigError where the URI is not one that may be asked."""

    provider = "open-meteo"

    def __init__(self, uri: str, places: Sequence[Place]) -> None:
        self._count = len(places)
        query = {
            "latitude": ",".join(f"{place.lat:g}" for place in places),
            "longitude": ",".join(f"{place.lon:g}" for place in places),
            "current": ",".join(Current.__struct_fields__[1:]),
            "timeformat": "unixtime",
            "wind_speed_unit": "ms",
            "forecast_days": "1",
        }
        self._address = Address("weather.uri", url_concat(uri, query), max_body=MAX_BODY)

    async def observe(self) -> list[Current]:
        """In the order of the places, as the answer has no names. Raises Missed."""
        try:
            return self._read(await self._address.get())
        except NoAnswer as error:
            raise Missed(str(error)) from None

    def _read(self, response: HTTPResponse) -> list[Current]:
        if response.code != 200:
            raise Missed(f"HTTP {response.code}{_reason(response.body)}", _retry_after(response))
        try:
            answers = msgspec.json.decode(response.body, type=list[_Answer] | _Answer)
        except (msgspec.MsgspecError, ValueError) as error:
            raise Missed(f"not a forecast: {error}{_reason(response.body)}") from None
        found = answers if isinstance(answers, list) else [answers]
        if len(found) != self._count:
            raise Missed(f"{len(found)} answers for {self._count} places")
        return [answer.current for answer in found]


def _reason(body: bytes) -> str:
    try:
        return f" ({msgspec.json.decode(body, type=_Refusal).reason[:200]})"
    except (msgspec.MsgspecError, ValueError):
        return ""


def _retry_after(response: HTTPResponse) -> float:
    """Seconds; the form with a date is not worth a parser, the back-off does."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0.0
