"""Checks of every file of every patient before work starts. All faults are reported together."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from scripts.data.checked_files import CheckedFiles
from scripts.data.plausible import copy_faults, label_faults
from scripts.data.volumes import Volume, grid_faults, unique_roles
from scripts.environment import cores
from scripts.errors import UserError
from scripts.faults import Fault
from scripts.labels import TARGETS


@dataclass
class CaseReport:
    """What reading a case showed: faults, values in label and prediction, tumour in ml, checksums."""

    faults: list[Fault] = field(default_factory=list)
    label_values: set[int] = field(default_factory=set)
    target_values: set[int] = field(default_factory=set)
    tumour_ml: float = 0.0
    checksum: int = 0
    label_checksum: int = 0  # 0 of an empty one


def check_cases(jobs: Sequence[Mapping[str, Any]], checked: CheckedFiles) -> list[CaseReport]:
    """Reports of ``check_case(**job)`` for all jobs, in order, on every rank. Threads and ranks share the work.

    ``checked``, the files that were checked before, is written at the end, also if the checks are interrupted.
    """
    idist: Any = sys.modules.get("ignite.distributed")  # a training has it; importing it takes seconds
    rank, world = (idist.get_rank(), idist.get_world_size()) if idist else (0, 1)
    own = jobs[rank::world]
    try:
        with ThreadPoolExecutor(min(16, cores())) as pool:
            reports = pool.map(lambda job: check_case(**job, checked=checked), own)
            mine = list(tqdm(reports, "checking files", len(own), leave=False, disable=bool(rank) or None))
        shards = idist.all_gather((mine, checked.new)) if world > 1 else [(mine, checked.new)]
        checked.new = {key: report for _, new in shards for key, report in new.items()}
    finally:
        if rank == 0:
            checked.write()
    return [shards[index % world][0][index // world] for index in range(len(jobs))]


def check_case(
    name: str,
    files: Mapping[str, Path],
    roles: Sequence[str],
    labels: set[int],
    channels: Mapping[str, int] | None = None,
    checked: CheckedFiles | None = None,
    target_labels: Collection[int] = (),
) -> CaseReport:
    """Report on one case, after checking its files and comparing their grids.

    Args:
        name: of the case.
        files: path by role (a sequence or ``label``).
        roles: roles that must be there. The first is a sequence, whose voxels give the checksum.
        labels: values that the label may hold.
        channels: channel of each sequence where all are in one 4-D file (MSD Task01).
        checked: files that were checked before.
        target_labels: values that another program's label maps may hold.
    """
    report, checked = CaseReport(), checked or CheckedFiles()
    first: tuple[Volume, str] | None = None
    sequences: list[Path] = []
    for role in unique_roles(files, roles):
        try:
            own = role == roles[0]  # a 4-D file is looked at once for all its sequences
            used = sorted(channels[name] for name in roles if name in channels) if channels and own else ()
            file = checked.report(role, files, channels or {}, own, used)
        except FileNotFoundError as error:
            without = ", or do without (python -m scripts datalist --sequences, and no teacher that sees it)"
            remedy = f"add the file, named like the others{'' if role in (roles[0], 'label') else without}"
            report.faults.append(Fault(name, str(error), f"missing {role}", remedy))
            continue
        except MemoryError as error:
            raise UserError(
                f"{files[role]} needs more memory than is free: end other programs, or take a computer with more."
            ) from error
        except ValueError as error:
            remedy = getattr(error, "remedy", "") or "export the file again"
            report.faults.append(Fault(name, str(files[role]), str(error), remedy))
            continue
        values = {"label": labels, TARGETS: target_labels}.get(role)
        faults = [*file.faults, *(label_faults(np.array(file.values), values, role) if values is not None else [])]
        faults += [*(grid_faults(file.grid, *first) if first else []), *copy_faults(files[role], sequences)]
        sequences += [files[role]] if role not in ("label", TARGETS) else []
        first = first or (file.grid, files[role].name)
        report.faults += [Fault(name, str(files[role]), *fault) for fault in faults]
        if role == TARGETS:
            report.target_values = {int(value) for value in file.values if float(value).is_integer()}
        elif role == "label":
            report.label_values = {int(value) for value in file.values if float(value).is_integer()}
            report.tumour_ml, report.label_checksum = file.tumour_ml, file.checksum
        elif role == roles[0]:
            report.checksum = file.checksum
    return report
