"""Whether a file is another one than before: by its time, its size, and which file it is."""

from __future__ import annotations

import os

Stamp = tuple[int, int, int]


def stamp(path: str) -> Stamp | None:
    """None where there is none, or none that we may look at."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
