"""Measures one candidate against the reference on this machine: the only way that agent and
LocalProbe do it.

Timed runtimes run in children, one replicate after another; recorded ones are looked up here. One
measurement at a time: the caller sees to it.
"""

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from latency_probes import replicates
from latency_probes.conditions import read_conditions, usable_cores
from latency_probes.messages import MeasureError, Settings, Target
from latency_probes.runtimes import registry
from latency_probes.runtimes.base import Recorded, RecordedRuntime
from latency_probes.samples import Conditions, LayerTime, Measurement, Replicate
from latency_probes.spawn import Never, Stop, Timed, Withdrawn, take_profile, time_replicate
from latency_probes.timing import Calm

_log = logging.getLogger(__name__)

_PROFILE_LIMIT_S = 60.0
_REPLAYED_ROUNDS = 2
_REPLAYED_CALLS = 2


class Measurer:
    """Measures on some cores of this machine with some runtimes.

    Args:
        runtimes: name -> `module:callable`, from `registry.offered`.
        cache: a directory for the noise file.
        cores: CPU numbers to measure on; the last `threads` of them are used. Default: all usable.
    """

    def __init__(
        self, runtimes: Mapping[str, str], cache: Path, cores: Sequence[int] | None = None
    ) -> None:
        self.cores = tuple(cores) if cores else usable_cores()
        self._cache = cache
        self._paths = dict(runtimes)
        self._recorded = registry.recorded(runtimes)
        self._sentinel = replicates.Sentinel()

    def measure(
        self,
        candidate: Path,
        reference: Path,
        target: Target,
        settings: Settings,
        stop: Stop | None = None,
    ) -> Measurement | MeasureError:
        """Time the model in file `candidate` against that in `reference`.

        Raises:
            Withdrawn: `stop` was set meanwhile.
        """
        stop = stop or Never()
        if problem := self._problem(target):
            return MeasureError(kind="invalid", message=problem)
        if recorded := self._recorded.get(target.runtime):
            return _replay(recorded, candidate, reference, settings, stop)
        cores = self.cores[-target.threads :]

        def run(number: int, limit_s: float, calm: Calm) -> Timed | MeasureError:
            job = self._job(target, settings, cores, number, limit_s) | {"calm": asdict(calm)}
            return time_replicate(
                job | {"candidate": str(candidate), "reference": str(reference)}, stop
            )

        conditions = read_conditions(cores)
        # The file's name stands for the model: an agent's is the digest, a LocalProbe has one.
        name = f"{reference.name} {target.key}"
        found = replicates.take(run, settings, conditions, self._sentinel, reference=name)
        if isinstance(found, MeasureError) or not settings.profile:
            return found
        limit_s = min(settings.time_limit_s, _PROFILE_LIMIT_S)
        job = self._job(target, settings, cores, 0, limit_s) | {"candidate": str(candidate)}
        return _with_profile(found, take_profile(job, stop))

    def _problem(self, target: Target) -> str:
        if target.runtime not in self._paths:
            return f"runtime must be among {sorted(self._paths)}, but got {target.runtime!r}"
        if target.threads > len(self.cores):
            return f"threads must be at most {len(self.cores)} here, but got {target.threads}"
        return ""

    def _job(
        self, target: Target, settings: Settings, cores: Sequence[int], number: int, limit_s: float
    ) -> dict[str, Any]:
        return {
            "runtime": self._paths[target.runtime],
            "provider": target.provider,
            "batch_size": target.batch_size,
            "threads": target.threads,
            "sizes": settings.sizes,
            "cores": list(cores),
            "cache": str(self._cache),
            "timing_s": settings.timing_s,
            "overtime": settings.overtime,
            "seed": f"{settings.seed}/{number}",
            "time_limit_s": limit_s,
            "memory_limit_mb": settings.memory_limit_mb,
        }


def _with_profile(
    measurement: Measurement, profile: tuple[LayerTime, ...] | MeasureError
) -> Measurement:
    """A profile that failed costs nothing but itself."""
    if isinstance(profile, MeasureError):
        _log.warning("no profile: %s: %s", profile.kind, profile.message)
        return measurement
    return measurement.model_copy(update={"profile": profile})


def _replay(
    runtime: RecordedRuntime, candidate: Path, reference: Path, settings: Settings, stop: Stop
) -> Measurement | MeasureError:
    _wait(runtime.delay_s, stop)
    found = [_look_up(runtime, path) for path in (candidate, reference)]
    for recorded in found:
        if recorded.error_kind:
            return MeasureError.model_validate(
                {"kind": recorded.error_kind, "message": recorded.error[:2000]}
            )
    version = runtime.version()
    replicate = _replayed(found[0].latency_ns, found[1].latency_ns)
    conditions = Conditions(environment="recorded")
    return replicates.conclude([replicate] * settings.replicates, settings, conditions, version)


def _replayed(candidate_ns: int, reference_ns: int) -> Replicate:
    return Replicate(
        candidate_ns=((candidate_ns,) * _REPLAYED_CALLS,) * _REPLAYED_ROUNDS,
        reference_ns=((reference_ns,) * _REPLAYED_CALLS,) * _REPLAYED_ROUNDS,
        candidate_cold_ns=candidate_ns,
        reference_cold_ns=reference_ns,
    )


def _look_up(runtime: RecordedRuntime, path: Path) -> Recorded:
    model = path.read_bytes()
    return runtime.look_up(hashlib.sha256(model).hexdigest(), model)


def _wait(delay_s: float, stop: Stop) -> None:
    deadline = time.monotonic() + delay_s
    while (left := deadline - time.monotonic()) > 0:
        if stop.is_set():
            raise Withdrawn
        time.sleep(min(left, 0.05))
