"""What every test may ask for: real servers, one of each for the whole session; a test has its own database in them."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from realtime import embedded


@pytest.fixture(scope="session")
def servers() -> Iterator[embedded.Embedded]:
    """`servers.urls`: postgres, redis, mongo."""
    # not in a directory of pytest's, which PostgreSQL could not enter where the tests run as root
    data = Path(tempfile.mkdtemp(prefix="realtime-"))
    try:
        started = asyncio.run(embedded.start(data, ("postgres", "redis", "mongo")))
        yield started
        asyncio.run(started.close())
    finally:
        shutil.rmtree(data)
