"""What shows that a volume still has the skull, or a background that is not quite 0."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_fill_holes, binary_propagation, distance_transform_edt

MOST_ML = 2500  # of voxels that are not 0; stripped brains here: below 2,000, whole heads: above 3,000
COARSE_MM = 2.5  # voxels that are enough to tell, and thickness of a layer
TOO_COARSE_MM = 4  # bone and scalp are 5 to 10 mm thick
DEEPEST_MM = 30  # of scalp, bone and the first of the brain
LEAST_VOXELS = 200  # of a layer whose mean counts
FAINT = 0.02  # of the 99th percentile: values below it that touch the background belong to it
MOST_DARK = 0.4  # how much darker a layer is than those around it; stripped brains: below 0.18, heads: above 0.44


def skull_sign(voxels: np.ndarray, spacing: np.ndarray) -> str:
    """What shows the skull in one sequence (H, W, D) with a background of 0; "" if nothing does."""
    millilitres = np.count_nonzero(voxels != 0) * float(np.prod(spacing)) / 1000
    if millilitres > MOST_ML:
        return f"{millilitres:,.0f} ml are not 0, more than a brain has, so the skull or other tissue is there"
    if darkest_layer(voxels, spacing) > MOST_DARK:
        return "a dark layer below a bright one, as bone below scalp, so the skull is there"
    return ""


def darkest_layer(voxels: np.ndarray, spacing: np.ndarray) -> float:
    """How much darker a layer is than the brighter ones outside and inside of it: 0 is not at all, 1 is black.

    Voxels that are longer than 4 mm along every axis tell nothing.
    """
    if min(spacing) > TOO_COARSE_MM:
        return 0.0
    coarse, steps = thinned(voxels, spacing)
    coarse = coarse[box_around(coarse)]  # brains fill a third of a volume
    inside = coarse != 0
    if inside.sum() < LEAST_VOXELS:
        return 0.0
    low, high = np.percentile(coarse[inside], [1, 99])
    values = np.where(inside, (coarse - low) / max(high - low, 1e-9), 0)
    depth = distance_transform_edt(filled(inside), sampling=np.multiply(spacing, steps))
    layer = np.ceil(depth / COARSE_MM).astype(int)  # 0 is outside
    counts, sums = np.bincount(layer.ravel()), np.bincount(layer.ravel(), values.ravel())
    wanted = [k for k in range(1, min(len(counts), round(DEEPEST_MM / COARSE_MM) + 1)) if counts[k] >= LEAST_VOXELS]
    means = sums[wanted] / counts[wanted]
    around = [min(means[1:k].max(), means[k + 1 :].max()) for k in range(2, len(means) - 1)]  # the first may be dura
    return max((1 - mean / bright for mean, bright in zip(means[2:], around) if bright > 0), default=0.0)


def faint_share(voxels: np.ndarray, spacing: np.ndarray) -> float:
    """Share of what is not 0 that lies around the brain, with values near 0, as a spline or a soft mask leaves it.

    Real stripped images here: below 0.08; images resampled by a cubic spline: above 0.1.
    """
    coarse = np.pad(thinned(voxels, spacing)[0], 1)
    values = np.abs(coarse[coarse != 0])
    if not values.size:
        return 0.0
    outside = np.zeros(coarse.shape, bool)
    outside[0] = True
    outside = binary_propagation(outside, mask=np.abs(coarse) < FAINT * np.percentile(values, 99))
    return float(np.count_nonzero(coarse[outside]) / values.size)


def thinned(voxels: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Every n-th voxel along each axis, some COARSE_MM apart, and n of each axis."""
    steps = [max(1, round(COARSE_MM / size)) for size in spacing]
    return voxels[tuple(slice(None, None, step) for step in steps)].astype(np.float32), steps


def box_around(voxels: np.ndarray) -> tuple[slice, ...]:
    """The box of all voxels that are not 0, and a voxel more on each side, so that what is outside stays connected."""
    inside = voxels != 0
    lines = [inside.any(axis=tuple({0, 1, 2} - {axis})).nonzero()[0] for axis in range(3)]
    return tuple(slice(max(line[0] - 1, 0), line[-1] + 2) if len(line) else slice(None) for line in lines)


def filled(inside: np.ndarray) -> np.ndarray:
    """The mask with what it encloses in any plane: bone that was set to 0 is open to the outside at the neck."""
    result = inside.copy()
    for axis in range(3):
        planes, target = np.moveaxis(inside, axis, 0), np.moveaxis(result, axis, 0)
        for index, plane in enumerate(planes):
            target[index] |= binary_fill_holes(plane)
    return result
