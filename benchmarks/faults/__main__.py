"""Agents, broker, collector and links are broken at random while measurements run.

    python -m benchmarks.faults --measurements 1000 --seed 0 --agents 4 --json OUT

Exit code 0: every request ended in exactly one counted result or one typed error, the right one.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks.faults.run import Outcome, run


def main() -> int:
    """Run, print the table, write the JSON."""
    arguments = _parser().parse_args()
    if arguments.verbose:
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("httpx").setLevel(logging.WARNING)
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with tempfile.TemporaryDirectory(prefix="secateur-faults-") as directory:
        home = Path(arguments.home or directory)
        home.mkdir(parents=True, exist_ok=True)
        outcome = run(
            home,
            measurements=arguments.measurements,
            agents=arguments.agents,
            seed=arguments.seed,
            delay_s=arguments.delay_s,
            lease_s=arguments.lease_s,
        )
    sys.stdout.write(table(outcome))
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(outcome), indent=1) + "\n")
    return 0 if outcome.is_right else 1


def table(outcome: Outcome) -> str:
    """The outcome, one line a figure."""
    verdict = outcome.verdict
    rows = {
        "requests": verdict.requests,
        "one counted result": verdict.results,
        **{f"one counted error, {kind}": count for kind, count in verdict.errors.items()},
        "lost": verdict.lost,
        "counted twice": verdict.twice,
        "wrong answer": verdict.wrong,
        "late answers, not counted": verdict.late,
        **{f"attempts: {n}": count for n, count in sorted(verdict.attempts.items())},
        **{f"fault: {kind}": count for kind, count in sorted(outcome.faults.items())},
        **{f"left over: {what}": count for what, count in outcome.left_over.items()},
        "seconds": round(outcome.seconds),
    }
    return "".join(f"{name:<36}{value:>8}\n" for name, value in rows.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--measurements", type=int, default=1000)
    parser.add_argument("--agents", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--delay-s", type=float, default=0.05, help="time of one measurement")
    parser.add_argument("--lease-s", type=float, default=30.0)
    parser.add_argument("--home", help="empty directory to work in, kept afterwards")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--verbose", action="store_true", help="every fault and its moment")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
