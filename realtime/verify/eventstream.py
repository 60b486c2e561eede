"""Server-sent events out of bytes as they come, read as a browser reads them (WHATWG HTML, 9.2.6).

Pure. Not for our frames only: by the rules a line may end in three ways, and what is known of the cursor is the last
`id` that was seen, whichever event had it.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from typing import NamedTuple


class Sent(NamedTuple):
    """One event; `id` is what `Last-Event-ID` would be after it."""

    name: str
    data: str
    id: str


class EventStream:
    def __init__(self, last_id: str = "") -> None:
        decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
        self._rest = ""  # a line that is not complete
        self._name, self._id = "", last_id
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[Sent]:
        *lines, self._rest = (self._rest + self._decoder.decode(chunk)).split("\n")
        for line in lines:
            if line:
                self._take(line)
            elif (sent := self._dispatch()) is not None:
                yield sent

    def _take(self, line: str) -> None:
        """A field; a comment is one without a name, and unknown ones are ignored."""
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        elif field == "id" and "\0" not in value:
            self._id = value

    def _dispatch(self) -> Sent | None:
        """A blank line: an event, if there was data."""
        name, data = self._name or "message", self._data
        self._name, self._data = "", []
        return Sent(name, "\n".join(data), self._id) if data else None
