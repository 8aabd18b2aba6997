"""Read a volume, and tell whether it can be what it is taken for: a brain on a known grid, or a label on that grid."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.volumeutils import shape_zoom_affine

from scripts.labels import TARGETS

__all__ = [
    "Volume", "check_shape", "check_type", "content_checksum", "grid_faults", "image_faults", "label_faults",
    "probability_faults", "read_header", "read_volume", "reorient", "shorten", "unique_roles", "whole_numbers",
]  # fmt: skip

# Grids whose corners lie closer than this are equal: headers are rounded (float32, text, quaternions), and a tenth of a
# millimetre moves no voxel into its neighbour.
TOLERANCE_MM = 0.1
ROUNDING = 1e-3  # values closer than this to a whole number are that number: rounded by resampling or by a scale
ROUGHLY = 0.01  # voxel sizes that differ by a larger share are not the same

SHORTEST_MM, LONGEST_MM = 50, 400  # along each axis of a volume that can show a head
MOST_NOT_ZERO = 0.9  # share of voxels that are not 0; a brain fills half of its bounding box
LEAST_SPREAD = 0.1  # 5th to 95th percentile of a brain's values, relative to them; real ones have above 0.5
MOST_FLAT = 0.6  # share of bright neighbours in a brain with the same value; real brains: below 0.3, z-scored 0.5
FLAT = 0.005  # of the 99th percentile: values that are closer are the same
SAMPLE = 4_000_000  # voxels that are enough to tell

Finding = tuple[str, str]  # (fault, remedy)


class Volume(NamedTuple):
    """Voxels (H, W, D), or (H, W, D, V) for V sequences, the 4 x 4 affine in mm, and what the header says of it."""

    voxels: np.ndarray
    affine: np.ndarray
    unit: str = "mm"
    placed: bool = True  # the header has a code for the affine, so that left and right are known
    conflict: str = ""  # how the header contradicts itself


def unique_roles(files: Mapping[str, Path], roles: Sequence[str]) -> list[str]:
    """The roles without repeated files: MSD Task01 keeps all sequences in one file."""
    first = {str(files.get(role, role)): role for role in reversed(roles)}
    return [role for role in roles if role in first.values()]


def read_volume(role: str, files: Mapping[str, Path], channels: int) -> Volume:
    """The volume of one role, read completely. A label's values are whole numbers where they are nearly so.

    Raises:
        FileNotFoundError: if there is no file. Its text is the path, or "-".
        ValueError: if it cannot be read, or has another number of channels.
    """
    if role not in files or not files[role].is_file():
        raise FileNotFoundError(str(files.get(role, "-")))
    try:
        image = nib.load(files[role])
        volume = Volume(np.asanyarray(image.dataobj), *read_header(files[role]))
    except Exception as error:  # nibabel, gzip and zlib fail in many ways
        raise ValueError(f"unreadable or truncated ({type(error).__name__})") from error
    check_type(files[role])
    if role == "label" or (role == TARGETS and channels == 1):
        volume = volume._replace(voxels=whole_numbers(volume.voxels))
    return check_shape(volume, channels)


def read_header(path: str | Path) -> tuple[np.ndarray, str, bool, str]:
    """Affine, unit of the voxel size, whether there is a code for the affine (qform, sform), and any contradiction."""
    image = nib.load(path)
    header = image.header
    code = int(header["xyzt_units"]) & 7 if "xyzt_units" in header else 0
    placed = any(int(header[key]) > 0 for key in ("qform_code", "sform_code") if key in header)
    conflict = find_conflict(header, image.affine) if "sform_code" in header and header["sform_code"] > 0 else ""
    return image.affine, {1: "metre", 3: "micrometre"}.get(code, "mm"), placed or "qform_code" not in header, conflict


def check_type(path: str | Path) -> None:
    """Raises ValueError for a volume of complex numbers or colours, of which MONAI would take a part."""
    kind = nib.load(path).get_data_dtype()
    if kind.kind not in "biuf":
        raise ValueError(f"voxels of type {kind}, expected real numbers: the magnitude, or one channel")


def find_conflict(header: Mapping[str, Any], affine: np.ndarray) -> str:
    """How pixdim or the qform contradict the affine, which is the sform; "" if they do not."""
    factor, *said = (float(value) for value in header["pixdim"][:4])
    sizes = voxel_sizes(affine)
    if any(abs(value - size) > ROUGHLY * size for value, size in zip(said, sizes)):
        shown = (" x ".join(f"{value:.3g}" for value in values) for values in (said, sizes))
        return "pixdim says {} mm, the sform {} mm".format(*shown)
    if header["qform_code"] > 0 and (factor < 0) != (np.linalg.det(affine[:3, :3]) < 0):
        return "qform and sform mirror one another, so left and right are not known"
    return ""


def check_shape(volume: Volume, channels: int) -> Volume:
    """The volume, without its last axis if that holds one sequence.

    Raises:
        ValueError: for another number of channels, a single slice, or a singular affine.
    """
    if not np.isfinite(volume.affine).all() or np.isnan(io_orientation(volume.affine)).any():
        raise ValueError("no voxel size: the affine is singular")
    if channels == 1 and volume.voxels.shape[3:] == (1,):
        volume = volume._replace(voxels=volume.voxels[..., 0])
    if volume.voxels.ndim < 3 or volume.voxels.shape[3:] != ((channels,) if channels > 1 else ()):
        expected = "a 3-D volume (one of a series)" if channels == 1 else f"4-D with {channels} channels"
        raise ValueError(f"shape {volume.voxels.shape}, expected {expected}")
    if min(volume.voxels.shape[:3]) < 2:
        raise ValueError(f"shape {volume.voxels.shape}, a single slice or none, expected a volume")
    return volume


def whole_numbers(voxels: np.ndarray) -> np.ndarray:
    """The voxels, with values that are whole numbers up to rounding (0.99999994) as these numbers."""
    if voxels.dtype.kind != "f":
        return voxels
    rounded = np.rint(voxels)
    near = np.abs(voxels - rounded) <= ROUNDING  # False for NaN and infinity
    return np.where(near, rounded, voxels)


def image_faults(volume: Volume) -> list[Finding]:
    """What shows that a volume is no skull-stripped brain on a known grid. Training and prediction ask this."""
    voxels = volume.voxels
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
        return [("non-finite voxels (NaN or infinity)", "repair the file, or leave it out")]
    if not (voxels > 0).any():
        return [("empty image (no voxel above 0)", "replace the file, or leave it out")]
    channels = np.moveaxis(voxels, 3, 0) if voxels.ndim == 4 else [voxels]
    return header_faults(volume) or [found for channel in channels for found in brain_faults(channel)][:1]


def header_faults(volume: Volume) -> list[Finding]:
    """What is wrong with the place and the size of a volume, at most one finding."""
    extent = np.array(volume.voxels.shape[:3]) * voxel_sizes(volume.affine)
    sizes = " x ".join(f"{length:.3g}" for length in extent)
    if volume.unit != "mm":
        fault = f"the header's unit is {volume.unit} (extent {sizes}), expected mm"
        return [(fault, "write voxel sizes and affine in mm, and the unit mm")]
    if not ((extent >= SHORTEST_MM) & (extent <= LONGEST_MM)).all():
        fault = f"extent {sizes} mm, expected {SHORTEST_MM} to {LONGEST_MM} mm along each axis of a head"
        return [(fault, "correct the voxel size in the header, or give the whole brain")]
    if volume.conflict:
        return [(f"the header contradicts itself: {volume.conflict}", "convert the file again, or correct the header")]
    if not volume.placed:
        fault = "the header has neither qform nor sform code, so left and right are not known"
        return [(fault, "convert the file again, or set its orientation and code")]
    return []


def brain_faults(voxels: np.ndarray) -> list[Finding]:
    """What is wrong with the values of one sequence (H, W, D), at most one finding."""
    share = np.count_nonzero(voxels) / voxels.size
    if share > MOST_NOT_ZERO:
        fault = f"{share:.0%} of the voxels are not 0, but all outside the brain must be"
        return [(fault, "strip the skull (HD-BET, SynthStrip), and set the background to 0")]
    if share == 0:
        return []  # one of several sequences
    values = voxels[voxels != 0]
    low, high, top = np.percentile(values[:: len(values) // SAMPLE + 1].astype(np.float32), [5, 95, 99])
    remedy = "give the sequence itself, not a mask or a map made of it"
    if high - low < LEAST_SPREAD * max(abs(low), abs(high)):
        return [(f"almost the same value in the whole brain ({low:.3g} to {high:.3g})", remedy)]
    if flatness(voxels, max(abs(low), abs(top))) > MOST_FLAT:
        return [("most neighbours in the brain have the same value, as in a mask or a label map", remedy)]
    return []


def flatness(voxels: np.ndarray, top: float) -> float:
    """Share of equal neighbours, up to FLAT of ``top``, among those above half of it: the least of the three axes."""
    shares = []
    apart = int((voxels.size / SAMPLE) ** 0.5) + 1  # of the lines of voxels that are looked at
    for axis in range(3):
        lines = np.moveaxis(voxels, axis, 0)[:, ::apart, ::apart].astype(np.float32)
        bright = np.abs(lines) > top / 2  # not the blurred edge of a mask
        inside = bright[1:] & bright[:-1]
        steps = np.abs(np.diff(lines, axis=0))[inside]
        shares.append(float((steps <= FLAT * top).mean()) if inside.any() else 0.0)
    return min(shares)


def label_faults(voxels: np.ndarray, labels: Collection[int]) -> list[Finding]:
    """Values of a label that have no meaning."""
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
        return [("non-finite voxels (NaN or infinity)", "repair the file, or leave it out")]
    unknown = sorted(set(np.unique(voxels).tolist()) - set(labels))
    return [(f"unknown label values {shorten(unknown)}", f"expected {sorted(labels)}: relabel the file")] * bool(
        unknown
    )


def probability_faults(voxels: np.ndarray) -> list[Finding]:
    """What shows that voxels (H, W, D, V) are no probabilities."""
    if not (np.isfinite(voxels).all() and voxels.min() >= -ROUNDING and voxels.max() <= 1 + ROUNDING):
        return [("values that are no probabilities", "expected 0 to 1: give probabilities (after softmax or sigmoid)")]
    return []


def shorten(values: Sequence[float]) -> str:
    """The values, or the first five and their number, because an image in the place of a label has thousands."""
    shown = ", ".join(f"{value:g}" for value in values[:5])
    return f"[{shown}]" if len(values) <= 5 else f"[{shown}, ... {len(values)} in all]"


def grid_faults(volume: Volume, first: Volume, name: str) -> list[Finding]:
    """(fault, remedy) of a volume whose grid differs from the first volume of its case, which has this file name."""
    shape, first_shape = volume.voxels.shape[:3], first.voxels.shape[:3]
    if shape != first_shape:
        return [(f"shape {shape} differs from {first_shape} of {name}", "resample it to that file's grid")]
    corners = np.stack(np.meshgrid(*((0, length - 1) for length in shape)), axis=-1).reshape(-1, 3)
    moves = apply_affine(volume.affine, corners) - apply_affine(first.affine, corners)
    distance = float(np.linalg.norm(moves, axis=1).max())
    if distance <= TOLERANCE_MM:
        return []
    fault = f"affine differs from {name} by up to {distance:.3g} mm"
    if distance < voxel_sizes(first.affine).min() / 2:
        return [(fault, "less than half a voxel, as by rounding: if the voxels fit, copy that file's affine")]
    centred = shape_zoom_affine(shape, voxel_sizes(volume.affine))  # what nibabel gives where the header says nothing
    if not volume.placed or any(np.allclose(volume.affine, affine) for affine in (np.eye(4), centred)):
        return [(fault, "its header says no place: if the voxels fit, copy that file's header")]
    return [(fault, "register it and resample it to that file's grid")]


def reorient(volume: Volume, orientation: np.ndarray) -> Volume:
    """The same volume with axes in another order and direction, as nibabel's ``io_orientation`` gives them."""
    turn = ornt_transform(io_orientation(volume.affine), orientation)
    back = inv_ornt_aff(turn, volume.voxels.shape[:3])
    return volume._replace(voxels=apply_orientation(volume.voxels, turn), affine=volume.affine @ back)


def content_checksum(volume: Volume) -> int:
    """Checksum of the values in space: orientation, data type, byte order and rounding do not matter.

    The axes run to the left, to the back and up, and whole numbers are int16: as BraTS stores them, so that checksums
    of stored voxels, which earlier versions took, are the same there.
    """
    voxels = whole_numbers(reorient(volume, axcodes2ornt("LPS")).voxels)
    low, high = voxels.min(), voxels.max()
    whole = voxels.dtype.kind in "biu" or np.array_equal(voxels, np.rint(voxels))
    short = whole and low >= -(2**15) and high < 2**15
    return zlib.crc32(np.ascontiguousarray(voxels, np.int16 if short else np.float32).tobytes())
