"""From a dataset folder to a datalist in the Decathlon form, with folds.

python -m scripts.datalist --dataset_dir DIR --output FILE [--split FILE] [--folds 5] [--seed 0] [--strict False]
  [--sequences t1ce] [--trained_on FILE] [--mapping CSV]
"""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.cases import Case, find_cases
from scripts.checks import CaseReport, Fault, check_case, check_cases, duplicates, settle
from scripts.command import run_command
from scripts.errors import UserError
from scripts.labels import BRATS_2018, BRATS_2023, CLASSES, MSD, SEQUENCES
from scripts.loading import read_json
from scripts.overlap import find_overlap
from scripts.records import check_output

__all__ = ["make_datalist", "assign_folds"]

HELD_OUT = -1  # fold of the validation list, when the training list is dealt into folds
logger = logging.getLogger(__name__)


def make_datalist(
    dataset_dir: str,
    output: str,
    split: str | None = None,
    folds: int | None = None,
    seed: int = 0,
    strict: bool = True,
    sequences: str | Sequence[str] = SEQUENCES,
    trained_on: str | None = None,
    mapping: str | None = None,
) -> None:
    """Write a datalist: labelled cases in folds under ``training``, folders without any label under ``testing``.

    Args:
        dataset_dir: BraTS 2018 and later, or MSD Task01.
        output: the JSON file to write. Its paths are relative to dataset_dir; ``image`` is T1ce.
        split: a JSON file with lists ``training`` and ``validation`` of case names; the validation list becomes
            fold 0, the training list fold 1, and cases in neither are named and left out.
        folds: number of folds (5), disjoint by patient, stratified by tumour size and source; 1 for a test set, all of
            which is then fold 0. With ``split`` of its training list alone, to choose settings without its validation
            list, which is left out.
        seed: of the fold assignment.
        strict: stop at faulty files and at patients seen in training; False leaves their cases out and names them.
        sequences: that every case must have, T1ce among them: it alone is enough to train the student alone, and to
            evaluate.
        trained_on: the datalist of a training whose patients must not be in this one.
        mapping: the organisers' CSV of names in several editions, for ``trained_on``.

    Raises:
        UserError: for faulty data, sequences that are unknown or lack T1ce, a split that does not fit, or patients
            seen in training.
    """
    if mapping and not trained_on:
        raise UserError("mapping is given without trained_on: pass the datalist of the training as well.")
    check_output(output, "output", ".json")
    needed = [sequences] if isinstance(sequences, str) else list(sequences)
    if "t1ce" not in needed or set(needed) - set(SEQUENCES):
        raise UserError(f"sequences are {needed}, expected t1ce, alone or with others of {list(SEQUENCES)}.")
    training, testing = part_by_label(find_cases(dataset_dir))
    split_folds = read_split(split, training) if split else {}
    training = [case for case in training if case.name in split_folds or not split]
    cases = training + testing
    reports = check_files(cases, len(training), needed)
    faults = [fault for report in reports.values() for fault in report.faults]
    values, mixed = detect_label_values(training, reports)
    sizes = {name: report.tumour_ml for name, report in reports.items()}
    fold_of = choose_folds(training, sizes, split_folds, folds, seed)
    places = {name: "held out" if fold == HELD_OUT else fold for name, fold in fold_of.items()}
    rows = [(case.name, case.patient, places[case.name], reports[case.name].checksum) for case in training]
    named = [(case.name, case.patient, reports[case.name].checksum) for case in cases]
    seen = find_overlap(named, trained_on, mapping) if trained_on else []
    left_out = settle([*faults, *mixed, *duplicates(rows), *seen], strict)
    kept = [case for case in cases if case.name not in left_out and fold_of.get(case.name) != HELD_OUT]
    if not kept:
        raise UserError(f"dataset_dir {dataset_dir}: every case is left out, so there is nothing to list.")
    checksums = {case.name: reports[case.name].checksum for case in kept}
    write_datalist(output, Path(dataset_dir), kept, fold_of, values, checksums)


def part_by_label(cases: Sequence[Case]) -> tuple[list[Case], list[Case]]:
    """Cases for training, and those of folders without any label."""
    labelled = {case.group for case in cases if "label" in case.files}
    training = [case for case in cases if case.group in labelled]
    return training, [case for case in cases if case.group not in labelled]


def check_files(cases: Sequence[Case], labelled: int, sequences: Sequence[str]) -> dict[str, CaseReport]:
    """What is in the files of each case, by its name; the first ``labelled`` of them must have a label."""
    roles = list(dict.fromkeys(["t1ce", *sequences]))  # T1ce first: its voxels give the checksum

    def check(index: int) -> CaseReport:
        case = cases[index]
        wanted = [*roles, "label"] if index < labelled else roles
        return check_case(case.name, case.files, wanted, allowed(case), channels=len(case.channels) or 1)

    return dict(zip((case.name for case in cases), check_cases(check, len(cases))))


