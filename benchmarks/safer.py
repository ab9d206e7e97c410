"""How sensitive layers are, and which cheap estimate ranks them as measuring does (SAfER).

    python -m benchmarks.safer --data DIR --out DIR [--quick] [--networks NAME …] [--picture OUT]

DIR of `--data` holds Fashion-MNIST (`python -m examples.fetch_fashion_mnist --out DIR`). Every
group of a trained network is pruned alone, reconstructed and recalibrated, and every layer alone
gets noise, flipped bits and few bits. Printed: Kendall's τ between each estimate and the measured
drop of accuracy, with a bootstrap interval over groups or layers, the seconds of each, the winner,
and what floors become when fewer ratios are measured and the estimate says the rest. Estimates see
the calibration images; what is measured is measured on others, from the test images. Networks but
ResNet-20 are trained first. A run that was ended goes on from `--out`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.joint.__main__ import images_of, versions
from benchmarks.joint.networks import NETWORKS
from benchmarks.kept import kept
from benchmarks.ranking import Pair, kendall, mean_interval, mean_kendall, told
from benchmarks.search.subject import Subject
from search.candidates import rounded_candidate
from search.estimators import ESTIMATORS, estimated_layers, estimated_sensitivity, filled_in
from search.floors import layer_floors, monotone_curve, predicted_rise
from search.perturbations import (
    HIGH_BITS,
    LOW_BITS,
    Perturbation,
    perturbed,
    weighted_layers,
)
from search.sensitivity import RATIOS, Sensitivity, sensitivity_plan

MEASURED = "measured loss, other images"
CHANGES = {
    "noise of 0.5": Perturbation("noise", 0.5),
    "low bits flipped": Perturbation("flips", 0.5, LOW_BITS),
    "high bits flipped": Perturbation("flips", 0.02, HIGH_BITS),
    "2 bits": Perturbation("rounding", 2),
}
HALF = RATIOS.index(0.5)
FEWER = {"1 of 4": (0.5,), "2 of 4": (0.25, 0.75)}  # ratios that are measured
NEGLIGIBLE = 0.5  # of a group's equal part of the tolerance
TOLERANCES = (0.05, 0.1, 0.2)
DEAR = 32  # images for the estimate that takes passes for every removal; others see a batch
QUICK = ("resnet20", "vgg", "densenet")
Measured = dict[str, list[float]]  # `rise` and `drop` of the halves of the images, two each
Fewer = Callable[[dict[str, Any], Sensitivity, float], tuple[Sensitivity, float]]


def measured(subject: Subject, model: nn.Module, images: int) -> list[list[float]]:
    """Loss and accuracy on each half of the first test images."""
    found = []
    with torch.no_grad():
        for half in (slice(0, images // 2), slice(images // 2, images)):
            logits, labels = model(subject.test[0][half]), subject.test[1][half]
            loss = float(functional.cross_entropy(logits, labels))
            found.append([loss, float((logits.argmax(1) == labels).double().mean())])
    return found


def _against(dense: list[list[float]], found: list[list[float]]) -> Measured:
    return {
        "rise": [new[0] - old[0] for old, new in zip(dense, found, strict=True)],
        "drop": [old[1] - new[1] for old, new in zip(dense, found, strict=True)],
    }


def timed(make: Callable[[], Any]) -> dict[str, Any]:
    began = time.monotonic()
    values = make()
    return {"values": values, "seconds": time.monotonic() - began}


def measured_groups(subject: Subject, images: int) -> dict[str, list[Measured]]:
    """Group -> what its removal costs at each of the ratios."""
    graph, inputs = subject.graph, subject.inputs

    def loss(group: str | None, ratio: float) -> list[list[float]]:
        plan = graph.dense_plan()
        if group is not None:
            plan = sensitivity_plan(graph, subject.scores, group, ratio)
        return measured(
            subject, rounded_candidate(subject.model, graph, plan, inputs).eval(), images
        )

    dense, found = loss(None, 0.0), {}
    for name in subject.scores:
        found[name] = [_against(dense, loss(name, ratio)) for ratio in RATIOS]
        sys.stderr.write(f"{subject.name}, {name}: {found[name][HALF]}\n")
    return found


def measured_layers(subject: Subject, change: Perturbation, images: int) -> dict[str, Measured]:
    """Layer -> what the perturbation of its weight costs."""
    dense = measured(subject, subject.model, images)
    return {
        layer: _against(dense, measured(subject, perturbed(subject.model, layer, change), images))
        for layer in weighted_layers(subject.model)
    }


def document(subject: Subject, images: int) -> dict[str, Any]:
    """Everything that is measured and estimated of one network."""

    def seen(estimator: Any) -> list[tuple[Tensor, Tensor]]:
        images, labels = subject.calibration[0]
        few = DEAR if estimator == "integrated gradients" else len(images)
        return [(images[:few], labels[:few])]

    def group_estimates(estimator: Any) -> dict[str, Any]:
        found = estimated_sensitivity(
            subject.model, subject.graph, estimator, seen(estimator), scores=subject.scores
        )
        return dict(found.rises)

    return {
        "network": subject.name,
        "dense": measured(subject, subject.model, images),
        "groups": timed(lambda: measured_groups(subject, images)),
        "layers": {
            name: timed(partial(measured_layers, subject, change, images))
            for name, change in CHANGES.items()
        },
        "group_estimates": {n: timed(partial(group_estimates, n)) for n in ESTIMATORS},
        "layer_estimates": {
            n: timed(partial(estimated_layers, subject.model, n, seen(n))) for n in ESTIMATORS
        },
    }


def _drops(values: Sequence[Measured], key: str = "drop") -> list[float]:
    return [mean(each[key]) for each in values]


def _pair(found: dict[str, Any], change: str, estimator: str, key: str = "drop") -> Pair:
    """What an estimator says, and what was lost of accuracy (or rose of the loss): by groups at
    one half (`removal`), or by layers."""
    if change == "removal":
        values = found["groups"]["values"]
        said = found["group_estimates"][estimator]["values"]
        return [said[n][HALF] for n in values], _drops([v[HALF] for v in values.values()], key)
    values = found["layers"][change]["values"]
    said = found["layer_estimates"][estimator]["values"]
    return [said[n] for n in values], _drops(list(values.values()), key)


def _ceiling(found: dict[str, Any], change: str, key: str = "drop") -> Pair:
    """The rise of the loss on one half of the images, and what was lost on the other."""
    if change == "removal":
        values = [each[HALF] for each in found["groups"]["values"].values()]
    else:
        values = list(found["layers"][change]["values"].values())
    return [each["rise"][0] for each in values], [each[key][1] for each in values]


def ranking(all_found: Sequence[dict[str, Any]], change: str) -> list[str]:
    """The table of one perturbation."""
    names = [found["network"] for found in all_found]
    lines = [
        f"| {change} | {' | '.join(names)} | mean | 95 % | against the loss | seconds |",
        "|---" * (len(names) + 5) + "|",
    ]
    for name in (*ESTIMATORS, MEASURED):
        pairs, others = (
            [
                _ceiling(f, change, key) if name == MEASURED else _pair(f, change, name, key)
                for f in all_found
            ]
            for key in ("drop", "rise")
        )
        each_tau = " | ".join(told(kendall(*pair)) for pair in pairs)
        overall, (low, high) = mean_kendall(pairs), mean_interval(pairs)
        spread = "" if overall is None else f"{low:.2f} to {high:.2f}"
        took = mean(_seconds(found, change, name) for found in all_found)
        lines.append(
            f"| {name} | {each_tau} | {told(overall)} | {spread} | {told(mean_kendall(others))} "
            f"| {took:.1f} |"
        )
    return lines


def _seconds(found: dict[str, Any], change: str, name: str) -> float:
    if name == MEASURED:
        where = found["groups"] if change == "removal" else found["layers"][change]
    else:
        where = found["group_estimates" if change == "removal" else "layer_estimates"][name]
    return float(where["seconds"])


def winner(all_found: Sequence[dict[str, Any]], change: str, key: str = "drop") -> str:
    """The estimator with the highest mean τ against accuracy, or against the loss (`rise`)."""
    taus = {
        n: mean_kendall([_pair(found, change, n, key) for found in all_found]) for n in ESTIMATORS
    }
    known = {name: tau for name, tau in taus.items() if tau is not None}
    return max(known, key=lambda name: known[name])


def sensitivity_of(found: dict[str, Any]) -> Sensitivity:
    """The measured rises, as a search takes them."""
    values = found["groups"]["values"]
    return Sensitivity(RATIOS, {n: tuple(_drops(each, "rise")) for n, each in values.items()})


def fewer_measurements(all_found: Sequence[dict[str, Any]]) -> list[str]:
    """Floors from fewer measurements against those from all: which part is measured, how far
    floors are apart, and what of the tolerance they spend by the measured curves."""
    lines = [
        "| measured | the rest | part | floors apart, mean | worst | spent, mean | worst |",
        "|---|---|---|---|---|---|---|",
    ]
    ways: dict[tuple[str, str], Fewer] = {
        (label, name): partial(_filled, ratios, name)
        for label, ratios in FEWER.items()
        for name in ("straight line", *ESTIMATORS)
    }
    for name in ("gradient", "integrated gradients"):
        ways[f"where {name} is not negligible", "0"] = partial(_negligible, name)
    ways["3/4, and all where that is not negligible", "straight line"] = _largest_first
    for (label, rest), way in ways.items():
        apart, spent, parts = [], [], []
        for found in all_found:
            full = sensitivity_of(found)
            for tolerance in TOLERANCES:
                other, part = way(found, full, NEGLIGIBLE * tolerance / len(full.rises))
                differences, share = _floors_apart(full, other, tolerance)
                apart += differences
                spent.append(share)
                parts.append(part)
        lines.append(
            f"| {label} | {rest} | {mean(parts):.0%} | {mean(apart):.3f} | {max(apart):.2f} "
            f"| {mean(spent):.2f} | {max(spent):.2f} |"
        )
    return lines


def _filled(
    ratios: Sequence[float], name: str, found: dict[str, Any], full: Sensitivity, _: float
) -> tuple[Sensitivity, float]:
    """The same few ratios of every group; an estimate, or a straight line, says the rest."""
    guess = found["group_estimates"][name]["values"] if name in ESTIMATORS else {}
    shape = Sensitivity(RATIOS, {group: tuple(values) for group, values in guess.items()})
    at = [RATIOS.index(ratio) for ratio in ratios]
    part = {group: tuple(rises[i] for i in at) for group, rises in full.rises.items()}
    return filled_in(Sensitivity(tuple(ratios), part), shape), len(ratios) / len(RATIOS)


def _negligible(
    name: str, found: dict[str, Any], full: Sensitivity, limit: float
) -> tuple[Sensitivity, float]:
    """What an estimate says to be below the limit is not measured, and taken for 0."""
    guess = found["group_estimates"][name]["values"]
    kept_rises = {
        group: tuple(
            rise if said > limit else 0.0 for rise, said in zip(rises, guess[group], strict=True)
        )
        for group, rises in full.rises.items()
    }
    asked = [said > limit for values in guess.values() for said in values]
    return Sensitivity(RATIOS, kept_rises), mean(asked)


def _largest_first(
    _: dict[str, Any], full: Sensitivity, limit: float
) -> tuple[Sensitivity, float]:
    """Where the rise at the largest ratio is below the limit, smaller ones are not measured."""
    rises, asked = {}, 0
    for group, known in full.rises.items():
        small = known[-1] <= limit
        asked += 1 if small else len(RATIOS)
        line = tuple(max(0.0, known[-1]) * ratio / RATIOS[-1] for ratio in RATIOS)
        rises[group] = line if small else known
    return Sensitivity(RATIOS, rises), asked / (len(rises) * len(RATIOS))


def _floors_apart(
    full: Sensitivity, other: Sensitivity, tolerance: float
) -> tuple[list[float], float]:
    """Per group how far floors are apart, as a part of the width, and the measured rise at the
    other ones as a part of the tolerance."""
    fine = dict.fromkeys(full.rises, 1000)
    right, said = (layer_floors(each, tolerance, widths=fine) for each in (full, other))
    rise = sum(
        predicted_rise(monotone_curve(full.ratios, full.rises[name]), 1 - said[name] / 1000)
        for name in fine
    )
    return [abs(right[name] - said[name]) / 1000 for name in fine], rise / tolerance


def picture(found: dict[str, Any], path: Path, tolerance: float = 0.1) -> None:
    """The measured curve of every group, its monotone fit, and the share that its floor allows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axis, full = figure.subplots(), sensitivity_of(found)
    floors = layer_floors(full, tolerance, widths=dict.fromkeys(full.rises, 1000))
    for number, (name, rises) in enumerate(full.rises.items()):
        curve, gone = monotone_curve(RATIOS, rises), 1 - floors[name] / 1000
        colour, style = f"C{number % 10}", "-" if number < 10 else "--"
        axis.plot(*zip(*curve, strict=True), style, color=colour, label=name, linewidth=1)
        axis.plot(RATIOS, rises, ".", color=colour, markersize=4)
        axis.plot([gone], [predicted_rise(curve, gone)], "v", color=colour)
    axis.set(
        xlabel="share of the group's units removed", ylabel="rise of the loss",
        title=f"{found['network']}: triangles are floors at a tolerance of {tolerance}",
        ylim=(-0.1 * tolerance, 2 * tolerance), xlim=(0, 1.02),
    )  # fmt: skip
    figure.legend(fontsize="x-small", loc="outside right upper")
    figure.savefig(path)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.safer",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--train", type=int, default=20_000, help="images to train on")
    parser.add_argument("--images", type=int, default=512, help="to measure on")
    parser.add_argument("--picture", type=Path, help="of the first network")
    parser.add_argument("--quick", action="store_true", help="three networks, fewer images")
    options = parser.parse_args()
    if options.quick:
        options.networks, options.epochs = list(QUICK), 1
        options.train, options.images = 10_000, 256
    return options


def _subject(name: str, options: argparse.Namespace) -> Subject:
    train, test = (images_of(options.data, kind) for kind in ("train", "t10k"))
    some: tuple[Tensor, Tensor] = (train[0][: options.train], train[1][: options.train])
    return Subject(name, some, test, options.out, 0, options.epochs)


def _found(name: str, options: argparse.Namespace) -> dict[str, Any]:
    def make() -> dict[str, Any]:
        return document(_subject(name, options), options.images)

    return kept(options.out, f"{name}-safer-{options.images}", make)


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    all_found = [_found(name, options) for name in options.networks]
    for change in ("removal", *CHANGES):
        sys.stdout.write("\n".join(ranking(all_found, change)) + "\n")
        by_accuracy, by_loss = (winner(all_found, change, key) for key in ("drop", "rise"))
        sys.stdout.write(f"\nWinner: {by_accuracy} by accuracy, {by_loss} by the loss.\n\n")
    sys.stdout.write("\n".join(fewer_measurements(all_found)) + "\n")
    (options.out / "safer.json").write_text(
        json.dumps({"versions": versions(), "networks": all_found}, indent=1)
    )
    if options.picture:
        picture(all_found[0], options.picture)


if __name__ == "__main__":
    main()
