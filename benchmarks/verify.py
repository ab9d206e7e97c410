"""Times two ONNX files against each other, interleaved, in fresh processes. Knows no service.

    python -m benchmarks.verify model.onnx dense.onnx --processes 6

Uses ONNX Runtime alone, none of Secateur's own timing, so that it can contradict it.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

ROUNDS = 60
ROUND_S = 0.01


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """One session with a fixed number of threads, run in sequence."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def calls_ns(
    model: onnxruntime.InferenceSession, feed: dict[str, object], count: int
) -> list[int]:
    """How long each of `count` calls took."""
    taken = []
    for _ in range(count):
        start = time.perf_counter_ns()
        model.run(None, feed)
        taken.append(time.perf_counter_ns() - start)
    return taken


def one_process(candidate: Path, reference: Path, threads: int, seed: int) -> tuple[float, float]:
    """Median milliseconds of candidate and reference over alternating rounds."""
    random = np.random.default_rng(seed)
    models = [session(path, threads) for path in (candidate, reference)]
    feeds = []
    for model in models:
        (given,) = model.get_inputs()
        feeds.append({given.name: random.random(given.shape, dtype=np.float32)})
    counts = []
    for model, feed in zip(models, feeds, strict=True):
        calls_ns(model, feed, 50)
        median = statistics.median(calls_ns(model, feed, 50))
        counts.append(max(3, math.ceil(ROUND_S * 1e9 / median)))
    taken: tuple[list[int], list[int]] = ([], [])
    for _ in range(ROUNDS):
        for which in random.permutation(2):
            taken[which].extend(calls_ns(models[which], feeds[which], counts[which]))
    return statistics.median(taken[0]) / 1e6, statistics.median(taken[1]) / 1e6


def in_processes(options: argparse.Namespace) -> list[tuple[float, float]]:
    """The same in one fresh process after the other."""
    found = []
    for seed in range(options.processes):
        command = [sys.executable, "-m", "benchmarks.verify", "--child", str(seed)]
        command += ["--threads", str(options.threads), str(options.candidate)]
        done = subprocess.run([*command, str(options.reference)], check=True, capture_output=True)
        candidate_ms, reference_ms = json.loads(done.stdout)
        found.append((candidate_ms, reference_ms))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("candidate", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--processes", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        pair = one_process(options.candidate, options.reference, options.threads, options.child)
        sys.stdout.write(json.dumps(pair))
        return
    pairs = in_processes(options)
    ratios = [candidate / reference for candidate, reference in pairs]
    document = {"ratio": statistics.median(ratios), "ratios": ratios, "milliseconds": pairs}
    for ratio, (candidate_ms, reference_ms) in zip(ratios, pairs, strict=True):
        sys.stdout.write(f"{candidate_ms:.4f} ms / {reference_ms:.4f} ms = {ratio:.4f}\n")
    sys.stdout.write(f"median ratio over {len(ratios)} processes: {document['ratio']:.4f}\n")
    if options.json:
        options.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
