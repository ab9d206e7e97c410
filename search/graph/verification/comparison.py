"""TODO."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from search.errors import PlanError
from search.graph.dependency.groups import Group
from search.graph.exported.diagnostics import summary_of
from search.graph.exported.export import BATCH, batched
from search.plan import Plan, best_of
from search.tensors import named_tensors

CONTROL = 100
TOLERANCE = 1e-8
EXACT = 1e-12
ROUNDING = 100
TINY = 1e-300


def _last_bit(model: nn.Module, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
    """What the last bit of its weights, which are moved, changes in the outputs of a model."""
    _move_last_bits(model)
    return relative_error(outputs_of(model, inputs), outputs)


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

    A block that one seed removes the next seed keeps.
    """
    kept = dict(Plan.dense(groups).kept)
    for group in groups:
        if group.name in names:
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {group.name}".encode()))
            order = torch.randperm(group.width, generator=generator).tolist()
            count = (group.width + 1) // 2
            if group.kind == "block":
                count = (zlib.crc32(group.name.encode()) + seed) % 2
            kept[group.name] = best_of(order, count, group.required_any_of)
    return Plan(kept)


def relative_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference, relative to the largest finite value of the same output."""
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
    """The tensors that the model returns."""
    with torch.no_grad(), quiet():
        return tensors_among(model(*(value.clone() for value in inputs)))


def quiet() -> AbstractContextManager[None]:
    return warnings.catch_warnings(action="ignore")


def tensors_among(outputs: object) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def failure_on_smaller_tensors(error: Exception) -> str:
    if isinstance(error, PlanError):
        return str(error)
    return f"the model's own forward fails on smaller tensors ({summary_of(error)})"
