"""The pages of accounts in a real browser, on two nodes that share real servers."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from realtime.embedded import Embedded
from tests.guarded import PASSWORD, Guarded, guarded
from tests.handlers.test_accounts import PEOPLE, RULES, email
from tests.test_page import CONTRAST, LOWEST, browser, complaints

__all__ = ["browser"]

ATTACK = '<img src=x onerror="document.title=1">'
T = TypeVar("T")

expect.set_options(timeout=15_000)


class Site:
    """Two nodes in a thread of their own, so that the test's thread is the browser's."""

    found: Guarded

    def __init__(self, servers: Embedded, directory: Path) -> None:
        self._opening = guarded(servers, directory, RULES, PEOPLE, nodes=2)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="site")
        self._stack = AsyncExitStack()

    def __enter__(self) -> Self:
        self._thread.start()
        self.found = self.run(self._stack.enter_async_context(self._opening))
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def url(self, path: str = "/", node: int = 0) -> str:
        return self.found.bases[node] + path

    def link(self, person: str) -> str:
        return self.url(f"/sign-in?link={self.run(self.found.accounts.link(email(person)))}")

    def ask(self, token: str, path: str, value: object = None) -> int:
        """As curl does; with a value it is written."""
        body = None if value is None else json.dumps(value).encode()
        request = urllib.request.Request(self.url(path), body, method="GET" if body is None else "PUT")
        request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code


@pytest.fixture
def site(servers: Embedded, tmp_path: Path) -> Iterator[Site]:
    with Site(servers, tmp_path) as site:
        yield site


@contextmanager
def visit(browser: Browser, **options: Any) -> Iterator[Page]:
    """Somebody's own browser. Whatever its page complains of (scripts, policy) fails the test."""
    with browser.new_context(**options) as context:
        page = context.new_page()
        found = complaints(page)
        yield page
        assert found == []


def sign_in(page: Page, site: Site, person: str, path: str = "/", node: int = 0, password: str = PASSWORD) -> None:
    page.goto(site.url(path, node))
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.get_by_label("E-mail").fill(email(person))
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def live(page: Page) -> None:
    expect(page.locator("#state")).to_have_text("live")


def cookies(context: BrowserContext) -> list[tuple[Any, ...]]:
    return [
        (each.get("name"), each.get("httpOnly"), each.get("sameSite"), each.get("path")) for each in context.cookies()
    ]


def test_wrong_then_right_then_out_by_keyboard(browser: Browser, site: Site) -> None:
    with visit(browser) as page:
        page.goto(site.url("/?x=1"))
        expect(page).to_have_title("Sign in · realtime")
        expect(page.get_by_label("E-mail")).to_be_focused()
        page.keyboard.type(email("ada"))
        page.keyboard.press("Tab")
        page.keyboard.type("not the password")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("wrong e-mail or password")
        expect(page.get_by_label("E-mail")).to_have_value(email("ada"))
        expect(page.get_by_label("Password")).to_be_focused()
        expect(page.get_by_label("Password")).to_have_value("")
        assert cookies(page.context) == []
        page.keyboard.type(PASSWORD)
        page.keyboard.press("Enter")
        live(page)
        assert page.url == site.url("/?x=1")
        assert cookies(page.context) == [("realtime_sign_in", True, "Lax", "/")]
        assert page.evaluate("document.cookie") == ""
        expect(page.get_by_role("link", name="ada")).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        # Its WebSocket is closed at the same moment, and the page may go there by itself, to come back later.
        expect(page).to_have_url(re.compile(r"/sign-in(\?next=.*)?$"))
        assert cookies(page.context) == []
        page.go_back()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()  # nobody kept the page


def test_a_link_sets_a_password_and_signs_in(browser: Browser, site: Site) -> None:
    link = site.link("nil")
    with visit(browser) as page:
        page.goto(link)
        expect(page.get_by_label("E-mail")).to_have_value(email("nil"))
        page.get_by_label("Password").fill("a new password")
        page.get_by_role("button", name="Set it and sign in").click()
        expect(page).to_have_url(site.url("/"))
        expect(page.get_by_role("link", name="nil")).to_be_visible()
        live(page)
        page.goto(link)
        expect(page.get_by_role("alert")).to_contain_text("used")
    with visit(browser) as page:
        sign_in(page, site, "nil", "/account", password="a new password")
        expect(page.get_by_text(email("nil"))).to_be_visible()


