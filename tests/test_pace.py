"""A client that says how fast it wants a channel's events, joined to a replica in memory; timers are run by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec import UNSET

from realtime import pace
from realtime.errors import ProtocolError
from realtime.protocol import Cursor, Event, Subscribe
from realtime.session import Session
from realtime.subscription import Subscription
from tests.test_session import CHANNEL, Pair, contains, event, items


class Timers:
    """Run by hand. What is cancelled is gone."""

    def __init__(self) -> None:
        self.running: list[Timer] = []

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        timer = Timer(self, seconds, call)
        self.running.append(timer)
        return timer

    def run_out(self) -> None:
        running, self.running = self.running, []
        for timer in running:
            timer.call()


class Timer:
    def __init__(self, timers: Timers, seconds: float, call: Callable[[], None]) -> None:
        self.timers, self.seconds, self.call = timers, seconds, call

    def cancel(self) -> None:
        self.timers.running.remove(self)


class Paced(Pair):
    """One selection of all keys at four a second."""

    def __init__(self) -> None:
        super().__init__()
        self.timers = Timers()
        self.session = Session(self._wake, later=self.timers.later)
        self.every = self.select(1)
        self.every.show(Cursor("ep", 0), {})
        self.read()

    def select(self, id_: int, key: str | None = None, max_rate: float | None = 4.0) -> Subscription:
        subscription = Subscription(self.session, Subscribe(id_, CHANNEL, key, max_rate=max_rate), contains)
        self.hub.add(subscription)
        return subscription

    def told(self) -> list[int]:
        """The offsets of the events that came since this was asked last."""
        messages = self.read()
        return [Cursor.parse(each.cursor).offset for each in messages if isinstance(each, Event)]


def test_the_first_comes_at_once_and_then_the_newest_of_each_key_of_a_period() -> None:
    paced = Paced()
    paced.deliver(event(1, "a"), event(2, "b"), event(3, "a"), event(4, "c"), event(5, "b"))
    assert paced.told() == [1]
    assert [timer.seconds for timer in paced.timers.running] == [0.25]
    paced.timers.run_out()
    assert paced.told() == [3, 4, 5]
    assert paced.session.spared() == 1
    paced.deliver(event(6, "a"))
    assert paced.told() == []  # the next period
    paced.timers.run_out()
    assert paced.told() == [6]
    paced.timers.run_out()
    paced.deliver(event(7, "a"))
    assert paced.told() == [7]  # after a pause
    assert paced.replica.cursor == "v1.ep.7"


def test_a_cursor_is_never_beyond_what_is_held() -> None:
    """Neither where it is refreshed nor where another selection of the channel is answered."""
    paced = Paced()
    paced.deliver(event(1, "a"), event(2, "a", "two"))
    before = paced.every.cursor
    assert paced.every.refresh(Cursor("ep", 2), "0002") == before
    assert paced.told() == [1]
    paced.select(2, "b").show(Cursor("ep", 2), items(b=0))
    kinds = [type(message).__name__ for message in paced.read()]
    assert kinds == ["Event", "Subscribed"]
    assert paced.values() == {"a": "two"}


def test_a_reset_comes_behind_what_is_held() -> None:
    paced = Paced()
    paced.deliver(event(1, "a"), event(2, "a", "old"))
    paced.every.begin()
    paced.every.reset(Cursor("new", 0), items(a="new"), "epoch")
    paced.timers.run_out()
    paced.read()
    assert paced.values() == {"a": "new"}


def test_overlapping_selections_share_their_pace_and_are_told_once() -> None:
    paced = Paced()
    paced.select(2, "a").show(Cursor("ep", 0), {})
    paced.read()
    paced.deliver(event(1, "a"), event(2, "a"), event(3, "b"))
    assert paced.told() == [1]
    paced.timers.run_out()
    assert paced.told() == [2, 3]
    assert paced.session.spared() == 0


@pytest.mark.parametrize("max_rate", [None, 5.0])
def test_selections_of_a_channel_have_one_rate(max_rate: float | None) -> None:
    paced = Paced()
    with pytest.raises(ProtocolError, match="another max_rate"):
        paced.select(2, "a", max_rate)
    paced.session.remove(paced.every)
    paced.select(2, "a", max_rate)


def test_within_a_fence_it_is_held_as_a_frame_of_its_own() -> None:
    paced = Paced()
    paced.every.begin()
    paced.every.show(Cursor("ep", 0, "0009"), {})
    paced.every._contains = lambda fence, version: False
    paced.read()
    paced.deliver(event(1, "a"), event(2, "b"))
    paced.timers.run_out()
    paced.read()
    assert paced.replica.cursor == "v1.ep.2.0009"


def test_more_than_may_be_held_is_passed_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "MAX_HELD", 1000)
    paced = Paced()
    paced.deliver(*(event(offset, str(offset)) for offset in range(1, 20)))
    assert len(paced.told()) > 1
    paced.timers.run_out()
    paced.read()
    assert paced.offsets() == list(range(1, 20))


@pytest.mark.parametrize("end", ["unsubscribe", "close"])
def test_no_timer_is_left(end: str) -> None:
    paced = Paced()
    paced.deliver(event(1, "a"), event(2, "a"))
    if end == "close":
        paced.session.close()
    else:
        paced.hub.remove(paced.every)
        paced.session.remove(paced.every)
    assert paced.timers.running == []


def test_a_delete_is_the_newest_too() -> None:
    paced = Paced()
    paced.deliver(event(1, "a"), event(2, "a"), event(3, "a", op="delete"))
    paced.timers.run_out()
    paced.read()
    assert paced.values() == {}
    last = paced.seen[-1]
    assert isinstance(last, Event)
    assert (last.op, last.value) == ("delete", UNSET)
