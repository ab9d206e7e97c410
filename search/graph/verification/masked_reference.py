"""The dense graph run with units zeroed: what the pruned model must compute.

Units are zeroed wherever a value carries them, beginning at their producers' outputs, and a block
where its branch is added. Norms and means over units run over the kept ones. A view of a masked
value is masked already, and must stay a view: models write through it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.linalg import vector_norm
from torch.utils import _pytree as pytree

from search.graph.dependency.labels import COUNTING, FIXED, Atoms, Block, KeepMask, Labels
from search.graph.dependency.propagation import Propagation
from search.graph.exported.export import BATCH, Exported
from search.graph.exported.nodes import dims_of, operator_name
from search.graph.exported.vmap_levels import levels_closed

# A norm over the unit alone undoes what was done before it, so it is done again.
_NORMS = ("group_norm", "instance_norm")
_PRODUCERS = (
    "addmm", "baddbmm", "bmm", "conv", "einsum", "embedding", "linear", "matmul", "mm", *_NORMS,
)  # fmt: skip
_REPEATING = ("broadcast_to", "expand", "expand_as")
_PICKING = ("gather", "index", "index_select")
_READERS = ("addmm", "batch_norm", "conv", "embedding", "group_norm", "layer_norm", "linear")

_SINGLE = {torch.float64: torch.float32, torch.complex128: torch.complex64}

GatheredArguments: TypeAlias = list[Any] | None


class MaskedInterpreter(fx.Interpreter):
    """Runs the exported graph; see `run_masked`."""

    def __init__(self, exported: Exported, propagation: Propagation) -> None:
        super().__init__(exported.graph_module)
        self._exported = exported
        self._propagation = propagation
        self._blocks = {block.add: block for block in propagation.blocks}
        self._kept: KeepMask = np.ones(propagation.atoms, bool)
        self._counted: KeepMask = np.zeros(propagation.atoms, bool)
        self._counted[propagation.counted] = True
        self._perturbation: Tensor | None = None
        self._is_single = False

    def run_masked(
        self,
        tensors: Mapping[str, Tensor],
        inputs: Sequence[Tensor],
        kept: KeepMask,
        perturbation: Tensor | None = None,
    ) -> list[Any]:
        """The outputs of the graph when only the atoms in `kept` take part.

        Args:
            tensors: parameters and buffers by name.
            inputs: the model's inputs.
            kept: atom -> whether it stays, shape (atoms,).
            perturbation: zeros, shape (atoms,); their gradient tells which units matter. What a
                producer makes, and what a branch adds, is moved by them along a random
                direction, in terms of its largest value. Where they are of float32, so is
                everything else.
        """
        self._kept, self._perturbation = kept, perturbation
        self._is_single = perturbation is not None and perturbation.dtype is torch.float32
        user = dict(zip(self._exported.inputs, inputs, strict=True))
        given = {**self._exported.constants_for(tensors), **user}
        arguments = []
        for node in self._exported.graph_module.graph.nodes:
            if node.op == "placeholder":
                source = self._exported.sources.get(node.name)
                known = tensors[source] if source else given[node.name]
                if not isinstance(known, nn.Parameter):
                    known = _single(known.clone()) if self._is_single else known.clone()
                arguments.append(known)
        with levels_closed():
            return list(self.run(*arguments))

    def run_node(self, n: fx.Node) -> Any:
        """One operator, then zeros for the units that are gone."""
        if n.op == "output":
            return super().run_node(n)
        computed = self._run_on_kept(n) if n.op == "call_function" else None
        if n in self._blocks:
            computed = self._added(n, self._blocks[n])
        value = super().run_node(n) if computed is None else computed
        labels = self._propagation.values.get(n, ())
        if not labels or _is_masked(n):
            return value
        if isinstance(value, Tensor):
            return self._masked_result(n, value, labels[0])
        return [
            self._masked(part, own, False) if isinstance(part, Tensor) else part
            for part, own in zip(value, labels, strict=True)
        ]

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Calls an operator; in single precision it takes and makes nothing in double."""
        if self._is_single:
            args, kwargs = pytree.tree_map(_single, (args, kwargs))
        return super().call_function(target, args, kwargs)

    def _added(self, node: fx.Node, block: Block) -> Any:
        """The sum that a block ends in, its branch zeroed if it is gone."""
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        place = node.args.index(block.branch)
        branch = args[place]
        if not self._kept[block.atom]:
            branch = torch.zeros_like(branch)
        elif self._perturbation is not None:
            branch = _perturbed(branch, 0, self._perturbation[block.atom].expand(branch.shape[:1]))
        args = (*args[:place], branch, *args[place + 1 :])
        return self.call_function(node.target, args, kwargs)

    def _masked_result(self, node: fx.Node, value: Tensor, labels: Labels) -> Tensor:
        schema = getattr(node.target, "_schema", None)
        if schema is not None and schema.is_mutable:
            if labels.labelled:
                value.data.copy_(self._masked(value.data, labels, False))
            return value
        return self._masked(value, labels, operator_name(node).startswith(_PRODUCERS))

    def _masked(self, value: Tensor, labels: Labels, produced: bool) -> Tensor:
        is_real = value.is_floating_point()
        for dim in labels.labelled if is_real or value.is_complex() else ():
            atoms = _atoms(labels, dim, value)
            stays = self._stays(labels, dim, value)
            if not bool(stays.all()):
                nothing = value.new_zeros(())  # a number would take four times as long
                value = torch.where(_along(stays, dim, value), value, nothing)
            is_perturbed = produced and is_real and value.numel() > 0
            if is_perturbed and self._perturbation is not None and atoms is not None:
                places = torch.from_numpy(atoms).to(value.device)
                offsets = torch.where(places == FIXED, 0.0, self._perturbation[places])
                value = _perturbed(value, dim, offsets)
        return value

    def _stays(self, labels: Labels, dim: int, value: Tensor, counts: bool = False) -> Tensor:
        atoms = _atoms(labels, dim, value)
        if atoms is None:
            return torch.ones(labels.shape[dim], dtype=torch.bool, device=value.device)
        stays = (atoms == FIXED) | self._kept[atoms]
        stays |= self._counted[atoms] if counts else False
        return torch.from_numpy(stays).to(value.device)

    def _run_on_kept(self, node: fx.Node) -> Any:
        """Norms and means over units that are gone: gathered, computed, put back among zeros."""
        name, source = operator_name(node), next(iter(node.args), None)
        if name not in _STATISTICS or not isinstance(source, fx.Node):
            return None
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        labels, x = self._propagation.values[source][0], args[0]
        counts = name in COUNTING
        stays = {dim: self._stays(labels, dim, x, counts) for dim in labels.labelled}
        places = {dim: kept.nonzero()[:, 0] for dim, kept in stays.items() if not bool(kept.all())}
        if not places:
            return None
        computed = _STATISTICS[name](args, places)
        if computed is None:
            return None
        value = self.call_function(node.target, tuple(computed), kwargs)
        return value if name in _REDUCING else _scatter(value, x, places)


