"""Plain tables; numbers in words are those of the command line."""

from __future__ import annotations

from collections.abc import Sequence

from api.cli.output import milliseconds, percent, size

__all__ = ["milliseconds", "percent", "size", "table"]


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns aligned by spaces, with the headings first if there are any."""
    texts = [[str(cell) for cell in row] for row in ([headings] if headings else [])]
    texts += [[str(cell) for cell in row] for row in rows]
    if not texts:
        return ""
    widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in texts
    )
