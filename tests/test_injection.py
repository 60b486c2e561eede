"""What somebody else publishes where nodes listen: nodes are not misled by it, do not fall over it, and say it once.

(That nobody else may publish there is for Redis' ACL: tests/stores/test_least_rights.py.)
"""

from __future__ import annotations

import json
import logging
from contextlib import aclosing
from typing import Any

import pytest
import websockets
from redis.asyncio import Redis

from realtime.brokers.keys import LOG
from realtime.embedded import Embedded
from tests.cluster import address, cluster

CHANNEL = "redis/rooms"


def event(cursor: str, value: object = "forged", **more: object) -> str:
    place = {"type": "event", "channel": CHANNEL, "key": "attic", "op": "put"}
    said = {**place, "value": value, "version": "9" * 20, "time": 1.0}
    return json.dumps({**said, "cursor": cursor, **more})


FORGED: dict[str, str | bytes] = {
    "nothing": "",
    "text": "rm -rf",
    "bytes": b"\xff\xfe\x00\n\x80",
    "a pickle": b"cos\nsystem\n(S'true'\ntR.",
    "JSON that is no event": '{"type": "put"}',
    "a deep one": "[" * 100_000,
    "a deep value": event("v1.EPOCH.999").replace('"forged"', "[" * 100_000 + "]" * 100_000),
    "a name that is no text": event("v1.EPOCH.999").replace("attic", "\\ud800"),
    "bytes in a name": event("v1.EPOCH.999").encode().replace(b"attic", b"\xff"),
    "a list": "[1, 2]\n[3]",
    "no cursor": event("nonsense"),
    "an unknown epoch": event("v1.aaaaaaaaaaaa.1"),
    "a huge offset": event("v1.EPOCH.999999999999999"),
    "an endless offset": event("v1.EPOCH." + "9" * 5000),
    "an old offset": event("v1.EPOCH.1"),
    "a negative offset": event("v1.EPOCH.-1"),
}


@pytest.mark.asyncio
@pytest.mark.expects_logs
async def test_what_others_publish_is_no_event(servers: Embedded, caplog: pytest.LogCaptureFixture) -> None:
    async with cluster(servers, 1) as [service], Redis.from_url(servers.urls["redis"], decode_responses=True) as redis:
        base = address(service).replace("http", "ws")
        async with websockets.connect(f"{base}/v1/ws") as socket, aclosing(_heard(socket)) as heard:
            await socket.send(json.dumps({"type": "subscribe", "id": 1, "channel": CHANNEL}))
            while (await anext(heard))["type"] != "subscribed":
                pass
            await redis.set("rooms:attic", "1")
            epoch = (await _put(heard))["cursor"].split(".")[1]
            caplog.clear()
            for number, (what, forged) in enumerate(FORGED.items(), 2):
                for _ in range(3):
                    text = forged.replace("EPOCH", epoch) if isinstance(forged, str) else forged
                    assert await redis.publish(LOG + CHANNEL, text) == 1
                await redis.set("rooms:attic", str(number))
                assert (await _put(heard))["value"] == number, what
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 1, said
    assert said[0].startswith("not an event, published in redis/rooms by somebody else")


async def _heard(socket: websockets.ClientConnection) -> Any:
    async for frame in socket:
        yield json.loads(frame)


async def _put(heard: Any) -> Any:
    """The next event; whatever else comes (a reset, an event that nobody wrote) is a failure."""
    while (message := await anext(heard))["type"] in ("welcome", "source"):
        pass
    assert message.get("op") == "put", message
    return message
