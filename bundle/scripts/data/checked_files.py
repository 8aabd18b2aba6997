"""What reading each file showed, kept beside the datalist: a later start reads only files that changed since."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.orientations import io_orientation

from scripts.data import plausible, skull, volumes
from scripts.data.plausible import header_faults, image_faults, outside_faults, probability_faults, tumour_faults
from scripts.data.volumes import Finding, Volume, content_checksum, read_volume, reorient, unreadable
from scripts.errors import UserError
from scripts.files import sha256, write_text
from scripts.labels import CLASSES, REGIONS, SEQUENCES, TARGETS

logger = logging.getLogger(__name__)

MOST_VALUES = 100  # of a label; an image in the place of a label has thousands, and is read again


class FileReport(NamedTuple):
    """What reading one file showed."""

    shape: Sequence[int]
    affine: Sequence[Sequence[float]]
    faults: Sequence[Finding] = ()
    values: Sequence[float] = ()  # of a label
    tumour_ml: float = 0.0
    checksum: int = 0  # of the first image of a case, and of a label with tumour

    @property
    def grid(self) -> Volume:
        """A volume of this shape and affine, without voxels of its own."""
        return Volume(np.broadcast_to(np.uint8(0), self.shape), np.array(self.affine))


class CheckedFiles:
    """Reports of files by path, size and time, and by what was asked of them.

    The file is DATALIST.checked.json beside the datalist. There is none in the patients' folder, nor where it cannot be
    written, or where another document has this name. A record that cannot be read, or that was made by other checks, is
    ignored.

    Args:
        datalist: the datalist; without one, nothing is kept.
        dataset_dir: the folder of the patients.
    """

    def __init__(self, datalist: str = "", dataset_dir: str = "") -> None:
        own = Path(datalist).resolve()
        patients = Path(dataset_dir).resolve()
        self.path = None if not datalist or patients in own.parents else own.with_suffix(".checked.json")
        self.known = self.read_record()
        self.new: dict[str, list[Any]] = {}  # size, time of the last change in ns, report

    def read_record(self) -> dict[str, Any]:
        try:
            document = json.loads(self.path.read_text(encoding="utf-8")) if self.path else {}
            if document and not (isinstance(document, dict) and {"checks", "files"} & document.keys()):
                logger.info(f"All files will be read again at the next start: {self.path} is no record of checks.")
                self.path = None
            return dict(document["files"]) if document["checks"] == checks() else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def report(
        self, role: str, files: Mapping[str, Path], channels: Mapping[str, int], first: bool, used: Collection[int] = ()
    ) -> FileReport:
        """The report of one role's file, which is read unless the record holds it.

        Args:
            role: a sequence or ``label``.
            files: path by role.
            channels: channel of each sequence in a 4-D file; empty where each has its own.
            first: whether the file gives the checksum of its case: that of the role's channel.
            used: channels of a 4-D file that must not be empty.

        Raises:
            FileNotFoundError, ValueError: as ``read_volume``.
        """
        if role not in files or not files[role].is_file():
            raise FileNotFoundError(str(files.get(role, "-")))
        path, stat = files[role].resolve(), files[role].stat()
        key = json.dumps([str(path), role == "label", len(channels), channels.get(role, 0) if first else None, *used])
        stamp = [stat.st_size, stat.st_mtime_ns]
        if role == "label" and (beside := image_beside(files)):
            image = files[beside].stat()
            key = json.dumps([str(path), str(files[beside].resolve()), image.st_size, image.st_mtime_ns])
        with suppress(KeyError, TypeError, ValueError):  # not known, or spoilt
            size, time, values = self.known[key]
            known = FileReport(*values)
            if [size, time] == stamp and known.grid.affine.shape == (4, 4):
                return known
        report = read_report(role, files, channels, first, used)
        if len(report.values) <= MOST_VALUES and all(map(math.isfinite, report.values)):
            self.new[key] = [*stamp, report]
        return report

    def write(self) -> None:
        """Add the new reports to the record. Another process may have written it meanwhile."""
        known = self.read_record() if self.new else {}
        if not self.new or not self.path:
            return
        document = {"checks": checks(), "files": known | self.new}
        try:
            write_text(self.path, json.dumps(document) + "\n")
        except UserError as error:
            logger.info(f"All files will be read again at the next start: {error}")


def read_report(
    role: str, files: Mapping[str, Path], channels: Mapping[str, int], first: bool, used: Collection[int]
) -> FileReport:
    """The report of one role's file, from reading it."""
    if role == TARGETS:
        return read_targets(files)
    if role == "label":
        return read_label(files, channels)
    volume = read_volume(role, files, len(channels) or 1)
    grid = list(volume.voxels.shape[:3]), volume.affine.tolist()
    faults = image_faults(volume, used)
    if not first or faults:
        return FileReport(*grid, faults)
    if volume.voxels.ndim == 4:  # the other channels are of other sequences
        volume = volume._replace(voxels=volume.voxels[..., channels[role]])
    return FileReport(*grid, checksum=content_checksum(volume))


def read_label(files: Mapping[str, Path], channels: Mapping[str, int]) -> FileReport:
    """The report of a label: its header, its values, how much tumour it holds, and whether that lies in the brain."""
    label = read_volume("label", files, 1)
    millilitres = float((label.voxels > 0).sum() * abs(np.linalg.det(label.affine[:3, :3])) / 1000)
    faults = header_faults(label) or tumour_faults(millilitres)
    if millilitres and not faults and (beside := image_beside(files)):
        with suppress(ValueError):  # which is a fault of the image
            image = read_volume(beside, files, len(channels) or 1)
            voxels = image.voxels[..., channels[beside]] if channels else image.voxels
            turned = reorient(label, io_orientation(image.affine))  # what a label in another orientation marks
            faults = outside_faults(turned.voxels, voxels, files[beside].name)
    values = np.unique(label.voxels).tolist()
    checksum = content_checksum(label) if millilitres else 0
    return FileReport(list(label.voxels.shape), label.affine.tolist(), faults, values, millilitres, checksum)


def image_beside(files: Mapping[str, Path]) -> str:
    """The sequence with which a case's label is compared: T1ce, or else another; "" without any."""
    return next((name for name in ("t1ce", *SEQUENCES) if name in files and files[name].is_file()), "")


def read_targets(files: Mapping[str, Path]) -> FileReport:
    """The report of another program's prediction: a label map, or probabilities of three regions or four classes."""
    try:
        shape = nib.load(files[TARGETS]).shape
    except Exception as error:  # nibabel, gzip and zlib fail in many ways
        raise ValueError(unreadable(files[TARGETS], error)) from error
    if shape[3:] not in ((), (1,), (len(REGIONS),), (len(CLASSES),)):
        raise ValueError(f"shape {shape}, expected a label map, or 3 regions or 4 classes on the last axis")
    volume = read_volume(TARGETS, files, shape[3] if len(shape) > 3 else 1)
    grid = list(volume.voxels.shape[:3]), volume.affine.tolist()
    if volume.voxels.ndim == 4:
        return FileReport(*grid, probability_faults(volume.voxels))
    return FileReport(*grid, values=np.unique(volume.voxels).tolist())


def checks() -> str:
    """What stands for the checks of a file: the checksum of their source, so that a change of any asks again."""
    return "-".join(sha256(source)[:16] for source in (volumes.__file__, plausible.__file__, skull.__file__, __file__))
