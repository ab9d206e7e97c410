"""The steps of one call of `secateur.prune`, and what they share."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from latency_probes.local import LocalModel, LocalProbe, Measured
from latency_probes.messages import Settings, Target
from search.candidates import quantized, recalibrated
from search.driver import Evaluate, SearchResult, run_search
from search.errors import ConfigError
from search.evaluation import Judgement, accuracy, judge, loss_with_error
from search.explorer import Node, SearchConfig
from search.finetuning import Finetune
from search.graph import PruningGraph
from search.onnx_out import Delivered, deliver, deliver_quantized, exact_file, file_accuracy
from search.plan import Plan
from search.quantization import Format, QuantizedModel
from search.sensitivity import RATIOS
from search.skeleton import skeleton
from search.surgery import prune as pruned_by
from search.tensors import load_tensors
from search.time_limit import steps_in_time
from secateur.data import Parts
from secateur.errors import MeasuringError
from secateur.models import Given
from secateur.precision import Int8, int8_here
from secateur.progress import Display
from secateur.result import Result
from secateur.runtimes import Fastest, fastest_here
from secateur.settings import Wishes

T = TypeVar("T")
SLICE_S = 0.5
SHORTLIST = 4


@dataclass(frozen=True)
class Run:
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

    def in_fastest_runtime(self, precision: str) -> Run:
        """The same work in the runtime that runs the dense network fastest."""

        def ask(target: Target) -> tuple[Measured, Int8]:
            here, wanted = self._in(target), "auto" if precision == "int8" else precision
            return here.dense_measured(target.runtime), here.int8(wanted, target.runtime)

        found = fastest_here(self.target, precision, ask)
        return replace(self._in(found.target), fastest=found)

    def _in(self, target: Target) -> Run:
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
                fit=(self.parts.fit.inputs, self.parts.fit.labels),
                finetune=self.wishes.finetune,
                tolerance=tolerance,
                batch_size=self.target.batch_size,
                exclude=self.wishes.limits.exclude,
                prune_frozen=self.wishes.limits.prune_frozen,
                time_limit_s=self.wishes.limits.time_limit_s,
                progress=self._show_search,
            )
        finally:
            probe.close()

    def finished(
        self,
        found: SearchResult,
        dense: Measured,
        budget: float,
        began_s: float,
        int8: Int8,
        ends_s: float,
    ) -> Result:
        """The best of the finalists, trained until `ends_s` at most and measured with its true
        weights. The dense network in int8 is not trained where it is as good as in float."""
        best = self._confirmed(found.finalists, budget, int8.form)
        start = best.start_of_children
        origin = found.origin(start)
        student = pruned_by(origin.full if origin else self.dense, self.graph, best.plan)
        calibration = [images for images, _ in self.parts.calibration.batches()]
        recalibrated(student, self.dense, self.graph, best.plan, calibration, origin)
        if best is not found.answer:
            self._train(student, best.plan, int8.form, start.steps if start else 0, ends_s)
        self.display.show("measuring the result", 0.97)
        return self._result(
            student.eval(), best.plan, found, dense, budget, began_s, int8, best.digest
        )

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
        candidate: str | None = None,
    ) -> Result:
        whole = made = self._delivered(self.dense)
        rounded, reached = None, None
        if int8 is not None and int8.form is not None and plan.precision:
            rounded, made, reached = self._rounded(student, plan, int8.form)
        elif found is not None:
            made = self._delivered(student, plan)
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
            candidate=candidate or plan.digest,
            target=self.target.key,
            batch_size=self.target.batch_size,
            seconds=time.monotonic() - began_s,
            unpruned=found is None,
            in_int8_alone=found is not None and found.answer is not None,
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
            measured = self._strictly(self._skeleton(node.plan), reference, threshold=budget)
            if measured.ratio_high <= budget:
                return node
            tried.append((measured.ratio, number, node))
        return min(tried)[2]

    def _train(
        self, student: nn.Module, plan: Plan, form: Format | None, learnt: int, ends_s: float
    ) -> None:
        """Fine-tunes the student in place, for the steps that it has not been trained before or as
        many as there is time for; one with layers in int8 trains with them rounded."""
        config = self.wishes.finetune
        config = replace(config, steps=max(config.steps - learnt, 0))
        if config.steps == 0:
            return
        fit, trained = self.parts.fit, student
        if form is not None and plan.precision:
            calibration = [images for images, _ in self.parts.calibration.batches()]
            trained = quantized(self.dense, self.graph, plan, student, calibration, form)
        at_first, before = self._judged(trained), copy.deepcopy(student.state_dict())
        run = Finetune(
            trained,
            self.dense,
            fit.inputs,
            fit.labels,
            config,
            objective=self.parts.objective,
        )
        began_s = time.monotonic()
        while not run.done and (left_s := ends_s - time.monotonic()) > 0:
            run.run(time_limit_s=min(left_s, SLICE_S))
            now_s, went = time.monotonic(), run.trained
            run.end_at(steps_in_time(run.step, config.steps, now_s - began_s, ends_s - now_s))
            steps = run.config.steps
            self.display.show(
                "fine-tuning",
                0.6 + 0.35 * run.step / max(steps, 1),
                f"step {run.step} of {steps}, loss {went.loss:.3f}, "
                f"training accuracy {100 * went.accuracy:.1f} %",
            )
        if isinstance(trained, QuantizedModel):
            load_tensors(student, trained.float_tensors(), strict=False)
        if self._judged(trained).is_worse_than(at_first):
            student.load_state_dict(before)
            is_short = run.step < config.steps
            change = "give it more time" if is_short else "lower finetune={'learning_rate': …}"
            warnings.warn(
                "fine-tuning made the network worse on the validation data, so that the result "
                f"is not fine-tuned; {change}",
                stacklevel=4,
            )

    def _judged(self, model: nn.Module) -> Judgement:
        return judge(model, self.parts.validation.batches(), self.parts.objective)

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
        threshold: float | None = None,
        profile: bool = False,
    ) -> Measured:
        """A model against another, carefully.

        Args:
            sizes: Input -> its shape without the batch, for files that leave sizes free.
            threshold: A ratio; it ends as soon as it is clear on which side the model's is.

        Raises:
            MeasuringError: It could not be measured.
        """
        strict = Settings.strict(seed=self.wishes.seed, threshold=threshold, profile=profile)
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
