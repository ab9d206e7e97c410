"""`secateur.prune`: from a trained network, data and a budget to a pruned network, in process.

Only joins what `search` and `latency_probes` do; the service's workers call the same functions.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from latency_probes.local import LocalModel, LocalProbe, Measured
from latency_probes.messages import Settings, Target
from search.candidates import recalibrated
from search.constraints import constrained
from search.driver import SearchResult, run_search
from search.errors import ConfigError
from search.evaluation import accuracy, cross_entropy_loss
from search.explorer import Node, SearchConfig
from search.explorer.limits import limits_of as keeps_to_limits
from search.finetuning import Finetune
from search.graph import PruningGraph, trace
from search.onnx_out import deliver
from search.onnx_out.delivery import Delivered
from search.plan import Plan
from search.scores import scores_only
from search.sensitivity import RATIOS
from search.skeleton import skeleton
from search.surgery import prune as pruned_by
from secateur.data import Parts, parts_of
from secateur.errors import AccuracyOutOfReach, BudgetOutOfReach, MeasuringError
from secateur.progress import Display
from secateur.result import Result
from secateur.settings import Wishes, budget_of, finetune_config, limits_of, target_of

SLICE_S = 0.5
SHORTLIST = 4


def prune(
    model: nn.Module,
    train: Any,
    val: Any = None,
    *,
    latency_ms: float | str | None = None,
    ratio: float | str | None = None,
    inputs: Tensor | Sequence[Tensor] | None = None,
    target: Target | None = None,
    batch_size: int | None = None,
    exclude: str | Sequence[str] = (),
    prune_frozen: bool = False,
    multiple: int = 1,
    max_parameters: int | None = None,
    max_size_mb: float | None = None,
    max_memory_mb: float | None = None,
    min_accuracy: float | str | None = None,
    max_accuracy_drop: float | str | None = None,
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
            the CPU.
        train: Training data: inputs (N, …) and labels (N,) as two tensors, a data set of pairs, a
            DataLoader, or a list of batches. It is held in memory as it is given; of a loader that
            augments, one pass is taken.
        val: Validation data, likewise; by default at most 2000 examples are cut off `train`.
        latency_ms: The budget in milliseconds, or as text: `"20ms"`, `"0.02s"`.
        ratio: The budget as a part of the dense latency: 0.6 or `"60%"`. One of the two is given.
        inputs: Example inputs (B, …); by default two of `train`.
        target: Runtime, threads and batch size that are measured.
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
        search.errors.SearchError: The network cannot be traced, a setting is wrong, or two
            exclude each other.
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
        target=target_of(target or Target(), batch_size),
        finetune=finetune_config(finetune or {}, seed),
        search=search or {},
        seed=seed,
    )
    wishes.search_config(1.0)  # refused before anything is done
    parts = parts_of(train, val, calibration=calibration, seed=seed)
    with Display(shown=progress) as display:
        display.show("tracing", 0.0)
        dense, is_adapted = _copied(model, parts.fit.inputs[:2])
        example = (parts.fit.inputs[:2],) if inputs is None else _tuple(inputs)
        graph = constrained(trace(dense, example, time_limit_s=trace_limit_s), wishes.constraints)
        work = _Work(dense, graph, parts, wishes, display)
        work.check_floor()
        measured = work.dense_measured()
        budget = wishes.budget.at(measured.latency_ms)
        config = wishes.search_config(budget)
        fits = keeps_to_limits(graph, config)
        if budget >= 1 and (fits is None or fits(graph.dense_plan())):
            return work.unpruned(measured, budget, began_s)
        found = work.searched(config, criterion, tolerance)
        if found.infeasible is not None or not found.finalists:
            raise out_of_reach(budget, found, config)
        result = work.finished(found, measured, budget, began_s)
    if is_adapted and isinstance(result.model, type(model)):
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


def _copied(model: nn.Module, example: Tensor) -> tuple[nn.Module, bool]:
    """A copy on the CPU in eval mode that returns class scores alone, and whether it had to be
    adapted for that."""
    dense = copy.deepcopy(model).cpu().eval()
    with torch.no_grad():
        output = dense(example)
    if isinstance(output, Tensor):
        return dense, False
    return scores_only(dense), True


def _tuple(inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)


@dataclass(frozen=True)
class _Work:
    """One call of `prune`, with what its steps share."""

    dense: nn.Module
    graph: PruningGraph
    parts: Parts
    wishes: Wishes
    display: Display

    @property
    def target(self) -> Target:
        return self.wishes.target

    def check_floor(self) -> None:
        """Refuses a floor above the dense network, before anything is measured."""
        floor = self.wishes.limits.min_accuracy
        if floor is None:
            return
        self.display.show("reading the validation data", 0.04)
        dense = accuracy(self.dense, self.parts.validation.batches())
        if floor > dense:
            raise ConfigError(
                f"min_accuracy must be at most the accuracy of the dense network on the "
                f"validation data, {dense:.4f}, but got {floor:g}; lower it, or give "
                "max_accuracy_drop"
            )

    def dense_measured(self) -> Measured:
        """The dense network against itself."""
        self.display.show("measuring the dense network", 0.05)
        skeleton = self._skeleton(self.graph.dense_plan())
        return self._strictly(skeleton, skeleton, profile=True)

    def searched(self, config: SearchConfig, criterion: str, tolerance: float) -> SearchResult:
        calibration = self.parts.calibration.batches()
        screening = Settings.screening(seed=self.wishes.seed)
        probe = LocalProbe(self._skeleton(self.graph.dense_plan()), self.target, screening)
        try:
            return run_search(
                self.dense,
                self.graph,
                probe,
                calibration,
                config,
                evaluate=self._counted(partial(cross_entropy_loss, batches=calibration)),
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
        self, found: SearchResult, dense: Measured, budget: float, began_s: float
    ) -> Result:
        """The best of the finalists, trained and measured with its true weights."""
        best = self._confirmed(found.finalists, budget)
        student = pruned_by(self.dense, self.graph, best.plan)
        calibration = [images for images, _ in self.parts.calibration.batches()]
        recalibrated(student, self.dense, self.graph, best.plan, calibration)
        self._train(student)
        self.display.show("measuring the result", 0.97)
        return self._result(student.eval(), best.plan, found, dense, budget, began_s)

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
    ) -> Result:
        made, whole = (self._delivered(each) for each in (student, self.dense))
        measured = self._strictly(made.onnx_bytes, whole.onnx_bytes, made.sizes, profile=True)
        validation = self.parts.validation.batches()
        return Result(
            model=student,
            plan=plan,
            graph=self.graph,
            budget=budget,
            ratio=measured.ratio,
            ratio_interval=(measured.ratio_low, measured.ratio_high),
            latency_ms=measured.latency_ms,
            dense_latency_ms=measured.measurement.reference_ms,
            accuracy=accuracy(student, validation),
            dense_accuracy=accuracy(self.dense, validation),
            examples=len(self.parts.validation),
            onnx=made.onnx_bytes,
            dense_onnx=whole.onnx_bytes,
            tree=tuple(found.tree) if found else (),
            target=self.target.key,
            batch_size=self.target.batch_size,
            seconds=time.monotonic() - began_s,
            unpruned=found is None,
            delivery=made,
            measurement=measured.measurement,
            dense_measurement=dense.measurement,
        )

    def _delivered(self, model: nn.Module) -> Delivered:
        """The checked file of a network, with the interface of the dense one."""
        held = self.parts.validation.inputs
        return deliver(
            model,
            self.dense,
            self.graph.example_inputs,
            lambda count: (held[torch.arange(count) % len(held)],),
            batch_size=self.target.batch_size,
        )

    def _confirmed(self, finalists: Sequence[Node], budget: float) -> Node:
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

    def _train(self, student: nn.Module) -> None:
        if self.wishes.finetune.steps == 0:
            return
        fit = self.parts.fit
        run = Finetune(student, self.dense, fit.inputs, fit.labels, self.wishes.finetune)
        while not run.done:
            run.run(time_limit_s=SLICE_S)
            done, went = run.step / self.wishes.finetune.steps, run.trained
            self.display.show(
                "fine-tuning",
                0.6 + 0.35 * done,
                f"step {run.step} of {self.wishes.finetune.steps}, loss {went.loss:.3f}, "
                f"training accuracy {100 * went.accuracy:.1f} %",
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

    def _skeleton(self, plan: Plan) -> bytes:
        return skeleton(self.graph, plan, batch_size=self.target.batch_size).onnx_bytes

    def _counted(self, evaluate: Callable[..., float]) -> Callable[[nn.Module], float]:
        """The loss; its first calls, one per group and ratio, are the sensitivities."""
        planned, calls = len(self.graph.prunable) * len(RATIOS) + 1, 0

        def loss(model: nn.Module) -> float:
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
