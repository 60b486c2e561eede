"""The faults that a run strikes with, by name. Each module has those of one kind of part, as its `FAULTS`."""

from __future__ import annotations

from itertools import chain

from . import network, nodes, redis
from .base import Fault

__all__ = ["FAULTS", "Fault"]

FAULTS = {fault.name: fault for fault in chain(nodes.FAULTS, network.FAULTS, redis.FAULTS)}
