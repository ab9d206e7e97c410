"""What a pruned model must be able to do: run, train, export to ONNX, be saved and loaded."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from benchmarks.coverage.oracle import Outputs, outputs_of, relative_error, tensors_in
from search import Plan, PruningGraph
from search.loading import plan_document

ONNX_TOLERANCE = 1e-3
LOAD_TOLERANCE = 1e-5


class CheckFailed(Exception):
    """A pruned model cannot do what the dense one can."""


def macs_of(model: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Multiply-accumulates of all products, attention's too, counted while the model runs.

    A copy runs that needs no gradients: the counter fails on parameters that a module is called
    with.
    """
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with FlopCounterMode(display=False, custom_mapping={attention: _attention}) as counter:
        outputs_of(copy.deepcopy(model).requires_grad_(False), inputs)
    flops: int = counter.get_total_flops()
    return flops // 2


def _attention(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *rest: object, **named: object
) -> int:
    flops: int = sdpa_flop_count(query, key, value)
    return flops


def run_batches(model: nn.Module, dense: nn.Module, inputs: Sequence[Tensor]) -> list[str]:
    """Runs batches of 1, 2 and 3; returns notes on those that the dense model cannot run either.

    Raises:
        CheckFailed: a shape or a value differs from what the dense model allows.
    """
    notes = []
    for size in (1, 2, 3):
        batch = batch_of(inputs, size)
        try:
            found = outputs_of(model, batch)
        except Exception as error:  # whatever the model's forward raises
            if _works(dense, batch):
                raise CheckFailed(f"batch of {size}: {said(error)}") from error
            notes.append(f"neither model runs a batch of {size}")
            continue
        if not all(bool(value.isfinite().all()) for value in found):
            notes.append(f"outputs of a batch of {size} are not finite")
        if size == 1 and _shapes(found) != _shapes(outputs_of(dense, batch)):
            if not _sizes_hang_on_values(dense, batch):
                raise CheckFailed("outputs have other shapes than the dense model's")
            notes.append("the shapes of the outputs hang on the values of the inputs")
    return notes


def _sizes_hang_on_values(dense: nn.Module, batch: Sequence[Tensor]) -> bool:
    """Whether the dense model gives other shapes for other values: as many as it detects, say."""
    generator = torch.Generator().manual_seed(0)
    shapes = _shapes(outputs_of(dense, batch))
    return any(
        _shapes(outputs_of(dense, _noisy(batch, scale, generator))) != shapes
        for scale in (0.1, 1.0, 10.0)
    )


def _noisy(batch: Sequence[Tensor], scale: float, generator: torch.Generator) -> list[Tensor]:
    return [
        value + scale * torch.randn(value.shape, generator=generator)
        if value.is_floating_point()
        else value
        for value in batch
    ]


def train_once(model: nn.Module, dense: nn.Module, inputs: Sequence[Tensor]) -> list[str]:
    """Forward and backward of the sum of outputs, in evaluation and in training mode.

    Raises:
        CheckFailed: it raises where the dense model does not, or no finite gradient arrives.
    """
    notes = []
    batch = batch_of(inputs, 2)
    for mode in (False, True):
        try:
            _backward(model.train(mode), batch)
        except Exception as error:  # whatever the model's forward raises
            try:
                _backward(dense.train(mode), batch)
            except Exception:
                notes.append(f"neither model trains in {'training' if mode else 'eval'} mode")
                continue
            finally:
                dense.eval()
            raise CheckFailed(f"training={mode}: {said(error)}") from error
        finally:
            model.eval()
            model.zero_grad()
            dense.zero_grad()
    return notes


def _backward(model: nn.Module, batch: Sequence[Tensor]) -> None:
    with warnings.catch_warnings(action="ignore"):
        outputs = tensors_in(model(*(value.clone() for value in batch)))
        torch.stack([value.sum() for value in outputs if value.requires_grad]).sum().backward()
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if not grads:
        raise CheckFailed("no parameter has a gradient")
    if not all(bool(grad.isfinite().all()) for grad in grads):
        raise CheckFailed("gradients are not finite")


