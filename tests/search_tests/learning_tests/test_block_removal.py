"""Blocks are removed from ONNX graphs: which addition ends them, and what goes with it."""

from __future__ import annotations

import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from search.errors import SkeletonError
from search.skeleton.block_removal import BlockRemoval, find_removals, remove_blocks


def proto(*nodes: onnx.NodeProto, **shapes: list[int]) -> ModelProto:
    """A graph from x0 to y with weights of these shapes."""
    value = helper.make_tensor_value_info
    weights = [
        TensorProto(name=name, dims=dims, data_type=TensorProto.FLOAT)
        for name, dims in shapes.items()
    ]
    ends = [value("x0", TensorProto.FLOAT, [1, 4]), value("y", TensorProto.FLOAT, [1, 4])]
    return helper.make_model(helper.make_graph(nodes, "model", ends[:1], ends[1:], weights))


def node(kind: str, inputs: str, output: str) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output])


BRANCH = (node("Gemm", "x0 w", "a"), node("Relu", "a", "b"), node("Gemm", "b u", "c"))


def test_what_only_the_branch_needs_goes_with_it() -> None:
    model = proto(*BRANCH, node("Add", "c x0", "d"), node("Relu", "d", "y"), w=[4, 3], u=[3, 4])
    removals = find_removals(model, {"block": (12, 12)})
    assert removals == {"block": BlockRemoval(3, 1)}
    left = remove_blocks(model, removals.values()).graph
    assert [(each.op_type, list(each.input)) for each in left.node] == [("Relu", ["x0"])]
    assert not left.initializer


def test_blocks_that_are_alike_come_in_order() -> None:
    first = (node("Gemm", "x0 w", "a"), node("Add", "x0 a", "b"))
    second = (node("Gemm", "b u", "c"), node("Add", "b c", "y"))
    model = proto(*first, *second, w=[4, 4], u=[4, 4])
    removals = find_removals(model, {"p": (16,), "q": (16,)})
    assert removals == {"p": BlockRemoval(1, 0), "q": BlockRemoval(3, 0)}
    left = [remove_blocks(model, [removal]).graph for removal in removals.values()]
    assert [len(graph.node) for graph in left] == [2, 2]


def test_one_block_after_the_other_leaves_the_first_shortcut() -> None:
    first = (node("Gemm", "x0 w", "a"), node("Add", "x0 a", "b"))
    second = (node("Gemm", "b u", "c"), node("Add", "b c", "d"), node("Relu", "d", "y"))
    model = proto(*first, *second, w=[4, 4], u=[4, 4])
    left = remove_blocks(model, [BlockRemoval(1, 0), BlockRemoval(3, 0)]).graph
    assert [(each.op_type, list(each.input)) for each in left.node] == [("Relu", ["x0"])]


@pytest.mark.parametrize("sizes", [(12,), ()])
def test_a_block_without_an_addition_of_its_own(sizes: tuple[int, ...]) -> None:
    model = proto(*BRANCH, node("Add", "c x0", "y"), w=[4, 3], u=[3, 4])
    with pytest.raises(SkeletonError, match="must end in one addition each, but got"):
        find_removals(model, {"block": sizes})


def test_a_norm_that_comes_to_stand_behind_a_layer_becomes_its_bias() -> None:
    model = proto(
        helper.make_node("Gemm", ["x0", "v"], ["s"], transB=1),
        node("Gemm", "s w", "a"),
        node("Add", "s a", "b"),
        node("BatchNormalization", "b g h m s2", "y"),
        v=[4, 4], w=[4, 4], g=[4], h=[4], m=[4], s2=[4],
    )  # fmt: skip
    left = remove_blocks(model, [BlockRemoval(2, 0)]).graph
    assert [(each.op_type, list(each.input)) for each in left.node] == [
        ("Gemm", ["x0", "w0", "w1"])
    ]
    assert [list(tensor.dims) for tensor in left.initializer] == [[4, 4], [4]]
    assert left.output[0].name == left.node[0].output[0]
