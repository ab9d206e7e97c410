"""Compares outputs, and decides whether rounding explains a difference; with the plans, inputs and
outputs that trials have in common.

It knows no trial, and no graph but the groups of a plan.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from search.errors import PlanError
from search.graph.dependency.groups import Group
from search.graph.exported.diagnostics import summary_of
from search.graph.exported.export import BATCH, batched
from search.plan import Plan, best_of
from search.tensors import named_tensors

# All are relative errors or multiples of them. The counts are of the traces in
# tests/search_tests/graph_tests, in float64: 1246 trials of numbers passed. 76 failed, and were
# off by 6e-3 at least; three networks that are made to lie near a threshold are not among them.

# A pruned copy that is off by more is wrong. The largest error that passed was 1.4e-10.
TOLERANCE = 1e-8
# A pruned copy that is off by no more is right without a look at the last bit: of the trials that
# passed, all but 8. No trial counts as less off than this.
EXACT = 1e-12
# What is off by more than EXACT must be explained: it may be so many times what moving every
# weight by its last bit changes. Without this bound, a class that adds 1e-9 times the number of
# its units would pass (`Counting` in the tests).
ROUNDING = 100
# A group must matter by so many times what a trial is off by, or the trial proves nothing of it.
# No influence was between 6e-13 and 2.9e-8, and the smallest that proves something is 1e-10.
CONTROL = 100
# A dense model that is off by more is not what was exported. One that draws random numbers in its
# forward was off by 0.7, all others by 2.2e-16 at most.
UNLIKE = 1e-4
# Stands in for a norm or a largest value of zero; above the smallest normal float64, 2.2e-308.
TINY = 1e-300


@dataclass(frozen=True)
class Comparison:
    """How far the outputs of a model are from those that they must be.

    Attributes:
        error: the largest relative error.
        measure_last_bit: see `last_bit`; it takes a forward, and is called at most once.
    """

    error: float
    measure_last_bit: Callable[[], float]

    @cached_property
    def last_bit(self) -> float:
        """The relative change of the outputs when every weight moves by about its last bit."""
        return self.measure_last_bit()

    @property
    def is_equal(self) -> bool:
        """Whether rounding explains the error."""
        if self.error <= EXACT:
            return True
        return self.error <= TOLERANCE and self.error <= ROUNDING * self.last_bit


def compare(
    outputs: Sequence[Tensor],
    expected: Sequence[Tensor],
    inputs: Sequence[Tensor],
    make_model: Callable[[], nn.Module],
) -> Comparison:
    """Compare what a model gives with what it must give.

    Args:
        outputs: of the model.
        expected: what they must be.
        inputs: of the model.
        make_model: makes the same model once more, whose weights are then moved.
    """

    def measure_last_bit() -> float:
        moved = make_model()
        _move_last_bits(moved)
        return relative_error(outputs_of(moved, inputs), outputs)

    return Comparison(relative_error(outputs, expected), measure_last_bit)


def _move_last_bits(model: nn.Module) -> None:
    """Move every parameter and statistic by about its last bit, in place."""
    generator = torch.Generator().manual_seed(0)
    bit = torch.finfo(torch.float64).eps
    for tensor in named_tensors(model).values():
        if tensor.dtype is torch.float64:
            moves = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.detach().mul_(1.0 + 2.0 * bit * moves.to(tensor.device))


def first_examples(dynamic: bool, inputs: Sequence[Tensor]) -> Sequence[Tensor] | None:
    """The first of two examples; None where the batch size is not `dynamic`."""
    if not dynamic:
        return None
    return [value[:1] if batched(value, BATCH) else value for value in inputs]


def random_plan(groups: Sequence[Group], names: Sequence[str], seed: int) -> Plan:
    """About half of the units of each group in `names`, at random; all of the others.

    What an even seed keeps the next one removes, but for a unit in the middle of an odd number: so
    every half is tried, also of a group of two. A block that one seed removes the next one keeps.
    """
    kept = dict(Plan.dense(groups).kept)
    for group in groups:
        if group.name in names:
            generator = torch.Generator().manual_seed(
                zlib.crc32(f"{seed // 2} {group.name}".encode())
            )
            order = torch.randperm(group.width, generator=generator).tolist()
            if seed % 2:
                order.reverse()
            count = (group.width + 1) // 2
            if group.kind == "block":
                count = (zlib.crc32(group.name.encode()) + seed) % 2
            kept[group.name] = best_of(order, count, group.required_any_of)
    return Plan(kept)


def relative_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference, relative to the largest finite value of the same output.

    Infinite where shapes differ, or where what is not finite is not the same.
    """
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        return float("inf")
    pairs = zip(map(_reals, found), map(_reals, expected), strict=True)
    return max((_error(left, right) for left, right in pairs if right.numel()), default=0.0)


def _error(found: Tensor, expected: Tensor) -> float:
    """What is not finite must be the same."""
    odd = ~expected.isfinite()
    if bool(odd.any()):
        same = (found == expected) | (found.isnan() & expected.isnan())
        if not bool(same[odd].all()):
            return float("inf")
        found, expected = found.masked_fill(odd, 0.0), expected.masked_fill(odd, 0.0)
    error = float((found - expected).abs().max() / expected.abs().max().clamp_min(TINY))
    return error if error == error else float("inf")


def _reals(output: Tensor) -> Tensor:
    """In float64, real and imaginary parts side by side."""
    output = output.detach()
    return (torch.view_as_real(output.resolve_conj()) if output.is_complex() else output).double()


def outputs_of(model: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The tensors that the model returns, without gradients and warnings."""
    with torch.no_grad(), quiet():
        return tensors_among(model(*(value.clone() for value in inputs)))


def quiet() -> AbstractContextManager[None]:
    """Inside, no warning is shown."""
    return warnings.catch_warnings(action="ignore")


def tensors_among(outputs: object) -> list[Tensor]:
    """The tensors in what a model returns, however they are nested."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def failure_on_smaller_tensors(error: Exception) -> str:
    """What is reported where a pruned model cannot be made, or does not run."""
    if isinstance(error, PlanError):
        return str(error)
    return f"the model's own forward fails on smaller tensors ({summary_of(error)})"
