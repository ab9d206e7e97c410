"""The file of a pruned model, checked: edited where it stands, or exported anew with the interface
of what came in put back.

| way | when |
|---|---|
| kept | the file that came in, for the dense model itself |
| edited | an ONNX file came in, and it can say what the pruned network does |
| exported | a torch model came in, or nodes of the file cannot say what the pruned network does |
"""

from __future__ import annotations

from functools import partial

from onnx import ModelProto
from torch import Tensor, nn

from search.errors import SkeletonError
from search.graph.pruned.pruned_graph import PrunedGraph
from search.graph.pruning_graph import PruningGraph
from search.onnx_in.files import parsed
from search.onnx_in.module import OnnxModule
from search.onnx_out.checking import Samples
from search.onnx_out.delivered import REFUSALS, Delivered, checked, fixed_batch
from search.onnx_out.editing import edited
from search.onnx_out.exporting import BATCHES, Exporter
from search.onnx_out.interface import Interface
from search.onnx_out.kept_values import KeptValues
from search.plan import Plan
from search.surgery import prune
from search.tensors import load_tensors


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
        batches = BATCHES if interface.free_batch else (fixed_batch(interface),)
        if model is dense:
            return checked(source, model, samples, batches, "kept")
        try:
            made = _edited(model, dense, samples, proto, interface, _kept(dense, analysis, plan))
            return checked(made, model, samples, batches, "edited")
        except REFUSALS as error:
            reason = f"the file that came in cannot be edited: {error}"
    resizable = partial(_resizable, model, analysis, plan)
    return Exporter(model, resizable, examples, samples, interface, batch_size).exported(reason)


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
    fixed = None if interface.free_batch else fixed_batch(interface)
    return edited(source, dense, nodes, samples(fixed or 2), kept)


def _resizable(
    model: nn.Module, analysis: PruningGraph | None, plan: Plan | None
) -> nn.Module | None:
    """The model where it takes other sizes than the traced ones; None where it does not."""
    if isinstance(model, OnnxModule):
        return model
    if analysis is None or plan is None or not isinstance(model, PrunedGraph):
        return None
    made = prune(analysis.model, analysis, plan)
    load_tensors(made, model.state_dict(), strict=False)
    return made.eval().at_free_sizes() if isinstance(made, PrunedGraph) else None
