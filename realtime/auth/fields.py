"""What an account and a token may be called, checked once on the way in. Each raises Refused, with the value."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ..errors import Refused

EMAIL: Final = 254  # characters (RFC 5321, with the erratum 1690 of RFC 3696)
NAME: Final = 100
SCOPES: Final = 32

_EMAIL: Final = re.compile(r"[^\s@]+@[^\s@]+")
_ROLE: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_SCOPE: Final = re.compile(r"(read|write)(:[A-Za-z0-9_.*-]{1,64}(/[A-Za-z0-9_.*-]{1,128})?)?")


def email_of(given: str) -> str:
    """As it is stored and looked up: the same however it was typed."""
    email = given.strip().lower()
    if len(email) > EMAIL or not email.isprintable() or not _EMAIL.fullmatch(email):
        raise Refused(f"not an e-mail address: {given[:EMAIL]!r}")
    return email


def name_of(given: str) -> str:
    name = given.strip()
    if len(name) > NAME or not name.isprintable():
        raise Refused(f"a name has at most {NAME} characters, all of them visible (got {name[:NAME]!r})")
    return name


def roles_of(given: Iterable[str]) -> tuple[str, ...]:
    roles = tuple(dict.fromkeys(given))
    for role in roles:
        if not _ROLE.fullmatch(role):
            raise Refused(f"not a role: {role[:NAME]!r}", hint="a-z first, then also 0-9, _ and -, at most 32 of them")
    return roles


def scopes_of(given: Iterable[str]) -> tuple[str, ...]:
    scopes = tuple(dict.fromkeys(given))
    if not 1 <= len(scopes) <= SCOPES:
        raise Refused(f"a token has 1 to {SCOPES} scopes (got {len(scopes)})", hint="such as read, or write:redis/*")
    for scope in scopes:
        if not _SCOPE.fullmatch(scope):
            raise Refused(f"not a scope: {scope[:NAME]!r}", hint="read, write, or either of a channel: read:postgres/*")
    return scopes
