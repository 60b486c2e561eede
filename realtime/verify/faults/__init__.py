"""The faults that a run strikes with, by name. Each module has those of one kind of part, as its `FAULTS`."""

from __future__ import annotations

from itertools import chain

from . import clients, mongo, network, nodes, postgres, redis, tables
from .base import CALM, Fault, NotStruck

__all__ = ["CALM", "FAULTS", "Fault", "NotStruck"]

_ALL = chain(nodes.FAULTS, network.FAULTS, redis.FAULTS, postgres.FAULTS, tables.FAULTS, mongo.FAULTS, clients.FAULTS)
FAULTS = {fault.name: fault for fault in _ALL}
