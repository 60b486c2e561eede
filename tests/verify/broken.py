"""A node with one of its safeguards taken out: `python -m tests.verify.broken SAFEGUARD`. The checker has to notice."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Raw

from realtime.brokers import redis as broker
from realtime.channels import Channel
from realtime.node import Node
from realtime.protocol import Cursor, Placed
from realtime.session import Session
from realtime.stores.redis import RedisStore
from realtime.subscription import Subscription
from realtime.verify import node


def gap_check() -> None:
    """Whatever comes later is taken for what comes next."""

    def follows(self: Channel, event: Placed) -> bool:
        position, cursor = self.position, event.cursor
        return position is not None and position.epoch == cursor.epoch and position.offset < cursor.offset

    Channel.follows = follows  # type: ignore[method-assign]


def fence() -> None:
    """A snapshot's cursor does not say what the snapshot was ahead by."""
    show: Any = Subscription.show
    reset: Any = Subscription.reset

    def unfenced(tell: Any) -> Any:
        def told(self: Subscription, cursor: Cursor, items: Mapping[str, Raw], reason: str = "") -> None:
            tell(self, Cursor(cursor.epoch, cursor.offset), items, reason)

        return told

    Subscription.show = unfenced(show)  # type: ignore[method-assign]
    Subscription.reset = unfenced(reset)  # type: ignore[method-assign]


def reconcile() -> None:
    """What others wrote to Redis is not looked at."""

    async def look_away(self: RedisStore, names: Sequence[bytes], by: str) -> int:
        return 0

    RedisStore._reconcile = look_away  # type: ignore[method-assign]


def version_check() -> None:
    """What a feed tells again is told again."""
    script, check = broker._PUBLISH, "if above(ARGV[i], version) then"
    assert check in script
    broker._PUBLISH = script.replace(check, "if true then")


def resume_place() -> None:
    """A resume goes on from another place than the one that was asked for."""
    resume: Any = Subscription.resume

    def elsewhere(self: Subscription, cursor: Cursor, history: Iterable[Placed]) -> None:
        resume(self, Cursor(cursor.epoch, cursor.offset + 1, cursor.fence), history)

    Subscription.resume = elsewhere  # type: ignore[method-assign]


def release() -> None:
    """What clients leave behind stays."""

    def keep(self: Node, session: Session) -> None:
        pass

    Node.release = keep  # type: ignore[method-assign]


SAFEGUARDS: dict[str, Callable[[], None]] = {
    "gap check": gap_check,
    "fence": fence,
    "reconcile": reconcile,
    "version check": version_check,
    "resume's place": resume_place,
    "release": release,
}

if __name__ == "__main__":
    SAFEGUARDS[sys.argv[1]]()
    node.main()
