"""Runs the measuring child from the parent: fixed environment, hard limits, typed errors. One
process per replicate, started by exec; its whole process group is ended when it overstays or when
nobody waits any more."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from latency_probes.environment import without_secrets
from latency_probes.messages import Capabilities, Machine, MeasureError, Name, RuntimeInfo
from latency_probes.samples import MAX_LAYERS, LayerTime, Replicate

# With the default thresholds, page faults made a 30-channel layer look 38 % faster than a
# 32-channel one, though it is 3 % slower.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "1073741824"}
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_POLL_S = 0.1
_DESCRIBE_LIMIT_S = 300.0
_MEMORY_MARKS = (
    "bad_alloc", "MemoryError", "Cannot allocate memory", "failed to map segment",
    "Memory allocation still failed",
)  # fmt: skip
_NAME_LENGTH = 100
_MAX_ERRORS_BYTES = 64 * 2**20
_RUNTIMES: TypeAdapter[dict[Name, RuntimeInfo]] = TypeAdapter(dict[Name, RuntimeInfo])
_log = logging.getLogger(__name__)


class Withdrawn(Exception):
    """The caller no longer wants the measurement; its child has been ended."""


class Timed(BaseModel):
    """A child's reply when all went well."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    replicate: Replicate
    runtime_version: str


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid")
    error: MeasureError | None = None
    replicate: Replicate | None = None
    runtime_version: str = ""
    runtimes: dict[str, Any] | None = None
    machine: Machine | None = None
    profile: list[tuple[str, str, int]] | None = None


class Stop(Protocol):
    """Says that a measurement is no longer wanted; `threading.Event` is one."""

    def is_set(self) -> bool: ...


class Never:
    """A stop that is never set."""

    def is_set(self) -> bool:
        return False


def describe_device(
    paths: Mapping[str, str], cores: Sequence[int], stop: Stop | None = None
) -> Capabilities | MeasureError:
    """Ask a child what this machine is, and which of these runtimes work here.

    The heavy libraries never load in this process.

    Raises:
        Withdrawn: `stop` was set meanwhile.
    """
    limit_s = _DESCRIBE_LIMIT_S
    job: dict[str, Any] = {"task": "describe", "runtimes": dict(paths), "cores": list(cores)}
    job |= {"time_limit_s": limit_s, "parent": os.getpid()}
    reply = _run(job, threads=1, limit_s=limit_s, stop=stop or Never())
    if isinstance(reply, MeasureError):
        return reply
    if reply.error is not None or reply.machine is None or reply.runtimes is None:
        return reply.error or MeasureError(kind="crashed", message="the child described nothing")
    machine = reply.machine.model_dump()
    return Capabilities(**machine, cores=max(len(cores), 1), runtimes=_valid(reply.runtimes))


def _valid(told: Mapping[str, Any]) -> dict[str, RuntimeInfo]:
    """The runtimes that say of themselves what they should: a bad one hides no other."""
    found: dict[str, RuntimeInfo] = {}
    for name, info in told.items():
        try:
            found |= _RUNTIMES.validate_python({name: info})
        except ValidationError as error:
            problem = error.errors(include_input=False)[0]["msg"]
            _log.warning("runtime %.100r is not offered: %s", name, problem)
    return found


def time_replicate(job: dict[str, Any], stop: Stop) -> Timed | MeasureError:
    """Run one replicate; `job` is the child's, without `task` and `parent`.

    Raises:
        Withdrawn: `stop` was set meanwhile.
    """
    job = job | {"task": "time", "parent": os.getpid()}
    started = time.perf_counter()
    reply = _run(job, threads=job["threads"], limit_s=job["time_limit_s"], stop=stop)
    if isinstance(reply, MeasureError):
        return reply
    if reply.error is not None:
        return reply.error
    if reply.replicate is None:
        return MeasureError(kind="crashed", message="the child replied without a replicate")
    process_ms = (time.perf_counter() - started) * 1e3
    replicate = reply.replicate.model_copy(update={"process_ms": process_ms})
    return Timed(replicate=replicate, runtime_version=reply.runtime_version)


