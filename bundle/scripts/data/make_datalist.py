"""From a dataset folder to a datalist in the Decathlon form, with folds."""

from __future__ import annotations

import itertools
import json
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from scripts.data.checked_files import CheckedFiles
from scripts.data.checks import CaseReport, check_cases
from scripts.data.datalist_summary import summary
from scripts.data.editions import detect_label_values, possible_labels, values_of, warn_of_absent_classes
from scripts.data.folds import HELD_OUT, choose_folds, read_split, warn_of_parted_patients
from scripts.data.seen_patients import duplicates, find_overlap, unite_copies
from scripts.errors import UserError
from scripts.faults import Fault, report_faults
from scripts.files import check_output, replacing, write_json
from scripts.folders.case import Case
from scripts.folders.cases import survey
from scripts.folders.choice import Choice
from scripts.folders.folder_files import FolderFiles
from scripts.folders.schemes import endings_text, read_name
from scripts.labels import CLASSES, SEQUENCES

logger = logging.getLogger(__name__)


def make_datalist(
    dataset_dir: str,
    output: str,
    split: str | None = None,
    folds: int | None = None,
    seed: int = 0,
    strict: bool = True,
    sequences: str | Sequence[str] | None = None,
    unlabelled: str | None = None,
    trained_on: str | None = None,
    mapping: str | None = None,
    t1ce: str | None = None,
    t1: str | None = None,
    t2: str | None = None,
    flair: str | None = None,
    label: str | None = None,
    patient: str | None = None,
    label_values: str | Sequence[int] | None = None,
) -> None:
    """List the patients of a folder, checked and in folds, in the file that training reads.

    Cases may lack anything but T1ce. They are listed under ``training``; folders without any label, which may be test
    sets, under ``testing``. Unlabelled training cases have no fold, unless their patient has a labelled case. A table
    says how many have what.

    Args:
        dataset_dir: a folder of BraTS, MSD Task01 or another known data set (docs/train.md); any other folder
            needs the patterns below.
        output: the JSON file to write. Its paths are relative to dataset_dir; ``image`` is T1ce.
        split: a JSON file with lists ``training`` and ``validation`` of case names. The validation list becomes fold
            0, the training list fold 1. Cases in neither list are named and left out.
        folds: number of folds (5), disjoint by patient, stratified by tumour size and source. 1 is for a test set.
            With ``split`` only the training list is divided and the validation list is left out, so that settings can
            be chosen without it.
        seed: seed of the division into folds.
        strict: stop at faulty files and at patients seen in training. False leaves their cases out and names them.
        sequences: sequences that every case must have, T1ce among them (t1ce).
        unlabelled: where all cases without a label are listed: "training", to learn from them by distillation, or
            "testing". A folder without any label needs it.
        trained_on: the datalist of a training whose patients must not be in this list.
        mapping: the organisers' CSV of names in several editions, for ``trained_on``.
        t1ce: which files are T1ce, as "*_T1post.nii.gz" or, with folders, "*/post.nii.gz". What the wildcards stand
            for is the case.
        t1: the same for T1.
        t2: the same for T2.
        flair: the same for FLAIR.
        label: the same for the labels.
        patient: regular expression for the case's name; its group names the patient, such as "(.*)_\\d+".
        label_values: what values in labels mean: nnunet, brats2018, brats2023, msd, or the values of background, NCR,
            ED, ET; by default as the naming scheme says.

    Raises:
        UserError: for faulty data, files that no rule tells apart, sequences that are unknown or lack T1ce, a split
            that does not fit, or patients seen in training.
    """
    if mapping and not trained_on:
        raise UserError("mapping is given without trained_on: pass the datalist of the training as well.")
    check_output(output, "output", ".json", sources=(split, trained_on, mapping))
    given = values_of(label_values)
    required = required_sequences(sequences)
    choice = Choice({"t1ce": t1ce, "t1": t1, "t2": t2, "flair": flair, "label": label}, patient)
    parts, files = find_parts(dataset_dir, choice, unlabelled, labelled=not given)
    for case in itertools.chain(*parts.values()):
        case.label_values = given or case.label_values
    found = sum(map(len, parts.values()))
    split_folds = read_split(split, parts["labelled"]) if split else {}
    labelled = [case for case in parts["labelled"] if case.name in split_folds or not split]
    cases = [*labelled, *parts["training"], *parts["testing"]]
    warn_of_parted_patients(cases)
    reports = check_files(cases, required, CheckedFiles(output, dataset_dir))
    unite_copies(cases, reports)
    values, other_edition = detect_label_values(labelled or cases, reports)
    warn_of_absent_classes([reports[case.name].label_values for case in labelled], values)
    faults = [Fault(case_of_broken(one[0], choice, Path(dataset_dir), cases), *map(str, one)) for one in files.broken]
    faults += [*(fault for report in reports.values() for fault in report.faults), *other_edition]
    if trained_on:
        faults += find_overlap(
            [(one.name, one.patient, reports[one.name].checksum) for one in cases], trained_on, mapping
        )
    faulty = set() if strict else {fault.case for fault in faults}  # else a fold might be left empty
    divided = [case for case in labelled if case.name not in faulty] or labelled
    sizes = {name: report.tumour_ml for name, report in reports.items()}
    fold_of = choose_folds(divided, sizes, split_folds, folds, seed) if divided else {}
    of_patient = {case.patient: fold_of[case.name] for case in divided}
    fold_of |= {case.name: of_patient[case.patient] for case in parts["training"] if case.patient in of_patient}
    faults += patients_in_two_folds([*divided, *parts["training"]], reports, fold_of)
    left_out = report_faults(faults, strict)
    kept = [case for case in cases if case.name not in left_out and fold_of.get(case.name) != HELD_OUT]
    if not kept:
        raise UserError(f"dataset_dir {dataset_dir}: every case is left out, so there is nothing to list.")
    testing = {case.name for case in parts["testing"]}
    write_datalist(output, Path(dataset_dir), kept, testing, fold_of, values, reports)
    print(summary(kept, testing, reports, files, found - len(kept)))


