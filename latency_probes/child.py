"""The measuring child: `python -m latency_probes.child` reads one job as JSON from standard input,
writes one reply as JSON to standard output, and ends. One process per replicate, so that
replicates sample memory layouts.

    {"task": "time", "runtime": "module:callable", "candidate": path, "reference": path,
     "cache": path, "provider", "batch_size", "threads", "cores": [..], "timing_s", "overtime",
     "calm": {"reference_ns", "sentinel_ns", "patient"}, "seed", "time_limit_s", "memory_limit_mb",
     "parent": pid}
        -> {"replicate": {...}, "runtime_version": "..."}
    {"task": "profile", and the rest as for "time"}  -> {"profile": [[name, operator, ns], ...]}
    {"task": "describe", "runtimes": {name: "module:callable"}, "cores": [..], "time_limit_s",
     "parent": pid}
        -> {"runtimes": {name: {version, providers}}, "machine": {...}}
    any failure  -> {"error": {"kind": "...", "message": "..."}}

Imports no pydantic and no redis: every millisecond here is paid once per replicate.
"""

import gc
import json
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

from latency_probes import machine, timing
from latency_probes.runtimes import registry
from latency_probes.runtimes.base import (
    Call,
    Clock,
    ClockedRuntime,
    IntegerRuntime,
    InvalidModel,
    Placement,
    ProfilingRuntime,
    RecordedRuntime,
    Runtime,
    UnsupportedOperator,
)

_PR_SET_PDEATHSIG = 1
_SENTINEL_STEPS = 250
_SENTINEL_RUNS = 3


def main() -> NoReturn:
    """Read the job, do it, reply, end."""
    reply_to = os.dup(1)
    os.dup2(2, 1)  # a library that prints must not spoil the reply
    job = json.loads(sys.stdin.buffer.read())
    try:
        reply = _TASKS[job["task"]](job)
    except tuple(_KINDS) as error:
        kind = next(kind for of, kind in _KINDS.items() if isinstance(error, of))
        reply = {"error": {"kind": kind, "message": str(error)[:2000]}}
    with os.fdopen(reply_to, "w") as out:
        json.dump(reply, out)
    sys.stderr.flush()
    os._exit(0)  # the libraries take 40 ms to say goodbye


_KINDS: dict[type[Exception], str] = {
    UnsupportedOperator: "unsupported_op",
    InvalidModel: "invalid",
    MemoryError: "out_of_memory",
}


def _describe(job: dict[str, Any]) -> dict[str, Any]:
    """What each runtime is; one whose library is missing is left out."""
    _end_in_time(job)
    found = {}
    for name, path in job["runtimes"].items():
        try:
            runtime = registry.load(path)
            providers = [str(provider) for provider in runtime.providers()]
            found[name] = {"version": str(runtime.version())[:200], "providers": providers}
            if isinstance(runtime, IntegerRuntime):
                found[name]["formats"] = list(runtime.formats())
        except Exception as error:  # whatever is wrong with one of them hides no other
            sys.stderr.write(f"runtime {name} is not available: {error}\n")
    return {"runtimes": found, "machine": machine.read(job["cores"])}


def _time(job: dict[str, Any]) -> dict[str, Any]:
    _confine(job)
    started = time.perf_counter_ns()
    runtime, version, placement = _prepared(job)
    order = random.Random(job["seed"])
    calls, load_ns = {}, {}
    for role in ("candidate", "reference") if order.random() < 0.5 else ("reference", "candidate"):
        calls[role], load_ns[role] = _loaded(runtime, Path(job[role]), placement, job)
    setup_ns = time.perf_counter_ns() - started
    gc.collect()
    gc.disable()
    preempted = _preemptions()
    started = time.perf_counter_ns()
    pair = timing.time_pair(
        calls["candidate"],
        calls["reference"],
        timing_s=job["timing_s"],
        overtime=job["overtime"],
        clock=_clock(runtime, placement),
        faults=_page_faults,
        sentinel=sentinel_ns,
        order=order,
        calm=timing.Calm(**job["calm"]),
    )
    timing_ns = time.perf_counter_ns() - started
    preempted = _preemptions() - preempted
    replicate = _samples(pair) | {
        "sentinel_ns": pair.sentinel_ns,
        "preemptions": preempted,
        "setup_ms": setup_ns / 1e6,
        "timing_ms": timing_ns / 1e6,
        "candidate_load_ms": load_ns["candidate"] / 1e6,
        "reference_load_ms": load_ns["reference"] / 1e6,
        "peak_rss_mb": _peak_rss_mb(),
    }
    return {"replicate": replicate, "runtime_version": version[:200]}


