"""Patients that a test set shares with training: editions of BraTS contain one another's patients under new names."""

from __future__ import annotations

import csv
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scripts.checks import Fault
from scripts.errors import UserError
from scripts.loading import read_json
from scripts.provenance import training_records

__all__ = ["find_overlap", "read_mapping", "warn_of_seen_patients"]

logger = logging.getLogger(__name__)


def find_overlap(cases: Sequence[tuple[str, str, int]], trained_on: str, mapping: str | None = None) -> list[Fault]:
    """A fault for each case whose patient is in the datalist of a training.

    Patients are the same if they share the case's or patient's name, the voxels of T1ce, or a row of the mapping.

    Args:
        cases: (case, patient, checksum of T1ce) of the test set.
        trained_on: the datalist of the training, all folds of which count.
        mapping: the organisers' table of names in several editions.

    Raises:
        UserError: if a file cannot be read, or the mapping names none of the cases of either side.
    """
    seen: dict[str, str] = {}
    checksums: dict[int, str] = {}
    for entry in read_json(trained_on, "trained_on").get("training", []):
        seen |= dict.fromkeys((entry["case"], entry.get("patient", entry["case"])), entry["case"])
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


def warn_of_seen_patients(weights: str | Sequence[str], cases: Sequence[Mapping[str, Any]]) -> None:
    """Warn where weights have been trained on patients that are to be scored, as the record of their training says.

    Args:
        weights: one file or several.
        cases: the patients to be scored, each with its ``case``.
    """
    names = {case["case"] for case in cases}
    for path in [weights] if isinstance(weights, str) else weights:
        for record, document in training_records(path):
            seen = sorted(names & {entry["case"] for entry in document.get("cases") or document.get("training", [])})
            if seen:
                logger.warning(
                    f"{path} was trained on {len(seen)} of the {len(names)} patients to be scored, such as {seen[0]} "
                    f"({record}): their scores will be too good. Score others, or begin with other weights."
                )


def read_mapping(path: str, names: Iterable[str], trained: Iterable[str]) -> dict[str, set[str]]:
    """All names of each patient, by each of its names, from a CSV with a patient a row and an edition a column.

    Columns need no particular titles: cells that are names of ``names`` or ``trained`` count, others (such as HGG,
    or NA) do not. Names of examinations (BraTS-GLI-00000-000) also count without their number.

    Raises:
        UserError: if the file cannot be read, or names no case of one side.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file)]
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
            f"mapping {path} names no case of {' and of '.join(absent)}: give the table that has both editions in it."
        )
    return dict(groups)
