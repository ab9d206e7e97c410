"""Which runtimes there are: the built-in ones and those of installed packages (entry points of the
group `secateur.runtimes`), as `module:callable` so that a child imports only the one it needs."""

import importlib
import re
from collections.abc import Mapping

from latency_probes.runtimes.base import RecordedRuntime, Runtime

GROUP = "secateur.runtimes"
# A checkout that is not installed has no entry points.
_BUILT_IN = {
    "onnxruntime": "latency_probes.runtimes.onnx_runtime:OnnxRuntime",
    "openvino": "latency_probes.runtimes.openvino_runtime:OpenVino",
    "replay": "latency_probes.runtimes.replay:Replay",
    "torch": "latency_probes.runtimes.torch_runtime:Torch",
}
# Looked up in the parent: no other runtime is imported there.
_RECORDED = frozenset({"replay"})
# Offered only when asked for: replay measures nothing, and torch takes seconds to say what it can.
_BY_NAME = _RECORDED | {"torch"}
_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def available() -> Mapping[str, str]:
    """Every known runtime: name -> `module:callable`."""
    from importlib.metadata import entry_points  # takes a child 25 ms, which has no need of it

    return _BUILT_IN | {entry.name: entry.value for entry in entry_points(group=GROUP)}


def offered(names: tuple[str, ...] = ()) -> Mapping[str, str]:
    """The named runtimes, or without names all but replay and torch.

    Raises:
        ValueError: a name is unknown.
    """
    known = available()
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"runtimes must be among {sorted(known)}, but got {unknown}")
    wanted = names or tuple(name for name in known if name not in _BY_NAME)
    return {name: known[name] for name in wanted}


def load(path: str) -> Runtime | RecordedRuntime:
    """Import a runtime from its `module:callable`.

    Raises:
        ValueError: the path is not of that form.
        ImportError, AttributeError: there is no such thing, or a library that it needs is missing.
    """
    if not _PATH.fullmatch(path):
        raise ValueError(f"runtime must be given as module:callable, but got {path!r}")
    module, _, name = path.partition(":")
    runtime: Runtime | RecordedRuntime = getattr(importlib.import_module(module), name)()
    return runtime


def recorded(paths: Mapping[str, str]) -> dict[str, RecordedRuntime]:
    """Those of these runtimes that answer without running anything."""
    loaded = {name: load(path) for name, path in paths.items() if name in _RECORDED}
    return {name: r for name, r in loaded.items() if isinstance(r, RecordedRuntime)}
