"""What the labels of a data set say together: what their values mean, and which ones are copies or empty."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence

from scripts.data.checks import CaseReport
from scripts.documents import some
from scripts.errors import UserError
from scripts.faults import Fault
from scripts.folders.case import Case
from scripts.labels import BRATS_2018, BRATS_2023, BRATS_VALUES, CLASSES, WHICH_IS_ET, class_of_value, unclear_meaning

logger = logging.getLogger(__name__)

UNCLEAR = (
    "give --label_values (brats2018: ET is 4, brats2023: 3, or four numbers), make a datalist of each edition, and set "
    "a resection cavity to 0"
)


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
    """Values that a case's label may hold. All labels together tell whether ET is 3 or 4: ``detect_label_values``."""
    return set(case.label_values) or set(BRATS_2018 if case.edition == "2015" else BRATS_VALUES)


def detect_label_values(
    cases: Sequence[Case], reports: Mapping[str, CaseReport]
) -> tuple[tuple[int, ...], list[Fault]]:
    """Disk values of the network classes, and a fault for each label that is unclear, differs from the majority in ET,
    or is a copy of another case's. A warning names the labels without tumour.
    """
    labelled = [case for case in cases if "label" in case.files]
    warn_of_empty_labels(labelled, reports)
    faults = copied_labels(labelled, reports)
    if declared := {case.label_values for case in cases} - {()}:
        return declared.pop(), faults  # one data set, which says it
    cases_with: dict[int, list[Case]] = defaultdict(list)
    for case in labelled:
        found = reports[case.name].label_values
        if doubt := unclear_meaning(found, case.name, modern=case.edition == "2023"):
            faults.append(Fault(case.name, str(case.files["label"]), doubt, UNCLEAR))
        for value in found & {3, 4} if not doubt else ():
            cases_with[value].append(case)
    default = 3 if {case.edition for case in cases} == {"2023"} else 4
    enhancing = max(cases_with, key=lambda value: len(cases_with[value]), default=default)
    fault = f"holds {7 - enhancing}, most of the dataset {enhancing}: {WHICH_IS_ET}"
    others = cases_with[7 - enhancing] if len(cases_with) > 1 else []
    faults += [Fault(case.name, str(case.files["label"]), fault, UNCLEAR) for case in others]
    return BRATS_2018 if enhancing == 4 else BRATS_2023, faults


def copied_labels(cases: Sequence[Case], reports: Mapping[str, CaseReport]) -> list[Fault]:
    """A fault for each label that is the same as one of another T1ce. Copies of whole cases count as one patient."""
    same: dict[int, list[Case]] = defaultdict(list)
    for case in cases:
        same[reports[case.name].label_checksum].append(case)
    faults = []
    for case in cases:
        group = same[reports[case.name].label_checksum] if reports[case.name].label_checksum else []
        images = {other.name: reports[other.name].checksum for other in group}
        if others := [other for other in group if 0 != images[other.name] != images[case.name] != 0]:
            fault = f"the same label as {others[0].name}, but another T1ce"
            faults.append(Fault(case.name, str(case.files["label"]), fault, "replace the one that is not of its case"))
    return faults


def warn_of_empty_labels(cases: Sequence[Case], reports: Mapping[str, CaseReport]) -> None:
    """Warn of labels that hold no tumour, and name their cases."""
    if empty := [case.name for case in cases if reports[case.name].label_values == {0}]:
        logger.warning(
            f"{len(empty)} of {len(cases)} labels hold no tumour: {some(empty)}. Leave these cases out, unless their "
            "patients have none."
        )


def warn_of_absent_classes(
    found: Sequence[set[int]], values: Sequence[int], what: str = "label of the whole data set"
) -> None:
    """Warn of classes that no label, or no prediction that serves as one, holds.

    Args:
        found: the values in each label.
        values: the value on disk of each network class.
        what: holds them.
    """
    present = set().union(*found)
    absent = [f"{name} ({value})" for name, value in list(zip(CLASSES, values))[1:] if value not in present]
    if found and absent:
        logger.warning(
            f"No {what} holds {' or '.join(absent)}: a network cannot learn it from them. Are these "
            f"whole-tumour masks, or are the values other than {list(values)} (background, NCR, ED, ET)?"
        )
