"""ONNX Runtime. Weights marked for filling are handed over in memory; a model with true weights
runs as it is."""

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latency_probes import onnx_reader
from latency_probes.runtimes.base import (
    Call,
    InvalidModel,
    Layer,
    Placement,
    UnsupportedOperator,
)
from latency_probes.runtimes.exactness import exact_formats
from latency_probes.runtimes.feeding import Fed, check_provider, feed, is_lack_of_memory
from latency_probes.runtimes.layers import PROFILED_CALLS, typical_layers

# Sends models to a remote service: nothing that a device could measure.
_REMOTE = frozenset({"AzureExecutionProvider"})
_UNSUPPORTED = (
    "not a registered", "No Op registered", "No opset import", "Could not find an implementation",
)  # fmt: skip
_NAMED = re.compile(r"(?:No Op registered for|Could not find an implementation for) (\w+)")


class OnnxRuntime:
    """Every execution provider that the installed onnxruntime offers."""

    def version(self) -> str:
        import onnxruntime as ort

        return str(ort.__version__)

    def providers(self) -> tuple[str, ...]:
        import onnxruntime as ort

        return tuple(p for p in ort.get_available_providers() if p not in _REMOTE)

    def formats(self) -> tuple[str, ...]:
        """What is exact here; two unsigned bytes are everywhere."""
        return (*exact_formats(_run), "u8u8")

    def lacking(self, model: bytes, placement: Placement) -> tuple[str, ...]:
        """Operators that no domain of the library defines; unknown in builds without the list."""
        from onnxruntime.capi import onnxruntime_pybind11_state as library

        if not hasattr(library, "get_all_operator_schema"):
            return ()
        nodes = onnx_reader.read(model).nodes
        known = {(schema.domain, schema.name) for schema in library.get_all_operator_schema()}
        return tuple(sorted({n.title for n in nodes if (n.domain, n.op) not in known}))

    def load(self, model: bytes, placement: Placement, cache: Path) -> Call:
        """A session on `placement` with its inputs."""
        check_provider(placement.provider, self.providers())
        fed = feed(model, placement, cache)
        return _caller(_session(fed, _options(placement), placement), fed.inputs)

    def profile(self, model: bytes, placement: Placement, cache: Path) -> Sequence[Layer]:
        """From the library's own trace, after its optimisations: fused nodes are one layer."""
        check_provider(placement.provider, self.providers())
        fed = feed(model, placement, cache)
        with tempfile.TemporaryDirectory(dir=cache) as directory:
            options = _options(placement)
            options.enable_profiling = True
            options.profile_file_prefix = f"{directory}/profile"
            session = _session(fed, options, placement)
            call = _caller(session, fed.inputs)
            for _ in range(PROFILED_CALLS):
                call()
            events = json.loads(Path(session.end_profiling()).read_text())
        return typical_layers(_kernel_times(events), PROFILED_CALLS)


def _run(model: bytes, value: np.ndarray) -> np.ndarray:
    import onnxruntime as ort

    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": value})[0])


def _kernel_times(events: list[dict[str, Any]]) -> list[Layer]:
    suffix = "_kernel_time"
    return [
        Layer(event["name"].removesuffix(suffix), event["args"]["op_name"], event["dur"] * 1000)
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith(suffix)
    ]


def _options(placement: Placement) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = placement.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return options


def _session(fed: Fed, options: Any, placement: Placement) -> Any:
    import onnxruntime as ort

    for name, size in fed.free.items():  # as if the file had fixed sizes: shapes fold at load
        options.add_free_dimension_override_by_name(name, size)
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in fed.weights.values()]
    if values:
        options.add_external_initializers(list(fed.weights), values)
    try:
        session = ort.InferenceSession(fed.onnx_bytes, options, providers=[placement.provider])
    except Exception as error:
        raise _refusal(error) from error
    # Without the provider's libraries the session silently runs elsewhere.
    if session.get_providers()[0] != placement.provider:
        raise InvalidModel(f"provider {placement.provider!r} is offered but does not start")
    return session


def _caller(session: Any, inputs: Any) -> Call:
    def call() -> object:
        try:
            return session.run(None, inputs)
        except Exception as error:
            raise _refusal(error) from error

    return call


def _refusal(error: Exception) -> Exception:
    """The library has one class per status code; its messages tell more than the classes."""
    text = str(error)
    if is_lack_of_memory(error):
        return MemoryError(text)
    if type(error).__name__ == "NotImplemented" or any(mark in text for mark in _UNSUPPORTED):
        return UnsupportedOperator(text, _NAMED.findall(text))
    return InvalidModel(text)
