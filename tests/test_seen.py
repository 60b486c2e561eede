"""What somebody sees of a channel on a live session: in the snapshot, by events, after a resume, after a change."""

from __future__ import annotations

import asyncio

import pytest
from msgspec import Raw

from realtime.errors import Conflict, Forbidden, NotFound, Unauthorized
from realtime.protocol import ANYHOW, Condition, Leave, Outgoing, Placed, Reset, Subscribe, Subscribed, etag
from realtime.rights import EVERYTHING, Identity, Rights, parse_rules
from realtime.session import Session
from realtime.stores.memory import MemoryStore
from tests.test_schedules import CHANNEL, Cluster
from tests.wait import until

pytestmark = pytest.mark.asyncio

STORE, COLLECTION = CHANNEL.split("/")
ROW = Raw(b'{"id":1,"salary":9}')
SEEN = Raw(b'{"id":1}')


def rights(
    keys: str = "*", *, hide: str = "", write: bool = False, user: str = "ada", channel: str = CHANNEL
) -> Rights:
    hidden = f'hide = ["{hide}"]' if hide else ""
    text = f"""
        [[rule]]
        roles = ["*"]
        channels = ["{channel}"]
        keys = ["{keys}"]
        read = true
        write = {str(write).lower()}
        {hidden}
    """
    return Rights(parse_rules(text, "rules"), Identity(user, ("reader",), "token"))


def session(rights: Rights) -> Session:
    return Session(lambda: None, rights=rights)


def told(messages: list[Outgoing]) -> list[tuple[str, str, bytes]]:
    """Events: op, key, value."""
    events = [message.event for message in messages if isinstance(message, Placed)]
    return [(each.op, each.key, bytes(each.value) if isinstance(each.value, Raw) else b"") for each in events]


def items(messages: list[Outgoing]) -> list[dict[str, bytes]]:
    states = [each for each in messages if isinstance(each, Subscribed | Reset)]
    return [{key: bytes(value) for key, value in (each.items or {}).items()} for each in states]


async def put(cluster: Cluster, key: str, value: Raw = ROW) -> None:
    """Until it has passed the node."""
    before = cluster.wire.log(CHANNEL).offset
    await cluster.store.put(COLLECTION, key, value, ANYHOW)
    await until(lambda: cluster.wire.log(CHANNEL).offset > before and cluster._passed(cluster.nodes[0]))


async def test_keys_of_others_are_neither_shown_nor_told() -> None:
    async with Cluster(store=MemoryStore(STORE)) as cluster:
        node = cluster.nodes[0]
        ada, bob, all_ = session(rights("{user}:*")), session(rights("{user}:*", user="bob")), session(EVERYTHING)
        await put(cluster, "ada:1")
        for each in (ada, bob, all_):
            await node.subscribe(each, Subscribe(1, CHANNEL))
        cursor = str(ada.subscriptions[1].cursor)
        assert (items(ada.take()), items(bob.take())) == ([{"ada:1": bytes(ROW)}], [{}])
        await put(cluster, "bob:1")
        await put(cluster, "ada:2")
        await until(lambda: all_.waiting == 3)
        assert told(ada.take()) == [("put", "ada:2", bytes(ROW))]
        assert told(bob.take()) == [("put", "bob:1", bytes(ROW))]
        node.release(ada)
        await node.subscribe(ada, Subscribe(1, CHANNEL, None, cursor))
        assert told(ada.take()) == [("put", "ada:2", bytes(ROW))]


@pytest.mark.parametrize("key", [None, "1"])
async def test_a_hidden_column_is_in_nothing(key: str | None) -> None:
    async with Cluster(store=MemoryStore(STORE)) as cluster:
        node, one = cluster.nodes[0], session(rights(hide="salary"))
        await put(cluster, "1")
        await node.subscribe(one, Subscribe(1, CHANNEL, key))
        await put(cluster, "1")
        cursor = str(one.subscriptions[1].cursor)
        messages = one.take()
        assert (items(messages), told(messages)) == ([{"1": bytes(SEEN)}], [("put", "1", bytes(SEEN))])
        node.release(one)
        await put(cluster, "1")
        await node.subscribe(one, Subscribe(1, CHANNEL, key, cursor))
        assert told(one.take()) == [("put", "1", bytes(SEEN))]


async def test_overlapping_selections_get_an_event_once() -> None:
    async with Cluster(store=MemoryStore(STORE)) as cluster:
        one = session(rights("1*", hide="salary"))  # so that the two views differ
        await cluster.nodes[0].subscribe(one, Subscribe(1, CHANNEL))
        await cluster.nodes[0].subscribe(one, Subscribe(2, CHANNEL, "1"))
        one.take()
        await put(cluster, "1")
        assert told(one.take()) == [("put", "1", bytes(SEEN))]


async def test_who_may_nothing_leaves_no_trace() -> None:
    async with Cluster() as cluster:
        node = cluster.nodes[0]
        for channel, key in ((CHANNEL, None), (CHANNEL, "1"), ("nosuch/thing", None), (f"{STORE}/nosuch", "1")):
            for asking, error in (
                (session(rights(channel="other/x")), Forbidden),
                (session(Rights(parse_rules("", "r"))), Unauthorized),
            ):
                with pytest.raises(error):
                    await node.subscribe(asking, Subscribe(1, channel, key, "v1.e.1"))
                assert not asking.subscriptions
        assert node._channels.get("nosuch/thing") is None


