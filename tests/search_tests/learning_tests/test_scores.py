"""Class scores are found in whatever a network returns."""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from search.errors import GraphError
from search.graph import trace
from search.scores import scores_of, scores_only

SCORES, OTHER, MAPS = torch.rand(2, 3), torch.rand(2, 5), torch.rand(2, 3, 4, 4)
Named = namedtuple("Named", ["logits", "aux"])


@dataclass
class Output:
    logits: Tensor
    maps: Tensor | None = None


@pytest.mark.parametrize(
    "output",
    [
        SCORES,
        {"logits": SCORES, "cls_logits": OTHER},
        OrderedDict(out=SCORES, aux=OTHER),
        {"anything": SCORES, "maps": MAPS},
        (SCORES,),
        (SCORES, OTHER),
        [MAPS, SCORES],
        Named(SCORES, OTHER),
        Output(SCORES, MAPS),
    ],
)
def test_scores_are_found_in_every_kind_of_output(output: Any) -> None:
    assert scores_of(output) is SCORES


@pytest.mark.parametrize("output", [{"a": SCORES, "b": OTHER}, (MAPS,), None, {"loss": 1.0}])
def test_an_output_without_them_is_refused_with_what_it_holds(output: Any) -> None:
    with pytest.raises(GraphError, match=r"must be class scores \(batch, classes\)"):
        scores_of(output)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, values: Tensor, *, extra: bool = False) -> Any:
        return {"logits": self.body(values)}


def test_a_network_that_returns_scores_alone_is_still_of_its_class_and_can_be_traced() -> None:
    plain, model = Net(), scores_only(Net())
    assert isinstance(model, Net)
    assert type(model).__name__ == "Net"
    assert inspect.signature(model.forward) == inspect.signature(plain.forward)
    assert model.state_dict().keys() == plain.state_dict().keys()
    inputs = torch.rand(2, 4)
    torch.testing.assert_close(copy.deepcopy(model)(inputs), model(inputs))
    assert [group.name for group in trace(model, (inputs,)).prunable] == ["body.0"]