def take_profile(job: dict[str, Any], stop: Stop) -> tuple[LayerTime, ...] | MeasureError:
    """The usual times of the candidate's layers in their order, the dearest 2000 of them at most;
    none where the runtime cannot tell. `job` as for `time_replicate`, and raises the same."""
    job = job | {"task": "profile", "parent": os.getpid()}
    reply = _run(job, threads=job["threads"], limit_s=job["time_limit_s"], stop=stop)
    if isinstance(reply, MeasureError):
        return reply
    if reply.error is not None:
        return reply.error
    layers = reply.profile or []
    dearest = sorted((ns for _, _, ns in layers), reverse=True)[:MAX_LAYERS]
    kept = [layer for layer in layers if dearest and layer[2] >= dearest[-1]][:MAX_LAYERS]
    return tuple((_word(name), _word(op), max(ns, 0)) for name, op, ns in kept)


def _word(text: str) -> str:
    """Short and printable: names come from models."""
    return "".join(c if c.isprintable() else "?" for c in text[:_NAME_LENGTH])


def _run(
    job: dict[str, Any], *, threads: int, limit_s: float, stop: Stop
) -> _Reply | MeasureError:
    with tempfile.TemporaryFile() as task, tempfile.TemporaryFile() as errors:
        task.write(json.dumps(job).encode())
        task.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "latency_probes.child"],
            stdin=task,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_environment(threads),
            start_new_session=True,
        )
        try:
            output = _communicate(process, errors, limit_s, stop)
        except subprocess.TimeoutExpired:
            return MeasureError(kind="timeout", message=f"one replicate took over {limit_s:.3g} s")
        except _TooMuch:
            message = f"the child wrote more than {_MAX_ERRORS_BYTES} bytes of errors"
            return MeasureError(kind="crashed", message=message)
        finally:
            _end_group(process)
        return _read(process.returncode, output, _tail(errors))


class _TooMuch(Exception):
    """A child fills the disk."""


def _communicate(
    process: "subprocess.Popen[bytes]", errors: IO[bytes], limit_s: float, stop: Stop
) -> bytes:
    deadline = time.monotonic() + limit_s
    while True:
        left = deadline - time.monotonic()
        if stop.is_set():
            raise Withdrawn
        if os.fstat(errors.fileno()).st_size > _MAX_ERRORS_BYTES:
            raise _TooMuch
        try:
            return process.communicate(timeout=min(max(left, 0), _POLL_S))[0]
        except subprocess.TimeoutExpired:
            if left <= 0:
                raise


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """End the child and whatever it started; harmless when all have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _read(code: int, output: bytes, errors: str) -> _Reply | MeasureError:
    if code == -signal.SIGALRM:
        return MeasureError(kind="timeout", message="the replicate overran its time limit")
    if code == -signal.SIGKILL or (code != 0 and any(mark in errors for mark in _MEMORY_MARKS)):
        return MeasureError(kind="out_of_memory", message=f"the child was ended: {errors}")
    if code < 0:
        names = {number.value: number.name for number in signal.Signals}
        name = names.get(-code, f"signal {-code}")
        return MeasureError(kind="crashed", message=f"the child ended by {name}: {errors}")
    try:
        return _Reply.model_validate_json(output)
    except ValidationError:
        message = f"the child ended with {code} and without a valid reply: {errors}"
        return MeasureError(kind="crashed", message=message)


def _environment(threads: int) -> dict[str, str]:
    """Ours without its secrets, with allocator and threads fixed, and with this package
    importable from a checkout."""
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    fixed = dict.fromkeys(_THREAD_VARIABLES, str(threads))
    return without_secrets(os.environ) | ALLOCATOR | fixed | {"PYTHONPATH": path}


def _tail(errors: IO[bytes]) -> str:
    errors.seek(0, os.SEEK_END)
    errors.seek(max(errors.tell() - 1500, 0))
    return errors.read().decode("utf-8", "replace").strip()
