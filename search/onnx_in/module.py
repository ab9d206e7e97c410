"""OnnxModule: runs the steps that `building` makes of an ONNX graph. Knows no file format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.traceback import annotate

from search.errors import OnnxError
from search.onnx_in.reading import Input, OnnxNode
from search.onnx_in.values import Entry, NodeCall, Numbers, Op, Value

MADE = "onnx_value"  # of an operator in an exported graph: the value of the file that it makes


@dataclass(frozen=True)
class Held:
    """A constant that the module holds as a parameter or buffer."""

    attribute: str


Source = str | Held | Numbers | None


@dataclass(frozen=True)
class Step:
    """One node.

    Attributes:
        function: computes it; None where a module does.
        layer: the name of that module.
        sources: its inputs: the name of a value, a held tensor, numbers, or None.
        pattern: see `values.following`.
        last: values that nobody reads afterwards.
    """

    node: OnnxNode
    function: Op | None
    layer: str | None
    sources: tuple[Source, ...]
    pattern: tuple[Entry, ...] | None = None
    last: tuple[str, ...] = ()

    @property
    def output(self) -> str:
        """The first output that has a name."""
        return next(filter(None, self.node.outputs))


class OnnxModule(nn.Module):
    """An ONNX graph as a module, made by `from_onnx`.

    Convolutions, linear layers and norms are modules of torch.nn, named after their weights;
    weights that operators read are parameters; other constants are buffers. Dropout is left out.

    Attributes:
        inputs: what the model is called with, batch first; the batch is free.
        notes: what it does otherwise than the file says, as sentences.
        held: the tensors that belong to no layer.
    """

    def __init__(self, opset: int, inputs: tuple[Input, ...], notes: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.inputs, self.notes = inputs, notes
        self.held = nn.Module()
        self.opset = opset
        self._outputs: tuple[str, ...] = ()
        self._steps: tuple[Step, ...] = ()

    @property
    def steps(self) -> tuple[Step, ...]:
        """What forward runs, in this order."""
        return self._steps

    @property
    def outputs(self) -> tuple[str, ...]:
        """The values that forward returns."""
        return self._outputs

    def set_steps(self, steps: tuple[Step, ...], outputs: tuple[str, ...]) -> None:
        """What forward runs, and the values that it returns."""
        self._steps, self._outputs = steps, outputs

    def with_parts_of(self, model: nn.Module) -> OnnxModule:
        """The steps of this module on the layers of another one, which has modules of the same
        names: those of its pruned graph, say. Nothing is copied.

        Raises:
            OnnxError: a layer is not there.
        """
        missing = self._modules.keys() - model._modules.keys()
        if missing:
            raise OnnxError(f"the model must have all layers, but lacks {sorted(missing)}")
        made = OnnxModule.__new__(OnnxModule)
        made.__dict__ = dict(self.__dict__)
        made.__dict__["_modules"] = {name: model._modules[name] for name in self._modules}
        return made

    def example_inputs(self, batch_size: int = 2, seed: int = 0) -> tuple[Tensor, ...]:
        """Seeded noise: in [0, 1] for float inputs, all values for uint8, 0 and 1 for others."""
        generator = torch.Generator().manual_seed(seed)
        examples = []
        for each in self.inputs:
            noise = torch.rand((batch_size, *_sizes(each)), generator=generator)
            if each.dtype == torch.uint8:
                noise = noise * 255
            elif each.dtype != torch.float32:
                noise = noise > 0.5
            examples.append(noise.to(each.dtype))
        return tuple(examples)

    def forward(self, *inputs: Tensor) -> Any:
        """One tensor, or a tuple where the model has several outputs."""
        results = self.run(inputs)
        return results[0] if len(results) == 1 else results

    def run(
        self,
        inputs: tuple[Tensor, ...],
        observe: Callable[[Step, tuple[Value, ...]], None] | None = None,
    ) -> tuple[Tensor, ...]:
        """All outputs; `observe` is told what each step makes."""
        self._check_count(inputs)
        values: dict[str, Value] = {
            each.name: value for each, value in zip(self.inputs, inputs, strict=True)
        }
        dtype = self._float_type(inputs)
        for step in self._steps:
            made = self._run(step, values, dtype, inputs[0].device)
            values.update(zip(step.node.outputs, made, strict=False))
            if observe is not None:
                observe(step, made)
            for name in step.last:
                values.pop(name, None)
        return tuple(self._result(name, values, inputs[0]) for name in self._outputs)

    def _check_count(self, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs) == len(self.inputs):
            return
        names = [repr(each.name) for each in self.inputs]
        known = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
        missing = " and ".join(names[len(inputs) :])
        verb = "is" if len(names) - len(inputs) == 1 else "are"
        said = f"{missing} {verb} missing" if missing else f"got {len(inputs)} tensors"
        raise OnnxError(f"the model takes the inputs {known}, in this order, but {said}")

    def _run(
        self, step: Step, values: Mapping[str, Value], dtype: torch.dtype, device: torch.device
    ) -> tuple[Value, ...]:
        inputs = tuple(self._fetched(source, values) for source in step.sources)
        try:
            with _marked(step):
                if step.layer is not None:
                    return as_tuple(self.get_submodule(step.layer)(inputs[0]))
                return called(step, self.opset, inputs, dtype, device)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise OnnxError(f"{step.node.title} cannot run: {error}") from error

    def _fetched(self, source: Source, values: Mapping[str, Value]) -> Value | None:
        if isinstance(source, Held):
            held: Tensor = getattr(self.held, source.attribute)
            return held
        return values[source] if isinstance(source, str) else source

    def _float_type(self, inputs: tuple[Tensor, ...]) -> torch.dtype:
        for tensor in (*self.parameters(), *inputs):
            if tensor.is_floating_point():
                return tensor.dtype
        return torch.float32

    def _result(self, name: str, values: Mapping[str, Value], like: Tensor) -> Tensor:
        value = values[name]
        if isinstance(value, Tensor):
            return value
        call = NodeCall("output", self.opset, {}, (value,), 1, self._float_type(()), like.device)
        return call.tensor(0)


def _marked(step: Step) -> AbstractContextManager[None]:
    """While torch.export looks on, operators are marked with the value that the step makes."""
    return annotate({MADE: step.output}) if torch.compiler.is_exporting() else nullcontext()


def called(
    step: Step,
    opset: int,
    inputs: tuple[Value | None, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Value, ...]:
    """The outputs of a step that a function computes."""
    node = step.node
    call = NodeCall(
        node.op, opset, node.attributes, inputs, len(node.outputs), dtype, device, step.pattern
    )
    if step.function is None:
        raise OnnxError(f"{node.title} has neither a function nor a module")
    return as_tuple(step.function(call))


def as_tuple(made: Any) -> tuple[Any, ...]:
    """One value, or several, as a tuple."""
    return made if isinstance(made, tuple) else (made,)


def _sizes(given: Input) -> list[int]:
    return [size if size is not None else 1 for size in given.shape[1:]]
