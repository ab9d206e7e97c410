"""The file of a model with layers in int8, checked against the torch model that rounds alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor, nn

from search.errors import ConfigError, QuantizationError, SkeletonError
from search.graph.exported.export import batched
from search.objectives import CLASSIFICATION, Objective
from search.onnx_in.files import parsed
from search.onnx_out.checking import Samples
from search.onnx_out.delivered import Delivered, fixed_batch, opset_of
from search.onnx_out.exporting import BATCHES, LEAST_OPSET, norm_note, opset_note, size_notes
from search.onnx_out.interface import Interface
from search.quantization import QuantizedModel
from search.quantization.onnx_graph import with_precision, with_unsigned_bytes
from search.skeleton.export import OPSET, export_proto

MOST_DIFFERENCE = 0.05  # of the outputs' range, in 99 of 100 numbers: a value on the border of two
# integers falls to one or the other, and layers behind it see that. On the nine networks of
# the tests it is below 0.02.


def deliver_quantized(
    model: QuantizedModel,
    pruned: nn.Module,
    dense: nn.Module,
    examples: tuple[Tensor, ...],
    samples: Samples,
    *,
    source: bytes | None = None,
    batch_size: int = 1,
    most: float = MOST_DIFFERENCE,
) -> Delivered:
    """The ONNX file of a model with layers in int8, with Q/DQ as its plan says.

    It is compared by ONNX Runtime in a form that every processor computes exactly.

    Args:
        model: rounds, with ranges; in evaluation mode.
        pruned: the float model that it was made of.
        dense: the model before pruning, which the interface is read from.
        examples: inputs of a batch of two or more, as they were traced.
        samples: gives inputs for so many examples.
        source: the ONNX file that `dense` was read from.
        batch_size: of the file where the batch cannot be free.
        most: part of the outputs' range that file and model may be apart without a question; more
            is taken where rounding itself changes more, and told in the notes.

    Raises:
        ArithmeticError: the file differs from the model by more than rounding does.
        SkeletonError: the model cannot be exported.
    """
    interface = Interface.of_module(dense, examples)
    if source is not None:
        interface = Interface.of(parsed(source))
    batch = [batched(value, len(examples[0])) for value in examples]
    notes = list[str]()
    fixed = batch_size if interface.free_batch else fixed_batch(interface)
    float_proto, is_free = _exported(pruned, examples, interface, fixed, notes)

    made = with_precision(float_proto, model.int8_layers, model.form, model.ranges)
    interface.put_back(made, batched=batch if is_free else [False] * len(batch))
    data = made.SerializeToString(deterministic=True)
    batches = BATCHES if is_free else (fixed,)
    worst = difference(model, exact_file(data), samples, batches)
    if not worst <= most:
        own = rounding_effect(model, pruned, samples, batches)
        if not worst <= own:
            raise ArithmeticError(
                f"the ONNX file must equal the rounded model within {most} of its "
                f"range, or within what rounding itself changes, {own:.3g}, but differs by "
                f"{worst:.3g}"
            )
        notes.append(
            f"the network amplifies rounding: in int8 its outputs move by {own:.3g} of their "
            f"range, and file and torch model are {worst:.3g} apart; the accuracy is the file's"
        )
    notes += [*opset_note(made, interface), *size_notes(made, interface), *norm_note(made)]
    names = [port.name for port in Interface.of(parsed(data)).inputs]
    sizes = {
        name: tuple(value.shape[1:])
        for name, value in zip(names, samples(batches[0]), strict=True)
    }
    reason, opset = "layers are in int8", opset_of(made)
    return Delivered(data, "exported", reason, opset, tuple(notes), batches, worst, sizes)


def exact_file(onnx_bytes: bytes) -> bytes:
    """The file with unsigned integers alone: the same numbers, of which no processor cuts sums. So
    a machine without such instructions can tell what the file does on a device that has them."""
    return bytes(with_unsigned_bytes(parsed(onnx_bytes)).SerializeToString())


def _exported(
    pruned: nn.Module,
    examples: tuple[Tensor, ...],
    interface: Interface,
    batch_size: int,
    notes: list[str],
) -> tuple[ModelProto, bool]:
    """The float file, and whether its batch is free."""
    opset = min(max(interface.opset or OPSET, LEAST_OPSET), OPSET)
    if interface.free_batch:
        try:
            size = max(2, len(examples[0]))
            return export_proto(
                pruned, examples, batch_size=size, free_batch=True, opset=opset
            ), True
        except (SkeletonError, RuntimeError) as error:
            notes.append(f"the batch is fixed at {batch_size}, because with a free one: {error}")
    return export_proto(pruned, examples, batch_size=batch_size, opset=opset), False


def difference(
    model: nn.Module, onnx_bytes: bytes, samples: Samples, batches: tuple[int, ...]
) -> float:
    """The 99th percentile of how far outputs are apart, relative to their range."""
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]

    def run(inputs: tuple[Tensor, ...]) -> np.ndarray:
        fed = dict(zip(names, (value.numpy() for value in inputs), strict=True))
        return np.asarray(session.run(None, fed)[0])

    return _apart(model, run, samples, batches)


def rounding_effect(
    rounded: nn.Module, exact: nn.Module, samples: Samples, batches: tuple[int, ...]
) -> float:
    """The same between the model that rounds and the float one."""

    def run(inputs: tuple[Tensor, ...]) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(exact(*inputs).numpy())

    return _apart(rounded, run, samples, batches)


def _apart(
    model: nn.Module,
    other: Callable[[tuple[Tensor, ...]], np.ndarray],
    samples: Samples,
    batches: tuple[int, ...],
) -> float:
    apart, values = [], []
    for size in batches:
        inputs = samples(size)
        with torch.no_grad():
            wanted = model(*inputs).numpy()
        found = other(inputs)
        if found.shape != wanted.shape or not np.isfinite(found).all():
            raise QuantizationError(f"the file gives {found.shape}, the model {wanted.shape}")
        apart.append(np.abs(found - wanted).ravel())
        values.append(wanted.ravel())
    all_values = np.concatenate(values)
    spread = float(all_values.max() - all_values.min())
    return float(np.quantile(np.concatenate(apart), 0.99)) / max(spread, 1e-6)


def file_accuracy(
    onnx_bytes: bytes,
    batches: Iterable[tuple[Tensor, Tensor]],
    objective: Objective = CLASSIFICATION,
) -> float:
    """Share of right answers, by ONNX Runtime; a file of a fixed
    batch gets one of that size at a time.

    Args:
        onnx_bytes: of a classifier with one input.
        batches: inputs and targets of the objective.
        objective: what is right.

    Raises:
        ConfigError: no examples.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])
    (port,) = session.get_inputs()
    size = port.shape[0] if isinstance(port.shape[0], int) else None
    right = count = 0
    for inputs, labels in batches:
        said = []
        for part in _parts(inputs, size):
            scores = session.run(None, {port.name: part.numpy()})[0]
            said.append(torch.from_numpy(scores))
        right += int(objective.right(torch.cat(said)[: len(labels)], labels).sum())
        count += len(labels)
    if count == 0:
        raise ConfigError("batches must hold at least one example, but got none")
    return right / count


def _parts(values: Tensor, size: int | None) -> Sequence[Tensor]:
    """Of so many examples each; the last one is filled up with its first example."""
    if size is None:
        return (values,)
    lacking = -len(values) % size
    filled = torch.cat([values, values[:1].repeat(lacking, *[1] * (values.ndim - 1))])
    return list(torch.split(filled, size))
