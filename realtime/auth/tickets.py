"""One-time tickets: how a browser that can send no header says who it is, without a token in an address.

A WebSocket or an EventSource of a browser has only its address to say it with, and addresses are logged. So whoever is
known asks for a ticket first; it is good once, on whichever node, and not for long. Redis knows only its digest.
"""

from __future__ import annotations

import re
from hashlib import sha256
from secrets import token_urlsafe

import msgspec

from ..brokers.keys import TICKET
from ..errors import BrokerDown, Unauthorized
from ..redis_pubsub import answering, client
from ..rights import Identity

SECONDS = 30
_TICKET = re.compile(r"[A-Za-z0-9_-]{43}")


class Tickets:
    def __init__(self, redis_url: str) -> None:
        self._redis = client(redis_url)

    async def close(self) -> None:
        await self._redis.aclose()

    async def issue(self, identity: Identity) -> str:
        """Raises BrokerDown."""
        text = token_urlsafe(32)
        async with answering(BrokerDown):
            await self._redis.set(_key(text), msgspec.json.encode(identity), ex=SECONDS)
        return text

    async def redeem(self, text: str) -> Identity:
        """Whom it was issued to, once. Raises Unauthorized, BrokerDown."""
        kept = None
        if _TICKET.fullmatch(text):
            async with answering(BrokerDown):
                kept = await self._redis.getdel(_key(text))
        if kept is None:
            raise Unauthorized(f"the ticket was used, is older than {SECONDS} seconds, or never was one")
        return msgspec.json.decode(kept, type=Identity)


def _key(text: str) -> str:
    return TICKET + sha256(text.encode()).hexdigest()
