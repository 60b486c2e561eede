"""Weather out of a formula, for places without a network: warmest in the afternoon, colder towards the poles.

The same place has the same weather at the same time on every node. It says of itself that it is simulated.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence

from ..config import Place
from .open_meteo import Current

_CODES = (0, 1, 2, 3, 3, 45, 61, 63, 80, 95)


class Simulated:
    provider = "simulated"

    def __init__(self, places: Sequence[Place], period: float) -> None:
        self._places, self._period = places, period

    async def observe(self) -> list[Current]:
        step = int(time.time() / self._period)
        return [current(place, step * self._period, step) for place in self._places]


def current(place: Place, when: float, step: int) -> Current:
    """The weather at `when`; noise differs from step to step, the sky once in ten minutes."""
    hour = (when / 3600 + place.lon / 15) % 24
    warmth = math.cos((hour - 15) / 24 * math.tau)  # 1 at three in the afternoon
    noise = random.Random(f"{place.key} {step}")  # noqa: S311
    sky = random.Random(f"{place.key} {int(when // 600)}")  # noqa: S311
    temperature = 28 - abs(place.lat) * 0.4 + 5 * warmth + noise.gauss(0, 0.3)
    wind = abs(sky.gauss(4, 2)) + noise.uniform(0, 1)
    return Current(
        time=int(when),
        temperature_2m=round(temperature, 1),
        apparent_temperature=round(temperature - 0.3 * wind, 1),
        relative_humidity_2m=round(65 - 20 * warmth + noise.uniform(-2, 2)),
        wind_speed_10m=round(wind, 1),
        wind_direction_10m=round(sky.uniform(0, 360) + noise.uniform(-10, 10)) % 360,
        weather_code=sky.choice(_CODES),
        is_day=int(6 <= hour < 18),
    )
