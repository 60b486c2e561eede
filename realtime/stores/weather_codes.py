"""What the weather codes of the WMO (table 4677, as Open-Meteo uses it) say in words that end a sentence."""

from __future__ import annotations

WORDS = {
    0: "clear",
    1: "mostly clear",
    2: "partly cloudy",
    3: "overcast",
    45: "foggy",
    48: "foggy with rime",
    51: "drizzling lightly",
    53: "drizzling",
    55: "drizzling heavily",
    56: "freezing drizzle, lightly",
    57: "freezing drizzle",
    61: "raining lightly",
    63: "raining",
    65: "raining heavily",
    66: "freezing rain, lightly",
    67: "freezing rain",
    71: "snowing lightly",
    73: "snowing",
    75: "snowing heavily",
    77: "snow grains",
    80: "light showers",
    81: "showers",
    82: "violent showers",
    85: "light snow showers",
    86: "snow showers",
    95: "thunderstorm",
    96: "thunderstorm with hail",
    99: "thunderstorm with heavy hail",
}


def words(code: int | None) -> str | None:
    return None if code is None else WORDS.get(code, f"weather of code {code}")
