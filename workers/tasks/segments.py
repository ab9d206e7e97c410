"""Finds the layers that may be in int8, in runs that switch together."""

from __future__ import annotations

from search.errors import SearchError
from search.quantization import precision_segments
from workers.library import constraints_of
from workers.results import SegmentFound, Segments
from workers.work import Done, Work


def segments(work: Work) -> Done:
    """Residual blocks and the layers between; none, and why, where the model cannot be rounded."""
    spec = work.snapshot.spec
    factory = work.library.skeletons(work.snapshot.model, batch_size=spec.target.batch_size)
    try:
        found = precision_segments(work.graph, factory.operators(), constraints_of(spec))
    except SearchError as error:
        return Done(Segments(segments=(), problem=str(error)).document())
    problem = "" if found else "no layer of the model can be in int8"
    listed = tuple(
        SegmentFound(name=each.name, layers=each.layers, shares=dict(each.shares))
        for each in found
    )
    return Done(Segments(segments=listed, problem=problem).document())
