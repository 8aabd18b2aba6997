"""Images and label maps of patients as arrays, with axes to the right, to the front and up."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from tqdm import tqdm

from scripts.errors import UserError
from scripts.evaluation.pairs import to_classes
from scripts.labels import REGIONS, TABLE_ORDER

__all__ = ["read_classes", "read_image", "region_volumes"]


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


def region_volumes(cases: Collection[Mapping[str, Any]], class_of: Mapping[int, int]) -> list[dict[str, Any]]:
    """Volume of each region in ml, a row a case, in the label maps that ``prediction`` of each case names."""
    rows = []
    for case in tqdm(cases, desc="Reading label maps", disable=None):
        counts = np.bincount(read_classes(case["prediction"], class_of).ravel(), minlength=max(class_of.values()) + 1)
        millilitres = float(np.prod(voxel_sizes(nib.load(case["prediction"]).affine))) / 1000
        volumes = {name: counts[list(classes)].sum() * millilitres for name, classes in REGIONS}
        rows.append({"case": case["case"]} | {f"{name}_ml": f"{volumes[name]:.3f}" for name in TABLE_ORDER})
    return rows
