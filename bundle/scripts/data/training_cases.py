"""Read a datalist for training: checked entries, as MONAI's transforms take them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

from monai.utils import ensure_tuple

from scripts.data.checked_files import CheckedFiles
from scripts.data.checks import CaseReport, check_cases
from scripts.data.datalist import read_datalist
from scripts.data.editions import warn_of_absent_classes
from scripts.data.entries import check_files_are_there, entry_files, network_entry, patient_in
from scripts.data.seen_patients import duplicates
from scripts.data.stored_targets import leave_out, with_targets
from scripts.data.target_meaning import check_meaning
from scripts.errors import UserError
from scripts.faults import Fault
from scripts.labels import BRATS_2018, CLASSES, TARGETS
from scripts.method.teachers import Teacher, can_teach, sequences_of

logger = logging.getLogger(__name__)


def label_values(datalist: str) -> list[int]:
    """Disk value of each network class: from the datalist's ``labels``, or as in BraTS 2021 without a datalist."""
    if not datalist:
        return list(BRATS_2018)
    labels = read_datalist(datalist, folds=False).get("labels", {})
    value_of = {str(name): int(value) for value, name in labels.items() if value.isdecimal()}
    if set(value_of) != set(CLASSES) or len(labels) > len(CLASSES):
        raise UserError(
            f"datalist {datalist}: labels is {labels}, expected a whole number for each of {', '.join(CLASSES)}."
        )
    return [value_of[name] for name in CLASSES]


def load_cases(
    datalist: str,
    dataset_dir: str,
    fold: int | None = 0,
    student_sequence: str | Sequence[str] = "t1ce",
    teachers: Mapping[str, Teacher] | None = None,
    strict: bool = True,
    training: bool = True,
    targets: str | None = None,
    target_classes: Mapping[int, int] | None = None,
) -> dict[str, list[dict]]:
    """Checked cases of a datalist, as MONAI's transforms take them: absolute paths by key.

    Args:
        datalist: a file as written by python -m scripts datalist.
        dataset_dir: the folder that its paths are relative to.
        fold: the validation fold. The other folds are for training. None trains and validates on every patient.
        student_sequence: what ``image`` holds; several names are stacked.
        teachers: by name. A training case may lack any sequence that they see, and cases without a label are for
            training if some teacher sees them that is frozen or has labelled cases to learn from.
        strict: stop at faulty files. False leaves their cases, or faulty targets alone, out and names them.
        training: False reads the validation cases only.
        targets: folder of what another program predicted, for a StoredTeacher.
        target_classes: network class of each value in its label maps.

    Returns:
        ``training`` (image, and what there is of the sequences and the label) and ``validation`` (image, label; never a
        case without label). Both are empty where neither datalist nor dataset_dir is given: MONAI Label brings its own
        cases.

    Raises:
        UserError: for a missing file, an unknown fold or sequence, or faulty data.
    """
    if not datalist and not dataset_dir:
        return {"training": [], "validation": []}
    student = list(ensure_tuple(student_sequence))
    seen = {name: set(own) for name, own in sequences_of(teachers or {}, student).items()}
    frozen = {name for name, teacher in (teachers or {}).items() if teacher.frozen}
    listed = read_entries(datalist, fold, training)
    check_files_are_there(listed, dataset_dir)
    entries = with_targets(listed, targets, set().union(*seen.values()))
    files = {entry["case"]: set(entry_files(entry, dataset_dir)) for entry in entries}
    split = partial(split_cases, files=files, seen=seen, frozen=frozen, fold=fold, training=training)
    parts = split(entries)
    chosen = [entry for entry in entries if any(entry["case"] in part for part in parts.values())]
    needed = {entry["case"]: [*student, *parts["training"].get(entry["case"], [])] for entry in chosen}
    values = label_values(datalist)
    checked = CheckedFiles(datalist, dataset_dir)
    reports = check_entries(chosen, dataset_dir, needed, set(values), checked, target_classes or {})
    left_out, untaught = leave_out(find_faults(chosen, reports, of_t1ce=student[0] == "t1ce"), chosen, strict)
    for case in untaught:
        files[case] -= {TARGETS}
    if training:
        warn_of_absent_classes([report.label_values for report in reports], values)
        maps = [report.target_values for report in reports if report.target_values]
        value_of = {index: value for value, index in sorted((target_classes or {}).items(), reverse=True)}
        warn_of_absent_classes(maps, [value_of[index] for index in sorted(value_of)], "label map in targets")
    kept = [entry for entry in entries if entry["case"] not in left_out]
    parts = split(kept)  # again: a teacher may have lost all patients that it can learn from
    data = {
        name: [network_entry(e, dataset_dir, student, part[e["case"]]) for e in kept if e["case"] in part]
        for name, part in parts.items()
    }
    check_meaning(data["training"], values, target_classes or {})
    learnt = learnt_from(kept, fold, training)
    if unused := [entry["case"] for entry in learnt if entry["case"] not in parts["training"]]:
        reason = "which have no label, and no teacher that sees them and can learn"
        logger.warning(f"{len(unused)} case(s) are not used for training, {reason}, such as {unused[0]}.")
    return data


