"""A pruned graph calls its submodules: replaced, hooked, compiled, it is a module like others."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from search.errors import InputError, ReplacedError
from search.graph import trace
from search.graph.native_program import program_of
from search.graph.pruned.calls import with_module_calls
from search.graph.pruned.pickling import Steps
from search.graph.pruned.pruned_graph import Program, PrunedGraph, _empty
from search.plan import Plan
from search.surgery import prune

VECTORS, SIGNALS = torch.randn(2, 8), torch.randn(2, 4, 8)
IMAGES, VOLUMES, TOKENS = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 4, 4, 4), torch.arange(2)
INPUTS = (VECTORS, SIGNALS, IMAGES, VOLUMES, TOKENS)


class Through(nn.Module):
    """One module between a weight and the output."""

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.module = module
        if x.is_floating_point():
            self.gain = nn.Parameter(torch.rand(x.shape[1:]))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.module(x * self.gain if x.is_floating_point() else x)
        return made


def as_graph(model: nn.Module, *inputs: Tensor) -> PrunedGraph:
    """The pruned graph of a model that lost nothing."""
    program, _ = program_of(model.eval(), inputs)
    return whole(program, model)


def whole(program: Program, model: nn.Module) -> PrunedGraph:
    body = copy.deepcopy(model)
    return program.pruned(model, body, torch.ones(program.propagation.atoms).bool().numpy())


LEAVES: list[tuple[nn.Module, Tensor]] = [
    (nn.Linear(8, 3), VECTORS),
    (nn.Linear(8, 3, bias=False), SIGNALS),
    (nn.Conv1d(4, 6, 3, stride=2, padding=1), SIGNALS),
    (nn.Conv2d(4, 6, 3, padding="same", groups=2, bias=False), IMAGES),
    (nn.Conv3d(4, 6, (1, 2, 3), dilation=(1, 2, 1)), VOLUMES),
    (nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1), SIGNALS),
    (nn.ConvTranspose2d(4, 6, 2, 2), IMAGES),
    (nn.ConvTranspose3d(4, 6, 2, 2), VOLUMES),
    (nn.BatchNorm1d(8, momentum=None), VECTORS),
    (nn.BatchNorm2d(4, eps=1e-3), IMAGES),
    (nn.BatchNorm3d(4, affine=False), VOLUMES),
    (nn.BatchNorm2d(4, track_running_stats=False), IMAGES),
    (nn.InstanceNorm2d(4), IMAGES),
    (nn.InstanceNorm1d(4, affine=True, track_running_stats=True), SIGNALS),
    (nn.LayerNorm(8), SIGNALS),
    (nn.LayerNorm([4, 8], elementwise_affine=False), SIGNALS),
    (nn.RMSNorm(8), SIGNALS),
    (nn.GroupNorm(2, 4), IMAGES),
    (nn.Embedding(5, 3), TOKENS),
    (nn.Embedding(5, 3, padding_idx=0), TOKENS),
    (nn.PReLU(4), IMAGES),
    (nn.Dropout(0.3), VECTORS),
    (nn.Dropout(0.3, inplace=True), VECTORS),
    (nn.Dropout1d(), SIGNALS),
    (nn.Dropout2d(), IMAGES),
    (nn.Dropout3d(), VOLUMES),
    (nn.AlphaDropout(), VECTORS),
    (nn.FeatureAlphaDropout(), IMAGES),
    (nn.ReLU(), VECTORS),
    (nn.ReLU(inplace=True), VECTORS),
    (nn.ReLU6(), VECTORS),
    (nn.SiLU(), VECTORS),
    (nn.Mish(), VECTORS),
    (nn.SELU(), VECTORS),
    (nn.Hardswish(), VECTORS),
    (nn.Hardsigmoid(), VECTORS),
    (nn.Sigmoid(), VECTORS),
    (nn.LogSigmoid(), VECTORS),
    (nn.Tanh(), VECTORS),
    (nn.GELU(), VECTORS),
    (nn.GELU(approximate="tanh"), VECTORS),
    (nn.ELU(0.5), VECTORS),
    (nn.CELU(0.5), VECTORS),
    (nn.GLU(1), VECTORS),
    (nn.LeakyReLU(0.2), VECTORS),
    (nn.Hardtanh(-2.0, 2.0), VECTORS),
    (nn.Softplus(2.0), VECTORS),
    (nn.Softmax(-1), VECTORS),
    (nn.LogSoftmax(1), VECTORS),
    (nn.MaxPool1d(2), SIGNALS),
    (nn.MaxPool2d(3, 2, 1), IMAGES),
    (nn.MaxPool3d(2, ceil_mode=True), VOLUMES),
    (nn.AvgPool1d(2), SIGNALS),
    (nn.AvgPool2d(3, 1, 1, count_include_pad=False), IMAGES),
    (nn.AvgPool3d(2), VOLUMES),
    (nn.AdaptiveAvgPool1d(2), SIGNALS),
    (nn.AdaptiveAvgPool2d((2, 3)), IMAGES),
    (nn.AdaptiveAvgPool3d(1), VOLUMES),
    (nn.Flatten(), IMAGES),
    (nn.PixelShuffle(2), IMAGES),
]


class Leaves(nn.Module):
    """Every leaf beside the others, so that one export is enough for all."""

    def __init__(self) -> None:
        super().__init__()
        self.through = nn.ModuleList(Through(module, x) for module, x in LEAVES)

    def forward(
        self, vectors: Tensor, signals: Tensor, images: Tensor, volumes: Tensor, tokens: Tensor
    ) -> tuple[Tensor, ...]:
        given = (vectors, signals, images, volumes, tokens)
        return tuple(
            through(given[next(n for n, each in enumerate(INPUTS) if each is x)])
            for through, (_, x) in zip(self.through, LEAVES, strict=True)
        )


@dataclass(frozen=True)
class Run:
    """What the leaves and their graph made, in use and then in training."""

    model: nn.Module
    pruned: PrunedGraph
    used: tuple[tuple[Tensor, ...], ...]
    trained: tuple[tuple[Tensor, ...], ...]


@pytest.fixture(scope="module")
def run() -> Run:
    model = Leaves().eval()
    pruned = as_graph(model, *INPUTS)
    both = (pruned, model)
    used = tuple(each(*INPUTS) for each in both)
    trained = []
    for each in both:
        torch.manual_seed(0)
        trained.append(each.train()(*INPUTS))
    return Run(model, pruned, used, tuple(trained))


@pytest.mark.parametrize("place", range(len(LEAVES)), ids=[str(leaf) for leaf, _ in LEAVES])
def test_the_operator_of_a_module_of_torch_nn_is_its_call(run: Run, place: int) -> None:
    assert f"through.{place}.module" in run.pruned.called
    for pruned, model in (run.used, run.trained):
        assert torch.equal(pruned[place], model[place])
    for name, buffer in run.model.named_buffers():
        if name.startswith(f"through.{place}."):
            assert torch.equal(run.pruned.get_buffer(name), buffer), name


def test_no_more_is_called(run: Run) -> None:
    assert len(run.pruned.called) == len(LEAVES)


class Conv1D(nn.Module):
    """The linear layer of transformers' GPT models, as it is written there."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        sizes = (*x.size()[:-1], self.nf)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(sizes)


