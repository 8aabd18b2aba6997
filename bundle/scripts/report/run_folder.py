"""What the folder of an evaluation or an inference holds: its record, patients and scores."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from scripts.documents import some
from scripts.errors import UserError
from scripts.evaluation.summary import Scores, read_scores
from scripts.files import read_json

__all__ = ["STAGES", "cases_of_run", "read_record", "run_record", "scores_of"]

logger = logging.getLogger(__name__)

STAGES = ("evaluation", "inference")
RUN = {"cases": [{"case": str, "image": str, "prediction": str, "label?": str}], "label_values?": (list, NoneType)}


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
