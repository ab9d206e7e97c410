"""The kinds of tasks, by the name that the phases give them."""

from __future__ import annotations

from collections.abc import Mapping

from workers.tasks.finetune import finetune, tune
from workers.tasks.finish import finish
from workers.tasks.package import package, package_dense
from workers.tasks.prepare import prepare
from workers.tasks.runtimes import runtimes
from workers.tasks.score import score, sensitivity
from workers.tasks.segments import segments
from workers.work import Handler

HANDLERS: Mapping[str, Handler] = {
    "finetune": finetune,
    "finish": finish,
    "package": package,
    "package_dense": package_dense,
    "prepare": prepare,
    "runtimes": runtimes,
    "score": score,
    "segments": segments,
    "sensitivity": sensitivity,
    "tune": tune,
}
