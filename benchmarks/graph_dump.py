"""What the analysis finds in a sample of the networks, to compare before and after a change.

    python -m benchmarks.graph_dump --sample 40 --seed 16 --out before.jsonl
    python -m benchmarks.graph_dump --sample 40 --seed 16 --out after.jsonl --against before.jsonl

No time limit, which would freeze groups by how busy the machine is. Every model runs in a process
of its own; those that OUT has already are not run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.coverage.names import read_names

LIST = Path(__file__).with_name("coverage") / "models.txt"
NO_LIMIT_S = 1e6


def dump(name: str) -> dict[str, Any]:
    """The groups of one model, and digests of their atoms, their members and a plan.

    Returns:
        `groups`: name -> kind, width, status, form, reason; `counts`: the parameters and
        multiply-accumulates that the plan leaves; `digests`: name -> hexadecimal.
    """
    from benchmarks.coverage.plans import half_plan
    from benchmarks.coverage.subjects import load
    from search import trace

    model, inputs = load(name)
    graph = trace(model, inputs, time_limit_s=NO_LIMIT_S)
    plan = half_plan(graph)
    atoms = hashlib.sha256(graph.group_of.tobytes() + graph.unit_of.tobytes()).hexdigest()
    members = hashlib.sha256(repr([group.members for group in graph.groups]).encode()).hexdigest()
    return {
        "name": name,
        "groups": {
            group.name: [group.kind, group.width, group.status, group.form, group.reason]
            for group in graph.groups
        },
        "counts": [graph.parameters(plan), graph.macs(plan)],
        "digests": {"atoms": atoms, "members": members, "plan": plan.digest},
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between two dumps of one model, a line each."""
    old, new = before.get("groups", {}), after.get("groups", {})
    lines = [
        f"{name}: {old.get(name)} -> {new.get(name)}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]
    keys = ("error", "counts", "digests")
    changed = [key for key in keys if before.get(key) != after.get(key)]
    return lines + [f"{key}: {before.get(key)} -> {after.get(key)}" for key in changed]


def main() -> int:
    options = _parser().parse_args()
    if options.only:
        sys.stdout.write(json.dumps(dump(options.only)) + "\n")
        return 0
    names = read_names([str(LIST)])
    chosen = random.Random(options.seed).sample(names, min(options.sample, len(names)))
    done = {row["name"]: row for row in _rows(options.out)}
    with options.out.open("a", encoding="utf-8") as file:
        for name in chosen:
            if name not in done:
                done[name] = _in_child(name)
                file.write(json.dumps(done[name]) + "\n")
                file.flush()
    if options.against is None:
        return 0
    before = {row["name"]: row for row in _rows(options.against)}
    found = {name: differences(before.get(name, {}), done[name]) for name in chosen}
    for name, lines in found.items():
        sys.stdout.write("".join(f"{name}  {line}\n" for line in lines))
    different = sum(bool(lines) for lines in found.values())
    sys.stdout.write(f"{len(chosen) - different} of {len(chosen)} models are the same\n")
    return int(different > 0)


def _in_child(name: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.graph_dump", "--only", name, "--out", "-"]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode:
        return {"name": name, "error": child.stderr.strip().splitlines()[-1][:200]}
    row: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return row


def _rows(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.graph_dump", description=__doc__)
    parser.add_argument("--sample", type=int, default=40, help="how many models of the list")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--out", type=Path, required=True, help="a line of JSON per model")
    parser.add_argument("--against", type=Path, help="an earlier OUT; the differences are printed")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
