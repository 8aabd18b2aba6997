"""Brain masks that another program made: which one is of which image, and what it leaves of the image."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import io_orientation

from scripts.data.skull import MOST_ML
from scripts.data.volumes import Volume, grid_faults, read_volume, reorient
from scripts.errors import UserError
from scripts.faults import FileFault, fault_of

LEAST_ML = 350  # of brain in a mask, which may show a part; tumours: below 330, brains: above 1,100
EDGE, INSIDE = 0.1, 0.9  # of a soft mask's largest value: few voxels lie between
MOST_BETWEEN = 0.3  # share of such voxels among all above EDGE; coarse voxels that were resampled: below 0.3


def with_masks(images: Sequence[Mapping[str, Any]], brain_mask: str) -> list[dict[str, Any]]:
    """The images, each with ``brain_mask``, the path of its mask: a file, or a pattern whose * are the case's name.

    Raises:
        UserError: if one file is given for several images, or no image has a mask.
    """
    if "*" not in brain_mask and len(images) > 1:
        raise UserError(
            f"brain_mask is {brain_mask!r}, one file for {len(images)} images: give a pattern whose * stands for the "
            f'name of the case, such as "masks/*_bet.nii.gz" for masks/{images[0]["case"]}_bet.nii.gz.'
        )
    result = [
        {**image, "brain_mask": str(as_on_disk(Path(brain_mask.replace("*", image["case"]))))} for image in images
    ]
    if result and all(fault_of(image["brain_mask"]) for image in result):
        first = result[0]["brain_mask"]
        raise UserError(
            f"brain_mask is {brain_mask!r}, but {first} {fault_of(first)}: make the masks (hd-bet --save_bet_mask), or "
            "correct the pattern, whose * stands for the name of the case."
        )
    return result


def as_on_disk(path: Path) -> Path:
    """The path as the disk spells it: names from a Mac hold ü as two characters (NFD), others as one (NFC)."""
    if str(path).isascii() or not fault_of(path):
        return path
    folder, name = as_on_disk(path.parent), unicodedata.normalize("NFC", path.name)
    names = os.listdir(folder) if os.path.isdir(folder) and os.access(folder, os.R_OK) else []
    return folder / next((own for own in names if unicodedata.normalize("NFC", own) == name), path.name)


def brain_of(path: str, image: Volume, name: str) -> np.ndarray:
    """Where a mask is set, in the grid of its image; see ``marked``.

    Shapes: -> (H, W, D), bool.

    Args:
        path: the mask.
        image: its image.
        name: the image's file name.

    Raises:
        FileFault: if there is no mask, it cannot be read, lies on another grid, or marks no brain.
    """
    remedy = "give the mask of this image (hd-bet --save_bet_mask), in its grid"
    try:
        mask = read_volume("mask", {"mask": Path(path)}, 1)
    except FileNotFoundError as error:
        raise FileFault(f"there is no brain mask {path}", "make it (hd-bet), or correct --brain_mask") from error
    except ValueError as error:
        raise FileFault(f"brain mask {path}: {error}", remedy) from error
    mask = reorient(mask, io_orientation(image.affine))
    if faults := grid_faults(mask, image, name):
        raise FileFault(f"brain mask {path}: {faults[0][0]}", remedy)
    inside = marked(mask.voxels)
    shown = image.voxels.any(-1) if image.voxels.ndim == 4 else image.voxels != 0
    voxel_ml = float(np.prod(voxel_sizes(image.affine))) / 1000
    whole, brain = (np.count_nonzero(where) * voxel_ml for where in (inside, inside & shown))
    if brain < LEAST_ML or whole > MOST_ML:
        fault = f"brain mask {path} marks {whole:,.0f} ml, where the image is not 0 in {brain:,.0f} ml"
        raise FileFault(f"{fault}, expected a brain of {LEAST_ML} to {MOST_ML:,} ml", remedy)
    return inside


def marked(mask: np.ndarray) -> np.ndarray:
    """Where a mask is set: above half of its largest value if it is soft or has two values, else where it is not 0.

    So a stripped image, or a label map of tissues, is a mask too. NaN is outside.

    Shapes: any -> the same, bool.
    """
    values = np.where(np.isfinite(mask), mask, 0).astype(np.float32)
    top = values.max()
    some = values[values > EDGE * top]
    soft = some.size and np.count_nonzero(some < INSIDE * top) <= MOST_BETWEEN * some.size
    return values > top / 2 if soft else values != 0
