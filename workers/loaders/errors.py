"""What loading a user's model or data set can refuse, in words that say what to change.

LoadError
├── ArchitectureError   the network cannot be built
├── WeightsError        the weights do not fit it
├── OnnxFileError       the ONNX file cannot become a network
├── DatasetError        the data set cannot be read or does not hold what it should
└── CheckError          the check itself never comes to an end
"""

from __future__ import annotations

from typing import Any


class LoadError(Exception):
    """Base of all; `errors` lists single findings where there are several."""

    title = "The upload cannot be used"

    def __init__(self, detail: str, errors: list[dict[str, Any]] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors or []

    def problem(self) -> dict[str, Any]:
        """The problem document (RFC 9457) that the API shows for it."""
        document: dict[str, Any] = {
            "type": f"urn:secateur:problem:{type(self).__name__}",
            "title": self.title,
            "status": 422,
            "detail": self.detail,
        }
        if self.errors:
            document["errors"] = self.errors
        return document


class ArchitectureError(LoadError):
    """The named architecture is unknown, not allowed, or fails while it is built."""

    title = "The architecture cannot be built"


class WeightsError(LoadError):
    """Names, shapes or values of the weights do not fit the architecture."""

    title = "The weights do not fit the architecture"


class OnnxFileError(LoadError):
    """An ONNX file that is damaged, or holds what cannot be run or pruned."""

    title = "The ONNX file cannot be used"


class DatasetError(LoadError):
    """The data set has no images, labels out of range, or files that cannot be read."""

    title = "The data set cannot be used"


class CheckError(LoadError):
    """The workers that check the upload die, or fail, each time."""

    title = "The upload cannot be checked"
