"""Segmentation metrics of one region of one patient, in the label map's own grid."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from monai.metrics import compute_surface_dice

from scripts.evaluation.lesions import SLACK, hausdorff_95, lesion_metrics
from scripts.labels import EMPTY_RULES, NO_OVERLAP_MM

__all__ = ["COLUMNS", "region_metrics"]

warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)  # MONAI warns of its own call

COLUMNS = (
    "dice", "hd95", "nsd", "sensitivity", "precision", "volume_error_ml", "lesion_dice", "lesion_hd95",
    "slice_mean_dice",
)  # fmt: skip
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
    if found and real:
        overlap = int((predicted & truth).sum())
        metrics |= {"dice": 2 * overlap / (found + real), "sensitivity": overlap / real, "precision": overlap / found}
        box = bounding_box(predicted | truth)  # distances are the same in it
        metrics |= surface_metrics(predicted[box], truth[box], spacing)
        metrics |= lesion_metrics(predicted[box], truth[box], spacing)
    else:
        both = not found and not real
        metrics |= dict.fromkeys(OVERLAPS, 1.0 if both else 0.0)
        metrics |= {"hd95": 0.0 if both else NO_OVERLAP_MM}
        metrics |= lesion_metrics(predicted, truth, spacing)
    return metrics


def surface_metrics(predicted: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """HD95 in mm and surface Dice of two masks that are not empty, (H, W, D)."""
    masks = [torch.from_numpy(mask[None, None]) for mask in (predicted, truth)]  # (1, 1, H, W, D)
    millimetres = [float(size) for size in spacing]
    surface = compute_surface_dice(
        *masks, [NSD_TOLERANCE_MM * SLACK], include_background=True, spacing=millimetres, use_subvoxels=True
    )
    return {"hd95": hausdorff_95(predicted, truth, spacing), "nsd": surface.item()}


def slice_mean_dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The MTCM-KD paper's score: mean over slices along the first axis of their Dice, 1 where both masks are empty."""
    total = predicted.sum((1, 2)) + truth.sum((1, 2))
    overlap = (predicted & truth).sum((1, 2))
    return float(np.where(total > 0, 2 * overlap / np.maximum(total, 1), 1.0).mean())


def bounding_box(mask: np.ndarray, margin: int = 1) -> tuple[slice, ...]:
    """Smallest box around a mask that is not empty, with a margin in voxels. Shapes: (H, W, D) -> three slices."""
    corners = [np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis)))[[0, -1]] for axis in range(3)]
    return tuple(slice(max(first - margin, 0), last + margin + 1) for first, last in corners)
