"""The folder of a training: its record, and files of an earlier run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist

from scripts.settings.provenance import record_run

__all__ = ["forget_earlier_run", "forget_scores", "record_training"]

logger = logging.getLogger(__name__)

SCORES = ("metrics.csv", "metrics.json", "metrics_et_cleared.csv", "metrics_et_cleared.json", "calibration.csv")


def record_training(output_dir: str, ckpt_dir: str, resume: bool | str, **about: Any) -> None:
    """Write training.json by ``record_run``, after removing the files of an earlier run."""
    forget_earlier_run(output_dir, ckpt_dir, resume)
    record_run(output_dir, "training", **about)


def forget_earlier_run(output_dir: str, ckpt_dir: str, resume: bool | str) -> None:
    """Remove an earlier run's history, scores and student from the folder of a new training.

    Args:
        output_dir: folder of the training. Its label maps stay.
        ckpt_dir: folder of checkpoint.pt and model.pt. model.pt stays if this folder is not in output_dir, because it
            may be the bundle's own.
        resume: as for RunCheckpoint. A resumed run keeps everything.
    """
    resumes = resume and (resume != "auto" or Path(ckpt_dir, "checkpoint.pt").is_file())
    if not resumes and idist.get_rank() == 0:
        remove(output_dir, (*SCORES, "history.csv", "evaluation.json", "mlflow.json"), "a new training begins")
        if Path(output_dir).resolve() in Path(ckpt_dir).resolve().parents:
            remove(ckpt_dir, ["model.pt"], "a new training begins")


def forget_scores(output_dir: str) -> None:
    """Remove the scores of label maps that are about to be replaced."""
    remove(output_dir, SCORES, "label maps are made again")


def remove(folder: str, patterns: Sequence[str], reason: str) -> None:
    """Remove files and log their names."""
    found = [path for pattern in patterns for path in sorted(Path(folder).glob(pattern))]
    for path in found:
        path.unlink()
    if found:
        names = ", ".join(path.name for path in found)
        logger.warning(f"{folder}: {names} of an earlier run removed, because {reason}.")
