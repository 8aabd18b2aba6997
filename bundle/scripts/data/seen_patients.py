"""Find patients that are in two folds, or in both test set and training: editions of BraTS share patients."""

from __future__ import annotations

import csv
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.data.checks import CaseReport
from scripts.data.entries import patient_in
from scripts.errors import UserError
from scripts.faults import Fault
from scripts.files import read_json
from scripts.folders.case import Case
from scripts.folders.schemes import patient_of

logger = logging.getLogger(__name__)

PATIENTS = {"training": [{"case": str, "patient?": str, "checksum?": int}]}  # what counts in a datalist
CASE = {"case": str, "patient?": str}
RECORD = {"cases?": [CASE], "training?": [CASE], "configuration?": dict, "traits?": dict}


def unite_copies(cases: Sequence[Case], reports: Mapping[str, CaseReport]) -> None:
    """Make one patient of those whose T1ce has the same voxels, so that they never part, and warn of each."""
    first: dict[int, Case] = {}
    for case in cases:
        other = first.setdefault(reports[case.name].checksum, case)
        if reports[case.name].checksum and case.patient != other.patient:
            logger.warning(
                f"{other.name} and {case.name} have the same voxels: {case.patient} counts as patient {other.patient}. "
                "If this is a copy, remove it."
            )
            old = case.patient
            for item in cases:
                item.patient = other.patient if item.patient == old else item.patient


def duplicates(cases: Sequence[tuple[str, str, object, int]]) -> list[Fault]:
    """A fault for each case whose patient is also in another fold.

    Args:
        cases: (case, patient, fold, checksum). A fold is a number or a name, such as "held out". The checksum finds
            copies under other names; 0 stands for none.
    """
    faults = []
    first: dict[object, tuple[str, object]] = {}
    for case, patient, fold, checksum in cases:
        for key in {patient, checksum} - {0}:
            other, other_fold = first.setdefault(key, (case, fold))
            if other_fold != fold:
                here, there = (f"fold {item}" if isinstance(item, int) else item for item in (fold, other_fold))
                fault = f"duplicate patient: {here} here, {there} as {other}"
                faults.append(Fault(case, "-", fault, "keep all examinations of a patient in one fold"))
                break
    return faults


def find_overlap(cases: Sequence[tuple[str, str, int]], trained_on: str, mapping: str | None = None) -> list[Fault]:
    """A fault for each case whose patient is in the datalist of a training.

    Patients are the same if they share the case's or patient's name, the voxels of T1ce, or a row of the mapping.

    Args:
        cases: (case, patient, checksum of T1ce) of the test set.
        trained_on: the datalist of the training. All its folds count.
        mapping: the organisers' table of names in several editions.

    Raises:
        UserError: if a file cannot be read, or the mapping names no case of the test set or of the training.
    """
    seen: dict[str, str] = {}
    checksums: dict[int, str] = {}
    entries = read_json(trained_on, "trained_on", PATIENTS)["training"]
    if not entries:
        raise UserError(f"trained_on {trained_on} lists no patient under training: give the training's datalist.")
    for entry in entries:
        seen |= dict.fromkeys((entry["case"], patient_in(entry)), entry["case"])
        checksums[entry.get("checksum", 0)] = entry["case"]
    names = {name for case, patient, _ in cases for name in (case, patient)}
    same = read_mapping(mapping, names, set(seen)) if mapping else {}
    faults = []
    for case, patient, checksum in cases:
        aliases = {case, patient} | same.get(case, set()) | same.get(patient, set())
        known = [seen[name] for name in sorted(aliases) if name in seen]
        if checksum and checksum in checksums:
            known.append(checksums[checksum])
        if known:
            faults.append(Fault(case, "-", f"seen in training as {known[0]}", "a test needs other patients"))
    return faults


def read_mapping(path: str, names: Iterable[str], trained: Iterable[str]) -> dict[str, set[str]]:
    """All names of each patient, by each of its names, from a CSV with one row per patient and a column per edition.

    Columns need no particular titles; commas, semicolons or tabs part them. Cells that stand in ``names`` or
    ``trained`` count; other cells (such as HGG or NA) do not. Names of examinations (BraTS-GLI-00000-000) also count
    without their number.

    Raises:
        UserError: if the file cannot be read, or names no case of ``names`` or of ``trained``.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            text = file.read()
        rows = [
            [cell.strip() for cell in row]
            for row in csv.reader(text.splitlines(), delimiter=max(",;\t", key=text.count))
        ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"mapping {path} cannot be read ({error}): give a CSV file (export a spreadsheet).") from error
    groups: dict[str, set[str]] = defaultdict(set)
    sides: Mapping[str, set[str]] = {"the test set": set(names), "trained_on": set(trained)}
    met = dict.fromkeys(sides, False)
    for row in rows:
        aliases = {name for cell in row if cell for name in (cell, re.sub(r"^(BraTS-.+)-\d{3}$", r"\1", cell))}
        known = {side: aliases & members for side, members in sides.items()}
        met = {side: met[side] or bool(known[side]) for side in sides}
        same = set().union(*known.values())
        for name in same:
            groups[name] |= same
    if absent := [side for side, found in met.items() if not found]:
        raise UserError(
            f"mapping {path} names no case of {' and of '.join(absent)}: give the table with both editions."
        )
    return dict(groups)


def warn_of_seen_patients(weights: str | Sequence[str], cases: Sequence[Mapping[str, Any]]) -> None:
    """Warn if weights were trained on patients that are to be scored, according to the record of their training.

    Args:
        weights: one file or several.
        cases: what is to be scored, each with its ``case`` and, if known, its ``patient``.
    """
    for path in [weights] if isinstance(weights, str) else weights:
        for record, document in training_records(path):
            if seen := seen_cases(document, cases):
                logger.warning(
                    f"{path} was trained on {len(seen)} of the {len(cases)} scans to be scored, such as {seen[0]} "
                    f"({record}): their scores will be too good. Score other patients, or use other weights."
                )


def seen_cases(document: Mapping[str, Any], cases: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of those cases whose patient is in the record of a training, perhaps with another scan; sorted."""

    def names(entry: Mapping[str, Any]) -> set[str]:
        return {entry["case"], patient_in(entry), patient_of(entry["case"])}  # older records name no patient

    trained = set().union(*map(names, document.get("cases") or document.get("training", [])))
    return sorted(case["case"] for case in cases if names(case) & trained)


def training_records(weights: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(path, content) of the records of the training that made a file of weights.

    In the folder above the weights' folder: training.json, or docs/trained_on.json as for the shipped weights.
    """
    folder = Path(weights).resolve().parent.parent
    for record in filter(Path.is_file, (folder / "training.json", folder / "docs" / "trained_on.json")):
        yield record, read_json(record, "the weights' record", RECORD)
