"""The page in a real browser, on a whole node in memory: what it shows is what the stores say, and no more."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import threading
import urllib.request
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest
from msgspec import Raw
from playwright.sync_api import Browser, Page, expect, sync_playwright

from realtime.app import Service
from realtime.brokers.memory import MemoryBroker, Wire
from realtime.config import Config
from realtime.errors import StoreDown
from realtime.protocol import ANYHOW
from realtime.stores.memory import MemoryStore

ROOT = Path(__file__).parent.parent
BERLIN = {"city": "Berlin", "country": "DE", "temperature_c": 7.4, "condition": "overcast", "humidity_pct": 61}
NETWORK = ("Failed to load resource", "WebSocket connection to")  # what Chromium says of any answer above 399
T = TypeVar("T")

expect.set_options(timeout=15_000)


class Breakable(MemoryStore):
    """A store that can be made to answer no more."""

    down = False

    async def collections(self) -> Mapping[str, Mapping[str, object]]:
        if self.down:
            raise StoreDown(f"{self.name} is switched off")
        return await super().collections()


class Site:
    """A node in a thread of its own, so that the test's thread is the browser's. It can restart on its port."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="site")
        self.stores = {name: Breakable(name) for name in ("redis", "mongo", "weather")}
        self.wire, self.port = Wire(), 0

    def __enter__(self) -> Self:
        self.thread.start()
        self.store("redis/sensors", "1", {"temp": 21.5, "unit": "C"})
        self.store("redis/sensors", "2", {"temp": 19.0, "unit": "C"})
        self.store("weather/current", "berlin", {**BERLIN, "provider": "simulated", "stale": True})
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.service.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def start(self) -> None:
        config = Config(port=self.port, drain=2, demo=True)
        self.service = self.run(self._made(config))
        self.port = self.service.port

    async def _made(self, config: Config) -> Service:
        service = Service(config, MemoryBroker(self.wire), list(self.stores.values()), "node-1")
        await service.open()
        return service

    def stop(self) -> None:
        """As SIGTERM does it."""
        self.run(self.service.drain())
        self.run(self.service.close())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def store(self, channel: str, key: str, value: object) -> None:
        """Behind the service's back: into the store."""
        name, _, collection = channel.partition("/")
        raw = Raw(value if isinstance(value, bytes) else json.dumps(value).encode())
        self.run(self.stores[name].put(collection, key, raw, ANYHOW))

    def put(self, path: str, value: object) -> None:
        request = urllib.request.Request(f"{self.url}v1/{path}", json.dumps(value).encode(), method="PUT")
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("no chromium on the search path, and CI must have one")
        pytest.skip("no chromium on the search path")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    """The page, live. Whatever it complains of (scripts, policy) fails the test."""
    with browser.new_context() as context:
        page = context.new_page()
        found = complaints(page)
        _open(page, site)
        yield page
        assert found == []


def complaints(page: Page) -> list[str]:
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on(
        "console",
        lambda said: found.append(said.text) if said.type != "log" and not said.text.startswith(NETWORK) else None,
    )
    return found


def _open(page: Page, site: Site) -> None:
    page.goto(site.url)
    expect(page.get_by_role("status").filter(has_text="live")).to_be_visible()
    expect(_row(page, "redis/sensors", "1")).to_be_visible()


def _row(page: Page, channel: str, key: str) -> Any:
    return page.locator(f'[data-channel="{channel}"] tr[data-key="{key}"]')


def _value(page: Page, channel: str, key: str) -> Any:
    return _row(page, channel, key).locator("code")


def _write(page: Page, button: str = "Send", **fields: str) -> Any:
    for name, value in fields.items():
        page.locator(f"[name={name}]").fill(value)
    page.get_by_role("button", name=button).click()
    return page.locator("#answer")


# what is in the stores ------------------------------------------------------------------------------------------------


def test_shows_what_is_in_the_stores(page: Page) -> None:
    expect(_value(page, "redis/sensors", "1")).to_have_text('{"temp":21.5,"unit":"C"}')
    expect(page.locator('[data-channel="redis/sensors"] .count')).to_have_text("2 keys")
    expect(page.locator("#chips li")).to_have_text([re.compile("Redislive"), "MongoDBlive", re.compile("Weatherlive")])


def test_a_write_by_rest_changes_the_row(page: Page, site: Site) -> None:
    site.put("redis/sensors/1", {"temp": 23.0, "unit": "C"})
    expect(_value(page, "redis/sensors", "1")).to_have_text('{"temp":23.0,"unit":"C"}')
    expect(_row(page, "redis/sensors", "1").locator(".age")).to_have_text(re.compile("now|s$"))
    expect(_row(page, "redis/sensors", "2").get_by_title("not since this page looked")).to_be_visible()


