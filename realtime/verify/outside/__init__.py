"""The stores as others reach them, past the service: what they write must be as live as what the service writes, and
what they read is what every client has to end up with."""

from __future__ import annotations

from ..stage import Stage
from .base import BOUND, Doubt, Outside, Way
from .documents import Documents
from .keys import Keys
from .sql import Sql

__all__ = ["BOUND", "Doubt", "Outside", "Way", "outside"]


def outside(stage: Stage) -> list[Outside]:
    """One for each store whose address is known."""
    ways: dict[str, type[Sql | Documents | Keys]] = {"postgres": Sql, "mongo": Documents, "redis": Keys}
    return [way(stage) for store, way in ways.items() if store in stage.urls]
