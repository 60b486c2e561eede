"""Jwts with tokens of an issuer of our own: what is let in, what is refused, and where its keys come from."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jwt import PyJWS
from jwt.utils import base64url_encode
from tornado.web import RequestHandler

from realtime import addresses
from realtime.auth.jwts import Jwts
from realtime.config import Jwt
from realtime.errors import ConfigError, Unauthorized, Unavailable
from realtime.rights import Identity

from .issuer import (
    AUDIENCE,
    ISSUER,
    SECRET,
    Shop,
    jwk,
    key_set,
    pem_of,
    private_key,
    private_pem,
    public_pem,
    shop,
    token,
)

NOW = int(time.time())


def settings_of(**other: object) -> Jwt:
    given: dict[str, object] = {"algorithms": ("HS256",), "audience": AUDIENCE, "issuer": ISSUER}
    return Jwt(**(given | other))  # type: ignore[arg-type]


def jwts_of(**other: object) -> Jwts:
    return Jwts(settings_of(**other))


SHARED = jwts_of(key=SECRET)
PUBLIC = jwts_of(key=public_pem("RS256"), algorithms=("RS256", "RS512"))


async def refused(jwts: Jwts, text: str) -> str:
    """Why."""
    with pytest.raises(Unauthorized) as caught:
        await jwts.identity(text)
    assert not any(part and part in str(caught.value) for part in text.split("."))
    return str(caught.value)


# who is let in ------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("algorithm", ["HS256", "HS512", "RS256", "PS384", "ES256", "ES384", "EdDSA"])
async def test_each_family_lets_in_whom_it_signed_for(algorithm: str) -> None:
    key = SECRET if algorithm.startswith("HS") else public_pem(algorithm)
    jwts = jwts_of(key=key, algorithms=(algorithm,))
    text = token(algorithm, jti="t1", roles=["reader"], exp=NOW + 90)
    found = await jwts.identity(text)
    assert found == Identity("ada", ("reader",), "jwt", "t1", expires=NOW + 90)
    forged = text[:-6] + ("A" * 6 if text[-6:-2] != "AAAA" else "B" * 6)
    assert await refused(jwts, forged) in (
        "the token's signature does not hold",
        "this is not a token of the issuer",  # an end that no base64 has
    )


@pytest.mark.asyncio
async def test_a_token_without_a_number_is_told_by_its_digest() -> None:
    first, second = token(nonce=1), token(nonce=2)
    ids = {(await SHARED.identity(text)).id for text in (first, second, first)}
    assert len(ids) == 2
    assert all(len(each) == 32 for each in ids)
    assert len((await SHARED.identity(token(jti="x" * 201))).id) == 32


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("claim", "roles"),
    [
        (["reader", "writer", "reader"], ("reader", "writer")),
        ("reader", ("reader",)),
        (["Reader", "*", "a b", "", "1st", "x" * 33, "a\n", "ok_2-x"], ("ok_2-x",)),
        (["reader", 1], ()),
        ({"reader": True}, ()),
        (7, ()),
        ([], ()),
    ],
)
async def test_roles(claim: object, roles: tuple[str, ...]) -> None:
    assert (await SHARED.identity(token(roles=claim))).roles == roles
    other = jwts_of(key=SECRET, roles="groups")
    assert (await other.identity(token(groups=claim, roles=["admin"]))).roles == roles


# who is not ---------------------------------------------------------------------------------------------------------


def unsigned(**header: object) -> str:
    head = base64.urlsafe_b64encode(json.dumps({"typ": "JWT", **header}).encode()).rstrip(b"=").decode()
    return f"{head}.{token().split('.')[1]}."


def spoilt() -> str:
    head, body, signature = token().split(".")
    other = base64.urlsafe_b64decode(body + "==").replace(b"ada", b"bob")
    return f"{head}.{base64url_encode(other).decode()}.{signature}"


def confused() -> str:
    """Signed by what is public, as if it was a shared secret. (The library would not: by hand.)"""
    head = base64url_encode(b'{"alg":"HS256","typ":"JWT"}').decode()
    signed = f"{head}.{token().split('.')[1]}"
    signature = hmac.new(public_pem("RS256").encode(), signed.encode(), sha256).digest()
    return f"{signed}.{base64url_encode(signature).decode()}"


ALGORITHM, SIGNATURE = "the token's algorithm is not accepted", "the token's signature does not hold"
NO_TOKEN = "this is not a token of the issuer"
BAD: dict[str, tuple[Jwts, Callable[[], str], str]] = {
    "alg none": (SHARED, lambda: unsigned(alg="none"), ALGORITHM),
    "alg None": (SHARED, lambda: unsigned(alg="None"), ALGORITHM),
    "no alg": (SHARED, unsigned, ALGORITHM),
    "HS by a public key": (PUBLIC, confused, ALGORITHM),
    "another of the family": (SHARED, lambda: token("HS384"), ALGORITHM),
    "another family": (SHARED, lambda: token("RS256"), ALGORITHM),
    "PS for RS": (PUBLIC, lambda: token("PS256", key=private_key("RS256")), ALGORITHM),
    "another key": (SHARED, lambda: token(key="t" * 64), SIGNATURE),
    "another public key": (PUBLIC, lambda: token("RS256", key=private_key("RS256", 1)), SIGNATURE),
    "another body": (SHARED, spoilt, SIGNATURE),
    "no signature": (SHARED, lambda: unsigned(alg="HS256"), SIGNATURE),
    "wrong aud": (SHARED, lambda: token(aud="billing"), "the token is for another audience"),
    "wrong auds": (SHARED, lambda: token(aud=["billing", "mail"]), "the token is for another audience"),
    "no aud": (SHARED, lambda: token(aud=None), "the token has no aud"),
    "wrong iss": (SHARED, lambda: token(iss="https://issuer.example/"), "the token is of another issuer"),
    "no iss": (SHARED, lambda: token(iss=None), "the token has no iss"),
    "no exp": (SHARED, lambda: token(exp=None), "the token has no exp"),
    "expired": (SHARED, lambda: token(exp=NOW - 11), "the token has expired"),
    "exp is no number": (SHARED, lambda: token(exp="soon"), NO_TOKEN),
    "exp without end": (SHARED, lambda: token(exp=float("inf")), NO_TOKEN),
    "exp beyond dates": (SHARED, lambda: token(exp=10**400), "the token's exp is no date"),
    "not yet valid": (SHARED, lambda: token(nbf=int(time.time()) + 30), "the token is not valid yet"),
    "issued in future": (SHARED, lambda: token(iat=int(time.time()) + 30), "the token is not valid yet"),
    "no sub": (SHARED, lambda: token(sub=None), "the token has no sub"),
    "an empty sub": (SHARED, lambda: token(sub=""), "the token's sub is not 1 to 200 printable characters"),
    "a long sub": (SHARED, lambda: token(sub="x" * 201), "the token's sub is not 1 to 200 printable characters"),
    "a line in sub": (SHARED, lambda: token(sub="a\nb"), "the token's sub is not 1 to 200 printable characters"),
    "critical": (SHARED, lambda: token(header={"crit": ["x"], "x": 1}), NO_TOKEN),
    "a detached body": (SHARED, lambda: unsigned(alg="HS256", b64=False, crit=["b64"]), NO_TOKEN),
    "a key in the token": (
        PUBLIC,
        lambda: token("RS256", key=private_key("RS256", 1), header={"jwk": jwk("x", "RS256", 1)}),
        SIGNATURE,
    ),
    "nothing": (SHARED, lambda: "", NO_TOKEN),
    "no dots": (SHARED, lambda: "abc", NO_TOKEN),
    "a deep header": (SHARED, lambda: f"{base64url_encode(b'[' * 4000).decode()}.e30.e30", NO_TOKEN),
    "a header that is none": (SHARED, lambda: f"{base64url_encode(b'[1]').decode()}.e30.e30", NO_TOKEN),
    "a deep body": (SHARED, lambda: PyJWS().encode(b"[" * 4000, SECRET, "HS256"), NO_TOKEN),
    "a body that is none": (SHARED, lambda: PyJWS().encode(b"[1]", SECRET, "HS256"), NO_TOKEN),
    "half a character": (SHARED, lambda: "\ud800.e30.e30", NO_TOKEN),
    "long": (SHARED, lambda: token(more="x" * 8192), "the token is longer than 8192 characters"),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("case", BAD)
async def test_what_is_wrong_is_refused(case: str) -> None:
    jwts, make, words = BAD[case]
    assert await refused(jwts, make()) == words


@pytest.mark.asyncio
async def test_clocks_may_differ_by_ten_seconds() -> None:
    now = int(time.time())
    assert (await SHARED.identity(token(exp=now - 5, nbf=now + 5, iat=now + 5))).user == "ada"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=80) | st.tuples(st.binary(max_size=30), st.binary(max_size=30)).map(lambda pair: raw(*pair)))
def test_no_text_breaks_it(text: str) -> None:
    with pytest.raises(Unauthorized):
        asyncio.run(SHARED.identity(text))


def raw(head: bytes, body: bytes) -> str:
    return f"{base64url_encode(head).decode()}.{base64url_encode(body).decode()}.AAAA"


# settings -----------------------------------------------------------------------------------------------------------

SHORT = rsa.generate_private_key(65537, 1024)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"key": SECRET, "audience": None}, "needs audience and issuer"),
        ({"key": SECRET, "issuer": ""}, "needs audience and issuer"),
        ({"key": SECRET, "algorithms": ()}, "of one family.*got none"),
        ({"key": SECRET, "algorithms": ("HS256", "RS256")}, "of one family.*got HS256, RS256"),
        ({"key": public_pem("RS256"), "algorithms": ("RS256", "PS256")}, "of one family"),
        ({"key": SECRET, "algorithms": ("none",)}, "'none' is none of"),
        ({"key": SECRET, "algorithms": ("HS1",)}, "'HS1' is none of .*HS256"),
        ({"key": "s" * 31}, "too short for HS256"),
        ({"key": "s" * 32, "algorithms": ("HS256", "HS512")}, "too short for HS512"),
        ({"key": public_pem("RS256")}, "not for HS256"),
        ({"key": SECRET, "algorithms": ("RS256",)}, "not for RS256"),
        ({"key": public_pem("ES256"), "algorithms": ("RS256",)}, "not for RS256"),
        ({"key": public_pem("ES256"), "algorithms": ("ES256", "ES384")}, "not for ES384"),
        ({"key": private_pem("RS256"), "algorithms": ("RS256",)}, "a private key"),
        ({"key": pem_of(SHORT), "algorithms": ("RS256",)}, "too short for RS256"),
        ({}, "one of key and jwks"),
        ({"key": SECRET, "jwks": "x.json", "algorithms": ("RS256",)}, "one of key and jwks"),
        ({"jwks": "https://issuer.example/keys"}, "is for public keys"),
        ({"jwks": "http://issuer.example/keys", "algorithms": ("RS256",)}, "issuer.example by https"),
        ({"jwks": "ftp://issuer.example/keys", "algorithms": ("RS256",)}, "no https URL"),
        ({"jwks": "/nowhere.json", "algorithms": ("RS256",)}, "/nowhere.json"),
    ],
)
def test_settings_that_would_let_in_others_are_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        jwts_of(**given)
    assert SECRET[:31] not in str(caught.value)


def test_without_an_issuer_there_is_nothing() -> None:
    assert Jwts.of(Jwt()) is None
    assert Jwts.of(settings_of(key=SECRET)) is not None
    with pytest.raises(ConfigError):
        Jwts.of(Jwt(audience=AUDIENCE))


def test_an_issuer_may_be_in_a_private_network() -> None:
    jwts_of(jwks="https://10.0.0.1/keys", algorithms=("RS256",))
    with pytest.raises(ConfigError, match="is not asked"):
        jwts_of(jwks="https://169.254.169.254/keys", algorithms=("RS256",))


# a set of keys, in a file -------------------------------------------------------------------------------------------


def es(kid: str | None, number: int = 0, algorithm: str = "ES256") -> str:
    header = {} if kid is None else {"kid": kid}
    return token(algorithm, key=private_key(algorithm, number), header=header)


@pytest.mark.expects_logs
@pytest.mark.asyncio
async def test_a_file_of_keys_is_read_again_when_it_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys.json"
    file.write_text(key_set(jwk("one")))
    jwts = jwts_of(jwks=str(file), algorithms=("ES256",))
    assert (await jwts.identity(es("one"))).user == "ada"
    assert "does not show" in await refused(jwts, es("two", 1))
    assert "does not show" in await refused(jwts, es(None))
    assert await refused(jwts, es("one", 1)) == SIGNATURE

    file.write_text(key_set(jwk("two", number=1)))
    os.utime(file, ns=(0, 0))  # of whatever time: it is another one
    assert (await jwts.identity(es("two", 1))).user == "ada"
    assert "does not show" in await refused(jwts, es("one"))

    for harm in (lambda: file.write_text('{"keys": ['), file.unlink):
        harm()
        caplog.clear()
        for _ in range(3):
            assert (await jwts.identity(es("two", 1))).user == "ada"
        assert len([each for each in caplog.records if each.levelno == logging.WARNING]) == 1
    file.write_text(key_set(jwk("one")))
    assert (await jwts.identity(es("one"))).user == "ada"


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"keys": 1}', '{"keys": []}', '{"keys":' + "[" * 100_000]
    + [
        key_set(each)
        for each in (
            jwk("one", use="enc"),
            jwk("one", alg="ES384"),
            jwk("one", private=True),
            jwk("one", kty="oct", k="AAAA"),
            jwk("one", "ES384"),
            jwk("one", x=5),
            jwk("one", x="AAAA"),
            {name: value for name, value in jwk("one").items() if name != "kid"},
            jwk("one", "RS256"),
        )
    ],
)
def test_a_file_without_a_key_for_us_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys.json").write_text(text)
    with pytest.raises(ConfigError, match=r"keys\.json"):
        jwts_of(jwks=str(tmp_path / "keys.json"), algorithms=("ES256",))


@pytest.mark.asyncio
async def test_a_key_is_for_its_algorithms_only(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text(
        key_set(jwk("p256"), jwk("p384", "ES384"), jwk("rsa", "RS256"), {"kty": "new"}, jwk("d", private=True))
    )
    jwts = jwts_of(jwks=str(tmp_path / "keys.json"), algorithms=("ES256", "ES384"))
    assert (await jwts.identity(es("p256"))).user == "ada"
    assert (await jwts.identity(es("p384", algorithm="ES384"))).user == "ada"
    assert await refused(jwts, es("p384")) == ALGORITHM
    assert "does not show" in await refused(jwts, token("RS256", header={"kid": "rsa"}))
    assert "does not show" in await refused(jwts, es("d"))


# a set of keys, at an address ---------------------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def asking(algorithms: tuple[str, ...] = ("ES256",)) -> AsyncIterator[tuple[Jwts, Shop, Clock]]:
    async with shop() as (there, url):
        clock = Clock()
        jwts = Jwts(settings_of(jwks=url, algorithms=algorithms), clock)
        yield jwts, there, clock
        await jwts.close()


@pytest.mark.asyncio
async def test_keys_are_fetched_once_for_all_who_wait_and_kept_ten_minutes() -> None:
    async with asking() as (jwts, there, clock):
        found = await asyncio.gather(*(jwts.identity(es("one")) for _ in range(20)))
        assert {each.user for each in found} == {"ada"}
        assert there.fetches == ["/keys"]
        clock.now += 599
        await jwts.identity(es("one"))
        assert len(there.fetches) == 1
        clock.now += 1
        there.keys = key_set(jwk("two", number=1))
        assert "does not show" in await refused(jwts, es("one"))  # it was withdrawn
        assert len(there.fetches) == 2


@pytest.mark.asyncio
async def test_a_new_key_is_looked_for_at_most_once_in_five_minutes() -> None:
    async with asking() as (jwts, there, clock):
        await jwts.identity(es("one"))
        there.keys = key_set(jwk("one"), jwk("two", number=1))
        found = await asyncio.gather(*(jwts.identity(es("two", 1)) for _ in range(20)))
        assert {each.user for each in found} == {"ada"}
        assert len(there.fetches) == 2
        clock.now += 299
        for _ in range(5):
            assert "does not show" in await refused(jwts, es("three", 2))
        assert len(there.fetches) == 2
        clock.now += 1
        there.keys = key_set(jwk("three", number=2))
        assert (await jwts.identity(es("three", 2))).user == "ada"
        assert len(there.fetches) == 3


@pytest.mark.asyncio
async def test_one_who_goes_takes_no_keys_from_the_others() -> None:
    async with asking() as (jwts, there, _):
        going = asyncio.Event()

        async def slow(handler: RequestHandler) -> None:
            await going.wait()
            there.show(handler)

        there.answer = slow
        first, second = (asyncio.create_task(jwts.identity(es("one"))) for _ in range(2))
        async with asyncio.timeout(5):
            while not there.fetches:  # noqa: ASYNC110 - the server's state
                await asyncio.sleep(0)
        first.cancel()
        going.set()
        assert (await second).user == "ada"
        assert len(there.fetches) == 1


WRONG = key_set(jwk("two", number=1))  # keys, but not in a good answer


def endless(handler: RequestHandler) -> object:
    async def drip() -> None:
        handler.write(WRONG)
        for _ in range(64):
            handler.write(b" " * (1 << 14))
            await handler.flush()

    return drip()


def redirect(handler: RequestHandler) -> None:
    handler.redirect("/others")


def down(handler: RequestHandler) -> None:
    handler.set_status(503)
    handler.finish(WRONG)


def garbage(handler: RequestHandler) -> None:
    handler.finish("<html>")


def gone(handler: RequestHandler) -> None:
    handler.detach().close()


def silent(handler: RequestHandler) -> object:
    return asyncio.sleep(0.6)


@pytest.mark.expects_logs
@pytest.mark.asyncio
@pytest.mark.parametrize("harm", [endless, redirect, down, garbage, gone, silent])
async def test_the_last_keys_stay_good_while_the_issuer_does_not_answer(
    harm: Callable[[RequestHandler], object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(addresses, "REQUEST", 0.3)
    async with asking() as (jwts, there, clock):
        there.answer = harm
        with pytest.raises(Unavailable, match="does not show its keys"):
            await jwts.identity(es("one"))
        with pytest.raises(Unavailable):  # without asking again at once
            await jwts.identity(es("one"))
        assert there.fetches == ["/keys"]
        clock.now += 10
        with pytest.raises(Unavailable):
            await jwts.identity(es("one"))
        assert len(there.fetches) == 2
        clock.now += 10
        there.answer = there.show
        await jwts.identity(es("one"))
        assert len(there.fetches) == 3
        clock.now += 600
        there.answer = harm
        for _ in range(3):
            assert (await jwts.identity(es("one"))).user == "ada"
        assert there.fetches == ["/keys"] * 4
        assert "does not show" in await refused(jwts, es("two", 1))
        assert len(there.fetches) == 4
        clock.now += 10
        there.keys, there.answer = key_set(jwk("two", number=1)), there.show
        assert (await jwts.identity(es("two", 1))).user == "ada"
        assert "does not show" in await refused(jwts, es("one"))
    warnings = [
        each for each in caplog.records if each.name == "realtime.auth.jwks" and each.levelno == logging.WARNING
    ]
    assert len(warnings) == 2  # once an outage


@pytest.mark.asyncio
async def test_where_a_token_says_its_keys_are_nobody_looks() -> None:
    async with asking() as (jwts, there, _), shop() as (evil, url):
        evil.keys = key_set(jwk("evil", number=1))
        header = {"kid": "evil", "jku": url, "x5u": url, "jwk": jwk("evil", number=1)}
        assert "does not show" in await refused(jwts, token("ES256", key=private_key("ES256", 1), header=header))
        header["kid"] = "one"
        assert await refused(jwts, token("ES256", key=private_key("ES256", 1), header=header)) == SIGNATURE
        assert evil.fetches == []
        assert set(there.fetches) == {"/keys"}
