"""A server's session joined to a client's replica, in memory: joining, fences, resuming, slow clients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import pytest
from msgspec import UNSET, Raw

from realtime import protocol, session
from realtime.audience import Crowd, Way
from realtime.errors import ProtocolError, TooMany
from realtime.hub import Hub
from realtime.places import Places
from realtime.protocol import Change, Codec, Cursor, Event, Op, Placed, Subscribe, Subscribed
from realtime.replica import Replica
from realtime.session import Session
from realtime.subscription import PART_ITEMS, Subscription

CHANNEL = "redis/sensors"


def contains(fence: str, version: str) -> bool:
    return version <= fence


def event(offset: int, key: str = "7", value: object = 0, *, op: Op = "put", epoch: str = "ep") -> Placed:
    raw = UNSET if op == "delete" else Raw(msgspec.json.encode(value))
    change = Change("sensors", key, op, raw, f"{offset:04}", 0.0)
    return Placed.decode(protocol.opening(CHANNEL, change) + protocol.closing(epoch, offset))


def items(**values: object) -> dict[str, Raw]:
    return {key: Raw(msgspec.json.encode(value)) for key, value in values.items()}


class Pair:
    """A session, its hub, and the replica of a client that reads every frame."""

    def __init__(self, key: str | None = None, *, codec: Codec = "json", limit: int = session.MAX_PENDING) -> None:
        self.woken = 0
        self.session = Session(self._wake, limit=limit)
        self.replica = Replica(CHANNEL, key)
        self.seen: list[protocol.ServerMessage] = []
        self.codec = codec
        self.hub = Hub()

    def _wake(self) -> None:
        self.woken += 1

    def join(self, id_: int = 1, *, key: str | None = None, mode: protocol.Mode = "latest") -> Subscription:
        key = self.replica.key if key is None else key
        subscription = Subscription(self.session, Subscribe(id_, CHANNEL, key, None, mode), contains)
        self.hub.add(subscription)
        return subscription

    def deliver(self, *events: Placed) -> None:
        for each in events:
            self.hub.deliver(CHANNEL, each)

    def read(self) -> list[protocol.ServerMessage]:
        frames = [protocol.encode(message, self.codec) for message in self.session.take()]
        messages = [protocol.decode_message(frame, self.codec) for frame in frames]
        for message in messages:
            self.replica.apply(message)
        self.seen += messages
        return messages

    def values(self) -> dict[str, object]:
        return {key: msgspec.json.decode(value) for key, value in self.replica.items.items()}

    def offsets(self) -> list[int]:
        return [Cursor.parse(each.cursor).offset for each in self.seen if isinstance(each, Event)]


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_a_snapshot_then_every_event(codec: Codec) -> None:
    pair = Pair(codec=codec)
    pair.join().show(Cursor("ep", 3), items(a=1, b=2))
    pair.deliver(event(4, "a", 10), event(5, "b", op="delete"), event(6, "c", {"deep": [1]}))
    pair.read()
    assert pair.values() == {"a": 10, "c": {"deep": [1]}}
    assert pair.replica.cursor == "v1.ep.6"
    assert pair.offsets() == [4, 5, 6]


def test_events_wait_in_line_while_a_subscription_joins() -> None:
    pair = Pair()
    joining = pair.join()
    pair.deliver(event(3, "a", "old"), event(4, "a", "new"))
    assert pair.session.take() == []
    joining.show(Cursor("ep", 3), items(a="old"))  # position 3, read before event 4 came
    pair.read()
    assert pair.offsets() == [4]
    assert pair.values() == {"a": "new"}


def test_what_a_snapshot_contains_moves_the_cursor_but_is_not_shown() -> None:
    pair = Pair()
    pair.join().show(Cursor("ep", 3, "0005"), items(a="five"))
    pair.deliver(event(4, "a", "four"))
    pair.deliver(event(5, "a", "five"))
    pair.read()
    assert pair.values() == {"a": "five"}
    assert pair.offsets() == []
    pair.deliver(event(6, "a", "six"))
    pair.read()
    assert pair.offsets() == [6]
    assert pair.replica.cursor == "v1.ep.6"  # beyond the fence, which is forgotten


def test_the_fence_rides_in_the_cursor_until_an_event_beyond_it() -> None:
    """Else a client that drops and resumes in between is told older values again."""
    pair = Pair()

    def knows(fence: str, version: str) -> bool:
        return version in {"0004", "0006"}  # 5 was not visible to the snapshot, though 6 was

    subscription = Subscription(pair.session, Subscribe(1, CHANNEL), knows)
    pair.hub.add(subscription)
    subscription.show(Cursor("ep", 3, "0006"), items(a=6))
    pair.deliver(event(4, "a", 4), event(5, "b", 5))
    pair.read()
    assert pair.replica.cursor == "v1.ep.5.0006"

    again = Pair()
    subscription = Subscription(again.session, Subscribe(1, CHANNEL), knows)
    again.hub.add(subscription)
    again.replica = pair.replica
    subscription.resume(Cursor.parse("v1.ep.5.0006"), [event(6, "a", 6)])
    again.deliver(event(7, "a", 7))
    again.read()
    assert again.offsets() == [7]
    assert again.replica.cursor == "v1.ep.7"


def test_a_resumed_subscription_gets_each_event_once_from_history_and_line() -> None:
    pair = Pair()
    joining = pair.join()
    pair.deliver(event(5), event(6))
    joining.resume(Cursor("ep", 3), [event(4), event(5)])
    pair.deliver(event(7))
    pair.read()
    assert isinstance(pair.seen[0], Subscribed)
    assert pair.seen[0].items is None
    assert pair.offsets() == [4, 5, 6, 7]


def test_a_cursor_ahead_of_this_node_hears_nothing_twice() -> None:
    """It was handed out by a node that is further; this one delivers those events later."""
    pair = Pair()
    pair.join().resume(Cursor("ep", 6), [])
    pair.deliver(event(5), event(6), event(7))
    pair.read()
    assert pair.offsets() == [7]


def test_one_key_hears_of_no_other() -> None:
    pair = Pair("a")
    joining = pair.join()
    pair.deliver(event(4, "a", 4), event(5, "b", 5))
    joining.show(Cursor("ep", 3), items(a=3))
    pair.deliver(event(6, "b"), event(7, "a", 7))
    pair.read()
    assert pair.offsets() == [4, 7]
    assert pair.values() == {"a": 7}


def test_overlapping_selections_get_an_event_once() -> None:
    pair = Pair()
    pair.join(1).show(Cursor("ep", 0), {})
    pair.join(2, key="a").show(Cursor("ep", 0), {})
    pair.deliver(event(1, "a"), event(2, "b"))
    pair.read()
    assert pair.offsets() == [1, 2]


def test_a_reset_replaces_everything() -> None:
    pair = Pair()
    subscription = pair.join()
    subscription.show(Cursor("ep", 1), items(a=1, b=2))
    pair.read()
    subscription.begin()
    pair.deliver(event(1, "a", "in between", epoch="new"))
    subscription.reset(Cursor("new", 0), items(a=3), "epoch")
    pair.read()
    assert pair.values() == {"a": "in between"}
    assert pair.replica.cursor == "v1.new.1"


def test_a_large_snapshot_comes_in_parts_and_is_taken_as_one() -> None:
    pair = Pair()
    many = {str(number): Raw(b"%d" % number) for number in range(2 * PART_ITEMS + 1)}
    pair.join().show(Cursor("ep", 3), many)
    first, *rest = (protocol.encode(message, "json") for message in pair.session.take())
    pair.replica.apply(protocol.decode_message(first, "json"))
    assert pair.replica.cursor is None  # half a snapshot is no place to go on from
    assert pair.replica.items == {}
    for frame in rest:
        pair.replica.apply(protocol.decode_message(frame, "json"))
    assert pair.values() == {str(number): number for number in range(len(many))}
    assert pair.replica.cursor == "v1.ep.3"


def test_a_full_line_starts_the_join_again() -> None:
    pair = Pair()
    joining = pair.join()
    large = event(1, "a", "x" * (1 << 20))
    pair.deliver(*[large] * 4)
    assert not joining.stale
    pair.deliver(large)
    assert joining.stale
    joining.begin()
    assert not joining.stale


def test_a_slow_client_gets_the_latest_of_each_key_in_order() -> None:
    pair = Pair(limit=3_000)
    pair.join().show(Cursor("ep", 0), {})
    keys = ["a", "b", "c"]
    pair.deliver(*(event(offset, keys[offset % 3], offset) for offset in range(1, 200)))
    pair.read()
    assert pair.values() == {"a": 198, "b": 199, "c": 197}
    assert pair.offsets() == [197, 198, 199]
    assert not pair.session.overflown
    pair.deliver(event(200, "a", 200), event(201, "a", 201))
    pair.read()
    assert pair.offsets()[3:] == [200, 201]  # in time again: every event


def test_a_client_too_slow_for_its_keys_has_to_come_back() -> None:
    pair = Pair(limit=3_000)
    pair.join().show(Cursor("ep", 0), {})
    pair.deliver(*(event(offset, str(offset)) for offset in range(1, 100)))
    assert pair.session.overflown
    assert pair.read() == []


def test_a_slow_client_that_wants_all_has_to_come_back() -> None:
    pair = Pair(limit=3_000)
    pair.join(mode="all").show(Cursor("ep", 0), {})
    pair.deliver(*(event(offset) for offset in range(1, 100)))
    assert pair.session.overflown


def test_an_answer_larger_than_the_limit_of_events_is_sent() -> None:
    """All of it is queued before the transport has its turn, so that it says nothing about how slow the client is."""
    many = {str(number): Raw(b'"%s"' % (b"x" * 1000)) for number in range(1500)}
    shown, resumed = Pair(), Pair()
    shown.join().show(Cursor("ep", 3), many)
    shown.deliver(event(4, "0", 4))
    shown.read()
    assert shown.values().keys() == many.keys()
    assert shown.offsets() == [4]
    resumed.join(mode="all").resume(Cursor("ep", 0), [event(n, str(n), "x" * 1000) for n in range(1, 1500)])
    resumed.deliver(event(1500, "0"))
    resumed.read()
    assert resumed.offsets() == list(range(1, 1501))


def test_answers_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_ANSWERS", 10_000)
    pair = Pair()
    pair.join().resume(Cursor("ep", 0), [event(offset, "a", "x" * 1000) for offset in range(1, 15)])
    assert pair.session.overflown


def test_an_event_that_follows_a_snapshot_is_told_again() -> None:
    """Another selection was told it before; behind an older snapshot it is news."""
    pair = Pair("a")
    every = Subscription(pair.session, Subscribe(1, CHANNEL), contains)
    pair.hub.add(every)
    every.show(Cursor("ep", 0), {})
    joining = pair.join(2)
    pair.deliver(event(1, "a", "new"))
    joining.show(Cursor("ep", 0), items(a="old"))
    pair.read()
    assert pair.values() == {"a": "new"}
    assert pair.replica.cursor == "v1.ep.1"


def test_other_messages_never_conflate_what_wants_all() -> None:
    """Pongs and another selection's latest fill the queue: all events are there, or the client has to come back."""
    pair = Pair(limit=3_000)
    pair.join(1, key="a", mode="all").show(Cursor("ep", 0), {})
    pair.join(2, key="b").show(Cursor("ep", 0), {})
    pair.deliver(*(event(offset, "a", offset) for offset in range(1, 9)))
    pair.deliver(*(event(offset, "b", offset) for offset in range(9, 60)))
    pair.session.send(protocol.Pong())
    pair.read()
    assert not pair.session.overflown
    assert pair.offsets() == [*range(1, 9), 59]


