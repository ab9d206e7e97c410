"""A pruned graph of the traced sizes is called as the dense model is; all else is refused."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from search.errors import InputError, SkeletonError
from search.graph import PruningGraph, trace
from search.graph.pruned.pruned_graph import PrunedGraph
from search.loading import load_pruned, plan_document
from search.plan import Plan
from search.skeleton import export_onnx
from search.surgery import prune


class Heads(nn.Module):
    """An attention whose forward holds the number of its heads."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 3)

    def mixed(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(x.shape[0], -1, 3, 4, 2).permute(2, 0, 3, 1, 4)
        heads = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(heads.transpose(1, 2).flatten(2).mean(1))
        return out


class Text(Heads):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 8)

    def forward(
        self,
        tokens: Tensor,
        scales: Tensor,
        mask: Tensor | None = None,
        *,
        mode: str = "mean",
        sizes: tuple[int, ...] = (1, 2),
        gain: float = 1.0,
    ) -> Tensor:
        x = self.words(tokens) * scales
        return gain * self.mixed(x if mask is None else x * mask)


class Several(Heads):
    def forward(self, x: Tensor, *rest: Tensor, **named: Any) -> Tensor:
        return self.mixed(x + sum(rest))


class Counting(Heads):
    """It takes the examples one by one, so that their number becomes a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.mixed(one[None]) for one in x])


class Deciding(nn.Module):
    """A residual block, and a decision by the number of examples."""

    def __init__(self, limit: Callable[[int], bool]) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 8)
        self.branch = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.branch(x))
        return x if self.limit(x.shape[0]) else 2 * x


class Doubling(Heads):
    """With images beside a table that has no batch."""

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        return self.mixed(x * table)


TOKENS, SCALES = torch.arange(10).view(2, 5), torch.rand(2, 5, 8)


def traced(model: nn.Module, *inputs: Tensor) -> PruningGraph:
    torch.manual_seed(0)
    return trace(model.eval(), inputs)


def halved(graph: PruningGraph) -> nn.Module:
    kept = {
        group.name: tuple(range(group.width // 2 if group.form == "graph" else group.width))
        for group in graph.groups
    }
    pruned = prune(graph.model, graph, Plan(kept), free_sizes=False)
    assert isinstance(pruned, PrunedGraph)
    return pruned


@pytest.fixture(scope="module")
def text() -> nn.Module:
    return halved(traced(Text(), TOKENS, SCALES))


@pytest.fixture(scope="module")
def several() -> nn.Module:
    x = torch.rand(2, 5, 8)
    return halved(traced(Several(), x, x, x))


def test_arguments_are_found_by_name_and_defaults_may_be_given(text: nn.Module) -> None:
    wanted = text(TOKENS, SCALES)
    assert torch.equal(text(scales=SCALES, tokens=TOKENS), wanted)
    assert torch.equal(text(TOKENS, scales=SCALES, mask=None, gain=1.0), wanted)
    assert torch.equal(text(TOKENS, SCALES, None, mode="mean", sizes=(1, 2)), wanted)
    assert text(TOKENS[:1], SCALES[:1]).shape == (1, 3)
    assert text(TOKENS.repeat(3, 1), SCALES.repeat(3, 1, 1)).shape == (6, 3)


OTHER_CALLS: dict[str, tuple[Callable[[nn.Module], Tensor], str]] = {
    "other sizes": (
        lambda m: m(TOKENS[:, :4], SCALES[:, :4]),
        r"'tokens' must have the traced shape \(batch, 5\), but got \(2, 4\): .*trace the dense",
    ),
    "other dimensions": (lambda m: m(TOKENS[0], SCALES), r"shape \(batch, 5\), but got \(5,\)"),
    "another batch": (lambda m: m(TOKENS, SCALES[:1]), "as many examples as 'tokens', 2, but"),
    "other integers": (lambda m: m(TOKENS.int(), SCALES), "that was traced, torch.int64, but"),
    "integers for decimals": (
        lambda m: m(TOKENS, TOKENS[..., None].expand(2, 5, 8)),
        "of the weights, torch.float32, but got torch.int64",
    ),
    "wider decimals": (lambda m: m(TOKENS, SCALES.double()), "but got torch.float64"),
    "a number": (lambda m: m(TOKENS, 2.0), "'scales' must be a tensor, but got float"),
    "another default": (
        lambda m: m(TOKENS, SCALES, gain=2.0),
        "'gain' must be 1.0, its default when the model was traced, but got 2.0",
    ),
    "another type": (lambda m: m(TOKENS, SCALES, gain=1), "'gain' must be 1.0.* but got 1:"),
    "another list": (lambda m: m(TOKENS, SCALES, sizes=[1, 2]), r"'sizes' must be \(1, 2\)"),
    "a tensor for none": (
        lambda m: m(TOKENS, SCALES, SCALES),
        "'mask' must be None.* but got a tensor: trace the dense model with",
    ),
    "too few": (lambda m: m(TOKENS), "missing a required argument: 'scales'"),
    "an unknown name": (lambda m: m(TOKENS, SCALES, labels=TOKENS), "unexpected keyword"),
    "too many": (lambda m: m(*[TOKENS] * 4), r"the call must fit forward\(tokens, scales, mask"),
}


@pytest.mark.parametrize("name", OTHER_CALLS)
def test_another_call_than_the_traced_one_is_refused(text: nn.Module, name: str) -> None:
    call, message = OTHER_CALLS[name]
    with pytest.raises(InputError, match=message):
        call(text)


def test_arguments_that_are_gathered_must_be_as_many_as_were_traced(several: nn.Module) -> None:
    x = torch.rand(3, 5, 8)
    assert several(x, x, x).shape == (3, 3)
    for args, named in (((x, x), {}), ((x,) * 4, {}), ((x,) * 3, {"more": x}), ((), {"x": x})):
        with pytest.raises(InputError, match=r"tensors for x, rest\[0\], rest\[1\], but got"):
            several(*args, **named)


def test_a_tensor_that_was_traced_for_an_option_must_be_given() -> None:
    pruned = halved(traced(Text(), TOKENS, SCALES, SCALES))
    assert pruned(TOKENS, SCALES, mask=SCALES).shape == (2, 3)
    with pytest.raises(InputError, match="but got 0 for 'mask'"):
        pruned(TOKENS, SCALES)
    with pytest.raises(InputError, match="'mask' must be a tensor, but got NoneType"):
        pruned(TOKENS, SCALES, None)


def test_decimal_inputs_follow_the_weights_and_autocast(text: nn.Module) -> None:
    wide = copy.deepcopy(text).double()
    assert wide(TOKENS, SCALES.double()).dtype is torch.float64
    with pytest.raises(InputError, match="of the weights, torch.float64, but got torch.float32"):
        wide(TOKENS, SCALES)
    with torch.autocast("cpu", torch.bfloat16):
        assert text(TOKENS, SCALES.bfloat16()).shape == (2, 3)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_copies_and_pickles_are_called_alike(text: nn.Module) -> None:
    wanted = text(TOKENS, SCALES)
    for again in (pickle.loads(pickle.dumps(copy.deepcopy(text))), copy.copy(text)):
        assert isinstance(again, PrunedGraph)
        assert torch.equal(again(scales=SCALES, tokens=TOKENS), wanted)
        with pytest.raises(InputError, match="'gain' must be 1.0"):
            again(TOKENS, SCALES, gain=2.0)


def test_it_exports_by_the_names_of_its_arguments(text: nn.Module) -> None:
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(
        text, (TOKENS,), {"scales": SCALES}, dynamic_shapes={"tokens": batch, "scales": batch}
    )
    tokens, scales = TOKENS.repeat(3, 1), SCALES.repeat(3, 1, 1)
    torch.testing.assert_close(program.module()(tokens, scales=scales), text(tokens, scales))


def test_an_export_for_other_sizes_is_refused(text: nn.Module) -> None:
    with pytest.raises(InputError, match=r"the traced shape \(batch, 5\)"):
        torch.export.export(text, (TOKENS[:, :3], SCALES[:, :3]))


def test_a_number_of_examples_that_became_a_constant_is_refused_by_name() -> None:
    graph = traced(Counting(), torch.rand(2, 5, 8))
    pruned = halved(graph)
    assert pruned(torch.rand(2, 5, 8)).shape == (2, 3)
    for count in (1, 3):
        with pytest.raises(InputError, match=r"\(2, 5, 8\), but got .* number of examples"):
            pruned(torch.rand(count, 5, 8))
    with pytest.raises(SkeletonError, match=r"'x' must have the traced shape \(2, 5, 8\)"):
        export_onnx(pruned, graph.example_inputs)


@pytest.mark.parametrize(
    ("limit", "right", "wrong", "allowed"),
    [
        (lambda count: count < 4, (1, 2, 3), (4, 9), "1 to 3 examples"),
        (lambda count: count > 1, (2, 3, 9), (1,), "2 or more examples"),
        (lambda count: count % 2 == 0, (2,), (1, 3, 4), "2 examples"),
        (lambda count: count > 0, (1, 2, 9), (), ""),
    ],
)
def test_numbers_of_examples_for_which_the_model_decides_otherwise_are_refused(
    limit: Callable[[int], bool], right: tuple[int, ...], wrong: tuple[int, ...], allowed: str
) -> None:
    graph = traced(Deciding(limit), torch.rand(2, 8))
    (block,) = graph.removable
    pruned = prune(graph.model, graph, Plan({**graph.dense_plan().kept, block.name: ()}))
    without = copy.deepcopy(graph.model)
    nn.init.zeros_(without.get_parameter("branch.2.weight"))
    nn.init.zeros_(without.get_parameter("branch.2.bias"))
    for count in right:
        x = torch.rand(count, 8)
        torch.testing.assert_close(pruned(x), without(x))
    for count in wrong:
        with pytest.raises(InputError, match=f"'x' must hold {allowed}, but got {count}"):
            pruned(torch.rand(count, 8))


class Quiet(nn.Module):
    """Decides by the number of examples, and makes nothing of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.abs() * 2 if x.shape[0] == 1 else x)
        made: Tensor = x + self.branch(x)
        return made


