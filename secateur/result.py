"""What `secateur.prune` returns: the pruned network with what was measured of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.tables import milliseconds, percent, size, table

if TYPE_CHECKING:
    from torch import nn

    from latency_probes.samples import Measurement
    from search.graph import PruningGraph
    from search.onnx_out import Delivered
    from search.plan import Plan
    from search.quantization import QuantizedModel


class Report(dict[str, Any]):
    """A JSON document that is a table as text."""

    def __str__(self) -> str:
        low, high = self["ratio_interval"]
        interval = f"{percent(self['ratio'])} [{percent(low)}, {percent(high)}]"
        points = 100 * (self["accuracy"] - self["dense_accuracy"])
        rows = [
            (
                "latency",
                milliseconds(self["dense_latency_ms"]),
                milliseconds(self["latency_ms"]),
                interval,
                f"≤ {percent(self['budget'])}",
            ),
            (
                "accuracy",
                percent(self["dense_accuracy"], 2),
                percent(self["accuracy"], 2),
                f"{points:+.2f} points",
                "",
            ),
            (
                "size",
                size(self["dense_bytes"]),
                size(self["bytes"]),
                percent(self["bytes"] / self["dense_bytes"]),
                "",
            ),
        ]
        text = table(("", "before", "after", "change", "budget"), rows) + self._runtimes()
        notes = [
            f"{self['metric']} on {self['examples']} validation examples",
            f"{len(self['tree'])} candidates",
            self["target"],
            f"{self['seconds']:.0f} s",
        ]
        if self["unpruned"]:
            notes.insert(0, "the budget is above the dense latency: nothing was pruned")
        elif self["in_int8_alone"]:
            notes.insert(0, "all layers in int8 are as good as in float: nothing was pruned")
        elif not self["within_budget"]:
            notes.insert(0, "the interval of the last measurement reaches beyond the budget")
        return f"{text}\n{' · '.join(notes)}"

    def _runtimes(self) -> str:
        """The dense network in each runtime, where one of them was chosen."""
        rows = [
            (
                row["runtime"],
                row["format"],
                milliseconds(row["latency_ms"]),
                percent(row["ratio"]) if row["error"] is None else row["error"],
            )
            for row in self["runtimes"]
        ]
        if not rows:
            return ""
        return "\n" + table(("runtime", "format", "latency", "of its float latency"), rows)

    __repr__ = __str__


@dataclass(frozen=True, repr=False)
class Result:
    """A pruned network and how it compares with the dense one.

    Attributes:
        model: In eval mode: your own class with smaller tensors, or a `PrunedGraph` where its
            forward holds widths as constants; that one returns class scores.
        plan: Which units of which groups are kept.
        graph: The analysis of the dense network.
        budget: As a ratio to the dense latency.
        ratio: The measured latency as a ratio to the dense one, with true weights.
        ratio_interval: Its 95 % interval, low and high.
        latency_ms: Measured; dense_latency_ms: of the dense network, in the same processes.
        accuracy: On the validation data; dense_accuracy: of the dense network.
        metric: What the two are called: accuracy, or the agreement with the dense network where
            the data has no labels.
        examples: How many examples the validation data has.
        onnx: The pruned network as an ONNX file, which is what was measured; dense_onnx: the dense
            one.
        int8: `format`, the `layers` that run in it, those that were `searched`, and `dense`, the
            ratio of the dense network in every format; empty where this machine has no int8.
        rounded: The network with layers in int8, as the file computes; `model` is the float one
            that it was made of. None where all layers are float.
        tree: Every candidate as a JSON object.
        candidate: The digest of the tree's candidate that this is.
        target: Runtime, provider, batch size and threads that were measured.
        batch_size: Of the target.
        seconds: How long it all took.
        unpruned: The budget was met already, and nothing was pruned.
        in_int8_alone: All layers in int8 met it, and were as good as in float: nothing was pruned
            or trained.
        delivery: How the ONNX file was made and compared: `way`, `reason`, `opset`, `notes`
            (docs/models.md).
        measurement: Of the result, with its samples; dense_measurement: of the dense network
            against itself.
        runtimes: The dense network in every runtime and format of this machine, where the runtime
            was left open: `runtime`, `format`, `latency_ms`, `ratio` to its float latency, and
            `error`.
    """

    model: nn.Module
    plan: Plan
    graph: PruningGraph
    budget: float
    ratio: float
    ratio_interval: tuple[float, float]
    latency_ms: float
    dense_latency_ms: float
    accuracy: float
    dense_accuracy: float
    metric: str
    examples: int
    onnx: bytes
    dense_onnx: bytes
    int8: Mapping[str, Any]
    rounded: QuantizedModel | None
    tree: tuple[Mapping[str, Any], ...]
    candidate: str
    target: str
    seconds: float
    batch_size: int
    unpruned: bool
    delivery: Delivered
    measurement: Measurement
    dense_measurement: Measurement
    runtimes: tuple[Mapping[str, Any], ...] = ()
    in_int8_alone: bool = False

    def __repr__(self) -> str:
        low, high = self.ratio_interval
        return (
            f"Result({percent(self.ratio)} of the dense latency [{percent(low)}, {percent(high)}]"
            f", {milliseconds(self.latency_ms)} instead of {milliseconds(self.dense_latency_ms)}, "
            f"accuracy {percent(self.accuracy, 2)} instead of {percent(self.dense_accuracy, 2)})"
        )

    @property
    def within_budget(self) -> bool:
        """Whether the whole interval is within the budget."""
        return self.ratio_interval[1] <= self.budget

    def report(self) -> Report:
        """Everything that is known, as a JSON document; as text it is a table."""
        from secateur.document import delivery_part

        return Report(
            version=1,
            budget=self.budget,
            within_budget=self.within_budget,
            unpruned=self.unpruned,
            in_int8_alone=self.in_int8_alone,
            ratio=self.ratio,
            ratio_interval=list(self.ratio_interval),
            latency_ms=self.latency_ms,
            dense_latency_ms=self.dense_latency_ms,
            accuracy=self.accuracy,
            dense_accuracy=self.dense_accuracy,
            metric=self.metric,
            examples=self.examples,
            bytes=len(self.onnx),
            dense_bytes=len(self.dense_onnx),
            parameters=self.graph.parameters(self.plan),
            dense_parameters=self.graph.parameters(self.graph.dense_plan()),
            memory_mb=self._memory_mb(self.plan),
            dense_memory_mb=self._memory_mb(self.graph.dense_plan()),
            delivery=delivery_part(self.delivery),
            int8=dict(self.int8),
            widths=dict(self.plan.widths),
            plan_digest=self.plan.digest,
            candidate=self.candidate,
            target=self.target,
            runtimes=[dict(row) for row in self.runtimes],
            seconds=round(self.seconds, 1),
            tree=[dict(row) for row in self.tree],
        )

    def _memory_mb(self, plan: Plan) -> float | None:
        """What one call holds at once, as `max_memory_mb` limits it; None where it is unknown."""
        if self.graph.parts:
            return None
        return self.graph.memory_bytes(plan, self.batch_size) / 1e6

    def save(self, folder: str | Path) -> list[Path]:
        """Writes the files that a job makes, `plan.json`, `model.safetensors`, `model.onnx`,
        `dense.onnx`, `model.md`, `report.json` and `report.html`, and `report.svg`; returns their
        paths. `secateur.load` reads the first two."""
        from safetensors.torch import save

        from search.loading import plan_document
        from search.tensors import stored_tensors
        from secateur.document import document
        from workers.report.card import model_card
        from workers.report.page import report_page

        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        plan = plan_document(self.graph.model, self.graph, self.plan, self.rounded)
        told = document(self)
        files = {
            "plan.json": json.dumps(plan, indent=1).encode(),
            "model.safetensors": save(stored_tensors(self.model)),
            "model.onnx": self.onnx,
            "dense.onnx": self.dense_onnx,
            "model.md": model_card(told).encode(),
            "report.json": json.dumps(told, indent=1).encode(),
            "report.html": report_page(told).encode(),
        }
        for name, content in files.items():
            (place / name).write_bytes(content)
        return [*(place / name for name in files), self.plot(place / "report.svg")]

    def plot(self, path: str | Path) -> Path:
        """Draws the candidates, loss over measured latency, as an SVG file.

        Raises:
            ValueError: The name does not end with `.svg`.
        """
        from secateur.plot import svg

        target = Path(path)
        if target.suffix.lower() != ".svg":
            raise ValueError(f"path must be the name of an .svg file, but got {target}")
        target.write_text(svg(self.report()), encoding="utf-8")
        return target
