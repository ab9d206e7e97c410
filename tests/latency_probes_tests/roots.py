"""Made-up /proc and /sys."""

from collections.abc import Mapping
from pathlib import Path


def root(directory: Path, files: Mapping[str, str] | None = None, **more: str) -> Path:
    """A root directory with these files; `__` stands for a slash in the names of keywords."""
    named = {name.replace("__", "/"): text for name, text in more.items()}
    for name, text in {**(files or {}), **named}.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory
