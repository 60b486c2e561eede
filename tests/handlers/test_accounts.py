"""The pages of accounts without a browser: what they answer to forms, good, wrong and forged."""

from __future__ import annotations

import html
import json
import re
import time
from collections.abc import AsyncGenerator
from http.cookies import Morsel, SimpleCookie
from pathlib import Path
from urllib.parse import urlencode

import pytest
import pytest_asyncio
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.web import create_signed_value, decode_signed_value

from realtime.auth.guard import Keys, keys_of
from realtime.embedded import Embedded
from realtime.handlers.address import Proxies
from realtime.handlers.credentials import SIGN_IN
from realtime.handlers.forms import MAX_FORM, local
from realtime.handlers.pages import POLICY
from realtime.limits import Buckets, Rate
from realtime.verify.proxy import Proxy
from tests.guarded import PASSWORD, Guarded, guarded
from tests.test_outage import behind_proxy

pytestmark = pytest.mark.asyncio

FORM = "application/x-www-form-urlencoded"
PEOPLE = {"ada": ("admin",), "eve": ("editor",), "rob": ("reader",), "nil": ()}
RULES = """
[[rule]]
roles = ["admin"]
channels = ["*"]
read = true
write = true

[[rule]]
roles = ["editor"]
channels = ["redis/*", "mongo/*", "postgres/*"]
read = true
write = true

[[rule]]
roles = ["reader"]
channels = ["redis/sensors", "weather/*"]
read = true
"""


def email(person: str) -> str:
    return f"{person}@example.org"