def _profile(job: dict[str, Any]) -> dict[str, Any]:
    """The candidate's layers; none where the runtime cannot tell them."""
    _confine(job)
    runtime, _, placement = _prepared(job)
    if not isinstance(runtime, ProfilingRuntime):
        return {"profile": []}
    model = Path(job["candidate"]).read_bytes()
    layers = runtime.profile(model, placement, Path(job["cache"]))
    return {"profile": [(layer.name, layer.op, layer.ns) for layer in layers]}


def _prepared(job: dict[str, Any]) -> tuple[Runtime, str, Placement]:
    """The runtime with its library imported, its version, and where to run."""
    runtime = registry.load(job["runtime"])
    if isinstance(runtime, RecordedRuntime):
        raise InvalidModel("a recorded runtime is looked up, not timed")
    sizes = job.get("sizes") or {}
    placement = Placement(job["provider"], job["batch_size"], job["threads"], sizes)
    return runtime, runtime.version(), placement


def _loaded(
    runtime: Runtime, path: Path, placement: Placement, job: dict[str, Any]
) -> tuple[Call, int]:
    """A model made ready, and how many ns that took from its bytes."""
    model = path.read_bytes()
    started = time.perf_counter_ns()
    try:
        call = runtime.load(model, placement, Path(job["cache"]))
    except UnsupportedOperator as error:
        names = runtime.lacking(model, placement) or error.operators
        if not names:
            raise
        raise UnsupportedOperator(f"the runtime lacks {', '.join(names)} ({error})") from error
    return call, time.perf_counter_ns() - started


def _clock(runtime: Runtime, placement: Placement) -> Clock:
    if isinstance(runtime, ClockedRuntime):
        return runtime.clock(placement)
    return time.perf_counter_ns


def _samples(pair: timing.PairTiming) -> dict[str, Any]:
    return {
        "candidate_ns": pair.candidate_ns,
        "reference_ns": pair.reference_ns,
        "candidate_cold_ns": pair.candidate.cold_ns,
        "reference_cold_ns": pair.reference.cold_ns,
        "candidate_faults": pair.candidate_faults,
        "reference_faults": pair.reference_faults,
        "warmup_calls": pair.candidate.calls + pair.reference.calls,
        "warm": pair.candidate.settled and pair.reference.settled,
        "retaken": len(pair.retaken),
        "retaken_ratio": median(pair.retaken) if pair.retaken else None,
    }


def sentinel_ns() -> int:
    """The least time of a small loop that keeps all of a core's units busy and touches no memory:
    it takes longer where the frequency falls, and half as long again where another thread runs on
    the same core."""
    samples = []
    for _ in range(_SENTINEL_RUNS):
        found = 0
        start = time.perf_counter_ns()
        for step in range(_SENTINEL_STEPS):
            found += step * step & 7
        samples.append(time.perf_counter_ns() - start)
    return max(min(samples), 1)


def _confine(job: dict[str, Any]) -> None:
    """Cores, memory and time; and no life after the parent's."""
    _end_in_time(job)
    if job["cores"]:
        os.sched_setaffinity(0, job["cores"])
    limit = job["memory_limit_mb"] * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_in_time(job: dict[str, Any]) -> None:
    _die_with(job["parent"])
    signal.setitimer(signal.ITIMER_REAL, job["time_limit_s"])


_TASKS = {"describe": _describe, "profile": _profile, "time": _time}


def _die_with(parent: int) -> None:
    """Ask the kernel to end this process with its parent, which may already be gone."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(1)


def _page_faults() -> int:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt + usage.ru_majflt


def _peak_rss_mb() -> float:
    """Of this program alone: what getrusage tells may be what the parent had when it forked."""
    lines = Path("/proc/self/status").read_text().splitlines()
    peak_kb = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), "0")
    return int(peak_kb) / 1024


def _preemptions() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


if __name__ == "__main__":
    main()
