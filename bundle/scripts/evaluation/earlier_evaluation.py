"""The evaluation that a folder holds already: another one replaces it only where asked to."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.errors import UserError
from scripts.files import read_json, sha256
from scripts.folders.case import inside
from scripts.folders.earlier_scores import forget_scores
from scripts.folders.map_files import label_map
from scripts.running import merged_config
from scripts.settings.provenance import plain, without_modules

logger = logging.getLogger(__name__)

SCORING = (  # keys that decide scores and label maps
    "network_def", "student_sequence", "student_widths", "deep_supervision", "spacing", "preprocessing", "window_size",
    "overlap", "whole_volume", "mirror", "smallest_part_ml", "uncertainty", "et_threshold_ml", "empty_rule",
    "label_map",
)  # fmt: skip
EVALUATION = {"cases": [{"case": str}], "weights": {}, "configuration": {}}


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
    made = {case["case"] for case in record.get("cases", [])}
    maps = {label_map(output_dir, case["image"], case["case"]): case for case in cases}
    there = [(file, case) for file, case in maps.items() if file.is_file()]
    if foreign := [file for file, case in there if case["case"] not in made or same_file(file, case.get("label", ""))]:
        raise UserError(
            f"output_dir {output_dir} holds {len(foreign)} label map(s) that no evaluation there made "
            f"({foreign[0].name}), such as the truth or a prediction's: give another output_dir."
        )
    if overwrite or not record:
        return
    then, now = record["configuration"], plain(merged_config())
    others = [key for key in SCORING if without_modules(str(then.get(key))) != without_modules(str(now.get(key)))]
    others += ["weights"] if sha256(ckpt_path) not in record["weights"].values() else []
    others += ["patients"] if made != {case["case"] for case in cases} else []
    if others:
        raise UserError(
            f"{path} is of an evaluation with other {', '.join(others)}, whose scores a new one would replace: give "
            "another --output_dir, or --overwrite True."
        )


def same_file(one: Path, other: str) -> bool:
    """Whether both paths lead to one file that exists."""
    return Path(other).is_file() and one.samefile(other)


def forget_evaluation(output_dir: str) -> None:
    """Remove what an evaluation left, which another one replaces: its label maps, uncertainty and scores."""
    path = Path(output_dir, "evaluation.json")
    record = read_json(path, "output_dir", EVALUATION) if path.is_file() else {"cases": []}
    forget_scores(output_dir)
    maps = [
        inside(output_dir, f"{case['case']}_{part}.nii.gz") for case in record["cases"] for part in ("seg", "entropy")
    ]
    if there := list(filter(Path.is_file, maps)):
        logger.warning(
            f"{output_dir}: {len(there)} map(s) of an earlier evaluation removed, because they are made again."
        )
    for file in there:
        file.unlink()
