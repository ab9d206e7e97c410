"""Every rule: a small network around one operator, and exactly the groups that it must give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search import Plan, prune
from search.graph import trace
from tests.search_tests.graph_tests.around import EACH, EXACT, Body, columns, conv, groups_of

Unary = Callable[[Any], Tensor]
Binary = Callable[[Any, Any], Tensor]


UNARY: dict[str, Unary] = {
    "relu": torch.relu,
    "relu_": lambda x: x.relu_(),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "elu": F.elu,
    "mish": F.mish,
    "softplus": F.softplus,
    "leaky_relu": F.leaky_relu,
    "logsigmoid": F.logsigmoid,
    "exp": torch.exp,
    "add a number": lambda x: x + 1.5,
    "subtract from a number": lambda x: 1.5 - x,
    "divide by a number": lambda x: x / 3,
    "power": lambda x: x**2,
    "clamp": lambda x: x.clamp(-1, 1),
    "where": lambda x: torch.where(x > 0, x, x * 0.1),
    "clone": torch.clone,
    "contiguous": lambda x: x.contiguous(),
    "to": lambda x: x.to(torch.float64),
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "zeros_like": lambda x: x + torch.zeros_like(x),
    "itself times itself": lambda x: x * x,
    "spatial gate": lambda x: x * torch.sigmoid(x.sum(1, keepdim=True)),
    "channel gate": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "channel gate by amax": lambda x: x * x.amax((2, 3), keepdim=True),
    "softmax over space": lambda x: x.flatten(2).softmax(-1).view(x.shape),
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "max_pool2d with indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 2),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 2),
    "nearest": lambda x: F.interpolate(x, scale_factor=2.0),
    "bilinear": lambda x: F.interpolate(x, size=(8, 8), mode="bilinear"),
    "bicubic": lambda x: F.interpolate(x, size=(8, 8), mode="bicubic"),
    "zero padding": lambda x: F.pad(x, (1, 1, 0, 2)),
    "reflection padding": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "replication padding": lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
    "slice of space": lambda x: x[:, :, 1:, ::2],
    "one row": lambda x: x[:, :, 0].unsqueeze(2),
    "roll space": lambda x: torch.roll(x, (1, 2), (2, 3)),
    "flip space": lambda x: x.flip(2),
    "permute and back": lambda x: x.permute(0, 2, 3, 1).relu().permute(0, 3, 1, 2),
    "transpose and back": lambda x: x.transpose(1, 3).transpose(1, 3),
    "flatten and back": lambda x: x.flatten(2).unflatten(2, (4, 4)),
    "flatten with channels and back": lambda x: x.flatten(1).reshape(x.shape),
    "split space": lambda x: x.chunk(2, dim=2)[0],
    "stack and unbind": lambda x: torch.stack([x, x * 2], 2).unbind(2)[1],
    "expand": lambda x: x.mean((2, 3), keepdim=True).expand(x.shape),
    "normalize": lambda x: F.normalize(x, dim=1),
    "cumsum over space": lambda x: x.cumsum(2),
    "instance norm": lambda x: F.instance_norm(x),
    "repeat space": lambda x: x.repeat(1, 1, 2, 1),
    "pixel shuffle and back": lambda x: F.pixel_unshuffle(
        F.pixel_shuffle(x.repeat(1, 1, 2, 2), 1), 1
    ),
}


@pytest.mark.parametrize("name", UNARY)
def test_operators_that_leave_the_channels_as_they_are(name: str) -> None:
    groups = groups_of(lambda m, x: m.b(UNARY[name](x)), b=conv(4))
    assert (groups["a"].status, groups["a"].reason) == ("prunable", "")
    assert columns(groups["a"], "a.weight", 0) == EACH
    assert columns(groups["a"], "a.bias", 0) == EACH
    assert columns(groups["a"], "b.weight") == EACH


BINARY: dict[str, Binary] = {
    "add": torch.add,
    "add_": lambda x, y: x.add_(y),
    "sub": torch.sub,
    "mul": torch.mul,
    "div": lambda x, y: x / (y.abs() + 1),
    "maximum": torch.maximum,
    "lerp": lambda x, y: torch.lerp(x, y, 0.3),
    "addcmul": lambda x, y: torch.addcmul(x, x, y),
    "where": lambda x, y: torch.where(x > 0, x, y),
    "squeeze and excite": lambda x, y: x * torch.sigmoid(y.mean((2, 3), keepdim=True)),
    "stack and sum": lambda x, y: torch.stack([x, y]).sum(0),
}


@pytest.mark.parametrize("name", BINARY)
def test_operators_that_tie_their_operands(name: str) -> None:
    groups = groups_of(
        lambda m, x: m.c(BINARY[name](x, m.b(torch.relu(x)))), b=conv(4, 4), c=conv(4)
    )
    assert groups.keys() == {"a", "c"}
    assert groups["a"].status == "prunable"
    for tensor, dim in (("a.weight", 0), ("b.weight", 0), ("b.weight", 1), ("c.weight", 1)):
        assert columns(groups["a"], tensor, dim) == EACH


def test_concatenation_shifts_the_indices() -> None:
    groups = groups_of(
        lambda m, x: m.d(m.n(torch.cat([m.b(x), x, x], 1))),
        b=conv(4, 3),
        n=nn.BatchNorm2d(11),
        d=conv(11),
    )
    assert columns(groups["b"], "d.weight") == [[0], [1], [2]]
    assert columns(groups["a"], "d.weight") == [[3, 7], [4, 8], [5, 9], [6, 10]]
    assert columns(groups["a"], "n.running_var", 0) == columns(groups["a"], "d.weight")


def test_concatenation_along_space_ties() -> None:
    groups = groups_of(lambda m, x: m.c(torch.cat([m.b(x), x], 2)), b=conv(4, 4), c=conv(4))
    assert groups.keys() == {"a", "c"}


def test_flatten_multiplies_the_indices() -> None:
    groups = groups_of(lambda m, x: m.f(F.max_pool2d(x, 2).flatten(1)), f=nn.Linear(16, 3))
    expected = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert columns(groups["a"], "f.weight") == expected


def test_flatten_with_channels_last_interleaves_the_indices() -> None:
    groups = groups_of(
        lambda m, x: m.f(F.max_pool2d(x, 2).permute(0, 2, 3, 1).flatten(1)), f=nn.Linear(16, 3)
    )
    assert columns(groups["a"], "f.weight")[1] == [1, 5, 9, 13]


def test_depthwise_convolution_follows_its_producer() -> None:
    groups = groups_of(lambda m, x: m.c(m.d(x)), d=conv(4, 8, groups=4), c=conv(8))
    assert groups.keys() == {"a", "c"}
    pairs = [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert columns(groups["a"], "d.weight", 0) == columns(groups["a"], "c.weight") == pairs
    assert [m.role for m in groups["a"].members if m.tensor == "d.weight"] == ["follower"]


@pytest.mark.parametrize("groups_", [2, 4])
def test_a_conv_group_is_a_unit(groups_: int) -> None:
    groups = groups_of(
        lambda m, x: m.c(m.g(x)), width=8, g=conv(8, 16, groups=groups_), c=conv(16)
    )
    assert groups["a"].width == groups_
    ins, outs = 8 // groups_, 16 // groups_
    assert columns(groups["a"], "a.weight", 0)[1] == list(range(ins, 2 * ins))
    assert columns(groups["a"], "g.weight", 0)[1] == list(range(outs, 2 * outs))
    assert columns(groups["a"], "c.weight")[1] == list(range(outs, 2 * outs))


def test_where_whole_conv_groups_cannot_leave_each_loses_the_same_positions() -> None:
    groups = groups_of(
        lambda m, x: x + m.h(m.g(x)), g=conv(4, 8, groups=2), h=conv(8, 4, groups=2)
    )
    assert (groups["a"].status, groups["g"].status) == ("frozen", "prunable")
    pairs = [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert columns(groups["g"], "g.weight", 0) == columns(groups["g"], "g.bias", 0) == pairs
    assert columns(groups["g"], "h.weight") == EACH


def test_positions_of_conv_groups_leave_while_their_number_stays() -> None:
    class Sandwich(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.g, self.h = conv(4, 8, groups=2), conv(8, 4, groups=2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = x + self.h(self.g(x))
            return out

    graph = trace(Sandwich(), (torch.randn(2, 4, 3, 3),))
    plan = Plan({**graph.dense_plan().kept, "g": (0, 2, 3)})
    pruned = prune(graph.model, graph, plan)
    assert isinstance(pruned, Sandwich)
    assert (pruned.g.groups, pruned.g.in_channels, pruned.g.out_channels) == (2, 4, 6)
    assert (pruned.h.groups, pruned.h.in_channels, pruned.h.out_channels) == (2, 6, 4)
    assert pruned(torch.randn(1, 4, 3, 3)).shape == (1, 4, 3, 3)


def test_transposed_convolutions() -> None:
    groups = groups_of(
        lambda m, x: m.c(m.g(m.t(x))),
        t=nn.ConvTranspose2d(4, 6, 2, stride=2),
        g=nn.ConvTranspose2d(6, 6, 1, groups=3),
        c=conv(6),
    )
    assert columns(groups["a"], "t.weight", 0) == EACH
    assert columns(groups["t"], "t.weight", 1) == [[0, 1], [2, 3], [4, 5]]
    assert columns(groups["t"], "g.weight", 0) == [[0, 1], [2, 3], [4, 5]]
    assert columns(groups["t"], "c.weight") == [[0, 1], [2, 3], [4, 5]]


def test_a_grouped_transposed_convolution_repeats_its_groups() -> None:
    groups = groups_of(
        lambda m, x: m.c(m.g(x)), g=nn.ConvTranspose2d(4, 8, 1, groups=4), c=conv(8)
    )
    assert columns(groups["a"], "g.weight", 0) == EACH
    assert columns(groups["a"], "g.bias", 0) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert columns(groups["a"], "c.weight") == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize("transposed", [False, True])
def test_a_bare_convolution_with_its_own_parameters(transposed: bool) -> None:
    def body(m: Any, x: Any) -> Any:
        weight, bias = m.w.weight, m.w.bias
        ones, zeros = [1, 1], [0, 0]
        x = torch.convolution(x, weight, bias, ones, zeros, ones, transposed, zeros, 1)
        return m.b(x)

    layer = nn.ConvTranspose2d(4, 6, 1) if transposed else conv(4, 6)
    groups = groups_of(body, w=layer, b=conv(6))
    assert columns(groups["a"], "w.weight", 0 if transposed else 1) == EACH
    assert columns(groups["w"], "w.weight", 1 if transposed else 0) == [[i] for i in range(6)]


def test_a_bare_product_with_a_bias() -> None:
    def body(m: Any, x: Any) -> Any:
        flat = x.mean((2, 3))
        return m.o(torch.addmm(m.q.bias, flat, m.q.weight.t()))

    groups = groups_of(body, q=nn.Linear(4, 6), o=nn.Linear(6, 2))
    assert columns(groups["a"], "q.weight") == EACH
    assert columns(groups["q"], "q.bias", 0) == columns(groups["q"], "o.weight")


def test_repeated_flipped_and_rolled_channels_keep_their_units() -> None:
    groups = groups_of(lambda m, x: m.b(x.repeat(1, 2, 1, 1).roll(1, 1)), b=conv(8))
    assert columns(groups["a"], "b.weight") == [[1, 5], [2, 6], [3, 7], [0, 4]]
    assert groups["a"].reason.startswith("unverified: ")  # a roll by a constant is another roll


def test_channel_shuffle_layers() -> None:
    groups = groups_of(lambda m, x: m.b(m.s(x)), width=6, s=nn.ChannelShuffle(2), b=conv(6))
    assert columns(groups["a"], "b.weight") == [[0, 1], [2, 3], [4, 5]]


def test_channel_shuffle_and_chunk_keep_equal_parts() -> None:
    def body(m: Any, x: Any) -> Any:
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2)
        return m.b(x.reshape(batch, channels, height, width))

    groups = groups_of(body, width=6, b=conv(6))
    assert columns(groups["a"], "a.weight", 0) == [[0, 3], [1, 4], [2, 5]]
    assert columns(groups["a"], "b.weight") == [[0, 1], [2, 3], [4, 5]]


EQUAL_PARTS: dict[str, Body] = {
    "chunk": lambda m, x: m.b(torch.mul(*x.chunk(2, 1))),
    "split": lambda m, x: m.b(torch.mul(*x.split(x.shape[1] // 2, 1))),
    "glu": lambda m, x: m.b(F.glu(x, 1)),
}


@pytest.mark.parametrize("name", EQUAL_PARTS)
def test_equal_parts_lose_the_same_units(name: str) -> None:
    groups = groups_of(EQUAL_PARTS[name], b=conv(2))
    assert groups["a"].status == "prunable"
    assert columns(groups["a"], "a.weight", 0) == [[0, 2], [1, 3]]
    assert columns(groups["a"], "b.weight") == [[0], [1]]


FIRST = torch.tensor([0, 1])
DIAGONAL = torch.eye(4, dtype=torch.bool)


def written(x: Any, place: Any, value: Any) -> Any:
    """A copy of `x` with values written into it."""
    copied = x.clone()
    copied[place] = value
    return copied


WRITTEN: dict[str, Unary] = {
    "rows of an image": lambda x: written(x, (slice(None), slice(None), FIRST), x[:, :, 2:4]),
    "places by a mask": lambda x: written(x, (slice(None), slice(None), DIAGONAL), 0.5),
    "two indices as one": lambda x: written(x, (slice(None), slice(None), FIRST, FIRST), 0.5),
    "tokens by a mask of values": lambda x: written(
        x.permute(0, 2, 3, 1), x.sum(1) > 0, x.mean((0, 2, 3))
    ).permute(0, 3, 1, 2),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_by_an_index_leaves_the_other_dimensions_as_they_are(name: str) -> None:
    groups = groups_of(lambda m, x: m.b(WRITTEN[name](x)), b=conv(4))
    assert (groups["a"].status, groups["a"].reason) == ("prunable", "")
    assert columns(groups["a"], "b.weight") == EACH


def test_a_token_that_is_written_by_a_mask_has_the_units_of_the_others() -> None:
    def body(m: Any, x: Any) -> Any:
        tokens = x.flatten(2).mT
        return m.f(written(tokens, tokens.sum(2) > 0, m.f.weight[0]))

    groups = groups_of(body, f=nn.Linear(4, 8))
    assert groups["a"].status == "prunable"
    assert columns(groups["a"], "f.weight") == EACH


def test_pixel_shuffle_and_back() -> None:
    def body(m: Any, x: Any) -> Any:
        return m.b(F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2))

    groups = groups_of(body, width=8, b=conv(8))
    assert columns(groups["a"], "a.weight", 0) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert columns(groups["a"], "b.weight") == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_prelu_has_a_slope_per_channel() -> None:
    groups = groups_of(lambda m, x: m.b(m.p(m.q(x))), p=nn.PReLU(4), q=nn.PReLU(), b=conv(4))
    assert columns(groups["a"], "p.weight", 0) == EACH
    assert all(member.tensor != "q.weight" for member in groups["a"].members)


def test_matrix_products() -> None:
    def body(m: Any, x: Any) -> Any:
        tokens = x.flatten(2).transpose(1, 2)
        scores = (m.q(tokens) @ m.k(tokens).transpose(1, 2)).softmax(-1)
        return m.o(scores @ m.v(tokens))

    q, k, v = (nn.Linear(4, 6, bias=False) for _ in range(3))
    groups = groups_of(body, q=q, k=k, v=v, o=nn.Linear(6, 2))
    assert groups.keys() == {"a", "q", "v", "o"}
    assert columns(groups["q"], "k.weight", 0) == columns(groups["q"], "q.weight", 0)
    assert columns(groups["v"], "o.weight") == columns(groups["q"], "q.weight", 0)
    assert {groups[name].status for name in ("a", "q", "v")} == {"prunable"}


def test_volumes_and_signals() -> None:
    class Volume(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv3d(2, 4, 1)
            self.n = nn.BatchNorm3d(4)
            self.b = nn.Conv1d(4, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            out = F.avg_pool3d(self.n(self.a(x)), 2).mean((2, 3))
            result: Tensor = self.b(F.max_pool1d(out, 1))
            return result

    graph = trace(Volume(), (torch.randn(2, 2, 4, 4, 4),))
    (a, b) = graph.groups
    assert (a.name, a.width, a.status) == ("a", 4, "prunable")
    assert columns(a, "b.weight") == columns(a, "n.weight", 0) == EACH
    assert b.status == "frozen"


APPROXIMATE: dict[str, tuple[Body, nn.Module, str]] = {
    "layer norm": (
        lambda m, x: m.b(m.n(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
        nn.LayerNorm(4),
        "a norm takes its statistics over its units (operator layer_norm in n)",
    ),
    "group norm": (
        lambda m, x: m.b(m.n(x)),
        nn.GroupNorm(1, 4),
        "a norm takes its statistics over its units (operator group_norm in n)",
    ),
    "mean": (
        lambda m, x: m.b(x * m.n(x).mean(1, keepdim=True)),
        nn.Identity(),
        "a mean runs over its units (operator mean in the model itself)",
    ),
}


@pytest.mark.parametrize("name", APPROXIMATE)
def test_statistics_over_units_are_approximate(name: str) -> None:
    body, norm, reason = APPROXIMATE[name]
    groups = groups_of(body, n=norm, b=nn.Sequential(conv(4, EXACT), conv(EXACT)))
    assert (groups["a"].status, groups["a"].reason) == ("approximate", reason)
    assert columns(groups["a"], "b.0.weight") == EACH


FREEZING: dict[str, tuple[Body, str]] = {
    "softmax over channels": (lambda m, x: m.b(x.softmax(1)), "softmax runs over its units"),
    "maximum over channels": (
        lambda m, x: m.b(x * x.amax(1, keepdim=True)),
        "amax reduces over its units",
    ),
    "a slice in steps": (lambda m, x: m.b(torch.cat([x[:, ::2], x[:, 1::2]], 1)), "in steps"),
    "one channel": (lambda m, x: m.b(x * x[:, :1]), "picked by their position"),
    "a selected channel": (lambda m, x: m.b(x * x[:, 0, None]), "picked by their position"),
    "padded channels": (lambda m, x: m.b(F.pad(x, (0, 0, 0, 0, 1, -1))), "are padded"),
    "rolled as one line": (lambda m, x: m.b(x.roll(1)), "its units move between dimensions"),
    "a convolution over the channels as space": (
        lambda m, x: m.b(F.avg_pool2d(x.transpose(1, 3), 1).transpose(1, 3)),
        "avg_pool2d runs over its units",
    ),
    "channels written by an index": (
        lambda m, x: m.b(written(x, (slice(None), FIRST), 0.5)),
        "looked up by an index",
    ),
    "channels and columns written by an index each": (
        lambda m, x: m.b(written(x, (slice(None), FIRST, slice(None), FIRST), 0.5)),
        "looked up by an index",
    ),
    "unbound channels": (lambda m, x: m.b(x + x.unbind(1)[0][:, None]), "by their position"),
    "no rule": (
        lambda m, x: m.b(x + torch.linalg.matrix_exp(x)),
        "there is no pruning rule (operator linalg_matrix_exp in the model itself)",
    ),
    "constant": (
        lambda m, x: m.b(x + torch.arange(4.0, dtype=x.dtype).view(1, 4, 1, 1)),
        "its units meet a dimension that cannot shrink",
    ),
}


@pytest.mark.parametrize("name", FREEZING)
def test_what_freezes_a_group_is_told(name: str) -> None:
    body, reason = FREEZING[name]
    group = groups_of(body, b=conv(4), f=nn.Linear(8, 2))["a"]
    assert group.status == ("frozen" if reason else "prunable")
    assert reason in group.reason
