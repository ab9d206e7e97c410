"""The records of operators: one for each, and what a record leaves out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from search.graph import trace
from search.graph.dependency.operators.elementwise import same_axes
from search.graph.dependency.operators.operator import Operator, registry
from search.graph.dependency.operators.registry import OPERATORS

NO_RULE = "there is no pruning rule"


def test_an_operator_has_one_record() -> None:
    with pytest.raises(ValueError, match="'relu' has two"):
        registry([Operator(("relu", "gelu"))], [Operator(("tanh", "relu"))])


def test_every_record_is_of_an_operator_that_torch_has_or_names_a_python_method() -> None:
    known = set(dir(torch.ops.aten)) | {f"{name}_" for name in dir(torch.ops.aten)}
    methods = {"mH", "mT", "numpy_T", "matrix_H", "adjoint", "deform_conv2d"}
    assert {name for name in OPERATORS if name not in known} <= methods


@torch.library.custom_op("secateur_tests::shifted", mutates_args=())
def shifted(x: Tensor) -> Tensor:
    return x + x.mean()


@shifted.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Shifting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(torch.ops.secateur_tests.shifted(self.a(x).clamp(max=0.0)))
        return y


def test_an_operator_without_a_record_freezes_and_a_wrong_record_cannot_break_a_model() -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(2, 3),)
    (group, _) = trace(Shifting(), inputs).groups
    assert group.reason.startswith(NO_RULE)
    wrong = {**OPERATORS, "shifted": Operator(("shifted",), propagate=same_axes)}
    (group, _) = trace(Shifting(), inputs, operators=wrong).groups
    assert group.reason.startswith("unverified: the pruned model is off by")


@torch.library.custom_op("secateur_tests::doubled", mutates_args=())
def doubled(x: Tensor) -> Tensor:
    return x * 2


@doubled.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Doubling(Shifting):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(torch.ops.secateur_tests.doubled(self.a(x)))
        return y


def test_one_record_lets_an_operator_of_the_user_be_pruned() -> None:
    record = {"doubled": Operator(("doubled",), propagate=same_axes)}
    graph = trace(Doubling(), (torch.randn(2, 3),), operators={**OPERATORS, **record})
    assert [group.status for group in graph.groups] == ["prunable", "frozen"]
