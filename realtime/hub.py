"""Who listens to what on this node, and the delivery of an event to them.

One map, by channel, view and selector, changed in `add` and `remove` alone. An event costs by its listeners, not by
those of other keys and channels; what a view hides of it is taken out once for all who have that view.
"""

from __future__ import annotations

from collections.abc import Iterator

from .audience import Audience
from .protocol import Placed
from .rights import View
from .subscription import Subscription

Selectors = dict[str | None, Audience[Subscription]]  # None is the selector of those who listen to every key


_NOBODY: dict[View | None, Selectors] = {}


class Hub:
    def __init__(self) -> None:
        self._channels: dict[str, dict[View | None, Selectors]] = {}  # None is the view of those who see all

    def add(self, subscription: Subscription) -> None:
        selectors = self._channels.setdefault(subscription.channel, {}).setdefault(subscription.view, {})
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
            views = self._channels[subscription.channel]
            selectors = views[subscription.view]
            del selectors[subscription.key]
            if not selectors:
                del views[subscription.view]
            if not views:
                del self._channels[subscription.channel]

    def deliver(self, channel: str, event: Placed) -> int:
        """Pass an event to all who listen; returns to how many."""
        delivered = 0
        for view, selectors in self._channels.get(channel, _NOBODY).items():
            audiences = [each for key in (None, event.event.key) if (each := selectors.get(key)) is not None]
            if audiences and (seen := event if view is None else view.event(event)) is not None:
                delivered += sum(audience.deliver(seen) for audience in audiences)
        return delivered

    def listeners(self, channel: str) -> Iterator[Subscription]:
        for selectors in self._channels.get(channel, _NOBODY).values():
            for audience in selectors.values():
                yield from audience

    def listening(self, channel: str) -> bool:
        return channel in self._channels

    def channels(self) -> list[str]:
        return list(self._channels)
