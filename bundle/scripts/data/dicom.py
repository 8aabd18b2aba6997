"""DICOM: find images below a folder, group them into series, and read a series as a volume."""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from tqdm import tqdm

from scripts.data.folder_files import FolderFiles, list_files
from scripts.errors import UserError, reason_of
from scripts.files import replacing

__all__ = ["DICOM_FILES", "Series", "find_dicom", "read_all_series", "read_series", "write_series"]

logger = logging.getLogger(__name__)

TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID",
    "StudyDate", "SeriesNumber", "SeriesDescription", "ProtocolName", "Modality", "ImageType", "BodyPartExamined",
    "EchoTime", "RepetitionTime", "InversionTime", "ContrastBolusAgent", "ContrastBolusAgentSequence",
    "SamplesPerPixel", "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "ImageOrientationPatient",
    "ImagePositionPatient", "InstanceNumber",
]  # fmt: skip
DICOM_FILES = "dicom_files"  # in an image's meta data: the files of its series, one a line
DIRECTORY = "1.2.840.10008.1.3.10"  # DICOMDIR, an index
NEEDED = {"Rows": 1, "Columns": 1, "FrameOfReferenceUID": 1, "PixelSpacing": 2}
NEEDED |= {"ImageOrientationPatient": 6, "ImagePositionPatient": 3}
EVEN_MM = 0.1  # distances of slices that differ by less are equal: positions are rounded
TURNED = 1e-3  # parts of the slices' directions that differ by less are equal
EXPORT = "export the series again, or choose another by --series"


def find_dicom(root: Path, output_dir: str) -> FolderFiles:
    """DICOM files: ``volumes`` are these, or empty where the root is or holds NIfTI. The output folder is left out.

    Raises:
        UserError: if there are such files, and the packages that read them are not installed.
    """
    if root.is_file():
        index = root.name.upper() == "DICOMDIR"
        files = list_files(root.parent) if index else FolderFiles(left_out=[(root, "no NIfTI file")])
    else:
        files = list_files(root) if root.is_dir() else FolderFiles()
    own = Path(output_dir).resolve() if root.resolve() in Path(output_dir).resolve().parents else None
    if nifti := [path for path in files.volumes if own not in path.resolve().parents]:
        hidden = [path for path, _ in files.left_out if path.is_file() and os.access(path, os.R_OK) and is_dicom(path)]
        if hidden:
            logger.warning(
                f"{root} holds {len(hidden)} DICOM file(s) besides {nifti[0].name}: only NIfTI is read. For the DICOM "
                "studies take NIfTI files out."
            )
        return FolderFiles()
    found = FolderFiles(broken=files.broken)
    for path, _ in files.left_out:
        if own in path.resolve().parents or not path.is_file():
            continue
        if not os.access(path, os.R_OK):
            found.broken.append((path, "cannot be read (permission denied)"))
        elif is_dicom(path):
            found.volumes.append(path)
        else:
            found.leave_out(path, "no DICOM file")
    lacking = [name for name in ("pydicom", "highdicom") if importlib.util.find_spec(name) is None]
    if found.volumes and lacking:
        raise UserError(
            f"dataset_dir {root} holds DICOM, which needs packages that are not installed ({', '.join(lacking)}): pip "
            "install '.[dicom]' in the project's folder."
        )
    return found


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM says."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


