"""Lesion-wise Dice and HD95 by the rules of BraTS 2023."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import generate_binary_structure
from scipy.ndimage import label as connected_components

from scripts.evaluation.surfaces import edges, percentile_distance

REACH_MM = 3  # dilation of the truth: parts whose dilations touch are one lesion
SMALLEST_MM3 = 50  # true lesions up to this volume do not count
MISSED_MM = 374.0  # HD95 of a lesion that is missed, and of a false one
SLACK = 1 + 1e-4  # of thresholds in mm: voxel sizes are rounded in headers, and 3 voxels of 1.0000001 mm are 3 mm
NEIGHBOURS = generate_binary_structure(3, 3)  # 26-connectivity


def lesion_metrics(predicted: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """Mean Dice and HD95 (mm) over lesions.

    The rules of BraTS 2023 (glioma), https://www.synapse.org/Synapse:syn51156910:
    - The truth is dilated. Each connected component of the dilation is one lesion.
    - A lesion is compared with the predicted components that touch its dilation.
    - A predicted component that touches no lesion is a false lesion, and scores 0 and 374 mm.
    - Lesions of up to 50 mm³ do not count, and components that touch them are not false.
    - Where there is no lesion and no false one, the scores are 1 and 0 mm.
    The organisers dilate by 3 voxels of 1 mm. Here it is 3 mm at any voxel size.

    Shapes: predicted, truth (H, W, D) boolean; spacing (3,) in mm.
    """
    voxel_mm3 = float(np.prod(spacing))
    components, count = connected_components(predicted, NEIGHBOURS)
    surroundings, lesions = connected_components(dilate(truth, spacing), NEIGHBOURS)
    touches = np.unique(surroundings[predicted].astype(np.int64) * (count + 1) + components[predicted])
    near, part = np.divmod(touches[touches > count], count + 1)  # pairs of a lesion and a component that touches it
    found = np.bincount(components[predicted], minlength=count + 1)  # voxels
    real = np.bincount(surroundings[truth], minlength=lesions + 1)
    overlap = np.bincount(surroundings[predicted & truth], minlength=lesions + 1)  # what is found there touches it
    points = surface_points(predicted, components, count, spacing)
    true_points = surface_points(truth, surroundings, lesions, spacing)
    scores = []
    for index in range(1, lesions + 1):
        parts = part[near == index]
        if real[index] * voxel_mm3 <= SMALLEST_MM3 * SLACK:
            continue
        if not len(parts):
            scores.append((0, MISSED_MM))
            continue
        dice = 2 * overlap[index] / (found[parts].sum() + real[index])
        together = np.concatenate([points[item] for item in parts])
        scores.append((dice, percentile_distance(together, true_points[index])))
    scores += [(0, MISSED_MM)] * (count - len(np.unique(part)))
    dice, distance = np.mean(scores, axis=0) if scores else (1, 0)
    return {"lesion_dice": float(dice), "lesion_hd95": float(distance)}


def surface_points(mask: np.ndarray, labels: np.ndarray, count: int, spacing: Sequence[float]) -> list[np.ndarray]:
    """Surface voxels of each label from 0 to ``count``, in mm. Shapes: mask, labels (H, W, D) -> (N, 3) by label."""
    places = np.argwhere(edges(mask))
    label = labels[tuple(places.T)]
    order = np.argsort(label, kind="stable")
    return np.split(places[order] * np.asarray(spacing), np.searchsorted(label[order], range(1, count + 1)))


def dilate(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """The mask and all voxels within REACH_MM. At 1 mm this equals three dilations by the 18-neighbourhood, as in
    BraTS: offsets of at most 3 along each axis, and of at most 6 in sum."""
    reach = REACH_MM * SLACK
    steps = [int(reach // size) for size in spacing]
    offsets = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in steps), indexing="ij"), axis=-1).reshape(-1, 3)
    offsets = offsets[(np.abs(offsets) * spacing).sum(1) <= 2 * reach]
    grown = np.pad(np.ascontiguousarray(mask), [(n, n) for n in steps])  # room for all offsets
    flat = grown.reshape(-1)
    surface = np.flatnonzero(edges(grown))  # what is within reach of the mask is in it, or within reach of its surface
    for shift in offsets @ (np.array(grown.strides) // grown.itemsize):
        flat[surface + shift] = True
    return grown[tuple(slice(n, length - n) for n, length in zip(steps, grown.shape))]
