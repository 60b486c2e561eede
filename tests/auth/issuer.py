"""An outside issuer: its keys, its tokens, and the server that shows its keys."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms
from tornado.web import Application, RequestHandler

from tests.web import Answer, listening

ISSUER, AUDIENCE = "https://issuer.example", "realtime"
SECRET = "s" * 64


@cache
def private_key(algorithm: str, number: int = 0) -> Any:
    match algorithm[:2]:
        case "RS" | "PS":
            return rsa.generate_private_key(65537, 2048)
        case "ES":
            return ec.generate_private_key({"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1()}[algorithm])
        case "Ed":
            return ed25519.Ed25519PrivateKey.generate()
    return SECRET


def pem_of(private: Any) -> str:
    """Of the public key."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    pem: bytes = private.public_key().public_bytes(serialization.Encoding.PEM, form)
    return pem.decode()


def public_pem(algorithm: str) -> str:
    return pem_of(private_key(algorithm))


def private_pem(algorithm: str) -> str:
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem: bytes = private_key(algorithm).private_bytes(serialization.Encoding.PEM, form, none)
    return pem.decode()


def jwk(
    kid: str, algorithm: str = "ES256", number: int = 0, *, private: bool = False, **members: object
) -> dict[str, object]:
    key = private_key(algorithm, number)
    shown = get_default_algorithms()[algorithm].to_jwk(key if private else key.public_key(), as_dict=True)
    return {**shown, "kid": kid, "use": "sig", **members}


def key_set(*keys: dict[str, object]) -> str:
    return json.dumps({"keys": keys})


def claims(**other: object) -> dict[str, object]:
    """Good ones, but for these; None: without it."""
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": int(time.time()) + 60}
    return {name: value for name, value in (good | other).items() if value is not None}


def token(algorithm: str = "HS256", *, key: Any = None, header: dict[str, Any] | None = None, **other: object) -> str:
    return jwt.encode(claims(**other), key or private_key(algorithm), algorithm, header)


class Shop:
    """`answer`: what the next requests get; `fetches`: the paths that were asked for."""

    def __init__(self) -> None:
        self.fetches: list[str] = []
        self.keys = key_set(jwk("one"))
        self.answer: Answer = self.show

    def show(self, handler: RequestHandler) -> None:
        handler.finish(self.keys)


class Door(RequestHandler):
    def initialize(self, shop: Shop) -> None:
        self.shop = shop

    async def get(self) -> None:
        self.shop.fetches.append(self.request.path)
        answered = self.shop.answer(self)
        if answered is not None:
            await answered


@asynccontextmanager
async def shop() -> AsyncIterator[tuple[Shop, str]]:
    """And the URL of its keys."""
    there = Shop()
    async with listening(Application([(r"/.*", Door, {"shop": there})])) as base:
        yield there, f"{base}/keys"
