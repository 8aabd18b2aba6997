"""Checks of every file of every patient before work starts; all faults are reported together."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import ignite.distributed as idist
import nibabel as nib
import numpy as np

from scripts.errors import UserError

__all__ = [
    "CaseReport",
    "Fault",
    "Volume",
    "check_case",
    "check_cases",
    "check_shape",
    "check_voxels",
    "duplicates",
    "few",
    "settle",
]

logger = logging.getLogger(__name__)


class Fault(NamedTuple):
    """One thing wrong with one file of one case, and what to do about it."""

    case: str
    file: str
    fault: str
    remedy: str


@dataclass
class CaseReport:
    """What reading a case showed: its faults, the label values, the tumour's volume (ml), the images' checksum."""

    faults: list[Fault] = field(default_factory=list)
    label_values: set[int] = field(default_factory=set)
    tumour_ml: float = 0.0
    checksum: int = 0


def check_cases(check: Callable[[int], CaseReport], count: int) -> list[CaseReport]:
    """``check(index)`` for all cases, shared among threads and ranks; every rank gets all reports, in order."""
    rank, world = idist.get_rank(), idist.get_world_size()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        mine = list(pool.map(check, range(rank, count, world)))
    if world == 1:
        return mine
    shards = idist.all_gather(mine)
    return [shards[index % world][index // world] for index in range(count)]


def check_case(
    name: str, files: Mapping[str, Path], roles: Sequence[str], labels: set[int], channels: int = 1
) -> CaseReport:
    """Read the files of one case and compare them.

    Args:
        name: the case.
        files: path by role (a sequence or ``label``).
        roles: those that must be there, the first a sequence, whose voxels give the checksum.
        labels: values that a label may hold.
        channels: sequences in each image file (4 in MSD Task01, whose images are 4-D).
    """
    report = CaseReport()
    grid: tuple[str, tuple, np.ndarray] | None = None
    for role in unique_roles(files, roles):
        try:
            image = read_volume(role, files, 1 if role == "label" else channels)
        except FileNotFoundError as error:
            remedy = "add the file, named like the others"
            if role not in (roles[0], "label"):
                remedy += ", or do without (scripts.datalist --sequences; no teachers that see it)"
            report.faults.append(Fault(name, str(error), f"missing {role}", remedy))
            continue
        except ValueError as error:
            report.faults.append(Fault(name, str(files[role]), str(error), "export the file again"))
            continue
        voxels, path = image.voxels, files[role]
        faults = check_voxels(role, voxels, labels)
        faults += check_grid(voxels.shape[:3], image.affine, grid) if grid else []
        grid = grid or (path.name, voxels.shape[:3], image.affine)
        report.faults += [Fault(name, str(path), *fault) for fault in faults]
        if role == "label":
            report.label_values = {int(value) for value in np.unique(voxels) if np.isfinite(value)}
            report.tumour_ml = float((voxels > 0).sum() * abs(np.linalg.det(image.affine[:3, :3])) / 1000)
        elif role == roles[0]:
            report.checksum = zlib.crc32(np.ascontiguousarray(voxels).tobytes())
    return report


class Volume(NamedTuple):
    """Voxels (H, W, D), or (H, W, D, V) for V sequences, and the 4 x 4 affine in mm."""

    voxels: np.ndarray
    affine: np.ndarray


def unique_roles(files: Mapping[str, Path], roles: Sequence[str]) -> list[str]:
    """The roles less those whose file has been named before (MSD Task01 keeps all sequences in one)."""
    first = {str(files.get(role, role)): role for role in reversed(roles)}
    return [role for role in roles if role in first.values()]


def read_volume(role: str, files: Mapping[str, Path], channels: int) -> Volume:
    """Read one file whole.

    Raises:
        FileNotFoundError: if there is none; its text is the path, or "-".
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
    """The volume less an axis of one sequence. Raises ValueError for another number of channels or no voxel size."""
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


def check_voxels(role: str, voxels: np.ndarray, labels: set[int]) -> list[tuple[str, str]]:
    """(fault, remedy) of one volume's values."""
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
        return [("non-finite voxels (NaN or infinity)", "repair the file, or leave it out")]
    if role == "label":
        unknown = sorted(set(np.unique(voxels).tolist()) - labels)
        if unknown:
            return [(f"unknown label values {few(unknown)}", f"expected {sorted(labels)}: relabel the file")]
    elif not (voxels > 0).any():
        return [("empty image (no voxel above 0)", "replace the file, or leave it out")]
    return []


def few(values: Sequence[float]) -> str:
    """The values, or the first five and their number: an image in a label's place has thousands."""
    shown = ", ".join(f"{value:g}" for value in values[:5])
    return f"[{shown}]" if len(values) <= 5 else f"[{shown}, ... {len(values)} in all]"


def check_grid(shape: tuple, affine: np.ndarray, grid: tuple[str, tuple, np.ndarray]) -> list[tuple[str, str]]:
    """(fault, remedy) of one volume's grid against the first of the case."""
    first, first_shape, first_affine = grid
    if shape != first_shape:
        return [(f"shape {shape} differs from {first_shape} of {first}", "resample it to that file's grid")]
    if not np.allclose(affine, first_affine, atol=1e-3):
        return [(f"affine differs from that of {first}", "register and resample it to that file's grid")]
    return []


def duplicates(cases: Sequence[tuple[str, str, object, int]]) -> list[Fault]:
    """Patients in several folds, from (case, patient, fold, checksum), which tells copies under other names.

    A fold is a number, or the name of what is none, such as the held-out list."""
    faults = []
    first: dict[object, tuple[str, object]] = {}
    for case, patient, fold, checksum in cases:
        for key in {patient, checksum} - {0}:
            other, other_fold = first.setdefault(key, (case, fold))
            if other_fold != fold:
                here, there = (f"fold {one}" if isinstance(one, int) else one for one in (fold, other_fold))
                fault = f"duplicate patient: {here} here, {there} as {other}"
                faults.append(Fault(case, "-", fault, "keep all examinations of a patient in one fold"))
                break
    return faults


def settle(
    faults: Sequence[Fault],
    strict: bool,
    advice: str = "mend them, or leave these cases out (--strict False).",
) -> set[str]:
    """Report all faults at once, with advice; the names of the cases to leave out.

    Raises:
        UserError: if there is any fault and ``strict`` is set; the message is the table.
    """
    if not faults:
        return set()
    names = {fault.case for fault in faults}
    table = fault_table(faults)
    if strict:
        raise UserError(f"{table}\n{len(faults)} fault(s) in {len(names)} case(s): {advice}")
    logger.warning(f"\n{table}\nLeft out {len(names)} case(s) with faults: {', '.join(sorted(names))}.")
    return names


def fault_table(faults: Sequence[Fault]) -> str:
    rows = [("case", "file", "fault", "remedy"), *((f.case, Path(f.file).name, f.fault, f.remedy) for f in faults)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
