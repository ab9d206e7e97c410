"""Plain tables and numbers in words. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence

DASH = "–"


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


def percent(ratio: object, digits: int = 1) -> str:
    """A ratio in percent."""
    return f"{100 * ratio:.{digits}f} %" if isinstance(ratio, int | float) else DASH


def milliseconds(value: object) -> str:
    """A latency."""
    if not isinstance(value, int | float):
        return DASH
    return f"{value:.3f} ms" if value < 10 else f"{value:.1f} ms"


def size(value: object) -> str:
    """A number of bytes."""
    if not isinstance(value, int | float):
        return DASH
    return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.1f} kB"
