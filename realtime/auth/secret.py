"""Secrets that we give out: 32 random bytes as 43 characters.

They cannot be guessed, so a plain SHA-256 of them is what is stored and looked up by: whoever reads the tables cannot
sign in with what they find, and the time that the look-up takes says nothing of use.
"""

from __future__ import annotations

from hashlib import sha256
from secrets import choice, token_urlsafe
from string import ascii_lowercase, digits
from typing import Final

LENGTH: Final = 43  # characters
TOKEN: Final = "rt_"  # noqa: S105  begins those of tokens: scanners for lost secrets look for such beginnings

_ALPHABET: Final = ascii_lowercase + digits


def new() -> str:
    return token_urlsafe(32)


def digest(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()


def new_id(kind: str) -> str:
    """Short, and no secret: a letter and 11 random characters."""
    return kind + "".join(choice(_ALPHABET) for _ in range(11))
