"""Small ONNX graphs made by hand, and what ONNX Runtime says about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

Array = NDArray[Any]
TYPES = {
    "float32": TensorProto.FLOAT,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "bool": TensorProto.BOOL,
}


def noise(*shape: int, seed: int = 0) -> Array:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def model(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Array],
    constants: Mapping[str, Array] | None = None,
    *,
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    batch: str | int = "N",
) -> ModelProto:
    """A model whose inputs have the shapes of the arrays, with a free batch unless told."""
    values = [
        helper.make_tensor_value_info(name, TYPES[str(array.dtype)], [batch, *array.shape[1:]])
        for name, array in inputs.items()
    ]
    results = [helper.make_value_info(name, helper.make_tensor_type_proto(0, None))
               for name in outputs]  # fmt: skip
    for result in results:
        result.ClearField("type")
    tensors = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "g", values, results, tensors)
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def one(
    op: str,
    x: Array,
    *constants: Array | None,
    opset: int = 17,
    outputs: int = 1,
    **attributes: Any,
) -> tuple[ModelProto, list[Array]]:
    """A model of one node `op(x, *constants)`."""
    names = ["x", *("" if c is None else f"c{place}" for place, c in enumerate(constants))]
    held = {f"c{place}": c for place, c in enumerate(constants) if c is not None}
    made = [f"y{place}" for place in range(outputs)]
    node = helper.make_node(op, names, made, **attributes)
    return model([node], {"x": x}, held, outputs=made, opset=opset), [x]


def by_runtime(proto: ModelProto | bytes, inputs: Sequence[Array]) -> list[Array]:
    """What ONNX Runtime computes."""
    data = proto if isinstance(proto, bytes) else proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    found: list[Array] = session.run(None, dict(zip(names, inputs, strict=True)))
    return found


def by_torch(module: torch.nn.Module, inputs: Sequence[Array]) -> list[Array]:
    """What the module computes."""
    with torch.no_grad():
        made = module(*map(torch.from_numpy, inputs))
    return [each.numpy() for each in ((made,) if isinstance(made, Tensor) else made)]


def assert_equal(found: Sequence[Array], wanted: Sequence[Array]) -> None:
    """Equal shapes and types, and values within rel. 1e-4 of the largest."""
    for a, b in zip(found, wanted, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        finite = np.abs(b[np.isfinite(b)]) if b.dtype.kind == "f" else np.abs(b * 1)
        np.testing.assert_allclose(a, b, atol=1e-4 * max(float(finite.max(initial=0)), 1e-6))
