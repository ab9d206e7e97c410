"""The simple ways beside the search: what each of them reached on the same device.

Only what the search measured is told. Losses are those of candidates, before fine-tuning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
ANSWER = (
    "all layers in int8 meet the budget, and lose no more than chance explains: nothing was "
    "pruned or trained"
)


def simple_ways(
    tree: Sequence[Row], layers: int, budget: float, chosen: str, rise: float | None = None
) -> list[Row]:
    """The best candidates of the simple ways, and the chosen one.

    Args:
        tree: its rows, of a job or of `Node.row`.
        layers: how many may be in int8.
        budget: as a ratio.
        chosen: digest of the result's plan.
        rise: of the loss with all of these layers in int8, where it is known.

    Returns:
        `way`, `ratio`, `loss` (None if it was not evaluated) and `meets`, whether within the
        budget, for `uniformly thinner` and, where layers may be in int8, `int8 alone`, `pruning
        alone`, `pruning, then int8`, `both together`; else `the search`.
    """
    root = next((row for row in tree if row["origin"] == "dense"), None)
    if root is None:
        return []
    measured = [row for row in tree if row["ratio"] is not None]
    floats = [row for row in measured if not _int8(row) and row["loss"] is not None]
    within = [row for row in floats if row["ratio"] <= budget]
    pruned = min(within, key=lambda row: (row["loss"], row["digest"]), default=None)
    whole = {_widths(row): row for row in measured if len(_int8(row)) == layers}
    thinner = [row for row in floats if row["origin"] == "uniform"]
    uniform = max(thinner, key=lambda row: (row["ratio"], row["digest"]), default=None)
    result = next((row for row in measured if row["digest"] == chosen), None)
    if not layers:
        found = {"uniformly thinner": uniform, "the search": result if uniform else None}
        return _told(found, budget)
    found = {
        "uniformly thinner": uniform,
        "int8 alone": whole.get(_widths(root)),
        "pruning alone": pruned,
        "pruning, then int8": None if pruned is None else whole.get(_widths(pruned)),
        "both together": result,
    }
    known = None if rise is None or root["loss"] is None else root["loss"] + rise
    return _told(found, budget, {"int8 alone": known})


def _told(
    found: Mapping[str, Row | None], budget: float, known: Mapping[str, float | None] | None = None
) -> list[Row]:
    """The ways of which something was measured; `known` losses stand in for those that are not."""
    return [
        {
            "way": way,
            "ratio": row["ratio"],
            "loss": (known or {}).get(way) if row["loss"] is None else row["loss"],
            "meets": row["ratio"] <= budget,
        }
        for way, row in found.items()
        if row is not None
    ]


def _int8(row: Row) -> Sequence[str]:
    return row.get("plan", row).get("int8") or ()


def _widths(row: Row) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(row.get("plan", row)["widths"].items()))
