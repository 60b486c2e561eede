"""Signs of life on WebSockets: pings that have to be answered, and cursors of what was quiet."""

from __future__ import annotations

import pytest

from realtime.app import Service
from realtime.handlers.heart import HEARTBEAT, Heart
from realtime.handlers.outlet import Outlet
from tests.handlers.test_live import ask, hear, put, socket
from tests.wait import until

pytestmark = pytest.mark.gen_test


def outlet_of(service: Service) -> Outlet:
    [outlet] = service.door._open
    assert isinstance(outlet, Outlet)
    return outlet


async def test_who_answers_stays_and_who_does_not_is_told_to_come_back(service: Service, base_url: str) -> None:
    async with socket(base_url) as connection:
        await hear(connection)
        outlet = outlet_of(service)
        for _ in range(3):
            outlet.beat()
            assert not outlet.answered
            await until(lambda: outlet.answered)
        connection.transport.pause_reading()
        outlet.beat()
        outlet.beat()
        connection.transport.resume_reading()
        await connection.wait_closed()
        assert connection.close_code == 4008
    outlet.beat()  # as when it is its turn while it goes


async def test_a_quiet_selection_is_told_a_newer_cursor(service: Service, base_url: str) -> None:
    async with socket(base_url) as connection:
        await hear(connection)
        await ask(connection, type="subscribe", id=1, channel="memory/rooms", key="attic")
        await hear(connection)
        await put(service, "cellar", 1)
        await until(lambda: service.metrics.events.labels("memory", "put")._value.get() == 1)
        outlet_of(service).beat()
        fresh = await hear(connection)
        assert (fresh["type"], fresh["key"]) == ("cursor", "attic")
        await put(service, "attic", 2)
        assert (await hear(connection))["value"] == 2


class Beaten:
    def __init__(self) -> None:
        self.beats = 0

    def beat(self) -> None:
        self.beats += 1


async def test_in_a_heartbeat_each_is_beaten_once_and_few_at_a_time() -> None:
    heart, beaten = Heart(), [Beaten() for _ in range(3 * HEARTBEAT)]
    for each in beaten:
        heart.add(each)
    gone = beaten.pop()
    heart.remove(gone)
    for step in range(1, HEARTBEAT + 1):
        await heart._beat()
        assert sum(each.beats for each in beaten) <= 3 * step
    assert [each.beats for each in beaten] == [1] * len(beaten)
    assert gone.beats == 0