Conv1D.__module__ = "transformers.pytorch_utils"


def test_the_linear_layer_of_gpt_models_is_called_and_keeps_its_class() -> None:
    model = nn.Sequential(Conv1D(6, 8), nn.GELU(), Conv1D(3, 6)).eval()
    pruned = as_graph(model, SIGNALS)
    assert pruned.called == {"0", "1", "2"}
    assert torch.equal(pruned(SIGNALS), model(SIGNALS))
    graph = trace(model, (SIGNALS,))
    (group,) = graph.prunable
    assert group.form == "module"
    smaller = prune(model, graph, Plan({**graph.dense_plan().kept, group.name: (0, 4)}))
    assert (smaller[0].nf, smaller[2].nx) == (2, 2)  # type: ignore[index]
    assert smaller(SIGNALS).shape == (2, 4, 3)


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias) * 2


class Twice(nn.Linear):
    """Its weight is not read as it is."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight * 2, self.bias)


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda _, __, made: made + 1)
    return module


def patched(module: nn.Linear) -> nn.Module:
    module.forward = lambda x: functional.linear(x, module.weight)  # type: ignore[assignment,method-assign]
    return module


OTHERS: list[tuple[str, Callable[[], nn.Module], Tensor]] = [
    ("another forward", lambda: Scaled(8, 8), VECTORS),
    ("another weight", lambda: Twice(8, 8), VECTORS),
    ("a hook that was traced", lambda: hooked(nn.Linear(8, 8)), VECTORS),
    ("a forward of its own", lambda: patched(nn.Linear(8, 8)), VECTORS),
    ("padding by values", lambda: nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular"), SIGNALS),
    ("an inferred dimension", lambda: nn.Softmax(None), VECTORS),
    ("sizes of the input", lambda: nn.AdaptiveAvgPool2d((2, None)), IMAGES),
    ("another class", lambda: nn.ModuleList([nn.ReLU()])[0].apply(_renamed), VECTORS),
]


def _renamed(module: nn.Module) -> None:
    module.__class__ = type("Own", (nn.ReLU,), {"forward": lambda self, x: x.relu()})


@pytest.mark.parametrize(("name", "make", "x"), OTHERS, ids=[name for name, *_ in OTHERS])
@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
def test_a_module_that_may_compute_something_else_is_not_called(
    name: str, make: Callable[[], nn.Module], x: Tensor
) -> None:
    model = Through(make(), x).eval()
    pruned = as_graph(model, x)
    assert not pruned.called, name
    assert torch.equal(pruned(x), model(x))


class Small(nn.Module):
    """Modules that are called, one of them twice, and tensors that operators read."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 8)
        self.body = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.GELU())
        self.own = Scaled(8, 8)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        x = self.norm(self.own(self.body(self.body(self.words(tokens))).mean(1)))
        return {"logits": functional.linear(x, self.words.weight)}


