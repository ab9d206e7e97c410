"""The parameters on which a trial runs: drawn by a seed, and smaller where their last bit decides
the outputs. It knows no trial.
"""

from __future__ import annotations

from torch import nn

from search.graph.verification.redraw import redraw

# Weights whose last bit decides the outputs are drawn anew, smaller by this factor. Once is enough
# for forty layers of sines (`Folding` in the tests), of which more than ten groups freeze without;
# networks as deep as EfficientNetV2-L froze before there was a rescaling. That three are enough
# for every network is not known.
RESCALING = 0.7
MOST_RESCALINGS = 3


class Draw:
    """A draw of the parameters of a `double_copy`, made when it is needed first.

    Args:
        seed: of the parameters; trials draw their plan by it too.
        scale: of the weights, see `redraw`.
        rescalings_left: how often it may be made smaller.

    Attributes:
        scale: smaller than at first where the draw was rescaled.
        rescalings_left: how often it may still be made smaller.
    """

    def __init__(
        self, seed: int, scale: float = 1.0, rescalings_left: int = MOST_RESCALINGS
    ) -> None:
        self.seed = seed
        self.scale = scale
        self.rescalings_left = rescalings_left
        self._is_applied = False

    def apply(self, model: nn.Module) -> None:
        """Draw the parameters of `model`, unless that was done before."""
        if not self._is_applied:
            redraw(model, self.seed, self.scale)
            self._is_applied = True

    def rescale(self, model: nn.Module) -> None:
        """Draw the weights of `model` anew, smaller."""
        self.rescalings_left -= 1
        self.scale *= RESCALING
        redraw(model, self.seed, self.scale)

    def stop_rescaling(self) -> None:
        """Stay at this scale: where the last bit does not decide, smaller weights are no help."""
        self.rescalings_left = 0
