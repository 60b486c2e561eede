"""Open-Meteo's forecast API, no more of it than the weather now: one request for all places.

What answers is not trusted: no redirect is followed, a body is bounded before and after it is unpacked, times are
short, and whatever does not have the documented shape is a miss, not an error. (open-meteo.com/en/docs; weather data
by Open-Meteo.com, CC BY 4.0)
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from tornado.httpclient import HTTPError, HTTPResponse
from tornado.httputil import url_concat
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from ..config import Place

MAX_BODY = 1 << 20
CONNECT, REQUEST = 5.0, 10.0  # seconds


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
    provider = "open-meteo"

    def __init__(self, uri: str, places: Sequence[Place]) -> None:
        self._count = len(places)
        self._url = url_concat(
            uri,
            {
                "latitude": ",".join(f"{place.lat:g}" for place in places),
                "longitude": ",".join(f"{place.lon:g}" for place in places),
                "current": ",".join(Current.__struct_fields__[1:]),
                "timeformat": "unixtime",
                "wind_speed_unit": "ms",
                "forecast_days": "1",
            },
        )

    async def observe(self) -> list[Current]:
        """In the order of the places, as the answer has no names. Raises Missed."""
        client = SimpleAsyncHTTPClient(force_instance=True, max_body_size=MAX_BODY)
        fetch = client.fetch(
            self._url, raise_error=False, follow_redirects=False, connect_timeout=CONNECT, request_timeout=REQUEST
        )
        fetch.add_done_callback(_seen)
        try:
            await asyncio.wait([fetch])  # and not itself, as Tornado calls it a defect if a cancelled one fails later
            response = fetch.result()
        except (HTTPError, OSError, ValueError) as error:
            raise Missed(f"{type(error).__name__}: {error}") from None
        finally:
            client.close()
        return self._read(response)

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


def _seen(fetch: asyncio.Future[HTTPResponse]) -> None:
    """An error that nobody waits for any more is nobody's."""
    if not fetch.cancelled():
        fetch.exception()


def _reason(body: bytes) -> str:
    try:
        return f" ({msgspec.json.decode(body, type=_Refusal).reason[:200]})"
    except (msgspec.MsgspecError, ValueError):
        return ""


def _retry_after(response: HTTPResponse) -> float:
    """Seconds; the form with a date is not worth a parser, the back-off does."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0.0
