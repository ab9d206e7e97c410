"""A probe in this process's machine, as a plain callable: what `search` takes as `latency`.

Knows of skeletons only that they have a digest and bytes.
"""

import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from latency_probes.measure import Measurer
from latency_probes.messages import MeasureError, Settings, Target
from latency_probes.runtimes import registry
from latency_probes.samples import Measurement


class Model(Protocol):
    """What is to be timed; search's Skeleton is one."""

    @property
    def digest(self) -> str: ...

    @property
    def onnx_bytes(self) -> bytes: ...


@dataclass(frozen=True)
class LocalModel:
    """A model given as bytes, for callers that have no Skeleton."""

    onnx_bytes: bytes

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.onnx_bytes).hexdigest()


@dataclass(frozen=True)
class Measured:
    """A latency as a ratio to the reference, with its 95 % interval."""

    ratio: float
    ratio_low: float
    ratio_high: float
    latency_ms: float
    measurement: Measurement


@dataclass(frozen=True)
class Failed:
    """Why there is no latency; `error` and `kind` are the same word."""

    kind: str
    message: str

    @property
    def error(self) -> str:
        return self.kind


class LocalProbe:
    """Times models on this machine against `reference`, one after another.

    Args:
        reference: the ONNX bytes of the dense model or of its skeleton.
        target: runtime, provider, batch size and threads.
        settings: screening by default; `Settings.strict()` for figures to report.
        cores: CPU numbers to measure on; all usable ones by default.
    """

    def __init__(
        self,
        reference: bytes,
        target: Target | None = None,
        settings: Settings | None = None,
        cores: Sequence[int] | None = None,
    ) -> None:
        self.target = target or Target()
        self.settings = settings or Settings()
        self._directory = Path(tempfile.mkdtemp(prefix="secateur-probe-"))
        self._finalizer = weakref.finalize(self, shutil.rmtree, self._directory, True)
        self._reference = self._directory / "reference.onnx"
        self._reference.write_bytes(reference)
        paths = registry.offered((self.target.runtime,))
        self._measurer = Measurer(paths, self._directory, cores)

    def __call__(self, skeletons: Sequence[Model]) -> list[Measured | Failed]:
        """Measure each; the outcomes are in the same order."""
        return [self._measure(skeleton) for skeleton in skeletons]

    def close(self) -> None:
        """Remove the probe's files; else that happens when it is collected."""
        self._finalizer()

    def _measure(self, skeleton: Model) -> Measured | Failed:
        path = self._directory / "candidate.onnx"
        path.write_bytes(skeleton.onnx_bytes)
        found = self._measurer.measure(path, self._reference, self.target, self.settings)
        if isinstance(found, MeasureError):
            return Failed(found.kind, found.message)
        return Measured(found.ratio, found.ratio_low, found.ratio_high, found.latency_ms, found)
