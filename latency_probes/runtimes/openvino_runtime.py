"""OpenVINO: the CPU plugin, and every other device that its library finds. On the CPU it computes
in float32, as the other runtimes do: its own default is bfloat16 where the processor has it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

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

_LACKING = re.compile(r"No conversion rule found for operations: (.+)")
_OPSET = re.compile(r"-\d+$")


class OpenVino:
    """Devices as providers; latency hint, one stream."""

    def version(self) -> str:
        import openvino

        return str(openvino.__version__)

    def providers(self) -> tuple[str, ...]:
        import openvino

        return tuple(openvino.Core().available_devices)

    def formats(self) -> tuple[str, ...]:
        """What is exact here."""
        return exact_formats(_run)

    def lacking(self, model: bytes, placement: Placement) -> tuple[str, ...]:
        """What the reader names, and where it read the model, what the device leaves over."""
        import openvino

        core = openvino.Core()
        try:
            network = core.read_model(model)
        except RuntimeError as error:
            return _named(str(error))
        known = core.query_model(network, placement.provider)
        left = [op for op in network.get_ops() if op.get_friendly_name() not in known]
        return tuple(sorted({op.get_type_name() for op in left}))

    def load(self, model: bytes, placement: Placement, cache: Path) -> Call:
        """A compiled model with its inputs bound."""
        check_provider(placement.provider, self.providers())
        fed = feed(model, placement, cache)
        return _Inference(_request(fed, _settings(placement), placement), fed)

    def profile(self, model: bytes, placement: Placement, cache: Path) -> Sequence[Layer]:
        """From the performance counters: layers that were run, in steps of a microsecond."""
        check_provider(placement.provider, self.providers())
        fed = feed(model, placement, cache)
        request = _request(fed, {**_settings(placement), "PERF_COUNT": True}, placement)
        call, times = _Inference(request, fed), []
        for _ in range(PROFILED_CALLS):
            call()
            times += [
                Layer(each.node_name, each.node_type, round(each.real_time.total_seconds() * 1e9))
                for each in request.get_profiling_info()
                if each.status.name == "EXECUTED"
            ]
        return typical_layers(times, PROFILED_CALLS)


def _settings(placement: Placement) -> dict[str, Any]:
    """The measuring child chooses the cores, so the library must not pin threads to others."""
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if placement.provider == "CPU":
        settings |= {
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": placement.threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }
    return settings


def _run(model: bytes, value: np.ndarray) -> np.ndarray:
    import openvino

    core = openvino.Core()
    (output,) = core.compile_model(core.read_model(model), "CPU")(value).values()
    return np.asarray(output)


def _request(fed: Fed, settings: Mapping[str, Any], placement: Placement) -> Any:
    import openvino

    core = openvino.Core()
    try:
        network = core.read_model(fed.whole())
        if network.is_dynamic():
            network.reshape({name: list(value.shape) for name, value in fed.inputs.items()})
        compiled = core.compile_model(network, placement.provider, dict(settings))
        request = compiled.create_infer_request()
        for name, value in fed.inputs.items():
            request.set_tensor(name, openvino.Tensor(value, shared_memory=True))
    except RuntimeError as error:
        raise _refusal(error) from error
    return request


class _Inference:
    """One inference per call. The request reads the inputs' memory, and does not keep it."""

    def __init__(self, request: Any, fed: Fed) -> None:
        self._request, self._inputs = request, fed.inputs
        self._outputs = range(len(request.model_outputs))

    def __call__(self) -> object:
        try:
            self._request.infer(share_outputs=True)
        except RuntimeError as error:
            raise _refusal(error) from error
        return [self._request.get_output_tensor(place).data for place in self._outputs]


def _named(text: str) -> tuple[str, ...]:
    """`Foo-18, my.Bar` are the operators Foo and my.Bar."""
    found = _LACKING.search(text)
    names = found.group(1).split(",") if found else []
    return tuple(sorted({_OPSET.sub("", name.strip()) for name in names}))


def _refusal(error: Exception) -> Exception:
    if is_lack_of_memory(error):
        return MemoryError(str(error))
    if names := _named(str(error)):
        return UnsupportedOperator(str(error), names)
    return InvalidModel(str(error))
