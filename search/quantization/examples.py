"""The examples on which integers are chosen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from search.errors import QuantizationError

OBSERVED = 128  # examples


def first_examples(batches: Iterable[Tensor], count: int = OBSERVED) -> Iterator[Tensor]:
    """Batches of the first `count` examples.

    Raises:
        QuantizationError: there is none.
    """
    left = count
    for inputs in batches:
        if left <= 0:
            return
        part = inputs[:left]
        left -= len(part)
        if len(part):
            yield part
    if left == count:
        raise QuantizationError("ranges must be observed on at least one example, but got none")
