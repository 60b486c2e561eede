"""Each fault of Postgres and of its tables on a real cluster: it does what it says, and all is right behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random

import pytest
import pytest_asyncio

from realtime.verify.faults import FAULTS, postgres, tables
from realtime.verify.faults.postgres import connected
from realtime.verify.stage import Stage

from .struck import staged, struck, well, written
from .watching import watching

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.expects_logs, pytest.mark.long]

NAMES = [fault.name for fault in (*postgres.FAULTS, *tables.FAULTS)]
DOWN = {"postgres-stop", "postgres-kill"}
RESETS = {"slot-dropped", "slot-lost", "timeline", "truncate", "add-column"}  # of what the log does not tell

# What SQL can tell before the fault and while it is on, and what that must be then.
SLOT = "FROM pg_replication_slots WHERE slot_name = 'realtime_realtime'"
OWN = "FROM {table} WHERE starts_with(key, 'f-')"
OPEN = "SELECT count(DISTINCT datname) FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND state LIKE 'idle%'"
BULK = "SELECT pg_relation_size(to_regclass('{table}_bulk')) > 1000000"
EFFECTS: dict[str, tuple[str, object, object]] = {
    "slot-lost": (f"SELECT wal_status {SLOT}", "reserved", "lost"),
    "copy": (f"SELECT count(*) {OWN}", 0, 500),
    "truncate": ("SELECT count(*) FROM {table} WHERE key = 'well'", 1, 0),
    "toast": (f"SELECT max(n) {OWN} AND pg_column_compression(pad) IS NULL AND length(pad) = 20000", None, 31),
    "key-change": (f"SELECT max(n) {OWN} AND right(key, 2) = '-0'", None, 31),
    "add-column": (
        "SELECT count(*) FROM information_schema.columns WHERE (table_name, column_name) = ('{table}', 'extra')",
        0,
        1,
    ),
    "long-transaction": (OPEN, 0, 2),
    "commit-orders": (f"SELECT sum(n) {OWN}", None, 62),
    "bulk-update": (BULK, None, True),
    "million": (BULK, None, True),
}

# What must be so behind every fault.
RESTORED = f"""
SELECT NOT pg_is_in_recovery() AND current_setting('max_slot_wal_keep_size') = '2GB' AND NOT EXISTS (SELECT {OWN})
   AND to_regclass('{{table}}_bulk') IS NULL AND (SELECT relnatts - 4 FROM pg_class WHERE relname = '{{table}}')
     = (SELECT count(*) FROM pg_attribute WHERE attrelid = '{{table}}'::regclass AND attisdropped)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with staged(2) as opened:
        await well(opened)
        yield opened


async def ask(stage: Stage, query: str) -> object:
    async with connected(stage) as sql:
        return await sql.fetchval(query.replace("{table}", stage.collection))


@pytest.mark.parametrize("name", NAMES)
async def test_a_fault_does_what_it_says_and_all_is_right_behind_it(
    stage: Stage, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "HUGE", 50_000)
    query, before, meanwhile = EFFECTS.get(name, ("SELECT 1", 1, 1))
    async with watching(stage, "postgres") as client:
        assert await ask(stage, query) == before
        async with written(stage), struck(name, stage):
            if name in DOWN:
                with pytest.raises((FileNotFoundError, ConnectionError)):
                    await ask(stage, query)
            else:
                assert await ask(stage, query) == meanwhile
        await client.agrees()
        assert client.violations == []
        assert (client.resets > 0) is (name in RESETS)
    assert await ask(stage, RESTORED)


async def test_another_timeline_is_one_more(stage: Stage) -> None:
    query = "SELECT timeline_id FROM pg_control_checkpoint()"
    before = await ask(stage, query)
    assert isinstance(before, int)
    async with struck("timeline", stage):
        assert await ask(stage, query) == before + 1


async def test_a_killed_walsender_is_another_afterwards(stage: Stage) -> None:
    query = f"SELECT active_pid {SLOT}"
    before = await ask(stage, query)
    async with struck("walsender-killed", stage):
        assert await ask(stage, query) != before


async def test_who_begins_first_is_heard_last(stage: Stage) -> None:
    async with watching(stage, "postgres") as client, struck("commit-orders", stage):
        await client.agrees()
    said = [line for line in client.observer.history if "as of 31" in line]
    assert ["first" in line for line in said] == [False, True]


@pytest.mark.parametrize("name", ["postgres-stop", "slot-lost", "add-column", "long-transaction", "bulk-update"])
async def test_all_is_restored_behind_an_error(stage: Stage, name: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with FAULTS[name].strike(stage, Random(1)):
            raise ZeroDivisionError
    await well(stage)
    assert await ask(stage, RESTORED)
