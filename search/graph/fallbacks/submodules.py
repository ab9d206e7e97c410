"""Finds the parts of a model that torch.export can trace, where it cannot trace the whole.

A part is a submodule that computes with tensors alone: a backbone, a head. Parts run side by side
on the inputs that they received in a real forward; so the units that leave a part are outputs.

Rare case. Models: forwards that branch on values; of benchmarks/coverage/models.txt detectors of
torchvision, whose non-maximum suppression does.
Without it: such a model is refused as a whole.
Tests: fallbacks_tests/test_submodules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from search.errors import GraphError
from search.graph.dependency.groups import Group
from search.graph.exported.copies import quiet_copy
from search.graph.exported.deadline import Deadline
from search.graph.exported.diagnostics import summary_of
from search.graph.exported.export import BATCH, batch_of_two, export
from search.graph.pruning_graph import PruningGraph, frozen_by
from search.graph.trial_log import TrialLog
from search.graph.verification.bisection import Bisection
from search.graph.verification.comparison import random_plan
from search.graph.verification.fingerprint import digest_of
from search.graph.verification.trial_result import TrialResult
from search.surgery import prune
from search.tensors import named_tensors, shell_of

MOST_CALLS = 8
OUTPUT = "its units are an output of the model"
LEAVES = "its units leave the traced part of the model"
NO_PROGRAM = (
    "the model's own forward holds constants that do not follow, and the whole model cannot be "
    "exported to replace it"
)


@dataclass(frozen=True)
class SubmoduleCall:
    """What a submodule was called with: its arguments as a list of leaves and their nesting."""

    module: str
    leaves: tuple[Any, ...]
    nesting: pytree.TreeSpec

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors among the leaves."""
        return tuple(leaf for leaf in self.leaves if isinstance(leaf, Tensor))


def traceable_calls(
    model: nn.Module, inputs: Sequence[Tensor], deadline: Deadline
) -> tuple[SubmoduleCall, ...]:
    """The calls of the largest submodules that can be exported, those on whole batches first.

    Args:
        model: any module that runs on `inputs`.
        inputs: its example inputs.
        deadline: what was exported before it is returned.
    """
    copied = quiet_copy(model)
    try:
        calls = _recorded(copied, batch_of_two(inputs))
    except Exception:  # whatever the forward of a user's module raises
        return ()
    chosen = [call for name in _largest(copied, calls, deadline, "") for call in calls[name]]
    return tuple(sorted(chosen, key=lambda call: call.tensors[0].shape[:1] != (BATCH,)))


def side_by_side(model: nn.Module, calls: Sequence[SubmoduleCall]) -> nn.Module:
    """A copy that shares the tensors of `model` under the same names, and only makes `calls`."""
    shell = shell_of(model)
    shell._forward_hooks.clear()
    shell._forward_pre_hooks.clear()
    shell.__dict__["forward"] = MethodType(_forward_of(tuple(calls)), shell)
    return shell


def inputs_of(calls: Sequence[SubmoduleCall]) -> tuple[Tensor, ...]:
    """The inputs of what `side_by_side` made."""
    return tuple(tensor for call in calls for tensor in call.tensors)


def rejoined(
    graph: PruningGraph,
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    calls: Sequence[SubmoduleCall],
    log: TrialLog,
) -> PruningGraph:
    """The analysis of the parts as one of the whole, which must run with all of them cut.

    Args:
        graph: the analysis of the parts side by side.
        model: the whole.
        inputs: its example inputs.
        calls: those of the parts.
        log: of the trials of the whole.
    """
    parts = tuple(dict.fromkeys(call.module for call in calls))
    unused = (name for name in graph.unused if name.startswith(tuple(f"{p}." for p in parts)))
    whole = replace(
        graph,
        model=model,
        example_inputs=inputs,
        groups=tuple(map(_in_whole, graph.groups)),
        unused=tuple(unused),
        program=None,
        exporting=None,
        parts=parts,
    )
    copied, batch = quiet_copy(model), batch_of_two(inputs)

    def run(names: Sequence[str]) -> str | None:
        try:
            _run(prune(copied, whole, random_plan(whole.groups, names, 0)), batch)
        except Exception as error:  # whatever the forward of a user's module raises
            where = "outside of the traced part the model fails on smaller tensors"
            return f"{where} ({summary_of(error)})"
        return None

    tensors = {**named_tensors(copied), **{f"input {i}": v for i, v in enumerate(batch)}}
    trial = f"the whole {digest_of(tensors)}"  # its control flow may depend on its values

    def result(names: Sequence[str]) -> TrialResult:
        return TrialResult(log.problem(trial, names, lambda: run(names)))

    found = Bisection().bisect([group.name for group in whole.prunable], result)
    return frozen_by(whole, found.reasons)


def _in_whole(group: Group) -> Group:
    if group.status == "frozen":
        return replace(group, reason=group.reason.replace(OUTPUT, LEAVES), form="module")
    if group.form == "graph":
        return replace(group, status="frozen", reason=NO_PROGRAM, form="module")
    return group


def _recorded(model: nn.Module, inputs: Sequence[Tensor]) -> dict[str, list[SubmoduleCall]]:
    """Submodule that holds others -> its first calls in a forward."""
    calls: dict[str, list[SubmoduleCall]] = {}

    def recorder(name: str) -> Callable[..., None]:
        def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            known = calls.setdefault(name, [])
            if len(known) < MOST_CALLS:
                leaves, nesting = pytree.tree_flatten((args, kwargs))
                known.append(SubmoduleCall(name, tuple(map(_copied, leaves)), nesting))

        return record

    handles = [
        module.register_forward_pre_hook(recorder(name), with_kwargs=True)
        for name, module in model.named_modules()
        if name and any(True for _ in module.children())
    ]
    try:
        _run(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _copied(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def _largest(
    model: nn.Module, calls: Mapping[str, Sequence[SubmoduleCall]], deadline: Deadline, path: str
) -> Iterator[str]:
    """Below `path`, the submodules that can be exported while what holds them cannot be."""
    for name, child in model.get_submodule(path).named_children():
        inner = f"{path}.{name}" if path else name
        if deadline.refuses_step() or not any(True for _ in child.parameters()):
            continue
        if inner in calls and _exportable(model, calls[inner], deadline):
            yield inner
        else:
            yield from _largest(model, calls, deadline, inner)


def _exportable(model: nn.Module, calls: Sequence[SubmoduleCall], deadline: Deadline) -> bool:
    if not all(call.tensors and call.tensors[0].ndim for call in calls):
        return False
    try:
        export(side_by_side(model, calls), inputs_of(calls), deadline)
    except GraphError:
        return False
    return True


def _forward_of(calls: tuple[SubmoduleCall, ...]) -> Callable[..., tuple[Tensor, ...]]:
    def forward(self: nn.Module, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        outputs: list[Tensor] = []
        for call in calls:
            leaves = [next(given) if isinstance(x, Tensor) else x for x in call.leaves]
            args, kwargs = pytree.tree_unflatten(leaves, call.nesting)
            result = self.get_submodule(call.module)(*args, **kwargs)
            outputs += [x for x in pytree.tree_leaves(result) if isinstance(x, Tensor)]
        return tuple(outputs)

    return forward


def _run(model: nn.Module, inputs: Sequence[Tensor]) -> None:
    with torch.no_grad():
        model(*(value.clone() for value in inputs))
