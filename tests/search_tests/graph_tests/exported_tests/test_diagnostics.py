"""Models that cannot be analysed, or only in part: a clear answer, never a silent nothing."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from search.errors import GraphError
from search.graph import PruningGraph, trace
from search.graph.verification.comparison import random_plan
from search.surgery import prune
from tests.search_tests.models import Plain, image


def statuses(graph: PruningGraph) -> dict[str, str]:
    return {group.name: group.status for group in graph.groups}


def pruned(model: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """The model with every prunable group at half width; it must run."""
    graph = trace(model, inputs)
    smaller = prune(model, graph, random_plan(graph.groups, [g.name for g in graph.prunable], 0))
    smaller.eval()(*inputs)
    return smaller


class Branching(Plain):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return super().forward(x)
        return super().forward(-x)


class Looping(Plain):
    def forward(self, x: Tensor) -> Tensor:
        while x.norm() > 1:
            x = x / 2
        return super().forward(x)


class Counting(Plain):
    def forward(self, x: Tensor) -> Tensor:
        wanted = int(x.abs().max().item())
        return super().forward(x)[:, :wanted]


@pytest.mark.parametrize(
    ("model", "line"),
    [
        (Branching(), "in forward: `if x.sum() > 0:`"),
        (Looping(), "in forward: `while x.norm() > 1:`"),
        (Counting(), "in forward: `wanted = int(x.abs().max().item())`"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_line_whose_flow_depends_on_values_is_named(
    model: nn.Module, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(GraphError, match="must not depend on the values of tensors") as error:
        trace(model, image())
    assert "test_diagnostics.py:" in str(error.value)
    assert line in str(error.value)
    assert capfd.readouterr().err == ""


class Failing(Plain):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError


class Numpy(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.from_numpy(np.tanh(x.numpy())))


class Single(Plain):
    table = torch.eye(8)  # neither a parameter nor a buffer

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x @ self.table)


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (
            Failing(),
            image(),
            r"must run on its example inputs, but got: KeyError \(test_diagnostics",
        ),
        (Plain(), image(4), r"must run .* RuntimeError: .* \(models.py:\d+ in forward: `"),
        (Plain(), image() * 2, "must run .* TypeError: .* takes 2 positional arguments"),
        (Numpy(), image(), r"must be traceable by torch.export, .* \(test_diagnostics.py:\d+ in"),
        (Single(), image(), "must be created with the dtype of the input"),
        (Plain(), (torch.full((1, 3, 8, 8), torch.nan),), "example_inputs must be finite"),
    ],
)
def test_a_model_that_does_not_run_on_its_inputs_is_told_where(
    model: nn.Module, inputs: tuple[Tensor, ...], message: str
) -> None:
    with pytest.raises(GraphError, match=message):
        trace(model, inputs)


class Text(Plain):
    def forward(self, x: Tensor) -> Any:
        return "positive"


class Nothing(Plain):
    def forward(self, x: Tensor) -> Any:
        super().forward(x)


class Constant(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def with_nan() -> nn.Module:
    model = Plain()
    model.conv2.weight.data[0, 0] = torch.nan
    return model


def with_buffer(value: Tensor) -> nn.Module:
    model = Plain()
    model.register_buffer("extra", value)
    return model


def meta() -> nn.Module:
    with torch.device("meta"):
        return Plain()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Text(), "must return tensors"),
        (Nothing(), "must return tensors"),
        (Constant(), "must depend on its parameters"),
        (nn.ReLU(), "must have parameters to prune, but got none"),
        (with_nan(), "must be finite numbers, but 'conv2.weight' holds 9 that are not"),
        (with_buffer(torch.eye(3).to_sparse()), "must be dense, but 'extra' is sparse_coo"),
        (meta(), "'conv1.weight' is on the meta device"),
        (nn.Sequential(nn.LazyLinear(3)), "'0.weight' is lazy: run the model once first"),
        ("not a module", "must be an nn.Module, but got str"),
    ],
)
def test_what_no_analysis_can_help_is_refused_before_it(model: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        trace(model, image())


def compiled() -> nn.Module:
    """A module that holds another one where the result of torch.compile does."""
    model = nn.Module()
    model._orig_mod = Plain()
    return model


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize:UserWarning")
def test_scripted_compiled_and_quantized_modules_are_refused() -> None:
    with pytest.raises(GraphError, match="but got a TorchScript module"):
        trace(torch.jit.script(nn.Linear(3, 2)), image())
    with pytest.raises(GraphError, match="must not be compiled yet"):
        trace(compiled(), image())
    tensor = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    with pytest.raises(GraphError, match="must be dense, but 'extra' is quantized"):
        trace(with_buffer(tensor), image())
    layers = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2))
    quantized = torch.ao.quantization.quantize_dynamic(layers, {nn.Linear})
    with pytest.raises(GraphError, match="'0' is a quantized Linear"):
        trace(quantized, (torch.randn(2, 3),))


class Remembering(Plain):
    """It keeps what it computed last, as many attention modules do."""

    last: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.last = super().forward(x)
        return self.last


def test_a_model_that_keeps_its_last_output_can_be_traced_and_pruned() -> None:
    model = Remembering()
    model(*image())
    assert not model.last.is_leaf
    assert len(trace(model, image()).prunable) == 2
    assert type(pruned(model, image())) is Remembering


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_weight_that_a_hook_computes_can_be_traced_and_pruned() -> None:
    normed = torch.nn.utils.weight_norm(nn.Conv2d(3, 6, 3))
    model = nn.Sequential(normed, nn.ReLU(), nn.Conv2d(6, 2, 1))
    assert not normed.weight.is_leaf
    assert "0" in statuses(trace(model, image()))
    pruned(model, image())


class Selecting(Plain):
    """The size of its output depends on the data."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits[logits > 0]


