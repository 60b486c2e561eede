"""Each fault of a node strikes: it is dead, deaf or wrong; and lifts: all nodes are well again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime

import pytest
import pytest_asyncio
from tornado.httpclient import AsyncHTTPClient

from realtime.verify.faults import nodes
from realtime.verify.process import NodeProcess
from realtime.verify.stage import FEEDS, Stage
from tests.verify.struck import answers, staged, struck, until, written

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.expects_logs, pytest.mark.long]

DEATHS = ["die-after-commit", "die-before-append", "die-after-append", "die-in-transaction"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with staged(3) as stage:
        yield stage


async def holders(stage: Stage) -> dict[str, NodeProcess | None]:
    return {store: await stage.holder(store) for store in FEEDS}


async def taken_from(node: NodeProcess, stage: Stage) -> None:
    """Wait until every feed has a holder, and none of them is this node."""

    async def taken() -> bool:
        return not {node, None} & {*(await holders(stage)).values()}

    await until(taken)


def dead(stage: Stage) -> NodeProcess:
    (node,) = (node for node in stage.nodes if not node.up)
    return node


def frozen(stage: Stage) -> NodeProcess:
    (node,) = (node for node in stage.nodes if node.frozen)
    return node


async def test_a_killed_node_is_started_again(stage: Stage) -> None:
    async with struck("node-kill", stage):
        node, pid = dead(stage), dead(stage).pid
        assert not await answers(node)
    assert node.pid != pid


async def test_of_a_killed_holder_another_takes_the_feeds(stage: Stage) -> None:
    before = await holders(stage)
    async with struck("holder-kill", stage):
        assert dead(stage) in before.values()
        await taken_from(dead(stage), stage)


@pytest.mark.parametrize("name", DEATHS)
async def test_a_node_dies_at_a_step(stage: Stage, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "FIRES", None)  # so that it is not killed by anybody else
    async with asyncio.timeout(60), written(stage), struck(name, stage):
        assert f"failpoint: die {name.removeprefix('die-')}" in dead(stage).log.read_text()


async def test_one_that_never_comes_to_that_step_is_killed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "FIRES", 0.1)
    async with struck("die-before-append", stage):
        assert not await answers(dead(stage))


async def test_of_a_frozen_holder_another_takes_the_feeds(stage: Stage) -> None:
    before = await holders(stage)
    async with struck("holder-frozen", stage):
        assert frozen(stage) in before.values()
        assert not await answers(frozen(stage))
        await taken_from(frozen(stage), stage)


async def test_a_frozen_standby_holds_nothing(stage: Stage) -> None:
    before = await holders(stage)
    async with struck("node-frozen", stage):
        assert not await answers(frozen(stage))
        assert frozen(stage) not in before.values() or len({*before.values()}) == len(stage.nodes)


async def test_another_takes_the_feed_while_its_holder_still_talks(stage: Stage) -> None:
    before = await holders(stage)
    async with written(stage), struck("two-holders", stage):
        (node,) = (node for node in stage.nodes if node.links["redis"].mode == "slow")
        assert node in before.values()
        await taken_from(node, stage)
        assert await answers(node)


async def test_every_node_is_restarted(stage: Stage) -> None:
    before = [node.pid for node in stage.nodes]
    async with struck("rolling-restart", stage):
        assert dead(stage) is stage.nodes[-1]
    assert not {*before} & {node.pid for node in stage.nodes}


async def test_all_nodes_are_killed(stage: Stage) -> None:
    async with struck("all-nodes-kill", stage):
        assert stage.addresses() == []


async def test_a_stalled_node_does_not_answer(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "STALL", 2.0)
    async with struck("event-loop-stall", stage):

        async def one_is_mute() -> bool:
            return [await answers(node) for node in stage.nodes].count(False) == 1

        await until(one_is_mute)


async def test_clocks_are_wrong_and_right_again(stage: Stage) -> None:
    async with struck("clock-jump", stage):

        async def jumped() -> bool:
            return sorted([await hours_off(node) for node in stage.nodes]) == [-1, 0, 1]

        await until(jumped)

    async def right() -> bool:
        return [await hours_off(node) for node in stage.nodes] == [0, 0, 0]

    await until(right)


async def hours_off(node: NodeProcess) -> int:
    answer = await AsyncHTTPClient().fetch(f"{node.address}/healthz")
    return round((parsedate_to_datetime(answer.headers["Date"]).timestamp() - time.time()) / 3600)


@pytest.mark.parametrize("name", ["node-kill", "holder-frozen", "two-holders"])
async def test_an_error_lifts_it_too(stage: Stage, name: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with struck(name, stage):
            raise ZeroDivisionError
    assert all(node.up and not node.frozen for node in stage.nodes)
    assert all(link.mode == "ok" for node in stage.nodes for link in node.links.values())
