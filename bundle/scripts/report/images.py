"""Images and label maps of patients as arrays, with axes to the right, to the front and up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

from scripts.data.volumes import open_whole
from scripts.errors import UserError
from scripts.evaluation.pairs import to_classes

__all__ = ["read_classes", "read_image"]


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
    return voxels[..., channel or 0] if voxels.ndim == 4 else voxels


def read_classes(path: Path, class_of: Mapping[int, int]) -> np.ndarray:
    """Network classes (H, W, D) of a label map; ``class_of`` gives the class of each value on disk.

    Raises:
        UserError: if it cannot be read, or holds other values.
    """
    voxels = read_image(path)
    try:
        return to_classes(voxels, class_of)
    except ValueError as error:
        fault, expected = error.args
        raise UserError(
            f"{path} holds {fault}, {expected} as the run's record or scores say: predict or score it again."
        ) from error
