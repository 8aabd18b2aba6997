"""How much an image looks like those that weights were trained on: a few traits, and the range of each in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

TRAITS = {  # what it means to be below and above the range
    "brain_ml": ("a smaller brain", "a larger brain"),
    "dark_end": ("less contrast of dark tissue", "more contrast of dark tissue"),  # 5th percentile below the median
    "bright_end": ("less contrast of bright tissue", "more contrast of bright tissue"),  # 99th percentile above it
    "sharpness": ("a blurrier image", "a sharper image"),  # median step between neighbours of 2 mm
}  # contrast and sharpness are in interquartile ranges
GRID_MM = 2.0  # on which traits are measured, so that the voxel size does not matter
MOST_PATIENTS = 50  # of a training that are measured, which takes some seconds
FEWEST_PATIENTS = 8  # of whom a range says something
EDGE = 3  # voxels of the brain's edge, where steps are those of the mask


def traits_of(voxels: np.ndarray, spacing: Sequence[float] | np.ndarray) -> dict[str, float]:
    """The traits of a skull-stripped image; all but the volume are the same for a * image + b inside the brain.

    Shapes: voxels (H, W, D), 0 outside the brain; spacing (3,) in mm.
    """
    from scipy import ndimage  # takes half a second, which commands that do not measure need not spend

    factors = np.asarray(spacing) / GRID_MM
    brain = voxels != 0
    if not np.allclose(factors, 1, atol=0.05):
        options: dict[str, Any] = {"zoom": factors, "mode": "nearest", "grid_mode": True}
        sums = ndimage.zoom(voxels.astype(np.float32), order=1, **options)
        shares = ndimage.zoom(brain.astype(np.float32), order=1, **options)  # of brain in each voxel
        brain = shares > 0.5
        voxels = np.where(brain, sums / np.maximum(shares, 0.5), 0)  # the brain's mean, without the background
    voxels = voxels.astype(np.float32)
    low, lower, middle, upper, high = np.percentile(voxels[brain], [5, 25, 50, 75, 99])
    scale = max(float(upper - lower), 1e-9)
    inside = ndimage.binary_erosion(brain, iterations=EDGE)
    return {
        "brain_ml": float(brain.sum()) * GRID_MM**3 / 1000,
        "dark_end": float(middle - low) / scale,
        "bright_end": float(high - middle) / scale,
        "sharpness": sharpness(voxels, inside) / scale,
    }


def sharpness(voxels: np.ndarray, inside: np.ndarray) -> float:
    """Median difference of neighbours inside a mask, mean of the three axes; 0 without neighbours."""
    steps = []
    for axis in range(3):
        lines, mask = np.moveaxis(voxels, axis, 0), np.moveaxis(inside, axis, 0)
        pairs = np.abs(np.diff(lines, axis=0))[mask[1:] & mask[:-1]]
        steps.append(float(np.median(pairs)) if pairs.size else 0.0)
    return float(np.mean(steps))


def trait_ranges(cases: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """[least, largest] of each trait over patients, at most MOST_PATIENTS; empty for fewer than FEWEST_PATIENTS.

    Args:
        cases: of a datalist, each with the path of its image, and channels where that is one of several in a file.
    """
    if len(cases) < FEWEST_PATIENTS:
        return {}
    chosen = np.linspace(0, len(cases) - 1, min(len(cases), MOST_PATIENTS)).astype(int)  # evenly spread
    found = []
    for case in (cases[number] for number in chosen):
        path = case["image"] if isinstance(case["image"], str) else case["image"][0]
        image, channels = nib.load(path), case.get("channels", {}).get("image")
        voxels = np.asanyarray(image.dataobj)
        voxels = voxels[..., channels[0] if channels else 0] if voxels.ndim == 4 else voxels
        found.append(traits_of(voxels, voxel_sizes(image.affine)))
    return {name: [min(traits[name] for traits in found), max(traits[name] for traits in found)] for name in TRAITS}


def unlike(traits: Mapping[str, float], ranges: Mapping[str, Sequence[float]]) -> list[str]:
    """The traits of an image that lie outside the training's range, with value and range.

    By the ranges of the shipped weights it names 10 of 19 scans of BraTS-Africa, and 1 of 8 other patients.
    """
    found = []
    for name, (low, high) in ranges.items():
        if not low <= traits[name] <= high:
            unit, form = (" ml", ".0f") if name.endswith("_ml") else ("", ".2f")
            value, least, most = (format(number, form) for number in (traits[name], low, high))
            found.append(f"{TRAITS[name][traits[name] > high]} ({value}{unit}, in training {least} to {most}{unit})")
    return found
