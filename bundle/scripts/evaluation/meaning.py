"""What the values in label maps stand for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.data.volumes import shorten, whole_numbers
from scripts.errors import UserError
from scripts.faults import FileFault
from scripts.labels import VALUE_NAMES, WHICH_IS_ET, class_of_value, unclear_meaning

NAME_2023 = re.compile(r"BraTS-[A-Za-z]+-\d+-\d+")  # of cases from 2023 on


class Meaning:
    """What the values in one side's label maps stand for.

    Args:
        label_values: a name of LABEL_VALUES, or the values on disk of background, NCR, ED, ET; by default those of the
            BraTS edition that the files turn out to be of.
        key: the option that sets it.

    Raises:
        UserError: for another name or list.
    """

    def __init__(self, label_values: str | Sequence[int] | None = None, key: str = "label_values") -> None:
        self.class_of = class_of_value(label_values, key)
        self.key = key
        self.label_values = label_values
        self.told = label_values is not None
        self.enhancing: dict[int, Path] = {}  # a file with 3, and one with 4, where no edition is named

    def classes(self, voxels: np.ndarray, path: Path) -> np.ndarray:
        """Network classes. Raises FileFault for values without a meaning, or with two."""
        try:
            classes = to_classes(voxels, self.class_of)
        except FileFault as error:
            known = error.remedy + (", by the label values given for this side" if self.told else "")
            remedy = f"{known}: pass {'other ' if self.told else ''}--{self.key} ({VALUE_NAMES})"
            raise FileFault(str(error), remedy, path) from error
        if not self.told:
            values = {value for value in (3, 4) if (voxels == value).any()}
            self.enhancing |= dict.fromkeys(values, path)
            name = f"{path.parent.name}/{path.name}" if self.key == "truth_values" else ""  # predictions may be of 2018
            if doubt := unclear_meaning(values, name, modern=bool(NAME_2023.search(name))):
                raise FileFault(doubt, f"pass --{self.key} ({VALUE_NAMES})", path)
        return classes

    def check_one_edition(self) -> None:
        """Raises UserError if some files hold 3 and others 4, and no edition is named."""
        if len(self.enhancing) > 1:
            raise UserError(
                f"{self.enhancing[3]} holds 3 and {self.enhancing[4]} holds 4: {WHICH_IS_ET}: pass --{self.key} "
                f"({VALUE_NAMES})."
            )


def to_classes(voxels: np.ndarray, class_of: Mapping[int, int]) -> np.ndarray:
    """Network classes of a label map, uint8.

    Shapes: any -> the same.

    Raises:
        FileFault: for values that stand for no class.
    """
    voxels = whole_numbers(voxels)
    if unknown := sorted(values_in(voxels) - set(class_of)):
        raise FileFault(f"unknown label values {shorten(unknown)}", f"expected {sorted(class_of)}")
    classes = np.zeros_like(voxels, dtype=np.uint8)
    for value, index in class_of.items():
        classes += (voxels == value) * np.uint8(index)
    return classes


def values_in(voxels: np.ndarray) -> set[Any]:
    """The values in a label map. Nearly all of its voxels are 0, so only the others are sorted."""
    flat = voxels.ravel("K")  # in the order in memory
    others = flat[flat != 0]
    return set(np.unique(others).tolist()) | ({0} if len(others) < len(flat) else set())