@pytest.mark.parametrize("late", [False, True])
def test_an_event_that_one_selection_wants_for_sure_is_kept(late: bool) -> None:
    """Overlapping selections share an event; that the first would do with a newer one must not cost the second any."""
    pair = Pair(limit=3_000)
    pair.join(1).show(Cursor("ep", 0), {})
    pair.join(2, key="a", mode="all").show(Cursor("ep", 0), {})
    pair.read()
    before, after = range(1, 4), range(54, 58)
    pair.deliver(*(event(offset, "a", offset) for offset in before))
    pair.deliver(*(event(offset, "b", offset) for offset in range(4, 54)))
    pair.deliver(*(event(offset, "a", offset) for offset in after if late))
    pair.read()
    assert not pair.session.overflown
    assert pair.offsets() == [*before, 53, *(after if late else ())]
    fit = 3_000 // len(event(58, "a", 58).json)
    pair.deliver(*(event(offset, "a", offset) for offset in range(58, 58 + fit)))  # they count once
    assert not pair.session.overflown


def test_an_id_is_used_once_at_a_time() -> None:
    pair = Pair()
    pair.join(1)
    with pytest.raises(ProtocolError, match="id 1 is in use"):
        pair.join(1)


def test_subscriptions_are_counted() -> None:
    pair = Pair()
    for number in range(session.MAX_SUBSCRIPTIONS):
        pair.join(number)
    with pytest.raises(TooMany):
        pair.join(-1)


