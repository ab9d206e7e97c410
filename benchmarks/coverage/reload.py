"""`python -m benchmarks.coverage.reload FOLDER`: loads a saved pruned model and runs it.

A process of its own, which never saw the trace.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from benchmarks.coverage.oracle import outputs_of
from benchmarks.coverage.subjects import load
from search.loading import load_pruned


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    dense, _ = load((folder / "name").read_text())
    pruned = load_pruned(dense, folder / "plan.json", folder / "weights.safetensors").eval()
    inputs = torch.load(folder / "inputs.pt", weights_only=True)
    torch.save(outputs_of(pruned, inputs), folder / "outputs.pt")


if __name__ == "__main__":
    main()
