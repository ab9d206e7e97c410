"""Every error that search raises on purpose.

SearchError
├── ConfigError      a configuration value that cannot work
├── GraphError       the model cannot be traced
│   ├── ExportError  it runs, but torch.export cannot trace it as a whole
│   └── LateError    the time limit was reached before it was exported
├── PlanError        a plan that is malformed, or does not fit the graph or the model
├── WeightsError     weights that do not fit the pruned model
├── InputError       inputs that a pruned model was not traced with
├── ReplacedError    a module of a pruned graph that was replaced, but is not called
├── CriterionError   an unknown criterion, or one that cannot be computed
├── SkeletonError    an ONNX graph that cannot be exported or derived
├── OnnxError        an ONNX file that cannot become a module
└── ExplorerError    an answer or a state that the explorer does not know
"""

from __future__ import annotations


class SearchError(Exception):
    """Any error of the library that a caller may want to show to a user."""


class ConfigError(SearchError, ValueError):
    """A configuration value that cannot work."""


class GraphError(SearchError):
    """The model cannot be traced."""


class ExportError(GraphError):
    """The model runs, but torch.export cannot trace it as a whole."""


class LateError(GraphError):
    """The time limit was reached before the model was exported."""


class PlanError(SearchError, ValueError):
    """A plan that is malformed, or does not fit the graph or the model."""


class WeightsError(SearchError, ValueError):
    """Weights that do not fit the pruned model."""


class InputError(SearchError, ValueError):
    """Inputs that a pruned model was not traced with; the message names them, and what to do."""


class ReplacedError(SearchError, TypeError):
    """A module of a pruned graph was replaced, but the graph does not call it."""


class CriterionError(SearchError, ValueError):
    """An unknown criterion, or one that cannot be computed."""


class SkeletonError(SearchError):
    """An ONNX graph that cannot be exported or derived."""


class QuantizationError(SearchError, ValueError):
    """A layer, a format or a range that cannot be in int8."""


class OnnxError(SearchError, ValueError):
    """An ONNX file that cannot become a module; the message states what would have to change."""


class ExplorerError(SearchError, ValueError):
    """An answer or a state that the explorer does not know."""


def first_line(error: Exception, longest: int = 300) -> str:
    """The first line of an error's message, or its type where it has none.

    Args:
        error: Any error.
        longest: Characters that are kept of the line.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:longest]
