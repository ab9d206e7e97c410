"""Ways to choose the integers of a network in int8, one table.

    python -m benchmarks.rounding --data DIR [--pictures DIR --weights FILE] [--ways NAME ...]
    [--json OUT]

`--data` holds Fashion-MNIST (`python -m examples.fetch_fashion_mnist --out DIR`): ResNet-20, top-1
accuracy on 2 000 test images. `--pictures` and `--weights` are those of `benchmarks.pictures`:
MobileNetV2 with its ImageNet weights, the share of 296 pictures to which it gives the same answer
as in float; 128 of the other 500 show the ranges. All layers are in int8. The torch model that
rounds as the file does is judged (`tests/search_tests/quantization_tests` hold that they agree).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.joint.__main__ import images_of
from benchmarks.joint.networks import trained
from benchmarks.pictures import mobilenet_v2, pictures
from search.evaluation import accuracy
from search.graph import PruningGraph, trace
from search.graph.pruned.pruned_graph import PrunedGraph
from search.quantization import FORMATS, QuantizedModel, graph_form, quantizable_layers
from search.quantization.channel_scales import scale_channels
from search.quantization.corrections import adapt_rounding, correct_biases, float_outputs
from search.quantization.norm_statistics import ranges_from_norms
from search.training_flags import in_evaluation

STEPS = 200
FORMAT = "u8s8"


@dataclass(frozen=True)
class Subject:
    """A network with the examples that show ranges, and those that judge it."""

    name: str
    model: nn.Module
    graph: PruningGraph
    calibration: Sequence[Tensor]
    inputs: Tensor
    labels: Tensor
    range: tuple[float, float]


@dataclass(frozen=True)
class Row:
    """What a way gave.

    Attributes:
        right: share of right answers; of MobileNetV2, of those of the float network.
        distance: mean Kullback-Leibler distance to the float network.
    """

    network: str
    way: str
    right: float
    distance: float
    seconds: float


Way = Callable[[Subject, PrunedGraph], QuantizedModel]


def _plain(subject: Subject, pruned: PrunedGraph, observer: str = "minmax") -> QuantizedModel:
    model = QuantizedModel(pruned, quantizable_layers(pruned), FORMATS[FORMAT]).eval()
    model.observe(subject.calibration, observer)
    return model


def _from_norms(subject: Subject, pruned: PrunedGraph) -> QuantizedModel:
    layers = quantizable_layers(pruned)
    ranges = ranges_from_norms(pruned, layers, inputs=subject.range)
    model = QuantizedModel(pruned, layers, FORMATS[FORMAT]).eval()
    model.fix(ranges)
    return model


def _scaled(subject: Subject, pruned: PrunedGraph, alpha: float) -> QuantizedModel:
    scale_channels(pruned, subject.calibration, alpha)
    return _plain(subject, pruned)


def _corrected(
    subject: Subject, pruned: PrunedGraph, observer: str = "minmax", *, steps: int = 0
) -> QuantizedModel:
    wanted = float_outputs(pruned, quantizable_layers(pruned), subject.calibration)
    model = _plain(subject, pruned, observer)
    if steps:
        adapt_rounding(model, wanted, subject.calibration, steps)
    correct_biases(model, wanted, subject.calibration)
    return model


WAYS: dict[str, Way] = {
    "plain: least and greatest value": _plain,
    "the same within norm statistics": lambda s, p: _plain(s, p, "norms"),
    "percentile": lambda s, p: _plain(s, p, "percentile"),
    "mean squared error": lambda s, p: _plain(s, p, "mse"),
    "norm statistics, no data": _from_norms,
    "channel scales, α = 1 (SPIQ)": lambda s, p: _scaled(s, p, 1.0),
    "channel scales, α = ½": lambda s, p: _scaled(s, p, 0.5),
    "bias correction": _corrected,
    "within norm statistics, bias correction": lambda s, p: _corrected(s, p, "norms"),
    "adapted rounding, bias correction": lambda s, p: _corrected(s, p, steps=STEPS),
}


def scores(model: nn.Module, inputs: Tensor) -> Tensor:
    """Log of the probabilities, (N, classes)."""
    with in_evaluation(model), torch.no_grad():
        return torch.cat([model(part).log_softmax(1) for part in inputs.split(32)])


def rows_of(subject: Subject, ways: Sequence[str]) -> list[Row]:
    """These ways on one network."""
    dense = scores(subject.model, subject.inputs)
    right = accuracy(subject.model, [(subject.inputs, subject.labels)])
    rows = [Row(subject.name, "float", right, 0.0, 0.0)]
    graph = subject.graph
    for name, way in WAYS.items():
        if not any(each in name for each in ways):
            continue
        pruned = graph_form(graph.model, graph, graph.dense_plan())
        began = time.monotonic()
        model = way(subject, pruned)
        seconds = time.monotonic() - began
        said = scores(model, subject.inputs)
        distance = torch.nn.functional.kl_div(said, dense, reduction="batchmean", log_target=True)
        right = float((said.argmax(1) == subject.labels).double().mean())
        rows.append(Row(subject.name, name, right, float(distance), seconds))
        sys.stderr.write(f"{rows[-1]}\n")
    return rows


def _resnet20(data: Path) -> Subject:
    train, test = (images_of(data, kind) for kind in ("train", "t10k"))
    model = trained("resnet20", data, *train, 0)
    graph = trace(model, (train[0][:2],))
    inputs, labels = test[0][:2000], test[1][:2000]
    return Subject("ResNet-20", model, graph, [train[0][:128]], inputs, labels, (0.0, 1.0))


def _mobilenet(folder: Path, weights: Path) -> Subject:
    model, images = mobilenet_v2(weights), pictures(folder)
    fit, judged = images[:128], images[500:]
    labels = scores(model, judged).argmax(1)
    graph = trace(model, (images[:2],))
    return Subject("MobileNetV2", model, graph, fit.split(32), judged, labels, (-2.2, 2.7))


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| network | ranges and rounding | right | distance to float | seconds |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.network} | {row.way} | {row.right:.2%} | {row.distance:.5f} | {row.seconds:.0f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--ways", nargs="+", default=[""], help="parts of their names")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    subjects = [_resnet20(options.data)] if options.data else []
    if options.pictures and options.weights:
        subjects.append(_mobilenet(options.pictures, options.weights))
    rows = [row for subject in subjects for row in rows_of(subject, options.ways)]
    sys.stdout.write(table(rows) + "\n")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
