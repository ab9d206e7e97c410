"""ONNX out: the file of a pruned model, with the interface of what came in. See `delivery`."""

from search.onnx_out.delivered import Delivered
from search.onnx_out.delivery import deliver
from search.onnx_out.interface import Interface
from search.onnx_out.quantized import deliver_quantized, exact_file, file_accuracy

__all__ = [
    "Delivered",
    "Interface",
    "deliver",
    "deliver_quantized",
    "exact_file",
    "file_accuracy",
]
