"""The folder of a training or an evaluation: it holds one run, which no other replaces."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.errors import UserError
from scripts.files import read_json, sha256
from scripts.folders.folder_files import RECORDS
from scripts.folders.map_files import label_map
from scripts.running import merged_config
from scripts.settings.provenance import plain, without_modules
from scripts.training.checkpoint import checkpoints_in

__all__ = ["check_new_evaluation", "check_new_run", "forget_evaluation", "forget_scores"]

logger = logging.getLogger(__name__)

SCORING = (  # keys that decide scores and label maps
    "network_def", "student_sequence", "student_widths", "deep_supervision", "spacing", "preprocessing", "window_size",
    "overlap", "whole_volume", "mirror", "smallest_part_ml", "uncertainty", "et_threshold_ml", "empty_rule",
    "label_map",
)  # fmt: skip
EVALUATION = {"cases": [{"case": str}], "weights": {}, "configuration": {}}
SCORES = ("metrics.csv", "metrics.json", "metrics_et_cleared.csv", "metrics_et_cleared.json", "calibration.csv")
REPORT = ("report.html", "report.csv", "report.json")


def check_new_run(output_dir: str, ckpt_dir: str, resume: bool | str, dataset_dir: str) -> None:
    """Check before anything is written that a new training replaces no earlier one.

    Args:
        output_dir: folder of the training.
        ckpt_dir: folder of checkpoint.pt and model.pt.
        resume: as for RunCheckpoint.
        dataset_dir: empty in MONAI Label, which trains the weights that it serves again and again.

    Raises:
        UserError: names what is there and the ways out.
    """
    checkpoints = checkpoints_in(ckpt_dir)
    if not dataset_dir or (resume if resume != "auto" else checkpoints):
        return
    others = [
        Path(output_dir, "history.csv"),
        Path(output_dir, "evaluation.json"),  # whose scores MLflow would take for the new run's
        *checkpoints,
        Path(ckpt_dir, "model.pt"),
    ]  # training.json alone: no epoch
    if there := [path for path in others if path.is_file()]:
        elsewhere = "--output_dir" if there[0].parent == Path(output_dir) else "--output_dir (or --ckpt_dir, if set)"
        way = "continue it with --resume True, or give" if checkpoints else "there is no checkpoint to resume, so give"
        raise UserError(f"{there[0]} belongs to an earlier run and would be replaced: {way} another {elsewhere}.")


def check_new_evaluation(
    output_dir: str, ckpt_path: str, cases: Sequence[Mapping[str, Any]], overwrite: bool = False
) -> None:
    """Check before anything is written that an evaluation replaces no foreign label maps, and no other evaluation.

    Args:
        output_dir: folder of the evaluation.
        ckpt_path: weights to score.
        cases: the patients.
        overwrite: replace an earlier evaluation.

    Raises:
        UserError: names a label map that no evaluation made, such as the truth, or the record of an evaluation of other
            weights, patients or settings, and the ways out.
    """
    path = Path(output_dir, "evaluation.json")
    record = read_json(path, "output_dir", EVALUATION) if path.is_file() else {}
    maps = {label_map(output_dir, case["image"], case["case"]): case for case in cases}
    there = [file for file in maps if file.is_file()]
    if foreign := [file for file in there if not record or same_file(file, maps[file].get("label", ""))]:
        raise UserError(
            f"output_dir {output_dir} holds {len(foreign)} label map(s) that no evaluation there made "
            f"({foreign[0].name}), such as the truth or a prediction's: give another output_dir."
        )
    if overwrite or not record:
        return
    then, now = record["configuration"], plain(merged_config())
    others = [key for key in SCORING if without_modules(str(then.get(key))) != without_modules(str(now.get(key)))]
    others += ["weights"] if sha256(ckpt_path) not in record["weights"].values() else []
    others += ["patients"] if {case["case"] for case in record["cases"]} != {case["case"] for case in cases} else []
    if others:
        raise UserError(
            f"{path} is of an evaluation with other {', '.join(others)}, whose scores a new one would replace: give "
            "another --output_dir, or --overwrite True."
        )


def same_file(one: Path, other: str) -> bool:
    return Path(other).is_file() and one.samefile(other)


def forget_evaluation(output_dir: str) -> None:
    """Remove what an evaluation left, which another one replaces: its label maps, uncertainty and scores."""
    path = Path(output_dir, "evaluation.json")
    record = read_json(path, "output_dir", EVALUATION) if path.is_file() else {"cases": []}
    forget_scores(output_dir)
    maps = [
        Path(output_dir, f"{case['case']}_{part}.nii.gz") for case in record["cases"] for part in ("seg", "entropy")
    ]
    if there := list(filter(Path.is_file, maps)):
        logger.warning(
            f"{output_dir}: {len(there)} map(s) of an earlier evaluation removed, because they are made again."
        )
    for file in there:
        file.unlink()


def forget_scores(output_dir: str) -> None:
    """Remove scores and report of label maps that are about to be replaced, if a run of ours is in the folder."""
    if not any(Path(output_dir, name).is_file() for name in RECORDS):
        return
    page = Path(output_dir, "report.json")
    ours = page.is_file() and "calibration_error" in page.read_text(encoding="utf-8", errors="ignore")
    found = [path for name in (*SCORES, *(REPORT if ours else ())) if (path := Path(output_dir, name)).is_file()]
    for path in found:
        path.unlink()
    if found:
        names = ", ".join(path.name for path in found)
        logger.warning(f"{output_dir}: {names} of an earlier run removed, because label maps are made again.")
