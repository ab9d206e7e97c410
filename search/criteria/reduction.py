"""From element-wise contributions of tensors to one score per unit of a group.

| symbol | meaning | shape |
|---|---|---|
| c | contributions of the elements of a tensor | the tensor's |
| v | a member's value per unit: the sum of c over the unit's slice | (W_g,) |
| score | mean over the members of v / mean(v): members weigh alike | (W_g,) |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from search.graph.dependency.groups import Group, Member


def member_values(contributions: Tensor, member: Member) -> Tensor:
    """The sum of the contributions over each unit's slice, (W_g,)."""
    others = [dim for dim in range(contributions.ndim) if dim != member.dim]
    per_index = contributions.sum(others) if others else contributions
    index = torch.tensor([index for unit in member.indices for index in unit])
    sizes = torch.tensor([len(unit) for unit in member.indices])
    unit = torch.arange(len(sizes)).repeat_interleave(sizes)
    return per_index.new_zeros(len(sizes)).index_add(0, unit, per_index[index])


def scoring_members(group: Group) -> list[Member]:
    """The producers; where a group has none, whatever it has."""
    return [m for m in group.members if m.role == "producer"] or list(group.members)


def mean_of_normalised(values: Sequence[Tensor]) -> Tensor:
    """Each member's values over their mean, then the mean over members; no member gives zeros."""
    normalised = [value / mean for value in values if (mean := value.mean()) > 0]
    return torch.stack(normalised).mean(0) if normalised else torch.zeros_like(values[0])


def weights_of(state: Mapping[str, Tensor], member: Member) -> Tensor:
    return state[member.tensor].detach().double()
