"""DICOM: group the images of files into series and studies, and read a series as a volume."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from tqdm import tqdm

from scripts.errors import reason_of
from scripts.faults import FileFault
from scripts.files import replacing
from scripts.folders.folder_files import FolderFiles
from scripts.folders.slices import (
    EVEN_MM,
    TURNED,
    absent_slices,
    frame_headers,
    gap_fault,
    mixed_tags,
    nearest_axes,
    numbers_of,
    padding_of,
    skew_fault,
    spacing_fault,
    turn,
    value_of,
    whole_number,
)

Study = tuple[str, str]  # PatientID and StudyInstanceUID: bad anonymisation gives one UID to several patients

TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID",
    "StudyDate", "SeriesNumber", "SeriesDescription", "ProtocolName", "Modality", "ImageType", "BodyPartExamined",
    "EchoTime", "RepetitionTime", "InversionTime", "ContrastBolusAgent", "ContrastBolusAgentSequence",
    "ContrastBolusVolume", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns",
    "PixelSpacing", "SpacingBetweenSlices", "SliceThickness", "ImageOrientationPatient", "ImagePositionPatient",
    "InstanceNumber", "AcquisitionNumber", "ImagesInAcquisition", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
DICOM_FILES = "dicom_files"  # in an image's meta data: the files of its series, one a line
DIRECTORY = "1.2.840.10008.1.3.10"  # DICOMDIR, an index
# How many numbers each has.
NEEDED = {"Rows": 1, "Columns": 1, "PixelSpacing": 2, "ImageOrientationPatient": 6, "ImagePositionPatient": 3}
FRAME = "FrameOfReferenceUID"
GREY = "MONOCHROME2"  # higher values are brighter
DAMAGED = "a damaged DICOM file"
EXPORT = "export the series again, or choose another by --series"


@dataclass
class Series:
    """The images of one series, by the headers of its files."""

    headers: list[Any]  # pydicom's datasets without pixels
    files: list[Path]

    def get(self, keyword: str, default: Any = "") -> Any:
        """An attribute of the first image; the default where it is missing, empty or not of its type."""
        value = value_of(self.headers[0], keyword)
        return default if value is None else value

    def number(self, keyword: str, default: float = 0) -> float:
        """The same as a number, the first of several."""
        try:
            return float(np.atleast_1d(self.get(keyword, default))[0])
        except (TypeError, ValueError):
            return default

    @property
    def words(self) -> str:
        """What the files say of the series; "" if they say nothing."""
        return str(self.get("SeriesDescription") or self.get("ProtocolName"))

    @property
    def description(self) -> str:
        return self.words or "without description"

    @property
    def multi_frame(self) -> bool:
        return len(self.files) == 1 and self.number("NumberOfFrames", 1) > 1

    @property
    def slices(self) -> int:
        return int(self.number("NumberOfFrames", 1)) if self.multi_frame else len(self.files)

    @cached_property
    def images(self) -> list[Any]:
        """A header for each slice: of its file, or of its frame."""
        return frame_headers(self.headers[0]) if self.multi_frame else self.headers

    @cached_property
    def axes(self) -> np.ndarray:
        """The directions of row and column, (2, 3), of the first image."""
        return nearest_axes(self.images[0].ImageOrientationPatient)

    @cached_property
    def normal(self) -> np.ndarray:
        """The direction from slice to slice."""
        return np.cross(*self.axes)

    @cached_property
    def places(self) -> np.ndarray:
        """Where each slice lies along the normal, in mm, in the order of the images."""
        return np.array([np.dot(self.normal, np.array(image.ImagePositionPatient, float)) for image in self.images])

    def lacking(self) -> dict[str, Path]:
        """What some images do not have, or not in a valid form, and need to be placed in space: such a file of each."""
        found: dict[str, Path] = {}
        for image, path in zip(self.images, cycle(self.files)):
            lost = [keyword for keyword, count in NEEDED.items() if numbers_of(image, keyword).size != count]
            found = dict.fromkeys(lost if value_of(image, FRAME) else [*lost, FRAME], path) | found
        return found

    def fault(self) -> str:
        """Why the images are no volume of evenly spaced, parallel slices of grey values; "" if they are."""
        uids = [str(image.get("SOPInstanceUID", number)) for number, image in enumerate(self.headers)]
        if (own := len({*uids})) < len(uids):
            return f"{len(uids)} slices have {own} SOPInstanceUID(s), expected one for each: wrong anonymisation"
        shades = {str(value_of(image, "PhotometricInterpretation") or GREY) for image in self.headers}
        if others := sorted(shades - {GREY}):
            return f"PhotometricInterpretation is {', '.join(others)}, expected {GREY}"
        if lacking := self.lacking():
            names, path = ", ".join(sorted(lacking)), next(iter(lacking.values()))
            return f"images without a valid {names}, such as {path}, so their place is not known"
        directions = np.array([image.ImageOrientationPatient for image in self.images], float)
        if np.ptp(directions, axis=0).max() > TURNED:
            return f"mixed slices of {max(2, len(np.unique(directions.round(1), axis=0)))} directions"
        if skew := skew_fault(directions[0]):
            return skew
        sizes = {(image.Rows, image.Columns, *map(float, image.PixelSpacing)) for image in self.images}
        if len(sizes) > 1:
            return f"mixed slices of {len(sizes)} sizes"
        if len(self.images) < 2:
            return "a single slice"
        return gap_fault(self.images, self.places)

    def doubt(self) -> str:
        """What says that slices are missing or mixed, of a series without another fault; a person may know better."""
        if mixed := mixed_tags(self.headers):
            return f"mixed slices: {mixed}"
        if wide := spacing_fault(self.images[0], float(np.median(np.diff(np.sort(self.places))))):
            return f"missing slices: {wide}"
        told, certain = absent_slices(self.images)
        return f"missing slices: {told}" if certain else ""


def read_all_series(files: FolderFiles) -> dict[Study, list[Series]]:
    """All series by study; what is no image of a series is left out.

    Returns:
        the series by patient and study, in the order of their numbers.
    """
    import pydicom

    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # values that are not quite as they should
    images: dict[tuple[Study, str], dict[tuple, tuple[Path, Any]]] = defaultdict(dict)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of files that it reads in spite of faults
        for path in tqdm(files.volumes, "reading DICOM headers", leave=False, disable=None):
            try:
                image = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS)
                index = str(image.file_meta.get("MediaStorageSOPClassUID", "")) == DIRECTORY
                uids = [str(image[key].value) for key in ("StudyInstanceUID", "SeriesInstanceUID") if not index]
                patient, place = str(image.get("PatientID") or "").strip(), numbers_of(image, "ImagePositionPatient")
                own = str(image.get("SOPInstanceUID", path)), whole_number(image, "InstanceNumber"), *place.round(2)
            except Exception as error:  # pydicom fails in many ways
                files.leave_out(path, f"{DAMAGED}, or of no study, {type(error).__name__}")
                continue
            if index or own in images[(patient, uids[0]), uids[1]]:
                files.leave_out(path, "is the index" if index else "a second copy of an image")
            else:
                images[(patient, uids[0]), uids[1]][own] = path, image
    studies: dict[Study, list[Series]] = defaultdict(list)
    for (study, _), found in images.items():
        if found:
            pairs = sorted(found.values(), key=lambda pair: str(pair[0]))
            studies[study].append(Series([image for _, image in pairs], [path for path, _ in pairs]))
    return {study: sorted(every, key=lambda one: one.number("SeriesNumber")) for study, every in studies.items()}


def read_series(files: Sequence[str | Path]) -> tuple[list[Any], Any]:
    """The images of a series with their pixels, and the volume of them, as highdicom's Volume (slice, row, column).

    Raises:
        FileFault: if they are damaged, compressed in a way that no package here reads, or no volume.
    """
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            images = [pydicom.dcmread(path) for path in files]
            series = Series(images, [Path(path) for path in files])
            if fault := series.fault():
                raise ValueError(fault)
            for image in images:
                turn(image, series.axes)
            volume = volume_of(images)
    except Exception as error:  # pydicom, its decoders and highdicom fail in many ways
        raise FileFault(f"DICOM series: {reason_of(error)}", EXPORT) from error
    return images, volume


def volume_of(images: Sequence[Any], **options: Any) -> Any:
    """The volume of the images of a series, as highdicom reads it with these options."""
    import highdicom

    options |= {"dtype": np.float32, "atol": EVEN_MM}
    if len(images) == 1:
        return highdicom.Image.from_dataset(images[0]).get_volume(**options)
    return highdicom.get_volume_from_series(images, **options)


def blank_padding(images: Sequence[Any], volume: Any) -> Any:
    """The volume with 0 where the images' stored values are padding."""
    ranges = {ends for image in images if (ends := padding_of(image))}
    if not ranges:
        return volume
    stored = volume_of(images, apply_modality_transform=False, apply_real_world_transform=False).array
    padding = np.any([(stored >= lowest) & (stored <= highest) for lowest, highest in ranges], axis=0)
    return volume.with_array(np.where(padding, np.float32(0), volume.array))


def write_series(files: Sequence[str | Path], path: Path) -> None:
    """Write a series as NIfTI (column, row, slice), as its pixels mean: whole numbers as int16 where they fit.

    Padding becomes 0.

    Raises:
        FileFault: as ``read_series``.
    """
    volume = blank_padding(*read_series(files)).permute_spatial_axes([2, 1, 0])
    voxels = volume.array
    short = np.array_equal(voxels, np.rint(voxels)) and voxels.min() >= -(2**15) and voxels.max() < 2**15
    image = nib.Nifti1Image(voxels.astype(np.int16) if short else voxels, volume.get_affine("RAS"))
    for set_form in (image.set_sform, image.set_qform):
        set_form(image.affine, 1)  # the scanner's frame
    image.header.set_xyzt_units("mm")
    with replacing(path) as partial:
        nib.save(image, partial)
