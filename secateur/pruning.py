"""`secateur.prune`: from a trained network, data and a budget to a pruned network, in process.

Only joins what `search` and `latency_probes` do; the service's workers call the same functions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from latency_probes.messages import AUTO, Target
from search.constraints import constrained
from search.driver import SearchResult
from search.explorer import SearchConfig
from search.explorer.limits import limits_of as keeps_to_limits
from search.graph import trace
from secateur.data import parts_of
from secateur.errors import AccuracyOutOfReach, BudgetOutOfReach
from secateur.models import opened
from secateur.progress import Display
from secateur.result import Result
from secateur.run import Run
from secateur.settings import Wishes, budget_of, finetune_config, limits_of, target_of


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
    time_limit_s: float | str | None = None,
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
        time_limit_s: Most seconds for search and fine-tuning together, or `"30m"`: then the best
            so far is the result. Analysis and the last measurement come on top.
        precision: `auto` searches int8 beside widths where this machine's runtime has it,
            `float32` does not, `int8` refuses where there is none.
        search: Fields of `search.SearchConfig` but the budget: `levels`, `beam_width`, `children`,
            `entwined` (steps of fine-tuning between two levels, a part of those of `finetune`).
        finetune: Fields of `search.finetuning.FinetuneConfig`, such as `steps` (600; 0 is none),
            `learning_rate`, and `shift` and `flip` of its augmentation (off).
        criterion: Which units go first: `l1`, `l2`, `bn_scale`, `redundancy`, `taylor`, `singe` or
            `random` (docs/criteria.md).
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
                "time_limit_s": time_limit_s,
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
        run = Run(given, graph, parts, wishes, display)
        run.check_floor()
        if run.target.runtime == AUTO:
            run = run.in_fastest_runtime(precision)
        measured = run.dense_measured()
        budget = wishes.budget.at(measured.latency_ms)
        config = wishes.search_config(budget)
        fits = keeps_to_limits(graph, config)
        if budget >= 1 and (fits is None or fits(graph.dense_plan())):
            return run.unpruned(measured, budget, began_s)
        int8 = run.int8(precision)
        ends_s = time.monotonic() + (wishes.limits.time_limit_s or math.inf)
        found = run.searched(config, criterion, tolerance, int8.form)
        is_late = wishes.limits.time_limit_s is not None and found.loss is None
        if found.infeasible is not None or not found.finalists or is_late:
            raise out_of_reach(budget, found, config, wishes.limits.time_limit_s)
        result = run.finished(found, measured, budget, began_s, int8, ends_s)
    if given.is_adapted and isinstance(model, nn.Module) and isinstance(result.model, type(model)):
        result.model.__class__ = type(model)  # returns what it returned before
    least = wishes.limits.least_accuracy(result.dense_accuracy)
    if result.accuracy < least:
        raise AccuracyOutOfReach(least, result)
    return result


def out_of_reach(
    budget: float, found: SearchResult, config: SearchConfig, time_limit_s: float | None
) -> BudgetOutOfReach:
    """Why there is no finalist."""
    known = [row["ratio"] for row in found.tree if row["ratio"] is not None]
    fastest = (found.infeasible or {}).get("fastest_ratio", min(known, default=float("nan")))
    limits = {"max_parameters": config.max_parameters, "max_memory_mb": config.max_memory_mb}
    told = [f"{name} {value:g}" for name, value in limits.items() if value is not None]
    told += [f"time_limit_s {time_limit_s:g}"] if time_limit_s is not None else []
    return BudgetOutOfReach(budget, fastest, beside="" if found.infeasible else ", ".join(told))


def _tuple(inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
