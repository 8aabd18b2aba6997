"""Label maps of any tool, read as network classes: one alone, or a prediction and its truth on one grid."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from nibabel.orientations import io_orientation

from scripts.data.plausible import header_faults
from scripts.data.volumes import Volume, grid_faults, read_volume, reorient, shorten, whole_numbers
from scripts.errors import UserError
from scripts.labels import CLASSES, VALUE_NAMES, WHICH_IS_ET, class_of_value, unclear_meaning

__all__ = [
    "Meaning",
    "Pair",
    "count_pairs",
    "read_volumes",
    "to_classes",
    "warn_of_meanings",
]

logger = logging.getLogger(__name__)

NAME_2023 = re.compile(r"BraTS-[A-Za-z]+-\d+-\d+")  # of cases from 2023 on


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
        try:
            classes = to_classes(voxels, self.class_of)
        except ValueError as error:
            fault, known = error.args
            remedy = f"pass {'other ' if self.told else ''}--{self.key} ({VALUE_NAMES})"
            known += ", by the label values given for this side" if self.told else ""
            raise ValueError(path, fault, f"{known}: {remedy}") from error
        if not self.told:
            values = {value for value in (3, 4) if (voxels == value).any()}
            self.enhancing |= dict.fromkeys(values, path)
            name = f"{path.parent.name}/{path.name}" if self.key == "truth_values" else ""  # predictions may be of 2018
            if doubt := unclear_meaning(values, name, modern=bool(NAME_2023.search(name))):
                raise ValueError(path, doubt, f"pass --{self.key} ({VALUE_NAMES})")
        return classes

    def check_one_edition(self) -> None:
        """Raises UserError if some files hold 3 and others 4, and no edition is named."""
        if len(self.enhancing) > 1:
            raise UserError(
                f"{self.enhancing[3]} holds 3 and {self.enhancing[4]} holds 4: {WHICH_IS_ET}: pass --{self.key} "
                f"({VALUE_NAMES})."
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
    predicted, true = (voxels.sum(axis)[1:] > 0 for axis in (1, 0))
    if true.any() and not predicted.any():
        logger.warning("The predictions mark no tumour in any case.")
        return
    for where, but, lacking in (
        ("the predictions", ", but those of the truth do", true & ~predicted),
        ("the truth", ", but those of the predictions do", predicted & ~true),
        ("truth and predictions", ", so a perfect score of a region of it alone means nothing", ~true & ~predicted),
    ):
        if names := [name for name, lacks in zip(CLASSES[1:], lacking) if lacks]:
            logger.warning(
                f"No label map of {where} holds {' or '.join(names)}{but}. If these are masks of the whole tumour, "
                "only the scores of WT mean something."
            )
    if predicted.any() and np.array_equal(voxels, np.diag(voxels.diagonal())):
        logger.warning(
            "Predictions and truth are the same in every voxel of every case: is --pred the truth itself, or a link or "
            "copy?"
        )
    if voxels[1, 2] > voxels[1, 1] and voxels[2, 1] > voxels[2, 2]:
        logger.warning(
            "Most of what the predictions call NCR or ED is the other one in the truth. If a side counts as nnU-Net "
            f"and MSD do (1 is ED), pass --pred_values or --truth_values ({VALUE_NAMES})."
        )


def to_classes(voxels: np.ndarray, class_of: Mapping[int, int]) -> np.ndarray:
    """Network classes of a label map, uint8.

    Shapes: any -> the same.

    Raises:
        ValueError: (fault, expected) for values that stand for no class.
    """
    voxels = whole_numbers(voxels)
    if unknown := sorted(values_in(voxels) - set(class_of)):
        raise ValueError(f"unknown label values {shorten(unknown)}", f"expected {sorted(class_of)}")
    classes = np.zeros_like(voxels, dtype=np.uint8)
    for value, index in class_of.items():
        classes += (voxels == value) * np.uint8(index)
    return classes


def values_in(voxels: np.ndarray) -> set[Any]:
    """The values in a label map. Nearly all of its voxels are 0, so only the others are sorted."""
    flat = voxels.ravel("K")  # in the order in memory
    others = flat[flat != 0]
    return set(np.unique(others).tolist()) | ({0} if len(others) < len(flat) else set())


def read_volumes(pair: Pair, pred: Meaning, true: Meaning) -> tuple[Volume, Volume]:
    """Prediction and truth as volumes of network classes, on the truth's grid.

    Raises:
        ValueError: (file, fault, remedy).
    """
    truth = read_label_map(pair.truth)
    predicted = reorient(read_label_map(pair.predicted), io_orientation(truth.affine))
    if faults := grid_faults(predicted, truth, pair.truth.name):
        raise ValueError(pair.predicted, *faults[0])
    predicted = predicted._replace(voxels=pred.classes(predicted.voxels, pair.predicted))
    return predicted, truth._replace(voxels=true.classes(truth.voxels, pair.truth))


def read_label_map(path: Path) -> Volume:
    """One label map. Raises ValueError (file, fault, remedy) if it is not there, or its content or header is wrong."""
    try:
        volume = read_volume("label", {"label": path}, 1)
    except FileNotFoundError as error:
        raise ValueError(path, "missing", "predict it, or leave the case out") from error
    except ValueError as error:
        raise ValueError(path, str(error), "expected a 3-D label map: copy or export the file again") from error
    if faults := header_faults(volume):
        raise ValueError(path, *faults[0])
    return volume
