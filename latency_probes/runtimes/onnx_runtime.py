"""ONNX Runtime. Weights marked for filling are handed over in memory; a model with true weights
runs as it is."""

from pathlib import Path
from typing import Any

from latency_probes import onnx_reader
from latency_probes.runtimes.base import (
    Call,
    Description,
    InvalidModel,
    Placement,
    UnsupportedOperator,
)

# Sends models to a remote service: nothing that a device could measure.
_REMOTE = frozenset({"AzureExecutionProvider"})
_UNSUPPORTED = ("not a registered", "No Op registered", "Could not find an implementation")
_NO_MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate memory", "out of memory")


class OnnxRuntime:
    """Every execution provider that the installed onnxruntime offers."""

    def describe(self) -> Description:
        import onnxruntime as ort

        providers = tuple(p for p in ort.get_available_providers() if p not in _REMOTE)
        return Description(version=ort.__version__, providers=providers)

    def load(self, model: bytes, placement: Placement, cache: Path) -> Call:
        """A session on `placement` with its inputs."""
        import onnxruntime as ort

        from latency_probes import filling

        if placement.provider not in ort.get_available_providers():
            raise InvalidModel(
                f"provider must be one of {ort.get_available_providers()}, "
                f"but got {placement.provider!r}"
            )
        noise = filling.open_noise(cache)
        try:
            structure = onnx_reader.read(model)
            inputs = filling.example_inputs(structure, placement.batch_size, noise)
            weights = filling.fill(structure, noise)
        except onnx_reader.OnnxFormatError as error:
            raise InvalidModel(str(error)) from error
        return _caller(_session(model, weights, placement), inputs)


def _session(model: bytes, weights: dict[str, Any], placement: Placement) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = placement.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
    if weights:
        options.add_external_initializers(list(weights), values)
    try:
        session = ort.InferenceSession(model, options, providers=[placement.provider])
    except Exception as error:
        raise _refusal(error) from error
    # Without the provider's libraries the session silently runs elsewhere.
    if session.get_providers()[0] != placement.provider:
        raise InvalidModel(f"provider {placement.provider!r} is offered but does not start")
    return session


def _caller(session: Any, inputs: dict[str, Any]) -> Call:
    def call() -> object:
        try:
            return session.run(None, inputs)
        except Exception as error:
            raise _refusal(error) from error

    return call


def _refusal(error: Exception) -> Exception:
    """The library has one class per status code; its messages tell more than the classes."""
    text = str(error)
    if any(mark in text for mark in _NO_MEMORY) or isinstance(error, MemoryError):
        return MemoryError(text)
    if type(error).__name__ == "NotImplemented" or any(mark in text for mark in _UNSUPPORTED):
        return UnsupportedOperator(text)
    return InvalidModel(text)
