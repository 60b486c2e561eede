"""For machines that look after this one: alive, ready, and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from ..errors import Unavailable
from ..metrics import CONTENT_TYPE
from ..protocol import Source
from ..rights import View
from .base import Handler
from .door import Door


class AliveHandler(Handler):
    """/healthz: the process answers; asks nobody else, and nobody who they are."""

    async def prepare(self) -> None:
        return

    def get(self) -> None:
        self.answer({"ok": True})


class ReadyHandler(Handler):
    """/readyz: every store asked now, side by side; 503 while one that takes writes is down, or this node stops.

    Which, and why, is for those who are known, and for this machine (`metrics_port`).
    """

    def initialize(self, door: Door, *, inner: bool = False) -> None:
        super().initialize(door)
        self._told = inner or not door.gate.asks

    async def prepare(self) -> None:
        if not self._told:
            with suppress(Unavailable):  # whoever knows them is away: so is what is asked about
                await super().prepare()

    async def get(self) -> None:
        sources = self.node.sources
        await sources.check()
        stores = {
            name: {"state": source.state, "error": sources.errors[name]} for name, source in sources.states.items()
        }
        broker = {"state": "down" if sources.cut_off else "live"}
        needed = [name for name, store in self.node.stores.items() if not store.read_only]
        down = sources.cut_off or any(sources.states[name].state == "down" for name in needed)
        ready = not (down or self.door.draining)
        body: dict[str, object] = {"ready": ready}
        if self._told or self.identity.known:
            body |= {"node": self.node.name, "draining": self.door.draining, "broker": broker, "stores": stores}
        self.answer(body, 200 if ready else 503)


class MetricsHandler(Handler):
    """/metrics, for Prometheus; where it is served at all, nobody is asked who they are."""

    async def prepare(self) -> None:
        return

    def get(self) -> None:
        self.set_header("Content-Type", CONTENT_TYPE)
        self.finish(self.node.metrics.text())


class StoresHandler(Handler):
    """/v1/stores: what there is, and how current it is."""

    def get(self) -> None:
        """To everybody what they may read of it; to who may read nothing, nothing."""
        stores = {name: self._store(name, source) for name, source in self.node.sources.states.items()}
        self.answer({"node": self.node.name, "stores": {name: each for name, each in stores.items() if each}})

    def _store(self, name: str, source: Source) -> dict[str, object]:
        sources, gate = self.node.sources, self.door.gate
        seen = {
            collection: _shown(facts, self.rights.view(f"{name}/{collection}"))
            for collection, facts in sources.collections[name].items()
            if self.rights.sees(f"{name}/{collection}")
        }
        if gate.asks and not seen:
            return {}
        error = sources.errors[name] if not gate.asks else None  # a driver's words may have an address
        return {
            "state": source.state,
            "lag": source.lag,
            "error": error,
            "read_only": self.node.stores[name].read_only,
            "collections": seen,
        }


def _shown(facts: Mapping[str, object], view: View | None) -> Mapping[str, object]:
    """Without the columns that are hidden in every row."""
    columns = facts.get("columns")
    if view is None or not isinstance(columns, Mapping):
        return facts
    return {**facts, "columns": {name: kind for name, kind in columns.items() if name not in view.missing}}
