"""Skeletons: a candidate's ONNX graph without weights. See `factory` and `export`."""

from search.skeleton.export import export_onnx
from search.skeleton.factory import SkeletonFactory, operators, skeleton
from search.skeleton.weightless import FILL, Skeleton, weightless

__all__ = [
    "FILL",
    "Skeleton",
    "SkeletonFactory",
    "export_onnx",
    "operators",
    "skeleton",
    "weightless",
]
