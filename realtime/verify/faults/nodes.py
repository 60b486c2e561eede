from __future__ import annotations

from .base import Fault

FAULTS: tuple[Fault, ...] = ()
