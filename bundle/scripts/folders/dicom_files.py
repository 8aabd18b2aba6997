"""Which files below a folder are DICOM, and which should be but cannot be read."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

from scripts.errors import UserError
from scripts.folders.case import inside
from scripts.folders.dicom import DAMAGED
from scripts.folders.folder_files import PERMIT, TEXTS, FolderFiles, list_files, recorded_cases
from scripts.folders.map_files import maps_of
from scripts.folders.schemes import is_volume

logger = logging.getLogger(__name__)

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar", ".iso")
PACKED = "an archive, which may hold studies: unpack it"
BARE = "DICOM without a preamble, which is not read: add one by dcmconv of DCMTK"
OTHER = "no DICOM file"
INDEX = "DICOMDIR"
SLICES = (".dcm", ".dicom", ".ima")


def find_dicom(root: Path, output_dir: str) -> FolderFiles:
    """DICOM files: ``volumes`` are these, or empty where the root is or holds NIfTI.

    The output folder is left out, and what earlier predictions wrote below the root is no such NIfTI.

    Raises:
        UserError: if there are such files, and the packages that read them are not installed.
    """
    if root.is_file():
        index = root.name.upper() == INDEX
        files = list_files(root.parent) if index else FolderFiles(left_out=[(root, "no NIfTI file")])
    else:
        files = list_files(root) if root.is_dir() else FolderFiles()
    folder, out = (root.parent if root.is_file() else root).resolve(), Path(output_dir).resolve()
    own = out if folder in out.parents else None
    others = [path for path, _ in files.left_out if own not in path.resolve().parents and not path.is_dir()]
    made = written_before([path for path, _ in files.left_out if path.parent.resolve() != folder])
    if nifti := [path for path in files.volumes if own not in path.resolve().parents and path not in made]:
        warn_of_dicom(root, nifti[0], others)
        return FolderFiles()
    found = sort_files(others, files)
    for path in made & {*files.volumes}:
        found.leave_out(path, "is of an earlier prediction")
    lacking = [name for name in ("pydicom", "highdicom") if importlib.util.find_spec(name) is None]
    if found.volumes and lacking:
        raise UserError(
            f"dataset_dir {root} holds DICOM, which needs packages that are not installed: pip install "
            f"{' '.join([*lacking, 'python-gdcm'])}."
        )
    return found


def written_before(paths: Iterable[Path]) -> set[Path]:
    """What predictions wrote, by their records among these files: the maps, and the volumes of DICOM series."""
    made = set()
    for record in (path for path in paths if path.name == "inference.json"):
        for case in recorded_cases(record):
            prediction = inside(record.parent, case["prediction"])
            made |= {prediction, *maps_of(str(record.parent), "", prediction.name.removesuffix("_seg.nii.gz"))}
            made |= {inside(record.parent / "images", str(case.get("image")))} if "dicom" in case else set()
    return made


def warn_of_dicom(root: Path, nifti: Path, others: Iterable[Path]) -> None:
    """Warn of DICOM files beside NIfTI, which are not read."""
    if hidden := [path for path in others if os.access(path, os.R_OK) and is_dicom(path)]:
        logger.warning(
            f"{root} holds {len(hidden)} DICOM file(s) besides {nifti.name}: only NIfTI is read. For the DICOM "
            "studies take NIfTI files out."
        )


def sort_files(paths: Iterable[Path], files: FolderFiles) -> FolderFiles:
    """DICOM files among these, what is left out and why, and what cannot be read."""
    found, rest = FolderFiles(broken=files.broken), []
    for path in paths:
        if not path.exists() and ending(path) not in TEXTS:
            found.add_dangling(path)
        elif not path.is_file():
            found.leave_out(path, OTHER)
        elif not os.access(path, os.R_OK):
            found.broken.append((path, "cannot be read (permission denied)", PERMIT))
        elif is_dicom(path):
            found.volumes.append(path)
        else:
            rest.append(path)
    slices = {(path.parent, form(path)) for path in found.volumes if path.name.upper() != INDEX}
    for path in rest:
        reason = reason_for(path)
        named = ending(path) in SLICES or (path.parent, form(path)) in slices
        found.leave_out(path, DAMAGED if reason == OTHER and named else reason)
    return found


def ending(path: Path) -> str:
    """The ending of a file's name in lower case; that of a number, such as a UID, is none."""
    return "" if path.suffix[1:].isdigit() else path.suffix.lower()


def form(path: Path) -> str:
    """A file's name with # for every number: IM0001 and IM12 are IM#."""
    return re.sub(r"\d+", "#", path.name.lower())


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM says."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def reason_for(path: Path) -> str:
    """Why a file is not read as DICOM: that a study may be lost is a reason of its own, which is warned of."""
    if path.suffix.lower() in ARCHIVES and not is_volume(path):
        return PACKED
    with open(path, "rb") as file:
        group, element, kind = (file.read(count) for count in (2, 2, 4))
    begins = group in (b"\x02\0", b"\x08\0") and element[1:] == b"\0"
    return BARE if begins and (kind[:2].isupper() or kind[2:] == b"\0\0") else OTHER


def is_lost(path: Path, reason: str) -> bool:
    """Whether a file that is left out for this reason may be a slice: IM1, or IM1.dcm.gz."""
    packed = reason == PACKED and Path(path.stem).suffix.lower() in SLICES
    return packed or reason.startswith((DAMAGED, BARE))


def may_hold_slices(path: Path, reason: str) -> bool:
    """The same, or any archive."""
    return is_lost(path, reason) or reason == PACKED