def test_a_quiet_subscription_gets_a_fresh_cursor_and_keeps_its_fence() -> None:
    pair = Pair("a")
    subscription = pair.join()
    subscription.show(Cursor("ep", 3, "0009"), items(a=1))
    assert subscription.refresh(Cursor("ep", 8), "0008") == Cursor("ep", 8, "0009")
    assert subscription.refresh(Cursor("ep", 12), "0012") == Cursor("ep", 12)
    pair.session.send(subscription.fresh())
    pair.read()
    assert pair.replica.cursor == "v1.ep.12"
    assert subscription.refresh(Cursor("other", 1), "0001") == Cursor("ep", 12)  # its reset will come


def test_places_are_the_cursor_of_several_selections() -> None:
    requests = [Subscribe(0, CHANNEL), Subscribe(1, CHANNEL, "a"), Subscribe(2, "mongo/x")]
    places = Places(requests)
    assert str(places) == ""  # no place to come back to, as long as one is not answered
    places.sent(Subscribed(0, CHANNEL, "v1.ep.3.0004", {}, more=True))
    places.sent(Subscribed(0, CHANNEL, "v1.ep.3.0004", {}))
    places.sent(Subscribed(1, CHANNEL, "v1.ep.4", {}, key="a"))
    places.sent(Subscribed(2, "mongo/x", "v1.mo.9", {}))
    assert str(places) == "v1.ep.3.0004~v1.ep.4~v1.mo.9"
    places.sent(event(4, "b"))
    assert str(places) == "v1.ep.4.0004~v1.ep.4~v1.mo.9"  # one key moves by its own events alone
    places.sent(event(5, "b"))
    places.sent(event(6, "a"))
    assert str(places) == "v1.ep.6~v1.ep.6~v1.mo.9"
    places.sent(event(7, "a", epoch="new"))
    assert str(places) == "v1.ep.6~v1.ep.6~v1.mo.9"  # its reset will say where it is


