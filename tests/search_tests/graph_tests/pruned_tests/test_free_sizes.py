"""A pruned graph takes other sizes of its inputs where the exported graph holds for them."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from search.errors import InputError
from search.graph import PruningGraph, trace
from search.graph.pruned.pruned_graph import PrunedGraph
from search.graph.pruned.size_conditions import SizeConditions, are_plain
from search.loading import load_pruned, plan_document
from search.plan import Plan
from search.surgery import prune


class Text(nn.Module):
    """An encoder whose forward holds the number of its heads, for texts of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 16), nn.Embedding(40, 16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.fc1, self.fc2, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        b, n = tokens.shape
        x = self.words(tokens) + self.places(torch.arange(n, device=tokens.device))
        q, k, v = self.qkv(x).reshape(b, n, 3, 4, 4).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, n, 16))
        x = x + self.fc2(functional.gelu(self.fc1(x)))
        made: Tensor = self.head(x.mean(1))
        return made


class Images(nn.Module):
    """A convolutional network that cuts its channels at a constant, and decides by a size."""

    def __init__(self, small: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 1, 1)
        self.head, self.small = nn.Conv2d(8, 2, 1), small

    def forward(self, x: Tensor) -> Tensor:
        taken = self.small(x)
        a, b = self.body(torch.relu(self.stem(x))).split([8, 4], 1)
        made: Tensor = self.head(a * b.mean(1, keepdim=True))
        return made if taken else made * 2


TOKENS, IMAGE = torch.arange(20).view(2, 10), torch.rand(2, 3, 16, 16)


def cut(graph: PruningGraph, *, free_sizes: bool = True) -> PrunedGraph:
    """Half of every group."""
    kept = {
        group.name: tuple(range(0, group.width, 1 if group.status == "frozen" else 2))
        for group in graph.groups
        if group.kind != "block"
    }
    plan = Plan({**graph.dense_plan().kept, **kept})
    pruned = prune(graph.model, graph, plan, free_sizes=free_sizes)
    assert isinstance(pruned, PrunedGraph)
    return pruned


@pytest.fixture(scope="module")
def text() -> PruningGraph:
    torch.manual_seed(0)
    return trace(Text().eval(), (TOKENS,))


def of_images(small: Callable[[Tensor], bool]) -> PruningGraph:
    torch.manual_seed(0)
    return trace(Images(small).eval(), (IMAGE,))


def without_effect(graph: PruningGraph) -> tuple[nn.Module, Plan]:
    """A model in which half of the heads and of the hidden units add nothing, and the plan that
    takes them."""
    model = copy.deepcopy(graph.model)
    with torch.no_grad():
        model.get_parameter("fc2.weight")[:, 1::2] = 0
        model.get_parameter("out.weight").view(16, 4, 4)[:, 1::2] = 0
    kept = {"fc1": tuple(range(0, 32, 2)), "qkv": (0, 2)}
    return model, Plan({**graph.dense_plan().kept, **kept})


def test_texts_of_any_length_give_what_the_dense_model_gives(text: PruningGraph) -> None:
    model, plan = without_effect(text)
    pruned = prune(model, text, plan)
    assert isinstance(pruned, PrunedGraph)
    for batch, length in ((1, 3), (2, 7), (3, 10), (2, 40)):
        tokens = torch.randint(0, 20, (batch, length))
        torch.testing.assert_close(pruned(tokens), model(tokens))
        torch.testing.assert_close(pruned(tokens=tokens), model(tokens))


def test_images_of_any_size_for_which_the_model_decides_alike() -> None:
    graph = of_images(lambda x: x.shape[2] < 40 and x.shape[3] % 2 == 0)
    pruned = cut(graph)
    for size in ((24, 10), (8, 32), (38, 38)):
        assert pruned.takes(torch.rand(3, 3, *size))
        assert pruned(torch.rand(3, 3, *size)).shape == graph.model(torch.rand(3, 3, *size)).shape
    for size in ((40, 16), (16, 15)):
        assert not pruned.takes(torch.rand(3, 3, *size))
        with pytest.raises(InputError, match=r"the traced shape \(batch, 3, 16, 16\), but got"):
            pruned(torch.rand(3, 3, *size))


