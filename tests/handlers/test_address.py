"""Who is at the other end: proxies are believed where they are known, and nobody else is."""

from __future__ import annotations

import pytest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from realtime.handlers.address import Proxies, counted

NEAR, FAR = "10.0.0.0/8", "2001:db8:1::/48"


def request(peer: str, **headers: str) -> HTTPServerRequest:
    named = HTTPHeaders({"Host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}})
    made = HTTPServerRequest(start_line=RequestStartLine("GET", "/", "HTTP/1.1"), headers=named)
    made.remote_ip = peer
    return made


@pytest.mark.parametrize(
    ("peer", "said", "address"),
    [
        ("10.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "6.6.6.6, 1.2.3.4", "1.2.3.4"),  # the client wrote the first
        ("10.0.0.1", "6.6.6.6, 1.2.3.4, 10.9.9.9, 2001:db8:1::7", "1.2.3.4"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),  # from inside
        ("10.0.0.1", "1.2.3.4, nobody", "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4, unknown, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("::ffff:10.0.0.1", "::ffff:1.2.3.4", "1.2.3.4"),
        ("2001:db8:1::1", "2001:db8:2::1", "2001:db8:2::1"),
        ("1.2.3.4", "6.6.6.6", "1.2.3.4"),  # no proxy of ours
        ("127.0.0.1", "6.6.6.6", "127.0.0.1"),
        ("2001:db8:2::1", "6.6.6.6", "2001:db8:2::1"),
    ],
)
def test_forwarded_for_is_read_from_the_right_as_far_as_it_is_known(peer: str, said: str, address: str) -> None:
    made = request(peer, X_Forwarded_For=said)
    Proxies([NEAR, FAR]).unwrap(made)
    assert made.remote_ip == address


@pytest.mark.parametrize(
    ("peer", "said", "scheme"),
    [
        ("10.0.0.1", "https", "https"),
        ("10.0.0.1", "http, HTTPS", "https"),
        ("10.0.0.1", "https, http", "http"),
        ("10.0.0.1", "gopher", "http"),
        ("1.2.3.4", "https", "http"),
    ],
)
def test_forwarded_proto_too(peer: str, said: str, scheme: str) -> None:
    made = request(peer, X_Forwarded_Proto=said)
    Proxies([NEAR]).unwrap(made)
    assert made.protocol == scheme


def test_without_proxies_nothing_is_believed_and_real_ip_never() -> None:
    headers = {"X_Forwarded_For": "6.6.6.6", "X_Real_Ip": "6.6.6.6", "X_Forwarded_Proto": "https", "X_Scheme": "https"}
    for proxies in (Proxies([]), Proxies([FAR])):
        made = request("10.0.0.1", **headers)
        proxies.unwrap(made)
        assert (made.remote_ip, made.protocol) == ("10.0.0.1", "http")
    made = request("10.0.0.1", X_Real_Ip="6.6.6.6", X_Scheme="https")
    Proxies([NEAR]).unwrap(made)
    assert (made.remote_ip, made.protocol) == ("10.0.0.1", "http")


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8:0:0:9::1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_customer_of_ipv6_has_a_prefix(address: str, name: str) -> None:
    assert counted(address) == name
