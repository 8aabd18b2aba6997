"""Brain masks that another program made: which one is of which image, and what it leaves of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import io_orientation

from scripts.data.volumes import Volume, grid_faults, read_volume, reorient
from scripts.errors import UserError

__all__ = ["brain_of", "with_masks"]


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
    result = [{**image, "brain_mask": brain_mask.replace("*", image["case"])} for image in images]
    if result and not any(Path(image["brain_mask"]).is_file() for image in result):
        raise UserError(
            f"brain_mask is {brain_mask!r}, but there is no {result[0]['brain_mask']}: make the masks (hd-bet "
            "--save_bet_mask), or correct the pattern, whose * stands for the name of the case."
        )
    return result


def brain_of(path: str, image: Volume, name: str) -> np.ndarray:
    """Where a mask is not 0, in the grid of its image. A stripped image is a mask too.

    Shapes: -> (H, W, D), bool.

    Args:
        path: the mask.
        image: its image.
        name: the image's file name.

    Raises:
        ValueError: (fault, remedy) if there is no mask, it cannot be read, is empty, or lies on another grid.
    """
    remedy = "give the mask of this image (hd-bet --save_bet_mask), in its grid"
    try:
        mask = read_volume("mask", {"mask": Path(path)}, 1)
    except FileNotFoundError as error:
        raise ValueError(f"there is no brain mask {path}", "make it (hd-bet), or correct --brain_mask") from error
    except ValueError as error:
        raise ValueError(f"brain mask {path}: {error}", remedy) from error
    mask = reorient(mask, io_orientation(image.affine))
    if faults := grid_faults(mask, image, name):
        raise ValueError(f"brain mask {path}: {faults[0][0]}", remedy)
    if not mask.voxels.any():
        raise ValueError(f"brain mask {path} is 0 everywhere", remedy)
    return mask.voxels != 0
