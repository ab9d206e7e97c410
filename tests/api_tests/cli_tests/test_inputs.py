"""What the command line says of models and data sets while they are being checked."""

from types import SimpleNamespace
from typing import cast

import pytest

from api.cli.inputs import Patience
from api.routes.views import DatasetView


def test_a_long_check_says_that_it_goes_on_and_a_short_one_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    now = [100.0]
    monkeypatch.setattr("api.cli.inputs.time.monotonic", lambda: now[0])
    patience = Patience(said.append)
    view = cast(DatasetView, SimpleNamespace(name="photos"))
    for seconds in (1.0, 19.0, 21.0, 39.0, 41.5, 42.0):
        now[0] = 100.0 + seconds
        patience(view)
    assert said == [
        "Still checking photos, 21 s so far: its images are read.",
        "Still checking photos, 42 s so far: its images are read.",
    ]
