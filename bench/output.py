"""A measurement's tables on standard output: as Markdown has them, or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]


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