ROWS = torch.arange(10).view(2, 5)
CALLED = {"words", "body.0", "body.1", "body.2", "norm"}


@pytest.fixture(scope="module")
def exported() -> tuple[Program, nn.Module]:
    torch.manual_seed(0)
    model = Small().eval()
    return program_of(model, (ROWS,))[0], model


@pytest.fixture
def small(exported: tuple[Program, nn.Module]) -> PrunedGraph:
    return whole(*exported)


class Adapter(nn.Module):
    """What libraries of adapters put in the place of a linear layer."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down, self.up = nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.base(x) + self.up(self.down(x))
        return made


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_what_replaces_a_module_takes_effect_and_gets_gradients(small: PrunedGraph) -> None:
    before = small(ROWS)["logits"]
    adapter = Adapter(small.get_submodule("body.0"))
    small.set_submodule("body.0", adapter)
    logits = small(ROWS)["logits"]
    assert not torch.equal(logits, before)
    logits.square().sum().backward()
    for layer in (adapter.down, adapter.up):
        assert layer.weight.grad is not None
        assert layer.weight.grad.any()
    again = pickle.loads(pickle.dumps(copy.deepcopy(small)))
    assert torch.equal(again(ROWS)["logits"], logits)


def test_hooks_run_as_often_as_the_module_was_called(small: PrunedGraph) -> None:
    seen: list[str] = []
    assert small.called == CALLED
    for name in CALLED:
        hook: Any = lambda *_, name=name: seen.append(name)  # noqa: E731
        small.get_submodule(name).register_forward_hook(hook)
    small(ROWS)
    assert seen == ["words", *["body.0", "body.1", "body.2"] * 2, "norm"]


def test_a_module_that_is_not_called_must_not_be_replaced(small: PrunedGraph) -> None:
    small.own = nn.Linear(8, 8)
    with pytest.raises(ReplacedError, match="'own' must be a Scaled, but got Linear: .*nothing"):
        small(ROWS)
    small.own = Scaled(8, 8)
    assert small(ROWS)["logits"].shape == (2, 10)
    small.body = nn.ModuleList(small.get_submodule("body").children())
    with pytest.raises(ReplacedError, match="'body' must be a Sequential, but got ModuleList"):
        small(ROWS)


def test_hooks_of_a_module_that_is_not_called_give_a_warning(small: PrunedGraph) -> None:
    small.get_submodule("body").register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match="does not call 'body', so hooks of it do nothing"):
        small(ROWS)


def test_hooks_that_were_traced_give_none(recwarn: pytest.WarningsRecorder) -> None:
    as_graph(Through(hooked(Scaled(8, 8)), VECTORS), VECTORS)(VECTORS)
    assert not [each for each in recwarn if "do nothing" in str(each.message)]


class Half(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def test_parametrized_tensors_are_read_wherever_they_are(small: PrunedGraph) -> None:
    before = small(ROWS)["logits"]
    for name in ("own", "body.0"):
        parametrize.register_parametrization(small.get_submodule(name), "weight", Half())
        after = small(ROWS)["logits"]
        assert not torch.allclose(after, before)
        before = after


def test_it_is_compiled_whole(small: PrunedGraph) -> None:
    compiled = torch.compile(small, backend="eager", fullgraph=True)
    for rows in (ROWS, ROWS.repeat(3, 1)):
        assert torch.equal(compiled(rows)["logits"], small(rows)["logits"])
        assert torch.equal(compiled(tokens=rows)["logits"], small(rows)["logits"])
    training = copy.deepcopy(small).train()
    compiled = torch.compile(training, backend="aot_eager", fullgraph=True)
    compiled(ROWS)["logits"].sum().backward()
    assert all(each.grad is not None for each in training.parameters())
    assert training.get_buffer("norm.num_batches_tracked") == 1


def test_a_compiled_one_refuses_what_was_not_traced(small: PrunedGraph) -> None:
    with pytest.raises(InputError, match=r"the traced shape \(batch, 5\)"):
        torch.compile(small, backend="eager")(ROWS[:, :3])


def test_it_exports_through_dynamo_too(small: PrunedGraph) -> None:
    program = torch.export.export(small, (ROWS,), strict=True)
    torch.testing.assert_close(program.module()(ROWS), small(ROWS))


def test_other_weights_can_be_given_by_a_functional_call(small: PrunedGraph) -> None:
    zeros = {name: torch.zeros_like(each) for name, each in small.named_parameters()}
    assert not torch.func.functional_call(small, zeros, (ROWS,))["logits"].any()


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_pickles_from_before_modules_were_called_still_load(small: PrunedGraph) -> None:
    program, _ = program_of(Small().eval(), (ROWS,))
    exported = program.exported
    state = {key: value for key, value in vars(small).items() if key != "called"}
    for name in ("_kinds", "_hooked", "_opens_levels"):
        del state[name]
    state["_steps"] = Steps(exported.graph_module.graph)
    state["_sources"] = dict(exported.sources)
    state["_owners"] = {"dropout": ("body.1", 0.0), "batch_norm": ("norm", 0.0)}
    old = _empty(exported.signature)
    old.__setstate__(pickle.loads(pickle.dumps(state)))
    assert torch.equal(old(ROWS)["logits"], small(ROWS)["logits"])
    assert old.called == {"words", "body.0", "body.1", "norm"}


def test_an_operator_without_an_owner_is_no_call() -> None:
    program, _ = program_of(Through(nn.ReLU(), VECTORS).eval(), (VECTORS,))
    exported = program.exported
    model = Through(nn.ReLU(), VECTORS)
    made = with_module_calls(exported.graph_module.graph, model, exported.sources, {}, None)
    assert not made.called
