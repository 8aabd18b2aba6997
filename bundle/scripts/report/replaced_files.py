"""A run's files as they are now: which cannot be shown, and which are not those that were predicted or scored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from scripts.data.volumes import Volume, content_checksum
from scripts.documents import some
from scripts.errors import UserError
from scripts.evaluation.summary import Scores
from scripts.folders.case import stamp
from scripts.report.images import image_shape
from scripts.report.layers import LabelMap


def checksums_of(
    maps: Mapping[str, Mapping[str, LabelMap]], images: Mapping[str, Path]
) -> tuple[dict[str, dict[str, int]], dict[str, str]]:
    """Checksum of the network classes in each label map, by case and kind; and the fault of cases that have one.

    Args:
        maps: label maps by case and kind, "prediction" and "truth".
        images: by case.
    """
    found, faults = dict[str, dict[str, int]](), dict[str, str]()
    for case, kinds in tqdm(maps.items(), desc="Reading label maps", disable=None, leave=False):
        try:
            shape = image_shape(images[case])
            volumes = {kind: Volume(item.classes(shape), np.eye(4)) for kind, item in kinds.items()}
        except UserError as error:
            faults[case] = str(error)
        else:
            found[case] = {kind: content_checksum(volume) for kind, volume in volumes.items()}
    return found, faults


def replaced_maps(scores: Scores, now: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Sentences on the cases whose label maps or truth are not those that were scored, of tables that hold checksums.

    ``now`` holds the checksums of today, by case and kind.
    """
    notes = []
    for kind, then, what in (
        ("prediction", scores.prediction_checksum, "label maps"),
        ("truth", scores.truth_checksum, "true label maps"),
    ):
        sums = {case: kinds[kind] for case, kinds in now.items() if kind in kinds}
        if other := [case for case, value in sums.items() if then.get(case, value) != value]:
            notes.append(
                f"The scores of {scores.path.name} are of other {what} than those shown here, in {len(other)} of "
                f"{len(now)} scans: {some(other)}. These files were replaced, or the scores are another run's: score "
                "again."
            )
    return notes


def replaced_images(record: Mapping[str, Any], cases: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence on the images that have another size or time than when they were predicted, if there are any.

    Of DICOM the volume is shown that the prediction wrote, which nobody replaces. An earlier version recorded the first
    of several sequences, and size and time of all, which tell nothing.
    """
    several = not isinstance(record.get("settings", {}).get("student_sequence", ""), str)
    images = {
        name: {**case, "image": case.get("images", case["image"])}
        for name, case in cases.items()
        if "dicom" not in case and ("images" in case or not several)
    }
    other = [
        name
        for name, case in images.items()
        if any(case.get(key, value) != value for key, value in stamp(case).items())
    ]
    if not other:
        return []
    return [
        f"The images of {len(other)} of {len(cases)} scans may have changed since they were predicted, because their "
        f"size or time is another one: {some(other)}. If so, the label maps do not belong to them. Copying a folder "
        "can change the times, too."
    ]
