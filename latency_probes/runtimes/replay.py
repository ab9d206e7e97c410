"""Replay: latencies from a JSON recording, and for models that it lacks a function of their
shapes.

For tests and simulations; a device offers it only when told to. The recording, every key optional:

    {"name": "pixel-7", "provider": "CPUExecutionProvider", "delay_s": 0.0,
     "latencies": {"<digest>": {"latency_ns": 812000}, "<digest>": {"error": "crashed", "message":
     "..."}}}

The latency of an unknown model is, in ns (`ceil8` rounds up to a multiple of 8),

    20000 + sum over its operators of
      Conv    500 + ceil8(c_out) * ceil8(c_in / groups) * kernel * output_pixels / 16
      Gemm    500 + ceil8(out) * ceil8(in) / 16         MatMul with weights likewise, per row
      others  200 + output_elements / 16

so that it is a staircase in every width, and the same on every machine. Nothing is run and nothing
is timed.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latency_probes import onnx_reader, shapes
from latency_probes.runtimes.base import Recorded

FILE_VARIABLE = "SECATEUR_REPLAY"
VERSION = "1"
_CPU = "CPUExecutionProvider"
_ERRORS = frozenset({"timeout", "crashed", "unsupported_op", "out_of_memory", "invalid"})
_BASE_NS = 20_000
_HEAVY_NS = 500
_LIGHT_NS = 200
_PER_NS = 16


@dataclass(frozen=True)
class Recording:
    """A parsed recording."""

    name: str = "replay"
    provider: str = _CPU
    delay_s: float = 0.0
    latencies: dict[str, Recorded] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Recording":
        """Read a recording.

        Raises:
            ValueError: it is not of the form above.
        """
        document = json.loads(text)
        known = {"name", "provider", "delay_s", "latencies"}
        if not isinstance(document, dict) or set(document) - known:
            raise ValueError(f"recording must be an object with keys among {sorted(known)}")
        name, provider = document.get("name", "replay"), document.get("provider", _CPU)
        if not all(isinstance(word, str) and 0 < len(word) <= 64 for word in (name, provider)):
            raise ValueError(f"name and provider must be short words, but got {name!r:.80}")
        delay_s = document.get("delay_s", 0.0)
        if not isinstance(delay_s, int | float) or not 0 <= delay_s <= 60:
            raise ValueError(f"delay_s must be between 0 and 60, but got {delay_s!r:.80}")
        latencies = document.get("latencies", {})
        if not isinstance(latencies, dict):
            raise ValueError(f"latencies must be an object, but got {latencies!r:.80}")
        return cls(name, provider, delay_s, {k: _recorded(v) for k, v in latencies.items()})


class Replay:
    """The runtime `replay`; without a recording every latency is the function of shapes."""

    def __init__(self, recording: Recording | None = None) -> None:
        self._recording = _from_environment() if recording is None else recording
        self.delay_s = self._recording.delay_s

    def version(self) -> str:
        return f"{VERSION} ({self._recording.name})"

    def providers(self) -> tuple[str, ...]:
        return (self._recording.provider,)

    def look_up(self, digest: str, model: bytes) -> Recorded:
        """What the recording says about this digest, else the latency computed from its shapes."""
        known = self._recording.latencies.get(digest)
        if known is not None:
            return known
        try:
            return Recorded(latency_ns=synthetic_latency_ns(model))
        except onnx_reader.OnnxFormatError as error:
            return Recorded(error_kind="invalid", error=str(error))


def synthetic_latency_ns(model: bytes) -> int:
    """The function of shapes in this module's docstring.

    Raises:
        onnx_reader.OnnxFormatError: not a model, or one whose shapes are not fixed.
    """
    structure = onnx_reader.read(model)
    dims = shapes.infer(structure)
    weights = structure.initializers
    return _BASE_NS + sum(_cost(node, dims, weights) for node in structure.nodes)


def _cost(
    node: onnx_reader.Node, dims: shapes.Shapes, weights: Mapping[str, onnx_reader.Tensor]
) -> int:
    out = dims.get(node.outputs[0], ()) if node.outputs else ()
    weight = weights.get(node.inputs[1]) if len(node.inputs) > 1 else None
    kernel: shapes.Dims = weight.dims if weight else ()
    elements = shapes.count(out)
    if node.op == "Conv" and len(kernel) >= 2 and len(out) == len(kernel):
        pixels = out[0] * shapes.count(out[2:])
        heavy = _ceil8(kernel[0]) * _ceil8(kernel[1]) * shapes.count(kernel[2:]) * pixels
    elif node.op in {"Gemm", "MatMul"} and len(kernel) == 2 and out:
        heavy = _ceil8(kernel[0]) * _ceil8(kernel[1]) * (elements // max(out[-1], 1))
    else:
        return _LIGHT_NS + elements // _PER_NS
    return _HEAVY_NS + heavy // _PER_NS


def _ceil8(width: int) -> int:
    return -(-width // 8) * 8


def _recorded(entry: Any) -> Recorded:
    if not isinstance(entry, dict):
        raise ValueError(f"a recorded latency must be an object, but got {entry!r:.80}")
    if "error" in entry:
        if entry["error"] not in _ERRORS:
            raise ValueError(f"error must be one of {sorted(_ERRORS)}, but got {entry['error']!r}")
        return Recorded(error_kind=entry["error"], error=str(entry.get("message", "recorded")))
    latency_ns = entry.get("latency_ns")
    if not isinstance(latency_ns, int) or not 1 <= latency_ns <= 10**12:
        raise ValueError(f"latency_ns must be a positive integer, but got {latency_ns!r:.80}")
    return Recorded(latency_ns=latency_ns)


def _from_environment() -> Recording:
    path = os.environ.get(FILE_VARIABLE)
    return Recording.parse(Path(path).read_text("utf-8")) if path else Recording()