def export_to_onnx(
    model: nn.Module, dense: nn.Module, inputs: Sequence[Tensor], folder: Path
) -> list[str]:
    """Exports, runs ONNX Runtime, and compares.

    Returns:
        A note where the dense model itself cannot be exported, or is as far off, or where the
        pruned one is as far off from itself in double precision.

    Raises:
        CheckFailed: it cannot be exported, or differs by more than ONNX_TOLERANCE.
    """
    problem = onnx_problem(model, inputs, folder)
    if problem is None:
        return []
    if onnx_problem(dense, inputs, folder) is not None:
        return [f"the dense model does not export to ONNX either: {problem}"]
    if (off := rounding_error(model, inputs)) > ONNX_TOLERANCE:
        return [f"rounding alone moves the outputs by {off:.1e}, and {problem}"]
    raise CheckFailed(problem)


def rounding_error(model: nn.Module, inputs: Sequence[Tensor]) -> float:
    """How far off the model is from itself in double precision: far where it sorts near ties.

    0.0 where it does not run in double precision.
    """
    doubled = [value.double() if value.is_floating_point() else value for value in inputs]
    try:
        exact = outputs_of(copy.deepcopy(model).double(), doubled)
    except Exception:  # casts in the model's code: whatever its operators raise
        return 0.0
    return relative_error(outputs_of(model, inputs), exact)


def onnx_problem(model: nn.Module, inputs: Sequence[Tensor], folder: Path) -> str | None:
    """What is wrong with the ONNX form of `model`; None if nothing is.

    The exporter's optimiser takes half of its time, and is only asked where it is needed.
    """
    if _problem_of_export(model, inputs, folder, optimize=False) is None:
        return None
    return _problem_of_export(model, inputs, folder, optimize=True)


def _problem_of_export(
    model: nn.Module, inputs: Sequence[Tensor], folder: Path, *, optimize: bool
) -> str | None:
    import onnxruntime

    path = folder / "model.onnx"
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            program = torch.onnx.export(
                model, tuple(inputs), dynamo=True, verbose=False, optimize=optimize
            )
        if program is None:
            return "no program"
        program.save(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()]
        given = {name: value.numpy() for name, value in zip(names, inputs, strict=False)}
        found = [torch.as_tensor(value) for value in session.run(None, given)]
    except Exception as error:  # exporter and runtime raise what they like
        return said(error)
    finally:
        for leftover in folder.glob("model.onnx*"):
            leftover.unlink()
    error_ = relative_error(found, outputs_of(model, inputs))
    return None if error_ <= ONNX_TOLERANCE else f"ONNX Runtime is off by {error_:.1e}"


def save(
    folder: Path, name: str, dense: nn.Module, graph: PruningGraph, plan: Plan, pruned: nn.Module
) -> None:
    """Plan document and weights, as a user keeps them."""
    document = plan_document(dense, graph, plan)
    (folder / "plan.json").write_text(json.dumps(document))
    (folder / "name").write_text(name)
    seen: dict[int, str] = {}
    state = pruned.state_dict(keep_vars=True)
    single = {key: value for key, value in state.items() if seen.setdefault(id(value), key) == key}
    save_file(
        {key: value.detach().clone().contiguous() for key, value in single.items()},
        folder / "weights.safetensors",
    )


def load_elsewhere(folder: Path, inputs: Sequence[Tensor], expected: Outputs) -> None:
    """Loads what `save` wrote in a fresh process and compares its outputs.

    Raises:
        CheckFailed: the process fails, or the outputs differ.
    """
    torch.save([value.clone() for value in inputs], folder / "inputs.pt")
    command = [sys.executable, "-m", "benchmarks.coverage.reload", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise CheckFailed(lines[-1][:300])
    found = torch.load(folder / "outputs.pt", weights_only=True)
    if (error := relative_error(found, expected)) > LOAD_TOLERANCE:
        raise CheckFailed(f"outputs after loading are off by {error:.1e}")


def batch_of(inputs: Sequence[Tensor], size: int) -> tuple[Tensor, ...]:
    """The first example repeated, in every input that has a batch dimension like the first's."""
    first = inputs[0].shape[0]
    return tuple(
        value[:1].repeat(size, *[1] * (value.ndim - 1))
        if value.ndim and value.shape[0] == first
        else value
        for value in inputs
    )


def said(error: BaseException) -> str:
    """Type and first line of an error; of ONNX's exporter, its cause."""
    while error.__cause__ is not None and type(error).__module__.startswith("torch.onnx"):
        error = error.__cause__
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:240]}" if lines else type(error).__name__


def _works(model: nn.Module, batch: Sequence[Tensor]) -> bool:
    try:
        outputs_of(model, batch)
    except Exception:  # whatever the model's forward raises
        return False
    return True


def _shapes(outputs: Outputs) -> list[torch.Size]:
    return [value.shape for value in outputs]
