"""Where nobody is asked who they are, there is nothing to sign in to."""

from __future__ import annotations

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest


@pytest.mark.gen_test
@pytest.mark.parametrize("path", ["/sign-in", "/sign-out", "/account", "/accounts"])
async def test_an_open_service_has_no_accounts(base_url: str, path: str) -> None:
    for method in ("GET", "POST"):
        request = HTTPRequest(base_url + path, method, allow_nonstandard_methods=True)
        assert (await AsyncHTTPClient().fetch(request, raise_error=False)).code == 404


@pytest.mark.gen_test
async def test_the_page_of_an_open_service_names_nobody(base_url: str) -> None:
    page = (await AsyncHTTPClient().fetch(base_url)).body.decode()
    assert "sign-out" not in page
