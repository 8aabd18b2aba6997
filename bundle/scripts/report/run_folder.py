"""A run: the folder of an evaluation or an inference with its record, patients, label maps and scores."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from scripts.documents import some
from scripts.errors import UserError
from scripts.evaluation.pairs import class_of_value
from scripts.evaluation.summary import Scores, read_scores
from scripts.files import read_json
from scripts.report.layers import LabelMap

__all__ = ["STAGES", "Run", "open_run", "read_record", "run_record"]

logger = logging.getLogger(__name__)

STAGES = ("evaluation", "inference")
RUN = {"cases": [{"case": str, "image": str, "prediction": str, "label?": str}], "label_values?": (list, NoneType)}


@dataclass
class Run:
    """What a run's folder holds.

    Args:
        folder: of the run.
        record: of the evaluation, else of the inference.
        cases: of the record, by name, with the folder's own label maps.
        tables: of scores of all cases; empty for label maps that were not scored.
    """

    folder: Path
    record: dict[str, Any]
    cases: dict[str, dict[str, Any]]
    tables: list[Scores]

    @property
    def class_of(self) -> Mapping[int, int]:
        """Network class of each value in the label maps."""
        return class_of_value(self.record.get("label_values"))

    def prediction(self, case: str) -> LabelMap:
        return LabelMap(Path(self.cases[case]["prediction"]), self.class_of)

    def truth(self, case: str) -> LabelMap | None:
        """The true label map: of the evaluation, or of a later scoring if it is still there."""
        if "label" in self.cases[case]:
            return LabelMap(Path(self.cases[case]["label"]), self.class_of)
        path = Path(self.tables[0].truth.get(case, "")) if self.tables else Path()
        return LabelMap(path, class_of_value(self.tables[0].truth_values)) if path.is_file() else None

    def entropy(self, case: str) -> Path | None:
        """The map of uncertainty, if there is one."""
        path = Path(self.cases[case]["prediction"])
        path = path.with_name(path.name.replace("_seg.nii", "_entropy.nii"))
        return path if path.is_file() else None


def open_run(run: str) -> Run:
    """The run in a folder.

    Raises:
        UserError: if there is none, or an image or a label is missing.
    """
    record = run_record(Path(run))
    cases = cases_of_run(run, record)
    return Run(Path(run), record, cases, scores_of(Path(run), cases, record))


def read_record(path: Path, form: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """A JSON file as a dict, or None if it does not exist.

    Raises:
        UserError: if it has another form.
    """
    return read_json(path, "run", form) if path.is_file() else None


def run_record(folder: Path) -> dict[str, Any]:
    """The record of the evaluation in a folder, or else of the inference; empty if there is neither."""
    records = (read_record(folder / f"{stage}.json", RUN) for stage in STAGES)
    return next((record for record in records if record), {})


def cases_of_run(run: str, record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The cases of a run that have a label map, by name. The label maps are the folder's own, also after a move.

    Raises:
        UserError: if there are none, or an image or a label is missing.
    """
    if not record:
        raise UserError(f"run {run} holds no evaluation.json or inference.json: give the output_dir of one of them.")
    named = {
        case["case"]: case | {"prediction": str(own_map(Path(run), case["prediction"]))} for case in record["cases"]
    }
    cases = {name: case for name, case in named.items() if Path(case["prediction"]).is_file()}
    lacking = [case["prediction"] for name, case in named.items() if name not in cases]
    if not cases:
        missing = f", such as {lacking[0]}" if lacking else ""
        raise UserError(f"run {run} holds none of the label maps that its JSON file names{missing}: predict first.")
    if lacking:
        logger.warning(f"Left out {len(lacking)} patient(s), whose label map is missing: {some(lacking)}.")
    for case in cases.values():
        for key in ("image", "label"):
            if key in case and not Path(case[key]).is_file():
                raise UserError(f"{case[key]} is missing, but the report shows it: restore it, or run again.")
    return cases


def own_map(folder: Path, recorded: str) -> Path:
    """The label map in the folder of a run that its record names; of a cross-validation's fold in OUT/fold_K."""
    path = Path(recorded)
    fold = path.parent.name if re.fullmatch(r"fold_\d+", path.parent.name) else ""
    whole = (folder / "cross_validation.json").is_file() or (folder / fold).is_dir()
    return folder / fold / path.name if whole else folder / path.name


def scores_of(folder: Path, cases: Collection[str], record: Mapping[str, Any]) -> list[Scores]:
    """The tables in a folder that score all these cases; a warning names a table of patients that the record lacks."""
    paths = [folder / "metrics.csv", folder / "metrics_et_cleared.csv"]
    tables = [read_scores(path) for path in paths if path.is_file()]
    shown = [table for table in tables if set(cases) <= set(table.cases)]
    for table in tables:
        if others := sorted(set(table.cases) ^ {case["case"] for case in record["cases"]}):
            ending = "it scores them all" if table in shown else "its scores are left out"
            logger.warning(f"{table.path} is of other patients than the run's record ({some(others)}): {ending}.")
    return shown
