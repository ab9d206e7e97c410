"""`secateur.prune`: from a trained network, data and a budget to a pruned network, in process.

Only joins what `search` and `latency_probes` do; the service's workers call the same functions.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from latency_probes.local import LocalModel, LocalProbe, Measured
from latency_probes.messages import AUTO, Settings, Target
from search.candidates import quantized, recalibrated
from search.constraints import constrained
from search.driver import Evaluate, SearchResult, run_search
from search.errors import ConfigError
from search.evaluation import accuracy, loss_with_error
from search.explorer import Node, SearchConfig
from search.explorer.limits import limits_of as keeps_to_limits
from search.finetuning import Finetune
from search.graph import PruningGraph, trace
from search.onnx_out import Delivered, deliver, deliver_quantized, exact_file, file_accuracy
from search.plan import Plan
from search.quantization import Format, QuantizedModel
from search.sensitivity import RATIOS
from search.skeleton import skeleton
from search.surgery import prune as pruned_by
from search.tensors import load_tensors
from secateur.data import Parts, parts_of
from secateur.errors import AccuracyOutOfReach, BudgetOutOfReach, MeasuringError
from secateur.models import Given, opened
from secateur.precision import Int8, int8_here
from secateur.progress import Display
from secateur.result import Result
from secateur.runtimes import Fastest, fastest_here
from secateur.settings import Wishes, budget_of, finetune_config, limits_of, target_of

T = TypeVar("T")
SLICE_S = 0.5
SHORTLIST = 4


def prune(
    model: nn.Module | str | Path,
    train: Any,
    val: Any = None,
    *,
    latency_ms: float | str | None = None,
    ratio: float | str | None = None,
    inputs: Tensor | Sequence[Tensor] | None = None,
    target: Target | None = None,
    runtime: str | None = None,
    batch_size: int | None = None,
    exclude: str | Sequence[str] = (),
    prune_frozen: bool = False,
    multiple: int = 1,
    max_parameters: int | None = None,
    max_size_mb: float | None = None,
    max_memory_mb: float | None = None,
    min_accuracy: float | str | None = None,
    max_accuracy_drop: float | str | None = None,
    precision: str = "auto",
    search: Mapping[str, Any] | None = None,
    finetune: Mapping[str, Any] | None = None,
    criterion: str = "l1",
    tolerance: float = 0.1,
    calibration: int = 512,
    seed: int = 0,
    trace_limit_s: float = 60.0,
    progress: bool = True,
) -> Result:
    """Prunes a trained classifier until it meets a latency as measured on this machine.

    It is traced and verified, the dense network is measured, the layers' sensitivities are found,
    candidates are measured and scored level by level, the best is fine-tuned by distillation from
    the dense network, and measured again with its true weights.

    Args:
        model: The trained network; it returns class scores (B, classes), alone or as `logits` of
            an output object. It is not touched, and may lie on any device: all work is done on
            the CPU. Or the path of an ONNX file, with its data files beside it.
        train: Training data: inputs (N, …) and labels (N,) as two tensors, a data set of pairs, a
            DataLoader, or a list of batches. It is held in memory as it is given; of a loader that
            augments, one pass is taken. Inputs alone, a tensor or a list of tensors, are judged by
            the dense network: the loss is the distance to its scores, and accuracy is the share of
            its answers that are kept.
        val: Validation data, likewise; by default at most 2000 examples are cut off `train`.
        latency_ms: The budget in milliseconds, or as text: `"20ms"`, `"0.02s"`.
        ratio: The budget as a part of the dense latency: 0.6 or `"60%"`. One of the two is given.
        inputs: Example inputs (B, …); by default two of `train`.
        target: Runtime, threads and batch size that are measured.
        runtime: Of the target, in place of the one that it has. `auto` measures the dense network
            in every runtime of this machine, in float32 and in int8, and goes on in the fastest.
        batch_size: Of the target, in place of the one that it has.
        exclude: Layers that keep all of their channels: names of modules, or patterns such as
            `"blocks.*.attn"`; a module that holds others names all of them.
        prune_frozen: Prunes layers whose parameters do not require gradients too.
        multiple: Channels that stay are a multiple of this, unless all do.
        max_parameters: The most that the result may have.
        max_size_mb: The same by the size of its weights in float32, in 10⁶ bytes.
        max_memory_mb: The most that one call may hold at once, in 10⁶ bytes: weights, and the
            values that are alive together at the target's batch size, in float32. It is computed;
            what a runtime needs for itself comes on top.
        min_accuracy: Of the result on the validation data: 0.9 or `"90%"`.
        max_accuracy_drop: The most of that accuracy that may be lost: 0.01 or `"1%"` is a point.
        precision: `auto` searches int8 beside widths where this machine's runtime has it,
            `float32` does not, `int8` refuses where there is none.
        search: Fields of `search.SearchConfig` but the budget: `levels`, `beam_width`, `children`.
        finetune: Fields of `search.finetuning.FinetuneConfig`, such as `steps` (600; 0 is none),
            `learning_rate`, and `shift` and `flip` of its augmentation (off).
        criterion: Name of the importance criterion.
        tolerance: Bounds the loss rise that the floor of a layer allows.
        calibration: So many training examples recalibrate and score candidates.
        seed: Of the splits, the search and the training.
        trace_limit_s: Processor time of the analysis.
        progress: Shows a bar in a terminal, a line in a notebook, lines elsewhere.

    Raises:
        AccuracyOutOfReach: The result is less accurate than it may be; the error holds it.
        BudgetOutOfReach: The fastest network that is left takes longer, or none keeps to the
            budget and to the other limits at once.
        DataError: The data is not inputs and labels.
        MeasuringError: The network cannot be measured on this machine.
        search.errors.SearchError: The network cannot be read or traced, a setting is wrong, or
            two exclude each other.
    """
    began_s = time.monotonic()
    wishes = Wishes(
        budget=budget_of(latency_ms, ratio),
        limits=limits_of(
            {
                "exclude": exclude,
                "prune_frozen": prune_frozen,
                "multiple": multiple,
                "max_parameters": max_parameters,
                "max_size_mb": max_size_mb,
                "max_memory_mb": max_memory_mb,
                "min_accuracy": min_accuracy,
                "max_accuracy_drop": max_accuracy_drop,
            }
        ),
        target=target_of(target or Target(), runtime, batch_size),
        finetune=finetune_config(finetune or {}, seed),
        search=search or {},
        seed=seed,
    )
    wishes.search_config(1.0)  # refused before anything is done
    parts = parts_of(train, val, calibration=calibration, seed=seed)
    with Display(shown=progress) as display:
        display.show("tracing", 0.0)
        given = opened(model, parts.fit.inputs[:2])
        parts = parts.judged_by(given.dense)
        example = (parts.fit.inputs[:2],) if inputs is None else _tuple(inputs)
        graph = constrained(
            trace(given.dense, example, time_limit_s=trace_limit_s), wishes.constraints
        )
        work = _Work(given, graph, parts, wishes, display)
        work.check_floor()
        if work.target.runtime == AUTO:
            work = work.in_fastest_runtime(precision)
        measured = work.dense_measured()
        budget = wishes.budget.at(measured.latency_ms)
        config = wishes.search_config(budget)
        fits = keeps_to_limits(graph, config)
        if budget >= 1 and (fits is None or fits(graph.dense_plan())):
            return work.unpruned(measured, budget, began_s)
        int8 = work.int8(precision)
        found = work.searched(config, criterion, tolerance, int8.form)
        if found.infeasible is not None or not found.finalists:
            raise out_of_reach(budget, found, config)
        result = work.finished(found, measured, budget, began_s, int8)
    if given.is_adapted and isinstance(model, nn.Module) and isinstance(result.model, type(model)):
        result.model.__class__ = type(model)  # returns what it returned before
    least = wishes.limits.least_accuracy(result.dense_accuracy)
    if result.accuracy < least:
        raise AccuracyOutOfReach(least, result)
    return result


def out_of_reach(budget: float, found: SearchResult, config: SearchConfig) -> BudgetOutOfReach:
    """Why there is no finalist."""
    known = [row["ratio"] for row in found.tree if row["ratio"] is not None]
    fastest = (found.infeasible or {}).get("fastest_ratio", min(known, default=float("nan")))
    limits = {"max_parameters": config.max_parameters, "max_memory_mb": config.max_memory_mb}
    told = [f"{name} {value:g}" for name, value in limits.items() if value is not None]
    return BudgetOutOfReach(budget, fastest, beside="" if found.infeasible else ", ".join(told))


def _tuple(inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)


@dataclass(frozen=True)
class _Work:
    """One call of `prune`, with what its steps share; `fastest` is known where the runtime was
    left open."""

    given: Given
    graph: PruningGraph
    parts: Parts
    wishes: Wishes
    display: Display
    fastest: Fastest | None = None

    @property
    def dense(self) -> nn.Module:
        return self.given.dense

    @property
    def target(self) -> Target:
        return self.wishes.target

    def check_floor(self) -> None:
        """Refuses a floor above the dense network, before anything is measured."""
        floor = self.wishes.limits.min_accuracy
        if floor is None:
            return
        self.display.show("reading the validation data", 0.04)
        dense = self._judge(accuracy, self.parts.validation.batches())(self.dense)
        if floor > dense:
            raise ConfigError(
                f"min_accuracy must be at most the accuracy of the dense network on the "
                f"validation data, {dense:.4f}, but got {floor:g}; lower it, or give "
                "max_accuracy_drop"
            )

    def in_fastest_runtime(self, precision: str) -> _Work:
        """The same work in the runtime that runs the dense network fastest."""

        def ask(target: Target) -> tuple[Measured, Int8]:
            here, wanted = self._in(target), "auto" if precision == "int8" else precision
            return here.dense_measured(target.runtime), here.int8(wanted, target.runtime)

        found = fastest_here(self.target, precision, ask)
        return replace(self._in(found.target), fastest=found)

    def _in(self, target: Target) -> _Work:
        return replace(self, wishes=replace(self.wishes, target=target))

    def dense_measured(self, told: str = "") -> Measured:
        """The dense network against itself; `told` is shown beside."""
        if self.fastest is not None:
            return self.fastest.dense
        self.display.show("measuring the dense network", 0.05, told)
        skeleton = self._skeleton(self.graph.dense_plan())
        return self._strictly(skeleton, skeleton, profile=True)

    def _judge(self, measure: Callable[..., T], batches: Any) -> Callable[[nn.Module], T]:
        """A loss or a share of right answers on batches, by the objective of the data."""
        return partial(measure, batches=batches, objective=self.parts.objective)

    def int8(self, precision: str, told: str = "") -> Int8:
        """What int8 brings to the dense network here; `told` is shown beside."""
        if self.fastest is not None:
            return self.fastest.int8
        probe = self._screening()

        def show(name: str) -> None:
            self.display.show(
                "measuring the dense network in int8", 0.05, f"{told} {name}".strip()
            )

        try:
            return int8_here(
                self.graph, self.wishes.constraints, self.target, probe, precision, show
            )
        finally:
            probe.close()

    def _screening(self) -> LocalProbe:
        settings = Settings.screening(seed=self.wishes.seed)
        return LocalProbe(self._skeleton(self.graph.dense_plan()), self.target, settings)

    def searched(
        self, config: SearchConfig, criterion: str, tolerance: float, form: Format | None
    ) -> SearchResult:
        calibration, probe = self.parts.calibration.batches(), self._screening()
        try:
            return run_search(
                self.dense,
                self.graph,
                probe,
                calibration,
                config,
                form=form,
                objective=self.parts.objective,
                evaluate=self._counted(self._judge(loss_with_error, calibration)),
                criterion=criterion,
                tolerance=tolerance,
                batch_size=self.target.batch_size,
                exclude=self.wishes.limits.exclude,
                prune_frozen=self.wishes.limits.prune_frozen,
                progress=self._show_search,
            )
        finally:
            probe.close()

    def finished(
        self, found: SearchResult, dense: Measured, budget: float, began_s: float, int8: Int8
    ) -> Result:
        """The best of the finalists, trained and measured with its true weights."""
        best = self._confirmed(found.finalists, budget, int8.form)
        student = pruned_by(self.dense, self.graph, best.plan)
        calibration = [images for images, _ in self.parts.calibration.batches()]
        recalibrated(student, self.dense, self.graph, best.plan, calibration)
        self._train(student, best.plan, int8.form)
        self.display.show("measuring the result", 0.97)
        return self._result(student.eval(), best.plan, found, dense, budget, began_s, int8)

    def unpruned(self, dense: Measured, budget: float, began_s: float) -> Result:
        """The dense network, which meets the budget already."""
        whole = self.graph.dense_plan()
        return self._result(copy.deepcopy(self.dense), whole, None, dense, budget, began_s)

    def _result(
        self,
        student: nn.Module,
        plan: Plan,
        found: SearchResult | None,
        dense: Measured,
        budget: float,
        began_s: float,
        int8: Int8 | None = None,
    ) -> Result:
        whole = self._delivered(self.dense)
        made = whole if found is None else self._delivered(student, plan)
        rounded, reached = None, None
        if int8 is not None and int8.form is not None and plan.precision:
            rounded, made, reached = self._rounded(student, plan, int8.form)
        measured = self._strictly(made.onnx_bytes, whole.onnx_bytes, made.sizes, profile=True)
        judged = self._judge(accuracy, self.parts.validation.batches())
        return Result(
            model=student,
            plan=plan,
            graph=self.graph,
            budget=budget,
            ratio=measured.ratio,
            ratio_interval=(measured.ratio_low, measured.ratio_high),
            latency_ms=measured.latency_ms,
            dense_latency_ms=measured.measurement.reference_ms,
            accuracy=judged(student) if reached is None else reached,
            dense_accuracy=judged(self.dense),
            metric=self.parts.objective.metric,
            examples=len(self.parts.validation),
            onnx=made.onnx_bytes,
            dense_onnx=whole.onnx_bytes,
            int8={}
            if int8 is None or int8.form is None
            else {
                "format": int8.form.name,
                "layers": sorted(plan.precision),
                "searched": list(int8.layers),
                "dense": dict(int8.ratios),
            },
            rounded=rounded,
            tree=tuple(found.tree) if found else (),
            target=self.target.key,
            batch_size=self.target.batch_size,
            seconds=time.monotonic() - began_s,
            unpruned=found is None,
            delivery=made,
            measurement=measured.measurement,
            dense_measurement=dense.measurement,
            runtimes=tuple(asdict(each) for each in self.fastest.answers) if self.fastest else (),
        )

    def _rounded(
        self, student: nn.Module, plan: Plan, form: Format
    ) -> tuple[QuantizedModel, Delivered, float]:
        """The student with layers in int8, its file, and the accuracy of that file."""
        calibration = [images for images, _ in self.parts.calibration.batches()]
        model = quantized(self.dense, self.graph, plan, student, calibration, form)
        made = deliver_quantized(
            model,
            student,
            self.dense,
            self.graph.example_inputs,
            self._samples,
            source=self.given.source,
            batch_size=self.target.batch_size,
        )
        validation = self.parts.validation.batches()
        found = exact_file(made.onnx_bytes)
        return model, made, file_accuracy(found, validation, self.parts.objective)

    def _samples(self, count: int) -> tuple[Tensor, ...]:
        inputs = self.parts.validation.inputs
        return (inputs[torch.arange(count) % len(inputs)],)

    def _confirmed(self, finalists: Sequence[Node], budget: float, form: Format | None) -> Node:
        """The best whose strict interval is within the budget, else the fastest of those tried."""
        tried: list[tuple[float, int, Node]] = []
        for number, node in enumerate(finalists[:SHORTLIST]):
            self.display.show("confirming the best", 0.55, f"{number + 1} of {SHORTLIST}")
            reference = self._skeleton(self.graph.dense_plan())
            measured = self._strictly(self._skeleton(node.plan), reference)
            if measured.ratio_high <= budget:
                return node
            tried.append((measured.ratio, number, node))
        return min(tried)[2]

    def _train(self, student: nn.Module, plan: Plan, form: Format | None) -> None:
        """Fine-tunes the student in place; one with layers in int8 trains with them rounded."""
        if self.wishes.finetune.steps == 0:
            return
        fit, trained = self.parts.fit, student
        if form is not None and plan.precision:
            calibration = [images for images, _ in self.parts.calibration.batches()]
            trained = quantized(self.dense, self.graph, plan, student, calibration, form)
        run = Finetune(
            trained,
            self.dense,
            fit.inputs,
            fit.labels,
            self.wishes.finetune,
            objective=self.parts.objective,
        )
        while not run.done:
            run.run(time_limit_s=SLICE_S)
            done, went = run.step / self.wishes.finetune.steps, run.trained
            self.display.show(
                "fine-tuning",
                0.6 + 0.35 * done,
                f"step {run.step} of {self.wishes.finetune.steps}, loss {went.loss:.3f}, "
                f"training accuracy {100 * went.accuracy:.1f} %",
            )
        if isinstance(trained, QuantizedModel):
            load_tensors(student, trained.float_tensors(), strict=False)

    def _delivered(self, model: nn.Module, plan: Plan | None = None) -> Delivered:
        """The file of a model, with the interface of what came in; compared on validation data."""
        return deliver(
            model,
            self.dense,
            self.graph.example_inputs,
            self._samples,
            source=self.given.source,
            analysis=self.graph,
            plan=plan,
            batch_size=self.target.batch_size,
        )

    def _strictly(
        self,
        model: bytes,
        reference: bytes,
        sizes: Mapping[str, tuple[int, ...]] | None = None,
        *,
        profile: bool = False,
    ) -> Measured:
        """A model against another, carefully.

        Args:
            sizes: Input -> its shape without the batch, for files that leave sizes free.

        Raises:
            MeasuringError: It could not be measured.
        """
        strict = Settings.strict(seed=self.wishes.seed, profile=profile)
        settings = strict.model_copy(update={"sizes": None if sizes is None else dict(sizes)})
        probe = LocalProbe(reference, self.target, settings)
        try:
            (outcome,) = probe([LocalModel(model)])
        finally:
            probe.close()
        if not isinstance(outcome, Measured):
            raise MeasuringError(
                f"{self.target.key} must run the network, but: {outcome.kind}: {outcome.message}"
            )
        return outcome

    def _skeleton(self, plan: Plan, form: Format | None = None) -> bytes:
        batch_size = self.target.batch_size
        return skeleton(self.graph, plan, batch_size=batch_size, form=form).onnx_bytes

    def _counted(self, evaluate: Evaluate) -> Evaluate:
        """The loss; its first calls, one per group and ratio, are the sensitivities."""
        planned, calls = len(self.graph.prunable) * len(RATIOS) + 1, 0

        def loss(model: nn.Module) -> float | tuple[float, float]:
            nonlocal calls
            calls += 1
            if calls <= planned:
                self.display.show(
                    "finding sensitivities", 0.05 + 0.1 * calls / planned, f"{calls} of {planned}"
                )
            return evaluate(model)

        return loss

    def _show_search(self, now: Mapping[str, Any]) -> None:
        planned = now["measured"] + now["remaining"]
        best = (now.get("best") or {}).get("ratio")
        told = f"level {now['level']} of {now['levels']}, {now['measured']} of about {planned}"
        told += f" candidates, best {100 * best:.1f} %" if best is not None else " candidates"
        self.display.show("searching", 0.15 + 0.4 * now["measured"] / max(planned, 1), told)