def test_a_token_is_made_used_and_revoked(browser: Browser, site: Site) -> None:
    with visit(browser, permissions=["clipboard-read", "clipboard-write"]) as page:
        sign_in(page, site, "eve", "/account")
        page.get_by_label("What it is for").fill(ATTACK)
        page.get_by_label("Scopes").fill("read:redis/*")
        page.get_by_label("Good for").select_option("a year")
        page.get_by_role("button", name="Make token").click()
        page.get_by_role("button", name="Copy").click()
        expect(page.get_by_text("Copied")).to_be_visible()
        token = page.evaluate("navigator.clipboard.readText()")
        assert token == page.locator("#secret").text_content()
        assert site.ask(token, "/v1/redis/sensors?wait=0") == 200
        assert site.ask(token, "/v1/redis/sensors/1", 7) == 403  # not in its scopes
        page.goto(site.url("/account"))
        assert token not in page.content()
        expect(page.locator(".rows strong")).to_have_text(["test", ATTACK])
        page.get_by_role("button", name=f"Revoke {ATTACK}").click()
        expect(page.get_by_role("status")).to_have_text("The token is revoked.")
        expect(page.locator(".rows li")).to_have_count(1)
        assert site.ask(token, "/v1/redis/sensors?wait=0") == 401
        expect(page).to_have_title("Your account · realtime")


def test_what_somebody_is_called_and_what_is_written_stays_text(browser: Browser, site: Site) -> None:
    with visit(browser) as page:
        sign_in(page, site, "ada", "/account")
        page.get_by_label("How others are shown you").fill(ATTACK)
        page.get_by_role("button", name="Change name").click()
        expect(page.get_by_role("status")).to_have_text("Your name is changed.")
        expect(page.get_by_role("link", name=ATTACK)).to_be_visible()
        page.goto(site.url())
        live(page)
        for name, value in (("store", "redis"), ("collection", "sensors"), ("key", "1"), ("value", json.dumps(ATTACK))):
            page.locator(f"[name={name}]").fill(value)
        page.get_by_role("button", name="Send").click()
        expect(page.locator('[data-channel="redis/sensors"] tr[data-key="1"] code')).to_have_text(json.dumps(ATTACK))
        expect(page.locator("img")).to_have_count(0)
        expect(page).to_have_title("realtime")
        page.goto(site.url("/accounts"))
        expect(page.get_by_text(ATTACK)).to_have_count(2)
        expect(page).to_have_title("Accounts · realtime")


def test_an_admin_adds_an_account(browser: Browser, site: Site) -> None:
    with visit(browser) as page:
        sign_in(page, site, "ada", "/accounts")
        page.get_by_label("E-mail").fill("new@example.org")
        page.get_by_label("Roles", exact=True).fill("reader")
        page.get_by_role("button", name="Add, and make a link").click()
        link = page.locator("#link").text_content() or ""
        page.get_by_role("button", name="Disable rob@example.org").click()
        expect(page.get_by_role("status")).to_contain_text("disabled")
        expect(page.locator("li", has_text=email("rob")).get_by_text("disabled")).to_be_visible()
    with visit(browser) as page:
        page.goto(link)
        page.get_by_label("Password").fill("a new password")
        page.get_by_role("button", name="Set it and sign in").click()
        live(page)
        expect(page.locator("#chips li")).to_have_text(
            [re.compile("Weather")]
        )  # of what there is, what a reader may see


def test_signing_out_ends_the_live_page_on_another_node(browser: Browser, site: Site) -> None:
    with visit(browser) as here, visit(browser) as elsewhere:
        sign_in(here, site, "ada", node=1)
        live(here)
        sign_in(elsewhere, site, "eve", node=1)
        live(elsewhere)
        out = here.context.new_page()
        out.goto(site.url("/account", 0))
        out.get_by_role("button", name="Sign out").click()
        expect(here).to_have_url(site.url("/sign-in?next=%2F", 1))  # where it goes when its WebSocket is closed
        live(elsewhere)  # others stay


