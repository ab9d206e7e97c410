"""Names of `evaluation`, `recalibration` and `finetuning`, which scripts look for here."""

from search.evaluation import Batches, accuracy, cross_entropy_loss
from search.finetuning import (
    Amp as Precision,
)
from search.finetuning import (
    Finetune,
    FinetuneConfig,
    augment,
    distillation_loss,
    native_bfloat16,
)
from search.recalibration import DenseOrigin as Reference
from search.recalibration import Recalibration, recalibrate, recalibration

__all__ = [
    "Batches",
    "Finetune",
    "FinetuneConfig",
    "Precision",
    "Recalibration",
    "Reference",
    "accuracy",
    "augment",
    "cross_entropy_loss",
    "distillation_loss",
    "native_bfloat16",
    "recalibrate",
    "recalibration",
]
