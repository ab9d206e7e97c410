"""Latency probes: time models on the device that will run them. Imports nothing until asked, since
the measuring child pays for every import once per replicate."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latency_probes.local import LocalProbe

__all__ = ["LocalProbe"]


def __getattr__(name: str) -> Any:
    if name == "LocalProbe":
        from latency_probes.local import LocalProbe

        return LocalProbe
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
