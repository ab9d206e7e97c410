"""Settings: what the environment says, and what holds where it says nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from jobs.settings import Settings

NAMES = ("SECATEUR_HOME", "SECATEUR_ALLOW", "DATABASE_URL", "ARTIFACT_URL", "REDIS_URL")
ACCESS = ("SECATEUR_AUTH", "SECATEUR_DATA_ROOTS")


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NAMES, *ACCESS):
        monkeypatch.delenv(name, raising=False)


def test_functions_are_allowed_with_and_without_their_scheme(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SECATEUR_ALLOW", "python:nets:small, nets:large,,python:")
    assert Settings().allow == {"python:nets:small", "python:nets:large"}


def test_by_default_all_lies_in_the_home_folder() -> None:
    settings = Settings()
    assert settings.home == Path.home() / ".secateur"
    assert settings.database_url == f"sqlite:///{settings.home}/secateur.db"
    assert settings.artifact_url == f"{settings.home}/artifacts"
    assert settings.redis_url == "redis://127.0.0.1:6379/0"
    assert settings.allow == frozenset()


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values = (
        str(tmp_path),
        "python:a:b, python:c:d,",
        "postgresql://db",
        "s3://bucket",
        "redis://r",
    )
    for name, value in zip(NAMES, values, strict=True):
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.home == tmp_path
    assert settings.allow == {"python:a:b", "python:c:d"}
    assert settings.database_url == "postgresql://db"
    assert settings.artifact_url == "s3://bucket"
    assert settings.redis_url == "redis://r"


def test_a_relative_home_is_made_absolute() -> None:
    assert Settings(home=Path("here")).home == Path.cwd() / "here"


def test_the_embedded_server_is_found_in_the_home_folder(tmp_path: Path) -> None:
    (tmp_path / "valkey.json").write_text(json.dumps({"url": "redis://:secret@127.0.0.1:7000/0"}))
    assert Settings(home=tmp_path).redis_url == "redis://:secret@127.0.0.1:7000/0"


def test_a_lease_must_last() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        Settings(task_lease_s=0)


def test_data_roots_are_folders_separated_by_colons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_DATA_ROOTS", "/data: /more/data:")
    assert Settings().data_roots == (Path("/data"), Path("/more/data"))


def test_a_relative_data_root_is_refused() -> None:
    with pytest.raises(ValidationError, match="data roots must be absolute, but got 'data'"):
        Settings.model_validate({"data_roots": "data"})
