"""From element-wise contributions of tensors to one score per unit of a group.

| symbol | meaning | shape |
|---|---|---|
| c | contributions of the elements of a tensor | the tensor's |
| v | a member's value per unit: the sum of c over the unit's slice | (W_g,) |
| score | a reduction over the members of v / mean(v): members weigh alike | (W_g,) |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from search.errors import CriterionError

if TYPE_CHECKING:
    from search.graph.dependency.groups import Group, Member

REDUCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda values: values.mean(0),
    "max": lambda values: values.amax(0),
    "sum": lambda values: values.sum(0),
    "norm": lambda values: values.norm(dim=0),
}


def member_values(contributions: Tensor, member: Member) -> Tensor:
    """The sum of the contributions over each unit's slice, (W_g,)."""
    others = [dim for dim in range(contributions.ndim) if dim != member.dim]
    per_index = contributions.sum(others) if others else contributions
    index, unit = places_of(member)
    return per_index.new_zeros(len(member.indices)).index_add(0, unit, per_index[index])


def places_of(member: Member) -> tuple[Tensor, Tensor]:
    """The indices along the member's dimension, and the unit of each, (indices,) both."""
    index = torch.tensor([index for unit in member.indices for index in unit], dtype=torch.long)
    sizes = torch.tensor([len(unit) for unit in member.indices])
    return index, torch.arange(len(sizes)).repeat_interleave(sizes)


def scoring_members(group: Group) -> list[Member]:
    """The producers; where a group has none, whatever it has."""
    return [m for m in group.members if m.role == "producer"] or list(group.members)


def reading_members(group: Group) -> list[Member]:
    """The consumers; where a group has none, what creates it."""
    return [m for m in group.members if m.role == "consumer"] or scoring_members(group)


def reduced(values: Sequence[Tensor], reduction: str = "mean") -> Tensor:
    """Each member's values over their mean, then reduced over members; no member gives zeros.

    Args:
        values: of each member, (W_g,).
        reduction: one of `REDUCTIONS`; `norm` is the Euclidean one. `sum` ranks as `mean` does.

    Raises:
        CriterionError: an unknown reduction.
    """
    if reduction not in REDUCTIONS:
        known = tuple(REDUCTIONS)
        raise CriterionError(f"reduction must be one of {known}, but got {reduction!r}")
    normalised = [value / mean for value in values if (mean := value.mean()) > 0]
    if not normalised:
        return torch.zeros_like(values[0])
    return REDUCTIONS[reduction](torch.stack(normalised))


def weights_of(state: Mapping[str, Tensor], member: Member) -> Tensor:
    return state[member.tensor].detach().double()
