"""What the promises mean, as a check: writers say what they wrote, clients what they heard; neither knows the other.

Every written value has a number that only grows for its key, and a key has one writer. So a client that is told a
smaller number was told the past; one that is never told an acknowledged number, nor shown a snapshot with that or a
later one, missed a write. Offsets, versions and cursors are checked for what the protocol says of them.

I1 offsets are contiguous within an epoch; I2 no value or version of a key is older than one before it; I3 a resume is
answered from exactly the cursor that was asked for; I5 what was acknowledged is seen. A snapshot in place of history
would hide all of this: it breaks I3 or I5 where no fault has ended that history. (I4, the final value, and I6, memory,
are for those who see stores and processes: run.py.)
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, field

from ..protocol import Cursor, Event, Fresh, Mode, Reset, ServerMessage, Subscribed, split_channel
from ..replica import Replica
from .journal import Journal

LINES = 40  # of what a client heard last, shown with a violation


class Violation(Struct):
    """A broken promise, and what its client heard before."""

    invariant: str
    text: str
    client: str = ""
    channel: str = ""
    history: list[str] = field(default_factory=list)


Report = Callable[[Violation], None]


class Polled(Struct):
    """A long-poll's answer for one selection."""

    cursor: str
    items: dict[str, Raw] | None
    events: list[Event]
    reason: str = ""