def test_an_output_whose_size_only_the_data_tells_is_no_obstacle() -> None:
    found = statuses(trace(Selecting(), image()))
    assert (found["conv1"], found["conv2"]) == ("prunable", "prunable")


class Moody(Plain):
    """It draws a number of its own, which torch.export takes for a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * random.random())


def test_a_model_that_computes_something_else_every_time_is_frozen_and_told_so() -> None:
    graph = trace(Moody(), image())
    assert graph.prunable == ()
    assert "is it random" in graph.groups[0].reason


class InPlace(Plain):
    """It changes views of a value in place."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(x)
        out[:, :3] += 1.0
        out.view(out.shape[0], -1).relu_()
        logits: Tensor = self.fc(torch.relu(self.conv2(out)).mean((2, 3)))
        return logits


def test_units_changed_in_place_through_a_view_are_frozen_with_a_reason_or_cut_rightly() -> None:
    graph = trace(InPlace(), image())
    found = {group.name: group for group in graph.groups}
    assert found["conv2"].status == "prunable"
    assert found["conv1"].status == "prunable" or found["conv1"].reason
    pruned(InPlace(), image())


class TwoDims(nn.Module):
    """One parameter read along its rows and, transposed, along its columns."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 6)
        self.both = nn.Parameter(torch.randn(6, 8))
        self.last = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.tanh(torch.relu(self.first(x)) @ self.both) @ self.both.t()
        logits: Tensor = self.last(torch.relu(out))
        return logits


def test_a_parameter_used_along_two_dims_is_cut_along_both() -> None:
    model, inputs = TwoDims(), (torch.randn(2, 3),)
    assert sorted(group.width for group in trace(model, inputs).prunable) == [6, 8]
    assert dict(pruned(model, inputs).named_parameters())["both"].shape == (3, 4)


class TiedHead(nn.Module):
    """The table of an embedding is the weight of the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.hidden = nn.Linear(8, 12)
        self.back = nn.Linear(12, 8)
        self.out = nn.Linear(8, 11, bias=False)
        self.out.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.out(self.back(torch.relu(self.hidden(self.table(tokens)))))
        return logits


def test_a_tied_table_keeps_its_rows_and_stays_tied() -> None:
    inputs = (torch.randint(0, 11, (2, 5)),)
    found = statuses(trace(TiedHead(), inputs))
    assert found == {
        "table.weight#0": "frozen", "table.weight#1": "prunable", "hidden": "prunable"
    }  # fmt: skip
    smaller = pruned(TiedHead(), inputs)
    names = {id(tensor) for _, tensor in smaller.named_parameters(remove_duplicate=False)}
    assert len(names) == len(list(smaller.named_parameters(remove_duplicate=False))) - 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_dtype_will_do(dtype: torch.dtype) -> None:
    graph = trace(Plain().to(dtype), (image()[0].to(dtype),))
    assert len(graph.prunable) == 2
