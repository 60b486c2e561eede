"""Who listens to what on this node, and the delivery of an event to them.

One map, by channel and selector, changed in `add` and `remove` alone. An event costs by its listeners, not by those of
other keys and channels.
"""

from __future__ import annotations

from collections.abc import Iterator

from .audience import Audience
from .protocol import Placed
from .subscription import Subscription


class Hub:
    def __init__(self) -> None:
        # None is the selector of those who listen to every key
        self._channels: dict[str, dict[str | None, Audience[Subscription]]] = {}

    def add(self, subscription: Subscription) -> None:
        selectors = self._channels.setdefault(subscription.channel, {})
        audience = selectors.get(subscription.key)
        if audience is None:
            audience = selectors[subscription.key] = Audience()
        audience.add(subscription)
        subscription.audience = audience

    def remove(self, subscription: Subscription) -> None:
        """Removing one that is not there changes nothing."""
        audience = subscription.audience
        if audience is None:
            return
        subscription.session.step_out()
        subscription.audience = None
        audience.remove(subscription)
        if not audience:
            selectors = self._channels[subscription.channel]
            del selectors[subscription.key]
            if not selectors:
                del self._channels[subscription.channel]

    def deliver(self, channel: str, event: Placed) -> int:
        """Pass an event to all who listen; returns to how many."""
        selectors = self._channels.get(channel)
        if selectors is None:
            return 0
        audiences = selectors.get(None), selectors.get(event.event.key)
        return sum(audience.deliver(event) for audience in audiences if audience is not None)

    def listeners(self, channel: str) -> Iterator[Subscription]:
        for audience in self._channels.get(channel, {}).values():
            yield from audience

    def listening(self, channel: str) -> bool:
        return channel in self._channels

    def channels(self) -> list[str]:
        return list(self._channels)
