"""Whether products of unsigned and signed bytes are added exactly on this machine."""

import numpy as np

from latency_probes import machine

_EXACT = frozenset(("avx512_vnni", "avx_vnni", "amx_int8", "neon", "asimd", "dotprod"))
_DEPTH = 64


def exact_u8s8() -> bool:
    """Asks ONNX Runtime for the largest sums that there are."""
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper

    weight = onnx.numpy_helper.from_array(np.full((_DEPTH, 16), 127, np.int8), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "largest sums",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [16, _DEPTH])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [16, 16])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.full((16, _DEPTH), 255, np.uint8)})
    return bool((found == 255 * 127 * _DEPTH).all())


def adds_exactly() -> bool:
    """Whether the processor has instructions for it."""
    return bool(_EXACT & set(machine.read(()).get("isa") or ()))
