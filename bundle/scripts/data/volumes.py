"""Read a volume: voxels and affine of a NIfTI file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

__all__ = ["Volume", "check_shape", "read_volume", "unique_roles"]


class Volume(NamedTuple):
    """Voxels (H, W, D), or (H, W, D, V) for V sequences, and the 4 x 4 affine in mm."""

    voxels: np.ndarray
    affine: np.ndarray


def unique_roles(files: Mapping[str, Path], roles: Sequence[str]) -> list[str]:
    """The roles without repeated files: MSD Task01 keeps all sequences in one file."""
    first = {str(files.get(role, role)): role for role in reversed(roles)}
    return [role for role in roles if role in first.values()]


def read_volume(role: str, files: Mapping[str, Path], channels: int) -> Volume:
    """The volume of one role, read completely.

    Raises:
        FileNotFoundError: if there is no file. Its text is the path, or "-".
        ValueError: if it cannot be read, or has another number of channels.
    """
    if role not in files or not files[role].is_file():
        raise FileNotFoundError(str(files.get(role, "-")))
    try:
        image = nib.load(files[role])
        volume = Volume(np.asanyarray(image.dataobj), image.affine)
    except Exception as error:  # nibabel, gzip and zlib fail in many ways
        raise ValueError(f"unreadable or truncated ({type(error).__name__})") from error
    if volume.voxels.dtype.kind not in "biuf":
        raise ValueError(f"voxels of type {volume.voxels.dtype}, expected numbers")
    return check_shape(volume, channels)


def check_shape(volume: Volume, channels: int) -> Volume:
    """The volume, without its last axis if that holds one sequence.

    Raises:
        ValueError: for another number of channels, a single slice, or a singular affine.
    """
    if not abs(np.linalg.det(volume.affine[:3, :3])) > 0:
        raise ValueError("no voxel size: the affine is singular")
    if channels == 1 and volume.voxels.shape[3:] == (1,):
        volume = Volume(volume.voxels[..., 0], volume.affine)
    if volume.voxels.ndim < 3 or volume.voxels.shape[3:] != ((channels,) if channels > 1 else ()):
        expected = "a 3-D volume (one of a series)" if channels == 1 else f"4-D with {channels} channels"
        raise ValueError(f"shape {volume.voxels.shape}, expected {expected}")
    if 1 in volume.voxels.shape[:3]:
        raise ValueError(f"shape {volume.voxels.shape}, a single slice, expected a volume")
    return volume
