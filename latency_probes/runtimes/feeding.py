"""What runtimes that take ONNX files do first: inputs for the model, and values for the weights
that are marked for filling, the same for every runtime."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from latency_probes import filling, onnx_reader
from latency_probes.onnx_writer import with_sizes, with_weights
from latency_probes.runtimes.base import InvalidModel, Placement

_NO_MEMORY = (
    "bad_alloc", "bad allocation", "Failed to allocate memory", "out of memory",
    "can't allocate memory", "Cannot allocate memory", "could not create a memory object",
)  # fmt: skip


@dataclass(frozen=True)
class Fed:
    """A model with its inputs by name, in the graph's order. Inputs whose free sizes have no name
    have the sizes of these.

    Attributes:
        weights: values for the initializers that are marked for filling.
        free: name of a size that the model leaves free -> what it is here.
    """

    onnx_bytes: bytes
    inputs: Mapping[str, filling.Array]
    weights: Mapping[str, filling.Array]
    free: Mapping[str, int] = field(default_factory=dict)

    def whole(self) -> bytes:
        """The file with the weights inside."""
        return with_weights(self.onnx_bytes, self.weights)


def feed(model: bytes, placement: Placement, cache: Path) -> Fed:
    """Read the model and make what it needs to run.

    Raises:
        InvalidModel: not a model, not of this batch size, or it points to other files.
    """
    noise = filling.open_noise(cache)
    try:
        structure = onnx_reader.read(model)
        inputs = filling.example_inputs(structure, placement.batch_size, noise, placement.sizes)
        free = {
            name: size
            for value in structure.inputs
            for name, dim, size in zip(
                value.dim_names, value.dims, inputs[value.name].shape, strict=False
            )
            if name and not dim
        }
        unnamed = {
            value.name: inputs[value.name].shape
            for value in structure.inputs
            if any(not dim and not word for dim, word in _dims(value))
        }
        sized = with_sizes(model, unnamed)
        return Fed(sized, inputs, filling.fill(structure, noise), free)
    except onnx_reader.OnnxFormatError as error:
        raise InvalidModel(str(error)) from error


def _dims(value: onnx_reader.Value) -> list[tuple[int, str]]:
    """Sizes and their names."""
    return list(zip(value.dims, value.dim_names, strict=False))


def check_provider(provider: str, offered: tuple[str, ...]) -> None:
    """Raises InvalidModel unless the provider is offered."""
    if provider not in offered:
        raise InvalidModel(f"provider must be one of {list(offered)}, but got {provider!r}")


def is_lack_of_memory(error: Exception) -> bool:
    """Whether a library's error says that memory was short; most have no class for it."""
    return isinstance(error, MemoryError) or any(mark in str(error) for mark in _NO_MEMORY)
