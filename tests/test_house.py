"""The checks that look at the whole house: style, types and import contracts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
CHECKS = {
    "style": ("ruff", "check", "."),
    "format": ("ruff", "format", "--check", "."),
    "types": ("mypy",),
    "imports": ("lint-imports",),
}


@pytest.mark.parametrize("name", CHECKS)
def test_whole_house_passes(name: str) -> None:
    command, *arguments = CHECKS[name]
    done = subprocess.run([BIN / command, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_library_alembic_is_not_hidden_by_the_folder() -> None:
    assert not (ROOT / "alembic" / "__init__.py").exists()
