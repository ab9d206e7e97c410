"""How well latencies are measured here.

    python -m benchmarks.latency [--quick] [--only PART ...] [--json OUT] [--plot OUT.png]

Needs a machine on which nothing else runs; the extra `zoo` for the parts `filling`, of which
`--quick` and an environment without it run the trained ResNet-20 alone. Parts that OUT holds
already, made in the same form, are not run again.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.latency import comparisons, pools, repeatability, service
from benchmarks.latency.bench import Bench
from benchmarks.latency.figures import Figure, table
from benchmarks.latency.models import (
    ARCHITECTURES,
    TRAINED,
    Pair,
    filled_int8_pair,
    filled_pair,
    resnet20_pair,
)
from benchmarks.latency.neighbour import neighbour
from benchmarks.latency.plots import draw
from latency_probes import machine
from latency_probes.conditions import usable_cores
from latency_probes.messages import Settings

Found = tuple[list[Figure], dict[str, Any]]
IDLE_LIMIT, BUSY_LIMIT = 0.01, 0.02
INT8_MODELS = 10


@dataclass(frozen=True)
class Extent:
    """How much each part does."""

    trials: int
    strict_trials: int
    models: tuple[str, ...]
    repeats: int
    candidates: int
    reports: int


FULL = Extent(100, 12, ARCHITECTURES, 20, 60, 100)
QUICK = Extent(16, 0, (TRAINED,), 5, 15, 30)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts; 1 if one failed (a figure that misses what was asked is no failure)."""
    options = _parser().parse_args(argv)
    extent = QUICK if options.quick else FULL
    document = _begun(options.json, "quick" if options.quick else "full")
    failed = False
    for name in options.only or PARTS:
        if name in document["parts"]:
            _say(name, "done before")
            continue
        begun = time.monotonic()
        try:
            figures, details = PARTS[name](extent, partial(_say, name))
        except Exception as error:
            failed = True
            _say(name, f"failed: {type(error).__name__}: {error}")
            continue
        document["parts"][name] = {
            "seconds": round(time.monotonic() - begun, 1),
            "figures": [figure.document() for figure in figures],
            **details,
        }
        _keep(options.json, document)
        sys.stdout.write(f"{name} ({time.monotonic() - begun:.0f} s)\n{table(figures)}\n")
        sys.stdout.flush()
    if options.plot:
        draw(document["parts"], options.plot)
    return int(failed)


def aa_idle(extent: Extent, say: Callable[[str], None]) -> Found:
    """A/A trials on an idle machine."""
    return _trials(extent.trials, "idle", IDLE_LIMIT, say)


def aa_neighbour(extent: Extent, say: Callable[[str], None]) -> Found:
    """The same beside a neighbour."""
    with neighbour():
        return _trials(extent.trials, "neighbour", BUSY_LIMIT, say)


def aa_strict(extent: Extent, say: Callable[[str], None]) -> Found:
    """A few trials with the settings that finalists are measured with."""
    if not extent.strict_trials:
        return [], {}
    return _trials(extent.strict_trials, "idle, strict", IDLE_LIMIT, say, Settings.strict)


def _trials(
    trials: int,
    title: str,
    limit: float,
    say: Callable[[str], None],
    make: Callable[..., Settings] = Settings.screening,
) -> Found:
    with Bench() as bench:
        pair = resnet20_pair()
        found = repeatability.run(bench, pair, trials, lambda n: make(seed=n), say)
    return found.figures(title, limit), found.document()


def filling(extent: Extent, say: Callable[[str], None]) -> Found:
    """Filled weights against true ones."""
    with Bench() as bench:
        return comparisons.filling(bench, _models(extent, say), say)


def filling_int8(extent: Extent, say: Callable[[str], None]) -> Found:
    """The same with all layers in int8: placeholders against true scales."""
    names = _models(extent, say)[:INT8_MODELS]
    with Bench() as bench:
        return comparisons.filling(bench, names, say, filled_int8_pair, "int8 weights and scales")


def _models(extent: Extent, say: Callable[[str], None]) -> tuple[str, ...]:
    zoo = all(map(find_spec, ("timm", "torchvision")))
    if not zoo and len(extent.models) > 1:
        say("timm and torchvision are not installed (extra zoo): the trained model alone")
    return extent.models if zoo else (TRAINED,)


def interleaving(extent: Extent, say: Callable[[str], None]) -> Found:
    """Interleaved against sequential timing."""
    with Bench() as bench:
        return comparisons.interleaving(bench, resnet20_pair(), extent.repeats, say)


def allocator(extent: Extent, say: Callable[[str], None]) -> Found:
    """Allocator on and off."""
    with Bench() as bench:
        return comparisons.allocator(bench, extent.repeats)


def through_the_service(extent: Extent, say: Callable[[str], None]) -> Found:
    """Throughput, overhead, delay and bytes."""
    pair = resnet20_pair()
    figures = service.wire(pair, "ResNet-20")
    if find_spec("torchvision"):
        figures += service.wire(filled_pair_as_skeletons("torchvision:resnet50"), "ResNet-50")
    with service.stack() as running:
        say("the stack is up")
        times, parts = service.throughput(running, pair, extent.candidates)
        delays, taken = service.delay(running, extent.reports)
    return figures + times + delays, parts | taken


def pool_scaling(extent: Extent, say: Callable[[str], None]) -> Found:
    """One job on 1, 2 and 4 agents that replay."""
    with service.stack("--no-probe") as running:
        return pools.scaling(running, extent.candidates, say)


def filled_pair_as_skeletons(name: str) -> Pair:
    """The dense skeleton of a model, as candidate and reference."""
    dense = filled_pair(name).reference
    return Pair(dense, dense)


PARTS: dict[str, Callable[[Extent, Callable[[str], None]], Found]] = {
    "aa": aa_idle,
    "aa-neighbour": aa_neighbour,
    "aa-strict": aa_strict,
    "filling": filling,
    "filling-int8": filling_int8,
    "interleaving": interleaving,
    "allocator": allocator,
    "service": through_the_service,
    "pool": pool_scaling,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="at most ten minutes")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), help="these parts alone")
    parser.add_argument("--json", type=Path, help="all numbers; read again to go on")
    parser.add_argument("--plot", type=Path, help="a picture of the A/A trials")
    return parser


def _begun(path: Path | None, form: str) -> dict[str, Any]:
    """What an earlier run of the same form left, or a new document."""
    if path is not None and path.exists():
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if found.get("form") == form:
            return found
    return {
        "form": form,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine.read(usable_cores()) | {"cores": len(usable_cores())},
        "versions": {name: version(name) for name in ("torch", "onnxruntime", "numpy")},
        "python": platform.python_version(),
        "parts": {},
    }


def _keep(path: Path | None, document: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(document, indent=1), "utf-8")


def _say(name: str, text: str) -> None:
    sys.stderr.write(f"{name}: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    raise SystemExit(main())
