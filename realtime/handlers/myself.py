"""Who asks, as this service sees them; and a ticket for a browser's EventSource and WebSocket: they send no headers."""

from __future__ import annotations

from ..auth.tickets import SECONDS
from ..errors import Unauthorized
from .base import Handler


class MyselfHandler(Handler):
    """/v1/me"""

    def get(self) -> None:
        identity = self.identity
        self.answer(
            {
                "asks": self.door.gate.asks,
                "user": identity.user or None,
                "name": identity.name,
                "roles": identity.roles,
                "proof": identity.proof,
                "scopes": identity.scopes,
                "expires": identity.expires,
            }
        )


class TicketHandler(Handler):
    """/v1/ticket"""

    async def post(self) -> None:
        """Good once, for `?ticket=` of /v1/ws or of a stream."""
        if self.door.gate.asks and not self.identity.known:
            raise Unauthorized("a ticket is for who says who they are")
        self.door.bounds.write(self.caller)
        self.answer({"ticket": await self.door.gate.ticket(self.identity), "seconds": SECONDS}, 201)
