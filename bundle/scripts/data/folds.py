"""Which patient is in which fold: by a split file, or dealt out at random."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from scripts.errors import UserError
from scripts.files import read_json
from scripts.folders.case import Case
from scripts.folders.grouping import FEW
from scripts.folders.schemes import is_of_scheme

HELD_OUT = -1  # fold of a split's validation list when only its training list is divided into folds
logger = logging.getLogger(__name__)


def read_split(path: str, cases: Sequence[Case]) -> dict[str, int]:
    """Fold of each case that a split file names: 0 for its validation list, 1 for its training list.

    Raises:
        UserError: if the file has no such lists, or a case is in both or not among ``cases``.
    """
    split = read_json(path, "split", {"training?": list, "validation?": list})
    for key in ("training", "validation"):
        if strange := [item for item in split.get(key, []) if not isinstance(item, str)]:
            raise UserError(
                f"split {path}: {key} holds {str(strange[0])[:60]}, expected case names alone, not the entries of a "
                'datalist: {"training": ["NAME", ...], "validation": [...]}.'
            )
    if not {"training", "validation"} <= set(split):
        raise UserError(
            f"split {path} has the keys {sorted(split)}, expected training and validation, lists of case names."
        )
    parts = {key: [unicodedata.normalize("NFC", name) for name in split[key]] for key in ("validation", "training")}
    validation, training = parts.values()
    folds = dict.fromkeys(validation, 0) | dict.fromkeys(training, 1)
    if both := sorted(set(validation) & set(training)):
        raise UserError(f"split {path} has {', '.join(both)} in training and validation: keep each case in one list.")
    names = {case.name for case in cases}
    if unknown := sorted(set(folds) - names):
        raise UserError(
            f"split {path} names cases that are not in the dataset, or have no label: {', '.join(unknown)}."
        )
    if rest := sorted(names - set(folds)):
        logger.warning(f"Left out {len(rest)} case(s) that the split does not name: {', '.join(rest)}.")
    return folds


def choose_folds(
    cases: Sequence[Case], sizes: Mapping[str, float], split: Mapping[str, int], folds: int | None, seed: int
) -> dict[str, int]:
    """Fold of each case.

    Args:
        cases: labelled cases.
        sizes: tumour volume by case.
        split: fold by case, as from ``read_split``, or empty.
        folds: number of folds. With a split only its training list is divided; the others are HELD_OUT.
        seed: of the random assignment.
    """
    if split and folds is None:
        return dict(split)
    divided = [case for case in cases if not split or split[case.name] == 1]
    held_out = {case.name: HELD_OUT for case in cases}
    return held_out | assign_folds(divided, sizes, 5 if folds is None else folds, seed)


def assign_folds(cases: Sequence[Case], sizes: Mapping[str, float], folds: int, seed: int) -> dict[str, int]:
    """Fold of each case, so that every fold has the same mix of sources and tumour sizes.

    Patients are sorted by source and tumour size. Each run of ``folds`` patients gets all folds in a random order. If
    most patients are of sources that are smaller than this, as by names such as HGG012, these count as one source.

    Raises:
        UserError: if there are fewer patients than folds, or folds < 1.
    """
    patients: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        patients[case.patient].append(case)
    if folds < 1 or len(patients) < folds:
        raise UserError(
            f"folds is {folds}, expected 1 to {len(patients)} (the number of labelled patients): pass --folds."
        )
    sources = Counter(group[0].source for group in patients.values())
    small = {source for source, number in sources.items() if number < folds}
    joined = small if 2 * sum(sources[source] for source in small) > len(patients) else set()
    order = sorted(
        patients.values(),
        key=lambda group: ("" if group[0].source in joined else group[0].source, sizes[group[0].name], group[0].name),
    )
    random = np.random.default_rng(seed)
    rounds = [random.permutation(folds) for _ in range(0, len(order), folds)]
    return {
        case.name: int(rounds[index // folds][index % folds]) for index, group in enumerate(order) for case in group
    }


def warn_of_parted_patients(cases: Sequence[Case]) -> None:
    """Warn where cases that count as several patients seem to be examinations of one, by their names or folders.

    They seem so where few cases share the beginning of their names, or lie in one of several folders. A beginning that
    all cases share, such as phantom_, must hold a number. Names of data sets that tell the patient are left out.
    """
    plain = [case for case in cases if case.family == "BraTS" and not is_of_scheme(case.name)]
    alike: dict[str, list[Case]] = defaultdict(list)
    for case in plain:
        for match in re.finditer(r"[_. -]+|(?<=\d)(?=[A-Za-z]\d*$)", case.name):
            alike[f"{case.group}/{case.name[: match.start()]}"].append(case)
    if len(folders := {case.group for case in cases} - {""}) > 1:
        for folder in folders:
            alike[f"{folder}/"] += [case for case in plain if case.group == folder]
    parted = [
        group
        for start, group in alike.items()
        if 1 < len({case.patient for case in group}) <= FEW
        and (len(group) < len(cases) or re.search(r"\d", start.rpartition("/")[2]))
    ]
    names = [" and ".join(case.name for case in group[:3]) for group in parted]
    if shown := "; ".join([*dict.fromkeys(names)][:5]):
        logger.warning(
            f"These count as different patients and may be in different folds: {shown}. If they are examinations of "
            'one patient, say what names the patient, by --patient REGEX: "(.*)_.*" of the case\'s name, or with a '
            'slash, "(.*)/.*", of its path.'
        )
