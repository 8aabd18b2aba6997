"""Label maps as DICOM SEG, which refer to the series that they were made from."""

from __future__ import annotations

import json
import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform
from nibabel.orientations import io_orientation

from scripts.data.plausible import label_faults
from scripts.data.volumes import Volume, grid_faults, read_volume, reorient
from scripts.errors import UserError
from scripts.files import replacing
from scripts.folders.dicom import DICOM_FILES, read_series
from scripts.inference.writers import stays
from scripts.labels import CLASS_COLOURS, CLASS_TITLES, CLASSES, class_of_value, lenient_values

logger = logging.getLogger(__name__)

SNOMED = {"NCR": "Necrosis", "ED": "Edema", "ET": "Neoplasm"}  # SNOMED CT has no code for enhancing tumour
SERIES_NUMBER = 300  # of the SEG: this much above its source
COPIED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "SliceThickness"),
)
TEXTS = ("LO", "PN", "SH")  # of DICOM's types of values: archives know patient and study by these
DECIMALS = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
METADATA = Path(__file__).resolve().parents[2] / "configs" / "metadata.json"


class SaveDicomSegd(MapTransform):
    """Writes NAME_seg.dcm of the label map on disk, which a person may have corrected, in the grid of the series.

    Args:
        keys: a volume in the grid of the image's file, (1, H, W, D), with its affine.
        output_dir: the folder of the label map, and to write to.
        label_values: values on disk of the network classes.
    """

    def __init__(self, keys: KeysCollection, output_dir: str, label_values: Sequence[int]) -> None:
        super().__init__(keys)
        self.output_dir = output_dir
        self.class_of = class_of_value(lenient_values(list(label_values)))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        meta, path = data["image"].meta, Path(self.output_dir, f"{data['case']}_seg.dcm")
        for key in self.key_iterator(data) if not stays(path, meta) else ():
            grid = Volume(data[key][0].cpu().numpy(), data[key].affine.cpu().numpy())
            classes = read_classes(path.with_suffix(".nii.gz"), grid, self.class_of)
            write_dicom_seg(path, classes, meta[DICOM_FILES].split("\n"))
        return dict(data)


def read_classes(path: Path, grid: Volume, class_of: Mapping[int, int]) -> np.ndarray:
    """Network classes (H, W, D) of a label map on the grid of its image.

    Raises:
        ValueError: if it is on another grid, or holds values that stand for no class.
    """
    volume = reorient(read_volume("label", {"label": path}, 1), io_orientation(grid.affine))
    faults = grid_faults(volume, grid, "its image") or label_faults(volume.voxels, class_of)
    if faults:
        raise ValueError(f"{path.name}: {faults[0][0]}")
    classes = np.zeros(volume.voxels.shape, np.uint8)
    for value, index in class_of.items():
        classes[volume.voxels == value] = index
    return classes


def check_dicom(images: Sequence[Mapping[str, Any]]) -> None:
    """Check that there is a series for each DICOM SEG. Raises UserError if no image without a fault is of DICOM."""
    sound = [image for image in images if "fault" not in image]
    if sound and not any("dicom" in image for image in sound):
        raise UserError("dicom_seg is True, but dataset_dir holds no DICOM: leave it out, or give DICOM studies.")


def write_dicom_seg(path: Path, classes: np.ndarray, files: Sequence[str]) -> None:
    """Write network classes (column, row, slice) of a series as a binary DICOM SEG, a segment for each tumour class.

    Patient and study are copied from the series. A class that is not there has a segment without voxels. Logged: which
    of these have no valid value and are empty in the SEG.
    """
    import highdicom as hd
    from pydicom.uid import generate_uid

    images, volume = read_series(files)
    emptied = sorted({keyword for image in images for keyword in fill(image)})
    if emptied:
        logger.warning(f"{path.name}: not valid in the DICOM series, so empty in the DICOM SEG: {', '.join(emptied)}.")
    segmentation = hd.seg.Segmentation(
        source_images=images,
        pixel_array=volume.with_array(np.ascontiguousarray(classes.transpose(2, 1, 0)).astype(np.uint8)),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[describe(number) for number in range(1, len(CLASSES))],
        series_instance_uid=generate_uid(),
        series_number=int(images[0].get("SeriesNumber") or 0) + SERIES_NUMBER,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="MTCM-KD",
        manufacturer_model_name="MTCM-KD",
        software_versions=version(),
        device_serial_number="0",
        content_description="Brain tumour, research only",
        content_label="BRAIN_TUMOUR",
        specific_character_set="ISO_IR 192",  # UTF-8 for every source: highdicom rejects some that pydicom reads
    )
    segmentation.SeriesDescription = "Brain tumour segmentation (research only)"
    with replacing(path) as partial:
        segmentation.save_as(partial)


def fill(image: Any) -> list[str]:
    """Make attributes empty that a SEG copies and an anonymised image may lack, or that have no valid value.

    Texts are copied as they are, also longer than DICOM allows. Decimals of its place get the length that DICOM allows.

    Returns:
        what had a value, which is not valid.
    """
    from pydicom.config import IGNORE, RAISE
    from pydicom.datadict import dictionary_VR
    from pydicom.dataelem import DataElement
    from pydicom.valuerep import DSfloat

    emptied = []
    for keyword in COPIED:
        value, kind = "of no valid form", dictionary_VR(keyword)
        try:
            value = image.get(keyword)
            DataElement(keyword, kind, value, validation_mode=IGNORE if kind in TEXTS else RAISE)
            valid = keyword != "PatientSex" or value in ("M", "F", "O")
        except ValueError:
            valid = False
        if not valid or value is None:
            emptied += [keyword] if value else []
            setattr(image, keyword, None)
    for keyword in DECIMALS:
        if keyword in image:
            values = np.atleast_1d(np.asarray(image[keyword].value, dtype=float))
            setattr(image, keyword, [DSfloat(float(value), auto_format=True) for value in values])
    return emptied


def describe(number: int) -> Any:
    """The description of the segment of a network class."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    name = CLASSES[number]
    algorithm = hd.AlgorithmIdentificationSequence("MTCM-KD", codes.DCM.ArtificialIntelligence, version())
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=CLASS_TITLES[number],
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=getattr(codes.SCT, SNOMED[name]),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        anatomic_regions=[codes.SCT.Brain],
        display_color=hd.color.CIELabColor.from_string(CLASS_COLOURS[number]),
    )


def version() -> str:
    """The bundle's version."""
    return str(json.loads(METADATA.read_text(encoding="utf-8"))["version"])
