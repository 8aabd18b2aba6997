"""Read a volume, and compare its grid and its content with another one's."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.openers import ImageOpener
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.quaternions import quat2mat
from nibabel.volumeutils import shape_zoom_affine

from scripts.faults import FileFault
from scripts.labels import CLASSES, TARGETS

# Grids whose corners lie closer than this are equal: headers are rounded (float32, text, quaternions), and a tenth of a
# millimetre moves no voxel into its neighbour, unless voxels are smaller than in any scanner.
TOLERANCE_MM, TOLERANCE_VOXELS = 0.1, 0.25  # the smaller one counts
ROUNDING = 1e-3  # values closer than this to a whole number are that number: rounded by resampling or by a scale
ROUGHLY = 0.01  # voxel sizes that differ by a larger share are not the same
MOST_TURNED = 5  # degrees between the axes of qform and sform: quaternions are rounded, and hold no shear
CHUNK = 2**20  # bytes
MOST_PACKED = 1032  # bytes that gzip can pack into one
WRONG_END = "compressed and named .nii, or the reverse, so rename it"

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
    with open_whole(files[role]) as image:
        volume = Volume(np.asanyarray(image.dataobj), *header_facts(image))
    check_type(files[role])
    if role == "label" or (role == TARGETS and channels == 1):
        volume = volume._replace(voxels=whole_numbers(volume.voxels))
    return check_shape(volume, channels)


@contextmanager
def open_whole(path: str | Path) -> Iterator[Any]:
    """nibabel's image of a file, which is then read to its end: nibabel stops at the last voxel, before the checksum
    of a compressed file.

    Raises:
        ValueError: if the file cannot be read, or is damaged.
        MemoryError: if memory is too small for it.
    """
    try:
        with ImageOpener(path) as stream:
            yield type(nib.load(path)).from_stream(stream.fobj)
            while stream.read(CHUNK):
                pass
    except Exception as error:  # nibabel, gzip and zlib fail in many ways
        if isinstance(error, MemoryError) and may_hold_its_voxels(Path(path)):
            raise
        raise ValueError(unreadable(path, error)) from error


def may_hold_its_voxels(path: Path) -> bool:
    """Whether a file is large enough for the voxels that its header promises. Damaged headers promise more."""
    image: Any = nib.load(path)
    return math.prod(image.shape) * image.get_data_dtype().itemsize <= MOST_PACKED * path.stat().st_size


def unreadable(path: str | Path, error: Exception) -> str:
    """What is wrong with a file that cannot be read."""
    return WRONG_END if misnamed(Path(path)) else f"unreadable or truncated ({type(error).__name__})"


def misnamed(path: Path) -> bool:
    """Whether a compressed file is named .nii, or a NIfTI file that is not compressed .nii.gz."""
    try:
        with open(path, "rb") as file:
            start = file.read(348)
    except OSError:
        return False
    plain = b"n+1" in (start[344:347], start[4:7]) or start[4:7] == b"n+2"
    return plain if path.name.lower().endswith(".gz") else start[:2] == b"\x1f\x8b"


def read_header(path: str | Path) -> tuple[np.ndarray, str, bool, str]:
    """What the header of a file says, see ``header_facts``, for voxels that another reader took from it.

    Raises:
        ValueError: if the file cannot be read, or is damaged.
    """
    with open_whole(path) as image:
        facts = header_facts(image)
    return facts


def header_facts(image: Any) -> tuple[np.ndarray, str, bool, str]:
    """Affine, unit of the voxel size, whether there is a code for the affine (qform, sform), and any contradiction."""
    header = image.header
    code = int(header["xyzt_units"]) & 7 if "xyzt_units" in header else 0
    placed = any(int(header[key]) > 0 for key in ("qform_code", "sform_code") if key in header)
    conflict = find_conflict(header, image.affine) if "sform_code" in header and header["sform_code"] > 0 else ""
    return image.affine, {1: "metre", 3: "micrometre"}.get(code, "mm"), placed or "qform_code" not in header, conflict


def check_type(path: str | Path) -> None:
    """Raises FileFault for a volume of complex numbers or colours, of which MONAI would take a part."""
    kind = nib.load(path).get_data_dtype()
    if kind.kind not in "biuf":
        raise FileFault(f"voxels of type {kind}", "save the magnitude, or one channel, as real numbers")


def find_conflict(header: Mapping[str, Any], affine: np.ndarray) -> str:
    """How pixdim or the qform contradict the affine, which is the sform; "" if they do not.

    A qform without a code says nothing. One with another code than the sform is of another space (scanner and atlas),
    so that it may be turned and lie elsewhere, but no space is a mirror image.
    """
    factor, *said = (float(value) for value in header["pixdim"][:4])
    sizes = voxel_sizes(affine)
    if any(abs(value - size) > ROUGHLY * size for value, size in zip(said, sizes)):
        shown = (" x ".join(f"{value:.3g}" for value in values) for values in (said, sizes))
        return "pixdim says {} mm, the sform {} mm".format(*shown)
    if header["qform_code"] <= 0 or not sizes.all():  # a singular affine is named by check_shape
        return ""
    if (factor < 0) != (np.linalg.det(affine[:3, :3]) < 0):
        return "qform and sform mirror one another, so left and right are not known"
    if header["qform_code"] != header["sform_code"]:
        return ""
    quaternion = np.array([float(header[f"quatern_{part}"]) for part in "bcd"])
    axes = quat2mat([max(0.0, 1 - quaternion @ quaternion) ** 0.5, *quaternion]) * [1, 1, -1 if factor < 0 else 1]
    turned = np.degrees(np.arccos(np.clip((axes * affine[:3, :3] / sizes).sum(0), -1, 1))).max()
    if turned > MOST_TURNED:
        return f"qform and sform turn the head by {turned:.0f} degrees against one another"
    origin = np.array([float(header[f"qoffset_{axis}"]) for axis in "xyz"])
    moved = np.linalg.norm(origin - affine[:3, 3])
    return f"qform and sform put the first voxel {moved:.3g} mm apart" if moved > sizes.max() else ""


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
        remedy = "save it as a 3-D volume" if channels == 1 and {*volume.voxels.shape[3:]} == {1} else ""
        raise FileFault(f"shape {volume.voxels.shape}, expected {expected}", remedy)
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


def shorten(values: Sequence[float]) -> str:
    """The values, or the first five and their number, because an image in the place of a label has thousands."""
    shown = ", ".join(f"{value:g}" for value in values[:5])
    return f"[{shown}]" if len(values) <= 5 else f"[{shown}, ... {len(values)} in all]"


def grid_faults(volume: Volume, first: Volume, name: str) -> list[Finding]:
    """(fault, remedy) of a volume whose grid differs from the first volume of its case, which has this file name.

    Another orientation of the same grid is a fault too: paper.yaml and stacked sequences do not turn volumes.
    """
    axes, wanted = ("".join(nib.aff2axcodes(one.affine)) for one in (volume, first))
    if axes != wanted and not grid_faults(reorient(volume, io_orientation(first.affine)), first, name):
        remedy = f"other orientation: reorder its axes to {wanted} (nibabel, fslswapdim)"
        return [(f"its axes are {axes}, those of {name} {wanted}", remedy)]
    shape, first_shape = volume.voxels.shape[:3], first.voxels.shape[:3]
    if shape != first_shape:
        return [(f"shape {shape} differs from {first_shape} of {name}", "resample it to that file's grid")]
    corners = np.stack(np.meshgrid(*((0, length - 1) for length in shape)), axis=-1).reshape(-1, 3)
    moves = apply_affine(volume.affine, corners) - apply_affine(first.affine, corners)
    distance = float(np.linalg.norm(moves, axis=1).max())
    smallest = voxel_sizes(first.affine).min()
    if distance <= min(TOLERANCE_MM, TOLERANCE_VOXELS * smallest):
        return []
    fault = f"affine differs from {name} by up to {distance:.3g} mm"
    if distance < smallest / 2:
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


def count_pairs(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Voxels by class in one and in the other, (4, 4). Shapes: the same for both, in network classes."""
    count = len(CLASSES)
    return np.bincount(one.ravel() * count + other.ravel(), minlength=count**2).reshape(count, count)


def content_checksum(volume: Volume) -> int:
    """Checksum of the values in space: orientation, data type, byte order, rounding and the sign of 0 do not matter.

    The axes run to the left, to the back and up, and whole numbers are int16: as BraTS stores them, so that checksums
    of stored voxels, which earlier versions took, are the same there.
    """
    voxels = reorient(volume, axcodes2ornt("LPS")).voxels
    voxels = whole_numbers(voxels + 0.0 if voxels.dtype.kind == "f" else voxels)  # -0.0 + 0.0 is 0.0
    low, high = voxels.min(), voxels.max()
    whole = voxels.dtype.kind in "biu" or np.array_equal(voxels, np.rint(voxels))
    short = whole and low >= -(2**15) and high < 2**15
    return zlib.crc32(np.ascontiguousarray(voxels, np.int16 if short else np.float32).tobytes())
