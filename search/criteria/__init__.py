"""Criteria: how much each unit of a group is worth. One file each; this one holds the list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from search.criteria.bn_scale import bn_scale_scores
from search.criteria.l1 import l1_scores
from search.criteria.l2 import l2_scores
from search.criteria.random import random_scores
from search.criteria.redundancy import redundancy_scores
from search.criteria.singe import singe_scores
from search.criteria.taylor import taylor_scores
from search.errors import CriterionError
from search.objectives import CLASSIFICATION, Objective
from search.plan import best_of

if TYPE_CHECKING:
    from search.graph import PruningGraph

CRITERIA = ("bn_scale", "l1", "l2", "random", "redundancy", "singe", "taylor")


def score_channels(
    model: nn.Module,
    graph: PruningGraph,
    criterion: str,
    batches: Iterable[tuple[Tensor, Tensor]] = (),
    *,
    seed: int = 0,
    blocks: bool = False,
    objective: Objective = CLASSIFICATION,
    reduction: str = "mean",
) -> dict[str, Tensor]:
    """One (W_g,) tensor per prunable group; a unit with a higher score is kept longer.

    Scores of `taylor` and `singe` compare between groups (they are changes of the loss), those of
    the others only inside a group. A block has nothing to be compared with inside; its score is 1.

    Args:
        model: the model that was traced.
        graph: its graph.
        criterion: one of `CRITERIA`.
        batches: images and targets of the objective, for `taylor` and `singe`.
        seed: for `random`.
        blocks: score the removable blocks as well; a search cuts what has scores.
        objective: what the model is judged by, for `taylor` and `singe`.
        reduction: one of `reduction.REDUCTIONS`: how `l1`, `l2` and `bn_scale` make one score of
            a group's members. The others take a unit as a whole.

    Raises:
        CriterionError: an unknown criterion or reduction, or one that lacks its batches or norms.
    """
    removable = graph.removable if blocks else ()
    whole = {group.name: torch.ones(1, dtype=torch.float64) for group in removable}
    return _unit_scores(model, graph, criterion, batches, seed, objective, reduction) | whole


def _unit_scores(
    model: nn.Module,
    graph: PruningGraph,
    criterion: str,
    batches: Iterable[tuple[Tensor, Tensor]],
    seed: int,
    objective: Objective,
    reduction: str,
) -> dict[str, Tensor]:
    match criterion:
        case "bn_scale":
            return bn_scale_scores(model, graph, reduction)
        case "l1":
            return l1_scores(model, graph, reduction)
        case "l2":
            return l2_scores(model, graph, reduction)
        case "random":
            return random_scores(graph, seed)
        case "redundancy":
            return redundancy_scores(model, graph, reduction)
        case "singe":
            return singe_scores(model, graph, batches, objective)
        case "taylor":
            return taylor_scores(model, graph, batches, objective)
    raise CriterionError(f"criterion must be one of {CRITERIA}, but got {criterion!r}")


def best_units(scores: Tensor, width: int, parts: Sequence[Sequence[int]] = ()) -> tuple[int, ...]:
    """The `width` units with the highest scores, ascending; of equal ones the first are kept.

    The highest removed score is never above the lowest kept one, except where `parts` require it
    (see `best_of`).
    """
    if not 1 <= width <= len(scores):
        raise CriterionError(f"width must be in [1, {len(scores)}], but got {width}")
    order = torch.sort(scores, descending=True, stable=True).indices
    return best_of(order.tolist(), width, parts)
