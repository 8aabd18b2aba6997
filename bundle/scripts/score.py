"""Score label maps of any tool against the truth, patient by patient, in the truth's own grid.

python -m scripts.score --pred DIR --truth DIR --output metrics.csv [--empty_rule brats] [--et_threshold_ml 0]
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform
from tqdm import tqdm

from scripts.cases import find_label_maps
from scripts.checks import Fault, Volume, check_grid, few, read_volume, settle
from scripts.command import run_command
from scripts.errors import UserError
from scripts.labels import CLASSES, REGIONS, TABLE_ORDER
from scripts.metrics import EMPTY_RULES, region_metrics
from scripts.output import clear_small_et, label_map
from scripts.records import check_output
from scripts.summary import CaseScore, print_table, write_scores

__all__ = ["score", "score_cases"]

logger = logging.getLogger(__name__)

BRATS_VALUES = {0: 0, 1: 1, 2: 2, 3: 3, 4: 3}  # network class of each value on disk, of every edition


class Pair(NamedTuple):
    """The label maps of one case."""

    case: str
    predicted: Path
    truth: Path


def score(
    pred: str,
    truth: str,
    output: str,
    empty_rule: str = "brats",
    et_threshold_ml: float = 0.0,
    label_values: Sequence[int] | None = None,
) -> None:
    """Write metrics.csv (one row a case and region) and metrics.json (means with intervals), and print the means.

    Args:
        pred: folder of label maps: BraTS folders, or NIfTI files named after the case (NAME.nii.gz, NAME_seg.nii.gz).
        truth: the same of the truth.
        output: the CSV to write; the JSON lies beside it.
        empty_rule: "brats" or "exclude", for regions that are empty in truth or prediction.
        et_threshold_ml: if above 0, also score with enhancing tumour below this volume turned into NCR, to
            NAME_et_cleared.csv.
        label_values: values on disk of background, NCR, ED, ET; by default 0, 1, 2, and 3 or 4.

    Raises:
        UserError: if there is nothing to score, a case has no truth, or files do not fit together.
    """
    predicted, real = find_label_maps(pred, "pred"), find_label_maps(truth, "truth")
    if missing := sorted(set(predicted) - set(real)):
        raise UserError(
            f"truth {truth} has no label map of {', '.join(missing)}: name files after the case, as in {pred}, "
            f"or take these out."
        )
    if rest := sorted(set(real) - set(predicted)):
        logger.warning(f"{len(rest)} case(s) of {truth} have no prediction and are not scored: {', '.join(rest)}.")
    pairs = [Pair(case, path, real[case]) for case, path in predicted.items()]
    score_pairs(pairs, output, empty_rule, et_threshold_ml, label_values)


def score_cases(
    cases: Sequence[Mapping],
    pred: str,
    output: str,
    empty_rule: str = "brats",
    et_threshold_ml: float = 0.0,
    label_values: Sequence[int] | None = None,
) -> None:
    """As ``score``, of the label maps that an evaluation wrote to ``pred``, against the labels of its cases."""
    pairs = [Pair(case["case"], label_map(pred, case["image"]), Path(case["label"])) for case in cases]
    score_pairs(pairs, output, empty_rule, et_threshold_ml, label_values)


def score_pairs(
    pairs: Sequence[Pair],
    output: str,
    empty_rule: str,
    et_threshold_ml: float,
    label_values: Sequence[int] | None,
) -> None:
    check_output(output, "output", ".csv")
    if empty_rule not in EMPTY_RULES:
        raise UserError(f"empty_rule is {empty_rule!r}, expected one of {sorted(EMPTY_RULES)}.")
    if not isinstance(et_threshold_ml, (int, float)) or et_threshold_ml < 0:
        raise UserError(f"et_threshold_ml is {et_threshold_ml!r}, expected a volume in ml, or 0.")
    if label_values is not None and not (isinstance(label_values, (list, tuple)) and len(label_values) == len(CLASSES)):
        raise UserError(f'label_values is {label_values!r}, expected those of {CLASSES}, such as "[0,1,2,3]".')
    class_of = BRATS_VALUES if label_values is None else {int(v): index for index, v in enumerate(label_values)}
    thresholds = [0.0, float(et_threshold_ml)] if et_threshold_ml else [0.0]

    def one(pair: Pair) -> list[list[CaseScore]] | Fault:
        try:
            classes, truth, spacing = read_pair(pair, class_of)
        except ValueError as error:
            path, fault, remedy = error.args
            return Fault(pair.case, str(path), fault, remedy)
        voxel_ml = float(np.prod(spacing)) / 1000
        cleared = [clear_small_et(classes, voxel_ml, threshold) for threshold in thresholds]
        return [case_scores(pair.case, label, truth, spacing, empty_rule) for label in cleared]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(tqdm(pool.map(one, pairs), total=len(pairs), desc="Scoring", disable=None))
    settle([result for result in results if isinstance(result, Fault)], True, "mend them, or take them away.")
    plain = Path(output)
    cleared = plain.with_name(f"{plain.stem}_et_cleared{plain.suffix}")
    for stale in (cleared, cleared.with_suffix(".json")):
        stale.unlink(missing_ok=True)  # of an earlier threshold
    for index, threshold in enumerate(thresholds):
        scores = [item for result in results if isinstance(result, list) for item in result[index]]
        path = cleared if threshold else plain
        print_table(write_scores(path, scores, empty_rule, threshold))
        print(f"-> {path}\n")


def case_scores(
    case: str, predicted: np.ndarray, truth: np.ndarray, spacing: Sequence[float], empty_rule: str
) -> list[CaseScore]:
    """Metrics of every region of one case; label maps (H, W, D) in network classes, spacing in mm."""
    scores = []
    classes = dict(REGIONS)
    for region in TABLE_ORDER:
        found, real = (np.isin(label, classes[region]) for label in (predicted, truth))
        empty = not (found.any() and real.any())
        scores.append(CaseScore(case, region, region_metrics(found, real, spacing, empty_rule), empty))
    return scores


def read_pair(pair: Pair, class_of: Mapping[int, int]) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Prediction and truth (H, W, D) in network classes, on the truth's grid, and its voxel size in mm.

    Raises:
        ValueError: (file, fault, remedy).
    """
    truth = read_label_map(pair.truth)
    predicted = reorient(read_label_map(pair.predicted), truth.affine)
    grid = (pair.truth.name, truth.voxels.shape, truth.affine)
    if faults := check_grid(predicted.voxels.shape, predicted.affine, grid):
        raise ValueError(pair.predicted, *faults[0])
    classes = [
        to_classes(volume.voxels, class_of, path) for volume, path in ((predicted, pair.predicted), (truth, pair.truth))
    ]
    spacing = tuple(float(size) for size in voxel_sizes(truth.affine))
    return classes[0], classes[1], spacing


