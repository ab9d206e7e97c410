"""Reads a data set once, in a child process that can be killed, and says what is in it.

    python -m workers.data_inspection < request.json > answer.json

The request is a `DataInspection`; the answer is {"info": …} or {"problem": …}. No torch.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from jobs.data_roots import DataRoots
from jobs.spec import DatasetSpec
from workers.child import STUMBLED, Limits, run_in_child
from workers.loaders.errors import DatasetError, LoadError
from workers.loaders.sizes import MAX_BYTES
from workers.loaders.sources import ArraySource, Upload
from workers.retrying import ending_if_passing, is_passing

# 100 000 photographs of 500 pixels a side take about 500 s to decode.
TIME_LIMIT_S = 900.0
PREVIEW_SHAPE = (3, 32, 32)  # image files may differ in size: a job scales them to its model


class DataInspection(BaseModel):
    """What the child is asked to look at.

    Attributes:
        upload: The archive and the folder to unpack it into, where one was uploaded.
        roots: Where a path must lie; None is anywhere.
    """

    model_config = ConfigDict(extra="forbid")

    spec: DatasetSpec
    upload: tuple[Path, Path] | None
    allow: list[str]
    roots: tuple[Path, ...] | None
    time_limit_s: float = TIME_LIMIT_S


def inspect_data_in_child(request: DataInspection) -> dict[str, Any]:
    """Runs the inspection in a process of its own and never raises for what the data does.

    Raises:
        Stumble: The data could not be read for now.

    Returns:
        {"info": what was found} or {"problem": a problem document}.
    """
    limits = Limits(request.time_limit_s, file_bytes=MAX_BYTES)
    ended = run_in_child("workers.data_inspection", request.model_dump_json(), limits)
    if ended.answer is not None:
        return ended.answer
    return {"problem": DatasetError(f"the data set could not be read: {ended.words}").problem()}


def inspect(request: DataInspection) -> dict[str, Any]:
    """The work of the child."""
    spec = request.spec
    try:
        source = ArraySource.of(
            spec,
            None if request.upload is None else Upload(*request.upload),
            allow=request.allow,
            roots=DataRoots(request.roots),
            image_shape=PREVIEW_SHAPE if spec.format == "image_folder" else None,
        )
        return {"info": describe(source)}
    except Exception as error:
        if is_passing(error):
            raise
        if isinstance(error, LoadError):
            return {"problem": error.problem()}
        # a reader's own, which no check had foreseen
        words = f"the data set cannot be read: {type(error).__name__}: {error}"
        return {"problem": DatasetError(words).problem()}


def describe(source: ArraySource) -> dict[str, Any]:
    """What the page shows of a data set; raises DatasetError."""
    images, labels = train = source.arrays("train")
    source.require("test", train)
    return {
        "train_images": len(images),
        "image_shape": None if source.image_shape else list(images.shape[1:]),
        "classes": int(labels.max()) + 1,
    }


def main() -> None:
    request = DataInspection.model_validate_json(sys.stdin.buffer.read())
    with ending_if_passing(STUMBLED):
        answer = inspect(request)
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
