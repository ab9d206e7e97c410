"""The file of a pruned model, checked: edited where it stands, or exported anew with the interface
of what came in put back.

| way | when |
|---|---|
| kept | the file that came in, for the dense model itself |
| edited | an ONNX file came in, and it can say what the pruned network does |
| exported | a torch model came in, or blocks are gone, or sizes are computed in other ways |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from onnx import ModelProto, version_converter
from torch import Tensor, nn

from search.errors import OnnxError, SkeletonError
from search.graph.exported.export import batched
from search.graph.pruning_graph import PruningGraph
from search.onnx_in.files import parsed
from search.onnx_in.module import OnnxModule
from search.onnx_in.reading import DOMAINS
from search.onnx_out.checking import Samples, tolerance, worst_difference
from search.onnx_out.editing import edited
from search.onnx_out.interface import Interface
from search.onnx_out.kept_values import KeptValues
from search.plan import Plan
from search.skeleton.export import OPSET, export_proto

Way = Literal["edited", "exported", "kept"]
BATCHES = (1, 2, 7)
LEAST_OPSET = 18  # of the exporter
_REFUSALS = (ArithmeticError, KeyError, LookupError, OnnxError, RuntimeError, SkeletonError,
             TypeError, ValueError)  # fmt: skip


@dataclass(frozen=True)
class Delivered:
    """A file that equals its model.

    Attributes:
        way: how it was made.
        reason: why it was not edited; "" where it was.
        opset: of the standard operators.
        notes: what of the interface could not be kept, as sentences.
        batches: the batch sizes at which it was compared.
        worst_difference: at these, relative to the largest output.
        sizes: input -> its shape without the batch, as it was compared.
    """

    onnx_bytes: bytes
    way: Way
    reason: str
    opset: int
    notes: tuple[str, ...]
    batches: tuple[int, ...]
    worst_difference: float
    sizes: dict[str, tuple[int, ...]]


def deliver(
    model: nn.Module,
    dense: nn.Module,
    examples: tuple[Tensor, ...],
    samples: Samples,
    *,
    source: bytes | ModelProto | None = None,
    analysis: PruningGraph | None = None,
    plan: Plan | None = None,
    batch_size: int = 1,
) -> Delivered:
    """The file of `model`, compared with it by ONNX Runtime at batches of 1, 2 and 7, or at its
    own where the batch is fixed.

    Args:
        model: pruned, in evaluation mode; or the dense model itself.
        dense: the model before pruning, which the interface is read from.
        examples: inputs of a batch of two or more, as they were traced.
        samples: gives inputs for so many examples, real ones where there are any.
        source: the file that `dense` was read from by `from_onnx`.
        analysis: that of `dense`, and `plan`: what `model` was pruned to; without them, the file
            of a model that is its exported graph can only be edited where its own steps run.
        batch_size: of the file where the batch cannot be free.

    Raises:
        SkeletonError: the model cannot be exported.
        ArithmeticError: the export differs from the model by more than rounding.
        RuntimeError: ONNX Runtime does not run the export.
    """
    if source is None:
        interface = Interface.of_module(dense, examples)
        reason = "the model came as torch code"
    else:
        proto = parsed(source) if isinstance(source, bytes) else source
        interface = Interface.of(proto)
        batches = BATCHES if interface.free_batch else (_fixed_batch(interface),)
        if model is dense:
            return _checked(source, model, samples, batches, "kept")
        try:
            made = _edited(model, dense, samples, proto, interface, _kept(dense, analysis, plan))
            return _checked(made, model, samples, batches, "edited")
        except _REFUSALS as error:
            reason = f"the file that came in cannot be edited: {error}"
    return _exported(model, examples, samples, interface, reason, batch_size)


def _kept(dense: nn.Module, analysis: PruningGraph | None, plan: Plan | None) -> KeptValues | None:
    """What is left of the values of a file whose own steps do not run with what is left."""
    if analysis is None or plan is None or not isinstance(dense, OnnxModule):
        return None
    if analysis.form(plan) == "module":
        return None
    return KeptValues(analysis.whole_program, analysis.kept_atoms(plan), dense)


def _edited(
    model: nn.Module,
    dense: nn.Module,
    samples: Samples,
    source: ModelProto,
    interface: Interface,
    kept: KeptValues | None,
) -> ModelProto:
    if not isinstance(dense, OnnxModule):
        raise SkeletonError("it was not read from the file")
    nodes = model if isinstance(model, OnnxModule) else dense.with_parts_of(model)
    fixed = None if interface.free_batch else _fixed_batch(interface)
    return edited(source, dense, nodes, samples(fixed or 2), kept)


def _exported(
    model: nn.Module,
    examples: tuple[Tensor, ...],
    samples: Samples,
    interface: Interface,
    reason: str,
    batch_size: int,
) -> Delivered:
    wanted = interface.opset or OPSET
    opset = min(max(wanted, LEAST_OPSET), OPSET)
    batch = [batched(value, len(examples[0])) for value in examples]
    notes: list[str] = []
    fixed = batch_size if interface.free_batch else _fixed_batch(interface)

    def made(free: bool) -> Delivered:
        size = max(2, len(examples[0])) if free else fixed
        proto = export_proto(model, examples, batch_size=size, free_batch=free, opset=opset)
        interface.put_back(proto, batched=batch if free else [False] * len(batch))
        proto = _at_opset(proto, wanted, model, samples, BATCHES if free else (fixed,))
        said = (*notes, *_opset_note(proto, interface), *_size_notes(interface))
        batches = BATCHES if free else (fixed,)
        return _checked(proto, model, samples, batches, "exported", reason, said)

    if interface.free_batch:
        try:
            return made(free=True)
        except _REFUSALS as error:
            notes.append(f"the batch is fixed at {fixed}, because with a free one: {error}"[:500])
    return made(free=False)


def _checked(
    made: bytes | ModelProto,
    model: nn.Module,
    samples: Samples,
    batches: Sequence[int],
    way: Way,
    reason: str = "",
    notes: tuple[str, ...] = (),
) -> Delivered:
    data = made if isinstance(made, bytes) else made.SerializeToString(deterministic=True)
    proto = parsed(data)
    worst = worst_difference(model, data, samples, batches)
    if not worst <= tolerance(proto):
        raise ArithmeticError(
            f"the ONNX file must equal the model within {tolerance(proto)}, but differs by "
            f"{worst:.3g}"
        )
    names = [port.name for port in Interface.of(proto).inputs]
    sizes = {
        name: tuple(value.shape[1:])
        for name, value in zip(names, samples(batches[0]), strict=True)
    }
    return Delivered(data, way, reason, _opset(proto), notes, tuple(batches), worst, sizes)


def _at_opset(
    proto: ModelProto, wanted: int, model: nn.Module, samples: Samples, batches: Sequence[int]
) -> ModelProto:
    """Converted to an older opset where that can be, else as it is."""
    if wanted >= _opset(proto):
        return proto
    try:
        older = version_converter.convert_version(proto, wanted)
        data = older.SerializeToString(deterministic=True)
        if worst_difference(model, data, samples, batches) <= tolerance(older):
            return older
    except _REFUSALS:
        pass
    return proto


def _opset(proto: ModelProto) -> int:
    return int(next(each.version for each in proto.opset_import if each.domain in DOMAINS))


def _opset_note(proto: ModelProto, interface: Interface) -> tuple[str, ...]:
    if interface.opset is None or _opset(proto) <= interface.opset:
        return ()
    return (
        f"the opset is {_opset(proto)} instead of {interface.opset}: the operators that the "
        "export needs are not in the older one",
    )


def _size_notes(interface: Interface) -> tuple[str, ...]:
    free = [
        f"{port.name}[{place}]"
        for port in interface.inputs
        for place, size in enumerate(port.sizes or ())
        if place and not isinstance(size, int)
    ]
    return (f"sizes that were free are fixed: {', '.join(free)}",) if free else ()


def _fixed_batch(interface: Interface) -> int:
    size = (interface.inputs[0].sizes or (None,))[0]
    return size if isinstance(size, int) else 1