def read_label_map(path: Path) -> Volume:
    try:
        return read_volume("label", {"label": path}, 1)
    except FileNotFoundError as error:
        raise ValueError(path, "missing", "predict it, or leave the case out") from error
    except ValueError as error:
        raise ValueError(path, str(error), "expected a 3-D label map: copy or export the file again") from error


def reorient(volume: Volume, affine: np.ndarray) -> Volume:
    """The same label map with axes in the order and direction of another grid."""
    turn = ornt_transform(io_orientation(volume.affine), io_orientation(affine))
    back = inv_ornt_aff(turn, volume.voxels.shape)
    return Volume(apply_orientation(volume.voxels, turn), volume.affine @ back)


def to_classes(voxels: np.ndarray, class_of: Mapping[int, int], path: Path) -> np.ndarray:
    values = np.unique(voxels)
    known = sorted(class_of)
    if unknown := sorted(set(values.tolist()) - set(known)):
        raise ValueError(path, f"unknown label values {few(unknown)}", f"expected {known}: relabel the file")
    if class_of is BRATS_VALUES and {3, 4} <= set(values.tolist()):
        raise ValueError(path, "holds 3 and 4, both ET", "give label_values, or relabel the file")
    classes = np.zeros(max(known) + 1, np.uint8)
    classes[known] = [class_of[value] for value in known]
    return classes[voxels.astype(np.int64)]


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    run_command(score)
