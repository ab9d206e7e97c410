"""Measures pairs of ONNX models on this machine exactly as an agent does. Knows no statistics."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from latency_probes.measure import Measurer
from latency_probes.messages import MeasureError, Settings, Target
from latency_probes.runtimes import registry
from latency_probes.samples import Measurement

RUNTIME = "onnxruntime"


class BenchError(RuntimeError):
    """A measurement failed, which no benchmark expects."""


class Bench:
    """One `Measurer` with its files; a context manager that removes them.

    Args:
        cores: CPU numbers to measure on; the last usable one by default.
    """

    def __init__(self, cores: Sequence[int] | None = None) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="secateur-bench-"))
        self._measurer = Measurer(registry.offered((RUNTIME,)), self._directory, cores)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def noise(self) -> Path:
        """The directory of the noise that fills weights."""
        return self._directory

    @property
    def core(self) -> int:
        """The core that is measured on."""
        return self._measurer.cores[-1]

    def file(self, model: bytes) -> Path:
        """The model as a file, named by its digest."""
        path = self._directory / f"{hashlib.sha256(model).hexdigest()}.onnx"
        if not path.exists():
            path.write_bytes(model)
        return path

    def measure(self, candidate: bytes, reference: bytes, settings: Settings) -> Measurement:
        """One measurement with one thread: fresh processes, nothing reused.

        Raises:
            BenchError: it failed.
        """
        found = self._measurer.measure(
            self.file(candidate), self.file(reference), Target(), settings
        )
        if isinstance(found, MeasureError):
            raise BenchError(f"{found.kind}: {found.message}")
        return found
