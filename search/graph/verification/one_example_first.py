"""On how many examples a trial runs: one where that is enough, for it costs half as much as two.

It knows inputs and problems, neither models nor groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from torch import Tensor

Inputs: TypeAlias = Sequence[Tensor]
FindProblem: TypeAlias = Callable[[Inputs], str | None]


class OneExampleFirst:
    """Tries one example; what goes wrong with it is tried with two, until both have failed once.

    A graph that was exported for two examples may have no sizes for one, and Python may decide by
    the number of examples: then a failure with one shows nothing, and two are tried from then on.

    Args:
        one: the inputs with one example; None to use two from the beginning.
        two: the inputs with two examples.
        is_like_export: whether the dense model computes on some inputs what was exported; it is
            called with `one` at most once.

    Attributes:
        uses_one: one example is still tried.
        one_suffices: what fails with one example is not tried with two any more.
    """

    def __init__(
        self, one: Inputs | None, two: Inputs, is_like_export: Callable[[Inputs], bool]
    ) -> None:
        self._one, self._two = one, two
        self._is_like_export = is_like_export
        self.uses_one = one is not None
        self.one_suffices = False

    def problem(self, find: FindProblem, describe: Callable[[Exception], str]) -> str | None:
        """What goes wrong; None if nothing does.

        Args:
            find: finds the problem with some inputs.
            describe: puts what `find` raises with two examples into words.
        """
        if self._one is None or not self.uses_one:
            return self._problem_with_two(find, describe)
        try:
            with_one = find(self._one)
        except Exception:  # whatever the forward of a user's module raises
            self.uses_one = False
            return self._problem_with_two(find, describe)
        if with_one is None or self.one_suffices:
            return with_one
        with_two = self._problem_with_two(find, describe)
        self.one_suffices = with_two is not None and self._is_like_export(self._one)
        self.uses_one = self.one_suffices
        return with_two

    def _problem_with_two(
        self, find: FindProblem, describe: Callable[[Exception], str]
    ) -> str | None:
        try:
            return find(self._two)
        except Exception as error:  # whatever the forward of a user's module raises
            return describe(error)