def required_sequences(sequences: str | Sequence[str] | None) -> list[str]:
    """The sequences that every case must have, T1ce first: its voxels give the checksum.

    Raises:
        UserError: if one is unknown, or T1ce is missing.
    """
    names = ["t1ce"] if sequences is None else [sequences] if isinstance(sequences, str) else list(sequences)
    if "t1ce" not in names or set(names) - set(SEQUENCES):
        raise UserError(f"sequences are {names}, expected t1ce, alone or with others of {list(SEQUENCES)}.")
    return list(dict.fromkeys(["t1ce", *names]))


def find_parts(
    dataset_dir: str, choice: Choice, unlabelled: str | None, labelled: bool
) -> tuple[dict[str, list[Case]], FolderFiles]:
    """Cases by part, and all files; ``labelled`` as of ``survey``.

    The parts are labelled, and of the others those for training and for testing.

    Raises:
        UserError: if no case has a label and unlabelled is not given, or it is another word.
    """
    if unlabelled not in (None, "training", "testing"):
        raise UserError(f"unlabelled is {unlabelled!r}, expected training or testing.")
    cases, files = survey(dataset_dir, choice, labelled)
    for line in files.lines(Path(dataset_dir)).values():
        print(line)
    groups = {case.group for case in cases if "label" in case.files}
    if not groups and not unlabelled:
        files.check(f"dataset_dir {dataset_dir}")
        raise UserError(
            f"dataset_dir {dataset_dir} holds {len(cases)} cases, no label. {endings_text(files.volumes)} If there are "
            "no labels, pass --unlabelled testing to predict them; to train on them, put this folder and a labelled "
            "one below one folder."
        )
    if not groups and unlabelled == "training":
        logger.warning("No case has a label: train also needs labelled patients (docs/gaps.md).")
    parts: dict[str, list[Case]] = {"labelled": [], "training": [], "testing": []}
    for case in cases:
        other = unlabelled or ("training" if case.group in groups else "testing")
        parts["labelled" if "label" in case.files else other].append(case)
    return parts, files


