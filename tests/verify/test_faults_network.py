"""Each fault of a link strikes: what passes is nothing, half or late; and lifts: all nodes are well again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from random import Random

import pytest
import pytest_asyncio

from realtime.verify.faults import FAULTS, network
from realtime.verify.process import NodeProcess
from realtime.verify.proxy import Proxy
from realtime.verify.stage import Stage
from tests.verify.struck import STORES, answers, put, staged, struck, until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.expects_logs, pytest.mark.long]

SILENT = ["redis-blackhole", "redis-deaf", "redis-mute", "postgres-blackhole", "mongo-blackhole", "partition"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with staged(2) as stage:
        yield stage


def struck_nodes(stage: Stage) -> list[NodeProcess]:
    return [node for node in stage.nodes if any(link.mode != "ok" for link in node.links.values())]


@pytest.mark.parametrize("name", SILENT)
async def test_a_node_behind_a_silent_link_is_not_ready(stage: Stage, name: str) -> None:
    async with struck(name, stage):

        async def unready() -> bool:
            return not any([await answers(node, "/readyz", 5) for node in struck_nodes(stage)])

        assert struck_nodes(stage)
        await until(unready)
        assert all([await answers(node) for node in stage.nodes])
    assert not struck_nodes(stage)


@pytest.mark.parametrize("store", STORES)
async def test_connections_are_reset(stage: Stage, store: str) -> None:
    ends = [await connected(node.links[store]) for node in stage.nodes]
    async with struck(f"{store}-reset", stage):
        done, waiting = await asyncio.wait(ends, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        assert done
    for end in waiting:
        end.cancel()


async def connected(link: Proxy) -> asyncio.Task[None]:
    """Over when a connection through this link is, which is one of many."""
    before = link.connections
    if link.path is not None:
        reader, writer = await asyncio.open_unix_connection(link.path)
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)

    async def accepted() -> bool:
        return link.connections > before

    await until(accepted)
    return asyncio.create_task(end_of(reader, writer))


async def end_of(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with closing(writer), suppress(ConnectionResetError):
        await reader.read()


async def test_a_write_through_a_slow_link_takes_its_time(stage: Stage) -> None:
    async with struck("redis-slow", stage):
        (node, *_), began = struck_nodes(stage), time.monotonic()
        assert await put(node, f"redis/{stage.collection}", "slow", 1)
        assert time.monotonic() - began > network.DELAY


async def test_it_strikes_one_node_or_all(stage: Stage) -> None:
    counts = set()
    for seed in range(10):
        async with FAULTS["redis-slow"].strike(stage, Random(seed)):
            counts.add(len(struck_nodes(stage)))
    assert counts == {1, len(stage.nodes)}


async def test_an_error_lifts_it_too(stage: Stage) -> None:
    with pytest.raises(ZeroDivisionError):
        async with struck("partition", stage):
            raise ZeroDivisionError
    assert not struck_nodes(stage)