class Observer:
    """One client's view of one selection, over all of its connections."""

    def __init__(self, name: str, channel: str, key: str | None, mode: Mode, journal: Journal, report: Report) -> None:
        self.name, self.channel, self.key, self.mode = name, channel, key, mode
        self.replica = Replica(channel, key)
        self.counts: Counter[str] = Counter()  # event, snapshot, resume, reset, refused
        self._store, _ = split_channel(channel)
        self._journal, self._report = journal, report
        self._asked: str | None = None
        self._place: Cursor | None = None  # on this connection; None: not answered yet
        self._versions: dict[str, str] = {}  # by key, the newest heard
        self._floors: dict[str, int] = {}  # by key, the number below which nothing may be heard
        self._there: set[str] = set()  # keys that it was told to be there
        self._seen: set[tuple[str, int]] = set()
        self._covered: dict[str, int] = {}  # by key: up to this number a snapshot has told
        self._history: deque[str] = deque(maxlen=LINES)

    @property
    def cursor(self) -> str | None:
        return self.replica.cursor

    def of(self, key: str) -> Observer:
        """One that begins with another key in the place of this one's, and counts on."""
        other = Observer(self.name, self.channel, key, self.mode, self._journal, self._report)
        other.counts = self.counts
        return other

    # what a connection tells ----------------------------------------------------------------------------------------

    def asked(self, how: str) -> None:
        """A subscribe with `cursor` goes out; `how`: transport and node, for the history."""
        self._asked, self._place = self.cursor, None
        self._note(f"-- asks {how} from {self._asked}")

    def broken(self) -> None:
        self.replica.broken()
        self._note("-- gone")

    def hear(self, message: ServerMessage) -> None:
        """Any message of a connection; those of other selections change nothing."""
        match message:
            case Event() if self.wants(message):
                self._event(message)
            case Subscribed() if self._mine(message):
                self._answered(message)
            case Reset() if self._mine(message):
                self._reset(message)
            case Fresh() if self._mine(message):
                self._fresh(message.cursor)

    def wants(self, event: Event) -> bool:
        return event.channel == self.channel and self.key in (None, event.key)

    def polled(self, answer: Polled) -> None:
        """An answer has its items first; their own place is not told, only that of the whole."""
        shown = Subscribed(0, self.channel, answer.cursor, answer.items, self._selector, reason=answer.reason)
        if answer.items is None:
            shown.cursor = self._asked or ""
        self.hear(shown)
        if answer.items is not None:
            self._place = None
        for event in answer.events:
            if self._place is None:
                self._place = _just_before(event)
            self.hear(event)
        self._place = self._place or Cursor.parse(answer.cursor)
        self.hear(Fresh(self.channel, answer.cursor, self._selector))
        self._asked = answer.cursor

    def blame(self, invariant: str, text: str) -> None:
        self._note(f"!! {invariant} {text}")
        self._report(Violation(invariant, text, self.name, self.channel, self.history))

    @property
    def history(self) -> list[str]:
        """What it heard last, with the seconds."""
        return list(self._history)

    @property
    def _selector(self) -> Any:
        return UNSET if self.key is None else self.key

    def _mine(self, message: Subscribed | Reset | Fresh) -> bool:
        return message.channel == self.channel and message.key == self._selector

    # checking ---------------------------------------------------------------------------------------------------------

    def _answered(self, message: Subscribed) -> None:
        if message.items is None:
            self._note(f"resumed {message.cursor}")
            self.counts["resume"] += 1
            if message.cursor != self._asked:
                self.blame("I3", f"asked to resume from {self._asked}, answered from {message.cursor}")
            self.replica.apply(message)
            self._place = Cursor.parse(message.cursor)
            return
        self._note(f"subscribed {message.cursor} {len(message.items)} items {message.reason}".rstrip())
        self.counts["refused" if self._asked else "snapshot"] += not message.more
        if self._asked and not self._may_refuse(self._asked, message):
            self.blame("I3", f"asked to resume from {self._asked}, was given items ({message.reason or 'no reason'})")
        self._shown(message)

    def _may_refuse(self, asked: str, message: Subscribed) -> bool:
        """A fault may end a history; and it is owed to nobody who was away for longer than it is kept."""
        before, now = Cursor.parse(asked), Cursor.parse(message.cursor)
        missed = now.offset - before.offset if now.epoch == before.epoch else 0
        trimmed = message.reason == "trimmed" and missed >= self._journal.history
        return bool(message.reason) and (self._store in self._journal.excused or trimmed)

    def _reset(self, message: Reset) -> None:
        self._note(f"reset ({message.reason}) {message.cursor} {len(message.items)} items")
        self.counts["reset"] += not message.more
        if not message.more and self._store not in self._journal.excused:
            self.blame("I5", f"was reset ({message.reason}), and nothing has ended the history of {self._store}")
        self._shown(message)

    def _shown(self, message: Subscribed | Reset) -> None:
        self.replica.apply(message)
        if message.more:
            return
        self._place = Cursor.parse(message.cursor)
        for key, value in self.replica.items.items():
            if (number := number_of(value)) is not None:
                self._reached(key, number, f"a snapshot shows {key} as of {number}")
                self._covered[key] = max(number, self._covered.get(key, 0))
        for key in self._there - self.replica.items.keys():
            self._gone(key, f"a snapshot shows no {key}")
        for key in self._journal.keys(self.channel):
            if key not in self.replica.items:  # or it shows the time before a put that is told later: see _event
                self._covered[key] = max(self._covered.get(key, 0), self._journal.last_delete(self.channel, key))

    def _event(self, event: Event) -> None:
        place = Cursor.parse(event.cursor)
        number = number_of(event.value) if isinstance(event.value, Raw) else None
        said = f"{event.op} {event.key}" + (f" as of {number}" if number is not None else "")
        self._note(f"{said} {event.cursor} version {event.version}")
        self.counts["event"] += 1
        self._check_place(place, said)
        self._place = place
        if event.version <= self._versions.get(event.key, "") and not self._forgiven:
            self.blame("I2", f"{said}: version {event.version} after {self._versions[event.key]}")
        self._versions[event.key] = event.version
        if event.op == "delete":
            self._gone(event.key, said)
        elif number is not None:
            self._covered[event.key] = min(number, self._covered.get(event.key, 0))
            self._reached(event.key, number, said)
        self.replica.apply(event)

    def _check_place(self, place: Cursor, said: str) -> None:
        before = self._place
        if before is None:
            self.blame("I1", f"{said} at {place} before the subscription was answered")
        elif before.epoch != place.epoch:
            self.blame("I1", f"{said} at {place} after {before}: another epoch without a reset")
        elif place.offset <= before.offset:
            self.blame("I1", f"{said} at offset {place.offset} after {before.offset}: not in order, or twice")
        elif place.offset != before.offset + 1 and not self._may_skip(before):
            self.blame("I1", f"{said} at offset {place.offset} after {before.offset}: a gap")

    def _may_skip(self, before: Cursor) -> bool:
        """Others' keys; what a snapshot was ahead by; what a slow client is spared."""
        return self.key is not None or bool(before.fence) or self.mode == "latest"

    def _fresh(self, text: str) -> None:
        self._note(f"cursor {text}")
        cursor, before = Cursor.parse(text), self._place
        if before is not None and (cursor.epoch != before.epoch or cursor.offset < before.offset):
            self.blame("I1", f"the cursor {text} is not one to follow {before}")
        elif before is not None and cursor.offset > before.offset and not self._may_skip(before):
            self.blame("I1", f"the cursor {text} skips what is after {before}")
        self._place = cursor
        self.replica.apply(Fresh(self.channel, text, self._selector))

    def _reached(self, key: str, number: int, said: str) -> None:
        """A value with its number."""
        floor = self._floors.get(key, 0)
        if number < floor and not self._forgiven:
            self.blame("I2", f"{said}, which was as of {floor} before")
        self._floors[key] = number
        self._seen.add((key, number))
        self._there.add(key)

    def _gone(self, key: str, said: str) -> None:
        """Keys that no writer told of may come and go."""
        floor, was_there = self._floors.get(key, 0), key in self._there
        self._there.discard(key)
        number = self._journal.deleted_after(self.channel, key, floor)
        if not self._journal.knows(self.channel, key):
            self._floors.pop(key, None)
        elif number is not None:
            self._floors[key] = number
            self._seen.add((key, number))
        elif was_there and not self._forgiven:
            self.blame("I2", f"{said}, which was there as of {floor}, and which nobody deleted since")

    @property
    def _forgiven(self) -> bool:
        return self._store in self._journal.forgiven

    # settling ---------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Writes have stopped and the items are right: has everything been told that should have been?"""
        if not self._forgiven and self.mode == "all":
            missed = [f"{key} as of {number}" for key, number in self._missed()]
            if missed:
                self.blame("I5", f"{len(missed)} acknowledged writes were never told: {', '.join(missed[:5])}")
        if self._forgiven:
            self._versions.clear()  # the store may give them out anew
        self._seen.clear()
        self._covered.clear()
        for key in self._floors.keys() | self.replica.items.keys():
            value = self.replica.items.get(key)
            number = None if value is None else number_of(value)
            self._floors[key] = self._journal.last(self.channel, key) if number is None else number

    def _missed(self) -> Iterator[tuple[str, int]]:
        for key, number in self._journal.acked(self.channel):
            told = (key, number) in self._seen or number <= self._covered.get(key, 0)
            if not told and self.key in (None, key):
                yield key, number

    def _note(self, text: str) -> None:
        self._history.append(f"{self._journal.now():9.3f} {text}")


def number_of(value: Raw) -> int | None:
    """The number that a writer gave it."""
    decoded: Any = msgspec.json.decode(value)
    number = decoded.get("n") if isinstance(decoded, dict) else None
    return number if isinstance(number, int) else None


def _just_before(event: Event) -> Cursor:
    place = Cursor.parse(event.cursor)
    return Cursor(place.epoch, place.offset - 1)
