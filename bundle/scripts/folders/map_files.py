"""Find label maps by their case, and say where inference writes those of a case."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scripts.errors import UserError
from scripts.folders.folder_files import leave_out_predictions, list_files
from scripts.folders.grouping import build_cases
from scripts.folders.schemes import read_name, strip_suffix
from scripts.labels import MAP_ENDINGS


def find_label_maps(path: str | Path, key: str) -> dict[str, Path]:
    """Label maps by case, sorted: data sets, or a folder of NIfTI files named after their case.

    If any file is named as a label (NAME_seg.nii.gz), only such files are taken. Otherwise all files are taken except
    sequences. The truth has no predictions that were written into a folder below. What is left out is logged with the
    reason.

    Args:
        path: the folder.
        key: the option that named it, for messages.

    Raises:
        UserError: if there is no such folder, no label map in it, or two files that may be the label map of a case.
    """
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"{key} {root} is not a folder: give the folder of the label maps.")
    files = list_files(root)
    files.check(f"{key} {root}")
    if key == "truth":
        leave_out_predictions(files, keep=root)
    maps = choose_label_maps(files.volumes, root, key)
    if not maps:
        files.report(root)
        raise UserError(f"{key} {root} holds no label map: expected NAME.nii.gz, NAME_seg.nii.gz or BraTS folders.")
    for file in sorted(set(files.volumes) - set(maps.values())):
        files.leave_out(file, reason_against(file))
    files.report(root)
    return maps


def choose_label_maps(volumes: Sequence[Path], root: Path, key: str) -> dict[str, Path]:
    """Label maps by case, sorted, of these files: those that are named as labels, or else all but sequences.

    Raises:
        UserError: if two files may be the label map of a case.
    """
    names = {file: read_name(file) for file in volumes}
    known = {file: name for file, name in names.items() if name.role not in ("", "other")}
    named = [(case.name, case.files["label"]) for case in build_cases(known, root) if "label" in case.files]
    plain = [
        (strip_suffix(file), file) for file in volumes if file not in known and names[file].ending not in MAP_ENDINGS
    ]
    rivals = [(case, file) for case, file in plain if case in dict(named)]
    maps: dict[str, Path] = {}
    for case, file in sorted([*named, *rivals] if named else plain):
        if case in maps:
            raise UserError(
                f"{key}: {maps[case]} and {file} may both be the label map of case {case}: keep one in this folder, "
                "and name files after their case."
            )
        maps[case] = file
    return maps


def reason_against(file: Path) -> str:
    """Why a file beside label maps is none, by its name."""
    name = read_name(file)
    return name.reason or (f"is {name.role}" if name.role else "no label by its name, others are")


def case_of(path: str | Path) -> str:
    """The case of an image: its file name without suffix and without the sequence, if it names one."""
    name = read_name(Path(path))
    return name.case if name.role not in ("", "other") else strip_suffix(Path(path))


def label_map(output_dir: str, image: str | Sequence[str], case: str | None = None) -> Path:
    """Path where SaveImaged puts the label map of an image. The first of several (channels) gives the name."""
    return maps_of(output_dir, image, case)[0]


def maps_of(output_dir: str, image: str | Sequence[str], case: str | None = None) -> list[Path]:
    """Paths of all files that inference writes for an image: the label map, the maps of uncertainty, the DICOM SEG.

    They are named after the case; without one, after the image.
    """
    case = case or case_of(image if isinstance(image, str) else image[0])
    maps = [Path(output_dir, f"{case}_{ending}.nii.gz") for ending in ("seg", *MAP_ENDINGS)]
    return [*maps, Path(output_dir, f"{case}_seg.dcm")]
