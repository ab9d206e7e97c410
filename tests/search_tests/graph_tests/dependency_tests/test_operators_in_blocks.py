"""Awkward blocks with exact widths: what real architectures do to their channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.search_tests.graph_tests.around import columns, conv, groups_of

Body = Callable[[Any, Tensor], Any]


def shuffle_unit(m: Any, x: Tensor) -> Tensor:
    """ShuffleNetV2: one half goes by, the other is convolved, then both are interleaved."""
    left, right = x.chunk(2, 1)
    x = torch.cat([left, m.c(m.b(right).relu())], 1)
    x = x.view(x.shape[0], 2, 3, 4, 4).transpose(1, 2).reshape(-1, 6, 4, 4)
    out: Tensor = m.o(x)
    return out


def excited(m: Any, x: Tensor) -> Tensor:
    gate = m.c(m.b(x.mean((2, 3))).relu()).sigmoid().view(-1, 6, 1, 1)
    out: Tensor = m.o(x * gate.expand_as(x))
    return out


def fuse(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """HRNet: two resolutions, each added to the other after a convolution."""
    low = m.b(x)
    high = nn.functional.interpolate(m.c(low), scale_factor=1.0) + x
    return m.o(high), m.p(low + m.d(x))


def dense(m: Any, x: Tensor) -> Tensor:
    for layer in (m.b, m.c):
        x = torch.cat([x, layer(x.relu())], 1)
    out: Tensor = m.o(x)
    return out


def cascaded(m: Any, x: Tensor) -> Tensor:
    """Res2Net and EfficientViT: every part is added to the next one."""
    parts = list(x.split(2, 1))
    for number in (1, 2):
        parts[number] = parts[number] + m.b(parts[number - 1]) if number == 1 else parts[number]
    out: Tensor = m.o(torch.cat(parts, 1))
    return out


def split_transform_merge(m: Any, x: Tensor) -> Tensor:
    out: Tensor = m.o(m.d(m.b(x).relu()) + m.e(m.c(x).relu()))
    return out


def shared(m: Any, x: Tensor) -> Tensor:
    out: Tensor = m.o(m.b(m.b(x).relu()))
    return out


def one_channel(m: Any, x: Tensor) -> Tensor:
    """A spatial gate of one channel, which is broadcast."""
    out: Tensor = m.o(x * m.b(x).sigmoid())
    return out


def grouped_after_concat(m: Any, x: Tensor) -> Tensor:
    out: Tensor = m.o(m.c(torch.cat([x, m.b(x)], 1)))
    return out


def option_a(m: Any, x: Tensor) -> Tensor:
    """ResNet on CIFAR: the shortcut is filled up with zeros."""
    short = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))
    out: Tensor = m.o(m.b(x)[:, :, ::2, ::2] + short)
    return out


BLOCKS: dict[str, tuple[Body, dict[str, nn.Module], dict[str, int], str, list[list[int]]]] = {
    "shuffle unit": (
        shuffle_unit,
        {"b": conv(3, 5), "c": conv(5, 3), "o": conv(6)},
        {"a": 3, "b": 5},
        "a.weight",
        [[0, 3], [1, 4], [2, 5]],
    ),
    "squeeze and excite with a view": (
        excited,
        {"b": nn.Linear(6, 3), "c": nn.Linear(3, 6), "o": conv(6)},
        {"a": 6, "b": 3},
        "c.weight",
        [[0], [1], [2], [3], [4], [5]],
    ),
    "HRNet fuse": (
        fuse,
        {"b": conv(6, 4), "c": conv(4, 6), "d": conv(6, 4), "o": conv(6), "p": conv(4)},
        {"a": 6, "b": 4},
        "c.weight",
        [[0], [1], [2], [3], [4], [5]],
    ),
    "dense block": (
        dense,
        {"b": conv(6, 3), "c": conv(9, 3), "o": conv(12)},
        {"a": 6, "b": 3, "c": 3},
        "a.weight",
        [[0], [1], [2], [3], [4], [5]],
    ),
    "cascaded concat": (
        cascaded,
        {"b": conv(2, 2), "o": conv(6)},
        {"a": 2},
        "a.weight",
        [[0, 2, 4], [1, 3, 5]],
    ),
    "split, transform, merge": (
        split_transform_merge,
        {"b": conv(6, 2), "c": conv(6, 3), "d": conv(2, 4), "e": conv(3, 4), "o": conv(4)},
        {"a": 6, "b": 2, "c": 3, "d": 4},
        "a.weight",
        [[0], [1], [2], [3], [4], [5]],
    ),
    "shared convolution": (
        shared,
        {"b": conv(6, 6), "o": conv(6)},
        {"a": 6},
        "b.weight",
        [[0], [1], [2], [3], [4], [5]],
    ),
    "one output channel": (
        one_channel,
        {"b": conv(6, 1), "o": conv(6)},
        {"a": 6},
        "a.weight",
        [[0], [1], [2], [3], [4], [5]],
    ),
    "grouped convolution after concat": (
        grouped_after_concat,
        {"b": conv(6, 6), "c": conv(12, 12, groups=6), "o": conv(12)},
        {"a": 6},
        "a.weight",
        [[0, 1], [2, 3], [4, 5], [], [], []],
    ),
    "shortcut filled up with zeros": (
        option_a,
        {"b": conv(6, 8), "o": conv(8)},
        {"a": 8},
        "b.weight",
        [[1], [2], [3], [4], [5], [6], [0], [7]],
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_have_exactly_these_groups(name: str) -> None:
    body, layers, widths, tensor, expected = BLOCKS[name]
    groups: Mapping[str, Any] = groups_of(body, width=6, **layers)
    free = {name: group.width for name, group in groups.items() if group.status != "frozen"}
    assert free == widths
    (member,) = [m for m in groups["a"].members if m.tensor == tensor and m.dim == 0]
    assert columns(groups["a"], tensor, member.dim) == expected
