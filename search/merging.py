"""Merging: a unit that is removed is added to the one that is left and most like it. No data.

After RED++ (Yvinec et al. 2022, arXiv:2110.01397). The readers of a unit that is s times another
may read that one instead, with their columns added, scaled by s. That holds behind whatever scales
as its inputs do (rectifiers, means, pools), or for s = 1 behind anything that treats units alike;
which of the two is tried on the network itself, with units that are made equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from search.plan import Plan
from search.surgery import check_plan, prune
from search.tensors import copy_with, named_tensors
from search.training_flags import in_evaluation
from search.unit_weights import UnitWeights, unit_weights

if TYPE_CHECKING:
    from search.graph import Group, PruningGraph

COSINE = 0.8
TRIED = 2.0  # a scale
SIZES = (1.0, 100.0)  # of inputs: a bound such as that of ReLU6 shows at large ones only
SAME = 1e-3  # of what the merge changes

Merges = dict[int, tuple[int, float]]


def merged(
    model: nn.Module, graph: PruningGraph, plan: Plan, *, least_cosine: float = COSINE
) -> Plan:
    """The same plan with `absorbed` filled: kept units and precision stay.

    Args:
        model: the traced model; not touched.
        graph: its analysis.
        plan: kept units; what it has absorbed before is forgotten.
        least_cosine: units are merged where the cosine of their folded weights is at least this;
            where units cannot be scaled, where they are as near as that without.

    Raises:
        PlanError: the plan does not fit the graph.
    """
    check_plan(graph, plan)
    known = unit_weights(model, graph)
    most = (1 - least_cosine**2) ** 0.5
    absorbed = {}
    for group in graph.prunable:
        weights, kept = known.get(group.name), plan.kept[group.name]
        if weights is None or not weights.complete or len(kept) == group.width:
            continue
        for scale in (TRIED, 1.0):
            merges = _near(weights, kept, most, any_scale=scale != 1)
            if merges and can_scale(model, graph, group, weights, scale):
                absorbed[group.name] = merges
                break
    return replace(plan, absorbed=absorbed)


def _near(weights: UnitWeights, kept: Sequence[int], most: float, *, any_scale: bool) -> Merges:
    """Removed unit -> the nearest kept one and its scale."""
    apart = weights.distances(any_scale=any_scale)[:, list(kept)]
    nearest, at = apart.min(1)
    scales = weights.scales()
    gone = [unit for unit in range(len(apart)) if unit not in set(kept) and nearest[unit] <= most]
    into = {unit: kept[int(at[unit])] for unit in gone}
    return {
        unit: (absorber, float(scales[unit, absorber]) if any_scale else 1.0)
        for unit, absorber in into.items()
    }


def can_scale(
    model: nn.Module, graph: PruningGraph, group: Group, weights: UnitWeights, scale: float
) -> bool:
    """Whether a unit whose weights are `scale` times those of another may be merged into it.

    Every third unit of a copy is made that multiple of the one before. Its outputs on seeded
    noise must be those of the copy in which these are merged, up to `SAME` of what their removal
    changes. Never where a norm or mean runs over the units.
    """
    pairs = [(unit, unit - 1) for unit in range(1, group.width, 3)]
    kept = tuple(sorted(set(range(group.width)) - {unit for unit, _ in pairs}))
    if not pairs or len(kept) < group.min_width or group.status == "approximate":
        return False
    twins = copy_with(model, _equalled(model, group, weights, pairs, scale))
    whole = {**graph.dense_plan().kept, group.name: kept}
    merges = {group.name: {unit: (absorber, scale) for unit, absorber in pairs}}
    merged_twins = prune(twins, graph, Plan(whole, merges), free_sizes=False)
    cut_twins = prune(twins, graph, Plan(whole), free_sizes=False)
    off, changed = [], []
    for size in SIZES:
        wanted, found, cut = (_outputs(m, graph, size) for m in (twins, merged_twins, cut_twins))
        off.append(float((wanted - found).norm()))
        changed.append(float((wanted - cut).norm()))
    return max(changed) > 0 and all(o <= SAME * c for o, c in zip(off, changed, strict=True))


def _equalled(
    model: nn.Module,
    group: Group,
    weights: UnitWeights,
    pairs: Sequence[tuple[int, int]],
    scale: float,
) -> dict[str, Tensor]:
    """The tensors of which the first unit of each pair is the second, scaled."""
    scaled = {member.tensor for member in (*weights.producers, *weights.offsets)}
    tensors, made = named_tensors(model), dict[str, Tensor]()
    for member in group.members:
        if member.role == "consumer":
            continue
        tensor = made.get(member.tensor, tensors[member.tensor].detach().clone())
        to, source = (
            torch.tensor([index for pair in pairs for index in member.indices[pair[side]]])
            for side in (0, 1)
        )
        values = tensor.index_select(member.dim, source)
        factor = scale if member.tensor in scaled else 1.0
        made[member.tensor] = tensor.index_copy(member.dim, to, values * factor)
    return made


def _outputs(model: nn.Module, graph: PruningGraph, size: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(each.shape, generator=generator).to(each) * size
        if each.is_floating_point()
        else each
        for each in graph.example_inputs
    ]
    with in_evaluation(model), torch.no_grad():
        outputs: Tensor = model(*inputs)
    return outputs.double()
