"""Items and collections over HTTP, on a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from realtime.app import Service
from realtime.errors import StoreDown
from realtime.stores.memory import MemoryStore

pytestmark = pytest.mark.gen_test


class Http:
    def __init__(self, client: AsyncHTTPClient, base: str) -> None:
        self._client, self._base = client, base

    async def __call__(self, method: str, path: str, body: object = None, **headers: str) -> tuple[HTTPResponse, Any]:
        """The answer, and its JSON; a body that is no text is sent as JSON."""
        text = body if isinstance(body, str | bytes) or body is None else json.dumps(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await self._client.fetch(
            self._base + path,
            method=method,
            body=text,
            headers=named,
            raise_error=False,
            allow_nonstandard_methods=True,
            follow_redirects=False,
        )
        is_json = answer.headers.get("Content-Type", "").startswith("application/json") and answer.body
        return answer, json.loads(answer.body) if is_json else answer.body


@pytest.fixture
def http(http_client: AsyncHTTPClient, base_url: str) -> Http:
    return Http(http_client, base_url)


async def test_what_was_put_is_read(http: Http) -> None:
    answer, body = await http("PUT", "/v1/memory/rooms/attic", {"temp": 22.5})
    assert (answer.code, list(body)) == (200, ["version"])
    answer, body = await http("GET", "/v1/memory/rooms/attic")
    assert (answer.code, body) == (200, {"temp": 22.5})
    assert answer.headers["Realtime-Cursor"].startswith("v1.")
    assert answer.headers["Cache-Control"] == "no-store"


async def test_a_key_may_have_any_characters(http: Http) -> None:
    await http("PUT", "/v1/memory/rooms/a%2Fb%20%C3%A4", 1)
    assert (await http("GET", "/v1/memory/rooms"))[1]["items"] == {"a/b ä": 1}
    assert (await http("GET", "/v1/memory/rooms/a%2Fb%20%C3%A4"))[1] == 1


async def test_a_missing_key_is_named(http: Http) -> None:
    answer, body = await http("GET", "/v1/memory/rooms/cellar")
    assert answer.code == 404
    assert body["error"] == {"code": "not_found", "message": "no key 'cellar' in memory/rooms"}
    for method, sent in (("DELETE", None), ("PATCH", {})):
        answer, body = await http(method, "/v1/memory/rooms/cellar", sent)
        assert (answer.code, body["error"]["code"]) == (404, "not_found")
        assert "cellar" in body["error"]["message"]


async def test_patch_merges_and_delete_removes(http: Http) -> None:
    await http("PUT", "/v1/memory/rooms/attic", {"temp": 1, "unit": "C"})
    await http("PATCH", "/v1/memory/rooms/attic", {"temp": 2, "unit": None})
    assert (await http("GET", "/v1/memory/rooms/attic"))[1] == {"temp": 2}
    assert (await http("DELETE", "/v1/memory/rooms/attic"))[0].code == 200
    assert (await http("GET", "/v1/memory/rooms/attic"))[0].code == 404


async def test_post_makes_a_key_or_writes_like_the_tutorial(http: Http) -> None:
    answer, body = await http("POST", "/v1/memory/rooms", {"new": True})
    assert answer.code == 201
    assert answer.headers["Location"] == f"/v1/memory/rooms/{body['key']}"
    assert (await http("GET", answer.headers["Location"]))[1] == {"new": True}
    answer, _ = await http("POST", "/v1/memory/rooms/attic", 3)
    assert (answer.code, answer.body) == (204, b"")


async def test_pages_follow_each_other(http: Http) -> None:
    for number in range(5):
        await http("PUT", f"/v1/memory/rooms/{number}", number)
    _, whole = await http("GET", "/v1/memory/rooms")
    assert whole["cursor"].startswith("v1.")
    assert whole["next"] is None
    items: dict[str, object] = {}
    path = "/v1/memory/rooms?limit=2"
    while path:
        _, page = await http("GET", path)
        assert page["cursor"] is None  # no place to subscribe from: it is not all
        items |= page["items"]
        path = f"/v1/memory/rooms?limit=2&after={page['next']}" if page["next"] else ""
    assert items == whole["items"]


@pytest.mark.parametrize("limit", ["0", "1001", "many", "-1"])
async def test_a_bad_limit_is_shown(http: Http, limit: str) -> None:
    answer, body = await http("GET", f"/v1/memory/rooms?limit={limit}")
    assert answer.code == 400
    assert limit in body["error"]["message"]


async def test_conditions(http: Http) -> None:
    answer, _ = await http("PUT", "/v1/memory/rooms/attic", 1, If_None_Match="*")
    first = answer.headers["ETag"]
    answer, body = await http("PUT", "/v1/memory/rooms/attic", 2, If_None_Match="*")
    assert (answer.code, body["current"], answer.headers["ETag"]) == (412, 1, first)
    assert (await http("PUT", "/v1/memory/rooms/attic", 2, If_Match=first))[0].code == 200
    answer, body = await http("PUT", "/v1/memory/rooms/attic", 3, If_Match=first)
    assert (answer.code, body["error"]["code"], body["current"]) == (412, "conflict", 2)
    answer, body = await http("DELETE", "/v1/memory/rooms/cellar", If_Match="*")
    assert (answer.code, body["current"]) == (412, None)
    answer, _ = await http("GET", "/v1/memory/rooms/attic")
    assert (await http("GET", "/v1/memory/rooms/attic", If_None_Match=answer.headers["ETag"]))[0].code == 304
    assert (await http("PUT", "/v1/memory/rooms/attic", 3, If_None_Match='"x"'))[0].code == 400


async def test_wait_answers_with_the_place_of_the_write(http: Http) -> None:
    _, body = await http("PUT", "/v1/memory/rooms/attic?wait=1", 1)
    _, poll = await http("GET", f"/v1/memory/rooms?cursor={body['cursor']}&wait=0")
    assert poll["items"] is None
    assert poll["events"] == []  # the cursor is behind the write


@pytest.mark.parametrize("body", ["", "{oops", "NaN", "[" * 100_000])
async def test_a_body_that_is_no_json_is_refused(http: Http, body: str) -> None:
    answer, said = await http("PUT", "/v1/memory/rooms/attic", body)
    assert (answer.code, said["error"]["code"]) == (400, "bad_request")
    assert (await http("GET", "/v1/memory/rooms/attic"))[0].code == 404


async def test_a_body_that_is_too_large_is_refused_and_the_connection_lives(http: Http) -> None:
    for size in (1 << 20, 3 << 20):
        answer, said = await http("PUT", "/v1/memory/rooms/attic", '"' + "a" * size + '"')
        assert (answer.code, said["error"]["code"]) == (413, "too_large")
    assert (await http("PUT", "/v1/memory/rooms/attic", '"' + "a" * (1 << 19) + '"'))[0].code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/oracle/rooms/attic", 404, "unknown_channel"),
        ("GET", "/v1/Memory/rooms", 400, "bad_request"),
        ("GET", "/v1/memory/a%20b/c", 400, "bad_request"),
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/memory/rooms?cursor=nonsense", 400, "bad_cursor"),
        ("GET", "/v1/memory/rooms?wait=soon", 400, "bad_request"),
        ("GET", "/v1/memory/rooms?wait=3600", 400, "bad_request"),
        ("GET", "/v1/live", 400, "bad_request"),
        ("GET", "/v1/live?subscribe=memory/a&subscribe=memory/a", 400, "bad_request"),
        ("GET", "/v1/memory/rooms/attic?format=text", 404, "not_found"),
    ],
)
async def test_bad_requests_have_a_code(http: Http, method: str, path: str, status: int, code: str) -> None:
    answer, body = await http(method, path)
    assert (answer.code, body["error"]["code"]) == (status, code)
    assert body["error"]["message"]


@pytest.mark.parametrize(("method", "path"), [("PUT", "/v1/memory/rooms"), ("POST", "/healthz"), ("PUT", "/v1/stores")])
async def test_a_wrong_method_is_told_the_right_ones(http: Http, method: str, path: str) -> None:
    answer, body = await http(method, path, 1)
    assert (answer.code, body["error"]["code"]) == (405, "method_not_allowed")
    assert "GET" in answer.headers["Allow"]


async def test_a_page_of_another_site_writes_nothing(http: Http) -> None:
    answer, body = await http(
        "PUT", "/v1/memory/rooms/attic", 1, Sec_Fetch_Site="cross-site", Origin="http://evil.example"
    )
    assert (answer.code, body["error"]["code"]) == (403, "forbidden")
    assert (await http("GET", "/v1/memory/rooms/attic"))[0].code == 404


async def test_the_stores_are_listed_with_their_state(http: Http) -> None:
    await http("PUT", "/v1/memory/rooms/attic", 1)
    _, body = await http("GET", "/v1/stores")
    assert body["node"] == "node-1"
    assert body["stores"]["memory"]["state"] == "live"


async def test_health(http: Http) -> None:
    assert (await http("GET", "/healthz"))[1] == {"ok": True}
    answer, body = await http("GET", "/readyz")
    assert (answer.code, body["ready"]) == (200, True)
    assert body["stores"]["memory"] == {"state": "live", "error": None}
    answer, text = await http("GET", "/metrics")
    assert b"realtime_http_requests_total" in text


@pytest.mark.expects_logs
async def test_a_store_that_only_shows_what_comes_from_elsewhere_need_not_be_up(service: Service, http: Http) -> None:
    sources, store = service.node.sources, service.node.stores["memory"]
    assert isinstance(store, MemoryStore)
    store.collections = _down  # type: ignore[method-assign]
    answer, body = await http("GET", "/readyz")
    assert (answer.code, body["stores"]["memory"]) == (503, {"state": "down", "error": "gone"})
    store.read_only = True
    answer, body = await http("GET", "/readyz")
    assert (answer.code, sources.states["memory"].state) == (200, "down")


async def _down() -> Mapping[str, Mapping[str, object]]:
    raise StoreDown("gone")


async def test_a_method_that_nobody_knows_makes_no_label_of_its_own(http: Http, service: Service) -> None:
    for method in ("SHOUT", "X" * 50):
        await http(method, "/healthz")
    labels = {sample.labels["method"] for metric in service.metrics.requests.collect() for sample in metric.samples}
    assert labels == {"other"}


@pytest.mark.parametrize(("levels", "status"), [(32, 200), (33, 400), (600, 400), (990, 400), (3000, 400)])
async def test_a_value_is_nested_so_deep_and_no_deeper(http: Http, levels: int, status: int) -> None:
    answer, _ = await http("PUT", "/v1/memory/rooms/deep", "[" * levels + "]" * levels)
    assert answer.code == status


async def test_head_is_get_without_its_body(http: Http) -> None:
    await http("PUT", "/v1/memory/rooms/attic", 1)
    for path in ("/v1/memory/rooms/attic", "/v1/memory/rooms?wait=5", "/healthz", "/readyz"):
        answer, body = await http("HEAD", path)
        assert (answer.code, body) == (200, b"")
    assert (await http("HEAD", "/v1/memory/rooms/cellar"))[0].code == 404


async def test_blanks_in_a_key_are_part_of_it(http: Http) -> None:
    for key in ("a", "a%20", "b"):
        await http("PUT", f"/v1/memory/rooms/{key}", 1)
    _, page = await http("GET", "/v1/memory/rooms?limit=1&after=a")
    assert list(page["items"]) == ["a "]
    _, page = await http("GET", "/v1/memory/rooms?limit=1&after=a%20")
    assert list(page["items"]) == ["b"]
    _, poll = await http("GET", "/v1/live?subscribe=memory/rooms/a%20&wait=1")
    assert poll["items"] == {"memory/rooms/a ": {"a ": 1}}


async def test_a_patch_of_another_kind_does_not_become_the_value(http: Http) -> None:
    await http("PUT", "/v1/memory/rooms/attic", {"a": 1})
    answer, body = await http("PATCH", "/v1/memory/rooms/attic", [], Content_Type="application/json-patch+json")
    assert (answer.code, body["error"]["code"]) == (415, "unsupported")
    assert answer.headers["Accept-Patch"] == "application/merge-patch+json"
    assert (await http("GET", "/v1/memory/rooms/attic"))[1] == {"a": 1}


async def test_a_new_item_has_nothing_to_match(http: Http) -> None:
    answer, _ = await http("POST", "/v1/memory/rooms", 1, If_Match='"x"')
    assert answer.code == 400
    assert (await http("GET", "/v1/memory/rooms"))[1]["items"] == {}


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("body", "ends"), [("Content-Length: 2000000", True), ("Transfer-Encoding: chunked", True), ("X: y", False)]
)
async def test_who_is_refused_before_the_body_is_told_that_the_connection_ends(
    base_url: str, body: str, ends: bool
) -> None:
    """A client that would use it again would find it broken."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(base_url.rpartition(":")[2]))
    lines = ["PUT /v1/memory/a/b HTTP/1.1", "Host: localhost", "Authorization: nothing", body]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert (b"Connection: close" in head) is ends
    writer.close()
    await writer.wait_closed()