async def test_what_may_not_be_seen_any_more_is_taken_away() -> None:
    async with Cluster(store=MemoryStore(STORE)) as cluster:
        node, one = cluster.nodes[0], session(EVERYTHING)
        await put(cluster, "a")
        await put(cluster, "b")
        await node.subscribe(one, Subscribe(1, CHANNEL))
        await node.subscribe(one, Subscribe(2, CHANNEL, "b"))
        one.take()
        one.rights = rights("a")
        node.review(one)
        await until(lambda: one.waiting == 2)
        gone, shown = one.take()
        assert gone == Leave(CHANNEL, "b")
        assert isinstance(shown, Reset)
        assert (shown.reason, shown.items) == ("rights", {"a": ROW})
        assert list(one.subscriptions) == [1]
        await put(cluster, "b")
        await put(cluster, "a")
        assert told(one.take()) == [("put", "a", bytes(ROW))]
        one.rights = EVERYTHING
        node.review(one)
        await until(lambda: one.waiting == 1)
        assert items(one.take()) == [{"a": bytes(ROW), "b": bytes(ROW)}]
        node.review(one)  # nothing has changed
        assert one.waiting == 0


class Held(MemoryStore):
    """Snapshots wait."""

    def __init__(self) -> None:
        super().__init__(STORE)
        self.free = asyncio.Event()
        self.asked = 0

    async def snapshot(self, *given: object, **named: object) -> object:  # type: ignore[override]
        self.asked += 1
        await self.free.wait()
        return await super().snapshot(*given, **named)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [None, "b"])
async def test_rights_that_change_while_one_joins(key: str | None) -> None:
    store = Held()
    store.free.set()
    async with Cluster(store=store) as cluster:
        node, one = cluster.nodes[0], session(EVERYTHING)
        await put(cluster, "a")
        await put(cluster, "b")
        store.free.clear()
        asked = store.asked
        joining = asyncio.create_task(node.subscribe(one, Subscribe(1, CHANNEL, key)))
        await until(lambda: store.asked > asked)
        one.rights = rights("a")
        node.review(one)
        store.free.set()
        await joining
        messages = one.take()
        if key is None:
            assert items(messages) == [{"a": bytes(ROW)}]
        else:
            assert messages == [Leave(CHANNEL, "b")]
            assert not one.subscriptions


async def test_a_crowd_shares_what_it_sees() -> None:
    async with Cluster(store=MemoryStore(STORE)) as cluster:
        node = cluster.nodes[0]
        sessions = [session(rights(hide="salary")) for _ in range(3)]
        subscriptions = [await node.subscribe(each, Subscribe(1, CHANNEL)) for each in sessions]
        assert len({id(each.audience) for each in subscriptions}) == 1
        await put(cluster, "1")
        frames = [each.session.take()[-1] for each in subscriptions]
        assert len(set(map(id, frames))) == 1


# reading and writing items --------------------------------------------------------------------------------------------


async def test_a_page_shows_only_what_is_seen_and_names_no_other_key() -> None:
    async with Cluster(store=MemoryStore(STORE)) as cluster:
        for key in ("a1", "b1", "a2", "b2", "b3", "a3", "b4"):
            await put(cluster, key)
        node, mine, found, after = cluster.nodes[0], rights("a*"), list[str](), None
        while True:
            page, cursor = await node.page(mine, CHANNEL, after, 2)
            found += page.items
            if page.next is None:
                break
            assert (cursor, page.next) == (None, list(page.items)[-1])
            after = page.next
        assert found == ["a1", "a2", "a3"]
        whole, cursor = await node.page(mine, CHANNEL, None, 10)
        assert list(whole.items) == ["a1", "a2", "a3"]
        assert cursor is not None


async def test_who_does_not_see_all_writes_parts() -> None:
    async with Cluster(store=MemoryStore(STORE)) as cluster:
        await put(cluster, "1")
        write, part = cluster.nodes[0].items, rights(hide="salary", write=True)
        tag = etag(bytes(ROW))
        with pytest.raises(Forbidden):
            await write.put(part, CHANNEL, "1", SEEN, ANYHOW)
        with pytest.raises(Forbidden):
            await write.patch(part, CHANNEL, "1", Raw(b'{"salary":1}'), ANYHOW)
        with pytest.raises(Forbidden):
            await write.patch(part, CHANNEL, "1", Raw(b'{"id":2}'), Condition((tag,)))
        with pytest.raises(Conflict) as refused:
            await write.patch(part, CHANNEL, "2", Raw(b'{"id":2}'), Condition(exists=True))
        assert (refused.value.current, "salary" in str(refused.value)) == (None, False)
        written = await write.patch(part, CHANNEL, "1", Raw(b'{"id":2}'), ANYHOW)
        assert written.value is None  # of which the answer would have an ETag
        assert (await cluster.store.snapshot(COLLECTION)).items == {"1": Raw(b'{"id":2,"salary":9}')}


async def test_who_may_write_and_not_read_is_told_nothing() -> None:
    text = f'[[rule]]\nroles = ["*"]\nchannels = ["{CHANNEL}"]\nwrite = true'
    blind = Rights(parse_rules(text, "rules"), Identity("ada", (), "token"))
    async with Cluster(store=MemoryStore(STORE)) as cluster:
        await put(cluster, "1")
        write = cluster.nodes[0].items
        with pytest.raises(Forbidden):
            await write.read(blind, CHANNEL, "1")
        with pytest.raises(Forbidden):
            await write.put(blind, CHANNEL, "1", SEEN, Condition(exists=False))
        assert (await write.put(blind, CHANNEL, "1", SEEN, ANYHOW)).value is None
        with pytest.raises(NotFound) as missing:
            await write.delete(blind, CHANNEL, "2", ANYHOW)
        assert "'2'" not in str(missing.value)
