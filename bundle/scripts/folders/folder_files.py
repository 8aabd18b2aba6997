"""Which files are below a folder: volumes, what is left out and why, and what cannot be read."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.errors import UserError
from scripts.faults import fault_of
from scripts.files import read_json
from scripts.folders.case import inside
from scripts.folders.schemes import is_volume

logger = logging.getLogger(__name__)

MOST = 50  # names of files in a line

POINTERS = (b"/annex/objects/", b"version https://git-lfs")  # content of a file whose own content was not fetched
OTHER_FORMATS = (
    ".mha", ".mhd", ".nrrd", ".dcm", ".dicom", ".ima", ".hdr", ".img", ".mgz", ".mgh", ".mnc", ".mif", ".npy", ".npz",
    ".h5",
)  # fmt: skip
ABSENT = ".icloud"  # the end of a hidden file's name where macOS keeps the content elsewhere
RECORDS = ("inference.json", "evaluation.json")  # name the label maps of a prediction
MADE = {"cases": [{"prediction": str, "patient?": str, "dicom?": dict}]}
TEXTS = (
    ".txt", ".csv", ".tsv", ".json", ".xml", ".html", ".htm", ".md", ".log", ".pdf", ".yaml", ".yml", ".bval", ".bvec",
    ".mat", ".xls", ".xlsx", ".doc", ".docx", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".svg", ".py", ".sh",
)  # fmt: skip
GZIP, NIFTI = b"\x1f\x8b", (b"\x5c\1\0\0", b"\0\0\1\x5c", b"\x1c\2\0\0", b"\0\0\2\x1c")  # NIfTI: length of the header
IN_PART = "a NIfTI file that is packed or in part, or has lost its ending: unpack, fetch or rename it"
FETCH, PERMIT = "fetch it, or remove it", "make it readable (chmod)"  # what to do about a file that cannot be read


@dataclass
class FolderFiles:
    """All files below a folder, each in one of three lists."""

    volumes: list[Path] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)  # (path, reason)
    broken: list[tuple[Path, str, str]] = field(default_factory=list)  # (path, what is wrong, what to do)

    def leave_out(self, path: Path, reason: str) -> None:
        self.left_out.append((path, reason))

    def add_dangling(self, path: Path) -> None:
        """Add a link to a file that is not there to what cannot be read."""
        fault = f"links to {os.readlink(path)}, which is not there (git annex get, datalad get)"
        self.broken.append((path, fault, FETCH))

    def grouped(self) -> dict[str, list[Path]]:
        """The left-out files by reason."""
        groups: dict[str, list[Path]] = defaultdict(list)
        for path, reason in self.left_out:
            groups[reason].append(path)
        return dict(groups)

    def report(self, root: Path) -> None:
        """Log what is left out and why; files of another sequence, labels and texts are no surprise."""
        for reason, line in self.lines(root).items():
            expected = reason.startswith("is ") or reason in ("no NIfTI file", "no DICOM file", "map of an inference")
            (logger.info if expected else logger.warning)(line)

    def lines(self, root: Path) -> dict[str, str]:
        """The names of what is left out, by reason."""
        lines = {}
        for reason, paths in self.grouped().items():
            names = ", ".join(str(path.relative_to(root)) for path in paths[:MOST])
            more = f" and {len(paths) - MOST} more" if len(paths) > MOST else ""
            lines[reason] = f"Left out {len(paths)} file(s) ({reason}): {names}{more}"
        return lines

    def check(self, key: str) -> None:
        """Raises UserError if anything below the folder that ``key`` names cannot be read."""
        if self.broken:
            lines = [f"{path}: {fault}: {remedy}" for path, fault, remedy in self.broken[:10]]
            more = [f"and {len(self.broken) - 10} more"] if len(self.broken) > 10 else []
            raise UserError(
                "\n".join([*lines, *more, f"{key}: {len(self.broken)} file(s) or folder(s) cannot be read."])
            )


def list_files(root: Path) -> FolderFiles:
    """Everything below a folder except hidden files and folders, sorted. Links to folders are followed."""
    files = FolderFiles()

    def unreadable(error: OSError) -> None:
        remedy = PERMIT if isinstance(error, PermissionError) else FETCH
        files.broken.append((Path(error.filename), f"cannot be read ({error.strerror})", remedy))

    for folder, folders, names in os.walk(root, followlinks=True, onerror=unreadable):
        above = Path(folder).resolve()
        for name in [name for name in folders if name[0] != "." and Path(folder, name).is_symlink()]:
            if Path(folder, name).resolve() in (above, *above.parents):
                files.leave_out(Path(folder, name), "links to a folder above")
                folders.remove(name)
        folders[:] = sorted(name for name in folders if name[0] != ".")
        if is_volume(Path(folder)) and not any(map(is_volume, map(Path, names))) and Path(folder) != root:
            files.leave_out(Path(folder), "a folder that is named as a NIfTI file and holds none")
        for name in sorted(name for name in names if name[0] != "." or is_absent(name)):
            add_file(files, Path(folder, name))
    files.volumes.sort()
    return files


def add_file(files: FolderFiles, path: Path) -> None:
    """Add a file to the volumes, to what cannot be read, or to what is left out."""
    if (fault := fault_of(path)).startswith("cannot"):  # such as a link into a closed folder
        files.broken.append((path, fault, PERMIT))
    elif fault and (is_volume(path) or not path.suffix or path.suffix[1:].isdigit()):  # .01 is of a date
        files.add_dangling(path)
    elif is_absent(path.name):
        files.broken.append((path, "stands for a file that is in iCloud", "download it"))
    elif not is_volume(path):
        files.leave_out(path, other_kind(path))
    elif not os.access(path, os.R_OK):
        files.broken.append((path, "cannot be read (permission denied)", PERMIT))
    elif is_pointer(path):
        fault = "holds a pointer, its content was not fetched (git annex get, git lfs pull)"
        files.broken.append((path, fault, FETCH))
    elif path.is_file():
        files.volumes.append(path)
    else:
        files.leave_out(path, "neither a file nor a folder")


def other_kind(path: Path) -> str:
    """What a file is that is no NIfTI file by its name."""
    end, name = path.suffix.lower(), path.name.lower()
    if end in OTHER_FORMATS:
        return "another image format: convert to NIfTI" if path.exists() else "a link to an image that is not there"
    return IN_PART if end not in TEXTS and (".nii" in name or begins_as_volume(path)) else "no NIfTI file"


def begins_as_volume(path: Path) -> bool:
    """Whether the first bytes of a file are those of NIfTI or gzip."""
    if not path.is_file() or not os.access(path, os.R_OK):
        return False
    with open(path, "rb") as file:
        return file.read(4).startswith((GZIP, *NIFTI))


def is_absent(name: str) -> bool:
    """Whether a hidden file stands for a volume that is in iCloud."""
    return name.startswith(".") and name.endswith(ABSENT) and is_volume(Path(name.removesuffix(ABSENT)))


def leave_out_predictions(files: FolderFiles, keep: Path | None = None) -> None:
    """Leave out label maps that a prediction or an evaluation wrote: they are not the truth. Those in ``keep`` stay."""
    for folder in sorted({path.parent for path in files.volumes} - {keep}):
        for record in filter(Path.is_file, (folder / name for name in RECORDS)):
            made = {inside(folder, case["prediction"]) for case in recorded_cases(record)}
            for path in [path for path in files.volumes if path in made]:
                files.volumes.remove(path)
                files.leave_out(path, f"a prediction, which {record.name} beside it lists")


def recorded_cases(path: Path) -> list[dict[str, Any]]:
    """The cases of a prediction's record, by all settings that made them; [] for another program's file of its name."""
    with suppress(UserError):
        document = read_json(path, "dataset_dir", MADE | {"earlier?": [MADE]})
        return [case for group in [document, *document.get("earlier", [])] for case in group["cases"]]
    return []


def is_pointer(path: Path) -> bool:
    """Whether git-annex or Git LFS put a line of text in the place of the content."""
    if not 0 < path.stat().st_size < 1024:
        return False
    with open(path, "rb") as file:
        return file.read(32).startswith(POINTERS)
