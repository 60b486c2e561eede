"""What every test may ask for: real servers, one of each for the whole session; a test has its own database in them."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from realtime import embedded


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that two workers end at about the same time."""
    items.sort(key=lambda item: "verify" not in item.path.parts)


@pytest.fixture(autouse=True)
def no_unexpected_logs(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What says WARNING or worse without having been asked for fails the test."""
    yield
    if request.node.get_closest_marker("expects_logs") is None:
        said = [record for when in ("setup", "call") for record in caplog.get_records(when)]
        loud = [f"{each.name}: {each.getMessage()}" for each in said if each.levelno >= logging.WARNING]
        assert loud == []


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
