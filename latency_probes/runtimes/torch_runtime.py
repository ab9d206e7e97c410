"""PyTorch: an ONNX file becomes a module through `search.onnx_in`, the only thing of `search` that
this package may import. torch is imported by the methods, in the measuring child.

| provider | what runs |
|---|---|
| eager | the module as it is |
| compile | the module under torch.compile (inductor), compiled while it is loaded |
| cuda | the module on the first CUDA device, timed with CUDA events |
| cuda-graphs | likewise, as one captured CUDA graph |
"""

import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from latency_probes.runtimes.base import Call, Clock, InvalidModel, Placement, UnsupportedOperator
from latency_probes.runtimes.feeding import check_provider, feed, is_lack_of_memory

_PROVIDERS = ("eager", "compile", "cuda", "cuda-graphs")
_WARM_UP_CALLS = 3
_MOST_CODE_BYTES = 2 * 2**30


class Torch:
    """The installed torch."""

    def version(self) -> str:
        import torch

        return str(torch.__version__)

    def providers(self) -> tuple[str, ...]:
        """Compiling is offered where it works: it is tried, which takes seconds."""
        import torch

        cuda = _PROVIDERS[2:] if torch.cuda.is_available() else ()
        return ("eager", *(("compile",) if _compiles() else ()), *cuda)

    def lacking(self, model: bytes, placement: Placement) -> tuple[str, ...]:
        """Operators that have no counterpart in `search.onnx_in`."""
        from search.onnx_in import unknown_operators

        return unknown_operators(model)

    def load(self, model: bytes, placement: Placement, cache: Path) -> Call:
        """The module on its device with its inputs."""
        check_provider(placement.provider, _PROVIDERS)
        import torch

        if placement.provider.startswith("cuda") and not torch.cuda.is_available():
            raise InvalidModel(f"provider {placement.provider!r} needs a CUDA device")
        torch.set_num_threads(placement.threads)
        fed = feed(model, placement, cache)
        try:
            shapes = [value.shape[1:] for value in fed.inputs.values()]
            module = self._module(fed.whole(), model, placement, shapes)
            device = "cuda" if placement.provider.startswith("cuda") else "cpu"
            inputs = [torch.from_numpy(fed.inputs[each.name]).to(device) for each in module.inputs]
            if placement.provider == "compile":
                _keep_compiled_code(cache, placement)
            return _guarded(_CALLS[placement.provider](module.to(device), inputs))
        except (RuntimeError, MemoryError) as error:
            raise _refusal(error) from error

    def clock(self, placement: Placement) -> Clock:
        """CUDA's where it runs there, else the host's."""
        return _EventClock() if placement.provider.startswith("cuda") else time.perf_counter_ns

    def _module(
        self, whole: bytes, model: bytes, placement: Placement, shapes: Sequence[Sequence[int]]
    ) -> Any:
        from search.onnx_in import from_onnx

        try:
            return from_onnx(whole, input_shapes=shapes, any_batch=False)
        except ValueError as error:
            if names := self.lacking(model, placement):
                raise UnsupportedOperator(str(error), names) from error
            raise InvalidModel(str(error)) from error


def _guarded(call: Call) -> Call:
    def guarded() -> object:
        try:
            return call()
        except (RuntimeError, ValueError) as error:
            raise _refusal(error) from error

    return guarded


def _eager(module: Any, inputs: Sequence[Any]) -> Call:
    import torch

    def call() -> object:
        with torch.inference_mode():
            made = module(*inputs)
        return made if isinstance(made, tuple) else (made,)

    return call


def _compiled(module: Any, inputs: Sequence[Any], options: dict[str, Any] | None = None) -> Call:
    """Compiled by a first call here, so that the cold latency is that of the code."""
    import torch

    with warnings.catch_warnings():  # inductor's own imports are deprecated in places
        warnings.simplefilter("ignore")
        call = _eager(torch.compile(module, dynamic=False, options=options), inputs)
        call()
    return call


def _graphed(module: Any, inputs: Sequence[Any]) -> Call:
    """One captured graph, after some calls on a side stream as the library asks for."""
    import torch

    call = _eager(module, inputs)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP_CALLS):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = call()

    def replay() -> object:
        graph.replay()
        return made

    return replay


_CALLS: Mapping[str, Callable[[Any, Sequence[Any]], Call]] = {
    "eager": _eager,
    "compile": _compiled,
    "cuda": _eager,
    "cuda-graphs": _graphed,
}


class _EventClock:
    """Nanoseconds between CUDA events; added up step by step, because the library tells them as
    32-bit milliseconds, too coarse for a long time."""

    def __init__(self) -> None:
        self._last, self._ns = self._event(), 0

    def __call__(self) -> int:
        event = self._event()
        self._ns += round(self._last.elapsed_time(event) * 1e6)
        self._last = event
        return self._ns

    def _event(self) -> Any:
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        event.synchronize()
        return event


def _keep_compiled_code(cache: Path, placement: Placement) -> None:
    """Later replicates find what the first one compiled; code holds its number of threads. What
    has grown too large is begun anew."""
    directory = cache / "inductor" / f"t{placement.threads}"
    if sum(file.stat().st_size for file in directory.rglob("*")) > _MOST_CODE_BYTES:
        shutil.rmtree(directory, ignore_errors=True)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(directory))
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")


def _compiles() -> bool:
    """Whether inductor works here: it needs a C++ compiler that makes what this process loads.

    The trial believes the processor's instruction sets; else each is tried by compiling, too.
    """
    import torch

    try:
        _compiled(torch.nn.ReLU(), [torch.zeros(64)], {"cpp.vec_isa_ok": True})
    except Exception as error:
        sys.stderr.write(f"torch.compile does not work here: {str(error)[:500]}\n")
        return False
    return True


def _refusal(error: Exception) -> Exception:
    kind = MemoryError if is_lack_of_memory(error) else InvalidModel
    return kind(str(error)[:2000])
