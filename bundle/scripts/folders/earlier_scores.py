"""Scores and report of label maps that are about to be replaced."""

from __future__ import annotations

import logging
from pathlib import Path

from scripts.documents import REPORT, SCORES
from scripts.folders.folder_files import RECORDS

logger = logging.getLogger(__name__)

REPORT_MARK = "calibration_error"  # stands in report.json of ours


def forget_scores(output_dir: str) -> None:
    """Remove scores and report of label maps that are about to be replaced, if a run of ours is in the folder."""
    if not any(Path(output_dir, name).is_file() for name in RECORDS):
        return
    page = Path(output_dir, "report.json")
    ours = page.is_file() and REPORT_MARK in page.read_text(encoding="utf-8", errors="ignore")
    found = [path for name in (*SCORES, *(REPORT if ours else ())) if (path := Path(output_dir, name)).is_file()]
    for path in found:
        path.unlink()
    if found:
        names = ", ".join(path.name for path in found)
        logger.warning(f"{output_dir}: {names} of an earlier run removed, because label maps are made again.")
