"""How a device is checked: which model, how often and how carefully it is measured against itself.

Knows no table and no device.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from latency_probes.messages import Settings

BUILT_IN = "resnet20"


class CheckSettings(BaseModel):
    """The measurements of a check, one at a time and each under a lease of its own.

    Attributes:
        screening: How many with the settings that a search ranks candidates with.
        strict: How many with the settings that finalists are measured with.
        replicates: Of each strict one.
        every_s: Seconds from the start of one to the start of the next, at least: what happens
            on a device within minutes is part of what is looked for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    screening: Annotated[int, Field(ge=2, le=24)] = 12
    strict: Annotated[int, Field(ge=1, le=8)] = 2
    replicates: Annotated[int, Field(ge=2, le=32)] = 12
    every_s: Annotated[float, Field(ge=0, le=3600)] = 8.0

    @classmethod
    def quick(cls) -> Self:
        """Half as many measurements, without pauses."""
        return cls(screening=5, strict=1, replicates=6, every_s=0.0)

    def trials(self) -> tuple[tuple[str, Settings], ...]:
        """Purpose and settings of each measurement, in their order; strict ones lie between and
        after equal shares of the others."""
        planned: list[tuple[str, Settings]] = []
        for index in range(self.screening):
            planned.append((f"screening:{index}", Settings.screening(seed=index)))
            first, last = (each * self.strict // self.screening for each in (index, index + 1))
            planned += [self._strict(number) for number in range(first, last)]
        return tuple(planned)

    def _strict(self, number: int) -> tuple[str, Settings]:
        count = {"replicates": self.replicates, "max_replicates": self.replicates}
        return f"strict:{number}", Settings.strict(seed=number).model_copy(update=count)


def built_in() -> tuple[str, bytes]:
    """The digest and the ONNX bytes of the model that comes with the package: the dense skeleton
    of ResNet-20 (He et al. 2015) on one 28×28 image, 0.2 to 20 ms on most devices."""
    model = files("jobs").joinpath(f"{BUILT_IN}.onnx").read_bytes()
    return hashlib.sha256(model).hexdigest(), model
