"""A run: the folder of an evaluation or an inference with its record, patients, label maps and scores."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from scripts.documents import check_form, some
from scripts.errors import UserError
from scripts.evaluation.meaning import Meaning
from scripts.evaluation.patients import named_patients, patients_text
from scripts.evaluation.summary import Scores, read_scores
from scripts.faults import fault_of
from scripts.files import read_json
from scripts.folders.case import SERIES
from scripts.labels import class_of_value, lenient_values
from scripts.report.layers import LabelMap
from scripts.report.replaced_files import checksums_of, replaced_images, replaced_maps

logger = logging.getLogger(__name__)

STAGES = ("evaluation", "inference")
PATHS = ("prediction", "image", "label", "brain_mask")  # of a case
CASE = {"case": str, "image": str, "prediction": str, "label?": str, "brain_mask?": str, "dicom?": SERIES}
CASE |= {"patient?": str, "images?": [str]}
RUN: dict[str, Any] = {"cases": [CASE], "label_values?": (list, NoneType), "weights?": (dict, NoneType)}
RUN |= {"settings?": dict, "earlier?": [{"cases?": [{"case?": str, "patient?": str}]}]}


@dataclass
class Run:
    """What a run's folder holds.

    Args:
        folder: of the run.
        record: of the evaluation, else of the inference.
        cases: of the record that can be shown, by name.
        tables: of scores of all cases; empty for label maps that were not scored.
        notes: what is left out, in sentences.
    """

    folder: Path
    record: dict[str, Any]
    cases: dict[str, dict[str, Any]]
    tables: list[Scores]
    notes: list[str]

    @property
    def weights(self) -> dict[str, str]:
        """What to call each file of weights: its name, with two folders above it where several have one name."""
        paths = {path: Path(path) for path in self.record.get("weights") or {}}
        parts = 1 if len({path.name for path in paths.values()}) == len(paths) else 3
        return {key: "/".join(path.parts[-parts:]) for key, path in paths.items()}

    @property
    def meaning(self) -> Meaning:
        """What the values in the label maps mean."""
        return Meaning(lenient_values(self.record.get("label_values")))

    @property
    def patient(self) -> dict[str, str]:
        """The patient of each case, where the record says it."""
        return named_patients(self.cases.values())

    def prediction(self, case: str) -> LabelMap:
        return LabelMap(Path(self.cases[case]["prediction"]), self.meaning)

    def truth(self, case: str) -> LabelMap | None:
        """The true label map, of the evaluation or of a later scoring, if it is still there."""
        if "label" in self.cases[case]:
            path, meaning = Path(self.cases[case]["label"]), self.meaning
        elif self.tables:
            path, meaning = Path(self.tables[0].truth.get(case, "")), Meaning(self.tables[0].truth_values)
        else:
            return None
        return LabelMap(path, meaning) if path.is_file() else None

    def maps(self, case: str) -> dict[str, LabelMap]:
        """Label map and truth of a case, as far as they are there."""
        truth = self.truth(case)
        return {"prediction": self.prediction(case)} | ({"truth": truth} if truth else {})

    def source(self, case: str) -> str:
        """The DICOM series of a case and why it was taken, in a sentence; empty for NIfTI files."""
        series = self.cases[case].get("dicom")
        return f"DICOM series {series['number']}, {series['description']}: {series['why']}." if series else ""

    def entropy(self, case: str) -> Path | None:
        """The map of uncertainty, if there is one."""
        path = Path(self.cases[case]["prediction"])
        path = path.with_name(path.name.replace("_seg.nii", "_entropy.nii"))
        return path if path.is_file() else None


def open_run(run: str) -> Run:
    """The run in a folder. Warns of what is left out.

    Raises:
        UserError: if there is none, or none of its patients can be shown.
    """
    notes = list[str]()
    record = run_record(Path(run), notes)
    cases = cases_of_run(run, record, notes)
    found = Run(Path(run), record, cases, tables_of(Path(run)), notes)
    checksums = leave_out_faulty(found)
    found.tables = tables_of_all(found.tables, cases, notes)
    notes += [note for table in found.tables for note in replaced_maps(table, checksums)]
    notes += replaced_images(record, cases)
    if found.tables and (lacking := [case for case in cases if found.truth(case) is None]):
        notes.append(
            f"Truth and errors of {len(lacking)} of {len(cases)} patients are not shown: the truth is not where it "
            "was, or an older version made the scores, so score again."
        )
    for note in notes:
        logger.warning(note)
    return found


def read_record(path: Path, form: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """A JSON file as a dict, or None if it does not exist.

    Raises:
        UserError: if it has another form.
    """
    return read_json(path, "run", form) if path.is_file() else None


def run_record(folder: Path, notes: list[str]) -> dict[str, Any]:
    """The record of the evaluation in a folder, or else of the inference; empty if there is neither.

    Adds a note of the cases that only another record of the folder names, or one of earlier settings.
    """
    paths = {stage: folder / f"{stage}.json" for stage in STAGES}
    records = {stage: record for stage, path in paths.items() if (record := read_record(path, RUN))}
    if not records:
        return {}
    stage, record = next(iter(records.items()))
    class_of_value(record.get("label_values"), f"run {paths[stage]}: label_values")
    groups = [group for item in records.values() for group in (item, *item.get("earlier", []))]
    named = {case["case"]: case for group in groups for case in group.get("cases", []) if "case" in case}
    if others := sorted(set(named) - {case["case"] for case in record["cases"]}):
        count = patients_text(others, named_patients(named.values()))
        notes.append(
            f"Left out {count} of other predictions into this folder: {some(others)}. Only those that {stage}.json "
            "lists as its cases are shown."
        )
    return moved(record, folder)


def moved(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The record with paths as they are now: what lay in the run's folder is looked for in the folder of today.

    The folder of then is that of the label maps; of a cross-validation that above OUT/fold_K.
    """

    def now(path: str, prediction: str) -> str:
        then = Path(prediction).parent
        fold = re.fullmatch(r"fold_\d+", then.name)
        if fold and ((folder / "cross_validation.json").is_file() or (folder / then.name).is_dir()):
            then = then.parent
        return str(folder / Path(path).relative_to(then)) if Path(path).is_relative_to(then) else path

    cases = []
    for case in record["cases"]:
        paths: dict[str, Any] = {key: now(case[key], case["prediction"]) for key in PATHS if key in case}
        if "images" in case:
            paths["images"] = [now(path, case["prediction"]) for path in case["images"]]
        cases.append(case | paths)
    weights = record.get("weights") or {}
    if cases:
        weights = {now(path, record["cases"][0]["prediction"]): checksum for path, checksum in weights.items()}
    return {**record, "cases": cases, "weights": weights}


