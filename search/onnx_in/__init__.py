"""ONNX in: a float32 ONNX model as a torch module. See `conversion` and `ops.table`."""

from search.onnx_in.conversion import from_onnx, unknown_operators
from search.onnx_in.module import OnnxModule

__all__ = ["OnnxModule", "from_onnx", "unknown_operators"]
