"""A network gets its images in the layout and type of its own input."""

from __future__ import annotations

import pytest
import torch

from search.finetuning import Finetune, FinetuneConfig
from workers.loaders.datasets import Images
from workers.loaders.errors import DatasetError, OnnxFileError
from workers.loaders.feed import Feed

PIXELS = torch.randint(0, 256, (6, 3, 8, 10), dtype=torch.uint8)
LABELS = torch.zeros(6, dtype=torch.int64)


@pytest.mark.parametrize(
    ("shape", "last"),
    [
        ((3, 32, 32), False),
        ((1, 28, 28), False),
        ((32, 32, 3), True),
        ((28, 28, 1), True),
        ((3, 3, 3), False),
        ((64, 16), False),
        ((10,), False),
    ],
)
def test_the_shape_tells_where_the_channels_are(shape: tuple[int, ...], last: bool) -> None:
    feed = Feed.of(shape)
    assert feed.channels_last == last
    assert feed.image_shape(shape) == ((shape[-1], *shape[:-1]) if last else shape)


def test_channels_last_is_the_same_image_turned() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    first = Images(PIXELS, LABELS, mean, std).batch(torch.arange(6))
    turned = Images(PIXELS, LABELS, mean, std, Feed(channels_last=True))
    assert turned.shape == (8, 10, 3)
    assert torch.equal(turned.batch(torch.arange(6)).permute(0, 3, 1, 2), first)


def test_bytes_reach_a_network_that_takes_bytes_as_they_are() -> None:
    images = Images(PIXELS, LABELS, feed=Feed("uint8", channels_last=True)).batch(torch.arange(6))
    assert images.dtype == torch.uint8
    assert torch.equal(images, PIXELS.permute(0, 2, 3, 1))


@pytest.mark.parametrize("normalised", [True, False])
def test_other_pixels_for_it_are_refused(normalised: bool) -> None:
    pixels, mean = (PIXELS, (0.5, 0.5, 0.5)) if normalised else (PIXELS.float() / 255, ())
    with pytest.raises(DatasetError, match="takes uint8 pixels and scales them itself"):
        Images(pixels, LABELS, mean, feed=Feed("uint8")).batch(torch.arange(2))


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(OnnxFileError, match="must be images of float32, float16 or uint8"):
        Feed.of((12,), torch.int64)


def test_fine_tuning_moves_pixels_and_never_channels() -> None:
    class Seen(torch.nn.Module):
        """Keeps what it was given."""

        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(3, 2)
            self.images: list[torch.Tensor] = []

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.images.append(images)
            return torch.as_tensor(self.head(images.mean((1, 2))))

    images = torch.arange(3.0).expand(6, 8, 10, 3) + 1
    student, config = Seen(), FinetuneConfig(steps=2, batch_size=4, shift=2, flip=True)
    Finetune(student, Seen(), images, LABELS, config, channels_last=True).run()
    for batch in student.images:
        assert batch.shape == (4, 8, 10, 3)
        for channel in range(3):  # pixels are moved or zero, and stay in their channel
            assert set(batch[..., channel].unique().tolist()) <= {0.0, channel + 1.0}
