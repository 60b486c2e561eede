"""What is seen of the nodes from outside: how long a feed was without a holder, what has grown, what is left over."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tornado.web import RequestHandler

from realtime.verify import watch
from realtime.verify.process import NodeProcess
from realtime.verify.stage import Lease, Stage
from realtime.verify.watch import GROWTH, Outage, Watch, memory_of
from tests.verify.answers import serving
from tests.wait import until


def node(pid: int = 1, *, works: bool = True, **more: Any) -> NodeProcess:
    """As much of one as is looked at."""
    return cast("NodeProcess", SimpleNamespace(pid=pid, works=works, up=True, name="node", **more))


def seen(*looks: tuple[float, str, NodeProcess]) -> list[float]:
    """The lengths of the outages."""
    outage = Outage("redis")
    lengths = [outage.see(Lease(token, holder), now, others=True) for now, token, holder in looks]
    return [each for each in lengths if each is not None]


def test_an_outage_ends_when_another_lease_is_held() -> None:
    looks = (
        (1.0, "a/1", node()),
        (2.0, "a/1", node(works=False)),
        (2.5, "a/1", node(works=False)),
        (3.0, "b/1", node(2)),
    )
    assert seen(*looks) == [1.0]


def test_one_that_was_started_again_is_not_the_holder_until_it_has_a_lease_of_its_own() -> None:
    looks = (
        (1.0, "a/1", node()),
        (2.0, "a/1", node(7)),
        (3.0, "a/1", node(7)),
        (4.5, "a/2", node(7)),
        (5.0, "a/2", node(7)),
    )
    assert seen(*looks) == [2.5]


def test_one_that_woke_up_was_away_all_the_same() -> None:
    assert seen((1.0, "a/1", node()), (2.0, "a/1", node(works=False)), (9.0, "a/1", node())) == [7.0]


def test_where_no_node_works_nobody_could_take_it() -> None:
    outage, dead = Outage("redis"), node(works=False)
    outage.see(Lease("a/1", node()), 1.0, others=True)
    outage.see(Lease("a/1", dead), 2.0, others=False)
    outage.see(Lease("a/1", dead), 3.0, others=True)
    assert outage.see(Lease("b/1", node(2)), 3.5, others=True) == 0.5


def stage(*nodes: NodeProcess) -> Stage:
    def addresses() -> Sequence[str]:
        return [each.address for each in nodes]

    return cast("Stage", SimpleNamespace(nodes=nodes, addresses=addresses))


GROWING = """
import sys

held = []
for line in sys.stdin:
    held.append(b'x' * (int(line) << 20))
    print(flush=True)
"""


@contextmanager
def growing() -> Iterator[subprocess.Popen[bytes]]:
    """A process that takes so many MiB more with each line that it is told, and says when it has."""
    with subprocess.Popen(
        [sys.executable, "-c", GROWING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def grow(process: subprocess.Popen[bytes], size: int) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"%d\n" % size)
    process.stdout.readline()


@pytest.mark.asyncio
async def test_i6_a_node_that_grows_is_told_once() -> None:
    with growing() as process, closing(Watch(stage(node(process.pid)))) as watching:
        grow(process, 0)
        async with watching.memory() as found:
            await until(lambda: watching.most > 0)
            before = watching.most
            grow(process, GROWTH // 2)
            await until(lambda: watching.most >= before + GROWTH // 2)
            assert found == []
            grow(process, GROWTH)
            await until(lambda: bool(found))
        async with watching.memory() as again:
            grow(process, 1)
            await until(lambda: watching.most >= memory_of(process.pid))
        assert [each.invariant for each in found] == ["I6"]
        assert again == []


@pytest.mark.asyncio
async def test_i6_a_node_that_does_not_say_what_it_has_is_no_node_without_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "GONE", 0.1)
    with closing(Watch(stage(node(address="http://127.0.0.1:1")))) as watching:
        await watching.before()
        [violation] = await watching.left_over()
        assert (violation.invariant, violation.text) == (
            "I6",
            "node does not say what it has when every client is gone",
        )


METRICS = b"""# TYPE realtime_tasks gauge
realtime_tasks %d
# TYPE realtime_subscriptions gauge
realtime_subscriptions %d
"""


@pytest.mark.asyncio
async def test_i6_what_is_left_when_every_client_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "GONE", 0.1)
    said = METRICS % (20, 0)

    class Answer(RequestHandler):
        def get(self) -> None:
            self.write(said)

    async with serving(Answer) as address:
        with closing(Watch(stage(node(address=address)))) as watching:
            await watching.before()
            said = METRICS % (20 + watch.SPARE, 0)
            assert await watching.left_over() == []
            said = METRICS % (21 + watch.SPARE, 2)
            left = [each.text for each in await watching.left_over()]
    assert left == [
        "node has 2 subscriptions when every client is gone",
        f"the nodes have {1 + watch.SPARE} tasks more than before when every client is gone",
    ]
