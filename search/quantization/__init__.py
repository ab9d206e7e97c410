"""Quantization: which layers run in int8, where values are rounded, and the torch model and ONNX
file that round alike."""

from search.quantization.formats import FORMATS, Format, format_of
from search.quantization.model import QuantizedModel, graph_form, quantizable_layers
from search.quantization.segmenting import precision_segments

__all__ = [
    "FORMATS",
    "Format",
    "QuantizedModel",
    "format_of",
    "graph_form",
    "precision_segments",
    "quantizable_layers",
]