def read_split(path: str, cases: Sequence[Case]) -> dict[str, int]:
    """Fold of each case in an explicit split: validation 0, training 1."""
    split = read_json(path, "split")
    if not {"training", "validation"} <= set(split):
        raise UserError(
            f"split {path} has the keys {sorted(split)}, expected training and validation, lists of case names."
        )
    folds = dict.fromkeys(split["validation"], 0) | dict.fromkeys(split["training"], 1)
    if both := sorted(set(split["validation"]) & set(split["training"])):
        raise UserError(f"split {path} has {', '.join(both)} in training and validation: keep each case in one list.")
    names = {case.name for case in cases}
    if unknown := sorted(set(folds) - names):
        raise UserError(
            f"split {path} names cases that are not in the dataset, or have no label: {', '.join(unknown)}."
        )
    if rest := sorted(names - set(folds)):
        logger.warning(f"Left out {len(rest)} case(s) that the split does not name: {', '.join(rest)}.")
    return folds


def allowed(case: Case) -> set[int]:
    """Values that may stand in the label of a case: BraTS before 2023 stores ET as 4, but relabelled copies as 3."""
    return {0, 1, 2, 3} if case.edition in ("2023", "msd") else {0, 1, 2, 3, 4}


def detect_label_values(
    cases: Sequence[Case], reports: Mapping[str, CaseReport]
) -> tuple[tuple[int, ...], list[Fault]]:
    """Disk values of the network classes, and faults of the cases that use other ones than the most."""
    by_value: dict[int, list[str]] = defaultdict(list)
    for case in cases:
        for value in reports[case.name].label_values & {3, 4}:
            by_value[value].append(case.name)
    editions = {case.edition for case in cases}
    if editions == {"msd"}:
        return MSD, []
    default = 3 if editions == {"2023"} else 4
    enhancing = max(by_value, key=lambda value: len(by_value[value]), default=default)
    odd = by_value[7 - enhancing] if len(by_value) > 1 else []
    fault = f"ET is {7 - enhancing} in this label, {enhancing} in most of the dataset"
    remedy = "make a datalist for each edition, or relabel the file"
    values = BRATS_2018 if enhancing == 4 else BRATS_2023
    return values, [Fault(name, "-", fault, remedy) for name in odd]


def choose_folds(
    cases: Sequence[Case], sizes: Mapping[str, float], split: Mapping[str, int], folds: int | None, seed: int
) -> dict[str, int]:
    """Fold of each case: the split's, or dealt. Where both are given, its training list is dealt, the rest held out."""
    if split and folds is None:
        return dict(split)
    dealt = [case for case in cases if not split or split[case.name] == 1]
    held_out = {case.name: HELD_OUT for case in cases}
    return held_out | assign_folds(dealt, sizes, 5 if folds is None else folds, seed)


def assign_folds(cases: Sequence[Case], sizes: Mapping[str, float], folds: int, seed: int) -> dict[str, int]:
    """Fold of each case: patients in the order of source and tumour size, dealt out in shuffled rounds.

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
    order = sorted(patients.values(), key=lambda group: (group[0].source, sizes[group[0].name], group[0].name))
    random = np.random.default_rng(seed)
    rounds = [random.permutation(folds) for _ in range(0, len(order), folds)]
    return {
        case.name: int(rounds[index // folds][index % folds]) for index, group in enumerate(order) for case in group
    }


def write_datalist(
    output: str,
    root: Path,
    cases: Sequence[Case],
    fold_of: Mapping[str, int],
    values: Sequence[int],
    checksums: Mapping[str, int],
) -> None:
    parts: dict[str, list[dict]] = {"training": [], "testing": []}
    for case in cases:
        paths = {role: path.relative_to(root).as_posix() for role, path in case.files.items()}
        entry: dict[str, Any] = {"case": case.name, "image": paths.pop("t1ce"), **paths}
        if case.channels:
            entry["channels"] = case.channels
        if case.name in fold_of:
            entry |= {"fold": fold_of[case.name], "patient": case.patient}
        entry["checksum"] = checksums[case.name]
        parts["training" if case.name in fold_of else "testing"].append(entry)
    labels = {str(value): name for value, name in sorted(zip(values, CLASSES))}
    document = {"name": root.resolve().name, "modality": {"0": "T1ce"}, "labels": labels, **parts}
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(partial, path)
    folds = sorted({fold_of[case.name] for case in cases if case.name in fold_of})
    sizes = [sum(entry["fold"] == fold for entry in parts["training"]) for fold in folds]
    print(
        f"{output}: {len(parts['training'])} labelled cases in folds of {sizes}, {len(parts['testing'])} without label."
    )


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    run_command(make_datalist)
