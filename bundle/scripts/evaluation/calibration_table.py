"""The table calibration.csv: how reliable each region's probability is, one row a region and bin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.files import read_table

BINS = 10
COLUMNS = ("region", "bin", "voxels", "probability", "frequency")


def bin_row(region: str, index: int, voxels: float, probability: float, true: float) -> dict[str, Any]:
    """One row of calibration.csv, from the sums over the voxels of a bin."""
    means = (f"{total / max(voxels, 1):.6f}" for total in (probability, true))
    return dict(zip(COLUMNS, (region, index, int(voxels), *means)))


def read_calibration(path: Path) -> list[dict[str, Any]]:
    """Rows of a calibration.csv; none if it does not exist. Raises UserError if it has another form."""
    return read_table(path, dict(zip(COLUMNS, (str, int, int, float, float))))


def merge_calibration(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Rows of several calibration.csv as one: voxels are added, the other columns are averaged over voxels."""
    sums: dict[tuple[str, int], np.ndarray] = {}
    for path in paths:
        for row in read_calibration(path):
            voxels, means = int(row["voxels"]), [float(row["probability"]), float(row["frequency"])]
            key = (row["region"], int(row["bin"]))
            sums[key] = sums.get(key, np.zeros(3)) + np.array([1.0, *means]) * voxels
    return [bin_row(region, index, *total) for (region, index), total in sums.items()]


def calibration_error(rows: Sequence[Mapping[str, str]], region: str) -> float:
    """Expected calibration error: mean of |probability - frequency| over bins, weighted by voxels (Naeini 2015).

    The first bin does not count: it holds nearly all of the brain and would hide the others.
    """
    bins = [row for row in rows if row["region"] == region and int(row["bin"]) > 0]
    voxels = np.array([int(row["voxels"]) for row in bins])
    gaps = np.array([abs(float(row["probability"]) - float(row["frequency"])) for row in bins])
    return float((voxels * gaps).sum() / max(voxels.sum(), 1))
