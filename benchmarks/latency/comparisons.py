"""Why latencies are measured as they are: each function compares a way with the other one."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from benchmarks.latency.bench import RUNTIME, Bench
from benchmarks.latency.figures import Figure
from benchmarks.latency.models import Pair, filled_pair, layer
from benchmarks.latency.neighbour import neighbour
from latency_probes.intervals import paired_ratio
from latency_probes.messages import Settings
from latency_probes.runtimes import registry
from latency_probes.spawn import ALLOCATOR

Say = Callable[[str], None]
Found = tuple[list[Figure], dict[str, Any]]

FILL_MEDIAN, FILL_WORST = 1.0, 2.0  # per cent


def filling(
    bench: Bench,
    names: Sequence[str],
    say: Say,
    made: Callable[[str], Pair] = filled_pair,
    what: str = "weights",
) -> Found:
    """Filled weights against true ones: the ratio should be 1."""
    ratios = {}
    for name in names:
        pair = made(name)
        settings = Settings.strict()
        found = bench.measure(pair.candidate, pair.reference, settings)
        ratios[name] = (found.ratio, found.ratio_low, found.ratio_high, found.reference_ms)
        say(f"{name}: {found.ratio:.4f} [{found.ratio_low:.4f}, {found.ratio_high:.4f}]")
    errors = [100 * abs(ratio - 1) for ratio, *_ in ratios.values()]
    figures = [
        Figure(f"filled against true {what}, {len(names)} models: median error",
               median(errors), "%", high=FILL_MEDIAN),
        Figure(f"filled against true {what}: worst error", max(errors), "%", high=FILL_WORST),
    ]  # fmt: skip
    return figures, {"ratios": ratios}


def interleaving(bench: Bench, pair: Pair, repeats: int, say: Say) -> Found:
    """Interleaved with the reference, against one model after the other, beside a neighbour."""
    strict = bench.measure(pair.candidate, pair.reference, Settings.strict())
    together, apart = [], []
    with neighbour():
        for number in range(repeats):
            settings = Settings.screening(seed=number)
            found = bench.measure(pair.candidate, pair.reference, settings)
            together.append(_error(found.ratio, strict.ratio))
            alone = [
                bench.measure(m, m, settings).latency_ms for m in (pair.candidate, pair.reference)
            ]
            apart.append(_error(alone[0] / alone[1], strict.ratio))
            if (number + 1) % 5 == 0:
                say(f"{number + 1} of {repeats} repeats")
    figures = [
        Figure("beside a neighbour, interleaved: median error", median(together), "%"),
        Figure("beside a neighbour, interleaved: worst error", max(together), "%"),
        Figure("beside a neighbour, one after the other: median error", median(apart), "%"),
        Figure("beside a neighbour, one after the other: worst error", max(apart), "%"),
    ]
    return figures, {"interleaved": together, "sequential": apart, "quiet": strict.ratio}


def _error(ratio: float, true: float) -> float:
    return 100 * abs(math.log(ratio / true))


def allocator(bench: Bench, repeats: int) -> Found:
    """A layer of 30 channels against one of 32, with the fixed allocator and with the usual."""
    pair = Pair(layer(30), layer(32))
    free = {k: v for k, v in os.environ.items() if k not in ALLOCATOR}
    found: dict[str, list[tuple[float, float]]] = {"fixed": [], "usual": []}
    for number in range(repeats):
        for way, environment in (("fixed", free | ALLOCATOR), ("usual", free)):
            found[way].append(_replicate(bench, pair, number, environment))
    figures = [
        Figure(f"30 against 32 channels, {way} allocator: {what}", value, unit)
        for way, pairs in found.items()
        for what, value, unit in (
            ("ratio, median", median(ratio for ratio, _ in pairs), ""),
            ("ratio, spread", max(r for r, _ in pairs) - min(r for r, _ in pairs), ""),
            ("page faults per call", median(faults for _, faults in pairs), ""),
        )
    ]
    return figures, found


def _replicate(
    bench: Bench, pair: Pair, number: int, environment: dict[str, str]
) -> tuple[float, float]:
    """Ratio and the candidate's page faults per call, of one measuring child."""
    job = {
        "task": "time", "runtime": registry.offered((RUNTIME,))[RUNTIME],
        "provider": "CPUExecutionProvider", "batch_size": 1, "threads": 1, "cores": [bench.core],
        "cache": str(bench.noise), "timing_s": 0.25, "overtime": 4.0, "calm": {},
        "seed": str(number), "time_limit_s": 60, "memory_limit_mb": 4096, "parent": os.getpid(),
        "candidate": str(bench.file(pair.candidate)),
        "reference": str(bench.file(pair.reference)),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-P", "-m", "latency_probes.child"],
        input=json.dumps(job).encode(), stdout=subprocess.PIPE, env=environment, check=True,
    )  # fmt: skip
    replicate = json.loads(done.stdout)["replicate"]
    ratio = paired_ratio(replicate["candidate_ns"], replicate["reference_ns"])
    return ratio, replicate["candidate_faults"]
