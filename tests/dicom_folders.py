"""DICOM studies drawn from phantoms, as a PACS exports them. Written with pydicom alone: a second implementation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

LPS = np.diag([-1.0, -1.0, 1.0])


def oblique(spacing=(5.0, 5.0, 9.0), angles=(0.2, -0.15, 0.3), origin=(75.0, 80.0, -70.0)):
    """A RAS affine of turned slices: columns run to the left, rows to the back."""
    (ca, cb, cc), (sa, sb, sc) = np.cos(angles), np.sin(angles)
    turns = [
        [[1, 0, 0], [0, ca, -sa], [0, sa, ca]],
        [[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]],
        [[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]],
    ]
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.multi_dot(turns) @ np.diag([-1, -1, 1]) @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


def write_dicom(
    folder: Path, voxels: np.ndarray, affine: np.ndarray, order=None, names="IM{:05d}", **tags
) -> list[Path]:
    """Write a series of whole numbers (column, row, slice) as one file a slice; its files, in the order of the slices.

    Args:
        folder: where the files go.
        voxels: whole numbers.
        affine: RAS, of these axes.
        order: the number in the file's name of each slice; by default random.
        names: the files' names by this number.
        tags: attributes of all images, None to leave one out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    steps = LPS @ affine[:3, :3]
    column, row = (steps[:, axis] / np.linalg.norm(steps[:, axis]) for axis in (0, 1))
    same = {
        "PatientName": "Doe^Jane", "PatientID": "H4711", "PatientBirthDate": "19600101", "PatientSex": "F",
        "StudyDate": "20240105", "StudyTime": "101500", "StudyID": "1",
        "AccessionNumber": "", "ReferringPhysicianName": "",
        "Modality": "MR", "Manufacturer": "Phantom", "SeriesDescription": "t1_mprage_tra_KM", "SeriesNumber": 5,
        "StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid(),
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"], "PositionReferenceIndicator": "",
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16, "BitsStored": 16,
        "HighBit": 15, "PixelRepresentation": 0, "EchoTime": 3, "RepetitionTime": 9, "PatientPosition": "HFS",
        "ImageOrientationPatient": [*column.round(9), *row.round(9)],
        "PixelSpacing": [np.linalg.norm(steps[:, 1]).round(6), np.linalg.norm(steps[:, 0]).round(6)],
        "SliceThickness": float(np.linalg.norm(steps[:, 2]).round(6)),
    } | tags  # fmt: skip
    order = np.random.default_rng(0).permutation(voxels.shape[2]) if order is None else order
    files = []
    for index, number in zip(range(voxels.shape[2]), order):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = same.get("SOPClassUID", MRImageStorage)
        meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = generate_uid(), ExplicitVRLittleEndian
        image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        for keyword, value in same.items():
            if value is not None:
                setattr(image, keyword, value)
        image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        image.InstanceNumber = index + 1
        if same.get("ImagePositionPatient", "") is not None:
            image.ImagePositionPatient = [*(LPS @ (affine @ [0, 0, index, 1])[:3]).round(6)]
        plane = np.ascontiguousarray(voxels[:, :, index].T.astype(np.uint16))
        image.Rows, image.Columns, image.PixelData = *plane.shape, plane.tobytes()
        files.append(folder / names.format(int(number)))
        pydicom.dcmwrite(files[-1], image, enforce_file_format=True)
    return files
