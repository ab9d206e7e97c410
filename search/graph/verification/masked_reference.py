"""The dense graph run with units zeroed: what the pruned model must compute.

Units are zeroed wherever a value carries them, beginning at their producers' outputs, and a block
where its branch is added. Norms and means over units run over the kept ones. A view of a masked
value is masked already, and must stay a view: models write through it. It knows labels, and no
group.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.linalg import vector_norm
from torch.utils import _pytree as pytree

from search.graph.dependency.labels import FIXED, Atoms, Block, KeepMask, Labels
from search.graph.dependency.operators.operator import Operator
from search.graph.dependency.propagation import Propagation
from search.graph.exported.export import BATCH, Exported
from search.graph.exported.nodes import operator_name
from search.graph.exported.vmap_levels import levels_closed
from search.graph.verification.comparison import quiet, tensors_among

_UNKNOWN = Operator(())
_SINGLE = {torch.float64: torch.float32, torch.complex128: torch.complex64}


class MaskedReference:
    """What a pruned model must compute.

    Args:
        exported: the dense graph.
        propagation: its labels.
        tensors: parameters and buffers by name; where they are overwritten, the next outputs are
            those of the new values.
    """

    def __init__(
        self, exported: Exported, propagation: Propagation, tensors: Mapping[str, Tensor]
    ) -> None:
        self._interpreter = MaskedInterpreter(exported, propagation)
        self._tensors = tensors

    def outputs(self, inputs: Sequence[Tensor], kept: KeepMask) -> list[Tensor]:
        """The outputs of the dense graph when only the atoms in `kept` take part.

        Args:
            inputs: the model's inputs.
            kept: atom -> whether it stays, shape (atoms,).
        """
        with torch.no_grad(), quiet():
            return tensors_among(self._interpreter.run_masked(self._tensors, inputs, kept))


class MaskedInterpreter(fx.Interpreter):
    """Runs the exported graph; see `run_masked`.

    Args:
        exported: the dense graph.
        propagation: its labels.
    """

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
            perturbation: zeros, shape (atoms,); their gradient shows which units matter. What a
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
        if not labels or self._is_masked(n):
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
        return self._masked(value, labels, self._record(node).is_producer)

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
        statistic, source = self._record(node).statistic, next(iter(node.args), None)
        if statistic is None or not isinstance(source, fx.Node):
            return None
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        labels, x = self._propagation.values[source][0], args[0]
        counts = statistic.counts_removed
        stays = {dim: self._stays(labels, dim, x, counts) for dim in labels.labelled}
        places = {dim: kept.nonzero()[:, 0] for dim, kept in stays.items() if not bool(kept.all())}
        if not places:
            return None
        gathered = statistic.gather(args, places)
        if gathered is None:
            return None
        value = self.call_function(node.target, tuple(gathered), kwargs)
        return value if statistic.reduces else _scatter(value, x, places)

    def _record(self, node: fx.Node) -> Operator:
        return self._propagation.operators.get(operator_name(node), _UNKNOWN)

    def _is_masked(self, node: fx.Node) -> bool:
        """A parameter that only layers read, a view, a list of sizes, or what was picked from a
        masked value (the weights of an expert, for every token): nothing to zero."""
        if node.op == "placeholder":
            return all(self._record(user).reads_parameters for user in node.users)
        record = self._record(node)
        if node.target is operator.getitem or record.picks:
            return True
        return getattr(node.target, "is_view", False) and not record.repeats


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


def _scatter(value: Tensor, like: Tensor, places: Mapping[int, Tensor]) -> Tensor:
    for dim, kept in places.items():
        shape = [like.shape[d] if d == dim else size for d, size in enumerate(value.shape)]
        value = value.new_zeros(shape).index_copy(dim, kept, value)
    return value