def cases_of_run(run: str, record: Mapping[str, Any], notes: list[str]) -> dict[str, dict[str, Any]]:
    """The cases of a run that have image and label map, by name.

    Adds a note of those that lack one.

    Raises:
        UserError: if there are none.
    """
    if not record:
        raise UserError(
            f"run {run} holds no evaluation.json or inference.json: run evaluate or predict into it first, or give "
            "another folder."
        )
    named = {case["case"]: case for case in record["cases"]}
    cases = dict(named)
    for key, what in (("prediction", "label map"), ("image", "image"), ("brain_mask", "brain mask")):
        lacking = {name: fault for name, case in cases.items() if key in case and (fault := fault_of(case[key]))}
        why = " or ".join(sorted(set(lacking.values())))
        if lacking:
            notes.append(f"Left out {len(lacking)} of {len(named)} patients, whose {what} {why}: {some(lacking)}.")
        if len(lacking) == len(cases):
            such = f" {why}, such as {cases[next(iter(lacking))][key]}" if lacking else " is missing"
            raise UserError(f"run {run}: every {what} that its JSON file names{such}: restore them, or predict again.")
        cases = {name: case for name, case in cases.items() if name not in lacking}
    return cases


def leave_out_faulty(run: Run) -> dict[str, dict[str, int]]:
    """Take the cases out of a run whose label map or truth cannot be shown, with a note; see ``checksums_of`` for those
    that stay.

    Raises:
        UserError: if none stays.
    """
    images = {name: Path(case["image"]) for name, case in run.cases.items()}
    checksums, faults = checksums_of({case: run.maps(case) for case in run.cases}, images)
    if not checksums:
        raise UserError(f"run {run.folder}: no label map can be shown. {next(iter(faults.values()))}")
    if faults:
        run.notes.append(
            f"Left out {len(faults)} of {len(run.cases)} patients, whose label map or truth cannot be shown: "
            f"{some(faults)}. Of the first: {next(iter(faults.values()))}"
        )
    for case in faults:
        del run.cases[case]
    return checksums


def tables_of(folder: Path) -> list[Scores]:
    """The tables of scores in a folder."""
    paths = [folder / "metrics.csv", folder / "metrics_et_cleared.csv"]
    tables = [read_scores(path) for path in paths if path.is_file()]
    for table in tables:  # where the truth is, and what its values mean
        source = f"the record {table.path.with_suffix('.json')}"
        check_form({"truth": table.truth}, {"truth": dict.fromkeys(table.truth, str)}, source)
        class_of_value(table.truth_values, f"{source}: truth_values")
    return tables


def tables_of_all(tables: Sequence[Scores], cases: Collection[str], notes: list[str]) -> list[Scores]:
    """The tables that score all these cases. Notes name tables that lack some or score others."""
    for table in tables:
        if lacking := sorted(set(cases) - set(table.cases)):
            notes.append(f"The scores of {table.path.name} are left out, since it does not score {some(lacking)}.")
        elif others := sorted(set(table.cases) - set(cases)):
            notes.append(f"{table.path.name} scores also {some(others)}: not shown, but counted in its means.")
    return [table for table in tables if set(cases) <= set(table.cases)]
