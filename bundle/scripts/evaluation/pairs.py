"""Label maps of any tool, read as network classes: one alone, or a prediction and its truth on one grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform

from scripts.data.checks import check_grid, shorten
from scripts.data.volumes import Volume, read_volume

__all__ = ["BRATS_VALUES", "Pair", "class_of_value", "read_pair", "to_classes"]

BRATS_VALUES = {0: 0, 1: 1, 2: 2, 3: 3, 4: 3}  # network class of each value on disk, of every edition


class Pair(NamedTuple):
    """The label maps of one case."""

    case: str
    predicted: Path
    truth: Path


def class_of_value(label_values: Sequence[int] | None) -> Mapping[int, int]:
    """Network class of each value on disk, from the list of all values; by default of every BraTS edition."""
    return {int(value): index for index, value in enumerate(label_values)} if label_values else BRATS_VALUES


def to_classes(voxels: np.ndarray, class_of: Mapping[int, int]) -> np.ndarray:
    """Network classes of a label map, uint8; values that stand for no class become background.

    Shapes: any -> the same.
    """
    classes = np.zeros(voxels.shape, np.uint8)
    for value, index in class_of.items():
        classes[voxels == value] = index
    return classes


def read_pair(pair: Pair, class_of: Mapping[int, int]) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Prediction and truth (H, W, D) in network classes, on the truth's grid, and its voxel size in mm.

    Raises:
        ValueError: (file, fault, remedy).
    """
    truth = read_label_map(pair.truth)
    predicted = reorient(read_label_map(pair.predicted), truth.affine)
    grid = (pair.truth.name, truth.voxels.shape, truth.affine)
    if faults := check_grid(predicted.voxels.shape, predicted.affine, grid):
        raise ValueError(pair.predicted, *faults[0])
    for volume, path in ((predicted, pair.predicted), (truth, pair.truth)):
        check_label_values(volume.voxels, class_of, path)
    spacing = tuple(float(size) for size in voxel_sizes(truth.affine))
    return to_classes(predicted.voxels, class_of), to_classes(truth.voxels, class_of), spacing


def read_label_map(path: Path) -> Volume:
    """One label map. Raises ValueError (file, fault, remedy) if there is none, or it cannot be read."""
    try:
        return read_volume("label", {"label": path}, 1)
    except FileNotFoundError as error:
        raise ValueError(path, "missing", "predict it, or leave the case out") from error
    except ValueError as error:
        raise ValueError(path, str(error), "expected a 3-D label map: copy or export the file again") from error


def reorient(volume: Volume, affine: np.ndarray) -> Volume:
    """The same label map with axes in the order and direction of another grid."""
    turn = ornt_transform(io_orientation(volume.affine), io_orientation(affine))
    back = inv_ornt_aff(turn, volume.voxels.shape)
    return Volume(apply_orientation(volume.voxels, turn), volume.affine @ back)


def check_label_values(voxels: np.ndarray, class_of: Mapping[int, int], path: Path) -> None:
    """Raises ValueError (file, fault, remedy) for a value of no class, or values of two editions in one file."""
    values = set(np.unique(voxels).tolist())
    if unknown := sorted(values - set(class_of)):
        known = sorted(class_of)
        raise ValueError(path, f"unknown label values {shorten(unknown)}", f"expected {known}: relabel the file")
    if class_of is BRATS_VALUES and {3, 4} <= values:
        raise ValueError(path, "holds 3 and 4, both ET", "give label_values, or relabel the file")