def test_a_loaded_model_takes_the_numbers_of_examples_that_were_found(tmp_path: Path) -> None:
    graph = traced(Quiet(), torch.randn(2, 8))
    (block,) = graph.removable
    plan = Plan({**graph.dense_plan().kept, block.name: ()})
    pruned = prune(graph.model, graph, plan)
    (tmp_path / "plan.json").write_text(json.dumps(plan_document(graph.model, graph, plan)))
    save_file(pruned.state_dict(), tmp_path / "model.safetensors")
    loaded = load_pruned(Quiet(), tmp_path / "plan.json", tmp_path / "model.safetensors")
    for each in (pruned, loaded):
        with pytest.raises(InputError, match="'x' must hold 2 or more examples, but got 1"):
            each(torch.randn(1, 8))


def test_inputs_without_a_batch_keep_their_shape_in_onnx() -> None:
    graph = traced(Doubling(), torch.rand(3, 5, 8), torch.rand(5, 8))
    pruned = halved(graph)
    assert pruned(torch.rand(4, 5, 8), torch.rand(5, 8)).shape == (4, 3)
    proto = onnx.load_from_string(export_onnx(pruned, graph.example_inputs, batch_size=4))
    shapes = [each.type.tensor_type.shape.dim for each in proto.graph.input]
    assert [[dim.dim_value for dim in dims] for dims in shapes] == [[4, 5, 8], [5, 8]]
    with pytest.raises(InputError, match=r"'table' must have the traced shape \(5, 8\)"):
        pruned(torch.rand(4, 5, 8), torch.rand(4, 5, 8))


class Labelled(Heads):
    """Its annotations and defaults cannot be pickled."""

    def forward(self, x: Unknown, then: Any = lambda x: x) -> Tensor:  # type: ignore[name-defined]  # noqa: F821
        out: Tensor = then(self.mixed(x))
        return out


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_defaults_that_cannot_be_kept_must_be_left_out() -> None:
    x = torch.rand(2, 5, 8)
    pruned = pickle.loads(pickle.dumps(halved(traced(Labelled(), x))))
    assert pruned(x=x).shape == (2, 3)
    with pytest.raises(InputError, match="'then' must be <function"):
        pruned(x, then=len)
