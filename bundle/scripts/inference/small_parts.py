"""Label maps without specks: parts of a tumour that are too small to trust are removed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from scipy.ndimage import find_objects, generate_binary_structure, label

from scripts.labels import CLASSES, REGIONS

NEIGHBOURS = generate_binary_structure(3, 3)  # 26-connectivity, as lesions are counted
ROUNDING = 1e-4  # voxel sizes are rounded in headers: a part that is nearer to the limit than this equals it
OUTER = {"WT": "background", "TC": "ED", "ET": "NCR"}  # what a small part of each region becomes, in this order


def clear_small_parts(classes: np.ndarray, voxel_ml: float, smallest_ml: float) -> np.ndarray:
    """A label map without connected parts of whole tumour, core or enhancing tumour below ``smallest_ml``.

    Such a part of whole tumour becomes background; then one of the core becomes oedema, and one of enhancing tumour
    NCR. The largest part of whole tumour stays, whatever its size, and the largest part of the core in what is left;
    of equal parts the first. Enhancing tumour may vanish, since many patients have none.

    Shapes: network classes (H, W, D) -> the same, a copy.
    """
    result = classes.copy()
    for region, outer in OUTER.items():
        mask = np.isin(result, dict(REGIONS)[region])
        result[small_parts(mask, smallest_ml / voxel_ml, keep_largest=region != "ET")] = CLASSES.index(outer)
    return result


def small_parts(mask: np.ndarray, voxels: float, keep_largest: bool) -> np.ndarray:
    """Which voxels lie in parts of fewer than ``voxels`` voxels. Shapes: boolean (H, W, D) -> the same."""
    parts, _ = label(mask, NEIGHBOURS)
    sizes = np.bincount(parts.ravel())
    small = sizes < voxels * (1 - ROUNDING)
    small[0] = False
    if keep_largest and len(sizes) > 1:
        small[1 + sizes[1:].argmax()] = False
    return small[parts]


class ClearSmallPartsd(MapTransform):
    """``clear_small_parts`` for label maps with an affine in mm.

    Args:
        keys: network classes, (1, H, W, D).
        smallest_ml: volume of the smallest part that stays, in ml; 0 changes nothing.
    """

    def __init__(self, keys: KeysCollection, smallest_ml: float = 0.0) -> None:
        super().__init__(keys)
        self.smallest_ml = smallest_ml

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        if not self.smallest_ml:
            return result
        for key in self.key_iterator(result):
            volume = result[key].clone()
            voxel_ml = abs(float(torch.linalg.det(volume.affine[:3, :3]))) / 1000
            voxels = volume[0].cpu().numpy()
            for box in find_objects((voxels > 0).astype(np.uint8)):  # most of a volume has no tumour
                cleared = clear_small_parts(voxels[box], voxel_ml, self.smallest_ml)
                volume[(0, *box)] = torch.from_numpy(cleared).to(volume)
            result[key] = volume
        return result
