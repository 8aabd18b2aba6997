"""Lesion-wise Dice and HD95 after the rules of BraTS 2023."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance
from scipy.ndimage import binary_dilation, generate_binary_structure
from scipy.ndimage import label as connected_components

__all__ = ["MISSED_MM", "lesion_metrics"]

REACH_MM = 3  # parts of the truth whose surroundings of this width touch are one lesion
SMALLEST_MM3 = 50  # true lesions up to this volume do not count
MISSED_MM = 374.0  # HD95 of a lesion that is missed, and of a false one
NEIGHBOURS = generate_binary_structure(3, 3)  # 26-connectivity


def lesion_metrics(predicted: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """Mean Dice and HD95 (mm) over lesions: each true one against the predicted components that touch its
    surroundings, and every predicted component that touches none as one more lesion of 0 and 374 mm.

    BraTS 2023 (glioma), https://www.synapse.org/Synapse:syn51156910: the truth is dilated, connected components of
    the dilation tell the lesions, lesions of up to 50 mm³ do not count, though what is predicted there is not false.
    Nothing to count scores 1 and 0 mm. The organisers dilate by 3 voxels, their volumes having 1 mm; here it is 3 mm.

    Shapes: predicted, truth (H, W, D) boolean; spacing (3,) in mm.
    """
    voxel_mm3 = float(np.prod(spacing))
    components, count = connected_components(predicted, NEIGHBOURS)
    surroundings, lesions = connected_components(dilate(truth, spacing), NEIGHBOURS)
    touched = {index: np.setdiff1d(np.unique(components[surroundings == index]), 0) for index in range(1, lesions + 1)}
    scores = []
    for index, parts in touched.items():
        lesion = truth & (surroundings == index)
        if lesion.sum() * voxel_mm3 > SMALLEST_MM3:
            scores.append(score_lesion(np.isin(components, parts), lesion, spacing) if len(parts) else (0, MISSED_MM))
    false = count - len({part for parts in touched.values() for part in parts})
    scores += [(0, MISSED_MM)] * false
    dice, distance = np.mean(scores, axis=0) if scores else (1, 0)
    return {"lesion_dice": float(dice), "lesion_hd95": float(distance)}


def score_lesion(predicted: np.ndarray, lesion: np.ndarray, spacing: Sequence[float]) -> tuple[float, float]:
    """Dice and HD95 (mm) of one lesion against the components that touch its surroundings; neither is empty."""
    dice = 2 * (predicted & lesion).sum() / (predicted.sum() + lesion.sum())
    masks = [torch.from_numpy(mask[None, None]) for mask in (predicted, lesion)]  # (1, 1, H, W, D)
    millimetres = [float(size) for size in spacing]
    distance = compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=millimetres)
    return float(dice), distance.item()


def dilate(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """All voxels within reach. At 1 mm this is exactly three dilations by the 18-neighbourhood, as in BraTS: offsets
    of at most 3 along each axis and 6 in all."""
    steps = [int(REACH_MM // size) for size in spacing]
    offsets = np.meshgrid(*(np.arange(-n, n + 1) * size for n, size in zip(steps, spacing)), indexing="ij")
    return binary_dilation(mask, np.abs(offsets).sum(0) <= 2 * REACH_MM)
