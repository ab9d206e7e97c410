"""The integers that a graph computes from constants alone: an index that shuffles channels, say.

It computes them during the propagation; it knows no rules.

Rare case. Models: channels that a constant index moves, picks or repeats, as in pytorchcv's
CondenseNet (index_select with a buffer).
Without it: the units that the index reads are frozen: of condensenet74_c8_g8, 26 groups would be
left to verify instead of 63.
Tests: dependency_tests/test_constant_index.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from search.graph.dependency.labels import Labels
from search.graph.exported.export import Exported, is_integer, is_symbol

LARGEST = 2**16  # numbers: a longer table is no index of units


def with_known(
    node: fx.Node,
    outputs: Sequence[Labels],
    values: Mapping[fx.Node, tuple[Labels, ...]],
    exported: Exported,
) -> tuple[Labels, ...]:
    """The labels of a node, with the integers that it gives where these are known.

    Args:
        node: a placeholder or an operator.
        outputs: its labels.
        values: node -> labels, of all nodes before it.
        exported: the graph.
    """
    example = node.meta.get("val")
    if not isinstance(example, Tensor) or not _is_small(example):
        return tuple(outputs)
    value = _held(node, exported) if node.op == "placeholder" else _computed(node, values)
    if value is None or value.is_meta:
        return tuple(outputs)
    return tuple(replace(labels, known=value.cpu().numpy()) for labels in outputs)


def _is_small(example: Tensor) -> bool:
    free = any(is_symbol(size) for size in example.shape)
    return is_integer(example) and not free and example.numel() <= LARGEST


def _held(node: fx.Node, exported: Exported) -> Tensor | None:
    return exported.integers.get(node.name, exported.constants.get(node.name))


def _computed(node: fx.Node, values: Mapping[fx.Node, tuple[Labels, ...]]) -> Tensor | None:
    """What an operator gives whose tensors are all known, and that draws nothing at random.

    Other functions in a graph, those of vmap for one, mean something only where all of it runs.
    """
    known = {source: _known(values.get(source, ())) for source in node.all_input_nodes}
    drawn = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    is_plain = isinstance(node.target, OpOverload) or node.target is operator.getitem
    if drawn or not is_plain or any(value is None for value in known.values()):
        return None
    args, kwargs = fx.map_arg((node.args, _on_cpu(node.kwargs)), known.__getitem__)
    value = node.target(*args, **kwargs)  # type: ignore[operator]
    return value if isinstance(value, Tensor) else None


def _known(labels: Sequence[Labels]) -> Tensor | None:
    values = [own.known for own in labels]
    return torch.from_numpy(values[0].copy()) if values and values[0] is not None else None


def _on_cpu(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    cpu = torch.device("cpu")
    return {name: cpu if name == "device" and v is not None else v for name, v in kwargs.items()}
