"""Draws the picture of the README from the report of a job.

python docs/picture.py result/report.json docs/picture.svg --title TITLE
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main() -> None:
    """Reads the report and writes the picture."""
    from secateur.plot import svg

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--title", default="")
    given = parser.parse_args()
    report = json.loads(given.report.read_text(encoding="utf-8"))
    given.picture.write_text(svg(report, given.title), encoding="utf-8")


if __name__ == "__main__":
    main()