def case_of_broken(path: Path, choice: Choice, root: Path, cases: Sequence[Case]) -> str:
    """The case of a file that cannot be read: by its name, or else the only one with other files in its folder."""
    name = (choice.read(path, root) or read_name(path)).case
    beside = {case.name for case in cases if path.parent in {file.parent for file in case.files.values()}}
    return name if name in {case.name for case in cases} or len(beside) != 1 else beside.pop()


def check_files(cases: Sequence[Case], required: list[str], checked: CheckedFiles) -> dict[str, CaseReport]:
    """What checking the files of each case showed, by case: those that it must have, and those that it has."""
    jobs = [
        {
            "name": case.name,
            "files": case.files,
            "roles": [*dict.fromkeys([*required, *(role for role in (*SEQUENCES, "label") if role in case.files)])],
            "labels": possible_labels(case),
            "channels": case.channels,
        }
        for case in cases
    ]
    return dict(zip((case.name for case in cases), check_cases(jobs, checked)))


def patients_in_two_folds(
    cases: Sequence[Case], reports: Mapping[str, CaseReport], fold_of: Mapping[str, int]
) -> list[Fault]:
    """A fault for each case whose patient is also in another fold, or in the held-out list of the split."""
    places = {name: "held out" if fold == HELD_OUT else fold for name, fold in fold_of.items()}
    places = {case.name: places.get(case.name, "no fold") for case in cases}
    return duplicates([(case.name, case.patient, places[case.name], reports[case.name].checksum) for case in cases])


def write_datalist(
    output: str,
    root: Path,
    cases: Sequence[Case],
    testing: Collection[str],
    fold_of: Mapping[str, int],
    values: Sequence[int],
    reports: Mapping[str, CaseReport],
) -> None:
    """Write the datalist and print how many cases are in it."""
    parts: dict[str, list[dict]] = {"training": [], "testing": []}
    for case in cases:
        entry = datalist_entry(case, root)
        if case.name not in testing:
            entry |= {"fold": fold_of[case.name]} if case.name in fold_of else {}
        entry["patient"] = case.patient
        entry["checksum"] = reports[case.name].checksum
        parts["testing" if case.name in testing else "training"].append(entry)
    labels = {str(value): name for value, name in sorted(zip(values, CLASSES))}
    document = {"name": root.resolve().name, "modality": {"0": "T1ce"}, "labels": labels, **parts}
    with replacing(Path(output)) as partial:
        write_json(partial, document)
        set_aside(Path(output), document)
    folds = Counter(entry["fold"] for entry in parts["training"] if "label" in entry)
    print(
        f"{output}: {folds.total()} labelled cases in folds of {[folds[fold] for fold in sorted(folds)]}, "
        f"{len(cases) - folds.total()} without label."
    )


def datalist_entry(case: Case, root: Path) -> dict[str, Any]:
    """The case's name, its paths by key, and its channels where a file holds several sequences."""
    paths = {role: path.relative_to(root).as_posix() for role, path in case.files.items()}
    entry: dict[str, Any] = {"case": case.name, "image": paths.pop("t1ce"), **paths}
    return entry | ({"channels": case.channels} if case.channels else {})


def set_aside(path: Path, document: Mapping[str, Any]) -> None:
    """Rename an earlier file that holds something else, which runs that were made with it need to resume."""
    with suppress(ValueError):
        if not path.exists() or json.loads(path.read_bytes()) == document:
            return
    kept = next(free for number in itertools.count(1) if not (free := path.with_stem(f"{path.stem}_{number}")).exists())
    path.rename(kept)
    logger.warning(f"{path} held another list, which is now {kept}: runs that were made with it need it to resume.")