def test_what_may_not_be_read_any_more_goes_from_the_page(browser: Browser, site: Site) -> None:
    with visit(browser) as page:
        sign_in(page, site, "eve")
        live(page)
        page.locator("[name=value]").fill("1")
        page.get_by_role("button", name="Send").click()
        row = page.locator('[data-channel="redis/sensors"] tr[data-key="7"]')
        expect(row).to_be_visible()
        site.run(site.found.accounts.change(email("eve"), roles=[]))
        expect(row).to_have_count(0)
        expect(page.locator("#notice")).to_contain_text("You may not read redis/sensors any more")
        page.get_by_role("button", name="Send").click()
        expect(page.locator("#answer")).to_contain_text("you may not write")
        site.run(site.found.accounts.change(email("eve"), roles=["reader"]))
        expect(row).to_be_visible()


def test_without_scripts_everything_works(browser: Browser, site: Site) -> None:
    with visit(browser, java_script_enabled=False) as page:
        sign_in(page, site, "ada", "/account")
        page.get_by_label("What it is for").fill("ci")
        page.get_by_role("button", name="Make token").click()
        expect(page.locator("#secret")).to_have_text(re.compile("^rt_"))
        expect(page.get_by_role("button", name="Copy")).to_be_hidden()
        page.get_by_role("link", name="All accounts").click()
        page.get_by_role("button", name="New link for rob@example.org").click()
        expect(page.locator("#link")).to_have_text(re.compile("/sign-in"))
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_by_a_name_and_without_tls_the_forms_are_ours(browser: Browser, site: Site) -> None:
    """There a browser says by `Origin` alone where a form is from, and lets no script write the clipboard."""
    named = browser.browser_type.launch(
        executable_path=shutil.which("chromium"),
        args=["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP realtime.test 127.0.0.1"],
    )
    try:
        with named.new_context() as context:  # which complains of what it does without TLS
            page = context.new_page()
            base = site.url("").replace("127.0.0.1", "realtime.test")
            page.goto(f"{base}/account")
            page.get_by_label("E-mail").fill(email("ada"))
            page.get_by_label("Password").fill(PASSWORD)
            page.get_by_role("button", name="Sign in").click()
            page.get_by_label("What it is for").fill("ci")
            page.get_by_role("button", name="Make token").click()
            expect(page.locator("#secret")).to_have_text(re.compile("^rt_"))
            expect(page.get_by_role("button", name="Copy")).to_be_hidden()
            page.get_by_role("button", name="Sign out").click()
            expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    finally:
        named.close()


PAGES = ["/sign-in", "/sign-in?link=x", "LINK", "/", "/account", "/accounts", "/account?x", "/accounts?x"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_they_can_be_read_and_hit_on_a_phone(browser: Browser, site: Site, scheme: Any) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with visit(browser, color_scheme=scheme, reduced_motion="reduce", **phone) as page:
        for path in PAGES:
            if path == "/":
                sign_in(page, site, "ada")
            page.goto(site.link("nil") if path == "LINK" else site.url(path))
            if path == "/":
                live(page)
            if path == "/account?x":
                page.get_by_label("What it is for").fill("a-long-name-" * 8)
                page.get_by_role("button", name="Make token").click()
            if path == "/accounts?x":
                page.get_by_role("button", name="New link for eve@example.org").click()
            page.wait_for_load_state()
            least = page.evaluate(CONTRAST)
            assert least["ratio"] >= 4.5, (path, least)
            assert page.evaluate("document.documentElement.scrollWidth") == 390, path
            assert page.evaluate(LOWEST) >= 44, path
            assert page.evaluate(UNNAMED) == [], path


# Fields that have no name for who does not see them.
UNNAMED = """() => [...document.querySelectorAll("input, select, textarea")]
  .filter((node) => node.type !== "hidden" && !node.hidden && !node.labels.length && !node.ariaLabel)
  .map((node) => node.outerHTML)"""
