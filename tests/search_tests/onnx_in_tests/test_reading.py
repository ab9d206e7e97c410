"""What cannot be run is refused before anything of it is run, and the reason is said."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from search.errors import OnnxError
from search.onnx_in import from_onnx
from tests.search_tests.onnx_in_tests.graphs import model, noise

X = noise(2, 3, 4, 4)


def small() -> ModelProto:
    """A convolution and an activation."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="first"),
        helper.make_node("Relu", ["c"], ["y"], name="second"),
    ]
    return model(nodes, {"x": X}, {"w": noise(4, 3, 3, 3)})


def replaced_weight(proto: ModelProto, tensor: TensorProto) -> None:
    tensor.name = "w"
    proto.graph.initializer[0].CopyFrom(tensor)


def external(proto: ModelProto) -> None:
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def custom(proto: ModelProto) -> None:
    proto.graph.node[1].domain = "com.microsoft"


def unknown(proto: ModelProto) -> None:
    proto.graph.node[1].op_type = "NonZero"


def quantized(proto: ModelProto) -> None:
    proto.graph.node[1].op_type = "QLinearConv"


def control_flow(proto: ModelProto) -> None:
    proto.graph.node[1].op_type = "If"


def double_weights(proto: ModelProto) -> None:
    replaced_weight(proto, numpy_helper.from_array(np.zeros((4, 3, 3, 3))))


def short_weights(proto: ModelProto) -> None:
    proto.graph.initializer[0].raw_data = b"\0" * 10


def enormous_weights(proto: ModelProto) -> None:
    proto.graph.initializer[0].dims[0] = 2**40


def negative_weights(proto: ModelProto) -> None:
    proto.graph.initializer[0].dims[0] = -4


def wrong_weights(proto: ModelProto) -> None:
    replaced_weight(proto, numpy_helper.from_array(noise(4, 5, 3, 3)))


def cycle(proto: ModelProto) -> None:
    proto.graph.node[0].input[0] = "y"


def missing(proto: ModelProto) -> None:
    proto.graph.node[0].input[0] = "nowhere"


def duplicate(proto: ModelProto) -> None:
    proto.graph.node[0].output[0] = "y"


def no_output(proto: ModelProto) -> None:
    del proto.graph.output[:]


def constant_output(proto: ModelProto) -> None:
    proto.graph.output[0].name = "w"


def old(proto: ModelProto) -> None:
    proto.opset_import[0].version = 6


def new(proto: ModelProto) -> None:
    proto.opset_import[0].version = 26


def function(proto: ModelProto) -> None:
    """One that calls itself."""
    made = proto.functions.add(name="block", domain="own")
    made.node.add(op_type="block", domain="own")


def training(proto: ModelProto) -> None:
    proto.training_info.add()


def free_height(proto: ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "h"


def negative_input(proto: ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = -3


def double_input(proto: ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def quantized_input(proto: ModelProto) -> None:
    """Before its weights, which are bytes, are met."""
    replaced_weight(proto, numpy_helper.from_array(np.zeros((4, 40, 3, 3), np.uint8)))
    proto.graph.node[1].op_type, proto.graph.node[1].domain = "QLinearAdd", "com.microsoft"


def bomb(proto: ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.array([10**6] * 3), "shape"))
    made = helper.make_node("ConstantOfShape", ["shape"], ["big"], name="bomb")
    proto.graph.node.append(made)
    proto.graph.output[0].name = "big"


def mixed_examples(proto: ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    proto.graph.node[1].op_type = "Softmax"
    proto.graph.node[1].attribute.append(helper.make_attribute("axis", 0))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (bomb, "constants must be smaller"),
        (constant_output, "outputs must depend on inputs"),
        (control_flow, "control flow cannot be pruned, but the model has If node 'second'"),
        (custom, "custom operators cannot be run, but Relu node 'second' is of 'com.microsoft'"),
        (cycle, "must not have cycles"),
        (double_weights, "weights must be float32 or float16, but 'w' is double"),
        (duplicate, "'y' is made twice"),
        (enormous_weights, "'w' must be smaller"),
        (external, "'w' lies in another file"),
        (free_height, "only the batch of input 'x' may be free"),
        (double_input, "input 'x' must be float32, float16, int32, int64, uint8 or bool"),
        (function, "functions must not call themselves, but 'block' does"),
        (missing, "'nowhere' is read, but nothing makes it"),
        (mixed_examples, "holds for batches of 2 only"),
        (negative_input, "input 'x' must have sizes ≥ 1"),
        (negative_weights, "'w' must have sizes ≥ 0"),
        (new, "the opset must be one from 7 to 25"),
        (no_output, "must have inputs, nodes and outputs"),
        (old, "the opset must be one from 7 to 25"),
        (quantized, "the model is quantized .QLinearConv node 'second'."),
        (quantized_input, "the model is quantized .QLinearAdd node 'second'."),
        (short_weights, "must hold 108 values, but got 2.5"),
        (training, "training information is not read"),
        (unknown, "operator 'NonZero' is not known"),
        (wrong_weights, "Conv node 'first' cannot run"),
    ],
)  # fmt: skip
def test_refusals_say_why(change: Callable[[ModelProto], None], reason: str) -> None:
    proto = small()
    change(proto)
    with pytest.raises(OnnxError, match=reason):
        from_onnx(proto.SerializeToString())


@pytest.mark.parametrize("data", [b"", b"\x08\x08\x12", b"PK\x03\x04" * 9, b"no model at all"])
def test_bytes_that_are_no_model_are_refused(data: bytes) -> None:
    with pytest.raises(OnnxError, match="must be a"):
        from_onnx(data)


def test_a_truncated_file_is_refused() -> None:
    data = small().SerializeToString()
    for length in range(1, len(data), 23):
        with pytest.raises(OnnxError):
            from_onnx(data[:length])


def test_sizes_that_are_open_can_be_given() -> None:
    proto = small()
    free_height(proto)
    assert from_onnx(proto, input_shapes=[(3, 4, 4)]).inputs[0].shape == (None, 3, 4, 4)
    with pytest.raises(OnnxError, match="must have shape"):
        from_onnx(proto, input_shapes=[(4, 4, 4)])


def test_nodes_may_come_in_any_order() -> None:
    proto = small()
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    assert len(list(from_onnx(proto).children())) == 2
