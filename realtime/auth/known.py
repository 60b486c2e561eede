"""Whose a secret is, as far as this node has asked: so that a request costs no query.

Right only while somebody says what changes (`watch`). An answer that was on its way while something changed may be the
old one: it is given out, as if it had come a moment earlier, but not kept. Bounded: the one longest unused goes.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from ..rights import Identity

ENTRIES: Final = 10_000


class Known:
    def __init__(self, entries: int = ENTRIES) -> None:
        self._entries = entries
        self._identities: OrderedDict[bytes, Identity] = OrderedDict()  # by the digest of the secret
        self._of_user: dict[str, set[bytes]] = {}
        self.turn = 0  # grows with all that is dropped

    def __len__(self) -> int:
        return len(self._identities)

    def get(self, digest: bytes) -> Identity | None:
        identity = self._identities.get(digest)
        if identity is not None:
            self._identities.move_to_end(digest)
        return identity

    def keep(self, digest: bytes, identity: Identity, turn: int) -> None:
        """`turn`: as it was when the question was asked."""
        if turn != self.turn:
            return
        self._identities[digest] = identity
        self._of_user.setdefault(identity.user, set()).add(digest)
        if len(self._identities) > self._entries:
            self._forget(next(iter(self._identities)))

    def drop(self, user: str | None) -> None:
        """All that is known of a user; None: of everybody."""
        self.turn += 1
        if user is None:
            self._identities.clear()
            self._of_user.clear()
        for digest in list(self._of_user.get(user or "", ())):
            self._forget(digest)

    def forget(self, digest: bytes) -> None:
        """What was ended here is unknown here before anybody is told."""
        self.turn += 1
        if digest in self._identities:
            self._forget(digest)

    def _forget(self, digest: bytes) -> None:
        user = self._identities.pop(digest).user
        self._of_user[user].discard(digest)
        if not self._of_user[user]:
            del self._of_user[user]