class Visitor:
    """A browser without scripts: keeps its cookie, follows nothing."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.cookie: Morsel[str] | None = None

    async def get(self, path: str, **headers: str) -> HTTPResponse:
        return await self._fetch(path, "GET", None, headers)

    async def post(self, path: str, body: bytes | None = None, /, **fields: str) -> HTTPResponse:
        return await self.send(path, urlencode(fields).encode() if body is None else body)

    async def send(self, path: str, body: bytes, **headers: str) -> HTTPResponse:
        own = {"Content-Type": FORM, "Origin": self.base, "Sec-Fetch-Site": "same-origin"}
        return await self._fetch(path, "POST", body, own | headers)

    async def sign_in(self, person: str, password: str = PASSWORD) -> HTTPResponse:
        return await self.post("/sign-in", email=email(person), password=password, next="/account")

    async def _fetch(self, path: str, method: str, body: bytes | None, headers: dict[str, str]) -> HTTPResponse:
        if self.cookie is not None:
            headers = {"Cookie": f"{self.cookie.key}={self.cookie.value}", **headers}
        request = HTTPRequest(self.base + path, method, headers, body, follow_redirects=False, request_timeout=15)
        answer = await AsyncHTTPClient().fetch(request, raise_error=False)
        for line in answer.headers.get_list("Set-Cookie"):
            self.cookie = next(iter(SimpleCookie(line).values()))
        return answer


def said(answer: HTTPResponse) -> str:
    """What a page says, in the alert if it has one."""
    text = answer.body.decode()
    alert = re.search(r'role="alert">(.*?)</(?:div|section)>', text, re.DOTALL)
    return html.unescape(" ".join(re.sub(r"<[^>]+>", " ", alert[1] if alert else text).split()))


def code(answer: HTTPResponse, name: str) -> str:
    """What is shown once."""
    found = re.search(rf'<code id="{name}">([^<]+)</code>', answer.body.decode())
    assert found is not None, said(answer)
    return html.unescape(found[1])


@pytest_asyncio.fixture
async def found(servers: Embedded, tmp_path: Path) -> AsyncGenerator[Guarded, None]:
    async with guarded(servers, tmp_path, RULES, PEOPLE) as found:
        yield found


@pytest_asyncio.fixture
async def visitor(found: Guarded) -> Visitor:
    return Visitor(found.bases[0])


# signing in -----------------------------------------------------------------------------------------------------------


async def test_who_is_not_signed_in_is_sent_to_sign_in(visitor: Visitor) -> None:
    answer = await visitor.get("/?x=1")
    assert (answer.code, answer.headers["Location"]) == (302, "/sign-in?next=%2F%3Fx%3D1")
    for path in ("/account", "/accounts"):
        for answer in (await visitor.get(path), await visitor.post(path, do="name", name="x")):
            assert (answer.code, answer.headers["Location"]) == (303, f"/sign-in?next={path}")


async def test_a_password_signs_in_and_the_cookie_is_kept_from_scripts(visitor: Visitor) -> None:
    answer = await visitor.sign_in("ada")
    assert (answer.code, answer.headers["Location"]) == (303, "/account")
    assert visitor.cookie is not None
    assert (visitor.cookie.key, visitor.cookie["path"], visitor.cookie["max-age"]) == (SIGN_IN, "/", "43200")
    assert (visitor.cookie["httponly"], visitor.cookie["samesite"], visitor.cookie["domain"]) == (True, "Lax", "")
    assert visitor.cookie["secure"] == ""  # no TLS here
    assert email("ada") in (await visitor.get("/account")).body.decode()
    again = await visitor.get("/sign-in?next=/account")
    assert (again.code, again.headers["Location"]) == (302, "/account")


async def test_a_wrong_password_and_an_unknown_e_mail_are_told_the_same(visitor: Visitor) -> None:
    texts = []
    for person in ("ada", "nobody"):
        answer = await visitor.sign_in(person, "not the password")
        assert answer.code == 401
        assert "not the password" not in answer.body.decode()
        texts.append(answer.body.decode().replace(email(person), "…"))
    assert texts[0] == texts[1]
    assert "…" in texts[0]  # the e-mail is put back
    assert "wrong e-mail or password" in texts[0]
    assert visitor.cookie is None


async def test_too_many_tries_are_told_to_wait(visitor: Visitor) -> None:
    codes = [(await visitor.sign_in("ada", "wrong horse")).code for _ in range(5)]
    answer = await visitor.sign_in("ada")
    assert codes == [401] * 5
    assert answer.code == 429
    assert 30 < int(answer.headers["Retry-After"]) <= 60
    assert "tries" in said(answer)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("/account", "/account"),
        ("/?x=a%2Fb#c", "/?x=a%2Fb#c"),
        ("", "/"),
        ("account", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("\\\\evil.example", "/"),
        ("https://evil.example/", "/"),
        ("javascript:alert(1)", "/"),
        ("/\t/evil.example", "/"),
        ("/\r\nSet-Cookie: a=b", "/"),
        (" //evil.example", "/"),
        ("/ä", "/"),
        ("/" + "a" * 2001, "/"),
    ],
)
async def test_one_goes_on_to_this_service_only(given: str, taken: str) -> None:
    assert local(given) == taken


async def test_a_sign_in_goes_on_to_this_service_only(visitor: Visitor) -> None:
    page = await visitor.get("/sign-in?" + urlencode({"next": "//evil.example"}))
    assert "evil" not in page.body.decode()
    answer = await visitor.post("/sign-in", email=email("ada"), password=PASSWORD, next="//evil.example")
    assert (answer.code, answer.headers["Location"]) == (303, "/")
    again = await visitor.get("/sign-in?" + urlencode({"next": "/\\evil.example"}))
    assert (again.code, again.headers["Location"]) == (302, "/")


async def test_signing_out_ends_it_for_whoever_has_the_cookie(visitor: Visitor) -> None:
    await visitor.sign_in("ada")
    kept = visitor.cookie
    answer = await visitor.post("/sign-out")
    assert (answer.code, answer.headers["Location"]) == (303, "/sign-in")
    assert visitor.cookie is not None
    assert visitor.cookie.value == ""
    visitor.cookie = kept
    assert (await visitor.get("/account")).headers["Location"] == "/sign-in?next=/account"
    assert (await visitor.get("/sign-out")).code == 405


async def test_a_cookie_that_was_changed_or_is_old_is_nobodys(visitor: Visitor, found: Guarded) -> None:
    await visitor.sign_in("ada")
    assert visitor.cookie is not None
    assert (await visitor.get("/account")).code == 200
    value = visitor.cookie.value
    secret = decode_signed_value(keys(found)[0], SIGN_IN, value)
    assert secret is not None

    def signed(name: str, seconds: float, keys: Keys) -> str:
        made = create_signed_value(keys[0], name, secret, key_version=keys[1], clock=lambda: time.time() - seconds)
        return f"{SIGN_IN}={made.decode()}"

    ours, others = keys(found), keys_of(["x" * 32])
    assert (await visitor.get("/account", Cookie=signed(SIGN_IN, 43_000, ours))).code == 200
    wrong = [signed(SIGN_IN, 43_300, ours), signed("another", 0, ours), signed(SIGN_IN, 0, others)]
    wrong += [f"{SIGN_IN}={value[:-1]}{'0' if value[-1] != '0' else '1'}", f"{SIGN_IN}={secret.decode()}"]
    wrong += [f"{SIGN_IN}=a|1|b", f"{SIGN_IN}=", f"{SIGN_IN}=2|1:0|x"]
    for each in wrong:
        assert (await visitor.get("/account", Cookie=each)).code == 303


async def test_a_key_that_was_replaced_is_good_while_it_is_listed(visitor: Visitor, found: Guarded) -> None:
    guard = found.nodes[0].door.guard
    assert guard is not None
    for secrets, status in (["a" * 32], 200), (["a" * 32, "b" * 32], 200), (["b" * 32], 303):
        guard.keys = keys_of(secrets)
        if visitor.cookie is None:
            await visitor.sign_in("ada")
        assert (await visitor.get("/account")).code == status


async def test_behind_tls_the_cookie_is_for_tls_and_this_host_alone(visitor: Visitor, found: Guarded) -> None:
    found.nodes[0].door.bounds._proxies = Proxies(["127.0.0.0/8"])
    fields = urlencode({"email": email("ada"), "password": PASSWORD}).encode()
    await visitor.send("/sign-in", fields, **{"X-Forwarded-Proto": "https"})
    assert visitor.cookie is not None
    assert visitor.cookie.key == f"__Host-{SIGN_IN}"
    assert [visitor.cookie[name] for name in ("secure", "path", "domain")] == [True, "/", ""]
    assert (await visitor.get("/account", **{"X-Forwarded-Proto": "https"})).code == 200
    assert (await visitor.get("/account")).code == 303  # not over what is no TLS


def keys(found: Guarded) -> Keys:
    guard = found.nodes[0].door.guard
    assert guard is not None
    assert guard.keys is not None
    return guard.keys


# links ----------------------------------------------------------------------------------------------------------------


async def test_a_link_sets_a_password_once(visitor: Visitor, found: Guarded) -> None:
    link = await found.accounts.link(email("nil"))
    for _ in range(2):  # looking at it changes nothing
        page = await visitor.get(f"/sign-in?link={link}")
        assert 'autocomplete="new-password"' in page.body.decode()
        assert f'value="{email("nil")}"' in page.body.decode()
    short = await visitor.post("/sign-in", link=link, password="short")
    assert short.code == 422
    assert f'value="{link}"' in short.body.decode()  # still good
    done = await visitor.post("/sign-in", link=link, password="a new password", next="/account")
    assert (done.code, done.headers["Location"]) == (303, "/account")
    assert email("nil") in (await visitor.get("/account")).body.decode()
    other = Visitor(found.bases[0])
    used = await other.post("/sign-in", link=link, password="another password")
    assert used.code == 401
    assert "used" in said(used)
    assert 'autocomplete="current-password"' in used.body.decode()
    looked = await other.get(f"/sign-in?link={link}")
    assert looked.code == 401
    assert "used" in said(looked)
    assert (await other.sign_in("nil")).code == 401
    assert (await other.sign_in("nil", "a new password")).code == 303


async def test_a_link_is_not_used_up_by_a_service_that_is_busy(visitor: Visitor, found: Guarded) -> None:
    guard = found.nodes[0].door.guard
    assert guard is not None
    link, places = await found.accounts.link(email("nil")), guard.accounts._passwords._places
    taken = 0
    while places.acquire(blocking=False):
        taken += 1
    busy = await visitor.post("/sign-in", link=link, password="a new password")
    places.release(taken)
    assert (busy.code, visitor.cookie) == (503, None)
    [another] = re.findall(r'name="link" value="([^"]+)"', busy.body.decode())
    assert (await visitor.post("/sign-in", link=another, password="a new password")).code == 303


# one's own account ----------------------------------------------------------------------------------------------------


async def test_a_name_is_changed_and_is_text(visitor: Visitor) -> None:
    await visitor.sign_in("rob")
    attack = '"><img src=x onerror=alert(1)>{{ handler }}'
    answer = await visitor.post("/account", do="name", name=attack)
    assert (answer.code, answer.headers["Location"]) == (303, "/account?done=name")
    for path in ("/account?done=name", "/"):
        page = (await visitor.get(path)).body.decode()
        assert "<img" not in page
        assert "&lt;img src=x" in page
    refused = await visitor.post("/account", do="name", name="x" * 101)
    assert refused.code == 422
    assert "100 characters" in said(refused)


async def test_a_password_is_changed_by_who_knows_the_one_of_now(visitor: Visitor, found: Guarded) -> None:
    elsewhere = Visitor(found.bases[0])
    await elsewhere.sign_in("eve")
    await visitor.sign_in("eve")
    for fields, words in (
        ({"old": "wrong horse", "password": "battery staple"}, "current password"),
        ({"old": PASSWORD, "password": "short"}, "8 to 256"),
    ):
        refused = await visitor.post("/account", do="password", **fields)
        assert refused.code == 422
        assert words in said(refused)
        assert fields["password"] not in refused.body.decode()
    assert (await elsewhere.get("/account")).code == 200
    done = await visitor.post("/account", do="password", old=PASSWORD, password="battery staple")
    assert (done.code, done.headers["Location"]) == (303, "/account?done=password")
    assert (await visitor.get("/account")).code == 200
    assert (await elsewhere.get("/account")).code == 303
    assert (await elsewhere.sign_in("eve")).code == 401


async def test_a_token_is_shown_once_and_can_be_revoked(visitor: Visitor, found: Guarded) -> None:
    await visitor.sign_in("eve")
    made = await visitor.post("/account", do="issue", name="ci", scopes="read, write:redis/*", lifetime="30")
    token = code(made, "secret")
    page = (await visitor.get("/account")).body.decode()
    assert token not in page
    assert token[:7] in page
    assert "read, write:redis/*" in page
    program = Visitor(found.bases[0])
    assert await me(program, token) == ("token", ["read", "write:redis/*"])
    [kept] = [each for each in await found.accounts.tokens(email("eve")) if each.name == "ci"]
    assert kept.expires is not None
    assert round((kept.expires - kept.created) / 86_400) == 30
    others = await Visitor(found.bases[0]).get("/account", Authorization=f"Bearer {token}")
    assert others.code == 403  # it would make itself one that may more
    theirs = Visitor(found.bases[0])
    await theirs.sign_in("rob")
    assert (await theirs.post("/account", do="revoke", token=kept.id)).code == 404
    assert await me(program, token) == ("token", ["read", "write:redis/*"])
    assert (await visitor.post("/account", do="revoke", token=kept.id)).code == 303
    assert (await program.get("/v1/me", Authorization=f"Bearer {token}")).code == 401


async def me(visitor: Visitor, token: str) -> tuple[str, list[str]]:
    answer = json.loads((await visitor.get("/v1/me", Authorization=f"Bearer {token}")).body)
    return answer["proof"], answer["scopes"]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"do": "issue", "name": "", "scopes": "read", "lifetime": ""}, 422),
        ({"do": "issue", "name": "x", "scopes": "all", "lifetime": ""}, 422),
        ({"do": "issue", "name": "x", "scopes": "", "lifetime": ""}, 422),
        ({"do": "issue", "name": "x", "scopes": "read", "lifetime": "99999999"}, 400),
        ({"do": "revoke", "token": "t00000000000"}, 404),
        ({"do": "explode"}, 400),
        ({}, 400),
    ],
)
async def test_what_is_wrong_is_said_on_the_page(visitor: Visitor, fields: dict[str, str], status: int) -> None:
    await visitor.sign_in("eve")
    answer = await visitor.post("/account", **fields)
    assert answer.code == status
    assert answer.headers["Content-Type"].startswith("text/html")


# everybody's ----------------------------------------------------------------------------------------------------------


async def test_admins_alone_see_the_accounts(visitor: Visitor) -> None:
    await visitor.sign_in("eve")
    assert "/accounts" not in (await visitor.get("/account")).body.decode()
    for answer in (await visitor.get("/accounts"), await visitor.post("/accounts", do="add", email="x@example.org")):
        assert answer.code == 403
        assert email("ada") not in answer.body.decode()


async def test_an_admin_adds_an_account_whose_link_signs_in(visitor: Visitor, found: Guarded) -> None:
    await visitor.sign_in("ada")
    added = await visitor.post("/accounts", do="add", email="New@Example.org", name="New", roles="reader, editor")
    link = code(added, "link")
    assert link.startswith(f"{visitor.base}/sign-in?link=")
    again = await visitor.post("/accounts", do="add", email="new@example.org", roles="")
    assert again.code == 409
    assert "already" in said(again)
    account = await found.accounts.get("new@example.org")
    assert account.roles == ("reader", "editor")
    newer = code(await visitor.post("/accounts", do="link", user=account.id), "link")
    new = Visitor(found.bases[0])
    for each, status in ((link, 401), (newer, 303)):
        answer = await new.post("/sign-in", link=each.partition("link=")[2], password="a new password")
        assert answer.code == status


async def test_an_admin_changes_roles_and_disables(visitor: Visitor, found: Guarded) -> None:
    await visitor.sign_in("ada")
    eve = Visitor(found.bases[0])
    await eve.sign_in("eve")
    account = await found.accounts.get(email("eve"))
    changed = await visitor.post("/accounts", do="roles", user=account.id, roles="reader")
    assert (changed.code, changed.headers["Location"]) == (303, "/accounts?done=roles")
    assert (await found.accounts.get(account.id)).roles == ("reader",)
    assert (await visitor.post("/accounts", do="roles", user=account.id, roles="<b>")).code == 422
    assert (await visitor.post("/accounts", do="disable", user=account.id)).code == 303
    assert (await eve.get("/account")).code == 303
    assert (await eve.sign_in("eve")).code == 401
    assert (await visitor.post("/accounts", do="link", user=account.id)).code == 422
    assert (await visitor.post("/accounts", do="enable", user=account.id)).code == 303
    assert (await eve.sign_in("eve")).code == 303
    assert (await visitor.post("/accounts", do="disable", user="u00000000000")).code == 404


@pytest.mark.parametrize("fields", [{"do": "disable"}, {"do": "roles", "roles": "reader"}])
async def test_an_admin_does_not_lock_the_door_from_inside(
    visitor: Visitor, found: Guarded, fields: dict[str, str]
) -> None:
    await visitor.sign_in("ada")
    for user in (email("ada"), (await found.accounts.get(email("ada"))).id):
        answer = await visitor.post("/accounts", user=user, **fields)
        assert answer.code == 422
        assert "lock yourself out" in said(answer)


# forged and broken ----------------------------------------------------------------------------------------------------

FORGED = {
    "another site": {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
    "another port of this host": {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:1"},
    "an older browser's": {"Sec-Fetch-Site": "", "Origin": "https://evil.example"},
    "a sandboxed frame": {"Sec-Fetch-Site": "", "Origin": "null"},
}


@pytest.mark.parametrize("headers", FORGED.values(), ids=FORGED)
async def test_a_forged_form_does_nothing(visitor: Visitor, found: Guarded, headers: dict[str, str]) -> None:
    await visitor.sign_in("ada")
    for path, fields in (
        ("/account", {"do": "name", "name": "Forged"}),
        ("/accounts", {"do": "add", "email": "forged@example.org"}),
        ("/sign-out", {}),
        ("/sign-in", {"email": email("eve"), "password": PASSWORD}),
    ):
        answer = await visitor.send(path, urlencode(fields).encode(), **headers)
        assert answer.code == 403, path
        assert answer.headers.get_list("Set-Cookie") == []
    assert "Forged" not in (await visitor.get("/account")).body.decode()
    assert len(await found.accounts.all()) == 4


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"do=name&name=" + b"x" * MAX_FORM, FORM, 413),
        (b"do=name&name=" + b"x" * 1025, FORM, 400),
        (b"do=name&name=a%00b", FORM, 400),
        (b"do=name&name=%ff", FORM, 400),
        (b"do=name&name=\xff", FORM, 400),
        (b"do=name&name=x" + 15 * b"&a=b", FORM, 400),
        (b'{"do": "name", "name": "x"}', "application/json", 415),
        (b"do=name&name=x", "text/plain", 415),
    ],
)
async def test_a_body_that_is_no_form_is_refused(visitor: Visitor, body: bytes, kind: str, status: int) -> None:
    await visitor.sign_in("eve")
    answer = await visitor.send("/account", body, **{"Content-Type": kind})
    assert answer.code == status
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "Traceback" not in answer.body.decode()
    assert ">eve</a>" in (await visitor.get("/account")).body.decode()


async def test_forms_are_counted_as_writes(visitor: Visitor, found: Guarded) -> None:
    found.nodes[0].door.bounds._writes = Buckets(Rate(0.01, 2))
    answers = [await visitor.post("/sign-out") for _ in range(3)]
    assert [each.code for each in answers] == [303, 303, 429]
    assert int(answers[2].headers["Retry-After"]) > 0
    assert (await visitor.get("/sign-in")).code == 200


async def test_every_page_is_bound_and_kept_by_nobody(visitor: Visitor) -> None:
    await visitor.sign_in("ada")
    for path in ("/", "/sign-in?link=x", "/account", "/accounts", "/sign-out"):
        headers = (await visitor.get(path)).headers
        assert headers["Content-Security-Policy"] == POLICY, path
        assert (headers["Cache-Control"], headers["Referrer-Policy"]) == ("no-store", "same-origin"), path


@pytest.mark.expects_logs
async def test_without_postgres_the_pages_say_so(servers: Embedded, tmp_path: Path) -> None:
    proxies: list[Proxy] = []

    async def detour(urls: dict[str, str]) -> None:
        upstream, url = behind_proxy("postgres", urls["postgres"])
        proxies.append(await Proxy(upstream).__aenter__())
        urls["postgres"] = url.format(port=proxies[0].port)

    async with guarded(servers, tmp_path, RULES, PEOPLE, detour=detour) as found:
        visitor, stranger = Visitor(found.bases[0]), Visitor(found.bases[0])
        await visitor.sign_in("ada")
        proxies[0].mode = "refuse"
        proxies[0].reset()
        answers = [await visitor.get("/account"), await stranger.sign_in("ada")]
        proxies[0].mode = "ok"
    await proxies[0].__aexit__()
    for answer in answers:
        assert answer.code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.headers["Content-Type"].startswith("text/html")
        assert "Traceback" not in answer.body.decode()
