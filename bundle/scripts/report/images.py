"""Images and label maps of patients as arrays, with axes to the right, to the front and up."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import io_orientation

from scripts.data.volumes import open_whole
from scripts.errors import UserError
from scripts.evaluation.meaning import Meaning
from scripts.faults import FileFault


def read_image(path: Path, channel: int | None = None) -> np.ndarray:
    """Voxels (H, W, D) of a file, or of one channel of a 4-D file, by default the first.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        with open_whole(path) as image:
            voxels = np.asarray(nib.as_closest_canonical(image).dataobj)
    except ValueError as error:
        raise UserError(f"{path} is {error}: copy or predict it again.") from error
    except MemoryError as error:
        raise UserError(f"{path} needs more memory than is free: end other programs.") from error
    return voxels[..., channel or 0] if voxels.ndim == 4 else voxels


def image_shape(path: Path) -> tuple[int, ...]:
    """Shape (H, W, D) of the voxels that ``read_image`` would give, from the header alone.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        image = nib.load(path)
        axes = io_orientation(image.affine)[:, 0].argsort()
        return tuple(image.shape[axis] for axis in axes)
    except Exception as error:  # nibabel and gzip fail in many ways
        raise UserError(f"{path} cannot be read ({type(error).__name__}): copy or predict it again.") from error


def read_classes(path: Path, meaning: Meaning) -> np.ndarray:
    """Network classes (H, W, D) of a label map; ``meaning`` gives the class of each value on disk.

    Raises:
        UserError: if it cannot be read, or holds other values.
    """
    voxels = read_image(path)
    try:
        return meaning.classes(voxels, path)
    except FileFault as error:
        raise UserError(
            f"{path}: {error}; the run's record or scores know {sorted(meaning.class_of)}: predict or score it again."
        ) from error
