"""Distances between the surfaces of two masks: HD95 and surface Dice, as MONAI computes them.

The values are those of ``monai.metrics``, with which tests compare them. PyTorch and MONAI are not imported here: that
takes as long as scoring ten patients, and each scoring process would do it again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import KDTree

# The surface between the voxels of a 2x2x2 neighbourhood consists of triangles, whose normals have few directions. A
# normal's length is the triangle's area, here in eighths of the face of a voxel.
NORMALS = ((1, 1, 1), (2, 2, 0), (2, 0, 2), (0, 2, 2), (4, 0, 0), (0, 4, 0), (0, 0, 4))
# How often each of these normals occurs, one digit for each, by the code of ``neighbour_codes`` from 0 to 127. Code
# 255 - c has the same surface as c. The triangles are those of DeepMind's surface-distance (Apache 2.0,
# https://github.com/google-deepmind/surface-distance), which MONAI uses too.
TRIANGLES = """
0000000 1000000 1000000 0200000 1000000 0020000 2000000 3000100 1000000 2000000 0020000 3000100 0200000 3000100 3000100
0000200 1000000 0002000 2000000 3000010 2000000 3000001 3000000 6000000 2000000 1002000 1020000 4011000 1200000 4101000
4000100 3000100 1000000 2000000 0002000 3000010 2000000 1020000 1002000 4011000 2000000 3000000 3000001 6000000 1200000
4000100 4101000 3000100 0200000 3000010 3000010 0000020 1200000 4110000 4000010 3000010 1200000 4000010 4110000 3000010
0400000 1200000 1200000 0200000 1000000 2000000 2000000 1200000 0002000 3000001 1002000 4101000 2000000 3000000 1020000
4000100 3000010 6000000 4011000 3000100 0020000 3000001 1020000 4110000 3000001 0000002 4000001 3000001 1020000 4000001
0040000 1020000 4110000 3000001 1020000 0020000 2000000 3000000 1002000 4000010 1002000 4000001 0004000 1002000 3000000
4000000 4000001 3000000 4000010 3000000 1002000 2000000 3000100 6000000 4011000 3000010 4101000 3000001 1002000 0002000
4000100 3000000 1020000 2000000 1200000 2000000 2000000 1000000
"""


def hausdorff_95(predicted: np.ndarray, truth: np.ndarray, spacing: Sequence[float]) -> float:
    """95th percentile of surface distances in mm, the larger of both directions.

    Equals ``monai.metrics.compute_hausdorff_distance(..., percentile=95)``.

    Shapes: predicted, truth (H, W, D) boolean, neither of them empty; spacing (3,) in mm.
    """
    return percentile_distance(*(np.argwhere(edges(mask)) * np.asarray(spacing) for mask in (predicted, truth)))


def surface_dice(predicted: np.ndarray, truth: np.ndarray, spacing: Sequence[float], tolerance: float) -> float:
    """Share of both surfaces that lies within a tolerance in mm of the other one (Nikolov et al. 2018).

    Equals ``monai.metrics.compute_surface_dice(..., use_subvoxels=True)``.

    Shapes: predicted, truth (H, W, D) boolean, neither of them empty; spacing (3,) in mm.
    """
    area_of_code = surface_areas(spacing)
    points, areas = [], []
    for mask in (predicted, truth):
        codes = neighbour_codes(mask)
        crossed = (codes > 0) & (codes < 255)  # neighbourhoods that are neither outside nor inside
        points.append(np.argwhere(crossed) * np.asarray(spacing))
        areas.append(area_of_code[codes[crossed]])
    close = [near(points[0], points[1], tolerance), near(points[1], points[0], tolerance)]
    correct = sum(float(area[where].sum()) for area, where in zip(areas, close))
    return correct / sum(float(area.sum()) for area in areas)


def edges(mask: np.ndarray) -> np.ndarray:
    """Voxels of a mask with a face on its surface; outside the grid there is nothing. Shapes: (H, W, D) -> the same."""
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for axis in range(3):
        for step in (-1, 1):
            inside &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
    return mask & ~inside


def percentile_distance(first: np.ndarray, second: np.ndarray) -> float:
    """95th percentile of the distances to the nearest point of the other set, the larger of both directions.

    Shapes: first (N, 3), second (M, 3), points in mm; neither of them empty.
    """
    return max(percentile_95(nearest(first, second)), percentile_95(nearest(second, first)))


def nearest(points: np.ndarray, others: np.ndarray, limit: float = np.inf) -> np.ndarray:
    """Distance of each point to the nearest of the others, infinite beyond a limit. (N, 3), (M, 3) -> (N,) float32."""
    return KDTree(others, leafsize=32).query(points, distance_upper_bound=limit)[0].astype(np.float32)


def near(points: np.ndarray, others: np.ndarray, tolerance: float) -> np.ndarray:
    """Which points are at most this far from any of the others. Shapes: (N, 3), (M, 3) -> (N,)."""
    return nearest(points, others, limit=2 * tolerance) <= tolerance  # the limit only makes the search shorter


def percentile_95(distances: np.ndarray) -> float:
    """The 95th percentile of (N,) distances in float32, to the last bit as ``torch.quantile`` interpolates it."""
    rank = np.float32(0.95) * np.float32(len(distances) - 1)
    low, high = int(np.floor(rank)), int(np.ceil(rank))
    below, above = np.partition(distances, (low, high))[[low, high]]
    weight = rank - np.float32(low)
    start, share = (below, weight) if weight < 0.5 else (above, weight - np.float32(1))
    return float(np.float32(float(start) + float(share) * float(above - below)))


def neighbour_codes(mask: np.ndarray) -> np.ndarray:
    """Code of the 2x2x2 voxels around each corner of a voxel: a bit a voxel, that of the lowest indices first.

    Shapes: mask (H, W, D) boolean -> (H + 1, W + 1, D + 1) uint8; outside the grid there is nothing.
    """
    voxels = np.pad(mask, 1).astype(np.uint8)
    rows = 2 * voxels[:, :, :-1] + voxels[:, :, 1:]
    squares = 4 * rows[:, :-1] + rows[:, 1:]
    return 16 * squares[:-1] + squares[1:]


def surface_areas(spacing: Sequence[float]) -> np.ndarray:
    """Area in mm² of the surface in a 2x2x2 neighbourhood, by its code, (256,)."""
    faces = np.prod(spacing) / np.asarray(spacing)  # area of a voxel's face across each axis, mm²
    area = np.linalg.norm(np.array(NORMALS) / 8 * faces, axis=1)
    half = np.array([[int(digit) for digit in counts] for counts in TRIANGLES.split()]) @ area
    return np.concatenate([half, half[::-1]])
