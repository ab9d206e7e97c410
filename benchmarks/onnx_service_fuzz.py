"""Mutated ONNX files through a running service: each is taken or refused, and no more happens.

    python -m benchmarks.onnx_service_fuzz --count 200 --seed 0

A private stack is started in a temporary folder. Every fourth file has a data file beside it;
every second one can still be parsed, so that it comes as far as a worker.
Ends with 1 where a request got another answer than 202 or 422, where an inspection ended by a
signal, its limits or an error that nobody foresaw, where one of them held more memory than 4 times
its file and 500 MB beyond what it holds after its imports, where a file appeared outside of the
home of the stack, or where the stack is not ready in the end and does not take a good file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from onnx import ModelProto
from onnx.external_data_helper import set_external_data

from api.stack.background import background
from benchmarks.onnx_fuzz import EXTRA_BYTES, TIMES, bases, mutated

OPTIONS = ("--port", "0", "--workers", "1", "--probe-runtime", "replay")
PATIENCE_S = 180.0
EVERY_S = 0.05
CHILD = "workers.inspection"
DATA = "weights.bin"
UNFORESEEN = ("ended with status", "was stopped", "Traceback", "took longer")


@dataclass
class Peaks:
    """The most memory that each inspection ever held, files that it maps included, in bytes."""

    by_pid: dict[int, int] = field(default_factory=dict)

    @property
    def most(self) -> int:
        return max(self.by_pid.values(), default=0)

    def look(self) -> None:
        """At the inspections of stacks that this process started."""
        for process in psutil.process_iter(["pid", "cmdline"]):
            if CHILD in (process.info["cmdline"] or ()) and _is_own(process):
                pid = process.info["pid"]
                self.by_pid[pid] = max(self.by_pid.get(pid, 0), _peak_bytes(pid))


def _is_own(process: psutil.Process) -> bool:
    try:
        return any(each.pid == os.getpid() for each in process.parents())
    except psutil.Error:
        return False


def _peak_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM:")), 0)


@contextmanager
def watched() -> Iterator[Peaks]:
    """Looks at the inspections of this machine for the `with` block."""
    peaks, over = Peaks(), threading.Event()

    def run() -> None:
        while not over.wait(EVERY_S):
            peaks.look()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def apart(data: bytes) -> tuple[bytes, bytes]:
    """The same file with its floats in a data file."""
    proto = ModelProto.FromString(data)
    held = bytearray()
    for tensor in proto.graph.initializer:
        if tensor.data_type == 1 and tensor.raw_data:
            set_external_data(tensor, DATA, offset=len(held), length=len(tensor.raw_data))
            held += tensor.raw_data
            tensor.ClearField("raw_data")
    return bytes(proto.SerializeToString()), bytes(held)


def unknown_operator(data: bytes) -> bytes:
    """The same file, refused as soon as it has been read."""
    proto = ModelProto.FromString(data)
    proto.graph.node[0].op_type = "Sorcery"
    return bytes(proto.SerializeToString())


def answer(client: httpx.Client, name: str, model: bytes, data: bytes | None) -> str:
    """`taken`, `refused at once`, `refused`, or what must not be."""
    files: list[tuple[str, Any]] = [("weights", ("m.onnx", model))]
    files += [("data", (DATA, data))] if data is not None else []
    spec = {"spec": json.dumps({"name": name, "architecture": "onnx"})}
    sent = client.post("/v1/models", data=spec, files=files)
    if sent.status_code == 422 and sent.json()["type"].endswith("invalid-onnx"):
        return "refused at once"
    if sent.status_code != 202:
        return f"status {sent.status_code}: {sent.text[:200]}"
    deadline = time.monotonic() + PATIENCE_S
    while (found := client.get(f"/v1/models/{name}").json())["state"] == "checking":
        if time.monotonic() > deadline:
            return "is still checked"
        time.sleep(0.05)
    if found["state"] == "ready":
        return "taken"
    told = str((found.get("problem") or {}).get("detail", ""))
    return told if any(words in told for words in UNFORESEEN) or not told else "refused"


def files_outside(folder: Path, home: Path) -> list[str]:
    """Every file below the folder, but for the home."""
    found = []
    for place, names, files in os.walk(folder):
        here = Path(place)
        names[:] = [name for name in names if here / name != home]
        found += [str(here / name) for name in files]
    return sorted(found)


def run(count: int, seed: int, folder: Path) -> dict[str, Any]:
    """All files through one stack; the document of what happened."""
    home, spool, here = folder / "a" / "home", folder / "spool", folder / "here"
    for each in (home.parent, spool, here):
        each.mkdir()
    os.environ |= {"TMPDIR": str(spool), "PYTHONPATH": str(Path(__file__).parent.parent)}
    os.chdir(here)  # of the stack: nothing may be left here, in its temporary folder, or beside
    plain = bases()
    likely = [plain[0], plain[0], *plain]  # the first one is a classifier, as the service takes
    found: Counter[str] = Counter()
    first: dict[str, int] = {}
    over: list[int] = []
    with (
        watched() as peaks,
        background(home, OPTIONS) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        control = answer(client, "control", unknown_operator(plain[0]), None)
        imports = peaks.most
        for number in range(count):
            source = random.Random(f"{seed}/{number}")
            model, data = source.choice(likely), None
            if number % 8 in (0, 1):
                model, data = apart(model)
            model = mutated(model, source, whole=number % 2 == 1)
            peaks.by_pid.clear()
            said = answer(client, f"m{number}", model, data)[:200]
            found[said] += 1
            first.setdefault(said, number)
            limit = imports + TIMES * (len(model) + len(data or b"")) + EXTRA_BYTES
            over += [number] if peaks.most > limit else []
            first["peak"] = max(first.get("peak", 0), peaks.most)
        ready = client.get("/readyz").status_code == 200
        good = answer(client, "good", plain[0], None)
    return {
        "outcomes": found, "control": control, "ready": ready, "good": good,
        "imports_mb": imports // 10**6, "peak_mb": first.pop("peak", 0) // 10**6,
        "beyond_the_limit": over, "first": first,
        "written": files_outside(folder, home),
    }  # fmt: skip


def is_sound(found: dict[str, Any]) -> bool:
    """Whether only what may happen did."""
    others = found["outcomes"].keys() - {"taken", "refused", "refused at once"}
    right = (found["control"], found["good"], found["ready"]) == ("refused", "taken", True)
    return right and not (others or found["written"] or found["beyond_the_limit"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="secateur-fuzz-") as folder:
        found = run(given.count, given.seed, Path(folder))
    found["seconds"] = round(time.monotonic() - began_s)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    if not is_sound(found):
        sys.exit("every file must be taken or refused and leave no trace, but see above")


if __name__ == "__main__":
    main()
