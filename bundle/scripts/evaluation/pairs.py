"""Label maps of any tool, read as network classes: one alone, or a prediction and its truth on one grid."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
from nibabel.orientations import io_orientation

from scripts.data.plausible import header_faults
from scripts.data.volumes import Volume, grid_faults, read_volume, reorient
from scripts.errors import UserError
from scripts.evaluation.meaning import Meaning
from scripts.faults import FileFault
from scripts.labels import CLASSES, VALUE_NAMES

logger = logging.getLogger(__name__)


class Pair(NamedTuple):
    """The label maps of one case."""

    case: str
    predicted: Path
    truth: Path


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


def read_volumes(pair: Pair, pred: Meaning, true: Meaning) -> tuple[Volume, Volume]:
    """Prediction and truth as volumes of network classes, on the truth's grid.

    Raises:
        FileFault: for a file that is wrong.
    """
    truth = read_label_map(pair.truth)
    predicted = reorient(read_label_map(pair.predicted), io_orientation(truth.affine))
    if faults := grid_faults(predicted, truth, f"the truth ({pair.truth})"):
        raise FileFault(*faults[0], pair.predicted)
    predicted = predicted._replace(voxels=pred.classes(predicted.voxels, pair.predicted))
    return predicted, truth._replace(voxels=true.classes(truth.voxels, pair.truth))


def read_label_map(path: Path) -> Volume:
    """One label map. Raises FileFault if it is not there, or its content or header is wrong."""
    try:
        volume = read_volume("label", {"label": path}, 1)
    except FileNotFoundError as error:
        raise FileFault("missing", "predict it, or leave the case out", path) from error
    except MemoryError as error:
        raise UserError(f"{path} needs more memory than is free: run again, with fewer --workers.") from error
    except ValueError as error:
        remedy = getattr(error, "remedy", "") or "expected a 3-D label map: copy or export the file again"
        raise FileFault(str(error), remedy, path) from error
    if faults := header_faults(volume):
        raise FileFault(*faults[0], path)
    return volume