def test_keys_come_and_go_in_order(page: Page, site: Site) -> None:
    keys = page.locator('[data-channel="redis/sensors"] .key')
    for key in ("10", "3", "a"):
        site.store("redis/sensors", key, key)
    expect(keys).to_have_text(["1", "2", "3", "10", "a"])
    site.run(site.stores["redis"].delete("sensors", "2", ANYHOW))
    expect(keys).to_have_text(["1", "3", "10", "a"])


def test_a_number_keeps_its_digits(page: Page, site: Site) -> None:
    site.store("redis/sensors", "big", b'{"id":12345678901234567890,"price":2.50}')
    expect(_value(page, "redis/sensors", "big")).to_have_text('{"id":12345678901234567890,"price":2.50}')


def test_a_value_is_text_whatever_it_says(page: Page, site: Site) -> None:
    attack = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
    site.store("redis/sensors", "<b>7</b>", {attack: attack})
    row = page.locator('[data-channel="redis/sensors"] tr', has_text="<b>7</b>")
    expect(row.locator("code")).to_have_text(json.dumps({attack: attack}, separators=(",", ":")))
    expect(page.locator("tbody img, tbody b, tbody script")).to_have_count(0)
    expect(page).to_have_title("realtime")


def test_collections_appear_by_themselves(page: Page, site: Site) -> None:
    expect(page.locator("#store-mongo pre")).to_contain_text("mongosh")  # empty: it shows how to fill it
    site.store("mongo/catalog", "espresso", {"price": 2.2})
    expect(_value(page, "mongo/catalog", "espresso")).to_have_text('{"price":2.2}')
    expect(page.locator("#store-mongo pre")).to_be_hidden()


def test_a_large_collection_says_what_it_does_not_show(page: Page, site: Site) -> None:
    for number in range(502):
        site.store("mongo/many", f"k{number}", number)
    expect(page.locator('[data-channel="mongo/many"] .count')).to_have_text("502 keys")
    expect(page.locator('[data-channel="mongo/many"] tbody tr')).to_have_count(500)
    expect(page.locator('[data-channel="mongo/many"] .more')).to_contain_text("2 more keys")


def test_weather_is_said_in_words(page: Page, site: Site) -> None:
    weather = page.locator(".weather")
    expect(weather.locator("li")).to_contain_text(["7.4 °C"])
    expect(weather.locator("li")).to_contain_text(["overcast in Berlin, DE"])
    expect(weather.locator(".badge:visible")).to_have_text(["simulated", "stale"])
    expect(weather.locator(".credit")).to_have_text("Simulated here. Without --demo: Weather data by Open-Meteo.com")
    site.store("weather/current", "berlin", {**BERLIN, "provider": "open-meteo", "stale": False})
    expect(weather.locator(".credit")).to_have_text("Weather data by Open-Meteo.com")
    expect(weather.locator(".badge:visible")).to_have_count(0)


# writing --------------------------------------------------------------------------------------------------------------


def test_the_fields_write_and_say_when_the_page_saw_it(page: Page) -> None:
    answer = _write(page, store="redis", collection="sensors", key="9", value="[1, 2]")
    expect(answer).to_contain_text(re.compile(r"Written, answered in [\d.]+ m?s\.This page saw it [\d.]+ m?s after"))
    expect(_value(page, "redis/sensors", "9")).to_have_text("[1,2]")


def test_a_write_into_a_new_collection_is_seen_too(page: Page) -> None:
    answer = _write(page, store="mongo", collection="fresh", key="a", value="1")
    expect(answer).to_contain_text("This page saw it")
    expect(_value(page, "mongo/fresh", "a")).to_have_text("1")


def test_a_row_fills_the_fields_and_can_be_deleted(page: Page) -> None:
    _row(page, "redis/sensors", "2").get_by_role("button").click()
    expect(page.locator("[name=value]")).to_have_value('{"temp":19.0,"unit":"C"}')
    expect(_write(page, "Delete key")).to_contain_text(re.compile(r"Deleted.*This page saw it"))
    expect(_row(page, "redis/sensors", "2")).to_have_count(0)


@pytest.mark.parametrize(
    ("fields", "message", "hint"),
    [
        ({"store": "nope"}, "no store 'nope'", "the stores here: redis, mongo, weather"),
        ({"value": "hello"}, "not JSON", "double quotes"),
    ],
)
def test_a_refusal_is_shown_with_its_hint(page: Page, fields: dict[str, str], message: str, hint: str) -> None:
    answer = _write(page, **fields)
    expect(answer).to_contain_text(message)
    expect(answer).to_contain_text(hint)


