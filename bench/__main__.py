"""Says what can be measured: `scripts/bench` with no name."""

from __future__ import annotations

from importlib import import_module

PROGRAMS = ("fanout", "connections", "storm", "capture", "latency", "writes", "growth")

if __name__ == "__main__":
    for name in PROGRAMS:
        line = str(import_module(f"bench.{name}").__doc__).partition("\n")[0]
        print(f"{name:<12} {line}")
