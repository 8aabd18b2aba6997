"""Scores and pages of label maps that are about to be replaced."""

from __future__ import annotations

import logging
from pathlib import Path

from scripts.documents import COMPARISON, REPORT, SCORES
from scripts.folders.folder_files import RECORDS

logger = logging.getLogger(__name__)

REPORT_MARK = "calibration_error"  # stands in report.json of ours
COMPARISON_MARK = '"runs"'  # in comparison.json


def forget_scores(output_dir: str) -> None:
    """Remove scores and pages of label maps that are about to be replaced, if a run of ours is in the folder."""
    if not any(Path(output_dir, name).is_file() for name in RECORDS):
        return
    ours = list(SCORES)
    for document, mark, files in (
        ("report.json", REPORT_MARK, REPORT),
        ("comparison.json", COMPARISON_MARK, COMPARISON),
    ):
        page = Path(output_dir, document)
        if page.is_file() and mark in page.read_text(encoding="utf-8", errors="ignore"):
            ours += files
    found = [path for name in ours if (path := Path(output_dir, name)).is_file()]
    for path in found:
        path.unlink()
    if found:
        names = ", ".join(path.name for path in found)
        logger.warning(f"{output_dir}: {names} of an earlier run removed, because label maps are made again.")
