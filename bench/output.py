"""A measurement's rows on standard output: a table that is also Markdown's, or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]


def show(rows: Sequence[Row], *, as_json: bool) -> None:
    """All rows have the same columns."""
    if as_json:
        json.dump(rows, sys.stdout)
        print()
        return
    heads = [name.replace("_", " ") for name in rows[0]]
    lines = [[_text(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    for line in (heads, ["-" * width for width in widths], *lines):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
