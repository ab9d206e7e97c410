"""How much of many networks can be pruned, and whether the results are right.

    python -m benchmarks.coverage --models benchmarks/coverage/models.txt --json rows.json
    python -m benchmarks.coverage --draw 30 --seed 7 --json drawn.json

Every model runs in a process of its own that is killed when it overstays.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from benchmarks.coverage.children import Limits, child_command, run
from benchmarks.coverage.drawing import CATALOGUES, drawn
from benchmarks.coverage.names import ModelNameError, installed_peers, read_names
from benchmarks.coverage.rows import Row, RowFile, summary, table
from workers.loaders.errors import ArchitectureError

LIST = Path(__file__).with_name("models.txt")


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        names = read_names(options.models)
        if options.draw:
            names = drawn(options.draw, options.seed, options.zoos, names)
        file = RowFile(options.json, resume=options.resume)
    except (ArchitectureError, ModelNameError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    file.drop(options.again)
    limits = Limits(options.time_limit, options.check_limit, int(options.memory_limit * 1e9))
    tools = ["", *(f"{tool}/" for tool in installed_peers() if options.peers)]
    wanted = [f"{tool}{name}" for tool in tools for name in names]
    waiting = [name for name in wanted if name not in file.names]
    command = child_command(limits, options.threads, quick=options.quick)
    try:
        rows = run(waiting, command, limits, jobs=options.jobs, threads=options.threads)
        for done, row in enumerate(rows, 1):
            file.add(row)
            _progress(row, done, len(waiting))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; --resume goes on from here\n")
        return 130
    for tool in tools:
        own = {f"{tool}{name}" for name in names}
        listed = [row for row in file.rows if row.name in own]
        sys.stdout.write(table(listed) + summary(listed))
    return 0


def _interruptible() -> None:
    """Ending by a signal is an interruption too, also where a shell had SIGINT ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def _progress(row: Row, done: int, total: int) -> None:
    share = f"{row.macs_removed:.1%} + {row.macs_removed_approximate:.1%}"
    reason = f"  {row.reason}" if row.reason else ""
    line = f"[{done}/{total}] {row.name}  {row.status}  {share}  {row.seconds:.1f} s{reason}\n"
    sys.stderr.write(line)
    sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument(
        "--models",
        nargs="+",
        default=[str(LIST)],
        metavar="FILE|NAME",
        help="names (timm:NAME, torchvision:NAME, transformers:CLASS, pytorchcv:NAME, "
        "python:MODULE:FUNCTION) and files of them; by default the list in this folder",
    )
    parser.add_argument(
        "--draw",
        type=_count,
        metavar="N",
        help="run N models drawn by chance from all that the zoos have and --models has not",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument(
        "--zoos", nargs="+", default=list(CATALOGUES), choices=CATALOGUES, help="to draw from"
    )
    parser.add_argument(
        "--time-limit",
        type=_positive,
        default=60.0,
        metavar="S",
        help="seconds to start, build, trace and prune one model; then it is killed",
    )
    parser.add_argument(
        "--check-limit",
        type=_positive,
        default=240.0,
        metavar="S",
        help="seconds for the checks of the pruned model that follow",
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    parser.add_argument(
        "--memory-limit",
        type=_positive,
        default=0.7 * memory,
        metavar="GB",
        help="memory of one child",
    )
    parser.add_argument("--jobs", type=_count, default=1, help="models at a time")
    parser.add_argument("--threads", type=_count, default=1, help="threads of one child")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="trace, prune, run and compare only: no training, export or loading",
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help="the same models with Torch-Pruning and ModelOpt, where they are installed",
    )
    parser.add_argument("--resume", action="store_true", help="keep the rows that --json has")
    parser.add_argument(
        "--again",
        nargs="+",
        default=[],
        choices=("ok", "frozen", "failed", "timeout"),
        help="with --resume: run models of these statuses again",
    )
    parser.add_argument("--json", type=Path, required=True, metavar="OUT", help="rows go here")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be > 0, but got {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be ≥ 1, but got {text}")
    return value


if __name__ == "__main__":
    _interruptible()
    sys.exit(main())
