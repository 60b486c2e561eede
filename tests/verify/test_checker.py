"""The checker sees what breaks a promise, and nothing else. A checker that cannot fail is a defect."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import UNSET, Raw

from realtime.protocol import Event, Fresh, Mode, Reset, Subscribed
from realtime.verify.checker import Observer, Polled, Violation
from realtime.verify.journal import Journal

CHANNEL = "redis/things"


class Pair:
    """A journal and one observer; `broken`: the invariants that it saw broken."""

    def __init__(self, mode: Mode = "all", key: str | None = None) -> None:
        self.violations: list[Violation] = []
        self.key = UNSET if key is None else key
        self.journal = Journal(lambda: 0.0, history=10)
        self.observer = Observer("tester", CHANNEL, key, mode, self.journal, self.violations.append)

    @property
    def broken(self) -> list[str]:
        return [violation.invariant for violation in self.violations]

    def wrote(self, key: str, *, exact: bool = True) -> int:
        number = self.journal.issue(CHANNEL, key, "put")
        self.journal.ack(CHANNEL, key, number, exact=exact)
        return number

    def deleted(self, key: str) -> int:
        number = self.journal.issue(CHANNEL, key, "delete")
        self.journal.ack(CHANNEL, key, number)
        return number

    def subscribed(self, cursor: str, **items: int) -> None:
        self.observer.asked("test")
        shown = {key: value(number) for key, number in items.items()}
        self.observer.hear(Subscribed(1, CHANNEL, cursor, shown, self.key))

    def resumed(self, cursor: str) -> None:
        self.observer.asked("test")
        self.observer.hear(Subscribed(1, CHANNEL, cursor, None, self.key))

    def refused(self, cursor: str, reason: str) -> None:
        self.observer.asked("test")
        self.observer.hear(Subscribed(1, CHANNEL, cursor, {}, self.key, reason=reason))

    def reset(self, cursor: str, **items: int) -> None:
        """Something has ended the history."""
        self.journal.strike((), ["redis"])
        shown = {key: value(number) for key, number in items.items()}
        self.observer.hear(Reset(CHANNEL, cursor, shown, "epoch", self.key))


def value(number: int) -> Raw:
    return Raw(msgspec.json.encode({"n": number}))


def put(key: str, number: int, cursor: str, version: str | None = None) -> Event:
    return Event(CHANNEL, key, "put", version or f"v{number:03}", 0.0, value(number), cursor)


def delete(key: str, cursor: str, version: str) -> Event:
    return Event(CHANNEL, key, "delete", version, 0.0, UNSET, cursor)


def test_a_right_history_breaks_nothing() -> None:
    pair = Pair()
    for _ in range(4):
        pair.wrote("a")
    pair.subscribed("v1.e.7.v002", a=2)
    pair.observer.hear(put("a", 3, "v1.e.9"))  # 8 was within the fence
    pair.observer.broken()
    pair.resumed("v1.e.9")
    pair.observer.hear(put("a", 4, "v1.e.10"))
    pair.deleted("a")
    pair.observer.hear(delete("a", "v1.e.11", "v005"))
    pair.wrote("a")
    pair.reset("v1.f.0", a=6)
    pair.observer.settle()
    assert pair.violations == []


@pytest.mark.parametrize(
    "cursor",
    ["v1.e.9", "v1.e.7", "v1.e.6", "v1.f.8"],
    ids=["a gap", "twice", "out of order", "another epoch without a reset"],
)
def test_i1_offsets(cursor: str) -> None:
    pair = Pair()
    pair.subscribed("v1.e.7")
    pair.observer.hear(put("a", 1, cursor))
    assert pair.broken == ["I1"]


@pytest.mark.parametrize("cursor", ["v1.e.6", "v1.e.9", "v1.f.7"])
def test_i1_a_cursor_out_of_place(cursor: str) -> None:
    pair = Pair()
    pair.subscribed("v1.e.7")
    pair.observer.hear(Fresh(CHANNEL, cursor))
    assert pair.broken == ["I1"]


def test_i1_an_event_before_the_answer() -> None:
    pair = Pair()
    pair.observer.asked("test")
    pair.observer.hear(put("a", 1, "v1.e.1"))
    assert pair.broken == ["I1"]


@pytest.mark.parametrize(("mode", "key"), [("latest", None), ("all", "a")])
def test_i1_a_slow_client_and_one_of_a_single_key_may_skip(mode: Mode, key: str | None) -> None:
    pair = Pair(mode, key)
    pair.subscribed("v1.e.7")
    pair.observer.hear(put("a", 1, "v1.e.9"))
    assert pair.broken == []


def test_i2_an_older_value_in_an_event() -> None:
    pair = Pair()
    pair.subscribed("v1.e.7", a=2)
    pair.observer.hear(put("a", 1, "v1.e.8"))
    assert pair.broken == ["I2"]
    assert pair.violations[0].history[0].endswith("-- asks test from None")


def test_i2_an_older_value_in_a_snapshot() -> None:
    pair = Pair()
    pair.subscribed("v1.e.7", a=2)
    pair.reset("v1.f.0", a=1)
    assert pair.broken == ["I2"]


def test_i2_an_older_version() -> None:
    pair = Pair()
    pair.subscribed("v1.e.7")
    pair.observer.hear(put("a", 1, "v1.e.8", "v2"))
    pair.observer.hear(put("a", 2, "v1.e.9", "v1"))
    assert pair.broken == ["I2"]


@pytest.mark.parametrize("in_a_snapshot", [True, False])
def test_i2_gone_though_nobody_deleted_it(in_a_snapshot: bool) -> None:
    pair = Pair()
    pair.wrote("a")
    pair.subscribed("v1.e.7", a=1)
    if in_a_snapshot:
        pair.reset("v1.f.0")
    else:
        pair.observer.hear(delete("a", "v1.e.8", "v2"))
    assert pair.broken == ["I2"]


def test_i2_a_deleted_value_comes_back() -> None:
    pair = Pair()
    pair.wrote("a")
    pair.deleted("a")
    pair.subscribed("v1.e.7", a=1)
    pair.observer.hear(delete("a", "v1.e.8", "v2"))
    pair.reset("v1.f.0", a=1)
    assert pair.broken == ["I2"]


def test_i3_resumed_from_another_place() -> None:
    pair = Pair()
    pair.subscribed("v1.e.7")
    pair.resumed("v1.e.9")
    assert pair.broken == ["I3"]


def test_i3_items_in_place_of_history_without_a_reason() -> None:
    pair = Pair()
    pair.subscribed("v1.e.7")
    pair.subscribed("v1.e.9")
    assert pair.broken == ["I3"]


@pytest.mark.parametrize(
    ("reason", "missed", "broken"),
    [("epoch", 0, ["I3"]), ("trimmed", 9, ["I3"]), ("trimmed", 10, [])],
)
def test_i3_refused_though_the_history_has_it(reason: str, missed: int, broken: list[str]) -> None:
    pair = Pair()
    pair.subscribed("v1.e.7")
    pair.refused(f"v1.e.{7 + missed}", reason)
    assert pair.broken == broken


def test_i3_another_epoch_is_no_long_way() -> None:
    pair = Pair()
    pair.subscribed("v1.e.7")
    pair.refused("v1.f.99", "trimmed")
    assert pair.broken == ["I3"]


def test_i5_reset_though_nothing_has_ended_the_history() -> None:
    pair = Pair()
    pair.subscribed("v1.e.7")
    pair.journal.strike((), ["postgres"])
    pair.observer.hear(Reset(CHANNEL, "v1.f.0", {}, "epoch", more=True))
    pair.observer.hear(Reset(CHANNEL, "v1.f.0", {}, "epoch"))
    assert pair.broken == ["I5"]
    assert "the history of redis" in pair.violations[0].text


def test_a_fault_may_end_a_history_until_the_next_one_strikes() -> None:
    pair = Pair()
    pair.subscribed("v1.e.7")
    pair.journal.strike((), ["redis"])
    pair.refused("v1.f.3", "epoch")
    pair.reset("v1.g.0")
    assert pair.broken == []
    pair.journal.settle()
    pair.refused("v1.h.0", "epoch")
    assert pair.broken == []
    pair.journal.strike((), ["postgres"])
    pair.refused("v1.i.0", "epoch")
    assert pair.broken == ["I3"]


def test_i3_a_poll_that_skips() -> None:
    pair = Pair()
    pair.subscribed("v1.e.7")
    pair.observer.asked("poll")
    pair.observer.polled(Polled("v1.e.9", None, [put("a", 1, "v1.e.9")]))
    assert pair.broken == ["I1"]


def test_polls_have_their_items_first() -> None:
    pair = Pair()
    pair.observer.asked("poll")
    pair.observer.polled(Polled("v1.e.9", {"a": value(1)}, [put("a", 2, "v1.e.9")]))
    pair.observer.asked("poll")
    pair.observer.polled(Polled("v1.e.10", None, [put("a", 3, "v1.e.10")]))
    assert pair.broken == []
    assert (pair.observer.cursor, pair.observer.replica.items) == ("v1.e.10", {"a": value(3)})


def test_i5_an_acknowledged_write_that_was_never_told() -> None:
    pair = Pair()
    pair.subscribed("v1.e.7")
    pair.wrote("a")
    pair.wrote("a")
    pair.observer.hear(put("a", 2, "v1.e.8"))
    pair.observer.settle()
    assert pair.broken == ["I5"]
    assert "a as of 1" in pair.violations[0].text


def test_i5_a_delete_behind_a_snapshot_from_before_the_put() -> None:
    """Without the put in it, the snapshot cannot have told of the delete."""
    pair = Pair()
    pair.wrote("a")
    pair.deleted("a")
    pair.subscribed("v1.e.7")
    pair.observer.hear(put("a", 1, "v1.e.8"))
    pair.observer.settle()
    assert pair.broken == ["I5"]
    assert "a as of 2" in pair.violations[0].text


@pytest.mark.parametrize("how", ["a snapshot", "not exact", "forgiven", "another key"])
def test_i5_what_need_not_be_told(how: str) -> None:
    pair = Pair(key="a")
    pair.subscribed("v1.e.7")
    pair.wrote("b" if how == "another key" else "a", exact=how != "not exact")
    if how == "a snapshot":
        pair.reset("v1.f.0", a=1)
    if how == "forgiven":
        pair.journal.strike(["redis"], ())
    pair.observer.settle()
    assert pair.broken == []


def test_a_store_that_lost_data_is_forgiven_until_all_is_settled() -> None:
    pair = Pair()
    pair.subscribed("v1.e.7")
    pair.observer.hear(put("a", 5, "v1.e.8", "z"))
    pair.journal.strike(["redis"], ())
    pair.reset("v1.f.0", a=3)
    assert pair.broken == []
    pair.observer.settle()
    pair.journal.settle()
    pair.observer.hear(put("a", 4, "v1.f.1", "another line of versions"))
    assert pair.broken == []
    pair.observer.hear(put("a", 2, "v1.f.2", "at its next"))
    assert pair.broken == ["I2"]


def test_keys_that_no_writer_told_of_may_go() -> None:
    pair = Pair()
    pair.subscribed("v1.e.7", stranger=5)
    pair.observer.hear(delete("stranger", "v1.e.8", "v6"))
    pair.observer.hear(put("stranger", 1, "v1.e.9", "v7"))
    assert pair.broken == []


def test_a_snapshot_without_a_key_may_be_from_before_its_first_write() -> None:
    pair = Pair()
    pair.wrote("a")
    pair.deleted("a")
    pair.subscribed("v1.e.7")
    pair.observer.hear(put("a", 1, "v1.e.8"))
    pair.observer.hear(delete("a", "v1.e.9", "v2"))
    assert pair.broken == []


def test_a_delete_in_doubt_may_be_made_later() -> None:
    pair = Pair()
    pair.wrote("a")
    pair.subscribed("v1.e.7", a=1)
    pair.journal.issue(CHANNEL, "a", "delete")
    pair.observer.settle()
    pair.journal.settle()
    pair.observer.hear(delete("a", "v1.e.8", "v2"))
    assert pair.broken == []


def test_a_key_that_was_given_up_is_observed_where_it_goes_on() -> None:
    pair = Pair(key="a")
    pair.subscribed("v1.e.7", a=1)
    pair.journal.give_up(CHANNEL, "a", "a.1")
    pair.journal.give_up(CHANNEL, "a.1", "a.2")
    assert [pair.journal.current(CHANNEL, key) for key in ("a", "a.1", "a.2", "b")] == ["a.2", "a.2", "a.2", "b"]
    other = pair.observer.of("a.2")
    assert (other.name, other.key, other.cursor, other.counts["snapshot"]) == ("tester", "a.2", None, 1)
