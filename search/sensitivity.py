"""SAfER sensitivities: how the calibration loss rises when one group alone is pruned.

| symbol | meaning |
|---|---|
| r | share of a group's units removed, those with the lowest scores |
| S_g(r) | loss with group g pruned by r and recalibrated, minus the dense loss |

A block goes whole or not at all; S_g(r) is r times the rise without it, so that S_g(1) is that.
So is that of a segment: S(1) is the greater of two rises, that with its layers alone in int8, and
the part of the rise of all of them that is gone once its layers are float again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from search.candidates import rounded_candidate
from search.criteria import best_units
from search.errors import ConfigError
from search.explorer.segments import Segment
from search.plan import INT8, Plan
from search.quantization.formats import Format

if TYPE_CHECKING:
    from search.graph import PruningGraph

RATIOS = (1 / 8, 1 / 4, 1 / 2, 3 / 4)

Evaluate = Callable[[nn.Module], float]


@dataclass(frozen=True)
class Sensitivity:
    """S_g(r) for every prunable group at the same ratios.

    Attributes:
        ratios: ascending, each in (0, 1).
        rises: group name -> one rise of the loss per ratio; a rise may be negative or infinite.
    """

    ratios: tuple[float, ...]
    rises: Mapping[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        check_ratios(self.ratios)
        for name, rises in self.rises.items():
            if len(rises) != len(self.ratios):
                raise ConfigError(
                    f"rises of {name!r} must be {len(self.ratios)} numbers, but got {len(rises)}"
                )

    def to_json(self) -> str:
        """Canonical JSON; an infinite rise is written as null."""
        rises = {
            name: [rise if abs(rise) < float("inf") else None for rise in values]
            for name, values in self.rises.items()
        }
        document = {"version": 1, "ratios": list(self.ratios), "rises": rises}
        return json.dumps(document, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Sensitivity:
        """The inverse of `to_json`.

        Raises:
            ConfigError: `text` is not the JSON of sensitivities.
        """
        try:
            document: dict[str, Any] = json.loads(text)
            if document["version"] != 1:
                raise ConfigError(f"version must be 1, but got {document['version']!r}")
            rises = {
                name: tuple(float("inf") if rise is None else float(rise) for rise in values)
                for name, values in document["rises"].items()
            }
            return cls(tuple(float(ratio) for ratio in document["ratios"]), rises)
        except ConfigError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ConfigError(f"sensitivities must be their JSON, but got {error!r}") from None


def check_ratios(ratios: Sequence[float]) -> None:
    """Raises ConfigError unless the ratios are ascending in (0, 1)."""
    inside = all(0 < ratio < 1 for ratio in ratios)
    if not ratios or not inside or any(low >= high for low, high in pairwise(ratios)):
        raise ConfigError(f"ratios must be ascending in (0, 1), but got {tuple(ratios)}")


def sensitivity_plan(
    graph: PruningGraph, scores: Mapping[str, Tensor], group: str, ratio: float
) -> Plan:
    """The dense plan, but for a share `ratio` of one group's units, lowest scores first.

    The number removed is rounded to the nearest; `Group.min_width` stay. A block is removed.
    """
    check_ratios((ratio,))
    dense = graph.dense_plan()
    chosen = next((each for each in graph.groups if each.name == group), None)
    if group not in scores or chosen is None:
        raise ConfigError(f"group must be a scored group of the graph, but got {group!r}")
    if chosen.kind == "block":
        return Plan({**dense.kept, group: ()})
    kept = max(chosen.min_width, chosen.width - int(ratio * chosen.width + 0.5))
    return Plan({**dense.kept, group: best_units(scores[group], kept, chosen.required_any_of)})


def precision_plan(graph: PruningGraph, layers: Sequence[str]) -> Plan:
    """The dense plan with these layers in int8."""
    return Plan(graph.dense_plan().kept, precision=dict.fromkeys(layers, INT8))


def precision_plans(
    graph: PruningGraph, segments: Sequence[Segment]
) -> tuple[Plan, dict[str, tuple[Plan, Plan]]]:
    """What is to be evaluated of segments: all of them in int8, and of each the plans with it
    alone in int8, and with all but it."""
    layers = [layer for segment in segments for layer in segment.layers]
    each = {
        segment.name: (
            precision_plan(graph, segment.layers),
            precision_plan(graph, [name for name in layers if name not in segment.layers]),
        )
        for segment in segments
    }
    return precision_plan(graph, layers), each


def segment_rise(alone: float, whole: float, without: float) -> float:
    """S(1) of a segment, of three rises: with it alone, with all, and with all but it in int8."""
    return alone if math.isnan(whole - without) else max(alone, whole - without)


def told_rise(graph: PruningGraph, group: str, ratio: float, rise: float) -> float:
    """S_g(r), of the rise that was measured under `sensitivity_plan`."""
    whole = any(each.name == group and each.kind == "block" for each in graph.groups)
    return ratio * rise if whole else rise


def pruned_loss(
    model: nn.Module,
    graph: PruningGraph,
    plan: Plan,
    evaluate: Evaluate,
    recalibration_batches: Sequence[Tensor],
    form: Format | None = None,
) -> float:
    """The loss of the pruned, recalibrated model; the given model is not touched."""
    return evaluate(rounded_candidate(model, graph, plan, recalibration_batches, form))


def layer_sensitivity(
    model: nn.Module,
    graph: PruningGraph,
    evaluate: Evaluate,
    *,
    scores: Mapping[str, Tensor],
    recalibration_batches: Sequence[Tensor],
    ratios: Sequence[float] = RATIOS,
    segments: Sequence[Segment] = (),
    form: Format | None = None,
    negligible: float = 0.0,
    small: float = -math.inf,
    progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """Prunes every group alone at every ratio and notes the rise of the loss.

    Args:
        model: the traced model; not touched.
        graph: its graph.
        evaluate: the calibration loss of a model, lower is better.
        scores: from `score_channels`; groups without scores are left out.
        recalibration_batches: inputs for `recalibrate`, dense and pruned alike.
        ratios: shares to remove, ascending in (0, 1).
        segments: layers whose precision is searched.
        form: the integers of these layers.
        negligible: a rise with all segments in int8 of which no segment is asked for its part.
        small: a group whose rise at the largest ratio is at most this is not asked at others: its
            rises lie on a straight line from 0. By default all ratios are asked.
        progress: called with (measured, total) after every group.
    """
    check_ratios(ratios)
    losses: dict[Plan, float] = {}

    def loss_of(plan: Plan) -> float:
        if plan not in losses:
            losses[plan] = pruned_loss(model, graph, plan, evaluate, recalibration_batches, form)
        return losses[plan]

    dense_loss = loss_of(graph.dense_plan())
    rises = {}
    names = [group.name for group in graph.searched(blocks=True) if group.name in scores]
    for number, name in enumerate(names, start=1):

        def rise_of(ratio: float, name: str = name) -> float:
            plan = sensitivity_plan(graph, scores, name, ratio)
            return told_rise(graph, name, ratio, loss_of(plan) - dense_loss)

        rises[name] = group_rises(ratios, rise_of, small)
        if progress is not None:
            progress(number, len(names) + len(segments))
    whole, plans_of = precision_plans(graph, segments)
    all_rise = loss_of(whole) - dense_loss
    for number, (name, each) in enumerate(plans_of.items(), start=len(names) + 1):
        rise = 0.0
        if not all_rise <= negligible:
            alone, without = (loss_of(plan) - dense_loss for plan in each)
            rise = segment_rise(alone, all_rise, without)
        rises[name] = tuple(ratio * rise for ratio in ratios)
        if progress is not None:
            progress(number, len(names) + len(segments))
    return Sensitivity(tuple(ratios), rises)


def small_rise(tolerance: float, groups: int) -> float:
    """The rise at the largest ratio at which a group is asked no further: half of its even part
    of the tolerance. Floors move by 0.002 of a width then (docs/safer.md)."""
    return 0.5 * tolerance / max(groups, 1)


def group_rises(
    ratios: Sequence[float], rise_of: Callable[[float], float], small: float
) -> tuple[float, ...]:
    """The rises of a group at all ratios; the largest one is asked for first.

    Args:
        ratios: shares to remove, ascending.
        rise_of: the rise at a ratio.
        small: see `layer_sensitivity`.
    """
    largest = rise_of(ratios[-1])
    if largest <= small:
        return tuple(max(0.0, largest) * ratio / ratios[-1] for ratio in ratios)
    return (*map(rise_of, ratios[:-1]), largest)
