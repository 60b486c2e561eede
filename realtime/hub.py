"""Who listens to what on this node, and the delivery of an event to them.

One map, by channel and selector, changed in `add` and `remove` alone. An event costs by its listeners, not by those of
other keys and channels.
"""

from __future__ import annotations

from collections.abc import Iterator

from .protocol import Placed
from .session import Subscription


class Hub:
    def __init__(self) -> None:
        # dicts as ordered sets: None is the selector of those who listen to every key
        self._channels: dict[str, dict[str | None, dict[Subscription, None]]] = {}

    def add(self, subscription: Subscription) -> None:
        selectors = self._channels.setdefault(subscription.channel, {})
        selectors.setdefault(subscription.key, {})[subscription] = None

    def remove(self, subscription: Subscription) -> None:
        """Removing one that is not there changes nothing."""
        selectors = self._channels.get(subscription.channel, {})
        listeners = selectors.get(subscription.key, {})
        if subscription not in listeners:
            return
        del listeners[subscription]
        if not listeners:
            del selectors[subscription.key]
        if not selectors:
            del self._channels[subscription.channel]

    def deliver(self, channel: str, event: Placed) -> int:
        """Pass an event to all who listen; returns to how many."""
        selectors = self._channels.get(channel)
        if selectors is None:
            return 0
        every, by_key = selectors.get(None, {}), selectors.get(event.event.key, {})
        for subscription in every:
            subscription.deliver(event)
        for subscription in by_key:
            subscription.deliver(event)
        return len(every) + len(by_key)

    def listeners(self, channel: str) -> Iterator[Subscription]:
        for listeners in self._channels.get(channel, {}).values():
            yield from listeners

    def listening(self, channel: str) -> bool:
        return channel in self._channels

    def channels(self) -> list[str]:
        return list(self._channels)
