"""A file that is exported anew, with as much of the interface of what came in as can be.

First with the free batch and the other free sizes, then with the batch alone, then fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from onnx import ModelProto, version_converter
from torch import Tensor, nn

from search.errors import SkeletonError
from search.graph.exported.export import batched
from search.onnx_out.checking import Samples, tolerance, worst_difference
from search.onnx_out.delivered import REFUSALS, Delivered, checked, fixed_batch, opset_of
from search.onnx_out.interface import Interface
from search.skeleton.export import OPSET, export_proto
from search.skeleton.folding import kept_norms

BATCHES = (1, 2, 7)
LEAST_OPSET = 18  # of the exporter
TRIED = (2.0, 1.5, 0.5)  # factors on the free sizes, at which file and model are compared
MOST_WORDS = 500
MOST_NORMS = 5


@dataclass(frozen=True)
class Exporter:
    """Exports one pruned model.

    Attributes:
        model: in evaluation mode.
        resizable: gives the same model, taking other sizes than the traced ones; None where it
            does not.
        examples: inputs of a batch of two or more, as they were traced.
        samples: gives inputs for so many examples.
        interface: what the file is to have.
        batch_size: of the file where the batch cannot be free.
    """

    model: nn.Module
    resizable: Callable[[], nn.Module | None]
    examples: tuple[Tensor, ...]
    samples: Samples
    interface: Interface
    batch_size: int

    def exported(self, reason: str) -> Delivered:
        """The file, compared with the model; `reason`: why it was not edited.

        Raises:
            SkeletonError: the model cannot be exported.
            ArithmeticError: the export differs from the model by more than rounding.
            RuntimeError: ONNX Runtime does not run the export.
        """
        free, notes = self.interface.free_batch, list[str]()
        dims = self._free_dims()
        if any(dims):
            try:
                return self._resizable(dims, reason, free=free)
            except REFUSALS:
                pass  # the notes say which sizes are fixed
        if free:
            try:
                return self._made(self.model, (), reason, notes, free=True)
            except REFUSALS as error:
                told = f"the batch is fixed at {self._fixed}, because with a free one: {error}"
                notes.append(told[:MOST_WORDS])
        return self._made(self.model, (), reason, notes, free=False)

    @property
    def _fixed(self) -> int:
        return self.batch_size if self.interface.free_batch else fixed_batch(self.interface)

    def _free_dims(self) -> tuple[tuple[int, ...], ...]:
        """Of each input, the dimensions beside the batch that what came in leaves free."""
        return tuple(
            tuple(
                place
                for place, size in enumerate(port.sizes or ())
                if place and not isinstance(size, int)
            )
            for port in self.interface.inputs
        )

    def _resizable(
        self, dims: tuple[tuple[int, ...], ...], reason: str, *, free: bool
    ) -> Delivered:
        """With free sizes, compared at one other size at least."""
        model = self.resizable()
        if model is None:
            raise SkeletonError("the model must take other sizes, but does not")
        found = self._made(model, dims, reason, [], free=free)
        size = 2 if free else self._fixed
        compared = 0
        for inputs in _resized(self.samples(size), dims):
            try:
                with torch.no_grad():
                    model(*inputs)
            except REFUSALS:
                continue  # the model does not take this size
            worst = worst_difference(model, found.onnx_bytes, partial(_same, inputs), (size,))
            compared += 1
            if not worst <= tolerance(ModelProto.FromString(found.onnx_bytes)):
                raise ArithmeticError(f"at other sizes the file differs by {worst:.3g}")
        if not compared:
            raise ArithmeticError("no other size could be compared")
        return found

    def _made(
        self,
        model: nn.Module,
        dims: tuple[tuple[int, ...], ...],
        reason: str,
        notes: list[str],
        *,
        free: bool,
    ) -> Delivered:
        interface, count = self.interface, len(self.examples[0])
        wanted = interface.opset or OPSET
        opset = min(max(wanted, LEAST_OPSET), OPSET)
        size = max(2, count) if free else self._fixed
        batches = BATCHES if free else (self._fixed,)
        proto = export_proto(
            model, self.examples, batch_size=size, free_batch=free, opset=opset, free_sizes=dims
        )
        has_batch = [free and batched(value, count) for value in self.examples]
        interface.put_back(proto, batched=has_batch)
        proto = _at_opset(proto, wanted, model, self.samples, batches)
        said = (
            *notes,
            *opset_note(proto, interface),
            *size_notes(proto, interface),
            *norm_note(proto),
        )
        return checked(proto, model, self.samples, batches, "exported", reason, said)


def _same(inputs: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
    return inputs


def _resized(
    inputs: tuple[Tensor, ...], dims: tuple[tuple[int, ...], ...]
) -> Iterator[tuple[Tensor, ...]]:
    """Inputs whose free sizes are longer or shorter by one factor: repeated or cut."""
    for factor in TRIED:
        made = []
        for value, free in zip(inputs, dims, strict=True):
            for dim in free:
                length = max(1, round(value.shape[dim] * factor))
                index = torch.arange(length) % value.shape[dim]
                value = value.index_select(dim, index)
            made.append(value)
        yield tuple(made)


def _at_opset(
    proto: ModelProto, wanted: int, model: nn.Module, samples: Samples, batches: tuple[int, ...]
) -> ModelProto:
    """Converted to an older opset where that can be, else as it is."""
    if wanted >= opset_of(proto):
        return proto
    try:
        older = version_converter.convert_version(proto, wanted)
        data = older.SerializeToString(deterministic=True)
        if worst_difference(model, data, samples, batches) <= tolerance(older):
            return older
    except REFUSALS:
        pass
    return proto


def opset_note(proto: ModelProto, interface: Interface) -> tuple[str, ...]:
    if interface.opset is None or opset_of(proto) <= interface.opset:
        return ()
    return (
        f"the opset is {opset_of(proto)} instead of {interface.opset}: the operators that the "
        "export needs are not in the older one",
    )


def norm_note(proto: ModelProto) -> tuple[str, ...]:
    """Of batch norms that no layer could absorb, and why."""
    kept = kept_norms(proto.graph)
    if not kept:
        return ()
    told = "; ".join(f"{name} ({why})" for name, why in list(kept.items())[:MOST_NORMS])
    more = len(kept) - MOST_NORMS
    return (
        f"{len(kept)} batch norms are operators of their own: {told}"
        + (f"; and {more} more" if more > 0 else ""),
    )


def size_notes(proto: ModelProto, interface: Interface) -> tuple[str, ...]:
    """Of sizes beside the batch that were free, and are not."""
    fixed = [
        f"{port.name}[{place}]"
        for port, value in zip(interface.inputs, proto.graph.input, strict=True)
        for place, dim in enumerate(value.type.tensor_type.shape.dim)
        if place and port.sizes and not isinstance(port.sizes[place], int)
        if dim.HasField("dim_value")
    ]
    return (f"sizes that were free are fixed: {', '.join(fixed)}",) if fixed else ()
