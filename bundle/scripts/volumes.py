"""Volumes of the regions in label maps, for patients whose truth is not known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from scripts.labels import REGIONS, TABLE_ORDER

__all__ = ["read_volumes"]


def read_volumes(cases: Iterable[Mapping[str, Any]], class_of: Mapping[int, int]) -> list[dict[str, Any]]:
    """Volume of each region in ml, a row a case, from the ``prediction`` of each; ``class_of`` maps values on disk."""
    rows = []
    for case in cases:
        image = nib.load(case["prediction"])
        counts = np.bincount(np.asarray(image.dataobj).astype(np.int64).ravel(), minlength=max(class_of) + 1)
        millilitres = float(np.prod(voxel_sizes(image.affine))) / 1000
        of_class = {
            name: sum(int(counts[value]) for value, index in class_of.items() if index in classes)
            for name, classes in REGIONS
        }
        rows.append(
            {"case": case["case"]} | {f"{name}_ml": f"{of_class[name] * millilitres:.3f}" for name in TABLE_ORDER}
        )
    return rows
