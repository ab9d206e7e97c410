"""PruningGraph: the groups of a model, what they cost, and why some are frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from search.graph.costs import Kept, Product
from search.graph.labels import Atoms
from search.graph.types import Group
from search.plan import Plan


@dataclass(frozen=True, eq=False)
class PruningGraph:
    """The analysis of one model.

    Attributes:
        model: the traced model, untouched.
        example_inputs: the inputs that it was traced with.
        groups: all groups, frozen ones too.
        shapes: parameter or buffer -> traced shape; of tied tensors the first name only.
        unused: parameters that the model does not use in evaluation mode (auxiliary heads); they
            are never cut, so a branch that reads them may not fit after pruning.
        dynamic_batch: the batch size stayed free; else the analysis holds for a batch of two.
        group_of: atom -> number of its group, or -1.
        unit_of: atom -> its unit, or -1.
        parameter_counts: one product per parameter.
        mac_counts: the products of convolutions, linear layers and other products of matrices.
    """

    model: nn.Module
    example_inputs: tuple[Tensor, ...]
    groups: tuple[Group, ...]
    shapes: Mapping[str, tuple[int, ...]]
    unused: tuple[str, ...]
    dynamic_batch: bool
    group_of: Atoms
    unit_of: Atoms
    parameter_counts: tuple[Product, ...]
    mac_counts: tuple[Product, ...]

    @property
    def prunable(self) -> tuple[Group, ...]:
        """The groups that can lose units, approximate ones among them."""
        return tuple(group for group in self.groups if group.status != "frozen")

    def dense_plan(self) -> Plan:
        """The plan that removes nothing."""
        return Plan.dense(self.groups)

    def parameters(self, plan: Plan) -> int:
        """How many parameters the model has under `plan`."""
        kept = self.kept_atoms(plan)
        return sum(product.at(kept) for product in self.parameter_counts)

    def kept_atoms(self, plan: Plan) -> Kept:
        """Atom -> whether it stays under `plan`; atoms of no group always do."""
        return self._kept(plan.kept)

    def macs(self, plan: Plan) -> int:
        """Multiply-accumulates of all products of matrices for one example under `plan`."""
        kept = self.kept_atoms(plan)
        return sum(product.at(kept) for product in self.mac_counts)

    def report(self) -> dict[str, Any]:
        """What can be pruned and why the rest cannot, as JSON.

        A weight counts as prunable, and so do its multiply-accumulates, when a unit of a
        prunable group creates or reads it.
        """
        rest = self._kept(
            {group.name: range(group.width * (group.status == "frozen")) for group in self.groups}
        )
        return {
            "groups": [_described(group) for group in self.groups],
            "prunable_groups": len(self.prunable),
            "parameters": sum(product.at(self._all) for product in self.parameter_counts),
            "macs": sum(product.at(self._all) for product in self.mac_counts),
            "prunable_parameter_share": _share(self.parameter_counts, self._all, rest),
            "prunable_mac_share": _share(self.mac_counts, self._all, rest),
            "unused": list(self.unused),
            "batch": "dynamic" if self.dynamic_batch else "static",
        }

    @property
    def _all(self) -> Kept:
        return np.ones(len(self.group_of), bool)

    def _kept(self, kept: Mapping[str, tuple[int, ...] | range]) -> Kept:
        width = max((group.width for group in self.groups), default=0)
        table = np.zeros((len(self.groups) + 1, width + 1), bool)
        table[-1] = True
        for number, group in enumerate(self.groups):
            table[number, list(kept[group.name])] = True
        stays: Kept = table[self.group_of, self.unit_of]
        return stays


def _described(group: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        "width": group.width,
        "kind": group.kind,
        "status": group.status,
        "reason": group.reason,
        "members": [
            {"tensor": member.tensor, "dim": member.dim, "role": member.role}
            for member in group.members
        ],
    }


def _share(products: tuple[Product, ...], everything: Kept, rest: Kept) -> float:
    whole = sum(product.at(everything) for product in products)
    return 1 - sum(product.at(rest) for product in products) / whole if whole else 0.0
