"""How a result bears flipped bits of its weights, layer by layer (SAfER's hardware failures)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from search.evaluation import cross_entropy_loss
from search.perturbations import Perturbation, layer_rises
from workers.results import finite

RATE = 1e-3  # with which every bit of a layer's int8 weights flips
SEEDS = (0, 1, 2)
IMAGES = 128
TIME_LIMIT_S = 20.0  # layers that would begin later have no number
MOST_SHOWN = 10
HEAD = ("layer", "loss rise")


def robustness(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """The rise of the loss when bits of one layer alone flip.

    Args:
        model: as it is delivered, its weights in float; not touched.
        batches: inputs and labels; the first `IMAGES` of the first batch are looked at.

    Returns:
        `rate`, `seeds` (how many the rise is the mean of), `images`, `loss` without flips, and
        `layers`, each with its `rise`: None where the time was over, or the loss not finite.
    """
    images, labels = next(iter(batches))
    some = [(images[:IMAGES], labels[:IMAGES])]

    def loss(given: nn.Module) -> float:
        return cross_entropy_loss(given, some)

    rises = layer_rises(
        model, loss, Perturbation("flips", RATE), seeds=SEEDS, time_limit_s=TIME_LIMIT_S
    )
    return {
        "rate": RATE,
        "seeds": len(SEEDS),
        "images": len(some[0][0]),
        "loss": finite(loss(model)),
        "layers": [
            {"layer": layer, "rise": None if rise is None else finite(rise)}
            for layer, rise in rises.items()
        ],
    }


def words(known: Mapping[str, Any]) -> str:
    """What the table tells."""
    told = sum(row["rise"] is not None for row in known["layers"])
    unknown = len(known["layers"]) - told
    rest = f" {unknown} of them were not reached in time, or have no finite loss."
    return (
        f"Each bit of one layer's weights, rounded to int8, flips with a probability of "
        f"{known['rate']:g}: how the loss on {known['images']} calibration images rises, the mean "
        f"of {known['seeds']} draws. The {min(told, MOST_SHOWN)} most sensitive of "
        f"{len(known['layers'])} layers.{rest if unknown else ''}"
    )


def rows(known: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The most sensitive layers, the worst first."""
    told = [row for row in known["layers"] if row["rise"] is not None]
    told.sort(key=lambda row: (-row["rise"], row["layer"]))
    return [(row["layer"], f"{row['rise']:+.4f}") for row in told[:MOST_SHOWN]]