def _atoms(labels: Labels, dim: int, value: Tensor) -> Atoms | None:
    """Those along `dim`; of one example where a dimension of examples and units (heads, say) was
    traced for two."""
    atoms, size = labels.axes[dim], value.shape[dim]
    if atoms is None or len(atoms) != BATCH * size or (atoms[:size] != atoms[size:]).any():
        return atoms
    return atoms[:size]


def _single(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype in _SINGLE:
        return value.detach().to(_SINGLE[value.dtype])
    return _SINGLE.get(value, value) if isinstance(value, torch.dtype) else value


def _is_masked(node: fx.Node) -> bool:
    """A parameter that only layers read, a view, a list of sizes, or what was picked from a masked
    value (the weights of an expert, for every token): nothing to zero."""
    if node.op == "placeholder":
        return all(operator_name(user).startswith(_READERS) for user in node.users)
    if node.target is operator.getitem or operator_name(node) in _PICKING:
        return True
    return getattr(node.target, "is_view", False) and operator_name(node) not in _REPEATING


def _along(vector: Tensor, dim: int, value: Tensor) -> Tensor:
    return vector.reshape([-1 if d == dim else 1 for d in range(value.ndim)])


def _perturbed(value: Tensor, dim: int, offsets: Tensor) -> Tensor:
    """The value moved along a random direction, in units of the largest values along `dim`.

    A product of two small tensors, unlike a factor on the value, leaves autograd little to keep.
    """
    others = [d for d in range(value.ndim) if d != dim]
    sizes = value.detach()
    # amax takes nine times as long over several dimensions
    largest = vector_norm(sizes, math.inf, others, keepdim=True) if others else sizes.abs()
    shape = [1 if d == dim else size for d, size in enumerate(value.shape)]
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(shape, generator=generator, dtype=value.dtype)
    return torch.addcmul(value, _along(offsets, dim, value) * largest, direction.to(value.device))


def _gather(x: Tensor, places: Mapping[int, Tensor]) -> Tensor:
    for dim, kept in places.items():
        x = x.index_select(dim, kept)
    return x


def _scatter(value: Tensor, like: Tensor, places: Mapping[int, Tensor]) -> Tensor:
    for dim, kept in places.items():
        shape = [like.shape[d] if d == dim else size for d, size in enumerate(value.shape)]
        value = value.new_zeros(shape).index_copy(dim, kept, value)
    return value


def _mean_arguments(args: Sequence[Any], places: Mapping[int, Tensor]) -> GatheredArguments:
    """Dimensions that the mean keeps are masked afterwards, so they must not be gathered."""
    x = args[0]
    given = args[1] if len(args) > 1 and not isinstance(args[1], bool) else None
    reduced = dims_of(given, x.ndim)
    return [_gather(x, {dim: kept for dim, kept in places.items() if dim in reduced}), *args[1:]]


def _layer_norm_arguments(args: Sequence[Any], places: Mapping[int, Tensor]) -> GatheredArguments:
    x = _gather(args[0], places)
    lead = x.ndim - len(args[1])
    inner = {dim - lead: kept for dim, kept in places.items() if dim >= lead}
    return [x, list(x.shape[lead:]), *_gather_each(args[2:], inner)]


def _group_norm_arguments(args: Sequence[Any], places: Mapping[int, Tensor]) -> GatheredArguments:
    """Where whole norm groups leave, the others compute what they did."""
    if 1 in places and places.keys() <= {1}:
        left = torch.zeros(args[0].shape[1], dtype=torch.bool, device=args[0].device)
        left[places[1]] = True
        if not bool(left.view(args[1], -1).any(1).all()):
            return None
    inner = {0: places[1]} if 1 in places else {}
    return [_gather(args[0], places), args[1], *_gather_each(args[2:], inner)]


def _batch_norm_arguments(args: Sequence[Any], places: Mapping[int, Tensor]) -> GatheredArguments:
    """Statistics of the batch itself, over dimensions that lose units."""
    if not args[5] or places.keys() <= {1}:
        return None
    inner = {0: places[1]} if 1 in places else {}
    return [_gather(args[0], places), *_gather_each(args[1:5], inner), *args[5:]]


def _gather_each(values: Sequence[Any], places: Mapping[int, Tensor]) -> list[Any]:
    return [_gather(value, places) if isinstance(value, Tensor) else value for value in values]


_REDUCING = ("mean", "std", "std_mean", "var", "var_mean")
_STATISTICS: Mapping[str, Callable[[Sequence[Any], Mapping[int, Tensor]], GatheredArguments]] = {
    **dict.fromkeys(_REDUCING, _mean_arguments),
    "batch_norm": _batch_norm_arguments,
    "group_norm": _group_norm_arguments,
    "instance_norm": _batch_norm_arguments,
    "layer_norm": _layer_norm_arguments,
    "rms_norm": _layer_norm_arguments,
}
