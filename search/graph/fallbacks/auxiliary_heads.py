"""Branches that a model takes in training only: auxiliary heads, which read what may be cut.

Modules that hold others are set to training, and layers stay as they are: no dropout, no
statistics of the batch. It knows exported graphs, no rules.

Rare case. Models: of benchmarks/coverage/models.txt torchvision's googlenet and inception_v3.
Without it: the heads keep their sizes, and a pruned model does not run in training mode.
Tests: test_a_head_for_training_loses_what_it_reads in test_trace.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor, nn

from search.errors import GraphError
from search.graph.dependency.costs import mac_products
from search.graph.dependency.groups import Group
from search.graph.dependency.memory import activations_of
from search.graph.dependency.propagation import Propagation
from search.graph.exported.deadline import Deadline
from search.graph.exported.export import Exported, export
from search.graph.exported.nodes import module_path
from search.graph.pruning_graph import PruningGraph
from search.tensors import named_tensors

ASIDE = "only a branch that evaluation does not take makes its units"


@contextmanager
def branches_of(model: nn.Module) -> Iterator[None]:
    """Inside, the modules of a model in evaluation mode that hold others are in training."""
    holders = [module for module in model.modules() if any(True for _ in module.children())]
    for module in holders:
        module.training = True
    try:
        yield
    finally:
        for module in holders:
            module.training = False


def with_branches(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    unused: Collection[str],
    deadline: Deadline,
) -> Exported | None:
    """The export inside `branches_of` the model; None if it uses no more weights.

    Args:
        model: in evaluation mode.
        inputs: a batch of two.
        unused: the parameters that it does not use in evaluation mode.
        deadline: of the export.
    """
    tensors = named_tensors(model)
    if all(tensors[name].ndim < 2 for name in unused):
        return None
    try:
        with branches_of(model):
            exported = export(model, inputs, deadline)
    except GraphError:
        return None
    return exported if set(unused) - set(unread(exported, unused)) else None


def unread(exported: Exported, names: Collection[str]) -> list[str]:
    """Those of the parameters `names` that no operator reads."""
    placeholders = exported.graph_module.graph.find_nodes(op="placeholder")
    read = {exported.sources.get(node.name) for node in placeholders if node.users}
    return [name for name in names if name not in read]


def set_aside(
    graph: PruningGraph, propagation: Propagation, unused: Collection[str]
) -> PruningGraph:
    """An analysis of what `with_branches` exported, that counts what evaluation computes.

    Args:
        graph: the analysis.
        propagation: its labels.
        unused: the parameters that the model does not use in evaluation mode; units that only
            these make are frozen.
    """
    owners = {name.rpartition(".")[0] for name in unused}
    computed = {
        node: value
        for node, value in propagation.values.items()
        if module_path(node) not in owners
    }
    evaluated = replace(propagation, values=computed)
    return replace(
        graph,
        groups=tuple(_aside(group, frozenset(unused)) for group in graph.groups),
        mac_counts=mac_products(evaluated, dynamic=graph.dynamic_batch),
        activations=activations_of(evaluated),
    )


def _aside(group: Group, unused: frozenset[str]) -> Group:
    made = (member.tensor for member in group.members if member.role == "producer")
    return replace(group, status="frozen", reason=ASIDE) if unused.issuperset(made) else group
