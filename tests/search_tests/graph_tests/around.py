"""A small network around any body, and its groups: what the tests of rules share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from search.graph import Group, trace

Indices = list[list[int]]
Body = Callable[[Any, Any], Any]


class Around(nn.Module):
    """A convolution `a` (3 -> `width`), then `body`, then whatever layers the body names."""

    def __init__(self, body: Body, width: int, **layers: nn.Module):
        super().__init__()
        self.a = nn.Conv2d(3, width, 1)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self._body = body

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self._body(self, self.a(x))
        return result


def groups_of(body: Body, width: int = 4, **layers: nn.Module) -> dict[str, Group]:
    """The groups of units by name; blocks have no units."""
    torch.manual_seed(0)
    graph = trace(Around(body, width, **layers), (torch.randn(2, 3, 4, 4),))
    return {group.name: group for group in graph.groups if group.kind != "block"}


def columns(group: Group, tensor: str, dim: int = 1) -> Indices:
    """Unit -> indices of a member."""
    (member,) = [m for m in group.members if (m.tensor, m.dim) == (tensor, dim)]
    return [list(indices) for indices in member.indices]


EACH: Indices = [[0], [1], [2], [3]]
EXACT = 32  # units of a group beside, of which enough can be cut exactly


def conv(ins: int, outs: int = 2, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(ins, outs, 1, groups=groups)


class Readings:
    """A clock that stands still, and is beyond every limit after so many readings."""

    def __init__(self, most: float = float("inf")) -> None:
        self.most, self.count = most, 0

    def __call__(self) -> float:
        self.count += 1
        return 0.0 if self.count <= self.most else 1e6


class Ending:
    """A clock that stands still, and is beyond every limit once `call` has begun.

    Args:
        call: a function that may be put in the place of another; it takes its arguments.
        readings: how often the clock still stands after that.
    """

    def __init__(self, call: Callable[..., Any], readings: int = 0) -> None:
        self.has_begun = self.has_returned = False
        self._call, self._readings = call, readings

    def __call__(self) -> float:
        if not self.has_begun:
            return 0.0
        self._readings -= 1
        return 0.0 if self._readings >= 0 else 100.0

    def end(self, *args: Any, **kwargs: Any) -> Any:
        self.has_begun = True
        result = self._call(*args, **kwargs)
        self.has_returned = True
        return result