@dataclass
class Series:
    """The images of one series, by the headers of its files."""

    headers: list[Any]  # pydicom's datasets without pixels
    files: list[Path]

    def get(self, keyword: str, default: Any = "") -> Any:
        """An attribute of the first image; the default where it is missing, empty or not of its type."""
        try:
            value = self.headers[0].get(keyword)
        except Exception:  # pydicom reads a value when it is asked for
            return default
        return default if value is None or value == "" else value

    def number(self, keyword: str, default: float = 0) -> float:
        """The same as a number, the first of several."""
        try:
            return float(np.atleast_1d(self.get(keyword, default))[0])
        except (TypeError, ValueError):
            return default

    @property
    def description(self) -> str:
        return str(self.get("SeriesDescription") or self.get("ProtocolName", "without description"))

    @property
    def multi_frame(self) -> bool:
        return len(self.files) == 1 and self.number("NumberOfFrames", 1) > 1

    @property
    def slices(self) -> int:
        return int(self.number("NumberOfFrames", 1)) if self.multi_frame else len(self.files)

    @cached_property
    def normal(self) -> np.ndarray:
        """The direction from slice to slice, of the first image."""
        row, column = np.array(self.get("ImageOrientationPatient"), float).reshape(2, 3)
        return np.cross(row, column)

    @cached_property
    def places(self) -> np.ndarray:
        """Where each image lies along the normal, in mm, in the order of the files."""
        return np.array([np.dot(self.normal, np.array(image.ImagePositionPatient, float)) for image in self.headers])

    def lacking(self) -> set[str]:
        """What the images need to be placed in space, and some of them do not have."""
        found = set()
        for image in self.headers:
            values = {keyword: image.get(keyword) for keyword in NEEDED}
            found |= {key for key, value in values.items() if not value or np.size(value) != NEEDED[key]}
        return found

    def fault(self) -> str:
        """Why the images are no volume of evenly spaced, parallel slices; "" if they are."""
        if self.multi_frame:
            return ""
        if lacking := self.lacking():
            return f"images without {', '.join(sorted(lacking))}, so their place is not known"
        directions = np.array([image.ImageOrientationPatient for image in self.headers], float)
        if np.ptp(directions, axis=0).max() > TURNED:
            return f"mixed slices of {max(2, len(np.unique(directions.round(1), axis=0)))} directions"
        sizes = {(image.Rows, image.Columns, *map(float, image.PixelSpacing)) for image in self.headers}
        if len(sizes) > 1:
            return f"mixed slices of {len(sizes)} sizes"
        if len(self.files) < 2:
            return "a single slice"
        return self.gap_fault()

    def gap_fault(self) -> str:
        order = np.argsort(self.places, kind="stable")
        gaps = np.diff(self.places[order])
        if doubled := int((gaps < EVEN_MM).sum()):
            return f"{doubled} of {len(self.files)} slices lie where another one lies: several volumes in one series"
        usual, widest = float(np.median(gaps)), int(np.argmax(gaps))
        if gaps[widest] > 1.5 * usual:
            number = self.headers[order[widest]].get("InstanceNumber", widest + 1)
            missing = sum(round(float(gap / usual)) - 1 for gap in gaps)
            return f"{missing} missing slice(s): {gaps[widest]:.3g} mm after slice {number}, elsewhere {usual:.3g} mm"
        if np.ptp(gaps) > EVEN_MM:
            return f"slices that are {gaps.min():.3g} to {gaps.max():.3g} mm apart, expected even distances"
        return ""


def read_all_series(files: FolderFiles) -> dict[str, list[Series]]:
    """All series by study; what is no image of a series is left out.

    Returns:
        the series by StudyInstanceUID, in the order of their numbers.
    """
    import pydicom

    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # values that are not quite as they should
    images: dict[tuple[str, str], dict[str, tuple[Path, Any]]] = defaultdict(dict)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of files that it reads in spite of faults
        for path in tqdm(files.volumes, "reading DICOM headers", leave=False, disable=None):
            try:
                image = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS)
                index = str(image.file_meta.get("MediaStorageSOPClassUID", "")) == DIRECTORY
                names = [str(image[key].value) for key in ("StudyInstanceUID", "SeriesInstanceUID") if not index]
                own = str(image.get("SOPInstanceUID", path))
            except Exception as error:  # pydicom fails in many ways
                files.leave_out(path, f"a damaged DICOM file, or of no study, {type(error).__name__}")
                continue
            if index or own in images[names[0], names[1]]:
                files.leave_out(path, "is the index" if index else "a second copy of an image")
            else:
                images[names[0], names[1]][own] = path, image
    studies: dict[str, list[Series]] = defaultdict(list)
    for (study, _), found in images.items():
        if found:
            pairs = sorted(found.values(), key=lambda pair: str(pair[0]))
            studies[study].append(Series([image for _, image in pairs], [path for path, _ in pairs]))
    return {study: sorted(every, key=lambda one: one.number("SeriesNumber")) for study, every in studies.items()}


def read_series(files: Sequence[str | Path]) -> tuple[list[Any], Any]:
    """The images of a series with their pixels, and the volume of them, as highdicom's Volume (slice, row, column).

    Raises:
        ValueError: (fault, remedy) if they are damaged, compressed in a way that no package here reads, or no volume.
    """
    import highdicom
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            images = [pydicom.dcmread(path) for path in files]
            if fault := Series(images, [Path(path) for path in files]).fault():
                raise ValueError(fault)
            if len(images) == 1:
                volume = highdicom.Image.from_dataset(images[0]).get_volume(dtype=np.float32, atol=EVEN_MM)
            else:
                volume = highdicom.get_volume_from_series(
                    images, dtype=np.float32, atol=EVEN_MM, orientation_tol=TURNED
                )
    except Exception as error:  # pydicom, its decoders and highdicom fail in many ways
        raise ValueError(f"DICOM series: {reason_of(error)}", EXPORT) from error
    return images, volume


def write_series(files: Sequence[str | Path], path: Path) -> None:
    """Write a series as NIfTI (column, row, slice), as its pixels mean: whole numbers as int16 where they fit.

    Raises:
        ValueError: as ``read_series``.
    """
    volume = read_series(files)[1].permute_spatial_axes([2, 1, 0])
    voxels = volume.array
    short = np.array_equal(voxels, np.rint(voxels)) and voxels.min() >= -(2**15) and voxels.max() < 2**15
    image = nib.Nifti1Image(voxels.astype(np.int16) if short else voxels, volume.get_affine("RAS"))
    for set_form in (image.set_sform, image.set_qform):
        set_form(image.affine, 1)  # the scanner's frame
    image.header.set_xyzt_units("mm")
    with replacing(path) as partial:
        nib.save(image, partial)
