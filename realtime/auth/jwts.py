"""Tokens of an outside issuer (JWT, RFC 7519; the advice of RFC 8725): what a good one says of who sent it.

Which algorithms are accepted is configured, never read from a token, and all are of one family: where one key could be
taken for a shared secret by one algorithm and for a public key by another, anybody could sign with what is public.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

import jwt
from jwt import exceptions as wrong

from ..config import Jwt
from ..errors import ConfigError, Unauthorized
from ..rights import Identity
from .jwks import ALGORITHMS, Key, keys_of

FAMILIES = ("HS", "RS", "PS", "ES", "EdDSA")
REQUIRED = ["exp", "sub", "aud", "iss"]
LEEWAY = 10  # seconds that clocks may differ
LATEST = 253402300799  # the last second that a date has
LONGEST = 8192  # characters of a token
LONGEST_NAME = 200  # characters of `sub` and `jti`
ROLE = re.compile(r"[a-z][a-z0-9_-]{0,31}")

# Never in the library's words, which may have parts of the token in them.
WORDS: dict[type[Exception], str] = {
    wrong.ExpiredSignatureError: "the token has expired",
    wrong.ImmatureSignatureError: "the token is not valid yet",
    wrong.InvalidAudienceError: "the token is for another audience",
    wrong.InvalidIssuerError: "the token is of another issuer",
    wrong.InvalidAlgorithmError: "the token's algorithm is not accepted",
    wrong.InvalidSignatureError: "the token's signature does not hold",
}


class Jwts:
    """Raises ConfigError where the settings would let in whom they should not."""

    def __init__(self, settings: Jwt, clock: Callable[[], float] = time.monotonic) -> None:
        _check(settings)
        self._settings, self._keys = settings, keys_of(settings, clock)

    @classmethod
    def of(cls, settings: Jwt) -> Jwts | None:
        """None where there is no outside issuer."""
        return None if settings == Jwt() else cls(settings)

    async def close(self) -> None:
        await self._keys.close()

    async def identity(self, text: str) -> Identity:
        """Raises Unauthorized, which says what is wrong with it; Unavailable where the issuer's keys are not known."""
        key = await self._keys.find(_kid(text))
        if key is None:
            raise Unauthorized("the token is signed with a key that the issuer does not show")
        claims = self._claims(text, key)
        user, number = claims["sub"], claims.get("jti", "")
        if not _is_name(user):
            raise Unauthorized(f"the token's sub is not 1 to {LONGEST_NAME} printable characters")
        expires = int(claims["exp"])  # as the library has read it
        if expires > LATEST:
            raise Unauthorized("the token's exp is no date")
        return Identity(
            user=user,
            roles=_roles(claims.get(self._settings.roles)),
            proof="jwt",
            id=number if _is_name(number) else sha256(text.encode()).hexdigest()[:32],
            expires=expires,
        )

    def _claims(self, text: str, key: Key) -> Mapping[str, Any]:
        try:
            return jwt.decode(
                text,
                key.value,
                algorithms=key.algorithms,
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=LEEWAY,
                options={"require": REQUIRED, "enforce_minimum_key_length": True},
            )
        except wrong.PyJWTError as error:
            raise _refusal(error) from None


def _check(settings: Jwt) -> None:
    if not settings.audience or not settings.issuer:
        raise ConfigError(
            "config: auth.jwt needs audience and issuer: else a token for somebody else would be good here"
        )
    known = sorted(name for name in ALGORITHMS if name.startswith(FAMILIES))
    if unknown := [name for name in settings.algorithms if name not in known]:
        raise ConfigError(f"config: auth.jwt.algorithms: {unknown[0]!r} is none of {', '.join(known)}")
    families = {name[:2] for name in settings.algorithms}
    if len(families) != 1:
        given = ", ".join(settings.algorithms) or "none"
        raise ConfigError(f"config: auth.jwt.algorithms are of one family: {', '.join(FAMILIES)} (got {given})")
    if families == {"HS"} and settings.jwks is not None:
        raise ConfigError("config: auth.jwt.jwks is for public keys, HS… is not: set auth.jwt.key")


def _kid(text: str) -> str | None:
    if len(text) > LONGEST:
        raise Unauthorized(f"the token is longer than {LONGEST} characters")
    try:
        return jwt.get_unverified_header(text).get("kid")
    except (wrong.PyJWTError, ValueError) as error:
        raise _refusal(error) from None


def _refusal(error: Exception) -> Unauthorized:
    if isinstance(error, wrong.MissingRequiredClaimError):
        return Unauthorized(f"the token has no {error.claim}")
    return Unauthorized(WORDS.get(type(error), "this is not a token of the issuer"))


def _is_name(text: str) -> bool:
    """What may stand in logs and in keys."""
    return 0 < len(text) <= LONGEST_NAME and text.isprintable()


def _roles(claim: object) -> tuple[str, ...]:
    """A string is one role; what could be no role of ours is none."""
    names = [claim] if isinstance(claim, str) else claim
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(dict.fromkeys(name for name in names if ROLE.fullmatch(name)))
