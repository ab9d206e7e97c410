"""Makes the trials of a subject. Which of them are run, and when, is up to the verifier."""

from __future__ import annotations

from search.graph.trial_log import TrialLog
from search.graph.verification.comparison import UNLIKE, first_examples
from search.graph.verification.dense_trial import DenseTrial, dense_error
from search.graph.verification.draw import MOST_RESCALINGS, Draw
from search.graph.verification.influence import Influence
from search.graph.verification.masked_reference import MaskedReference
from search.graph.verification.module_vs_graph_trial import ModuleVsGraphTrial
from search.graph.verification.numeric_trial import NumericTrial
from search.graph.verification.one_example_first import Inputs, OneExampleFirst
from search.graph.verification.shape_trial import ShapeTrial
from search.graph.verification.subject import Subject
from search.graph.verification.trial_result import Trial
from search.tensors import named_tensors


class Trials:
    """Makes trials; whoever wants others overrides a method.

    Args:
        log: of all trials.
        rescalings: how often a draw may be rescaled.
    """

    def __init__(self, log: TrialLog, rescalings: int = MOST_RESCALINGS) -> None:
        self.log = log
        self._rescalings = rescalings

    def draw(self, seed: int, scale: float) -> Draw:
        """A draw of the parameters, for one trial."""
        return Draw(seed, scale, self._rescalings)

    def shape(self, subject: Subject) -> ShapeTrial:
        """Whether pruned copies run, as far as shapes show."""
        return ShapeTrial(subject.graph, self.log)

    def numeric(self, subject: Subject, draw: Draw, *, one_first: bool) -> Trial:
        """Whether pruned copies compute what they must.

        Args:
            subject: of the trial.
            draw: of its parameters.
            one_first: whether one example is tried before two.
        """
        reference = self.reference(subject)
        examples = self._examples(subject, one_first=one_first)
        return NumericTrial(subject.graph, draw, examples, self.log, reference)

    def module_vs_graph(self, subject: Subject, draw: Draw) -> Trial:
        """Whether pruned copies of the user's class compute what the pruned graph does."""
        examples = self._examples(subject, one_first=True)
        return ModuleVsGraphTrial(subject.graph, draw, examples, self.log)

    def dense(self, subject: Subject, draw: Draw) -> DenseTrial:
        """What the dense graph depends on, and whether the model repeats it."""
        return DenseTrial(subject.graph, draw, self.reference(subject), self.log)

    def influence(self, subject: Subject) -> Influence:
        """How much groups matter."""
        return Influence(subject, self.log)

    def reference(self, subject: Subject) -> MaskedReference:
        """What pruned copies must compute."""
        tensors = named_tensors(subject.graph.model)
        return MaskedReference(subject.exported, subject.propagation, tensors)

    def _examples(self, subject: Subject, *, one_first: bool) -> OneExampleFirst:
        two = subject.graph.example_inputs
        one = first_examples(subject.graph.dynamic_batch, two) if one_first else None

        def is_like_export(inputs: Inputs) -> bool:
            try:
                return dense_error(subject.graph, self.reference(subject), inputs) <= UNLIKE
            except Exception:  # whatever the forward of a user's module raises
                return False

        return OneExampleFirst(one, two, is_like_export)
