"""A header for each slice of a DICOM series, also of an enhanced file, and what the slices' numbers tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["absent_ends", "count_numbers", "frame_headers", "value_of"]

SAME = ("Rows", "Columns", "FrameOfReferenceUID", "PhotometricInterpretation")  # of all frames
GROUPS = {  # the sequence in which an attribute of a frame stands
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "ImagePositionPatient": "PlanePositionSequence",
    "PixelSpacing": "PixelMeasuresSequence",
}


def value_of(image: Any, keyword: str) -> Any:
    """An attribute of an image; None where it is missing, empty or not of its type."""
    try:
        value = image.get(keyword)
    except Exception:  # pydicom reads a value when it is asked for
        return None
    return None if value == "" else value


def count_numbers(image: Any, keyword: str) -> int:
    """How many numbers an attribute of an image has; 0 if one of its values is none, such as "4,0"."""
    try:
        numbers = np.array(value_of(image, keyword), float)
    except (TypeError, ValueError):
        return 0
    return numbers.size if np.isfinite(numbers).all() else 0


def frame_headers(image: Any) -> list[Any]:
    """A header for each frame of an enhanced image, with its place; of another image with frames, its own header."""
    from pydicom.dataset import Dataset

    shared, headers = first_of(image, "SharedFunctionalGroupsSequence"), []
    for frame in value_of(image, "PerFrameFunctionalGroupsSequence") or []:
        header = Dataset()
        values = {keyword: value_of(image, keyword) for keyword in SAME}
        for keyword, group in GROUPS.items():
            own, common = (value_of(first_of(item, group), keyword) for item in (frame, shared))
            values[keyword] = common if own is None else own
        for keyword, value in values.items():
            if value is not None:
                setattr(header, keyword, value)
        headers.append(header)
    return headers or [image]


def first_of(image: Any, keyword: str) -> Any:
    """The first item of a sequence, {} without one."""
    return next(iter(value_of(image, keyword) or [{}]))


def absent_ends(images: Sequence[Any]) -> tuple[str, bool]:
    """What numbers tell of images that are absent at the ends of a series, "" if nothing; and whether it is certain.

    It is not certain if no count is given, or if the images may be one of several equal volumes of an acquisition.
    """
    found, numbers = len(images), sorted(whole_number(image, "InstanceNumber") for image in images)
    first, last = numbers[0], numbers[-1]
    derived = "DERIVED" in np.atleast_1d(value_of(images[0], "ImageType") or "")[:1]
    if derived or first < 1 or last - first + 1 != found or len({*numbers}) < found:
        return "", False
    counts = {whole_number(image, "ImagesInAcquisition") for image in images}
    acquisitions = {whole_number(image, "AcquisitionNumber") for image in images}
    expected = max(counts) if len(counts) == len(acquisitions) == 1 else 0
    if expected > found:
        certain = expected % found > 0 and (first == 1 or last == expected)
        return f"{found} of the {expected} images of its acquisition, numbers {first} to {last}", certain
    return f"numbers {first} to {last}, not from 1" if first > 1 else "", False


def whole_number(image: Any, keyword: str) -> int:
    """An attribute as a whole number; 0 if it is none."""
    try:
        return int(value_of(image, keyword))
    except (TypeError, ValueError):
        return 0