# how current it is ----------------------------------------------------------------------------------------------------


def test_after_a_restart_it_goes_on_from_its_cursors(page: Page, site: Site) -> None:
    frames: list[dict[str, Any]] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: frames.append(json.loads(frame))))
    site.put("redis/sensors/1", "before")
    expect(_value(page, "redis/sensors", "1")).to_have_text('"before"')
    site.stop()
    expect(page.locator("#state")).to_have_text(re.compile("reconnecting|stale"))
    site.store("redis/sensors", "1", "meanwhile")
    site.start()
    expect(page.locator("#state")).to_have_text("live")
    expect(_value(page, "redis/sensors", "1")).to_have_text('"meanwhile"')
    expect(page.locator("#notice")).to_be_hidden()
    answers = [frame["items"] for frame in frames if frame["type"] == "subscribed"]
    assert answers == [None, None]  # honoured: no second snapshot


def test_lost_history_is_said_once(page: Page, site: Site) -> None:
    site.stop()
    site.wire = Wire()
    site.start()
    expect(page.locator("#notice")).to_contain_text("history")
    expect(page.locator("#notice")).to_contain_text("redis/sensors")
    page.get_by_role("button", name="Dismiss").click()
    expect(page.locator("#notice")).to_be_hidden()


def test_without_a_server_the_page_goes_stale(page: Page, site: Site) -> None:
    site.stop()
    try:
        expect(page.locator("#state")).to_have_text("stale")
        expect(page.locator("#since")).to_contain_text(re.compile("last heard .* ago"))
        expect(page.locator("body")).to_have_class("stale")
        expect(page.locator("#chips .state")).to_have_text(["unknown"] * 3)
    finally:
        site.start()
    expect(page.locator("#chips .state")).to_have_text(["live"] * 3)


@pytest.mark.expects_logs
def test_a_store_that_is_down_greys_its_rows_only(page: Page, site: Site) -> None:
    site.stores["redis"].down = True
    expect(page.locator("#store-redis .note")).to_contain_text("what is shown here is stale")
    expect(page.locator("#store-redis")).to_have_class(re.compile("stale"))
    expect(page.locator("#store-weather")).not_to_have_class(re.compile("stale"))
    site.stores["redis"].down = False
    expect(page.locator("#store-redis .note")).to_be_hidden()


# looks ----------------------------------------------------------------------------------------------------------------


def test_a_phone_needs_no_sideways_scroll(browser: Browser, site: Site) -> None:
    site.store("redis/sensors", "a-long-key-" * 12, {"text": "word" * 80, "list": list(range(60))})
    size: Any = {"width": 390, "height": 844}
    with browser.new_context(viewport=size, has_touch=True, is_mobile=True) as context:
        page = context.new_page()
        _open(page, site)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.evaluate(LOWEST) >= 44  # what a finger has to hit


@pytest.mark.expects_logs
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_themes(browser: Browser, site: Site, scheme: Any) -> None:
    with browser.new_context(color_scheme=scheme, reduced_motion="reduce") as context:
        page = context.new_page()
        _open(page, site)
        _write(page, store="nope")
        site.stores["redis"].down = True
        expect(page.locator("#store-redis .note")).to_be_visible()
        least = page.evaluate(CONTRAST)
        assert least["ratio"] >= 4.5, least


def test_nothing_comes_from_another_host(browser: Browser, site: Site) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        _open(page, site)
        assert [url for url in asked if not url.startswith(site.url)] == []
    for file in [*(ROOT / "static").glob("*.[cm]*s"), *(ROOT / "templates").iterdir()]:
        assert not re.search(r"https?://(?!www\.w3\.org/)", file.read_text()), file


LOWEST = """() => Math.min(...[...document.querySelectorAll("button, input, summary, #chips a, .skip")]
  .filter((node) => node.offsetHeight).map((node) => node.offsetHeight))"""

# The least contrast of any text on the page with the ground behind it (WCAG 2.2, 1.4.3).
CONTRAST = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (node) => {
    const color = channels(getComputedStyle(node).backgroundColor);
    return color[3] === 0 ? ground(node.parentElement) : color;
  };
  let least = { ratio: 21 };
  for (const node of document.body.querySelectorAll("*")) {
    const text = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!text || !node.checkVisibility()) continue;
    const [a, b] = [channels(getComputedStyle(node).color), ground(node)].map(luminance);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < least.ratio) least = { ratio, text: node.textContent.slice(0, 40), of: node.className || node.tagName };
  }
  return least;
}"""
