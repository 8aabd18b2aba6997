"""Images and label maps of patients as arrays, with axes to the right, to the front and up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

from scripts.errors import UserError
from scripts.evaluation.pairs import to_classes

__all__ = ["read_classes", "read_image"]


def read_image(path: Path, channel: int | None = None) -> np.ndarray:
    """Voxels (H, W, D) of a file, or of one channel of a 4-D file, by default the first.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        voxels = np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)
    except Exception as error:  # nibabel, gzip and zlib fail in many ways
        raise UserError(f"{path} is unreadable or truncated ({error}): copy or predict it again.") from error
    return voxels[..., channel or 0] if voxels.ndim == 4 else voxels


def read_classes(path: Path, class_of: Mapping[int, int]) -> np.ndarray:
    """Network classes (H, W, D) of a label map; ``class_of`` gives the class of each value on disk."""
    return to_classes(read_image(path), class_of)
