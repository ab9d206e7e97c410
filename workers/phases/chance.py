"""Whether the dense model knows its images at all, judged before anything is measured.

A trained network that gets other images or labels than it was trained on is sure and wrong: its
accuracy is that of chance, and its loss far above that of guessing. Measured on two trained
networks: pixels 255 times too large or too small, shifted or inverted, and labels in another
order gave losses 1.3 to 2500 above guessing where the accuracy fell to chance. Untrained networks
were within 0.02 of it: they claim nothing, so that a job on one goes on, with a note.
"""

from __future__ import annotations

import math

from workers.results import Chance, Prepared

MIN_IMAGES = 10
SURE_LOSS = 0.5  # nats above guessing
STANDARD_ERRORS = 3.0
# An accuracy is above chance if it is so by a tenth of the way to 1, at 99 %.
WORTH = 0.1
NORMAL_99 = 2.326
TITLE = "The dense model is no better than guessing"
LOOK_AT = {
    "labels": "the classes must have the numbers, and thereby the order, of the training",
    "pixels": "their scale, layout and order of channels must be those of the training",
    "mean, std": "they must be those of the training, for pixels in [0, 1] where they are uint8",
    "weights": "they must be those of the trained network, for these classes",
}


def is_at_chance(prepared: Prepared) -> bool:
    """Whether the accuracy could come from answers that have nothing to do with the images."""
    return _could_be_chance(prepared.validation_accuracy, prepared.chance)


def _could_be_chance(accuracy: float, chance: Chance | None) -> bool:
    if chance is None or chance.images < MIN_IMAGES:
        return False
    most = chance.accuracy + WORTH * (1 - chance.accuracy)
    error = math.sqrt(most * (1 - most) / chance.images)
    return accuracy <= most + NORMAL_99 * error


def is_sure_and_wrong(prepared: Prepared) -> bool:
    """Whether it is at chance, and its loss clearly above that of guessing."""
    chance = prepared.chance
    if chance is None or not is_at_chance(prepared):
        return False
    excess = prepared.validation_loss - chance.loss
    return excess > max(SURE_LOSS, STANDARD_ERRORS * chance.loss_error)


def said_of(prepared: Prepared, chance: Chance) -> str:
    """Accuracy and loss beside those of guessing."""
    return (
        f"on {chance.images} validation images its accuracy is "
        f"{100 * prepared.validation_accuracy:.1f} %, where chance gives "
        f"{100 * chance.accuracy:.1f} %, and its loss {prepared.validation_loss:.2f}, "
        f"where guessing gives {chance.loss:.2f}"
    )


def refusal(prepared: Prepared) -> str | None:
    """Why the job must end, if it must."""
    if prepared.chance is None or not is_sure_and_wrong(prepared):
        return None
    return (
        f"{said_of(prepared, prepared.chance)}: it is sure and wrong, as a trained network is "
        "on images or labels other than those of its training; look at what is listed, correct "
        "the data set or the model, and submit both again"
    )


def lost(prepared: Prepared, accuracy: float) -> str | None:
    """What to tell of a result that is at chance, of a dense model that is not.

    Args:
        accuracy: of the result, on the validation images.
    """
    chance = prepared.chance
    if chance is None or is_at_chance(prepared) or not _could_be_chance(accuracy, chance):
        return None
    return (
        f"the result is no better than guessing: on {chance.images} validation images its "
        f"accuracy is {100 * accuracy:.1f} %, where chance gives {100 * chance.accuracy:.1f} %; "
        "raise finetune.steps or the budget"
    )


def note(prepared: Prepared) -> str | None:
    """What to tell of a model that is at chance and does not claim otherwise."""
    if prepared.chance is None or not is_at_chance(prepared) or is_sure_and_wrong(prepared):
        return None
    return f"the dense model seems untrained: {said_of(prepared, prepared.chance)}"