def test_places_move_by_what_a_selection_was_told() -> None:
    """The first selection resumed before what the second's history has: those are on their way to it."""
    places = Places([Subscribe(0, CHANNEL, "a"), Subscribe(1, CHANNEL, "b")])
    places.sent(Subscribed(0, CHANNEL, "v1.ep.1", None, key="a"))
    places.sent(event(2, "a"))
    assert str(places) == ""
    places.sent(Subscribed(1, CHANNEL, "v1.ep.1", None, key="b"))
    places.sent(event(4, "b"))
    assert str(places) == "v1.ep.2~v1.ep.4"
    places.sent(event(3, "a"))
    assert str(places) == "v1.ep.3~v1.ep.4"


def test_half_a_snapshot_of_one_connection_is_no_part_of_the_next() -> None:
    replica = Replica(CHANNEL)
    replica.apply(Subscribed(1, CHANNEL, "v1.ep.1", items(gone=1), more=True))
    replica.broken()
    replica.apply(Subscribed(1, CHANNEL, "v1.ep.9", items(b=2)))
    assert replica.items == items(b=2)
    assert replica.cursor == "v1.ep.9"


# crowds --------------------------------------------------------------------------------------------------------------


class Connection(Pair):
    """A pair whose session a crowd can reach; takes so many sends, half of the next one, then none until it is read."""

    def __init__(
        self, hub: Hub, turn: list[Crowd[Any]], *, key: str | None = None, limit: int = session.MAX_PENDING
    ) -> None:
        super().__init__(key, limit=limit)
        self.hub = hub
        self.room = 1_000
        self.sends = 0
        self.session = Session(self._wake, limit=limit, way=Way("json", turn.append, self._send, self._rest))
        self._half = b""

    def _send(self, frames: bytes) -> int:
        assert self.room >= 0, "it was given more than it took"
        self.sends += 1
        self.room -= 1
        if self.room < 0:
            self._half = frames[: len(frames) // 2]
            if not self._half[1:]:
                raise BlockingIOError
            return len(self._half)
        self._hear(unframed(frames))
        return len(frames)

    def _rest(self, data: bytes) -> None:
        self._hear(unframed(self._half + data))

    def _hear(self, texts: Iterable[bytes]) -> None:
        for text in texts:
            message = protocol.decode_message(text, "json")
            self.replica.apply(message)
            self.seen.append(message)

    def flush(self) -> None:
        """As an outlet does at the end of a turn, where the connection takes something."""
        if self.room >= 0:
            self._hear(protocol.encode(message, "json") for message in self.session.take())
            self.session.settle()

    def drain(self) -> None:
        self.room = 1_000
        self.session.flow()
        self.flush()


def unframed(frames: bytes) -> Iterator[bytes]:
    while frames:
        head, size = 2, frames[1]
        if size == 126:
            head, size = 4, int.from_bytes(frames[2:4], "big")
        yield frames[head : head + size]
        frames = frames[head + size :]


class Crowded:
    """A hub, and connections that are all in its crowd."""

    def __init__(self, number: int = 2, *, mode: protocol.Mode = "latest", limit: int = session.MAX_PENDING) -> None:
        self.hub, self.turn = Hub(), list[Crowd[Any]]()
        self.connections = [Connection(self.hub, self.turn, limit=limit) for _ in range(number)]
        self.subscriptions = [each.join(mode=mode) for each in self.connections]
        for subscription in self.subscriptions:
            subscription.show(Cursor("ep", 0), {})
        self.over()
        self.deliver(event(1))
        self.over()
        for each in self.connections:
            each.seen.clear()
            each.sends = 0

    def deliver(self, *events: Placed) -> None:
        for each in events:
            self.hub.deliver(CHANNEL, each)

    def over(self) -> None:
        """The turn is."""
        while self.turn:
            self.turn.pop().flush()
        for each in self.connections:
            each.flush()


def test_a_crowd_is_sent_a_turn_at_once_and_its_sessions_are_handed_nothing() -> None:
    crowded = Crowded(3)
    woken = [each.woken for each in crowded.connections]
    crowded.deliver(event(2, "a", 2), event(3, "b", 3))
    assert [each.seen for each in crowded.connections] == [[], [], []]
    crowded.over()
    for each, subscription, before in zip(crowded.connections, crowded.subscriptions, woken, strict=True):
        assert (each.offsets(), each.sends, each.woken) == ([2, 3], 1, before)
        assert (each.values(), each.replica.cursor) == ({"7": 0, "a": 2, "b": 3}, "v1.ep.3")
        assert subscription.cursor == Cursor("ep", 3)


def test_events_of_other_keys_do_not_move_a_crowd_of_one_key() -> None:
    crowded = Crowded(1)
    one = Connection(crowded.hub, crowded.turn, key="a")
    subscription = one.join()
    subscription.show(Cursor("ep", 1), {})
    crowded.connections.append(one)
    for offset, key in ((2, "a"), (3, "a"), (4, "b")):
        crowded.deliver(event(offset, key))
        crowded.over()
    assert one.offsets() == [2, 3]
    assert subscription.cursor == Cursor("ep", 3)
    assert subscription.refresh(Cursor("ep", 4), "0004") == Cursor("ep", 4)


def test_more_than_a_turn_should_hold_is_sent_before_its_end() -> None:
    crowded = Crowded(1)
    crowded.deliver(*(event(offset, "a", "x" * 1000) for offset in range(2, 102)))
    assert crowded.connections[0].sends == 1
    crowded.over()
    assert crowded.connections[0].offsets() == list(range(2, 102))


@pytest.mark.parametrize("what", ["a pong", "a second subscription", "a reset", "an end"])
def test_whatever_else_comes_in_a_turn_comes_behind_its_events(what: str) -> None:
    crowded = Crowded()
    [each, other], [subscription, _] = crowded.connections, crowded.subscriptions
    crowded.deliver(event(2))
    if what == "a pong":
        each.session.send(protocol.Pong())
    elif what == "a second subscription":
        each.join(2, key="a").show(Cursor("ep", 2), {})
    elif what == "a reset":
        subscription.begin()
        subscription.reset(Cursor("new", 0), {}, "epoch")
    else:
        crowded.hub.remove(subscription)
    crowded.deliver(event(3, epoch="new" if what == "a reset" else "ep"))
    crowded.over()
    kinds = [type(message).__name__ for message in each.seen]
    between = {"a pong": ["Pong"], "a second subscription": ["Subscribed"], "a reset": ["Reset"], "an end": []}[what]
    after = [] if what in ("a reset", "an end") else ["Event"]
    assert kinds[: 1 + len(between) + len(after)] == ["Event", *between, *after]
    assert each.offsets() == ([2] if what == "an end" else [2, 3])
    assert other.offsets() == [2, 3]


def test_a_cursor_that_is_refreshed_in_a_turn_comes_behind_its_events() -> None:
    """Else a client that drops in between would have a cursor beyond an event that it was not sent."""
    crowded = Crowded(1)
    [each], [subscription] = crowded.connections, crowded.subscriptions
    crowded.deliver(event(2))
    subscription.refresh(Cursor("ep", 5), "0005")
    each.session.send(subscription.fresh())
    crowded.over()
    assert [type(message).__name__ for message in each.seen] == ["Event", "Fresh"]
    assert each.replica.cursor == "v1.ep.5"


def test_who_does_not_take_all_is_given_the_newest_of_each_key_when_it_does() -> None:
    crowded = Crowded()
    slow, quick = crowded.connections
    slow.room = 0
    for offset in range(2, 40):
        crowded.deliver(event(offset, "ab"[offset % 2], offset))
        crowded.over()
    assert quick.offsets() == list(range(2, 40))
    assert slow.offsets() == [2]
    assert slow.session.spared() == 35
    slow.drain()
    assert slow.offsets() == [2, 38, 39]
    crowded.deliver(event(40, "a"), event(41, "a"))
    crowded.over()
    assert slow.offsets() == [2, 38, 39, 40, 41]  # it has caught up: every event again
    assert slow.session.spared() == 0


def test_who_wants_all_and_does_not_take_it_has_to_come_back() -> None:
    crowded = Crowded(mode="all", limit=3_000)
    slow, quick = crowded.connections
    slow.room = 0
    for offset in range(2, 10):
        crowded.deliver(event(offset))
        crowded.over()
    assert not slow.session.overflown
    for offset in range(10, 100):
        crowded.deliver(event(offset))
        crowded.over()
    assert slow.session.overflown
    assert (slow.session.waiting, slow.offsets()) == (0, [2])
    assert quick.offsets() == list(range(2, 100))


def test_who_catches_up_in_the_middle_of_a_turn_is_told_nothing_twice() -> None:
    crowded = Crowded()
    slow, quick = crowded.connections
    slow.room = 0
    crowded.deliver(event(2))
    crowded.over()
    crowded.deliver(event(3))
    slow.drain()
    crowded.deliver(event(4))
    crowded.over()
    assert slow.offsets() == quick.offsets() == [2, 3, 4]
