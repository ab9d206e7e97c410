"""Rules of products, tables and windows: attention in its many spellings, and its exact heads."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from search import Plan, load_pruned, prune
from search.graph import trace
from search.graph.dependency.labels import FIXED, FREE, Labels
from search.graph.dependency.op_call import OpCall
from search.graph.dependency.operators.registry import OPERATORS
from search.graph.verification.draw import Draw
from search.graph.verification.subject import Subject
from search.graph.verification.trial_result import Trial, TrialResult
from search.graph.verification.trials import Trials
from search.loading import plan_document
from tests.search_tests.graph_tests.around import (
    EACH,
    EXACT,
    Around,
    Body,
    columns,
    conv,
    groups_of,
)
from tests.search_tests.graph_tests.verification_tests.verifying import FixedTrial, verified

HEADS, HEAD = 2, 3
WIDTH = HEADS * HEAD
QUARTERS = [[0, 1, 2, 6, 7, 8, 12, 13, 14], [3, 4, 5, 9, 10, 11, 15, 16, 17]]
HALVES = [[0, 1, 2], [3, 4, 5]]


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def fused(m: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = m.qkv(tokens(x)).reshape(-1, 16, 3, HEADS, HEAD).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def joined(m: Any, mixed: Tensor) -> Tensor:
    out: Tensor = m.o(mixed.transpose(1, 2).reshape(-1, 16, WIDTH))
    return out


def by_products(m: Any, x: Tensor) -> Tensor:
    q, k, v = fused(m, x)
    return joined(m, (q * HEAD**-0.5 @ k.transpose(-2, -1)).softmax(-1) @ v)


def by_the_operator(m: Any, x: Tensor) -> Tensor:
    return joined(m, F.scaled_dot_product_attention(*fused(m, x)))


def by_einsum(m: Any, x: Tensor) -> Tensor:
    q, k, v = fused(m, x)
    weights = torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1)
    return joined(m, torch.einsum("b h i j, b h j d -> b h i d", weights, v))


def by_batches_of_heads(m: Any, x: Tensor) -> Tensor:
    q, k, v = (part.reshape(-1, 16, HEAD) for part in fused(m, x))
    mixed = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
    return joined(m, mixed.reshape(-1, HEADS, 16, HEAD))


def by_baddbmm(m: Any, x: Tensor) -> Tensor:
    q, k, v = (part.reshape(-1, 16, HEAD) for part in fused(m, x))
    empty = torch.zeros(q.shape[0], 16, 16, dtype=x.dtype)
    scores = torch.baddbmm(empty, q, k.transpose(1, 2), beta=0, alpha=0.5)
    return joined(m, (scores.softmax(-1) @ v).reshape(-1, HEADS, 16, HEAD))


def with_a_mask(m: Any, x: Tensor) -> Tensor:
    mask = torch.ones(16, 16, dtype=torch.bool).tril()
    q, k, v = fused(m, x)
    return joined(m, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


ATTENTION: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "products": by_products,
    "the operator": by_the_operator,
    "einsum": by_einsum,
    "batches of heads": by_batches_of_heads,
    "baddbmm": by_baddbmm,
    "the operator with a mask": with_a_mask,
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_with_one_fused_layer_loses_whole_heads(name: str) -> None:
    groups = groups_of(ATTENTION[name], qkv=nn.Linear(4, 3 * WIDTH), o=nn.Linear(WIDTH, 2))
    assert groups.keys() == {"a", "qkv", "o"}
    assert (groups["qkv"].status, groups["qkv"].reason) == ("prunable", "")
    assert columns(groups["qkv"], "qkv.weight", 0) == QUARTERS
    assert columns(groups["qkv"], "o.weight") == HALVES
    assert columns(groups["a"], "qkv.weight") == EACH


def relative(m: Any, x: Tensor) -> Tensor:
    """Swin: windows of a rolled image, and a table of relative positions, one column per head."""
    x = x.permute(0, 2, 3, 1).roll((-1, -1), (1, 2))
    x = x.reshape(-1, 2, 2, 2, 2, 4).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 4)
    q, k, v = m.qkv(x).reshape(-1, 4, 3, HEADS, HEAD).permute(2, 0, 3, 1, 4).unbind(0)
    index = torch.arange(16) % 5
    bias = m.table.weight[index].view(4, 4, HEADS).permute(2, 0, 1).unsqueeze(0)
    mixed = (q @ k.transpose(-2, -1) + bias).softmax(-1) @ v
    x = m.o(mixed.transpose(1, 2).reshape(-1, 4, WIDTH))
    x = x.reshape(-1, 2, 2, 2, 2, 2).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 4, 2)
    return x.roll((1, 1), (1, 2))


def test_windows_with_relative_positions() -> None:
    groups = groups_of(
        relative,
        qkv=nn.Linear(4, 3 * WIDTH),
        o=nn.Linear(WIDTH, 2),
        table=nn.Embedding(5, HEADS),
    )
    assert groups["qkv"].status == groups["a"].status == "prunable"
    assert columns(groups["qkv"], "table.weight") == [[0], [1]]
    assert columns(groups["qkv"], "qkv.bias", 0) == QUARTERS
    assert columns(groups["a"], "qkv.weight") == EACH


def test_torch_s_own_attention() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        x = tokens(x)
        out: Tensor = m.o(m.mha(x, x, x, need_weights=False)[0])
        return out

    groups = groups_of(body, mha=nn.MultiheadAttention(4, 2, batch_first=True), o=nn.Linear(4, 2))
    heads = groups["mha.in_proj_weight"] if "mha.in_proj_weight" in groups else groups["mha"]
    assert heads.status == "prunable"
    assert columns(heads, "mha.in_proj_weight", 0) == [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]]
    assert columns(heads, "mha.out_proj.weight") == [[0, 1], [2, 3]]


def test_heads_that_share_their_keys_leave_together() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        x = tokens(x)
        q = m.q(x).view(-1, 16, 4, HEAD).transpose(1, 2)
        k, v = (
            layer(x).view(-1, 16, 2, HEAD).transpose(1, 2).repeat_interleave(2, 1)
            for layer in (m.k, m.v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = m.o(mixed.transpose(1, 2).reshape(-1, 16, 12))
        return out

    groups = groups_of(
        body, q=nn.Linear(4, 12), k=nn.Linear(4, 6), v=nn.Linear(4, 6), o=nn.Linear(12, 2)
    )
    assert groups["q"].status == "prunable"
    assert columns(groups["q"], "q.weight", 0) == [list(range(6)), list(range(6, 12))]
    assert columns(groups["q"], "k.weight", 0) == HALVES
    assert columns(groups["q"], "v.weight", 0) == HALVES


def test_head_dimensions_leave_where_heads_cannot() -> None:
    """Every head has a slope of its own, which no parameter holds."""

    def body(m: Any, x: Tensor) -> Tensor:
        q, k, v = fused(m, x)
        slopes = torch.arange(1, 3, dtype=x.dtype).view(2, 1, 1)
        return joined(m, (q @ k.transpose(-2, -1) * slopes).softmax(-1) @ v)

    groups = groups_of(body, qkv=nn.Linear(4, 3 * WIDTH), o=nn.Linear(WIDTH, 2))
    group = groups["qkv"]
    assert (group.status, group.width) == ("prunable", HEAD)
    assert columns(group, "qkv.weight", 0)[0] == [0, 3, 6, 9, 12, 15]
    assert columns(group, "o.weight") == [[0, 3], [1, 4], [2, 5]]


BODIES: dict[str, tuple[Body, dict[str, Any], str, list[list[int]]]] = {
    "a matrix and a vector": (
        lambda m, x: m.b(x) * (x.transpose(1, 3) @ x.new_ones(4)).sum(),
        {"b": conv(4)},
        "b.weight",
        EACH,
    ),
    "unequal parts": (
        lambda m, x: m.b(torch.cat(x.split([1, 3], 1)[1:], 1)),
        {"b": conv(3)},
        "b.weight",
        [],
    ),
    "a slice": (
        lambda m, x: m.b(torch.cat([x[:, 2:], x[:, :2]], 1)),
        {"b": conv(4)},
        "b.weight",
        [[2], [3], [0], [1]],
    ),
    "narrow": (
        lambda m, x: m.b(torch.cat([x.narrow(1, 2, 2), x], 1)),
        {"b": conv(6)},
        "b.weight",
        [[2], [3], [0, 4], [1, 5]],
    ),
    "merged with the batch": (
        lambda m, x: m.b(x.reshape(-1, 4, 4).relu().reshape(x.shape)),
        {"b": conv(4)},
        "b.weight",
        EACH,
    ),
    "zeros in front": (
        lambda m, x: m.b(x + torch.cat([x.new_zeros(x.shape[0], 2, 4, 4), m.c(x)], 1)),
        {"b": conv(4), "c": conv(4)},
        "b.weight",
        EACH,
    ),
    "padded channels": (
        lambda m, x: m.b(x + F.pad(m.c(x), (0, 0, 0, 0, 1, 1))),
        {"b": conv(4), "c": conv(4)},
        "b.weight",
        EACH,
    ),
    "unfold and fold": (
        lambda m, x: m.b(F.fold(F.unfold(x, 2, stride=2), (4, 4), 2, stride=2)),
        {"b": conv(4)},
        "b.weight",
        EACH,
    ),
    "windows as a dimension": (
        lambda m, x: m.b(x.unfold(2, 2, 2).mean(-1)),
        {"b": conv(4)},
        "b.weight",
        EACH,
    ),
    "a grid": (
        lambda m, x: m.b(
            F.grid_sample(x, torch.zeros(1, 2, 2, 2).to(x).expand(x.shape[0], -1, -1, -1))
        ),
        {"b": conv(4)},
        "b.weight",
        EACH,
    ),
    "rows of an index": (
        lambda m, x: m.b(x[:, :, torch.tensor([3, 1])]),
        {"b": conv(4)},
        "b.weight",
        EACH,
    ),
    "index_select": (
        lambda m, x: m.b(x.index_select(2, torch.tensor([3, 1]))),
        {"b": conv(4)},
        "b.weight",
        EACH,
    ),
    "gather": (
        lambda m, x: m.b(x.gather(2, torch.zeros_like(x, dtype=torch.long))),
        {"b": conv(4)},
        "b.weight",
        EACH,
    ),
    "masked_fill": (
        lambda m, x: m.b(x.masked_fill(x > 0, 0.5)),
        {"b": conv(4)},
        "b.weight",
        EACH,
    ),
    "movedim and back": (
        lambda m, x: m.b(x.movedim(1, 3).relu().movedim(3, 1)),
        {"b": conv(4)},
        "b.weight",
        EACH,
    ),
    "tile": (
        lambda m, x: m.b(x.tile(1, 2, 1, 1)),
        {"b": conv(8)},
        "b.weight",
        [[0, 4], [1, 5], [2, 6], [3, 7]],
    ),
    "repeat_interleave": (
        lambda m, x: m.b(x.repeat_interleave(2, 1)),
        {"b": conv(8)},
        "b.weight",
        [[0, 1], [2, 3], [4, 5], [6, 7]],
    ),
    "a recurrent layer reads them": (
        lambda m, x: m.b(tokens(x))[0],
        {"b": nn.GRU(4, 3, batch_first=True)},
        "b.weight_ih_l0",
        EACH,
    ),
}


@pytest.mark.parametrize("name", [name for name in BODIES if name != "unequal parts"])
def test_groups_of_other_operators(name: str) -> None:
    body, layers, tensor, expected = BODIES[name]
    group = groups_of(body, **layers)["a"]
    assert (group.status, group.reason) == ("prunable", "")
    assert columns(group, tensor) == expected


def test_a_part_of_one_channel_keeps_that_channel() -> None:
    body = BODIES["unequal parts"][0]
    assert groups_of(body, b=conv(3))["a"].reason.startswith("single ones of its units")


def test_rms_norm_is_approximate() -> None:
    last = nn.Sequential(nn.Linear(4, EXACT), nn.Linear(EXACT, 2))
    groups = groups_of(lambda m, x: m.o(m.n(tokens(x))), n=nn.RMSNorm(4), o=last)
    assert groups["a"].status == "approximate"
    assert columns(groups["a"], "n.weight", 0) == EACH


def test_variances_over_units_are_approximate() -> None:
    groups = groups_of(lambda m, x: m.b(x * x.var(1, keepdim=True)), b=conv(4))
    assert (groups["a"].status, groups["a"].reason[:10]) == ("approximate", "a variance")


def test_of_many_norm_groups_whole_ones_leave() -> None:
    groups = groups_of(
        lambda m, x: m.b(m.n(x).relu()), width=16, n=nn.GroupNorm(8, 16), b=conv(16)
    )
    assert (groups["a"].status, groups["a"].form) == ("prunable", "module")
    assert columns(groups["a"], "b.weight") == [[2 * i, 2 * i + 1] for i in range(8)]


def test_of_a_few_norm_groups_each_loses_the_same() -> None:
    groups = groups_of(lambda m, x: m.b(m.n(x).relu()), width=8, n=nn.GroupNorm(2, 8), b=conv(8))
    assert (groups["a"].status, groups["a"].form) == ("approximate", "module")
    assert columns(groups["a"], "b.weight") == [[i, 4 + i] for i in range(4)]


def standardised(m: Any, x: Tensor) -> Tensor:
    flat = m.b.weight.reshape(1, 2, -1)
    weight = F.batch_norm(flat, None, None, weight=m.gain.weight.view(-1), training=True)
    return F.conv2d(x, weight.reshape_as(m.b.weight), m.b.bias)


def by_moments(m: Any, x: Tensor) -> Tensor:
    std, mean = torch.std_mean(m.b.weight, (1, 2, 3), keepdim=True)
    return F.conv2d(x, (m.b.weight - mean) / (std + 1e-5), m.b.bias)


@pytest.mark.parametrize("body", [standardised, by_moments])
def test_standardised_weights_keep_their_statistics(body: Body) -> None:
    groups = groups_of(body, b=conv(4), gain=nn.Linear(2, 1))
    assert (groups["a"].status, groups["a"].reason) == ("prunable", "")
    assert columns(groups["a"], "b.weight") == EACH


@pytest.mark.parametrize("body", [standardised, by_moments])
def test_statistics_are_those_of_the_weights_that_are_pruned(body: Body, tmp_path: Path) -> None:
    x = torch.randn(2, 3, 4, 4)
    traced, trained, other = (Around(body, 4, b=conv(4), gain=nn.Linear(2, 1)) for _ in range(3))
    graph = trace(traced, (x,))
    plan = Plan(dict(graph.dense_plan().kept) | {"a": (0, 3)})
    pruned = prune(trained, graph, plan)
    (tmp_path / "plan.json").write_text(json.dumps(plan_document(trained, graph, plan)))
    save_file(pruned.state_dict(), tmp_path / "weights.safetensors")
    loaded = load_pruned(other, tmp_path / "plan.json", tmp_path / "weights.safetensors")
    with torch.no_grad():
        trained.a.weight[1:3] = 0.0
        trained.a.bias[1:3] = 0.0  # type: ignore[index]
        torch.testing.assert_close(pruned(x), trained(x))
        torch.testing.assert_close(loaded(x), pruned(x))


@pytest.mark.parametrize("body", [standardised, by_moments])
def test_the_class_is_not_tried_for_what_statistics_of_its_weights_run_over(body: Body) -> None:
    tried: list[str] = []

    class Noted(Trials):
        def module_vs_graph(self, subject: Subject, draw: Draw) -> Trial:
            def find(names: Sequence[str]) -> TrialResult:
                tried.extend(names)
                return TrialResult()

            return FixedTrial(find)

    torch.manual_seed(0)
    model = Around(body, 4, b=conv(4), gain=nn.Linear(2, 1))
    graph = verified(model, (torch.randn(2, 3, 4, 4),), Noted)
    groups = {group.name: group for group in graph.groups}
    assert (groups["a"].status, groups["a"].form) == ("prunable", "graph")
    assert "a" not in tried


def test_a_table_of_tokens_is_pruned_along_its_features() -> None:
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    table, hidden, _ = trace(model, (torch.randint(0, 7, (2, 5)),)).groups
    assert (table.name, table.width, table.status) == ("0", 4, "prunable")
    assert columns(table, "1.weight") == EACH
    assert hidden.status == "prunable"


def test_a_new_dimension_of_equal_values_gets_atoms_of_its_own() -> None:
    x = Labels((1, 3), (None, None))
    out = Labels((2, 4, 3), (None, None, None), batch=frozenset({0}))
    rule = OPERATORS["expand"].propagate
    assert rule is not None
    (labels,), effect = rule(OpCall("expand", {"self": x, "size": [2, 4, 3]}, (out,)))
    assert labels.axes[0] is None
    assert labels.axes[1] is not None
    assert labels.axes[1].tolist() == [FREE] * 4
    assert FREE != FIXED
    assert effect.ties == ()
