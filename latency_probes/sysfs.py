"""Reads of /proc and /sys that never fail: whatever cannot be read is None. Standard library only:
the measuring child reads these too."""

from pathlib import Path

MOST_CHARACTERS = 100_000


def text(path: Path) -> str | None:
    """The file's text without its ends; None if it is empty or cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_CHARACTERS)
    except OSError:
        return None
    return data.decode("utf-8", "replace").replace("\0", "").strip() or None


def line(path: Path, key: str) -> str | None:
    """The value of the first `key: value` line."""
    for entry in (text(path) or "").splitlines():
        name, _, value = entry.partition(":")
        if name.strip() == key:
            return value.strip() or None
    return None


def number(found: str | None) -> float | None:
    """The number that a text begins with."""
    try:
        return float(found.split()[0]) if found else None
    except ValueError:
        return None


def folders(path: Path) -> list[Path] | None:
    """What lies in a directory, by name; None if it cannot be read."""
    try:
        return sorted(path.iterdir())
    except OSError:
        return None
