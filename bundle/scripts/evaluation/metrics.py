"""Segmentation metrics of one region of one patient, in the label map's own grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scripts.evaluation.lesions import SLACK, lesion_metrics
from scripts.evaluation.surfaces import hausdorff_95, surface_dice
from scripts.labels import EMPTY_RULES, NO_OVERLAP_MM

COLUMNS = (
    "dice", "hd95", "nsd", "sensitivity", "precision", "volume_error_ml", "lesion_dice", "lesion_hd95",
    "slice_mean_dice",
)  # fmt: skip
ERRORS = ("hd95", "lesion_hd95", "volume_error_ml")  # in mm or ml, less is better; of the others more is better
OVERLAPS = ("dice", "nsd", "sensitivity", "precision")
NSD_TOLERANCE_MM = 1.0


def region_metrics(
    predicted: np.ndarray, truth: np.ndarray, spacing: Sequence[float], empty_rule: str = "brats"
) -> dict[str, float]:
    """All metrics of one region of one patient, by name.

    | metric | unit | meaning |
    |---|---|---|
    | dice | | over the whole volume |
    | hd95 | mm | 95th percentile of surface distances, the larger of both directions |
    | nsd | | surface Dice at 1 mm (Nikolov et al. 2018, https://arxiv.org/abs/1809.04430) |
    | sensitivity, precision | | by voxels |
    | volume_error_ml | ml | predicted minus true volume |
    | lesion_dice, lesion_hd95 | , mm | by lesion, see ``lesions.lesion_metrics`` |
    | slice_mean_dice | | the MTCM-KD paper's score, see ``slice_mean_dice`` |

    Args:
        predicted: boolean mask.
        truth: boolean mask.
        spacing: voxel size in mm.
        empty_rule: a key of EMPTY_RULES; "exclude" makes all metrics of an empty region NaN.

    Shapes: predicted, truth (H, W, D); spacing (3,).

    Raises:
        ValueError: if the shapes differ, or the rule is unknown.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"masks have shapes {predicted.shape} and {truth.shape}, expected the same.")
    if empty_rule not in EMPTY_RULES:
        raise ValueError(f"empty_rule is {empty_rule!r}, expected one of {sorted(EMPTY_RULES)}.")
    found, real = int(predicted.sum()), int(truth.sum())
    voxel_ml = float(np.prod(spacing)) / 1000
    metrics = dict.fromkeys(COLUMNS, float("nan"))
    if empty_rule == "exclude" and not (found and real):
        return metrics
    metrics |= {"volume_error_ml": (found - real) * voxel_ml, "slice_mean_dice": slice_mean_dice(predicted, truth)}
    box = bounding_box(predicted | truth)  # distances and lesions are the same in it
    masks = (predicted[box], truth[box])
    if found and real:
        overlap = int((predicted & truth).sum())
        metrics |= {"dice": 2 * overlap / (found + real), "sensitivity": overlap / real, "precision": overlap / found}
        tolerance = NSD_TOLERANCE_MM * SLACK
        metrics |= {"hd95": hausdorff_95(*masks, spacing), "nsd": surface_dice(*masks, spacing, tolerance)}
    else:
        both = not found and not real
        metrics |= dict.fromkeys(OVERLAPS, 1.0 if both else 0.0)
        metrics |= {"hd95": 0.0 if both else NO_OVERLAP_MM}
    return metrics | lesion_metrics(*masks, spacing)


def slice_mean_dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The MTCM-KD paper's score: mean over slices along the first axis of their Dice, 1 where both masks are empty."""
    total = predicted.sum((1, 2)) + truth.sum((1, 2))
    overlap = (predicted & truth).sum((1, 2))
    return float(np.where(total > 0, 2 * overlap / np.maximum(total, 1), 1.0).mean())


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Smallest box around a mask; without a voxel if the mask is empty. Shapes: (H, W, D) -> three slices."""
    places = [np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return tuple(slice(found[0], found[-1] + 1) if len(found) else slice(0) for found in places)
