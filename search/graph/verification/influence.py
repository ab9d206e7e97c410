"""What moving the units of a group changes in the outputs, by the gradient of the dense graph.

It knows the groups and no result of a trial.

| symbol | meaning |
|---|---|
| influence | the largest relative change of the output by moving one unit, to first order |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from search.graph.dependency.labels import KeepMask
from search.graph.exported.deadline import Deadline, OutOfTime
from search.graph.exported.float64_mode import nothing_in_float64
from search.graph.pruning_graph import PruningGraph
from search.graph.trial_log import TrialLog, Verdict
from search.graph.verification.comparison import (
    TINY,
    first_examples,
    quiet,
    random_plan,
    tensors_among,
)
from search.graph.verification.masked_reference import MaskedInterpreter
from search.graph.verification.redraw import redraw
from search.graph.verification.subject import Subject
from search.tensors import named_tensors

SLAB = 2**24  # numbers: 32 MiB in bfloat16

Gradient: TypeAlias = Callable[[Sequence[Tensor], Tensor], Tensor]


def projected_gradient(outputs: Sequence[Tensor], perturbation: Tensor) -> Tensor:
    """What moving each atom changes: the gradient of a random projection of the outputs.

    Args:
        outputs: that depend on `perturbation`.
        perturbation: zeros, shape (atoms,).

    Returns:
        Of the shape of `perturbation`, in float64 on the CPU; zeros where an operator has no
        derivative.
    """
    try:
        return (
            torch.autograd.grad(_projection(outputs, perturbation), perturbation)[0].cpu().double()
        )
    except (NotImplementedError, RuntimeError):
        return torch.zeros(perturbation.shape, dtype=torch.float64)


class Influence:
    """Measures what matters.

    Args:
        subject: its copy is redrawn.
        log: of the measurements.
        gradient: see `projected_gradient`.
    """

    def __init__(
        self, subject: Subject, log: TrialLog, gradient: Gradient = projected_gradient
    ) -> None:
        self._graph, self._log, self._gradient = subject.graph, log, gradient
        self._masked = MaskedInterpreter(subject.exported, subject.propagation)
        self._has_inner = bool(subject.exported.graph_module.graph.find_nodes(op="get_attr"))
        batch = self._graph.example_inputs
        self._fewest = first_examples(self._graph.dynamic_batch, batch) or batch

    def beside(self, names: Sequence[str], seed: int, scale: float) -> dict[str, float]:
        """Measure every group and block where the groups `names` are cut.

        What matters in the dense model need not matter in a pruned one: a softmax may be decided
        there. Blocks all stay, because one that is gone cannot be moved.

        Args:
            names: of groups.
            seed: of the parameters and of the plan.
            scale: of the weights, see `redraw`.

        Returns:
            Name of a group -> its influence. Empty when the time is over.
        """

        def run() -> Verdict:
            redraw(self._graph.model, seed, scale)
            kept = self._graph.kept_atoms(random_plan(self._graph.groups, names, seed))
            return {"influence": _largest_per_group(self._changes(kept), self._graph)}

        verdict = self._log.verdict(f"influence {seed} {scale}", names, run)
        return {} if verdict is None else dict(verdict["influence"])

    def _changes(self, kept: KeepMask) -> Tensor:
        """What moving each atom changes, in single precision and of one example where that will
        do: its order is enough."""
        batch = self._graph.example_inputs
        attempts = [(dtype, self._fewest) for dtype in (torch.float32, torch.float64)]
        if self._fewest is not batch:  # an export for two may have no sizes for one
            attempts.insert(1, (torch.float32, batch))
        for dtype, inputs in attempts:
            with suppress(IndexError, RuntimeError, TypeError):
                changes = self._changes_in(dtype, inputs, kept)
                if bool(changes.isfinite().all()) and bool(changes.any()):
                    return changes
        return self._changes_in(torch.float64, batch, kept).nan_to_num(0.0, 0.0, 0.0)

    def _changes_in(self, dtype: torch.dtype, inputs: Sequence[Tensor], kept: KeepMask) -> Tensor:
        """What moving each atom changes, computed in `dtype`."""
        tensors = named_tensors(self._graph.model)
        device, count = inputs[0].device, len(self._graph.group_of)
        memory: AbstractContextManager[Any] = _ShortMemory(self._log.deadline)
        if self._has_inner:  # operators that call other graphs take no hooks
            memory = torch.enable_grad()
        precision = nothing_in_float64() if dtype is torch.float32 else nullcontext()
        with memory, precision, quiet():
            perturbation = torch.zeros(count, dtype=dtype, device=device, requires_grad=True)
            outputs = self._masked.run_masked(tensors, inputs, kept, perturbation)
        return self._gradient(tensors_among(outputs), perturbation)


class _ShortMemory(torch.autograd.graph.saved_tensors_hooks):
    """Autograd keeps half of the bytes: an influence needs no digits, only its order.

    They are kept in large slabs, because small pieces between the activations, which come and go,
    would keep the heap from giving back anything. Where it gives and takes them is also where a
    pass can stop.
    """

    def __init__(self, deadline: Deadline) -> None:
        super().__init__(self._pack, self._unpack)
        self._deadline = deadline
        self._slab = torch.empty(0, dtype=torch.bfloat16)
        self._used = 0

    def _pack(self, saved: Tensor) -> tuple[Tensor, torch.dtype]:
        source = saved if saved._base is None else saved._base
        if isinstance(source, nn.Parameter) or not saved.is_floating_point():
            return saved, saved.dtype
        if self._deadline.refuses_step():
            raise OutOfTime
        size = saved.numel()
        if size > len(self._slab) - self._used or saved.device != self._slab.device:
            self._slab = torch.empty(max(size, SLAB), dtype=torch.bfloat16, device=saved.device)
            self._used = 0
        kept = self._slab[self._used : self._used + size].view(saved.shape).copy_(saved)
        self._used += size
        return kept, saved.dtype

    def _unpack(self, packed: tuple[Tensor, torch.dtype]) -> Tensor:
        if self._deadline.refuses_step():
            raise OutOfTime
        kept, dtype = packed
        return kept.to(dtype)


def _projection(outputs: Sequence[Tensor], perturbation: Tensor) -> Tensor:
    """A random projection of all outputs, each divided by its norm."""
    total = 0.0 * perturbation.sum()
    generator = torch.Generator().manual_seed(0)
    for output in outputs:
        if output.requires_grad:
            output = torch.view_as_real(output.resolve_conj()) if output.is_complex() else output
            output = torch.where(output.isfinite(), output, 0.0)
            direction = torch.randn(output.shape, generator=generator, dtype=torch.float64)
            unit = output / output.detach().norm().clamp_min(TINY)
            total = total + (unit * direction.to(output.device)).sum()
    return total


def _largest_per_group(change: Tensor, graph: PruningGraph) -> dict[str, float]:
    """The largest |sum of `change` over the atoms of a unit| that can go, in every group."""
    largest: dict[str, float] = {}
    for number, group in enumerate(graph.groups):
        own = torch.from_numpy((graph.group_of == number).nonzero()[0])
        units = torch.from_numpy(graph.unit_of)[own]
        sums = torch.zeros(group.width, dtype=torch.float64)
        sums.index_add_(0, units, change[own])
        sums[[part[0] for part in group.required_any_of if len(part) == 1]] = 0.0
        largest[group.name] = float(sums.abs().max())
    return largest
