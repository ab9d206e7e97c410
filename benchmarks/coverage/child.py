"""`python -m benchmarks.coverage.child NAME FOLDER`: one model in a process that can be killed.

A name as `torch-pruning/timm:resnet18` has a peer do the pruning.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import asdict
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()

    import torch

    from benchmarks.coverage.examination import examine
    from benchmarks.coverage.peers import PEERS, examine_peer

    logging.disable(logging.ERROR)
    torch.set_num_threads(options.threads)
    tool, slash, name = options.name.partition("/")
    if slash and tool in PEERS:
        row = examine_peer(tool, name, options.folder)
    else:
        row = examine(
            options.name, options.folder, time_limit_s=options.time_limit, quick=options.quick
        )
    (options.folder / "row.json").write_text(json.dumps(asdict(row)))


if __name__ == "__main__":
    main()
