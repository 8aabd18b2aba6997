"""A header for each slice of a DICOM series, also of an enhanced file, and what the slices' headers tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

SAME = ("Rows", "Columns", "FrameOfReferenceUID", "PhotometricInterpretation")  # of all frames
GROUPS = {  # the sequence in which an attribute of a frame stands
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "ImagePositionPatient": "PlanePositionSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
}
EVEN_MM = 0.1  # distances of slices that differ by less are equal: positions are rounded
TURNED = 1e-3  # parts of directions that differ by less are equal
TIMES = ("EchoTime", "RepetitionTime", "InversionTime")
JITTER = 1.1  # times of one acquisition differ by less
AGENT_TAG = "ContrastBolusAgent"


def value_of(image: Any, keyword: str) -> Any:
    """An attribute of an image; None where it is missing, empty or not of its type."""
    try:
        value = image.get(keyword)
    except Exception:  # pydicom reads a value when it is asked for
        return None
    return None if value == "" else value


def numbers_of(image: Any, keyword: str) -> np.ndarray:
    """The numbers of an attribute of an image; empty if one of its values is none, such as "4,0"."""
    try:
        numbers = np.array(value_of(image, keyword), float).ravel()
    except (TypeError, ValueError):
        return np.empty(0)
    return numbers if np.isfinite(numbers).all() else np.empty(0)


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


def mixed_tags(images: Sequence[Any]) -> str:
    """What tells that images are of several acquisitions, such as "EchoTime 3 and 4"; "" if nothing.

    A value that is absent in some images tells nothing, except the contrast agent; nor does the case of letters.
    """
    for keyword in TIMES:
        times = [number for image in images for number in numbers_of(image, keyword)[:1] if number > 0]
        if times and max(times) > JITTER * min(times):
            return f"{keyword} {min(times):g} and {max(times):g}"
    for keyword in (AGENT_TAG, "SeriesDescription", "ImageType"):
        values = [np.atleast_1d(value_of(image, keyword) or "")[:3] for image in images]
        parts = min((len(value) for value in values if value[0]), default=0)
        texts = {"\\".join(map(str, value[:parts])).strip().lower() for value in values}
        if len(told := sorted(texts if keyword == AGENT_TAG else texts - {""})) > 1:
            return f"{keyword} {' and '.join(text or 'none' for text in told[:2])}"
    return ""


def spacing_fault(image: Any, usual: float) -> str:
    """Why a gap of slices (mm) is more than one slice by what their header says; "" if it is not.

    Some programs write the empty space between two slices, which is negative if they overlap.
    """
    stated, thickness = (numbers_of(image, key)[:1].sum() for key in ("SpacingBetweenSlices", "SliceThickness"))
    empty_space = stated < 0.9 * thickness and abs(thickness + stated - usual) < EVEN_MM
    if "DERIVED" in kind_of(image) or empty_space or not 0 < 1.5 * abs(stated) < usual:
        return ""
    return f"they are {usual:.3g} mm apart, SpacingBetweenSlices is {abs(stated):.3g}"


def kind_of(image: Any) -> list[str]:
    """The values of ImageType, such as ORIGINAL and PRIMARY."""
    return [str(value) for value in np.atleast_1d(value_of(image, "ImageType") or "")]


def gap_fault(images: Sequence[Any], places: np.ndarray) -> str:
    """Why images at these places along their normal (mm) are not evenly spaced; "" if they are."""
    order = np.argsort(places, kind="stable")
    gaps = np.diff(places[order])
    if doubled := int((gaps < EVEN_MM).sum()):
        return f"{doubled} of {len(images)} slices lie where another one lies: several volumes in one series"
    usual, widest = float(np.median(gaps)), int(np.argmax(gaps))
    if gaps[widest] > 1.5 * usual:
        number = value_of(images[order[widest]], "InstanceNumber") or widest + 1
        missing = sum(round(float(gap / usual)) - 1 for gap in gaps)
        return f"{missing} missing slice(s): {gaps[widest]:.3g} mm after slice {number}, elsewhere {usual:.3g} mm"
    if np.ptp(gaps) > EVEN_MM:
        return f"slices that are {gaps.min():.3g} to {gaps.max():.3g} mm apart, expected even distances"
    return ""


def skew_fault(direction: Any) -> str:
    """Why the directions of row and column are not perpendicular ones of length 1; "" if they are, or nearly."""
    row, column = np.array(direction, float).reshape(2, 3)
    lengths = np.linalg.norm([row, column], axis=1)
    if np.abs(lengths - 1).max() > 0.1:
        return f"row and column directions of length {lengths[0]:.2g} and {lengths[1]:.2g}, expected 1"
    skew = abs(row @ column) / lengths.prod()
    told = f"row and column directions are not perpendicular ({np.degrees(np.arcsin(skew)):.1g} degrees): rounded"
    return told if skew > TURNED else ""


def nearest_axes(direction: Any) -> np.ndarray:
    """The perpendicular directions of length 1, (2, 3), that are nearest to those of row and column."""
    left, _, right = np.linalg.svd(np.array(direction, float).reshape(2, 3), full_matrices=False)
    return (left @ right).round(12)


def turn(image: Any, axes: np.ndarray) -> None:
    """Set the directions of row and column of an image, also of its frames."""
    groups = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
    items = [item for group in groups for item in value_of(image, group) or []]
    for place in (image, *(first_of(item, "PlaneOrientationSequence") for item in items)):
        if "ImageOrientationPatient" in place:
            place.ImageOrientationPatient = axes.ravel().tolist()


def padding_of(image: Any) -> tuple[float, float] | None:
    """The lowest and the highest stored value that stand for no tissue; None if the image names none."""
    if not numbers_of(image, "PixelPaddingValue").size:
        return None
    size = 2 ** whole_number(image, "BitsAllocated")
    lowest = -size / 2 if whole_number(image, "PixelRepresentation") else 0  # -2000 may be written as 63536
    ends = [numbers_of(image, keyword)[:1] for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    stored = (np.concatenate(ends) - lowest) % size + lowest
    return stored.min(), stored.max()


def absent_slices(images: Sequence[Any]) -> tuple[str, bool]:
    """What numbers tell of images that are absent from a series, "" if nothing; and whether it is certain.

    It is not certain if no count is given, or if the images may be one of several equal volumes of an acquisition.
    """
    found, numbers = len(images), sorted(whole_number(image, "InstanceNumber") for image in images)
    first, last, steps = numbers[0], numbers[-1], {*np.diff(numbers).tolist()}
    if "DERIVED" in kind_of(images[0]) or first < 1 or 0 in steps:
        return "", False
    counts = {whole_number(image, "ImagesInAcquisition") for image in images}
    acquisitions = {whole_number(image, "AcquisitionNumber") for image in images}
    expected = max(counts) if len(counts) == len(acquisitions) == 1 else 0
    if expected > found:
        certain = len(steps) == 1 and expected % found > 0 and (first == 1 or last == expected)
        return f"{found} of the {expected} images of its acquisition, numbers {first} to {last}", certain
    if len(steps) == 1 and max(steps) > 1:
        return f"numbers {first}, {numbers[1]}, ... {last}, in steps of {max(steps)}", False
    return f"numbers {first} to {last}, not from 1" if first > 1 and steps == {1} else "", False


def whole_number(image: Any, keyword: str) -> int:
    """An attribute as a whole number; 0 if it is none."""
    try:
        return int(value_of(image, keyword))
    except (TypeError, ValueError):
        return 0
