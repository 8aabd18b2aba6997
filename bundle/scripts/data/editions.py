"""What the values in a data set's labels mean: as the user says, or as its edition and its labels tell."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence

from scripts.data.case import Case
from scripts.data.checks import CaseReport
from scripts.data.faults import Fault
from scripts.errors import UserError
from scripts.labels import BRATS_2018, BRATS_2023, CLASSES, class_of_value

__all__ = ["detect_label_values", "possible_labels", "values_of", "warn_of_absent_classes"]

logger = logging.getLogger(__name__)


def values_of(label_values: str | Sequence[int] | None) -> tuple[int, ...]:
    """Values on disk of the network classes; empty where none are given.

    Raises:
        UserError: for another name or list, or if two values stand for one class: no datalist can say so.
    """
    if label_values is None:
        return ()
    class_of = class_of_value(label_values)
    if len(class_of) > len(CLASSES):
        raise UserError(
            f"label_values is {label_values!r}, in which {max(class_of)} counts as background: relabel it to 0 and "
            "give brats2023."
        )
    return tuple(sorted(class_of, key=lambda value: class_of[value]))


def possible_labels(case: Case) -> set[int]:
    """Values that a case's label may hold. BraTS from 2017 to 2021 stores ET as 4, relabelled copies of it as 3."""
    by_edition = {"2015": {0, 1, 2, 4}, "2023": {0, 1, 2, 3}}
    return set(case.label_values) or by_edition.get(case.edition, {0, 1, 2, 3, 4})


def detect_label_values(
    cases: Sequence[Case], reports: Mapping[str, CaseReport]
) -> tuple[tuple[int, ...], list[Fault]]:
    """Disk values of the network classes, and a fault for each case that differs from the majority."""
    cases_with: dict[int, list[str]] = defaultdict(list)
    for case in cases:
        for value in reports[case.name].label_values & {3, 4}:
            cases_with[value].append(case.name)
    editions = {case.edition for case in cases}
    if declared := {case.label_values for case in cases} - {()}:
        return declared.pop(), []  # one data set, which says it
    default = 3 if editions == {"2023"} else 4
    enhancing = max(cases_with, key=lambda value: len(cases_with[value]), default=default)
    others = cases_with[7 - enhancing] if len(cases_with) > 1 else []
    fault = f"ET is {7 - enhancing} in this label, {enhancing} in most of the dataset"
    remedy = "make a datalist for each edition, or relabel the file"
    values = BRATS_2018 if enhancing == 4 else BRATS_2023
    return values, [Fault(name, "-", fault, remedy) for name in others]


def warn_of_absent_classes(found: Sequence[set[int]], values: Sequence[int]) -> None:
    """Warn of classes that no label of the whole data set holds.

    Args:
        found: the values in each label.
        values: the value on disk of each network class.
    """
    present = set().union(*found)
    absent = [f"{name} ({value})" for name, value in list(zip(CLASSES, values))[1:] if value not in present]
    if found and absent:
        logger.warning(
            f"No label of the whole data set holds {' or '.join(absent)}: a network cannot learn it. Are these "
            f"whole-tumour masks, or are the values other than {list(values)} (background, NCR, ED, ET)?"
        )
