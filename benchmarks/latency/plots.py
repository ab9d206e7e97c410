"""A picture of the A/A trials. Computes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

TITLES = {"aa": "idle", "aa-neighbour": "beside a neighbour", "aa-strict": "idle, strict"}


def draw(parts: Mapping[str, Any], path: Path) -> None:
    """The distribution of differences, and every interval against the pooled ratio."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = {name: parts[name] for name in TITLES if parts.get(name, {}).get("measurements")}
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    for name, part in shown.items():
        differences = sorted([*part["near"], *part["far"]])
        shares = [(n + 1) / len(differences) for n in range(len(differences))]
        left.step([100 * d for d in differences], shares, where="post", label=TITLES[name])
        ratios = [m["ratio"] for m in part["measurements"]]
        reach = [
            [m["ratio"] - m["low"] for m in part["measurements"]],
            [m["high"] - m["ratio"] for m in part["measurements"]],
        ]
        right.errorbar(range(len(ratios)), ratios, reach, fmt=".", lw=0.5, label=TITLES[name])
    left.set_xlabel("difference of two measurements of one model, %")
    left.set_ylabel("share of trials")
    left.axhline(0.95, color="grey", lw=0.5)
    right.set_xlabel("measurement")
    right.set_ylabel("ratio with 95 % interval")
    for axes in (left, right):
        if shown:
            axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
