"""Who may read and write what: rules of role → channel and key → read, write, hidden columns. Deny by default. Pure.

A rule only ever gives. What somebody sees of a channel is a `View`; who sees all of it has none, and costs nothing.
Those with equal views share one, so that an event is looked at, masked and encoded once for all of them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Literal

import msgspec
from msgspec import Raw, Struct

from .errors import ConfigError, Forbidden, Unauthorized
from .protocol import Placed

Proof = Literal["nothing", "sign-in", "token", "jwt"]

EVERYBODY = "*"  # the role of all who are signed in
ANONYMOUS = "anonymous"  # the role of those who are not
_STAR = "\0"  # one that stands for itself


class Identity(Struct, frozen=True):
    """Who speaks. `user`: what `{user}` in a rule stands for; `proof` and `id`: what would be revoked.

    `scopes`: of a token, what it was made for (`read`, `write`, `read:postgres/*`); None: all that its user may.
    `expires`: seconds since 1970.
    """

    user: str = ""
    roles: tuple[str, ...] = ()
    proof: Proof = "nothing"
    id: str = ""
    name: str = ""
    scopes: tuple[str, ...] | None = None
    expires: float | None = None

    @property
    def known(self) -> bool:
        return self.proof != "nothing"


NOBODY = Identity()


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    """Patterns have `*` for any characters, and `{user}` for who asks."""

    roles: tuple[str, ...]
    channels: tuple[str, ...]
    keys: tuple[str, ...] = ("*",)
    read: bool = False
    write: bool = False
    hide: tuple[str, ...] = ()  # columns that a reader by this rule does not see

    def __post_init__(self) -> None:
        if not (self.roles and self.channels and self.keys):
            raise ValueError("a rule names roles, channels and keys")
        if not (self.read or self.write):
            raise ValueError("a rule gives read = true, write = true, or both")
        if self.hide and not self.read:
            raise ValueError("hide is for rules that give read")
        for channel in self.channels:
            if channel != "*" and "/" not in channel:
                raise ValueError(f"{channel!r} is no pattern of channels: store/collection, store/* or *")


class Rules(Struct, frozen=True, forbid_unknown_fields=True):
    rule: tuple[Rule, ...] = ()


ADMIN = Rules((Rule(("admin",), ("*",), read=True, write=True),))


def parse_rules(text: str, name: str) -> Rules:
    """Of a TOML file. Raises ConfigError, which says where."""
    try:
        return msgspec.convert(tomllib.loads(text), Rules)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"rules: {name}: {error}") from None


class Grant(Struct, frozen=True):
    """What one rule shows of a channel: these keys, without these columns."""

    keys: tuple[str, ...]
    hide: frozenset[str]


class View(Struct, frozen=True):
    """What somebody sees of a channel."""

    grants: tuple[Grant, ...]

    def hidden(self, key: str) -> frozenset[str] | None:
        """The columns of the key that no grant shows; None where none shows the key."""
        found = [grant.hide for grant in self.grants if any(matches(pattern, key) for pattern in grant.keys)]
        return frozenset.intersection(*found) if found else None

    @property
    def missing(self) -> frozenset[str]:
        """The columns that it shows of no key."""
        return frozenset.intersection(*(grant.hide for grant in self.grants))

    def items(self, items: Mapping[str, Raw]) -> Mapping[str, Raw]:
        seen = ((key, self.hidden(key), value) for key, value in items.items())
        return {key: masked(value, hidden) for key, hidden, value in seen if hidden is not None}

    def event(self, placed: Placed) -> Placed | None:
        """As it is seen, None if it is not."""
        event = placed.event
        hidden = self.hidden(event.key)
        if hidden is None:
            return None
        if not hidden or not isinstance(event.value, Raw):
            return placed
        return placed.showing(masked(event.value, hidden))


class Rights:
    """What an identity may. Where it may not, `Unauthorized` if nobody said who they are, else `Forbidden`; whether
    there is such a channel or key, neither tells.
    """

    def __init__(self, rules: Rules, identity: Identity = NOBODY) -> None:
        self.identity = identity
        roles = {*identity.roles, EVERYBODY} if identity.known else {ANONYMOUS}
        self._rules = [rule for rule in rules.rule if roles.intersection(rule.roles)]
        self._scopes = identity.scopes

    def view(self, channel: str, key: str | None = None) -> View | None:
        """What is seen of a channel, or of a key of it; None: all. Raises Unauthorized or Forbidden."""
        grants = [
            Grant(self._keys(rule), frozenset(rule.hide))
            for rule in self._of(channel, "read")
            if key is None or self._has(rule, key)
        ]
        if not grants:
            raise self._refusal(f"read {channel}" if key is None else f"read {key!r} of {channel}")
        if key is not None:  # so that those who may see it differ in the columns alone
            grants = [Grant(("*",), frozenset.intersection(*(grant.hide for grant in grants)))]
        whole = any("*" in grant.keys and not grant.hide for grant in grants)
        return None if whole else View(tuple(dict.fromkeys(grants)))

    def write(self, channel: str, key: str | None) -> None:
        """None: a key that the store makes, which only who may write any may. Raises Unauthorized or Forbidden."""
        for rule in self._of(channel, "write"):
            if "*" in rule.keys or (key is not None and self._has(rule, key)):
                return
        raise self._refusal(f"write {channel}" if key is None else f"write {key!r} of {channel}")

    def sees(self, channel: str) -> bool:
        """Anything of it."""
        return next(self._of(channel, "read"), None) is not None

    def _of(self, channel: str, verb: str) -> Iterator[Rule]:
        if self._scopes is not None and not any(_covers(scope, verb, channel) for scope in self._scopes):
            return
        for rule in self._rules:
            if getattr(rule, verb) and any(matches(self._fill(pattern), channel) for pattern in rule.channels):
                yield rule

    def _keys(self, rule: Rule) -> tuple[str, ...]:
        return tuple(self._fill(pattern) for pattern in rule.keys)

    def _has(self, rule: Rule, key: str) -> bool:
        return any(matches(pattern, key) for pattern in self._keys(rule))

    def _fill(self, pattern: str) -> str:
        """With the user's name in it, in which a `*` is none."""
        return pattern.replace("{user}", self.identity.user.replace("*", _STAR)) if "{user}" in pattern else pattern

    def _refusal(self, what: str) -> Unauthorized | Forbidden:
        return Forbidden(f"you may not {what}") if self.identity.known else Unauthorized(f"to {what}, say who you are")