def split_cases(
    entries: Sequence[Mapping],
    files: Mapping[str, set],
    seen: Mapping[str, set],
    frozen: Collection[str],
    fold: int | None,
    training: bool,
) -> dict[str, dict[str, list[str]]]:
    """The cases of ``training`` and ``validation``, each with what there is of it for teachers.

    Args:
        entries: of the datalist.
        files: the sequences, and what else there is, of each case.
        seen: what each teacher sees and the student does not.
        frozen: teachers that do not learn.
        fold: as in ``load_cases``.
        training: as in ``load_cases``.
    """
    learnt = learnt_from(entries, fold, training)
    validation: dict[str, list[str]] = {
        entry["case"]: [] for entry in entries if "label" in entry and fold in (None, entry["fold"])
    }
    return {"training": seen_by_teachers(learnt, files, seen, frozen), "validation": validation}


def learnt_from(entries: Sequence[Mapping], fold: int | None, training: bool) -> list[Mapping]:
    """Those of the training folds, labelled or not."""
    return [entry for entry in entries if training and (fold is None or entry.get("fold") != fold)]


def seen_by_teachers(
    learnt: Sequence[Mapping], files: Mapping[str, set], teachers: Mapping[str, set], frozen: Collection[str]
) -> dict[str, list[str]]:
    """What there is for teachers that can teach, by training case; those without label and such a teacher are out."""
    patients = [files[entry["case"]] | ({"label"} & set(entry)) for entry in learnt]
    able = [own for name, own in teachers.items() if can_teach(own, name in frozen, patients)]
    cases = [e["case"] for e in learnt if "label" in e or any(own <= files[e["case"]] for own in able)]
    return {case: sorted(set().union(*able) & files[case]) for case in cases}


def has_gaps(data: Sequence[Mapping[str, Any]], sequences: Sequence[str]) -> bool:
    """Whether any training case lacks one of the sequences, or the label."""
    return any(name not in entry for entry in data for name in (*sequences, "label"))


def check_entries(
    entries: Sequence[Mapping[str, Any]],
    dataset_dir: str,
    needed: Mapping[str, Sequence[str]],
    values: set[int],
    checked: CheckedFiles,
    target_labels: Collection[int] = (),
) -> list[CaseReport]:
    """What checking the files of each case (``needed`` and the label) showed."""
    jobs = [
        {
            "name": entry["case"],
            "files": entry_files(entry, dataset_dir),
            "roles": [*dict.fromkeys(needed[entry["case"]]), *(["label"] if "label" in entry else [])],
            "labels": values,
            "channels": entry.get("channels"),
            "target_labels": target_labels,
        }
        for entry in entries
    ]
    return check_cases(jobs, checked)


def find_faults(
    entries: Sequence[Mapping[str, Any]], reports: Sequence[CaseReport], of_t1ce: bool = True
) -> list[Fault]:
    """Faults in the files of each case, files that were replaced since the datalist was made, patients in two folds.

    Args:
        entries: of the datalist.
        reports: of their files.
        of_t1ce: whether the reports' checksums are of T1ce, as the datalist's are.
    """
    pairs = list(zip(entries, reports))
    rows = [
        (entry["case"], patient_in(entry), entry.get("fold", "no fold"), report.checksum) for entry, report in pairs
    ]
    fault = "is not the volume of which the datalist was made", "restore the file, or make the datalist again"
    replaced = [
        Fault(entry["case"], entry["image"], *fault)
        for entry, report in pairs
        if of_t1ce and report.checksum and entry.get("checksum", report.checksum) != report.checksum
    ]
    return [fault for report in reports for fault in report.faults] + replaced + duplicates(rows)


def read_entries(datalist: str, fold: int | None, training: bool) -> list[dict[str, Any]]:
    """The cases of a datalist for training and validation, labelled or not.

    Raises:
        UserError: if none is labelled, or the fold is missing, or there is no other fold to train on.
    """
    if not datalist:
        raise UserError("datalist is not given: make one with python -m scripts datalist, then pass --datalist FILE.")
    entries = read_datalist(datalist).get("training", [])
    if not any("label" in entry for entry in entries):
        raise UserError(
            f"datalist {datalist} lists no labelled case under training, expected at least two labelled patients: put "
            "labels beside the images (NAME_seg.nii.gz), or put this folder and a labelled one below one folder, and "
            "make a datalist of that (python -m scripts datalist)."
        )
    folds = sorted({entry["fold"] for entry in entries if "label" in entry})
    if fold is None:
        logger.warning("fold is null: validation scores are scores of training patients.")
    elif fold not in folds:
        raise UserError(f"fold is {fold!r}, expected one of {folds}, the folds of {datalist}.")
    elif training and len(folds) < 2:
        raise UserError(
            f"fold is {fold!r}, and all labelled patients of {datalist} are in it, so none is left to train on: make a "
            "datalist of more folds (--folds 5), or train and validate on all patients (--fold '$None')."
        )
    return entries
