"""Checks of every file of every patient before work starts. All faults are reported together."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import ignite.distributed as idist
import numpy as np
from tqdm import tqdm

from scripts.data.volumes import (
    Volume,
    content_checksum,
    grid_faults,
    image_faults,
    label_faults,
    read_volume,
    unique_roles,
)
from scripts.errors import UserError
from scripts.files import format_table

__all__ = ["CaseReport", "Fault", "check_case", "check_cases", "report_faults"]

logger = logging.getLogger(__name__)


class Fault(NamedTuple):
    """One thing wrong with one file of one case, and what to do about it."""

    case: str
    file: str
    fault: str
    remedy: str


@dataclass
class CaseReport:
    """What reading a case showed: faults, values in the label, tumour volume in ml, checksum of the first image."""

    faults: list[Fault] = field(default_factory=list)
    label_values: set[int] = field(default_factory=set)
    tumour_ml: float = 0.0
    checksum: int = 0


def check_cases(check: Callable[[int], CaseReport], count: int) -> list[CaseReport]:
    """Reports of ``check(index)`` for all cases, in order, on every rank. Threads and ranks share the work."""
    rank, world = idist.get_rank(), idist.get_world_size()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        indices = range(rank, count, world)
        reports = pool.map(check, indices)
        mine = list(tqdm(reports, "checking files", len(indices), leave=False, disable=bool(rank) or None))
    if world == 1:
        return mine
    shards = idist.all_gather(mine)
    return [shards[index % world][index // world] for index in range(count)]


def check_case(
    name: str, files: Mapping[str, Path], roles: Sequence[str], labels: set[int], channels: int = 1
) -> CaseReport:
    """Report on one case, after reading its files and comparing their grids.

    Args:
        name: of the case.
        files: path by role (a sequence or ``label``).
        roles: roles that must be there. The first is a sequence, whose voxels give the checksum.
        labels: values that the label may hold.
        channels: sequences in each image file (4 in MSD Task01, whose images are 4-D).
    """
    report = CaseReport()
    first: tuple[Volume, str] | None = None
    for role in unique_roles(files, roles):
        try:
            image = read_volume(role, files, 1 if role == "label" else channels)
        except FileNotFoundError as error:
            remedy = "add the file, named like the others"
            if role not in (roles[0], "label"):
                remedy += ", or do without (python -m scripts datalist --sequences, and no teacher that sees it)"
            report.faults.append(Fault(name, str(error), f"missing {role}", remedy))
            continue
        except ValueError as error:
            report.faults.append(Fault(name, str(files[role]), str(error), "export the file again"))
            continue
        path = files[role]
        faults = label_faults(image.voxels, labels) if role == "label" else image_faults(image)
        faults += grid_faults(image, *first) if first else []
        first = first or (image, path.name)
        report.faults += [Fault(name, str(path), *fault) for fault in faults]
        if role == "label":
            report.label_values = {int(value) for value in np.unique(image.voxels) if float(value).is_integer()}
            report.tumour_ml = float((image.voxels > 0).sum() * abs(np.linalg.det(image.affine[:3, :3])) / 1000)
        elif role == roles[0] and not faults:
            report.checksum = content_checksum(image)
    return report


def report_faults(
    faults: Sequence[Fault],
    strict: bool,
    advice: str = "fix them, or leave these cases out (--strict False).",
) -> set[str]:
    """Names of the cases with faults, which are to be left out. All faults are reported in one table.

    Raises:
        UserError: if there is any fault and ``strict`` is set. The message is the table and the advice.
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
    return format_table(rows, right=False)
