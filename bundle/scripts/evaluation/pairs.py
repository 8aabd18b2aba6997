"""Label maps of any tool, read as network classes: one alone, or a prediction and its truth on one grid."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import io_orientation

from scripts.data.volumes import Volume, grid_faults, read_volume, reorient, shorten, whole_numbers
from scripts.errors import UserError
from scripts.labels import CLASSES, LABEL_VALUES, class_of_value

__all__ = ["Meaning", "Pair", "class_of_value", "count_pairs", "read_pair", "to_classes", "warn_of_meanings"]

logger = logging.getLogger(__name__)

NAME_2023 = re.compile(r"BraTS-[A-Za-z]+-\d+-\d+")  # of cases from 2023 on
NAMES = f"{', '.join(LABEL_VALUES)}, or four numbers"


class Pair(NamedTuple):
    """The label maps of one case."""

    case: str
    predicted: Path
    truth: Path


class Meaning:
    """What the values in one side's label maps stand for.

    Args:
        label_values: a name of LABEL_VALUES, or the values on disk of background, NCR, ED, ET; by default those of the
            BraTS edition that the files turn out to be of.
        key: the option that sets it.

    Raises:
        UserError: for another name or list.
    """

    def __init__(self, label_values: str | Sequence[int] | None = None, key: str = "label_values") -> None:
        self.class_of = class_of_value(label_values, key)
        self.key = key
        self.label_values = label_values
        self.told = label_values is not None
        self.enhancing: dict[int, Path] = {}  # a file with 3, and one with 4, where no edition is named

    def classes(self, voxels: np.ndarray, path: Path) -> np.ndarray:
        """Network classes. Raises ValueError (file, fault, remedy) for values without a meaning, or with two."""
        values = values_in(voxels)
        if unknown := sorted(values - set(self.class_of)):
            known = f"expected {sorted(self.class_of)}{', by the label values given' if self.told else ''}"
            remedy = (
                f"{'for this side, ' if self.told else ''}pass {'other ' if self.told else ''}--{self.key} ({NAMES})"
            )
            raise ValueError(path, f"unknown label values {shorten(unknown)}", f"{known}: {remedy}")
        if not self.told:
            self.enhancing |= dict.fromkeys(values & {3, 4}, path)
            modern = self.key == "truth_values" and NAME_2023.search(f"{path.parent.name}/{path.name}")
            if {3, 4} <= values or (4 in values and modern):
                found = "3 and 4" if 3 in values else "4 in a file named as from 2023 on"
                raise ValueError(path, f"holds {found}: which is ET?", f"pass --{self.key} ({NAMES})")
        return to_classes(voxels, self.class_of)

    def check_one_edition(self) -> None:
        """Raises UserError if some files hold 3 and others 4, and no edition is named."""
        if len(self.enhancing) > 1:
            raise UserError(
                f"{self.enhancing[3]} holds 3 and {self.enhancing[4]} holds 4, so their edition cannot be told: pass "
                f"--{self.key} ({NAMES}); in brats2024, 4 is the resection cavity."
            )


def count_pairs(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Voxels by predicted and true class, (4, 4). Shapes: both (H, W, D) in network classes."""
    count = len(CLASSES)
    return np.bincount(predicted.ravel() * count + truth.ravel(), minlength=count**2).reshape(count, count)


def warn_of_meanings(voxels: np.ndarray) -> None:
    """Warn where the values of a side seem to mean something else than they are taken for.

    Args:
        voxels: by predicted and true class, of all cases together, (4, 4).
    """
    sides = {"predictions": (voxels.sum(1), "truth"), "truth": (voxels.sum(0), "predictions")}
    for side, (own, other) in sides.items():
        if lacking := [CLASSES[index] for index in (1, 2, 3) if not own[index] and sides[other][0][index]]:
            logger.warning(
                f"No label map of the {side} holds {' or '.join(lacking)}, but those of the {other} do. If these are "
                "masks of the whole tumour, only the scores of WT mean something."
            )
    if voxels[1, 2] > voxels[1, 1] and voxels[2, 1] > voxels[2, 2]:
        logger.warning(
            "Most of what the predictions call NCR or ED is the other one in the truth. If a side counts as nnU-Net "
            f"and MSD do (1 is ED), pass --pred_values or --truth_values ({NAMES})."
        )


def to_classes(voxels: np.ndarray, class_of: Mapping[int, int]) -> np.ndarray:
    """Network classes of a label map, uint8; values that stand for no class become background.

    Shapes: any -> the same.
    """
    voxels = whole_numbers(voxels)
    classes = np.zeros_like(voxels, dtype=np.uint8)
    for value, index in class_of.items():
        classes += (voxels == value) * np.uint8(index)
    return classes


def values_in(voxels: np.ndarray) -> set[Any]:
    """The values in a label map. Nearly all of its voxels are 0, so only the others are sorted."""
    flat = voxels.ravel("K")  # in the order in memory
    others = flat[flat != 0]
    return set(np.unique(others).tolist()) | ({0} if len(others) < len(flat) else set())


def read_pair(pair: Pair, pred: Meaning, true: Meaning) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Prediction and truth (H, W, D) in network classes, on the truth's grid, and its voxel size in mm.

    Raises:
        ValueError: (file, fault, remedy).
    """
    truth = read_label_map(pair.truth)
    predicted = reorient(read_label_map(pair.predicted), io_orientation(truth.affine))
    if faults := grid_faults(predicted, truth, pair.truth.name):
        raise ValueError(pair.predicted, *faults[0])
    spacing = tuple(float(size) for size in voxel_sizes(truth.affine))
    return pred.classes(predicted.voxels, pair.predicted), true.classes(truth.voxels, pair.truth), spacing


def read_label_map(path: Path) -> Volume:
    """One label map. Raises ValueError (file, fault, remedy) if there is none, or it cannot be read."""
    try:
        return read_volume("label", {"label": path}, 1)
    except FileNotFoundError as error:
        raise ValueError(path, "missing", "predict it, or leave the case out") from error
    except ValueError as error:
        raise ValueError(path, str(error), "expected a 3-D label map: copy or export the file again") from error