def test_sizes_that_a_model_ties_must_be_tied() -> None:
    pruned = cut(of_images(lambda x: x.shape[2] == x.shape[3]))
    assert pruned(torch.rand(1, 3, 20, 20)).shape == (1, 2, 10, 10)
    with pytest.raises(InputError, match="the traced shape"):
        pruned(torch.rand(1, 3, 20, 22))


def test_the_traced_sizes_compute_what_they_did(text: PruningGraph) -> None:
    free, traced = cut(text), cut(text, free_sizes=False)
    assert torch.equal(free(TOKENS), traced(TOKENS))
    assert free.state_dict().keys() == traced.state_dict().keys()
    with pytest.raises(InputError, match=r"the traced shape \(batch, 10\), but got \(2, 4\)"):
        traced(TOKENS[:, :4])


def test_other_dtypes_are_refused_at_every_size(text: PruningGraph) -> None:
    with pytest.raises(InputError, match="that was traced, torch.int64, but got torch.int32"):
        cut(text)(TOKENS[:, :4].int())


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_copies_pickles_and_compiled_ones_take_them_too(text: PruningGraph) -> None:
    pruned, tokens = cut(text), TOKENS[:, :4]
    wanted = pruned(tokens)
    for again in (copy.deepcopy(pruned), pickle.loads(pickle.dumps(pruned))):
        assert torch.equal(again(tokens), wanted)
    compiled = torch.compile(pruned, backend="eager", fullgraph=True)
    for length in (4, 10, 7):
        torch.testing.assert_close(compiled(TOKENS[:, :length]), pruned(TOKENS[:, :length]))


def test_they_train_at_every_size(text: PruningGraph) -> None:
    pruned = cut(text).train()
    pruned(TOKENS[:, :6]).sum().backward()
    assert all(each.grad is not None for each in pruned.parameters())


def test_a_loaded_model_takes_what_the_pruned_one_took(text: PruningGraph, tmp_path: Path) -> None:
    model, plan = without_effect(text)
    document = plan_document(text.model, text, plan)
    assert document["sizes"] == "free"
    (tmp_path / "plan.json").write_text(json.dumps(document))
    pruned = prune(model, text, plan)
    save_file(pruned.state_dict(), tmp_path / "model.safetensors")
    loaded = load_pruned(Text(), tmp_path / "plan.json", tmp_path / "model.safetensors").eval()
    for length in (4, 10, 30):
        tokens = torch.randint(0, 20, (2, length))
        torch.testing.assert_close(loaded(tokens), pruned(tokens))


class Flattened(nn.Module):
    """Its sizes are in its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(4 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.fc(self.conv(x).view(-1, 256))
        return made


class Drawn(Text):
    """It computes something else for texts of other lengths than the traced one, unseen."""

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) * (2 if torch.numel(tokens[0]) == 10 else 1)


@pytest.mark.parametrize("make", [Flattened, Drawn])
def test_a_model_without_other_sizes_keeps_the_traced_ones(make: type[nn.Module]) -> None:
    x = TOKENS if make is Drawn else torch.rand(2, 3, 8, 8)
    graph = trace(make().eval(), (x,))
    assert graph.free_program is None
    pruned = cut(graph)
    with pytest.raises(InputError, match="must have the traced shape"):
        pruned(x[..., :6])


def test_conditions_are_expressions_of_sizes() -> None:
    written = ["L['x'].size()[1] % 2 == 0", "max(1, L['x'].size()[0]) < L['y'].size()[0]"]
    conditions = SizeConditions(written)
    for each in (conditions, pickle.loads(pickle.dumps(conditions)), copy.deepcopy(conditions)):
        assert each.hold({"x": (2, 4), "y": (3,)})
        assert not each.hold({"x": (2, 3), "y": (3,)})
        assert not each.hold({"x": (3, 4), "y": (3,)})
    assert SizeConditions([]).hold({})
    assert are_plain(written)
    rest = ["L['rest'][1].size()[1] == 3"]
    assert are_plain(rest)
    assert SizeConditions(rest).hold({"rest[0]": (1, 2), "rest[1]": (2, 3)})
    assert not are_plain(["L['x'].stride()[1] == 3"])
