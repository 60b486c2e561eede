"""How a measurement ends: its tables on standard output, as Markdown has them or as JSON; or early, all stopped."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

Row = dict[str, Any]
Result = TypeVar("Result")

INTERRUPTED = 128 + signal.SIGINT


def complete(measuring: Coroutine[Any, Any, Result]) -> Result:
    """To its end; Ctrl-C and SIGTERM end it, and what it started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return asyncio.run(measuring)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def show(tables: Mapping[str, Sequence[Row]], *, as_json: bool) -> None:
    """All rows of a table have the same columns."""
    if as_json:
        json.dump(tables, sys.stdout)
        print()
        return
    for number, rows in enumerate(tables.values()):
        print("\n" * (number > 0) + _table(rows))


def _table(rows: Sequence[Row]) -> str:
    heads = [name.replace("_", " ") for name in rows[0]]
    lines = [[_text(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    cells = (heads, ["-" * width for width in widths], *lines)
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    )


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