class Everything(Rights):
    """Where nobody is asked who they are."""

    def __init__(self) -> None:
        super().__init__(ADMIN, Identity(roles=("admin",), proof="nothing"))

    def view(self, channel: str, key: str | None = None) -> View | None:
        return None

    def write(self, channel: str, key: str | None) -> None:
        return

    def sees(self, channel: str) -> bool:
        return True


EVERYTHING, DENIED = Everything(), Rights(Rules())


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = (re.escape(part.replace(_STAR, "*")) for part in pattern.split("*"))
    return re.compile(".*".join(parts), re.DOTALL)


def matches(pattern: str, name: str) -> bool:
    return pattern == "*" or _compiled(pattern).fullmatch(name) is not None


def masked(value: Raw, hidden: frozenset[str]) -> Raw:
    """An object without these members; anything else has no columns."""
    if not hidden or not bytes(value).lstrip().startswith(b"{"):
        return value
    members: dict[str, Raw] = msgspec.json.decode(bytes(value), type=dict[str, Raw])
    return Raw(msgspec.json.encode({name: each for name, each in members.items() if name not in hidden}))


def _covers(scope: str, verb: str, channel: str) -> bool:
    which, _, pattern = scope.partition(":")
    return which == verb and (not pattern or matches(pattern, channel))
